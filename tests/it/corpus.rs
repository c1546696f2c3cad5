//! Reading files, cutting passages, mining candidates and drawing seeds.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use nightschool::corpus::Document;
use nightschool::corpus::Draws;
use nightschool::corpus::HOPS_MAX;
use nightschool::corpus::KnowledgeGraph;
use nightschool::corpus::ReadError;
use nightschool::corpus::Reading;
use nightschool::corpus::SkipReason;
use nightschool::corpus::drop_duplicates;
use nightschool::corpus::passages::SENTENCE_LIMIT_WORDS;
use nightschool::corpus::passages::TARGET_WORDS;
use nightschool::corpus::read_paths;
use nightschool::corpus::sentences;
use nightschool::corpus::split;
use nightschool::rng::stream;
use nightschool::task::AnswerKind;
use nightschool::task::Passage;
use nightschool::task::Seed;
use proptest::prelude::*;

const SMALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/corpus_small.md");

fn read(paths: &[&Path], known: &HashMap<String, String>) -> Reading {
    let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
    read_paths(&paths, known, &|_, _| {}).expect("the paths exist")
}

fn read_new(path: &Path) -> Reading {
    read(&[path], &HashMap::new())
}

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(&path, bytes).expect("a file");
    path
}

fn document(title: &str, text: &str) -> Document {
    Document {
        id: title.to_string(),
        source: String::new(),
        record_id: None,
        title: title.to_string(),
        text: text.to_string(),
    }
}

fn small_corpus() -> Vec<Passage> {
    read_new(Path::new(SMALL)).documents.iter().flat_map(split).collect()
}

fn titles(reading: &Reading) -> Vec<&str> {
    reading.documents.iter().map(|document| document.title.as_str()).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_string).collect()
}

#[test]
fn a_markdown_section_of_level_one_or_two_with_text_is_a_document() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = "Before it all.\n\n# Part\n\n## Rivers\n\nThe *Nile* is [long](http://a.b).\n\
        ### Delta\n\n- It is wide.\n- It is flat.\n\n```sh\nrm -rf\n```\n\n## Empty\n\n## Lakes\n\
        Deep <b>water</b>.\n\n| Lake | Depth |\n|---|---|\n| Baikal | 1642 m |\n";
    write(dir.path(), "geo.md", text);
    write(dir.path(), "plain.md", "No heading here.\n");
    let reading = read_new(dir.path());
    let found: Vec<(&str, &str)> = reading
        .documents
        .iter()
        .map(|document| (document.title.as_str(), document.text.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("geo", "Before it all."),
            ("Rivers", "The Nile is long.\nDelta\nIt is wide.\nIt is flat."),
            ("Lakes", "Deep water.\nLake Depth\nBaikal 1642 m"),
            ("plain", "No heading here."),
        ]
    );
}

#[test]
fn the_corpus_fixture_reads_as_articles() {
    let reading = read_new(Path::new(SMALL));
    assert_eq!(reading.documents.len(), 16);
    assert!(titles(&reading).contains(&"2001: A Space Odyssey"));
    assert!(!titles(&reading).contains(&"Geography"));
    assert!(reading.skipped.is_empty());
}

#[test]
fn restructured_text_loses_its_markup() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = "PEP: 1\nTitle: On Docstrings\nAuthor: A <a@b.c>,\n        B\n\n\nAbstract\n\
        ========\n\nUse ``strings`` and *care*, see :pep:`256` or `the\nguide <http://a.b>`_ \
        [1]_.\n\n.. code-block:: python\n\n   x = 1\n\n.. note:: Mind this.\n   And this.\n\n\
        An example::\n\n    y = 2\n\nAfter it.\n\n.. _target: http://x.y\n\n=====  =====\n\
        A      B\n=====  =====\n1      2\n=====  =====\n\nThe end_.\n";
    write(dir.path(), "pep.rst", text);
    write(dir.path(), "two.rst", "=====\nBread\n=====\n\nBake it.\n\nSecond\n------\n\nEat it.\n");
    let reading = read_new(dir.path());
    assert_eq!(titles(&reading), ["On Docstrings", "Bread"]);
    assert_eq!(
        reading.documents[0].text,
        "Abstract\nUse strings and care, see 256 or the guide .\nMind this. And this.\n\
         An example:\nAfter it.\nThe end."
    );
    assert_eq!(reading.documents[1].text, "Bake it.\nSecond\nEat it.");
}

