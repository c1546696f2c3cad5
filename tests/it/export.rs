//! Exports through the public surface: their shapes, their bytes, where rows go.
//! `scripts/check_exports.py` loads the same folders with `datasets`, `trl` and pandas.

mod bundled;
mod conversations;
mod imports;
mod leaks;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use nightschool::archive::Archive;
use nightschool::archive::DocumentContent;
use nightschool::archive::GatedDraft;
use nightschool::archive::ModelKind;
use nightschool::archive::ModelVersion;
use nightschool::archive::SourceFileContent;
use nightschool::archive::TaskFilter;
use nightschool::archive::Unit;
use nightschool::clock::ManualClock;
use nightschool::corpus::passage_id;
use nightschool::export;
use nightschool::export::ExportError;
use nightschool::export::ExportOptions;
use nightschool::export::ExportSummary;
use nightschool::export::Format;
use nightschool::export::Shape;
use nightschool::export::Shown;
use nightschool::export::Side;
use nightschool::export::Sides;
use nightschool::export::Target;
use nightschool::export::Texts;
use nightschool::export::Turns;
use nightschool::model::tokenizer::Tokenizer;
use nightschool::phase::home::Home;
use nightschool::protocol::Prompts;
use nightschool::rollout::Rollout;
use nightschool::rollout::Score;
use nightschool::rollout::StopReason;
use nightschool::task::AnswerKind;
use nightschool::task::Draft;
use nightschool::task::Origin;
use nightschool::task::Passage;
use nightschool::task::Seed;
use nightschool::task::Split;
use nightschool::task::Task;
use nightschool::task::Verdict;
use serde_json::Value;
use serde_json::json;

const SHAPES: [Shape; 5] =
    [Shape::Sft, Shape::Preference, Shape::RlTrl, Shape::RlVerl, Shape::Tasks];

/// A home with a night under way.
struct School {
    dir: tempfile::TempDir,
    archive: Archive,
}

impl School {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_000).unwrap()));
        let archive = Archive::open(&dir.path().join("archive.db"), clock).unwrap();
        let base = ModelVersion {
            id: "base".into(),
            parent: None,
            kind: ModelKind::Base,
            adapters: None,
            path: "models/base".into(),
            content_hash: "00".into(),
            night: None,
            note: "as fetched".into(),
        };
        archive.put_model_version(&base).unwrap();
        archive.set_live_model(&base.id, "the first").unwrap();
        archive.begin_night(1, &json!({})).unwrap();
        Self { dir, archive }
    }

    fn home(&self) -> Home {
        Home::at(self.dir.path())
    }

    fn add(&self, documents: Vec<DocumentContent>) {
        let file = SourceFileContent {
            path: "towers.md".into(),
            content_hash: format!("{}", documents.len()),
            skipped: None,
            documents,
        };
        self.archive.sync_corpus(&[file], &[]).unwrap();
    }

    fn store(&self, drafts: &[GatedDraft], rollouts: &[(Rollout, Score)]) {
        let unit = |phase| Unit { night: 1, phase, key: "0" };
        self.archive.record_drafts(&unit("propose"), drafts).unwrap();
        let sampling = json!({ "temperature": 1.0 });
        self.archive.record_rollouts(&unit("rollouts"), 0, &sampling, rollouts).unwrap();
    }

    fn export(&self, options: &ExportOptions, name: &str) -> Result<ExportSummary, ExportError> {
        self.export_to(options, &self.dir.path().join(name), false)
    }

    fn export_to(
        &self,
        options: &ExportOptions,
        dir: &Path,
        replace: bool,
    ) -> Result<ExportSummary, ExportError> {
        let prompts = Prompts::built_in().unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat/llama3");
        let tokenizer = || Ok(Tokenizer::from_file(&file.join("tokenizer.json"))?);
        let texts = Texts { prompts: &prompts, tokenizer: &tokenizer };
        export::export(&self.archive, &texts, options, dir, replace)
    }

    /// The rows by split.
    fn rows(&self, options: &ExportOptions, name: &str) -> BTreeMap<Side, Vec<Value>> {
        self.export(options, name).unwrap();
        let dir = self.dir.path().join(name);
        let mut all = BTreeMap::new();
        for side in Side::ALL {
            let file = dir.join(format!("data/{}.{}", side.as_str(), options.format.as_str()));
            if file.exists() {
                all.insert(side, export::rows_of(&file).unwrap().map(Result::unwrap).collect());
            }
        }
        all
    }
}

