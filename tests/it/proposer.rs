//! Ways of the model to write drafts, with models that say what a test has them say.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use nightschool::archive::Band;
use nightschool::archive::StoredTask;
use nightschool::archive::TaskState;
use nightschool::corpus::Miner;
use nightschool::inference::Continuation;
use nightschool::inference::GenerateError;
use nightschool::inference::Generation;
use nightschool::inference::Generator;
use nightschool::inference::Request;
use nightschool::inference::Sampling;
use nightschool::inference::Scripted;
use nightschool::inference::TokenScore;
use nightschool::model::Model;
use nightschool::phase::examples;
use nightschool::proposer::Author;
use nightschool::proposer::Proposer;
use nightschool::proposer::Written;
use nightschool::proposer::document;
use nightschool::proposer::searching::Searching;
use nightschool::proposer::seeded::Given;
use nightschool::proposer::seeded::Seeded;
use nightschool::protocol::Example;
use nightschool::protocol::Prompts;
use nightschool::retrieval::LexicalIndex;
use nightschool::rollout::Owner;
use nightschool::rollout::StopReason;
use nightschool::task::AnswerKind;
use nightschool::task::Origin;
use nightschool::task::Passage;
use nightschool::task::Seed;
use nightschool::task::Split;
use nightschool::task::Task;
use nightschool::trainer::batch::Branch;
use serde_json::json;

use crate::support;

/// A model that continues a prompt as a function of its text says.
struct Says<F> {
    model: Arc<Model>,
    /// Whether it tells log-probabilities.
    told: bool,
    say: F,
}

impl<F: Fn(&str) -> (String, StopReason) + Sync> Generator for Says<F> {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generation>>, GenerateError> {
        let said = requests.iter().map(|request| {
            let (text, stop) = (self.say)(&self.model.tokenizer.decode(&request.prompt));
            let tokens = self.model.tokenizer.encode(&text);
            let logprobs = if self.told { vec![-1.0; tokens.len()] } else { Vec::new() };
            vec![Generation { tokens, logprobs, scores: Vec::new(), text, stop }]
        });
        Ok(said.collect())
    }

    fn score(&self, _: &[Continuation]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        Err(GenerateError::Unsupported("not asked for".into()))
    }

    fn model_version(&self) -> &str {
        "says"
    }
}

/// What a proposer works on.
struct Desk {
    model: Arc<Model>,
    prompts: Prompts,
    passages: HashMap<String, Passage>,
    examples: Vec<Example>,
}

impl Desk {
    fn new() -> Self {
        let passages = [
            ("a", "Lisbon", "Lisbon was destroyed by an earthquake in 1755."),
            ("b", "Kepler", "Kepler was an assistant to Tycho Brahe in Prague."),
            ("c", "Giraffe", "The giraffe browses on the leaves of acacia trees."),
            ("d", "Paper", "Paper reached Europe through Spain in the 12th century."),
        ];
        let passages = passages.map(|(id, title, text)| {
            let (document_id, title) = (title.to_lowercase(), title.to_string());
            let passage =
                Passage { id: id.into(), document_id, title, text: text.into(), ordinal: 0 };
            (id.to_string(), passage)
        });
        Self {
            model: support::default_model(),
            prompts: Prompts::built_in().unwrap(),
            passages: passages.into(),
            examples: Vec::new(),
        }
    }

    fn author<'a>(&'a self, generator: &'a dyn Generator) -> Author<'a> {
        Author {
            generator,
            tokenizer: &self.model.tokenizer,
            passages: &self.passages,
            examples: &self.examples,
            sampling: Sampling::GREEDY,
            max_tokens: 48,
            seed: 1,
            night: 3,
        }
    }

    fn miner(&self) -> Miner {
        Miner::new(self.passages.values())
    }

    fn says<F>(&self, say: F) -> Says<F>
    where
        F: Fn(&str) -> (String, StopReason) + Sync,
    {
        Says { model: self.model.clone(), told: true, say }
    }

    /// What becomes of one seed's draft where the model says this, given the evidence alone.
    fn by_document(&self, text: &str, stop: StopReason) -> Written {
        let says = self.says(|_| (text.to_string(), stop));
        let miner = self.miner();
        let proposer = Seeded {
            author: self.author(&says),
            prompts: &self.prompts,
            prompt: "propose_document_bare",
            given: Given::Documents(&miner),
        };
        proposer.propose(&[seed("Prague", &["b"])]).unwrap().remove(0)
    }