#[test]
fn html_is_titled_by_title_or_first_heading() {
    let dir = tempfile::tempdir().expect("a folder");
    write(
        dir.path(),
        "a.html",
        "<html><head><title>Caf&eacute; &amp; Bar</title><style>p{}</style></head><body>\
         <nav>Home</nav><h1>Head</h1><p>One <b>bold</b> word.</p><ul><li>Item</li></ul>\
         <script>x()</script><footer>Foot</footer></body></html>",
    );
    write(dir.path(), "b.htm", "<h1>Only a heading</h1><p>Text &lt;here&gt;.");
    let reading = read_new(dir.path());
    assert_eq!(titles(&reading), ["Café & Bar", "Only a heading"]);
    let text = &reading.documents[0].text;
    assert!(text.contains("One bold word."), "{text}");
    for gone in ["Home", "Foot", "x()", "p{}"] {
        assert!(!text.contains(gone), "{gone} in {text}");
    }
    assert!(reading.documents[1].text.contains("Text <here>."));
}

#[test]
fn good_records_are_kept_beside_bad_ones() {
    let dir = tempfile::tempdir().expect("a folder");
    let lines = [
        r#"{"id": "a7", "title": "One", "text": "First.", "more": 1}"#,
        r#"{"title": "Two", "text": "#,
        r#"{"title": "Three"}"#,
        "",
        r#"{"title": "Four", "text": ["x"]}"#,
        r#"{"title": "Five", "text": " "}"#,
        r#"{"_id": 6, "title": "Six", "text": "Sixth."}"#,
    ];
    let path = write(dir.path(), "records.jsonl", lines.join("\n"));
    let reading = read_new(&path);
    assert_eq!(titles(&reading), ["One", "Six"]);
    let ids: Vec<_> = reading.documents.iter().map(|d| d.record_id.as_deref()).collect();
    assert_eq!(ids, [Some("a7"), Some("6")]);
    let faults: Vec<_> = reading.skipped.iter().map(|s| (s.line, s.reason)).collect();
    assert_eq!(
        faults,
        [
            (Some(2), SkipReason::BrokenJson),
            (Some(3), SkipReason::MissingField),
            (Some(5), SkipReason::MissingField),
            (Some(6), SkipReason::NoText),
        ]
    );
    assert!(reading.skipped[1].detail.contains("\"text\""));
}

