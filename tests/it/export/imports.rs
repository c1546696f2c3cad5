//! Taking exports in again, and questions of a person.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use nightschool::archive::Band;
use nightschool::archive::TaskFilter;
use nightschool::archive::TaskState;
use nightschool::config;
use nightschool::durable;
use nightschool::export::Format;
use nightschool::export::Shape;
use nightschool::export::TaskRow;
use nightschool::phase::import;
use nightschool::phase::import::ImportReport;
use nightschool::phase::import::ImportSource;
use nightschool::phase::ingest;
use nightschool::task::AnswerKind;
use nightschool::task::Origin;
use nightschool::task::Rejection;
use nightschool::task::Split;
use serde_json::json;

use super::School;
use super::accepted;
use super::document;
use super::files;
use super::options;
use super::played;
use super::rollout;
use super::text;

fn take(school: &School, path: &Path) -> ImportReport {
    let settings = config::load(&[], &[]).unwrap();
    let source = ImportSource::at(path).unwrap();
    import::import(&school.home(), &school.archive, &settings, &source, None).unwrap()
}

/// All rows of an export of tasks, by id.
fn exported(school: &School, format: Format, name: &str) -> (PathBuf, Vec<TaskRow>) {
    let rows = school.rows(&options(Shape::Tasks, format), name);
    let rows = rows.into_values().flatten().map(|row| serde_json::from_value(row).unwrap());
    let mut rows: Vec<TaskRow> = rows.collect();
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    (school.dir.path().join(name), rows)
}

#[test]
fn tasks_come_back_whole_in_another_home() {
    for format in [Format::Jsonl, Format::Parquet] {
        let one = played();
        let mut child = accepted("child", "1701", &[&text(1), &text(2)], Split::Train);
        child.parents = vec![one.archive.tasks(&TaskFilter::default()).unwrap()[0].task.id.clone()];
        let unit = nightschool::archive::Unit { night: 1, phase: "propose", key: "child" };
        one.archive.record_drafts(&unit, &[child]).unwrap();
        let dull = one.archive.tasks(&TaskFilter::default()).unwrap()[3].task.id.clone();
        one.archive.retire_task(&dull, "dull").unwrap();
        let (dir, before) = exported(&one, format, "tasks");

        let two = School::new();
        let report = take(&two, &dir);
        assert_eq!((report.rows, report.accepted), (41, 41));
        assert_eq!((report.documents_added, report.passages_added), (40, 40));
        let (again, after) = exported(&two, format, "again");
        assert_eq!(before, after);
        assert_eq!(files(&dir.join("data")), files(&again.join("data")), "byte for byte");
        two.archive.check().unwrap();

        // The same again changes nothing; files that come and go leave it alone.
        let digest = two.archive.content_digest().unwrap();
        let again = take(&two, &dir);
        assert_eq!((again.rows, again.known, again.accepted), (41, 41, 0));
        assert_eq!(two.archive.content_digest().unwrap(), digest);
        fs::write(two.dir.path().join("new.md"), "# Sea\n\nThe sea is deep and wide.\n").unwrap();
        ingest::ingest(&two.archive, &[two.dir.path().join("new.md")], 0.0, 1).unwrap();
        ingest::sync(&two.archive, 0.0, 1).unwrap();
        let filter = TaskFilter { state: Some(TaskState::Active), ..TaskFilter::default() };
        assert_eq!(two.archive.tasks(&filter).unwrap().len(), 40);
    }
}

#[test]
fn what_a_task_was_elsewhere_is_told_apart_from_what_it_is_here() {
    let one = played();
    let (dir, rows) = exported(&one, Format::Jsonl, "tasks");
    let row = rows.iter().find(|row| row.attempts > 0 && row.solved < row.attempts).unwrap();
    assert_eq!(
        (row.origin, row.night, row.played_by.as_deref()),
        (Origin::Model, Some(1), Some("base"))
    );
    let two = School::new();
    take(&two, &dir);

    // This archive played nothing, and no night of it made the task.
    let detail = two.archive.task_detail(&row.id).unwrap();
    let stored = &detail.task;
    assert_eq!((stored.task.origin, stored.task.night), (Origin::Model, None));
    assert_eq!((stored.attempts, stored.solved, stored.band), (0, 0, Band::Untried));
    assert_eq!(detail.model_versions.len(), 0, "the one that wrote it is of the other archive");
    let before = detail.imported.unwrap();
    assert_eq!((before.source.as_str(), before.night), ("tasks", Some(1)));
    let seal = durable::open_sealed(&dir).unwrap();
    assert_eq!(before.export_hash, Some(seal.content_hash()));
    assert_eq!((before.attempts, before.solved), (row.attempts, row.solved));
    assert_eq!(before.plays, row.plays);
    assert_eq!((row.plays.len(), row.plays[0].content_hash.as_str()), (1, "00"));

    // Played here by the same weights and by others of the same name elsewhere: counts of the same
    // weights add up.
    let shown = text(1);
    two.store(&[], &[rollout(&row.id, 0, &row.answer, 1.0, &[&shown])]);
    let stored = two.archive.task_detail(&row.id).unwrap().task;
    assert_eq!((stored.attempts, stored.solved), (1, 1));
    let (_, after) = exported(&two, Format::Jsonl, "played");
    let after = after.iter().find(|after| after.id == row.id).unwrap();
    assert_eq!((after.attempts, after.solved), (row.attempts + 1, row.solved + 1));
    assert_eq!((after.plays.len(), after.plays[0].attempts), (1, row.attempts + 1));
    assert_eq!(after.night, Some(1));

    // A row of an earlier program has counts, but not by version.
    let three = School::new();
    let mut old = json!(row);
    old.as_object_mut().unwrap().remove("plays");
    fs::write(dir.join("old.jsonl"), old.to_string()).unwrap();
    take(&three, &dir.join("old.jsonl"));
    let before = three.archive.task_detail(&row.id).unwrap().imported.unwrap();
    assert_eq!((before.attempts, before.plays.len(), before.export_hash), (row.attempts, 0, None));
    three.archive.check().unwrap();
    three.archive.remove_document(&row.document_id, true).unwrap();
    three.archive.check().unwrap();
}