    /// The text of the prompts that a proposer makes of these seeds.
    fn prompts_of(&self, prompt: &str, given: Given<'_>, seeds: &[Seed]) -> Vec<String> {
        let script = Scripted::new(seeds.iter().map(|_| " Who?"));
        let (author, prompts) = (self.author(&script), &self.prompts);
        Seeded { author, prompts, prompt, given }.propose(seeds).unwrap();
        script.seen().iter().map(|seen| self.model.tokenizer.decode(&seen.prompt)).collect()
    }
}

fn seed(answer: &str, path: &[&str]) -> Seed {
    let path = path.iter().map(ToString::to_string).collect();
    Seed { answer: answer.into(), kind: AnswerKind::Name, path }
}

#[test]
fn a_written_answer_takes_the_place_of_the_seeds() {
    let desk = Desk::new();
    let seeds = [seed("Lisbon", &["a"]), seed("Prague", &["b"])];
    let says = desk.says(|prompt| {
        let text = match prompt.contains("Kepler") {
            true => " “Tycho  Brahe”.\nQuestion: Whom did Kepler assist in Prague?",
            false => " 1755\nQuestion: When was Lisbon destroyed? It was\n",
        };
        (text.to_string(), StopReason::StopString)
    });
    let miner = desk.miner();
    let proposer = |given| Seeded {
        author: desk.author(&says),
        prompts: &desk.prompts,
        prompt: "propose_document",
        given,
    };
    let written = proposer(Given::Documents(&miner)).propose(&seeds).unwrap();
    let drafts: Vec<_> = written
        .iter()
        .map(|one| {
            let Seed { answer, kind, path } = &one.draft.seed;
            (answer.as_str(), *kind, path[0].as_str(), one.draft.question.as_deref().unwrap())
        })
        .collect();
    assert_eq!(
        drafts,
        [
            ("1755", AnswerKind::Date, "a", "When was Lisbon destroyed?"),
            ("Tycho Brahe", AnswerKind::Name, "b", "Whom did Kepler assist in Prague?"),
        ]
    );
    for one in &written {
        assert_eq!((one.draft.origin, one.draft.model_version.as_str()), (Origin::Model, "says"));
        assert!(one.draft.transcript.as_ref().unwrap().contains("\nQuestion: "));
        let owners: Vec<Owner> = one.steps.iter().map(|step| step.owner).collect();
        assert_eq!(owners, [Owner::Tool, Owner::Model]);
    }
    // The id is that of the seed as it was drawn, whatever is written for it.
    let ids = |written: &[Written]| -> Vec<String> {
        written.iter().map(|one| one.draft.id.clone()).collect()
    };
    let given_answers = proposer(Given::Answer).propose(&seeds).unwrap();
    assert_eq!(ids(&written), ids(&given_answers));
    assert_eq!(ids(&written), ids(&proposer(Given::Documents(&miner)).propose(&seeds).unwrap()));
    assert_eq!(given_answers[0].draft.seed, seeds[0]);
    let sampling = proposer(Given::Documents(&miner)).sampling();
    let expected = json!({
        "method": "document_seeded", "turns": 0, "prompt": "propose_document", "examples": [],
        "temperature": 0.0, "max_tokens": 48,
    });
    assert_eq!(sampling, expected);
}

#[test]
fn what_is_no_answer_and_question_is_a_draft_without_question() {
    let desk = Desk::new();
    for text in [
        "",
        " Prague",
        " Prague\nWho was it?",
        " Prague\nQuestion: the city of Kepler",
        "\nQuestion: Where did Kepler work?",
        " one two three four five six seven eight nine ten eleven\nQuestion: Which?",
    ] {
        let written = desk.by_document(text, StopReason::EndOfText);
        assert_eq!(written.draft.question, None, "{text}");
        assert_eq!(written.draft.seed, seed("Prague", &["b"]), "{text}");
        assert_eq!(written.draft.transcript.as_deref(), Some(text));
        assert_eq!(written.steps.len(), 2, "it is learnt from all the same");
    }
    // Of a text that was cut off, whole lines count.
    let text = " Tycho Brahe\nQuestion: Whom did Kepler assist?";
    assert_eq!(desk.by_document(text, StopReason::Length).draft.question, None);
    let whole = desk.by_document(&format!("{text}\nTit"), StopReason::Length).draft;
    assert_eq!(whole.question.as_deref(), Some("Whom did Kepler assist?"));
    assert_eq!(whole.seed.answer, "Tycho Brahe");
}