#[test]
fn what_cannot_be_read_is_listed_and_the_rest_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str, bytes: &[u8]| {
        write(dir.path(), name, bytes);
    };
    at("report.pdf", b"%PDF-1.7");
    at("letter.DOCX", b"PK");
    at("photo.png", b"\x89PNG");
    at("LICENSE.txt", b"Do as you like.");
    at("ATTRIBUTION.md", b"By many.");
    at("README.md", b"# Read me\n\nText.");
    at("blob.txt", b"ab\0cd");
    at("latin.txt", b"one\ntwo caf\xe9\n");
    at("wide.txt", b"\xff\xfea\0");
    at("empty.md", b"# Only a heading\n");
    at(".hidden.txt", b"Hidden.");
    at(".git/config.txt", b"Hidden.");
    at("sub/good.txt", b"\xef\xbb\xbfGood.");
    let reading = read_new(dir.path());
    assert_eq!(titles(&reading), ["Read me", "good"]);
    assert_eq!(reading.documents[1].text, "Good.");
    let mut reasons: Vec<(String, Option<u64>, SkipReason)> = Vec::new();
    for skipped in &reading.skipped {
        let name = Path::new(&skipped.path).file_name().expect("a name").to_string_lossy();
        reasons.push((name.into_owned(), skipped.line, skipped.reason));
        assert!(!skipped.detail.is_empty());
    }
    let expected = [
        ("ATTRIBUTION.md", None, SkipReason::NotContent),
        ("LICENSE.txt", None, SkipReason::NotContent),
        ("blob.txt", None, SkipReason::Binary),
        ("empty.md", None, SkipReason::NoText),
        ("latin.txt", Some(2), SkipReason::BadUtf8),
        ("letter.DOCX", None, SkipReason::NotReadYet),
        ("photo.png", None, SkipReason::UnknownKind),
        ("report.pdf", None, SkipReason::NotReadYet),
        ("wide.txt", None, SkipReason::BadUtf8),
    ];
    let expected = expected.map(|(name, line, reason)| (name.to_string(), line, reason));
    assert_eq!(reasons, expected);
    // Named by the user, a licence is read.
    assert_eq!(titles(&read_new(&dir.path().join("LICENSE.txt"))), ["LICENSE"]);
}

#[cfg(unix)]
#[test]
fn a_dangling_link_and_a_loop_are_listed() {
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path(), "a.txt", "Words.");
    std::os::unix::fs::symlink(dir.path().join("gone"), dir.path().join("dangling.txt"))
        .expect("a link");
    std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).expect("a link");
    let reading = read_new(dir.path());
    assert_eq!(reading.documents.len(), 1);
    let reasons: Vec<_> = reading.skipped.iter().map(|skipped| skipped.reason).collect();
    assert_eq!(reasons, [SkipReason::Unreadable; 2]);
}

#[test]
fn a_file_too_large_to_hold_is_listed() {
    let dir = tempfile::tempdir().expect("a folder");
    // Sparse: it takes no space.
    let file = fs::File::create(dir.path().join("huge.txt")).expect("a file");
    file.set_len((1 << 30) + 1).expect("a size");
    assert_eq!(read_new(dir.path()).skipped[0].reason, SkipReason::TooLarge);
}

#[test]
fn reasons_have_distinct_names_that_json_uses() {
    let names: HashSet<_> = SkipReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), SkipReason::ALL.len());
    for reason in SkipReason::ALL {
        let json = serde_json::to_string(&reason).expect("serialisable");
        assert_eq!(json, format!("\"{}\"", reason.as_str()));
    }
}

#[test]
fn a_missing_path_is_an_error_to_branch_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let gone = dir.path().join("gone");
    let error = read_paths(&[gone], &HashMap::new(), &|_, _| {}).expect_err("it is not there");
    assert!(matches!(error, ReadError::NotFound { .. }));
    assert!(error.to_string().contains("gone"));
}

#[test]
fn only_what_changed_is_read_again() {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["a.txt", "b.txt", "c.txt"] {
        write(dir.path(), name, format!("The text of {name}."));
    }
    let first = read_new(dir.path());
    let known: HashMap<String, String> =
        first.files.iter().map(|file| (file.path.clone(), file.hash.clone())).collect();
    assert_eq!(known.len(), 3);

    write(dir.path(), "b.txt", "Another text.");
    write(dir.path(), "d.txt", "A new text.");
    fs::remove_file(dir.path().join("c.txt")).expect("removed");
    let second = read(&[dir.path()], &known);
    assert_eq!(titles(&second), ["b", "d"]);
    assert_eq!(second.unchanged.len(), 1);
    assert!(second.unchanged[0].ends_with("a.txt"));
    assert_eq!(second.vanished.len(), 1);
    assert!(second.vanished[0].ends_with("c.txt"));
    // The document keeps its id when its text changes.
    assert_eq!(first.documents[1].id, second.documents[0].id);

    // Files elsewhere than the paths asked for have not vanished.
    assert!(read(&[&dir.path().join("a.txt")], &known).vanished.is_empty());
}

