//! The file itself: other programs' files, damage, versions, readers, a full disk.

use std::io::Seek;
use std::io::Write;
use std::path::PathBuf;

use nightschool::archive::ArchiveError;
use nightschool::archive::ArchiveReader;
use nightschool::archive::TaskFilter;
use nightschool::config::AdapterSlot;
use nightschool::config::ObjectiveName;
use rusqlite::Connection;

use super::*;

const FIRST_MIGRATION: &str =
    include_str!("../../../src/archive/migrations/0001_corpus_and_game.sql");
const SECOND_MIGRATION: &str =
    include_str!("../../../src/archive/migrations/0002_play_and_measures.sql");

fn try_open(path: &Path) -> Result<Archive, ArchiveError> {
    Archive::open(path, clock(0))
}

/// The message with the directory taken out.
fn message(error: &ArchiveError, home: &Path) -> String {
    error.to_string().replace(&home.display().to_string(), "HOME")
}

/// A closed archive with a played unit.
fn played(home: &Path) -> PathBuf {
    let path = home.join("archive.db");
    let archive = open(&path);
    begin(&archive);
    (0..20).for_each(|number| play(&archive, number));
    path
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let home = tempfile::tempdir().unwrap();
    for (name, bytes) in [("text", &b"hello"[..]), ("long", &[7u8; 10_000][..])] {
        let path = home.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        for error in [try_open(&path).unwrap_err(), ArchiveReader::open(&path).unwrap_err()] {
            assert!(matches!(error, ArchiveError::NotADatabase { .. }), "{error}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
    let path = home.path().join("foreign.db");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = try_open(&path).unwrap_err();
    insta::assert_snapshot!(
        message(&error, home.path()),
        @"HOME/foreign.db is a database of another program (application id 0x0); \
          move it away, or point --home at another directory"
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn a_later_schema_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = played(home.path());
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = try_open(&path).unwrap_err();
    insta::assert_snapshot!(
        message(&error, home.path()),
        @"HOME/archive.db has schema version 99, this program knows versions up to 8; \
          install the nightschool that wrote it"
    );
    assert!(matches!(ArchiveReader::open(&path), Err(ArchiveError::Newer { found: 99, .. })));
}

#[test]
fn damage_is_found_on_opening() {
    let home = tempfile::tempdir().unwrap();
    let path = played(home.path());
    let length = std::fs::metadata(&path).unwrap().len();
    let mut file = std::fs::File::options().write(true).open(&path).unwrap();
    for page in 1..length / 4096 {
        file.seek(std::io::SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&[0xAA; 512]).unwrap();
    }
    drop(file);
    let error = try_open(&path).unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
    let reader = ArchiveReader::open(&path).and_then(|reader| reader.tasks(&TaskFilter::default()));
    assert!(matches!(reader, Err(ArchiveError::Damaged { .. })), "{reader:?}");

    // Cut short, as by a copy that did not end.
    let other = tempfile::tempdir().unwrap();
    let path = played(other.path());
    std::fs::File::options().write(true).open(&path).unwrap().set_len(4096 * 3 + 100).unwrap();
    let error = try_open(&path).unwrap_err();
    assert!(matches!(error, ArchiveError::Damaged { .. }), "{error}");
}

#[test]
fn values_that_this_program_did_not_write_are_damage() {
    let home = tempfile::tempdir().unwrap();
    let path = played(home.path());
    let connection = Connection::open(&path).unwrap();
    connection.execute("UPDATE rollout SET tokens = x'0102'", []).unwrap();
    connection.execute("UPDATE draft SET rejection = 'mood' WHERE rejection = 'leak'", []).unwrap();
    drop(connection);
    let archive = open(&path);
    assert!(matches!(archive.rollouts_in(1, 0), Err(ArchiveError::Damaged { .. })));
    assert!(matches!(archive.gate_counts(None), Err(ArchiveError::Damaged { .. })));
    assert!(matches!(archive.content_digest(), Err(ArchiveError::Damaged { .. })));
    assert!(matches!(archive.check(), Err(ArchiveError::Damaged { .. })));
}

#[test]
fn an_archive_of_an_earlier_version_is_copied_and_migrated() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(FIRST_MIGRATION).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    connection.execute("INSERT INTO meta VALUES ('seed', '42')", []).unwrap();
    drop(connection);
    let error = ArchiveReader::open(&path).unwrap_err();
    assert!(matches!(error, ArchiveError::Older { found: 1, .. }), "{error}");

    let archive = try_open(&path).unwrap();
    assert_eq!(archive.meta("seed").unwrap().as_deref(), Some("42"));
    begin(&archive);
    play(&archive, 0);
    let fresh = tempfile::tempdir().unwrap();
    let straight = open(&fresh.path().join("archive.db"));
    straight.put_meta("seed", "42").unwrap();
    begin(&straight);
    play(&straight, 0);
    assert_eq!(archive.content_digest().unwrap(), straight.content_digest().unwrap());

    let copy = Connection::open(home.path().join("archive.db.version-1.backup")).unwrap();
    let version: i32 = copy.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let seed: String = copy.query_row("SELECT value FROM meta", [], |row| row.get(0)).unwrap();
    assert_eq!((version, seed.as_str()), (1, "42"));
    drop(copy);
    let partial = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().to_string_lossy().starts_with(".partial")
    };
    assert!(!std::fs::read_dir(home.path()).unwrap().any(partial));
}

#[test]
fn steps_and_versions_of_schema_2_say_what_they_were() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch(FIRST_MIGRATION).unwrap();
    connection.execute_batch(SECOND_MIGRATION).unwrap();
    connection.pragma_update(None, "user_version", 2).unwrap();
    connection
        .execute_batch(
            r#"INSERT INTO night VALUES (1, 5, '{}', 'running', NULL, '2026-01-01T00:00:00Z', NULL);
               INSERT INTO train_step VALUES (1, 'warm_start', 0, 'base', '{"loss":2.5}'),
                   (1, 'policy', 0, 'night1-warm', '{"loss":0.5}');
               INSERT INTO model_version VALUES
                   ('base', NULL, 'base', 'm', '00', NULL, 'as fetched', '2026-01-01T00:00:00Z'),
                   ('night1-warm', 'base', 'adapter', 'adapters/night1-warm', '01', 1, 'warm',
                    '2026-01-01T00:00:01Z');
               INSERT INTO live_model VALUES (1, 'night1-warm');"#,
        )
        .unwrap();
    drop(connection);
    let archive = try_open(&path).unwrap();
    archive.check().unwrap();
    let steps = archive.train_steps(1).unwrap();
    let said: Vec<_> =
        steps.iter().map(|step| (step.phase.as_str(), step.adapter, step.objective)).collect();
    assert_eq!(
        said,
        [
            ("warm_start", AdapterSlot::Shared, ObjectiveName::Likelihood),
            ("policy", AdapterSlot::Shared, ObjectiveName::PolicyGradient),
        ]
    );
    assert_eq!(steps[1].metrics["loss"], 0.5);
    let forms: Vec<_> =
        archive.model_versions().unwrap().into_iter().map(|(v, _)| v.adapters).collect();
    assert_eq!(forms, [None, Some(Adapters::Shared)]);
    assert_eq!(archive.live_model().unwrap().unwrap().id, "night1-warm");
    assert!(archive.removed_versions().unwrap().is_empty());
}

#[test]
fn readers_need_an_archive_and_see_committed_work_during_a_write() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    assert!(matches!(ArchiveReader::open(&path), Err(ArchiveError::Missing { .. })));
    let archive = open(&path);
    begin(&archive);
    play(&archive, 0);
    // Another connection in the middle of a write stands for the process of the night.
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; INSERT INTO meta VALUES ('half', 'done')").unwrap();
    let reader = ArchiveReader::open(&path).unwrap();
    assert_eq!(reader.tasks(&TaskFilter::default()).unwrap().len(), 1);
    assert_eq!(reader.meta("half").unwrap(), None);
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(reader.meta("half").unwrap().as_deref(), Some("done"));
    let copy = home.path().join("copy.db");
    reader.copy_to(&copy).unwrap();
    let copied = ArchiveReader::open(&copy).unwrap();
    assert_eq!(copied.content_digest().unwrap(), archive.content_digest().unwrap());
    drop((archive, other, reader));
    // No writer is there, and none was left behind: reading still works.
    let reader = ArchiveReader::open(&path).unwrap();
    assert_eq!(reader.tasks(&TaskFilter::default()).unwrap().len(), 1);
}

#[test]
fn a_full_disk_leaves_no_half_unit_and_the_work_goes_on_later() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    let archive = open(&path);
    begin(&archive);
    play(&archive, 0);
    let before = archive.content_digest().unwrap();
    archive.limit_size(1).unwrap();
    let mut large = accepted(Origin::Model, "large");
    large.draft.transcript = Some("word ".repeat(100_000));
    let error = archive.record_drafts(&unit("propose", "large"), &[large.clone()]).unwrap_err();
    assert!(matches!(error, ArchiveError::DiskFull { .. }), "{error}");
    assert_eq!(archive.content_digest().unwrap(), before);
    assert!(!archive.unit_done(&unit("propose", "large")).unwrap());
    archive.limit_size(1 << 40).unwrap();
    assert!(archive.record_drafts(&unit("propose", "large"), &[large]).unwrap());
}