fn options(shape: Shape, format: Format) -> ExportOptions {
    ExportOptions {
        shape,
        format,
        filter: TaskFilter::default(),
        filter_words: String::new(),
        sides: Sides { validation: 0.3 },
        target: Target::Rollout,
        turns: Turns::All,
        min_reward: 1.0,
        margin: 0.0,
        shown: Shown::Retrieved,
        prompt: "bare".into(),
        data_source: "nightschool".into(),
        license: "cc-by-sa-4.0".into(),
        date: None,
    }
}

/// A document of these texts.
fn document(id: &str, split: Split, texts: &[String]) -> DocumentContent {
    let title = format!("Title {id}");
    let passages = texts.iter().zip(0..).map(|(text, ordinal)| Passage {
        id: passage_id("Tower", text),
        document_id: id.to_string(),
        title: "Tower".to_string(),
        text: text.clone(),
        ordinal,
    });
    DocumentContent { id: id.to_string(), title, split, passages: passages.collect() }
}

/// A task of the model's on these texts.
fn accepted(id: &str, answer: &str, texts: &[&String], split: Split) -> GatedDraft {
    let path: Vec<String> = texts.iter().map(|text| passage_id("Tower", text)).collect();
    let question = format!("When was tower {id} built?");
    let draft = Draft {
        id: id.to_string(),
        origin: Origin::Model,
        seed: Seed { answer: answer.into(), kind: AnswerKind::Date, path: path.clone() },
        question: Some(question.clone()),
        transcript: Some(format!("Question: {question}")),
        model_version: "base".into(),
    };
    let task = Task {
        id: id.to_string(),
        origin: Origin::Model,
        question,
        answer: answer.into(),
        kind: AnswerKind::Date,
        evidence: path,
        split,
        night: Some(1),
    };
    let evidence = json!({ "score": 0.5, "passages": ["p"] });
    let verdict = Verdict { check: "leak".into(), rejection: None, required: true, evidence };
    GatedDraft { draft, verdicts: vec![verdict], task: Some(task), parents: Vec::new() }
}

fn rollout(task: &str, index: u32, answer: &str, f1: f32, shown: &[&String]) -> (Rollout, Score) {
    let rollout = Rollout {
        task_id: task.to_string(),
        index,
        model_version: "base".into(),
        steps: Vec::new(),
        queries: vec!["tower".into()],
        retrieved: shown.iter().map(|text| passage_id("Tower", text)).collect(),
        answer: (!answer.is_empty()).then(|| answer.to_string()),
        stop: if answer == "cut" { StopReason::Length } else { StopReason::StopString },
        start: None,
    };
    let exact_match = f32::from(u8::from(f1 >= 1.0));
    (rollout, Score { exact_match, f1, reward: f1 })
}

fn text(n: usize) -> String {
    format!("The tower of town {n} was built in {}. It has \"{n}\" floors.", 1700 + n)
}

/// Forty documents, every fifth held out, each with a task; every third task was not played.
fn played() -> School {
    let school = School::new();
    let split = |n: usize| if n.is_multiple_of(5) { Split::Heldout } else { Split::Train };
    let texts: Vec<String> = (0..40).map(text).collect();
    let one = |n: usize| document(&format!("d{n:02}"), split(n), &texts[n..=n]);
    school.add((0..40).map(one).collect());
    let id = |n: usize| format!("{:04x}", (n * 40_503) % 65_536);
    let answer = |n: usize| (1700 + n).to_string();
    let drafts: Vec<GatedDraft> =
        (0..40).map(|n| accepted(&id(n), &answer(n), &[&texts[n]], split(n))).collect();
    let rollouts: Vec<(Rollout, Score)> = (0..40)
        .filter(|n| n % 3 != 0)
        .flat_map(|n| {
            let shown = [&texts[n], &texts[(n + 1) % 40]];
            let right = rollout(&id(n), 1, &answer(n), 1.0, &shown);
            let cut = rollout(&id(n), 3, "cut", 1.0, &shown);
            let wrong = rollout(&id(n), 0, "about 1600", 0.25, &shown);
            [wrong, right, rollout(&id(n), 2, "", 0.0, &shown), cut]
        })
        .collect();
    school.store(&drafts, &rollouts);
    school
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = walkdir::WalkDir::new(dir).into_iter().map(Result::unwrap);
    let files = entries.filter(|entry| entry.file_type().is_file());
    let name = |path: &Path| path.strip_prefix(dir).unwrap().display().to_string();
    files.map(|file| (name(file.path()), fs::read(file.path()).unwrap())).collect()
}