#[test]
fn the_reading_does_not_depend_on_path_order_or_place() {
    let read_in = |names: [&str; 3]| {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["x/a.txt", "x/b.md", "y.txt"] {
            write(dir.path(), name, "Some words here.");
        }
        let paths: Vec<PathBuf> = names.iter().map(|name| dir.path().join(name)).collect();
        let reading = read_paths(&paths, &HashMap::new(), &|_, _| {}).expect("they exist");
        reading.documents.into_iter().map(|document| document.id).collect::<Vec<_>>()
    };
    let first = read_in(["x", "y.txt", "x/a.txt"]);
    let second = read_in(["y.txt", "x", "x"]);
    assert_eq!(first.len(), 3);
    assert_eq!(first, second);
}

#[test]
fn sentences_end_where_a_reader_would_say() {
    let text = "Dr. J. R. R. Tolkien met Mr. Lewis in St. Louis. The U.S. Army came c. 1940. \
        He lived in the U.S. The war ended in World War II. It cost 3.5 million (approx. 4 ft. \
        wide). No. 5 was sold, e.g. \"Chanel.\" Was it? Yes! Acme Inc. Holdings \
        failed.\nA new line";
    assert_eq!(
        sentences(text),
        [
            "Dr. J. R. R. Tolkien met Mr. Lewis in St. Louis.",
            "The U.S. Army came c. 1940.",
            "He lived in the U.S.",
            "The war ended in World War II.",
            "It cost 3.5 million (approx. 4 ft. wide).",
            "No. 5 was sold, e.g. \"Chanel.\"",
            "Was it?",
            "Yes!",
            "Acme Inc. Holdings failed.",
            "A new line",
        ]
    );
    assert!(sentences(" \n ").is_empty());
    assert_eq!(
        sentences("Use node.js or a?b:c. 一句。二句。"),
        ["Use node.js or a?b:c.", "一句。", "二句。"]
    );
}

/// A text of sentences with these many words each.
fn text_of(lengths: &[usize]) -> String {
    let sentence = |(index, length): (usize, &usize)| {
        let words: Vec<String> = (0..*length).map(|word| format!("w{index}x{word}")).collect();
        format!("A{}.", words.join(" "))
    };
    lengths.iter().enumerate().map(sentence).collect::<Vec<_>>().join(" ")
}

fn sizes(text: &str) -> Vec<usize> {
    split(&document("T", text)).iter().map(|passage| words(&passage.text).len()).collect()
}

#[test]
fn passages_are_balanced() {
    assert_eq!(sizes(&text_of(&[10; 13])), [130]);
    assert_eq!(sizes(&text_of(&[10; 20])), [100, 100]);
    assert_eq!(sizes(&text_of(&[20, 20, 20, 20, 20, 5])), [105]);
    assert_eq!(sizes(&text_of(&[10; 30])), [100, 100, 100]);
    // A sentence longer than the limit is the only one that is cut.
    assert_eq!(sizes(&text_of(&[200])), [200]);
    assert_eq!(sizes(&text_of(&[450])), [90; 5]);
    assert!(sizes("").is_empty());
    // A script without spaces is cut as well: 200 sentences of ten characters.
    let passages = split(&document("T", &"一二三四五六七八九。".repeat(200)));
    assert!(passages.len() > 5, "{}", passages.len());
}