#[test]
fn a_prompt_of_ones_own_may_ask_for_the_question_first() {
    let home = tempfile::tempdir().unwrap();
    let template = "{% for passage in passages %}{{ passage.text }}\n{% endfor %}===\nQuestion:\n";
    fs::write(home.path().join("propose_document_bare.jinja"), template).unwrap();
    let desk = Desk { prompts: Prompts::with_folder(home.path()).unwrap(), ..Desk::new() };
    let text = " Whom did Kepler assist?\nAnswer: Tycho Brahe";
    let draft = desk.by_document(text, StopReason::StopString).draft;
    assert_eq!(draft.question.as_deref(), Some("Whom did Kepler assist?"));
    assert_eq!(draft.seed.answer, "Tycho Brahe");
    // A demonstration is what would be read back.
    for (query, expected) in
        [("Question:", "Who?\nAnswer: Odo\n"), ("Answer:", "Odo\nQuestion: Who?\n")]
    {
        assert_eq!(document::demonstrated(query, "Who?", "Odo"), expected);
    }
}

#[test]
fn the_model_is_asked_for_what_it_is_not_given() {
    let desk = Desk::new();
    let miner = desk.miner();
    let script = Scripted::new([" 1755\nQuestion: When was Lisbon destroyed?"]);
    let proposer = Seeded {
        author: desk.author(&script),
        prompts: &desk.prompts,
        prompt: "propose_document",
        given: Given::Documents(&miner),
    };
    proposer.propose(&[seed("Lisbon", &["a"])]).unwrap();
    let request = script.seen().remove(0);
    assert_eq!(request.stop, ["\n\n", "\nTitle:", "\nAnswer:"]);
    let prompt = desk.model.tokenizer.decode(&request.prompt);
    assert!(prompt.ends_with("destroyed by an earthquake in 1755.\nAnswer:"), "{prompt}");

    // Several passages come with examples of several, first hop first.
    let path = [seed("12th century", &["b", "d"])];
    for (name, given, end) in [
        ("propose", Given::Answer, "12th century.\nAnswer: 12th century\nQuestion:"),
        ("propose_document", Given::Documents(&miner), "12th century.\nAnswer:"),
    ] {
        let prompt = desk.prompts_of(name, given, &path).remove(0);
        assert!(prompt.ends_with(end), "{prompt}");
        assert!(prompt.contains("Where there are several passages"), "{prompt}");
        assert!(prompt.rfind("Title: Kepler") < prompt.rfind("Title: Paper"), "{prompt}");
        let one = desk.prompts_of(name, given, &[seed("1755", &["a"])]).remove(0);
        assert!(!one.contains("several passages"), "{one}");
    }
}

#[test]
fn an_answer_is_of_the_kind_that_all_of_it_reads_as() {
    let miner = Desk::new().miner();
    for (answer, kind) in [
        ("12 November 1801", AnswerKind::Date),
        ("12th century", AnswerKind::Date),
        ("330 metres", AnswerKind::Number),
        ("Lisbon", AnswerKind::Title),
        ("Tycho Brahe", AnswerKind::Name),
        ("acacia trees", AnswerKind::Name),
        ("Kepler in 1601", AnswerKind::Name),
    ] {
        assert_eq!(miner.kind_of(answer), kind, "{answer}");
    }
}

fn stored(id: &str, passage: &str, attempts: u64, solved: u64) -> StoredTask {
    StoredTask {
        task: Task {
            id: id.into(),
            origin: Origin::Model,
            question: format!("The question of {id}?"),
            answer: "something".into(),
            kind: AnswerKind::Name,
            evidence: vec![passage.into()],
            split: Split::Train,
            night: Some(1),
        },
        document_id: passage.into(),
        topic: passage.into(),
        proposed_by: "base".into(),
        played_by: None,
        state: TaskState::Active,
        state_reason: None,
        attempts,
        solved,
        band: Band::of(attempts, solved),
    }
}

