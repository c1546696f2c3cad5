//! Near duplicates: signatures, and what the rules make of them.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use nightschool::archive::Archive;
use nightschool::archive::DocumentContent;
use nightschool::archive::GatedDraft;
use nightschool::archive::SourceFileContent;
use nightschool::archive::Suite;
use nightschool::archive::SuiteItem;
use nightschool::archive::SuiteOrigin;
use nightschool::archive::Unit;
use nightschool::clock::ManualClock;
use nightschool::config::Verify;
use nightschool::phase::known::ArchivedQuestions;
use nightschool::task::Origin;
use nightschool::task::Rejection;
use nightschool::task::Split;
use nightschool::task::Task;
use nightschool::verifier::Candidate;
use nightschool::verifier::KnownQuestions;
use nightschool::verifier::Passages;
use nightschool::verifier::RuleChecks;
use nightschool::verifier::minhash;
use nightschool::verifier::minhash::HASHES;
use nightschool::verifier::minhash::Shingles;
use proptest::prelude::*;
use rusqlite::Connection;

use super::EARTHQUAKE;
use super::corpus;
use super::draft;
use super::settings;

/// Nearly the same as [`EARTHQUAKE`].
const AGAIN: &str = "In which year did an earthquake destroy Lisbon again?";

fn jaccard(one: &str, other: &str) -> f64 {
    Shingles::of(one).jaccard(&Shingles::of(other))
}

#[test]
fn similarity_is_that_of_words_and_pairs_of_words() {
    // 8 words and 7 pairs, and one more of each.
    assert!((jaccard(EARTHQUAKE, AGAIN) - 15.0 / 17.0).abs() < 1e-9);
    assert_eq!(jaccard("WHO built it?", "who “built” it"), 1.0);
    // The same words in another order: no pair is shared.
    assert!((jaccard("a b c", "c b a") - 3.0 / 7.0).abs() < 1e-9);
    assert_eq!(jaccard("", ""), 0.0);
    assert_eq!((minhash::matches_at(1.0), minhash::matches_at(0.3)), (HASHES, 8));
    // Archives hold signatures, so they never change.
    let bytes = *Shingles::of(EARTHQUAKE).signature().as_bytes().first_chunk::<8>().unwrap();
    insta::assert_debug_snapshot!(bytes);
}

proptest! {
    #[test]
    fn the_estimate_is_near_the_similarity(words in prop::collection::vec(0_u32..400, 5..40), changed in 0_usize..20) {
        let text = |words: &[u32]| {
            words.iter().map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ")
        };
        let mut other = words.clone();
        for (place, word) in other.iter_mut().enumerate().take(changed) {
            *word = 1000 + place as u32;
        }
        let (one, other) = (Shingles::of(&text(&words)), Shingles::of(&text(&other)));
        let exact = one.jaccard(&other);
        prop_assert_eq!(exact, other.jaccard(&one));
        let (a, b) = (one.signature(), other.signature());
        // Five standard deviations, and what the lowest byte adds.
        let spread = 5.0 * (exact * (1.0 - exact) / HASHES as f64).sqrt() + 0.06;
        prop_assert!((a.jaccard(&b) - exact).abs() <= spread, "{} for {exact}", a.jaccard(&b));
        prop_assert_eq!(a.matches(&a), HASHES);
        // A pair that is a near duplicate is looked at.
        let slack = 2.0 * (HASHES as f64 * exact * (1.0 - exact)).sqrt();
        prop_assert!(a.matches(&b) as f64 + slack >= minhash::matches_at(exact) as f64);
    }
}

/// Runs the rules on a question with an answer that its passage states.
fn judge(rules: &mut RuleChecks<'_>, question: &str, answer: &str) -> Candidate {
    let path = if answer == "1755" { "lisbon" } else { "messina" };
    let mut candidate = Candidate::new(draft(question, answer, &[path], Origin::Model));
    rules.run(&mut candidate);
    candidate
}

fn rejection(candidate: &Candidate) -> Option<Rejection> {
    candidate.verdicts.last().unwrap().rejection
}

fn passages() -> Passages {
    corpus().into_iter().map(|passage| (passage.id.clone(), passage)).collect()
}

fn open(home: &Path) -> Archive {
    let clock = ManualClock::new(Timestamp::from_second(1000).unwrap());
    Archive::open(&home.join("archive.db"), Arc::new(clock)).unwrap()
}