#[test]
fn the_same_export_has_the_same_bytes_and_both_formats_the_same_rows() {
    let school = played();
    for shape in SHAPES {
        let mut by_format = Vec::new();
        for format in [Format::Jsonl, Format::Parquet] {
            let options = options(shape, format);
            let name = |n| format!("{}-{}-{n}", shape.as_str(), format.as_str());
            let rows = school.rows(&options, &name(1));
            school.export(&options, &name(2)).unwrap();
            let at = |n| files(&school.dir.path().join(name(n)));
            assert_eq!(at(1), at(2), "{shape:?} {format:?}");
            assert_eq!(rows.keys().collect::<Vec<_>>(), Side::ALL.iter().collect::<Vec<_>>());
            by_format.push(rows);
        }
        assert_eq!(by_format[0], by_format[1], "{shape:?}");
    }
}

#[test]
fn rows_have_the_shapes_of_trl_and_verl() {
    let school = played();
    let one = |shape, name| {
        let rows = school.rows(&options(shape, Format::Jsonl), name);
        let row = rows[&Side::Test].iter().find(|row| row.to_string().contains("town 5 "));
        row.unwrap().clone()
    };
    insta::assert_json_snapshot!(one(Shape::Sft, "sft"));
    insta::assert_json_snapshot!(one(Shape::Preference, "preference"));
    insta::assert_json_snapshot!(one(Shape::RlTrl, "rl-trl"));
    insta::assert_json_snapshot!(one(Shape::RlVerl, "rl-verl"));
    insta::assert_json_snapshot!(one(Shape::Tasks, "tasks"));

    // Every task has a prompt; only those that were played well have an answer to imitate.
    let count = |shape, name| school.export(&options(shape, Format::Jsonl), name).unwrap();
    let sft = count(Shape::Sft, "sft-2");
    assert_eq!((sft.tasks, sft.rows.values().sum::<u64>()), (40, 26));
    assert_eq!(sft.left_out, BTreeMap::from([("without an answer by a model", 14)]));
    assert_eq!(sft.answered_by, BTreeMap::from([("base".to_string(), 26)]));
    assert_eq!(count(Shape::RlVerl, "rl-2").rows.values().sum::<u64>(), 40);
    let all = ExportOptions {
        target: Target::Reference,
        shown: Shown::Nothing,
        ..options(Shape::Sft, Format::Jsonl)
    };
    let rows = school.rows(&all, "reference");
    let row = &rows[&Side::Train][0];
    assert_eq!(rows.values().map(Vec::len).sum::<usize>(), 40);
    assert_eq!(row["messages"][1]["content"], row["answer"]);
    let question = row["question"].as_str().unwrap();
    assert_eq!(row["messages"][0]["content"], format!("Question: {question}\nAnswer:"));
    let far = ExportOptions { margin: 0.8, ..options(Shape::Preference, Format::Jsonl) };
    let error = school.export(&far, "far").unwrap_err().to_string();
    assert_eq!(
        error,
        "none of 40 tasks gives a row (40 without two answers far enough apart); nothing was \
         written"
    );
}

#[test]
fn a_source_of_search_r1_gets_its_shape() {
    let school = played();
    let options = ExportOptions {
        data_source: "searchR1_nq".into(),
        ..options(Shape::RlVerl, Format::Parquet)
    };
    let row = &school.rows(&options, "verl")[&Side::Train][0];
    let answer = &row["extra_info"]["answer"];
    assert_eq!(row["reward_model"]["ground_truth"], json!({ "target": [answer] }));
    let prompt = row["prompt"][0]["content"].as_str().unwrap();
    assert!(prompt.starts_with("Write the answer between <answer> and </answer>."), "{prompt}");
}

