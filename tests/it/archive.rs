//! The archive through its public methods: a small home that plays a few tasks.

mod care;
mod crash;
mod curriculum;
mod damage;
pub(crate) mod durability;
mod files;
mod game;
mod lists;
mod log;
mod measures;
mod tokens;
mod versions;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use nightschool::archive::Archive;
use nightschool::archive::DocumentContent;
use nightschool::archive::GatedDraft;
use nightschool::archive::ModelKind;
use nightschool::archive::ModelVersion;
use nightschool::archive::SourceFileContent;
use nightschool::archive::Unit;
use nightschool::clock::ManualClock;
use nightschool::config::Adapters;
use nightschool::rng::content_id;
use nightschool::rollout::Owner;
use nightschool::rollout::Rollout;
use nightschool::rollout::Score;
use nightschool::rollout::Step;
use nightschool::rollout::StopReason;
use nightschool::task::AnswerKind;
use nightschool::task::Draft;
use nightschool::task::Origin;
use nightschool::task::Passage;
use nightschool::task::Rejection;
use nightschool::task::Seed;
use nightschool::task::Split;
use nightschool::task::Task;
use nightschool::task::Verdict;
use serde_json::json;

/// A clock that shows this second after the epoch.
fn clock(second: i64) -> Arc<ManualClock> {
    Arc::new(ManualClock::new(Timestamp::from_second(second).unwrap()))
}

fn open(path: &Path) -> Archive {
    Archive::open(path, clock(1_000)).unwrap()
}

fn document(id: &str, texts: &[&str]) -> DocumentContent {
    let passages = texts.iter().enumerate().map(|(ordinal, text)| Passage {
        id: content_id(&[id, text]),
        document_id: id.to_string(),
        title: id.to_string(),
        text: text.to_string(),
        ordinal: ordinal as u32,
    });
    DocumentContent {
        id: id.to_string(),
        title: id.to_string(),
        split: Split::Train,
        passages: passages.collect(),
    }
}

fn file(path: &str, documents: Vec<DocumentContent>) -> SourceFileContent {
    let content_hash = content_id(&[&format!("{documents:?}")]);
    SourceFileContent { path: path.to_string(), content_hash, skipped: None, documents }
}

fn towers() -> SourceFileContent {
    file(
        "towers.md",
        vec![document("towers", &["The tower was built in 1889.", "It is 330 metres high."])],
    )
}

fn base() -> ModelVersion {
    ModelVersion {
        id: "base".into(),
        parent: None,
        kind: ModelKind::Base,
        adapters: None,
        path: "models/base".into(),
        content_hash: "00".into(),
        night: None,
        note: "as fetched".into(),
    }
}

fn adapter(night: u32) -> ModelVersion {
    ModelVersion {
        id: format!("night-{night}"),
        parent: Some("base".into()),
        kind: ModelKind::Adapter,
        adapters: Some(Adapters::Shared),
        path: format!("adapters/{night}"),
        content_hash: "01".into(),
        night: Some(night),
        note: "policy".into(),
    }
}

/// A corpus of two passages, the base model live, and the first night begun.
fn begin(archive: &Archive) {
    archive.sync_corpus(&[towers()], &[]).unwrap();
    archive.put_model_version(&base()).unwrap();
    archive.set_live_model("base", "the first").unwrap();
    if archive.nights().unwrap().is_empty() {
        archive.begin_night(u64::MAX - 1, &json!({"rounds": 2})).unwrap();
    }
}

fn unit<'a>(phase: &'a str, key: &'a str) -> Unit<'a> {
    Unit { night: 1, phase, key }
}

fn passed(check: &str) -> Verdict {
    let evidence = json!({"passages": ["p"], "score": 0.5});
    Verdict { check: check.to_string(), rejection: None, required: true, evidence }
}

fn rejected(check: &str, rejection: Rejection) -> Verdict {
    Verdict { rejection: Some(rejection), ..passed(check) }
}

fn draft(origin: Origin, id: &str) -> Draft {
    let passage = towers().documents[0].passages[0].id.clone();
    Draft {
        id: id.to_string(),
        origin,
        seed: Seed { answer: "1889".into(), kind: AnswerKind::Date, path: vec![passage] },
        question: Some(format!("When was tower {id} built?")),
        transcript: (origin == Origin::Model).then(|| "Question: when?".to_string()),
        model_version: if origin == Origin::Model { "base" } else { "code" }.to_string(),
    }
}

fn accepted(origin: Origin, id: &str) -> GatedDraft {
    let draft = draft(origin, id);
    let task = Task {
        id: draft.id.clone(),
        origin,
        question: draft.question.clone().unwrap(),
        answer: draft.seed.answer.clone(),
        kind: draft.seed.kind,
        evidence: draft.seed.path.clone(),
        split: Split::Train,
        night: Some(1),
    };
    let verdicts = vec![passed("length"), passed("leak")];
    GatedDraft { draft, verdicts, task: Some(task), parents: Vec::new() }
}

fn turned_away(origin: Origin, id: &str, rejection: Rejection) -> GatedDraft {
    let verdicts = vec![passed("length"), rejected("leak", rejection), passed("later")];
    GatedDraft { draft: draft(origin, id), verdicts, task: None, parents: Vec::new() }
}

fn sampling() -> serde_json::Value {
    json!({"protocol": "scripted_search", "temperature": 1.0})
}

fn rollout(task: &str, index: u32, solved: bool) -> (Rollout, Score) {
    let tokens = vec![1, 70_000, index, u32::MAX];
    let logprobs = vec![-0.125, -1e-30, f32::MIN_POSITIVE, f32::NEG_INFINITY];
    let rollout = Rollout {
        task_id: task.to_string(),
        index,
        model_version: "base".into(),
        steps: vec![
            Step { owner: Owner::Tool, tokens: vec![5; 300], logprobs: Vec::new() },
            Step { owner: Owner::Model, tokens, logprobs },
        ],
        queries: vec!["tower \"built\"".into()],
        retrieved: vec!["p1".into(), "p2".into()],
        answer: solved.then(|| "1889".to_string()),
        stop: if solved { StopReason::StopString } else { StopReason::Length },
        start: None,
    };
    let grade = f32::from(u8::from(solved));
    (rollout, Score { exact_match: grade, f1: grade * 0.9, reward: grade * 0.1 })
}

/// Unit `number` of a small game: one draft that becomes a task, one that does not, two rollouts.
fn play(archive: &Archive, number: u32) {
    let key = format!("{number:04}");
    let id = content_id(&["draft", &key]);
    let other = content_id(&["other", &key]);
    let drafts = [accepted(Origin::Code, &id), turned_away(Origin::Model, &other, Rejection::Leak)];
    archive.record_drafts(&unit("propose", &key), &drafts).unwrap();
    let rollouts = [rollout(&id, 0, true), rollout(&id, 1, false)];
    archive.record_rollouts(&unit("rollouts", &key), 0, &sampling(), &rollouts).unwrap();
}
