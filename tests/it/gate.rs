//! The gate: near duplicates, and the model's checks with a scripted model.

mod bench;
mod near;

use std::collections::HashMap;
use std::sync::Mutex;

use nightschool::config;
use nightschool::config::Verify;
use nightschool::inference::Continuation;
use nightschool::inference::GenerateError;
use nightschool::inference::Generation;
use nightschool::inference::Generator;
use nightschool::inference::Request;
use nightschool::inference::Scripted;
use nightschool::inference::TokenScore;
use nightschool::protocol::Prompts;
use nightschool::protocol::Reader;
use nightschool::retrieval::LexicalIndex;
use nightschool::rng;
use nightschool::task::AnswerKind;
use nightschool::task::Draft;
use nightschool::task::Origin;
use nightschool::task::Passage;
use nightschool::task::Rejection;
use nightschool::task::Seed;
use nightschool::verifier::Candidate;
use nightschool::verifier::ModelChecks;
use nightschool::verifier::Passages;

use crate::support;

const EARTHQUAKE: &str = "In which year did an earthquake destroy Lisbon?";

fn passage(id: &str, title: &str, text: &str) -> Passage {
    Passage {
        id: id.into(),
        document_id: title.into(),
        title: title.into(),
        text: text.into(),
        ordinal: 0,
    }
}

fn corpus() -> Vec<Passage> {
    vec![
        passage("lisbon", "Lisbon", "Lisbon was destroyed by an earthquake in 1755."),
        passage("messina", "Messina", "An earthquake did destroy Messina in the year 1908."),
        passage("quake", "Earthquake", "An earthquake can destroy a city. In 1906 one did."),
        passage("kepler", "Kepler", "Kepler was an assistant to Tycho Brahe in Prague."),
        passage("giraffe", "Giraffe", "The giraffe browses on the leaves of acacia trees."),
        passage("paper", "Paper", "Paper reached Europe through Spain in the 12th century."),
        passage("fire", "Fire", "The fires that came after it burnt Lisbon down in 1755."),
    ]
}

fn draft(question: &str, answer: &str, path: &[&str], origin: Origin) -> Draft {
    Draft {
        id: rng::content_id(&[question, answer]),
        origin,
        seed: Seed {
            answer: answer.into(),
            kind: AnswerKind::Name,
            path: path.iter().map(|id| id.to_string()).collect(),
        },
        question: Some(question.into()),
        transcript: Some(question.into()),
        model_version: "scripted".into(),
    }
}

fn lisbon() -> Candidate {
    Candidate::new(draft(EARTHQUAKE, "1755", &["lisbon"], Origin::Model))
}

/// A script that scores, too: whatever it is given has this log-probability a token.
struct Scoring {
    script: Scripted,
    logprob: f32,
    given: Mutex<Vec<Continuation>>,
}

impl Scoring {
    fn new<const N: usize>(texts: [&str; N], logprob: f32) -> Self {
        Self { script: Scripted::new(texts), logprob, given: Mutex::default() }
    }
}

impl Generator for Scoring {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generation>>, GenerateError> {
        self.script.generate(requests)
    }

    fn score(&self, given: &[Continuation]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        self.given.lock().unwrap().extend_from_slice(given);
        let score = TokenScore { logprob: self.logprob, log_normaliser: 0.0, mean_logit: 0.0 };
        Ok(given.iter().map(|one| vec![score; one.tokens.len()]).collect())
    }

    fn model_version(&self) -> &str {
        "scoring"
    }
}

/// Settings of the gate, whatever the defaults are: the checks beyond closed book and RAG only
/// where they are asked for.
fn settings(flags: &[&str]) -> Verify {
    let plain = [
        "verify.noise_passages=4",
        "verify.min_f1=0.8",
        "verify.samples=1",
        "verify.majority=0.5",
        "verify.temperature=0.7",
        "verify.evidence_needed=false",
        "verify.uniqueness=false",
        "verify.uniqueness_margin=0.0",
    ];
    let all: Vec<String> = plain.iter().chain(flags).map(|flag| flag.to_string()).collect();
    config::load(&[], &all).unwrap().verify
}

