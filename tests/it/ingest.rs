//! How the archive's corpus follows the files that were added to it.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use nightschool::archive::Archive;
use nightschool::clock::SystemClock;
use nightschool::phase::home::Home;
use nightschool::phase::ingest;
use nightschool::phase::ingest::IngestReport;
use nightschool::retrieval::Retriever;
use nightschool::task::Split;

struct Place {
    dir: tempfile::TempDir,
    archive: Archive,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let archive = Archive::open(&dir.path().join("archive.db"), Arc::new(SystemClock)).unwrap();
        Self { dir, archive }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn add(&self, names: &[&str]) -> IngestReport {
        let paths: Vec<PathBuf> = names.iter().map(|name| self.path(name)).collect();
        ingest::ingest(&self.archive, &paths, 0.3, 1).unwrap()
    }

    /// The present side of each passage, by its words.
    fn sides(&self) -> Vec<(String, Split)> {
        let documents = self.archive.documents().unwrap();
        let side = |id: &str| documents.iter().find(|d| d.id == id).unwrap().split;
        let passages = self.archive.passages().unwrap().into_iter();
        let mut sides: Vec<_> = passages.map(|p| (p.text, side(&p.document_id))).collect();
        sides.sort();
        sides
    }

    fn files(&self) -> Vec<String> {
        let files = self.archive.source_files().unwrap().into_iter();
        files.map(|file| format!("{} {:?}", file.path, file.state)).collect()
    }
}

/// Thirty documents of which about nine are held out.
fn many(place: &Place, folder: &str) {
    for n in 0..30 {
        let text = format!("# Tower {n}\n\nTower number {n} was built in {}.\n", 1700 + n);
        place.write(&format!("{folder}/{n:02}.md"), &text);
    }
}

#[test]
fn the_same_files_give_the_same_archive_wherever_they_lie() {
    let (one, two) = (Place::new(), Place::new());
    many(&one, "docs");
    many(&two, "elsewhere/docs");
    one.add(&["docs"]);
    two.add(&["elsewhere/docs"]);
    let (mut one, mut two) =
        (one.archive.table_digests().unwrap(), two.archive.table_digests().unwrap());
    // The list of what was added says where it lies.
    assert_ne!(one.remove("meta"), two.remove("meta"));
    assert_eq!(one, two);
}

#[test]
fn words_keep_their_side_when_files_are_renamed_or_added_more_closely() {
    let place = Place::new();
    many(&place, "docs");
    let report = place.add(&["docs"]);
    assert_eq!((report.documents_added, report.passages_active), (30, 30));
    let sides = place.sides();
    let heldout = sides.iter().filter(|(_, side)| *side == Split::Heldout).count();
    assert!((4..=15).contains(&heldout), "{heldout}");

    for n in 0..30 {
        let name = |prefix: &str| place.path(&format!("docs/{prefix}{n:02}.md"));
        std::fs::rename(name(""), name("tower-")).unwrap();
    }
    let report = ingest::sync(&place.archive, 0.3, 2).unwrap();
    assert_eq!((report.files_read, report.vanished, report.passages_added), (30, 30, 0));
    assert_eq!(place.sides(), sides);

    // A folder within one that was added before takes over its files.
    let inner = place.path("docs/inner");
    std::fs::create_dir(&inner).unwrap();
    for n in 0..15 {
        let name = format!("tower-{n:02}.md");
        std::fs::rename(place.path("docs").join(&name), inner.join(&name)).unwrap();
    }
    ingest::sync(&place.archive, 0.3, 3).unwrap();
    let report = place.add(&["docs/inner"]);
    assert_eq!((report.files_read, report.vanished, report.passages_active), (15, 0, 30));
    assert_eq!(place.sides(), sides);
    assert!(place.files().contains(&"inner/tower-03.md Read".to_string()));
    assert!(place.files().contains(&"docs/inner/tower-03.md Vanished".to_string()));
    let again = ingest::sync(&place.archive, 0.3, 1).unwrap();
    assert_eq!((again.files_read, again.unchanged, again.vanished), (0, 30, 0));
}