#[test]
fn the_card_says_what_is_there_and_how_it_was_made() {
    let school = played();
    let options = ExportOptions {
        filter: TaskFilter { origin: Some(Origin::Model), ..TaskFilter::default() },
        filter_words: "--origin model".into(),
        ..options(Shape::Preference, Format::Parquet)
    };
    school.export(&options, "pairs").unwrap();
    let card = fs::read_to_string(school.dir.path().join("pairs/README.md")).unwrap();
    insta::assert_snapshot!(card);
}

#[test]
fn documents_keep_their_split_when_tasks_and_documents_come() {
    let school = played();
    let shape = options(Shape::RlTrl, Format::Jsonl);
    let place = |rows: &BTreeMap<Side, Vec<Value>>| -> BTreeMap<String, Side> {
        let each = rows.iter().flat_map(|(side, rows)| rows.iter().map(move |row| (row, *side)));
        each.map(|(row, side)| (row["task_id"].as_str().unwrap().to_string(), side)).collect()
    };
    let before = place(&school.rows(&shape, "before"));
    let texts: Vec<String> = (100..130).map(text).collect();
    let one = |n: usize| document(&format!("e{n:02}"), Split::Train, &texts[n..=n]);
    let file = SourceFileContent {
        path: "more.md".into(),
        content_hash: "1".into(),
        skipped: None,
        documents: (0..30).map(one).collect(),
    };
    school.archive.sync_corpus(&[file], &[]).unwrap();
    let drafts: Vec<GatedDraft> = (0..30)
        .map(|n| accepted(&format!("m{n}"), &(1800 + n).to_string(), &[&texts[n]], Split::Train))
        .collect();
    let unit = Unit { night: 1, phase: "propose", key: "1" };
    school.archive.record_drafts(&unit, &drafts).unwrap();
    let after = place(&school.rows(&shape, "after"));
    assert_eq!(after.len(), before.len() + 30);
    assert!(before.iter().all(|(task, side)| after[task] == *side));
}

#[test]
fn only_an_earlier_export_is_replaced() {
    let school = played();
    let dir = school.dir.path().join("out");
    let write = |shape, replace| school.export_to(&options(shape, Format::Jsonl), &dir, replace);
    fs::create_dir(&dir).unwrap();
    write(Shape::Sft, false).unwrap();
    let first = files(&dir);
    assert!(matches!(write(Shape::Tasks, false), Err(ExportError::Occupied { .. })));
    assert_eq!(files(&dir), first);
    write(Shape::Tasks, true).unwrap();
    assert_ne!(files(&dir), first);

    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("thesis.txt"), "years of work").unwrap();
    assert!(matches!(write(Shape::Sft, true), Err(ExportError::NotAnExport { .. })));
    assert!(dir.join("thesis.txt").exists());

    // A prompt that is not there leaves nothing behind.
    let options = ExportOptions { prompt: "odd".into(), ..options(Shape::Sft, Format::Jsonl) };
    assert!(school.export(&options, "none").is_err());
    let names = fs::read_dir(school.dir.path()).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.retain(|name| !name.to_string_lossy().starts_with("archive.db"));
    assert_eq!(names, ["out"]);
}

#[test]
fn active_tasks_are_exported_to_train_on_unless_another_state_is_named() {
    let school = played();
    let first = &school.archive.tasks(&TaskFilter::default()).unwrap()[0].task.id;
    school.archive.retire_task(first, "dull").unwrap();
    let total = |shape, state, name| {
        let filter = TaskFilter { state, ..TaskFilter::default() };
        let options = ExportOptions { filter, ..options(shape, Format::Jsonl) };
        school.export(&options, name).unwrap().tasks
    };
    let retired = Some(nightschool::archive::TaskState::Retired);
    assert_eq!(total(Shape::RlTrl, None, "a"), 39);
    assert_eq!(total(Shape::RlTrl, retired, "b"), 1);
    assert_eq!(total(Shape::Tasks, None, "c"), 40);
}
