//! Damage: it is found, what it affects is named, and what can be saved is saved.

use std::collections::BTreeSet;
use std::io::Seek as _;
use std::io::Write as _;
use std::path::PathBuf;

use nightschool::archive::ArchiveError;
use nightschool::archive::ArchiveReader;
use nightschool::archive::Finding;
use nightschool::archive::FindingKind;
use nightschool::archive::TaskFilter;
use nightschool::archive::repair;
use rusqlite::Connection;

use super::*;

const UNITS: u32 = 60;

fn played(home: &tempfile::TempDir) -> PathBuf {
    let path = home.path().join("archive.db");
    let archive = open(&path);
    begin(&archive);
    (0..UNITS).for_each(|number| play(&archive, number));
    path
}

fn findings(path: &Path) -> Vec<Finding> {
    ArchiveReader::open(path).unwrap().findings().unwrap()
}

fn digest(path: &Path) -> String {
    ArchiveReader::open(path).unwrap().content_digest().unwrap()
}

fn tasks(path: &Path) -> BTreeSet<String> {
    let tasks = ArchiveReader::open(path).unwrap().tasks(&TaskFilter::default()).unwrap();
    tasks.into_iter().map(|task| task.task.id).collect()
}

/// The pages of a table or index that hold its rows, in the order of its key.
fn leaves(path: &Path, name: &str) -> Vec<u64> {
    let connection = Connection::open(path).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let mut statement = connection
        .prepare("SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' ORDER BY path")
        .unwrap();
    let pages = statement.query_map([name], |row| row.get::<_, i64>(0)).unwrap();
    pages.map(|page| page.unwrap().cast_unsigned()).collect()
}

/// Overwrites pages, as a disk that lies does.
fn overwrite(path: &Path, pages: &[u64]) {
    let mut file = std::fs::File::options().write(true).open(path).unwrap();
    for page in pages {
        file.seek(std::io::SeekFrom::Start((page - 1) * 4096)).unwrap();
        file.write_all(&[0xAA; 4096]).unwrap();
    }
}

#[test]
fn what_follows_from_the_rest_is_found_wrong_and_made_again() {
    let home = tempfile::tempdir().unwrap();
    let path = played(&home);
    let whole = digest(&path);
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "UPDATE task SET attempts = attempts + 5 WHERE number < 9;
             DELETE FROM task_play;
             DELETE FROM task_words WHERE rowid = 3;
             INSERT INTO task_words (rowid, question, answer) VALUES (999, 'of', 'none');",
        )
        .unwrap();
    drop(connection);
    let found = findings(&path);
    let kinds: Vec<_> = found.iter().map(|f| (f.kind, f.place.as_str())).collect();
    assert_eq!(
        kinds,
        [
            (FindingKind::Count, "task"),
            (FindingKind::Count, "task_play"),
            (FindingKind::Words, "task_words"),
        ]
    );
    assert!(found.iter().all(|finding| finding.repair.is_some()), "{found:?}");
    assert_eq!(found[1].affected.tasks, tasks(&path));
    assert!(matches!(open(&path).check(), Err(ArchiveError::Damaged { .. })));

    let repaired = repair(&path, &found).unwrap().unwrap();
    assert!(!repaired.copied && repaired.losses.is_empty());
    assert_eq!(findings(&path), []);
    assert_eq!(digest(&path), whole);
    // As it was before.
    assert_eq!(findings(&repaired.kept).len(), 3);
    assert_eq!(repair(&path, &[]).unwrap(), None);
}

#[test]
fn what_nothing_can_make_again_is_told_and_left() {
    let home = tempfile::tempdir().unwrap();
    let path = played(&home);
    let id = tasks(&path).into_iter().next().unwrap();
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "foreign_keys", false).unwrap();
    connection.execute("UPDATE rollout SET tokens = x'01' WHERE task_id = ?1", [&id]).unwrap();
    connection.execute("DELETE FROM live_model", []).unwrap();
    drop(connection);
    let found = findings(&path);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!((found[0].kind, found[0].place.as_str()), (FindingKind::Value, "rollout"));
    assert_eq!(found[0].affected.tasks, BTreeSet::from([id]));
    assert_eq!(found[0].affected.nights, BTreeSet::from([1]));
    assert_eq!(found[1].kind, FindingKind::Live);
    assert_eq!(repair(&path, &found).unwrap(), None);
}