/// An archive over the corpus, with a night under way.
fn begun(home: &Path) -> Archive {
    let archive = open(home);
    let documents = corpus().into_iter().map(|passage| DocumentContent {
        id: passage.document_id.clone(),
        title: passage.title.clone(),
        split: Split::Train,
        passages: vec![passage],
    });
    let file = SourceFileContent {
        path: "corpus.md".into(),
        content_hash: "00".into(),
        skipped: None,
        documents: documents.collect(),
    };
    archive.sync_corpus(&[file], &[]).unwrap();
    archive.begin_night(1, &serde_json::json!({})).unwrap();
    archive
}

fn gated(candidate: Candidate) -> GatedDraft {
    let draft = candidate.draft.clone();
    let task = Task {
        id: draft.id.clone(),
        origin: draft.origin,
        question: draft.question.clone().unwrap(),
        answer: draft.seed.answer.clone(),
        kind: draft.seed.kind,
        evidence: draft.seed.path.clone(),
        split: Split::Train,
        night: Some(1),
    };
    let task = candidate.stands().then_some(task);
    GatedDraft { draft, verdicts: candidate.verdicts, task, parents: Vec::new() }
}

fn store(archive: &Archive, candidate: Candidate) {
    let gated = gated(candidate);
    let key = gated.draft.id.clone();
    archive.record_drafts(&Unit { night: 1, phase: "test", key: &key }, &[gated]).unwrap();
}

fn rules<'a>(
    verify: &'a Verify,
    passages: &'a Passages,
    known: &'a dyn KnownQuestions,
) -> RuleChecks<'a> {
    RuleChecks::new(verify, passages, known)
}

#[test]
fn a_near_duplicate_is_found_among_the_batch_and_in_an_archive_opened_again() {
    let (verify, passages) = (settings(&[]), passages());
    let home = tempfile::tempdir().unwrap();
    let archive = begun(home.path());
    let known = ArchivedQuestions::of(&archive);
    let mut batch = rules(&verify, &passages, &known);
    let first = judge(&mut batch, EARTHQUAKE, "1755");
    assert_eq!(rejection(&first), None);
    let second = judge(&mut batch, AGAIN, "1755");
    assert_eq!(rejection(&second), Some(Rejection::NearDuplicate));
    let evidence = &second.verdicts.last().unwrap().evidence;
    assert_eq!(evidence["of"], first.draft.id.as_str());
    assert_eq!(evidence["question"], EARTHQUAKE);
    let id = first.draft.id.clone();
    // Stored meanwhile: what was read of the archive before is brought up to date.
    assert_eq!(rejection(&judge(&mut rules(&verify, &passages, &known), AGAIN, "1755")), None);
    store(&archive, first);
    let found = judge(&mut rules(&verify, &passages, &known), AGAIN, "1755");
    assert_eq!(rejection(&found), Some(Rejection::NearDuplicate));
    drop(archive);

    let archive = open(home.path());
    let known = ArchivedQuestions::of(&archive);
    let fresh = |question: &str, answer: &str| {
        judge(&mut rules(&verify, &passages, &known), question, answer)
    };
    let found = fresh(AGAIN, "1755");
    assert_eq!(rejection(&found), Some(Rejection::NearDuplicate));
    assert_eq!(found.verdicts.last().unwrap().evidence["of"], id.as_str());
    assert_eq!(rejection(&fresh(EARTHQUAKE, "1755")), Some(Rejection::Duplicate), "the same one");
    let other = "In which year did an earthquake destroy Messina?";
    assert_eq!(rejection(&fresh(other, "1908")), None, "another answer");
    let (far, off) = (settings(&["verify.duplicate_jaccard=0.95"]), "verify.duplicate_jaccard=1");
    let found = judge(&mut rules(&far, &passages, &known), AGAIN, "1755");
    assert_eq!(rejection(&found), None, "not similar enough");
    let off = settings(&[off]);
    let found = judge(&mut rules(&off, &passages, &known), AGAIN, "1755");
    assert_eq!((rejection(&found), found.verdicts.len()), (None, 5), "the check is off");
}