#[test]
fn examples_are_the_tasks_that_are_solved_nearest_to_half_the_time() {
    let Desk { mut passages, .. } = Desk::new();
    let more = ["e", "f"].map(|id| {
        let document_id = format!("document {id}");
        (id.to_string(), Passage { id: id.into(), document_id, ..passages["a"].clone() })
    });
    passages.extend(more);
    let mut heldout = stored("heldout", "e", 8, 4);
    heldout.task.split = Split::Heldout;
    let mut by_code = stored("code", "e", 8, 4);
    by_code.task.origin = Origin::Code;
    let tasks = vec![
        heldout,
        by_code,
        stored("few", "e", 3, 1),
        stored("always", "e", 8, 8),
        stored("never", "e", 8, 0),
        stored("gone", "no passage", 8, 4),
        stored("hard", "a", 8, 1),
        stored("even", "b", 8, 4),
        stored("even, again", "b", 8, 4),
        stored("even, longer", "c", 16, 8),
        stored("harder", "d", 8, 3),
    ];
    let ids = |tasks: &[StoredTask], n| -> Vec<String> {
        let chosen = examples::choose(tasks.to_vec(), &passages, n);
        chosen.into_iter().map(|example| example.task_id).collect()
    };
    assert_eq!(ids(&tasks, 9), ["even, longer", "even", "harder", "hard"]);
    assert_eq!(ids(&tasks, 2), ["even, longer", "even"]);
    let backwards: Vec<StoredTask> = tasks.iter().rev().cloned().collect();
    assert_eq!(ids(&backwards, 9), ids(&tasks, 9));
    assert!(ids(&tasks, 0).is_empty());
    let chosen = examples::choose(tasks, &passages, 1).remove(0);
    assert_eq!(chosen.question, "The question of even, longer?");
    assert_eq!(chosen.passages, [passages["c"].clone()]);
}

#[test]
fn examples_of_the_seeds_own_document_are_not_shown() {
    let mut desk = Desk::new();
    desk.examples = ["a", "b"]
        .map(|id| Example {
            task_id: format!("task {id}"),
            passages: vec![desk.passages[id].clone()],
            question: format!("The question about {id}?"),
            answer: "something".into(),
        })
        .into();
    let seeds = [seed("1755", &["a"]), seed("acacia", &["c"]), seed("Spain", &["d"])];
    let miner = desk.miner();
    for (name, given) in
        [("propose", Given::Answer), ("propose_document", Given::Documents(&miner))]
    {
        let prompts = desk.prompts_of(name, given, &seeds);
        let shown = |prompt: &str, id: &str| {
            prompt.contains(&format!("Answer: something\nQuestion: The question about {id}?\n"))
        };
        assert!(!shown(&prompts[0], "a") && shown(&prompts[0], "b"), "{}", prompts[0]);
        // All other prompts of a round begin alike, up to the seed's own passage.
        for prompt in &prompts[1..] {
            assert!(shown(prompt, "a") && shown(prompt, "b"), "{prompt}");
            let examples = prompt.rfind("The question about b?").unwrap();
            assert_eq!(prompt[..examples], prompts[1][..examples]);
        }
    }
    // An adapter's prompt shows passages as its reader's does, and no more.
    assert!(!desk.prompts_of("propose_bare", Given::Answer, &seeds)[1].contains("something"));
    let script = Scripted::new([""; 0]);
    let (author, prompts) = (desk.author(&script), &desk.prompts);
    let sampling = Seeded { author, prompts, prompt: "propose", given: Given::Answer }.sampling();
    assert_eq!(sampling["examples"], json!(["task a", "task b"]));
    assert_eq!(sampling["method"], "answer_seeded");
}

fn searching<'a>(author: Author<'a>, retriever: &'a LexicalIndex) -> Searching<'a> {
    Searching { author, retriever, passages: 1, turns: 2 }
}

fn index(desk: &Desk) -> LexicalIndex {
    LexicalIndex::in_memory(desk.passages.values().cloned().collect::<Vec<_>>()).unwrap()
}