#[test]
fn a_damaged_index_is_named_and_made_again() {
    for index in ["task_band", "sqlite_autoindex_rollout_1", "task_words_data"] {
        let home = tempfile::tempdir().unwrap();
        let path = played(&home);
        let whole = digest(&path);
        let pages = leaves(&path, index);
        overwrite(&path, &pages[..1]);
        let found = findings(&path);
        let place = if index == "task_words_data" { "task_words" } else { index };
        assert!(found.iter().any(|finding| finding.place == place), "{found:?}");
        // What people read says so, too.
        assert!(matches!(Archive::open(&path, clock(0)), Err(ArchiveError::Damaged { .. })));
        let repaired = repair(&path, &found).unwrap().unwrap();
        assert_eq!(repaired.losses, [], "{index}");
        assert_eq!(findings(&path), []);
        assert_eq!(digest(&path), whole, "{index}");
        assert!(repaired.kept.exists());
        open(&path);
    }
}

#[test]
fn of_a_damaged_table_the_rest_is_saved_and_the_loss_is_told() {
    // A page in the middle; two, with rows between them; of a table with row ids, and without.
    for (table, damaged) in [
        ("rollout", vec![1]),
        ("rollout", vec![1, 3]),
        ("verdict", vec![1]),
        ("draft", vec![1]),
        ("task", vec![0]),
        ("task_evidence", vec![0]),
    ] {
        let home = tempfile::tempdir().unwrap();
        let path = played(&home);
        let before = tasks(&path);
        let all = leaves(&path, table);
        assert!(all.len() > *damaged.last().unwrap(), "{table} has {} leaves", all.len());
        let pages: Vec<u64> = damaged.iter().map(|place| all[*place]).collect();
        overwrite(&path, &pages);
        let found = findings(&path);
        let said = found.iter().find(|finding| finding.place == table).unwrap();
        assert_eq!(said.kind, FindingKind::Structure);
        assert!(said.detail.contains("rows cannot be read"), "{said:?}");
        assert_eq!(said.affected.nights, BTreeSet::from([1]), "{said:?}");
        assert!(!said.affected.tasks.is_empty(), "{said:?}");

        let repaired = repair(&path, &found).unwrap().unwrap();
        assert!(repaired.copied);
        assert_eq!(findings(&path), [], "{table}");
        let loss = repaired.losses.iter().find(|loss| loss.table == table).unwrap();
        assert_eq!(loss.gaps.len(), damaged.len(), "{loss:?}");
        let after = tasks(&path);
        assert_eq!(repaired.tasks_lost, before.difference(&after).cloned().collect(), "{table}");
        assert!(repaired.tasks_lost.is_subset(&said.affected.tasks) || table == "draft");
        if table == "rollout" {
            assert_eq!(after, before);
            let attempts = open(&path).tasks(&TaskFilter::default()).unwrap();
            let attempts: u64 = attempts.iter().map(|task| task.attempts).sum();
            assert!(repaired.rollouts_lost > 0);
            assert_eq!(attempts + repaired.rollouts_lost, u64::from(2 * UNITS));
        }
        assert!(repaired.kept.ends_with("archive.db.damaged-1"));
        // The night goes on in what is left.
        let archive = open(&path);
        play(&archive, UNITS);
        archive.check().unwrap();
    }
}

#[test]
fn without_the_rows_that_all_others_need_only_a_backup_helps() {
    let home = tempfile::tempdir().unwrap();
    let path = played(&home);
    let pages = leaves(&path, "night");
    overwrite(&path, &pages);
    let before = std::fs::read(&path).unwrap();
    let found = findings(&path);
    assert!(found.iter().any(|finding| finding.place == "night"), "{found:?}");
    let error = repair(&path, &found).unwrap_err();
    assert!(error.to_string().contains("rows of night cannot be read"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn numbers_and_words_stay_when_space_is_given_back() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&played(&home));
    let before = archive.search_tasks("tower", 100).unwrap();
    let id = before[0].task.id.clone();
    let document = before[0].document_id.clone();
    let digest = archive.content_digest().unwrap();
    archive.vacuum().unwrap();
    assert_eq!(archive.search_tasks("tower", 100).unwrap(), before);
    assert_eq!(archive.content_digest().unwrap(), digest);
    assert_eq!(archive.findings().unwrap(), []);
    assert!(archive.task_detail(&id).is_ok());
    archive.remove_document(&document, true).unwrap();
    let [large, small] = archive.vacuum().unwrap();
    assert!(small < large, "{large} {small}");
}