#[test]
fn passage_ids_come_from_content_and_duplicates_are_dropped() {
    let one = split(&document("T", "The  same\u{a0}words, cafe\u{301}."));
    let mut other = document("T", "The same words, café.");
    other.id = "elsewhere".to_string();
    let two = split(&other);
    assert_eq!(one[0].text, "The same words, café.");
    assert_eq!(one[0].id, two[0].id);
    assert_eq!(one[0].id.len(), 16);
    assert_ne!(split(&document("U", "The same words, café."))[0].id, one[0].id);

    let mut passages: Vec<Passage> = one.iter().chain(&two).cloned().collect();
    assert_eq!(drop_duplicates(&mut passages, &HashSet::new()), 1);
    assert_eq!(passages, one);
    let known = HashSet::from([one[0].id.clone()]);
    assert_eq!(drop_duplicates(&mut passages, &known), 1);
    assert!(passages.is_empty());
}

proptest! {
    #[test]
    fn splitting_loses_no_word_and_keeps_the_order(text in "(?s)[ -~éß’“”\n]{0,3000}") {
        let document = document("T", &text);
        let passages = split(&document);
        let kept: Vec<String> = passages.iter().flat_map(|passage| words(&passage.text)).collect();
        prop_assert_eq!(kept, words(&text));
        for (ordinal, passage) in passages.iter().enumerate() {
            prop_assert_eq!(passage.ordinal as usize, ordinal);
            prop_assert!(!passage.text.is_empty());
        }
    }

    #[test]
    fn passages_have_sizes_within_bounds(lengths in prop::collection::vec(1usize..260, 0..40)) {
        let found = sizes(&text_of(&lengths));
        prop_assert_eq!(found.iter().sum::<usize>(), lengths.iter().sum::<usize>());
        for size in &found {
            prop_assert!(*size <= SENTENCE_LIMIT_WORDS + TARGET_WORDS / 2, "{size}");
        }
        // Two neighbours that would be better together are together.
        for pair in found.windows(2) {
            prop_assert!(2 * pair[0] * pair[1] >= TARGET_WORDS * TARGET_WORDS, "{pair:?}");
        }
    }

    #[test]
    fn sentences_cover_their_text(text in "[A-Za-z .!?()\"é\n]{0,400}") {
        let joined = sentences(&text).join(" ");
        prop_assert_eq!(words(&joined), words(&text));
    }

    #[test]
    fn mining_any_text_gives_ranges_that_hold(text in "[A-Z][A-Za-z0-9 .,–'’\"()%$é]{0,300}") {
        let passages = split(&document("Some Title", &text));
        let graph = KnowledgeGraph::build(&passages);
        for passage in &passages {
            let mut end = 0;
            for candidate in graph.candidates(&passage.id) {
                prop_assert!(candidate.start >= end);
                end = candidate.end;
                prop_assert_eq!(&passage.text[candidate.start..candidate.end], &candidate.text);
                let sentence = sentences(&passage.text)[candidate.sentence as usize];
                prop_assert!(sentence.contains(&candidate.text));
            }
        }
    }
}

#[test]
fn candidates_are_names_dates_numbers_and_titles() {
    let passages = small_corpus();
    let graph = KnowledgeGraph::build(&passages);
    let of = |title: &str| {
        let passage = passages.iter().find(|passage| passage.title == title).expect("an article");
        let found = graph.candidates(&passage.id);
        found.iter().map(|found| (found.kind, found.text.clone())).collect::<Vec<_>>()
    };
    let has = |title: &str, kind: AnswerKind, text: &str| {
        let found = of(title);
        assert!(found.contains(&(kind, text.to_string())), "{text} of {title}: {found:?}");
    };
    has("2001: A Space Odyssey", AnswerKind::Title, "2001: A Space Odyssey");
    has("2001: A Space Odyssey", AnswerKind::Date, "1968");
    has("2001: A Space Odyssey", AnswerKind::Name, "Stanley Kubrick");
    has("2001: A Space Odyssey", AnswerKind::Name, "Encounter in the Dawn");
    has("The Marriage of Figaro", AnswerKind::Date, "1 May 1786");
    has("Mariana Trench", AnswerKind::Number, "200 kilometers");
    has("Callisto (moon)", AnswerKind::Title, "Ganymede");
    has("Honduras", AnswerKind::Name, "Gulf of Fonseca");
    has("Abidjan", AnswerKind::Title, "Ivory Coast");
    for (_, text) in of("Abidjan") {
        assert!(!["As", "The", "It", "A"].contains(&text.as_str()), "{text}");
    }
}

