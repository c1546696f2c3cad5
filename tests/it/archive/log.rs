//! The write-ahead log stays short, whoever reads.

use std::io::Write;
use std::sync::Mutex;

use nightschool::archive::ArchiveReader;
use nightschool::archive::TaskFilter;
use nightschool::archive::TaskOrder;
use rusqlite::Connection;

use super::*;

const MB: u64 = 1 << 20;

/// A unit of a megabyte.
fn write_large(archive: &Archive, number: u32) {
    let key = format!("large {number}");
    let id = content_id(&[&key]);
    let mut gated = accepted(Origin::Model, &id);
    gated.draft.transcript = Some("word ".repeat(200_000));
    archive.record_drafts(&unit("propose", &key), &[gated]).unwrap();
}

fn log_bytes(home: &Path) -> u64 {
    std::fs::metadata(home.join("archive.db-wal")).map_or(0, |metadata| metadata.len())
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_log_stays_short_under_our_readers_and_shrinks_after_foreign_ones() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    let archive = open(&path);
    begin(&archive);
    (0..20).for_each(|number| play(&archive, number));

    // One of ours that goes through everything, page by page, while 150 MB are written.
    let reader = ArchiveReader::open(&path).unwrap();
    let (mut after, mut most) = (None, 0);
    for number in 0..150 {
        let filter =
            TaskFilter { order: TaskOrder::Newest, limit: Some(1), after, ..TaskFilter::default() };
        after = reader.task_page(&filter).unwrap().next;
        write_large(&archive, number);
        most = most.max(log_bytes(home.path()));
    }
    assert!(most <= 96 * MB, "{} MB", most / MB);

    // Somebody else's that keeps its snapshot: no write waits for it, and a person is told once.
    let foreign = Connection::open(&path).unwrap();
    let tasks = || foreign.query_row("SELECT count(*) FROM task", [], |row| row.get::<_, i64>(0));
    foreign.execute_batch("BEGIN").unwrap();
    let before = tasks().unwrap();
    let kept = Kept::default();
    let writer = kept.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        (150..450).for_each(|number| write_large(&archive, number));
    });
    assert_eq!(tasks().unwrap(), before);
    assert!(log_bytes(home.path()) > 250 * MB);
    let said = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
    assert_eq!(said.matches("cannot be cut back").count(), 1, "{said}");

    foreign.execute_batch("COMMIT").unwrap();
    (450..470).for_each(|number| write_large(&archive, number));
    assert!(log_bytes(home.path()) <= 64 * MB, "{} MB", log_bytes(home.path()) / MB);
    assert_eq!(tasks().unwrap(), before + 320);
}