/// Runs the checks on the candidates.
fn run(
    settings: &Verify,
    candidates: &mut [Candidate],
    with_documents: &dyn Generator,
    from_memory: &dyn Generator,
) {
    let model = support::default_model();
    let prompts = Prompts::built_in().unwrap();
    let passages: Passages = corpus().into_iter().map(|p| (p.id.clone(), p)).collect();
    let mut ids: Vec<String> = passages.keys().cloned().collect();
    ids.sort();
    let index = LexicalIndex::in_memory(corpus()).unwrap();
    let reader =
        |prompt| Reader { prompts: &prompts, prompt, tokenizer: &model.tokenizer, max_tokens: 16 };
    let checks = ModelChecks {
        settings,
        passages: &passages,
        ids: &ids,
        retriever: &index,
        open_book: reader("bare"),
        closed_book: reader("closed_book"),
        seed: 1,
    };
    let costs = checks.run(candidates, with_documents, from_memory).unwrap();
    // Every verdict of these checks was paid for.
    let asked: HashMap<&str, u64> = costs.iter().map(|(check, c)| (*check, c.requests)).collect();
    for verdict in candidates.iter().flat_map(|candidate| &candidate.verdicts) {
        assert!(asked.contains_key(verdict.check.as_str()), "{costs:?}");
    }
}

fn last(candidate: &Candidate) -> (&str, Option<Rejection>) {
    let verdict = candidate.verdicts.last().unwrap();
    (&verdict.check, verdict.rejection)
}

#[test]
fn model_checks_decide_about_model_drafts_and_are_recorded_on_code_drafts() {
    let settings = settings(&[]);
    let ask = "In what city was Kepler an assistant?";
    let mut candidates: Vec<Candidate> = [
        draft(ask, "Prague", &["kepler"], Origin::Model),
        draft(EARTHQUAKE, "1755", &["lisbon"], Origin::Model),
        draft("What does the giraffe browse on?", "acacia trees", &["giraffe"], Origin::Model),
        draft("Through which country came paper?", "Spain", &["paper"], Origin::Code),
    ]
    .map(Candidate::new)
    .into();
    // From memory the second is known. With documents: right, wrong, wrong.
    let closed = Scripted::new([" Vienna", " 1755", " hay", " Italy"]);
    let open = Scripted::new([" Prague", " grass", " Portugal"]);
    run(&settings, &mut candidates, &open, &closed);
    let standing: Vec<bool> = candidates.iter().map(Candidate::stands).collect();
    assert_eq!(standing, [true, false, false, true]);
    assert_eq!(last(&candidates[1]), ("closed_book", Some(Rejection::ClosedBook)));
    assert_eq!(last(&candidates[2]), ("rag", Some(Rejection::Unsolved)));
    assert_eq!(candidates[1].verdicts.len(), 1, "what comes later is not asked");
    let recorded = &candidates[3].verdicts[1];
    assert_eq!((recorded.rejection, recorded.required), (Some(Rejection::Unsolved), false));
    // A model that fails rejects its drafts instead of passing them.
    let mut again = vec![Candidate::new(draft(ask, "Prague", &["kepler"], Origin::Model))];
    run(&settings, &mut again, &Scripted::default(), &Scripted::default());
    assert_eq!(last(&again[0]).1, Some(Rejection::CheckFailed));
}

#[test]
fn half_of_the_noise_resembles_the_evidence_and_none_of_it_states_the_answer() {
    let mut candidates = vec![lisbon()];
    run(&settings(&[]), &mut candidates, &Scripted::new([" 1755"]), &Scripted::new([""]));
    let shown = candidates[0].verdicts[1].evidence["passages"].as_array().unwrap().clone();
    assert_eq!(shown.len(), 5);
    for id in ["lisbon", "messina", "quake"] {
        assert!(shown.contains(&id.into()), "{shown:?}");
    }
    assert!(!shown.contains(&"fire".into()), "{shown:?}");
    let mut without = vec![lisbon()];
    let none = settings(&["verify.noise_passages=0"]);
    run(&none, &mut without, &Scripted::new([" 1755"]), &Scripted::new([""]));
    assert_eq!(without[0].verdicts[1].evidence["passages"], serde_json::json!(["lisbon"]));
}

#[test]
fn of_several_samples_a_majority_decides() {
    let settings =
        |majority: &str| settings(&["verify.samples=3", &format!("verify.majority={majority}")]);
    for (majority, open, closed, outcome) in [
        ("0.6", [" 1755", " 1908", " 1755"], [" 1", " 2", " 1755"], ("rag", None)),
        (
            "0.7",
            [" 1755", " 1908", " 1755"],
            [" 1", " 2", " 1755"],
            ("rag", Some(Rejection::Unsolved)),
        ),
        (
            "0.67",
            [" 1755", " 1908", " 1755"],
            [" 1", " 2", " 1755"],
            ("rag", Some(Rejection::Unsolved)),
        ),
        ("0.66", [" 1", " 1908", " 1755"], [" 1", " 2", " 3"], ("rag", Some(Rejection::Unsolved))),
        ("0.3", ["", "", ""], [" 1", " 2", " 1755"], ("closed_book", Some(Rejection::ClosedBook))),
    ] {
        let mut candidates = vec![lisbon()];
        let (open, closed) = (Scripted::new(open), Scripted::new(closed));
        run(&settings(majority), &mut candidates, &open, &closed);
        assert_eq!(last(&candidates[0]), outcome, "{majority}");
        let answers = candidates[0].verdicts[0].evidence["answers"].as_array().unwrap();
        assert_eq!(answers.len(), 3, "every sample is kept");
        // One request draws all three, at the temperature.
        assert_eq!(closed.seen().len(), 1);
        assert_eq!((closed.seen()[0].samples, closed.seen()[0].sampling.temperature), (3, 0.7));
    }
}