#[test]
fn seeds_are_the_same_for_the_same_stream_and_any_passage_order() {
    let passages = small_corpus();
    let backwards: Vec<Passage> = passages.iter().rev().cloned().collect();
    for hops in 1..=3 {
        let draw = |passages: &[Passage], name: &str| {
            KnowledgeGraph::build(passages).seeds(&mut stream(1, &[name]), 20, hops)
        };
        assert_eq!(draw(&passages, "a"), draw(&backwards, "a"));
        assert_ne!(draw(&passages, "a"), draw(&passages, "b"));
    }
}

#[test]
fn seeds_are_spread_over_kinds_and_documents() {
    let graph = KnowledgeGraph::build(&small_corpus());
    let seeds = graph.seeds(&mut stream(3, &["spread"]), 40, 1);
    assert_eq!(seeds.len(), 40);
    let mut kinds: HashMap<AnswerKind, usize> = HashMap::new();
    let mut documents: HashMap<&str, usize> = HashMap::new();
    for seed in &seeds {
        let passage = graph.passage(&seed.path[0]).expect("its passage");
        assert!(passage.text.contains(&seed.answer));
        *kinds.entry(seed.kind).or_default() += 1;
        *documents.entry(passage.document_id.as_str()).or_default() += 1;
    }
    assert_eq!(kinds.values().copied().collect::<Vec<_>>(), [10; 4]);
    // Sixteen articles, forty seeds: none is passed over, none is drawn on and on.
    assert_eq!(documents.len(), 16);
    assert!(documents.values().all(|count| *count <= 5), "{documents:?}");
}

#[test]
fn later_draws_go_on_where_earlier_ones_ended() {
    let graph = KnowledgeGraph::build(&small_corpus());
    let first = graph.seeds(&mut stream(3, &["night 1"]), 30, 1);
    let mut draws = graph.draws(&first);
    let second = graph.seeds_after(&mut stream(3, &["night 2"]), 30, 1, &mut draws);
    assert_eq!(second.len(), 30);
    assert!(second.iter().all(|seed| !first.contains(seed)));
    // In the end there is nothing left.
    graph.seeds_after(&mut stream(3, &["rest"]), 100_000, 1, &mut draws);
    assert!(graph.seeds_after(&mut stream(3, &["none"]), 1, 1, &mut draws).is_empty());
}

#[test]
fn a_path_is_linked_and_only_its_end_states_the_answer() {
    let graph = KnowledgeGraph::build(&small_corpus());
    for hops in 2..=HOPS_MAX {
        let seeds = graph.seeds(&mut stream(5, &["paths"]), 30, hops);
        assert!(!seeds.is_empty(), "no path of {hops}");
        for seed in &seeds {
            assert_eq!(seed.hops(), hops);
            let passages: Vec<&Passage> =
                seed.path.iter().map(|id| graph.passage(id).expect("a passage")).collect();
            let (last, earlier) = passages.split_last().expect("not empty");
            assert!(last.text.contains(&seed.answer));
            for passage in earlier {
                assert!(!passage.text.split(' ').any(|word| word == seed.answer), "{seed:?}");
            }
            for pair in seed.path.windows(2) {
                let links = graph.links(&pair[0], &pair[1]);
                assert!(links.iter().any(|link| *link != seed.answer.to_lowercase()), "{seed:?}");
            }
            let documents: HashSet<_> = passages.iter().map(|p| &p.document_id).collect();
            assert_eq!(documents.len(), hops);
        }
    }
    assert!(graph.seeds(&mut stream(5, &["paths"]), 5, 0).is_empty());
    assert!(graph.seeds(&mut stream(5, &["paths"]), 5, HOPS_MAX + 1).is_empty());
}