#[test]
fn an_import_takes_nothing_from_documents_that_are_there() {
    let one = School::new();
    let (old, new) = (text(1), text(2));
    one.add(vec![document("d", Split::Heldout, std::slice::from_ref(&old))]);
    one.store(&[accepted("aa", "1701", &[&old], Split::Heldout)], &[]);
    let (dir, _) = exported(&one, Format::Jsonl, "tasks");

    // The same document id with other words.
    let two = School::new();
    two.add(vec![document("d", Split::Train, std::slice::from_ref(&new))]);
    two.store(&[accepted("bb", "1702", &[&new], Split::Train)], &[]);
    take(&two, &dir);
    let tasks = two.archive.tasks(&TaskFilter::default()).unwrap();
    let state: Vec<_> = tasks.iter().map(|s| (s.task.id.as_str(), s.state, s.task.split)).collect();
    let active = TaskState::Active;
    assert_eq!(state, [("aa", active, Split::Heldout), ("bb", active, Split::Train)]);
    assert_eq!(two.archive.passages().unwrap().len(), 2);

    // A later export of the same name brings more of the document, and takes nothing away.
    let third = text(3);
    let three = School::new();
    three.add(vec![document("d", Split::Heldout, &[text(9), third.clone()])]);
    three.store(&[accepted("cc", "1703", &[&third], Split::Heldout)], &[]);
    let (dir, _) = exported(&three, Format::Jsonl, "tasks");
    take(&two, &dir);
    let active =
        two.archive.tasks(&TaskFilter { state: Some(TaskState::Active), ..TaskFilter::default() });
    assert_eq!(active.unwrap().len(), 3);
    assert_eq!(two.archive.documents().unwrap().len(), 2);
    assert_eq!(two.archive.passages().unwrap().len(), 3);
    two.archive.check().unwrap();
}

#[test]
fn what_a_person_took_out_neither_leaves_nor_comes_back() {
    let one = played();
    let (dir, rows) = exported(&one, Format::Jsonl, "tasks");
    let (gone, words) = (&rows[0].document_id, &rows[0].evidence[0].text);
    one.archive.remove_document(gone, false).unwrap();
    let (_, rows) = exported(&one, Format::Jsonl, "after");
    assert_eq!(rows.len(), 39);
    let prompts = one.rows(&options(Shape::RlTrl, Format::Jsonl), "prompts");
    let town = words.split('"').next().unwrap();
    assert!(town.len() > 20 && prompts.values().flatten().count() > 30);
    assert!(prompts.values().flatten().all(|row| !row.to_string().contains(town)));

    let two = School::new();
    take(&two, &dir);
    two.archive.remove_document(gone, true).unwrap();
    let again = take(&two, &dir);
    assert_eq!((again.known, again.accepted, again.unreadable.len()), (39, 0, 1));
    assert_eq!(again.unreadable[0].why, "a person took its document out");
    two.archive.check().unwrap();
}

#[test]
fn edited_words_and_questions_that_are_known_are_seen() {
    let one = played();
    let (dir, rows) = exported(&one, Format::Jsonl, "tasks");
    let two = played();
    let mut row = rows[0].clone();
    row.id = "other".into();
    let mut edited = rows[1].clone();
    edited.id = "edited".into();
    edited.question = "What was written by hand?".into();
    edited.evidence[0].text += " Edited.";
    let mut refused = rows[2].clone();
    refused.id = "refused".into();
    refused.verdicts[0].rejection = Some(Rejection::Leak);
    let lines = [json!(row), json!(edited), json!(refused), json!({ "evidence": [{}] })];
    let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
    let file = dir.join("own.jsonl");
    fs::write(&file, lines.join("\n") + "\n{broken").unwrap();
    let report = take(&two, &file);
    assert_eq!((report.rows, report.accepted, report.passages_added), (5, 1, 1));
    let reasons: Vec<_> =
        report.rejected.iter().map(|r| (r.row, r.id.as_str(), r.reason)).collect();
    assert_eq!(reasons, [(1, "other", Rejection::Duplicate)]);
    assert_eq!(report.unreadable.iter().map(|row| row.row).collect::<Vec<_>>(), [3, 4, 5]);
    let drafts = two.archive.rejected_drafts(None, None, None).unwrap();
    assert_eq!((drafts.len(), drafts[0].night, drafts[0].origin), (1, None, Origin::Model));
    // The original's words are as they were.
    let passages = two.archive.passages().unwrap();
    assert_eq!(passages.iter().filter(|p| p.text.ends_with("Edited.")).count(), 1);
    two.archive.check().unwrap();
}