#[test]
fn signatures_are_missed_when_they_are_lost_made_again_and_taken_out_with_their_tasks() {
    let (verify, passages) = (settings(&[]), passages());
    let home = tempfile::tempdir().unwrap();
    let archive = begun(home.path());
    let known = ArchivedQuestions::of(&archive);
    let first = judge(&mut rules(&verify, &passages, &known), EARTHQUAKE, "1755");
    store(&archive, first);
    let signatures = archive.signatures_after(0).unwrap();
    let digest = archive.content_digest().unwrap();
    let path = home.path().join("archive.db");
    drop(archive);

    let connection = Connection::open(&path).unwrap();
    connection.execute("DELETE FROM task_minhash", []).unwrap();
    drop(connection);
    let archive = open(home.path());
    let findings = archive.findings().unwrap();
    let [finding] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!(finding.place, "task_minhash");
    drop(archive);
    let repaired = nightschool::archive::repair(&path, &findings).unwrap().unwrap();
    assert!(!repaired.copied);
    let archive = open(home.path());
    archive.check().unwrap();
    assert_eq!(archive.signatures_after(0).unwrap(), signatures);
    assert_eq!(archive.content_digest().unwrap(), digest);

    let removal = archive.remove_document("Lisbon", true).unwrap();
    assert_eq!(removal.tasks, 1);
    assert_eq!(archive.signatures_after(0).unwrap(), []);
    archive.check().unwrap();
}

#[test]
fn where_the_gate_is_not_enforced_only_repetitions_and_what_is_held_out_are_turned_away() {
    let passages = passages();
    let home = tempfile::tempdir().unwrap();
    let archive = begun(home.path());
    let verify = settings(&["verify.enforce=false"]);
    let known = ArchivedQuestions::of(&archive);
    store(&archive, judge(&mut rules(&verify, &passages, &known), EARTHQUAKE, "1755"));
    let item = |question: &str| SuiteItem {
        question_id: "1".into(),
        question: question.into(),
        answers: vec!["1908".into()],
        source_document: "Messina".into(),
    };
    let asked = "What year was it in Messina?";
    archive.freeze_suite(&Suite::new("exam", SuiteOrigin::Human, vec![item(asked)])).unwrap();
    // Held out, and of the same words as a question that comes later.
    let kept = "Of what city did an earthquake in that year leave nothing?";
    let mut heldout = gated(judge(&mut rules(&verify, &passages, &known), kept, "Messina"));
    heldout.task.as_mut().unwrap().split = Split::Heldout;
    let unit = Unit { night: 1, phase: "test", key: "heldout" };
    archive.record_drafts(&unit, &[heldout]).unwrap();

    let judged = |verify: &Verify, origin, question: Option<&str>, answer: &str, path: &str| {
        let mut draft = draft(question.unwrap_or_default(), answer, &[path], origin);
        draft.question = question.map(String::from);
        let mut candidate = Candidate::new(draft);
        rules(verify, &passages, &known).run(&mut candidate);
        candidate
    };
    let enforced = settings(&[]);
    let nearly_kept = "Of what city did an earthquake in that year leave almost nothing?";
    for (question, answer, path, stands, reason) in [
        (Some(AGAIN), "1755", "lisbon", true, Rejection::NearDuplicate),
        (Some("When?"), "1755", "lisbon", true, Rejection::Length),
        (Some("Was it 1755 when it was destroyed?"), "1755", "lisbon", true, Rejection::Leak),
        (None, "1755", "lisbon", false, Rejection::Malformed),
        (Some("In which year was it destroyed?"), "1755", "gone", false, Rejection::NoEvidence),
        (Some("In which year was it destroyed?"), "1801", "lisbon", false, Rejection::NoEvidence),
        (Some(EARTHQUAKE), "1755", "lisbon", false, Rejection::Duplicate),
        (Some(asked), "1908", "messina", false, Rejection::Duplicate),
        (Some(nearly_kept), "Messina", "messina", false, Rejection::NearDuplicate),
    ] {
        let found = judged(&verify, Origin::Model, question, answer, path);
        assert_eq!(found.stands(), stands, "{question:?}: {:?}", found.verdicts);
        let mut verdicts = found.verdicts.iter();
        let verdict = verdicts.find(|verdict| verdict.rejection == Some(reason)).unwrap();
        assert_eq!(verdict.required, !stands, "{question:?}");
        assert!(!found.model_decides, "the model's checks are only recorded, too");
        if stands {
            assert_eq!(found.verdicts.len(), 6, "all checks were made");
        }
        // The gate that is enforced turns all of them away, and so does any that people and code
        // face.
        for (verify, origin) in [(&enforced, Origin::Model), (&verify, Origin::Code)] {
            let found = judged(verify, origin, question, answer, path);
            assert_eq!(rejection(&found), Some(reason), "{question:?}");
            assert!(!found.stands());
        }
    }
    archive.check().unwrap();
}