#[test]
fn paths_of_several_lengths_are_drawn_together() {
    let graph = KnowledgeGraph::build(&small_corpus());
    let draw = |counts: &[usize]| {
        let mut draws = Draws::default();
        graph.seeds_of_lengths(&mut stream(5, &["lengths"]), counts, &mut draws)
    };
    let seeds = draw(&[12, 6, 4, 2]);
    assert_eq!(seeds, draw(&[12, 6, 4, 2]));
    let of = |hops| seeds.iter().filter(|seed| seed.hops() == hops).count();
    assert_eq!([of(1), of(2), of(3), of(4)], [12, 6, 4, 2]);
    // They are spread together over kinds and answers, not each length for itself.
    let mut kinds: HashMap<AnswerKind, usize> = HashMap::new();
    seeds.iter().for_each(|seed| *kinds.entry(seed.kind).or_default() += 1);
    assert_eq!(kinds.values().copied().collect::<Vec<_>>(), [6; 4]);
    let answers: HashSet<_> = seeds.iter().map(|seed| (&seed.answer, seed.path.last())).collect();
    assert_eq!(answers.len(), seeds.len());

    // One length alone is drawn as ever, and what there are no paths for becomes shorter.
    let alone = graph.seeds(&mut stream(5, &["lengths"]), 20, 1);
    assert_eq!(draw(&[20]), alone);
    let lonely = KnowledgeGraph::build(&small_corpus()[..1]);
    let mut draws = Draws::default();
    let seeds = lonely.seeds_of_lengths(&mut stream(5, &["lonely"]), &[1, 0, 2], &mut draws);
    assert_eq!(seeds.iter().map(Seed::hops).collect::<Vec<_>>(), [1; 3]);
}

#[test]
fn an_empty_corpus_gives_an_empty_graph() {
    let graph = KnowledgeGraph::build(&[]);
    assert_eq!((graph.passage_count(), graph.candidate_count()), (0, 0));
    assert!(graph.seeds(&mut stream(1, &[]), 3, 1).is_empty());
}

/// Prints what a folder gives: `NIGHTSCHOOL_DATA=FOLDER cargo test --release -- --ignored folder`.
#[test]
#[expect(clippy::print_stdout, reason = "the figures are for a person to read")]
#[ignore = "needs a folder named by NIGHTSCHOOL_DATA"]
fn a_folder_of_ones_own() {
    let folder = std::env::var("NIGHTSCHOOL_DATA").expect("NIGHTSCHOOL_DATA is set");
    let start = std::time::Instant::now();
    let reading = read_new(Path::new(&folder));
    let passages: Vec<Passage> = reading.documents.iter().flat_map(split).collect();
    let split_s = start.elapsed().as_secs_f64();
    let graph = KnowledgeGraph::build(&passages);
    let graph_s = start.elapsed().as_secs_f64() - split_s;
    println!(
        "{} files, {} documents, {} passages in {split_s:.1} s; {} candidates in {graph_s:.1} s",
        reading.files.len(),
        reading.documents.len(),
        passages.len(),
        graph.candidate_count(),
    );
    for hops in 1..=HOPS_MAX {
        let start = std::time::Instant::now();
        let seeds = graph.seeds(&mut stream(1, &["figures"]), 1000, hops);
        println!("{} seeds of {hops} in {:.2} s", seeds.len(), start.elapsed().as_secs_f64());
        for seed in seeds.iter().take(5) {
            let title = |id: &String| graph.passage(id).map_or("", |p| p.title.as_str());
            let path: Vec<&str> = seed.path.iter().map(title).collect();
            println!("  {:?} {:?} {path:?}", seed.kind, seed.answer);
        }
    }
}