/// A home with two files.
fn with_files() -> School {
    let school = School::new();
    for (name, text) in [("steam.md", crate::cli::STEAM), ("sea.txt", crate::cli::SEA)] {
        fs::create_dir_all(school.dir.path().join("docs")).unwrap();
        fs::write(school.dir.path().join("docs").join(name), text).unwrap();
    }
    ingest::ingest(&school.archive, &[school.dir.path().join("docs")], 0.0, 1).unwrap();
    school
}

#[test]
fn a_persons_questions_are_matched_and_go_through_the_rules() {
    let school = with_files();
    let path = school.dir.path().join("own.csv");
    let rows = "\
question,answer,answers,document,evidence
Who patented the separate condenser?,James Watt,,,
\"In what year did Piccard and Walsh reach the deep, and come back?\",,1961|1960,sea.txt,
How large is the Pacific Ocean in square kilometres?,about 165 million,,,\"Its deepest point\"
Who patented the separate condenser ?,James Watt,,,
Is James Watt the man who patented the condenser?,James Watt,,,
Who built the first practical steam engine?,Thomas Newcomen,,sea.txt,
Who built the bridge over the river?,Isambard Brunel,,,
Name the inventor of the steam engine,Thomas Newcomen,,,
,lost,,,
What has no answer?,,,,
";
    fs::write(&path, rows).unwrap();
    let report = take(&school, &path);
    assert_eq!((report.rows, report.accepted, report.known), (10, 3, 0));
    let reasons: Vec<_> = report.rejected.iter().map(|row| (row.row, row.reason)).collect();
    assert_eq!(
        reasons,
        [
            (4, Rejection::Duplicate),
            (5, Rejection::Leak),
            (6, Rejection::NoEvidence),
            (7, Rejection::NoEvidence),
            (8, Rejection::Malformed),
        ]
    );
    let unreadable: Vec<_> = report.unreadable.iter().map(|row| row.why.as_str()).collect();
    assert_eq!(unreadable, ["it has no `question`", "it has neither `answer` nor `answers`"]);
    let tasks = school.archive.tasks(&TaskFilter::default()).unwrap();
    let mut made: Vec<_> =
        tasks.iter().map(|s| (s.task.answer.as_str(), s.task.kind, s.topic.as_str())).collect();
    made.sort_unstable_by_key(|(answer, ..)| *answer);
    assert_eq!(
        made,
        [
            ("1960", AnswerKind::Date, "sea"),
            ("James Watt", AnswerKind::Name, "The steam engine"),
            ("about 165 million", AnswerKind::Number, "sea"),
        ]
    );
    assert!(tasks.iter().all(|s| s.task.origin == Origin::Person && s.proposed_by == "person"));
    assert_eq!(school.archive.rejected_drafts(None, None, None).unwrap().len(), 5);

    // Again: what is there stays, what was turned away is said again; what has its document now
    // becomes a task.
    let again = take(&school, &path);
    assert_eq!((again.accepted, again.known, &again.rejected), (0, 3, &report.rejected));
    let bridge = "# A bridge\n\nIsambard Brunel built the bridge over the river Avon.\n";
    fs::write(school.dir.path().join("docs/bridge.md"), bridge).unwrap();
    ingest::sync(&school.archive, 0.0, 1).unwrap();
    let later = take(&school, &path);
    assert_eq!((later.accepted, later.known, later.rejected.len()), (1, 3, 4));
    school.archive.check().unwrap();
}

#[test]
fn what_cannot_be_read_is_said() {
    let school = with_files();
    let error = |name: &str| {
        let path = school.dir.path().join(name);
        format!("{:#}", ImportSource::at(&path).unwrap_err())
            .replace(&school.dir.path().display().to_string(), "DIR")
    };
    fs::write(school.dir.path().join("own.xlsx"), "").unwrap();
    fs::write(school.dir.path().join("own.parquet"), "PAR0").unwrap();
    assert!(error("none.jsonl").starts_with("cannot read DIR/none.jsonl: "));
    assert!(error("docs").starts_with("DIR/docs has no data/train.jsonl"));
    assert!(error("own.xlsx").ends_with("it must end in .jsonl, .csv or .parquet"));
    assert!(error("own.parquet").starts_with("cannot read DIR/own.parquet: "));
}