#[test]
fn folders_of_the_same_name_are_told_apart_and_a_moved_one_is_known_again() {
    let place = Place::new();
    place.write("a/docs/notes.txt", "The first tower was built in 1889.");
    place.write("b/docs/notes.txt", "The second tower was built in 1958.");
    let report = place.add(&["a/docs", "b/docs"]);
    assert_eq!((report.documents_added, report.passages_active), (2, 2));
    assert_eq!(place.files(), ["docs-2/notes.txt Read", "docs/notes.txt Read"]);
    assert_eq!(place.add(&["a/docs"]).unchanged, 2);

    std::fs::create_dir(place.path("c")).unwrap();
    std::fs::rename(place.path("a/docs"), place.path("c/docs")).unwrap();
    let report = place.add(&["c/docs"]);
    assert_eq!((report.unchanged, report.vanished, report.documents_added), (2, 0, 0));
}

#[test]
fn of_a_few_documents_one_is_held_out_and_of_one_none() {
    let place = Place::new();
    place.write("one.txt", "The first tower was built in 1889.");
    let add = |names: &[&str]| {
        let paths: Vec<PathBuf> = names.iter().map(|name| place.path(name)).collect();
        ingest::ingest(&place.archive, &paths, 1e-9, 1).unwrap();
        place.sides().iter().filter(|(_, side)| *side == Split::Heldout).count()
    };
    assert_eq!(add(&["one.txt"]), 0);
    place.write("two.txt", "The second tower was built in 1958.");
    place.write("three.txt", "The third tower was built in 2011.");
    assert_eq!(add(&["two.txt", "three.txt"]), 1);
    place.write("four.txt", "The fourth tower was built in 2012.");
    place.write("five.txt", "The fifth tower was built in 2013.");
    assert_eq!(add(&["four.txt", "five.txt"]), 1);
}

#[test]
fn files_that_become_unreadable_or_turn_into_something_else() {
    let place = Place::new();
    place.write("docs/a.txt", "The first tower was built in 1889.");
    place.write("docs/b.txt", "The second tower was built in 1958.");
    place.add(&["docs"]);
    std::fs::write(place.path("docs/a.txt"), b"\0\0").unwrap();
    let report = ingest::sync(&place.archive, 0.0, 1).unwrap();
    assert_eq!((report.documents_retired, report.skipped.len()), (1, 1));
    assert_eq!(place.files(), ["docs/a.txt Skipped", "docs/b.txt Read"]);
    std::fs::remove_file(place.path("docs/a.txt")).unwrap();
    let report = ingest::sync(&place.archive, 0.0, 1).unwrap();
    assert_eq!((report.vanished, report.skipped.len()), (0, 0));
    assert_eq!(place.files(), ["docs/a.txt Vanished", "docs/b.txt Read"]);
    let missing = ingest::ingest(&place.archive, &[Path::new("/nosuch").into()], 0.0, 1);
    assert!(missing.unwrap_err().to_string().contains("cannot add /nosuch"));
}

#[test]
fn the_index_follows_the_corpus() {
    let place = Place::new();
    let home = Home::at(place.dir.path());
    let first = |query: &str| {
        let index = ingest::open_index(&home, &place.archive).unwrap();
        index.search(query, 1).unwrap().first().map(|hit| hit.passage.text.clone())
    };
    assert_eq!(first("tower"), None);
    place.write("docs/a.txt", "The first tower was built in 1889.");
    place.add(&["docs"]);
    assert!(first("tower").unwrap().contains("1889"));
    place.write("docs/a.txt", "The first tower was built in 1890.");
    place.add(&[]);
    assert!(first("tower").unwrap().contains("1890"));
}