#[test]
fn a_proposer_searches_before_it_asks_and_owns_only_what_it_wrote() {
    let mut desk = Desk::new();
    desk.examples = vec![Example {
        task_id: "task a".into(),
        passages: vec![desk.passages["a"].clone()],
        question: "The question about a?".into(),
        answer: "something".into(),
    }];
    let says = desk.says(|prompt| {
        let text = if prompt.contains("neither a search nor a question") {
            "<think>So</think><question>Whom did\nKepler assist in Prague? Hm</question>"
        } else if prompt.contains("Doc 1 (Title: Lisbon)") {
            "I wonder"
        } else {
            "<think>Elsewhere?</think>\n<search>Lisbon earthquake</search>"
        };
        (text.to_string(), StopReason::StopString)
    });
    let index = index(&desk);
    let proposer = searching(desk.author(&says), &index);
    let drawn = seed("Tycho Brahe", &["b"]);
    let written = proposer.propose(std::slice::from_ref(&drawn)).unwrap().remove(0);
    assert_eq!(written.draft.question.as_deref(), Some("Whom did Kepler assist in Prague?"));
    assert_eq!(written.draft.seed, drawn, "what it found is not evidence");
    assert_eq!(written.stop, StopReason::StopString);
    let transcript = written.draft.transcript.as_deref().unwrap();
    assert!(transcript.starts_with("<think>Elsewhere?</think>"), "{transcript}");
    assert!(!transcript.contains("Doc 1"), "{transcript}");

    let text = |at: usize| desk.model.tokenizer.decode(&written.steps[at].tokens);
    let owners: Vec<Owner> = written.steps.iter().map(|step| step.owner).collect();
    let (model, tool) = (Owner::Model, Owner::Tool);
    assert_eq!(owners, [tool, model, tool, model, tool, model]);
    let opening = text(0);
    assert!(opening.contains("at most 2 times"), "{opening}");
    assert!(opening.contains("A good question: The question about a?\n"), "{opening}");
    assert!(opening.contains("Doc 1 (Title: Kepler) Kepler was an assistant"), "{opening}");
    assert!(opening.ends_with("</information>\n\nAnswer: Tycho Brahe\n"), "{opening}");
    assert!(text(2).contains("<information>Doc 1 (Title: Lisbon)"), "{}", text(2));

    // What it is trained on: all tokens are read, only its own are learnt.
    let branch = Branch::of_steps(&written.steps[1..], 0.5);
    let of_model = written.steps[1..].iter().filter(|step| step.owner == Owner::Model);
    let own: usize = of_model.map(|step| step.tokens.len()).sum();
    assert_eq!((branch.target_count(), branch.owned.len()), (own, branch.tokens.len()));
    assert!(own < branch.tokens.len());
    for (owned, logprob) in branch.owned.iter().zip(&branch.sampled_logprobs) {
        assert_eq!(*logprob, if *owned { -1.0 } else { 0.0 });
    }
    assert_eq!(branch.sampled_logprobs.len(), branch.tokens.len());

    assert_eq!(written, proposer.propose(&[drawn]).unwrap().remove(0), "the same after a restart");
    let expected = json!({
        "method": "answer_seeded", "turns": 2, "prompt": null, "examples": ["task a"],
        "temperature": 0.0, "max_tokens": 48, "passages": 1,
    });
    assert_eq!(proposer.sampling(), expected);
}

#[test]
fn a_conversation_that_comes_to_no_question_is_a_draft_without_one() {
    let desk = Desk::new();
    let says = desk.says(|prompt| {
        let is = |title: &str| prompt.contains(&format!("Doc 1 (Title: {title})"));
        if is("Lisbon") {
            // Always another search: two are made, and in place of the question a third.
            let searches = prompt.matches("<search>Spain").count();
            (format!("<search>Spain {searches}</search>"), StopReason::StopString)
        } else if is("Giraffe") {
            ("<question>What does the gir".to_string(), StopReason::Length)
        } else {
            ("<question>the man from Prague</question>".to_string(), StopReason::StopString)
        }
    });
    let index = index(&desk);
    let seeds = [seed("1755", &["a"]), seed("acacia", &["c"]), seed("Tycho Brahe", &["b"])];
    let written = searching(desk.author(&says), &index).propose(&seeds).unwrap();
    let outcome = |one: &Written| {
        let turns = one.steps.iter().filter(|step| step.owner == Owner::Model).count();
        (one.draft.question.clone(), turns, one.stop)
    };
    let outcomes: Vec<_> = written.iter().map(outcome).collect();
    assert_eq!(
        outcomes,
        [
            (None, 3, StopReason::Length),
            (None, 1, StopReason::Length),
            (None, 1, StopReason::StopString),
        ]
    );
    for (one, seed) in written.iter().zip(&seeds) {
        assert_eq!(&one.draft.seed, seed, "in the seeds' order");
    }
    // Where a server does not tell log-probabilities, there is nothing to train on.
    let silent = Says { told: false, ..says };
    let written = searching(desk.author(&silent), &index).propose(&seeds[2..]).unwrap();
    assert!(written[0].steps.is_empty());
    assert!(written[0].draft.transcript.is_some());
}