#[test]
fn every_passage_of_the_evidence_must_be_needed() {
    let settings = settings(&["verify.evidence_needed=true"]);
    for (said, rejection) in [(" 1908", None), (" 1755", Some(Rejection::EvidenceNotNeeded))] {
        let mut candidates = vec![lisbon()];
        let open = Scripted::new([" 1755", said]);
        run(&settings, &mut candidates, &open, &Scripted::new([""]));
        assert_eq!(last(&candidates[0]), ("evidence_needed", rejection));
        let [with, without] = &open.seen()[..] else { panic!() };
        assert!(without.prompt.len() < with.prompt.len());
        let reading = &candidates[0].verdicts[2].evidence["readings"][0];
        assert_eq!(
            (&reading["without"], &reading["answers"][0]["answer"]),
            (&"lisbon".into(), &said.trim().into())
        );
        assert!(!reading["passages"].as_array().unwrap().contains(&"lisbon".into()));
    }
    // Of two hops each in turn: the second alone suffices.
    let two = draft("When did it destroy the city?", "1755", &["quake", "lisbon"], Origin::Model);
    let mut candidates = vec![Candidate::new(two)];
    let open = Scripted::new([" 1755", " 1755", " 1906"]);
    run(&settings, &mut candidates, &open, &Scripted::new([""]));
    assert_eq!(last(&candidates[0]).1, Some(Rejection::EvidenceNotNeeded));
    let readings = candidates[0].verdicts[2].evidence["readings"].as_array().unwrap();
    let without: Vec<&str> = readings.iter().filter_map(|r| r["without"].as_str()).collect();
    assert_eq!(without, ["quake", "lisbon"]);
    // One that was turned away before is not asked.
    let mut unsolved = vec![lisbon()];
    run(&settings, &mut unsolved, &Scripted::new([" 1"]), &Scripted::new([""]));
    assert_eq!(last(&unsolved[0]), ("rag", Some(Rejection::Unsolved)));
}

#[test]
fn no_other_answer_may_be_as_well_supported() {
    // What a search finds beside the evidence: Messina, the earthquake, the fire. The script's own
    // tokens have −1.
    let outcome = |texts: [&str; 4], own: f32, flags: &[&str]| {
        let settings = settings(&[&["verify.uniqueness=true"], flags].concat());
        let mut candidates = vec![lisbon()];
        let open = Scoring::new(texts, own);
        run(&settings, &mut candidates, &open, &Scripted::new([""]));
        let verdict = candidates[0].verdicts.last().unwrap().clone();
        assert_eq!(verdict.check, "uniqueness");
        let scored = open.given.lock().unwrap().len();
        (verdict.rejection, scored, verdict.evidence)
    };
    let (rejection, scored, evidence) = outcome([" 1755", " 1908", " 1906", " 1755"], -1.0, &[]);
    assert_eq!((rejection, scored), (Some(Rejection::Ambiguous), 1));
    let rivals = evidence["rivals"].as_array().unwrap();
    assert_eq!(rivals.len(), 2, "{evidence}");
    assert_eq!((&evidence["logprob"], &rivals[0]["logprob"]), (&(-1.0).into(), &(-1.0).into()));
    assert_eq!(evidence["readings"].as_array().unwrap().len(), 3);
    // The model is surer of the seed's answer, or not by enough.
    let sure = [" 1755", " 1908", " 1906", " 1755"];
    assert_eq!(outcome(sure, -0.5, &[]).0, None);
    let strict = ["verify.uniqueness_margin=0.6"];
    assert_eq!(outcome(sure, -0.5, &strict).0, Some(Rejection::Ambiguous));
    // What the passage does not state, or the question says, or is nothing, is no rival; then
    // nothing needs to be scored.
    let (rejection, scored, _) = outcome([" 1755", " 1909", " Lisbon", ""], -9.0, &[]);
    assert_eq!((rejection, scored), (None, 0));
    // A model that cannot score turns away what it would have to score for.
    let settings = settings(&["verify.uniqueness=true"]);
    let mut candidates = vec![lisbon()];
    run(&settings, &mut candidates, &Scripted::new(sure), &Scripted::new([""]));
    assert_eq!(last(&candidates[0]), ("uniqueness", Some(Rejection::CheckFailed)));
}
