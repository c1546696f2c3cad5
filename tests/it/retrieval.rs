//! Searching passages, the index on disk, and the retrieval benchmark.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use nightschool::corpus::read_paths;
use nightschool::corpus::split;
use nightschool::retrieval::LexicalIndex;
use nightschool::retrieval::Retriever;
use nightschool::retrieval::bench;
use nightschool::retrieval::bench::BenchError;
use nightschool::retrieval::bench::Judgements;
use nightschool::task::Passage;
use proptest::prelude::*;

fn passages_of(path: &Path) -> Vec<Passage> {
    let reading =
        read_paths(&[path.to_path_buf()], &HashMap::new(), &|_, _| {}).expect("the path exists");
    reading.documents.iter().flat_map(split).collect()
}

fn small_corpus() -> Vec<Passage> {
    passages_of(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/corpus_small.md")))
}

fn passage(id: &str, title: &str, text: &str) -> Passage {
    Passage {
        id: id.to_string(),
        document_id: format!("d{id}"),
        title: title.to_string(),
        text: text.to_string(),
        ordinal: 3,
    }
}

fn ids(index: &LexicalIndex, query: &str, k: usize) -> Vec<String> {
    let hits = index.search(query, k).expect("a search");
    hits.into_iter().map(|hit| hit.passage.id).collect()
}

#[test]
fn a_question_finds_its_article() {
    let index = LexicalIndex::in_memory(small_corpus()).expect("an index");
    for (question, title) in [
        ("Who wrote the screenplay of 2001 with Stanley Kubrick?", "2001: A Space Odyssey"),
        ("Where did \"The Marriage of Figaro\" premiere?", "The Marriage of Figaro"),
        ("What is the deepest oceanic trench?", "Mariana Trench"),
        ("Which city was destroyed by an earthquake in 1755?", "1755 Lisbon earthquake"),
        ("largest cities of cote d'ivoire", "Ivory Coast"),
    ] {
        let hits = index.search(question, 3).expect("a search");
        assert!(hits.iter().any(|hit| hit.passage.title == title), "{question}: {hits:?}");
    }
    let hits = index.search("moons of Jupiter", 5).expect("a search");
    assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score));
    assert_eq!(hits.iter().map(|hit| hit.rank).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let whole = small_corpus().into_iter().find(|p| p.id == hits[0].passage.id);
    assert_eq!(whole.as_ref(), Some(&hits[0].passage));
}

#[test]
fn words_match_by_stem_without_case_and_accents() {
    let passages = [
        passage("a", "Café", "Runners were running in Curaçao."),
        passage("b", "Newton’s laws", "Nothing of that kind."),
    ];
    let index = LexicalIndex::in_memory(passages).expect("an index");
    for query in ["CAFE", "run", "curacao", "café"] {
        assert_eq!(ids(&index, query, 5), ["a"], "{query}");
    }
    assert_eq!(ids(&index, "newton", 5), ["b"]);
}

#[test]
fn ties_are_settled_by_id_and_repeated_words_count() {
    let twins = ["c", "a", "d", "b"].map(|id| passage(id, "Twin", "The same words."));
    let index = LexicalIndex::in_memory(twins).expect("an index");
    assert_eq!(ids(&index, "same words", 10), ["a", "b", "c", "d"]);
    assert_eq!(ids(&index, "same words", 2), ["a", "b"]);

    let pair = [passage("x", "X", "red blue"), passage("y", "Y", "green blue")];
    let index = LexicalIndex::in_memory(pair).expect("an index");
    assert_eq!(ids(&index, "red green green", 2), ["y", "x"]);
    assert_eq!(ids(&index, "red red green", 2), ["x", "y"]);
}

#[test]
fn queries_of_nothing_find_nothing() {
    let index = LexicalIndex::in_memory(small_corpus()).expect("an index");
    for query in ["", "   ", "?!", "the of and", "zzyzx"] {
        assert!(ids(&index, query, 5).is_empty(), "{query}");
    }
    assert!(ids(&index, "Jupiter", 0).is_empty());
    let empty = LexicalIndex::in_memory([]).expect("an index");
    assert!(empty.is_empty());
    assert!(ids(&empty, "Jupiter", 5).is_empty());
    // Question words alone are looked for as they are.
    let band = [passage("w", "The Who", "A band of which all heard.")];
    assert_eq!(ids(&LexicalIndex::in_memory(band).expect("an index"), "Who?", 5), ["w"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_query_is_plain_words(query in "[ -~é“]{0,80}", k in 0usize..5) {
        thread_local! {
            static INDEX: LexicalIndex =
                LexicalIndex::in_memory(small_corpus()).expect("an index");
        }
        let found = INDEX.with(|index| (ids(index, &query, k), ids(index, &query, k)));
        prop_assert!(found.0.len() <= k);
        prop_assert_eq!(found.0, found.1);
    }
}

#[test]
fn an_index_on_disk_is_opened_when_it_is_whole_and_of_this_corpus() {
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().join("index");
    let corpus = small_corpus();
    // A build that was killed left this behind.
    fs::create_dir(home.path().join(".index-building-x1")).expect("a folder");
    let built = LexicalIndex::open_or_build(&dir, corpus.clone(), "v1").expect("built");
    assert_eq!(built.len(), corpus.len());
    let expected = ids(&built, "moon of Jupiter", 5);
    drop(built);

    // Opened: the passages given now are not looked at.
    let opened = LexicalIndex::open_or_build(&dir, [], "v1").expect("opened");
    assert_eq!(ids(&opened, "moon of Jupiter", 5), expected);
    assert_eq!(opened.len(), corpus.len());

    // Another version: built again, the old reader still works on what it has open.
    let one = LexicalIndex::open_or_build(&dir, [corpus[0].clone()], "v2").expect("rebuilt");
    assert_eq!(one.len(), 1);
    assert_eq!(ids(&opened, "moon of Jupiter", 5), expected);
    let left: Vec<_> = fs::read_dir(home.path()).expect("a folder").collect();
    assert_eq!(left.len(), 1, "nothing is left beside the index: {left:?}");
}

#[test]
fn a_damaged_index_is_built_again() {
    let home = tempfile::tempdir().expect("a folder");
    let dir = home.path().join("index");
    let corpus = small_corpus();
    let build = || LexicalIndex::open_or_build(&dir, corpus.clone(), "v1").expect("an index");
    let expected = ids(&build(), "moon of Jupiter", 5);
    let files: Vec<PathBuf> = fs::read_dir(&dir)
        .expect("the index")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file() && !path.ends_with(".managed.json"))
        .filter(|path| !path.to_string_lossy().ends_with(".lock"))
        .collect();
    assert!(files.len() > 3);
    for file in files {
        let name = file.file_name().expect("a name");
        let target = dir.join(name);
        if !target.exists() {
            // The index was built again meanwhile: its segment has another name.
            continue;
        }
        let mut bytes = fs::read(&target).expect("bytes");
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 0x55;
        }
        fs::write(&target, bytes).expect("damage");
        assert_eq!(ids(&build(), "moon of Jupiter", 5), expected, "{name:?}");
    }
    fs::remove_file(dir.join("meta.json")).expect("removed");
    assert_eq!(ids(&build(), "moon of Jupiter", 5), expected);
}

#[test]
fn a_place_that_cannot_hold_an_index_is_named() {
    let home = tempfile::tempdir().expect("a folder");
    let file = home.path().join("file");
    fs::write(&file, "in the way").expect("a file");
    let error = LexicalIndex::open_or_build(&file.join("index"), [], "v1").expect_err("no folder");
    assert!(error.to_string().contains("file"), "{error}");
}

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().expect("a folder") };
        let records = [
            ("d1", "Cats", "Cats purr and sleep all day."),
            ("d2", "Dogs", "Dogs bark at cats."),
            ("d3", "Fish", "Fish swim in the sea."),
        ];
        let lines: Vec<String> = records
            .iter()
            .map(|(id, title, text)| {
                serde_json::json!({"_id": id, "title": title, "text": text}).to_string()
            })
            .collect();
        bench.write("corpus.jsonl", &lines.join("\n"));
        bench.write("queries.tsv", "q1\tdo cats purr\nq2\tswimming fish\nq3\tnot judged\n");
        bench.write("qrels.tsv", "q1\t0\td1\t2\nq1\t0\td2\t1\nq2\t0\td3\t1\nq2\t0\td1\t0\n");
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    fn run(&self) -> Result<bench::Report, BenchError> {
        let judgements =
            Judgements::Tsv { queries: self.path("queries.tsv"), qrels: self.path("qrels.tsv") };
        bench::run(&self.path("corpus.jsonl"), &judgements)
    }
}

#[test]
fn the_benchmark_scores_a_run_by_the_formulas() {
    let bench = Bench::new();
    let report = bench.run().expect("a report");
    assert_eq!((report.queries, report.documents, report.passages), (2, 3, 3));
    assert_eq!((report.ndcg10, report.map, report.recall100), (1.0, 1.0, 1.0));
    assert!(report.queries_per_s > 0.0 && report.p50_ms <= report.p99_ms);

    // The first query finds d1, d2: with grades 0 for d1 and 1 for d2 and for d3, which does not
    // match, DCG is 1/log2(3) and the ideal 1 + 1/log2(3).
    bench.write("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\td2\t1\nq1\td3\t1\n");
    let report = bench.run().expect("a report");
    let second = 1.0 / 3f64.log2();
    assert!((report.ndcg10 - second / (1.0 + second)).abs() < 1e-12);
    assert!((report.map - 0.25).abs() < 1e-12);
    assert!((report.recall100 - 0.5).abs() < 1e-12);

    bench.write("questions.jsonl", "{\"question\": \"Do cats purr?\", \"supporting\": [\"d2\"]}");
    let judgements = Judgements::Questions(bench.path("questions.jsonl"));
    let report = bench::run(&bench.path("corpus.jsonl"), &judgements).expect("a report");
    assert!((report.ndcg10 - second).abs() < 1e-12);
}

#[test]
fn a_long_record_is_one_document() {
    let bench = Bench::new();
    let long = "Cats purr loudly at home today. ".repeat(60);
    let record = serde_json::json!({"id": "d1", "title": "Cats", "text": long});
    let other = serde_json::json!({"id": "d2", "title": "Dogs", "text": "Dogs like cats."});
    bench.write("corpus.jsonl", &format!("{record}\n{other}"));
    bench.write("qrels.tsv", "q1\t0\td1\t1\nq1\t0\td2\t1\n");
    let report = bench.run().expect("a report");
    assert!(report.passages > 3);
    assert_eq!((report.documents, report.ndcg10), (2, 1.0));
}

#[test]
fn errors_name_file_and_line() {
    let message = |name: &str, text: &str| {
        let bench = Bench::new();
        bench.write(name, text);
        bench.run().expect_err("a fault").to_string()
    };
    let broken = message("corpus.jsonl", "{\"id\": \"a\", \"text\": \"b\"}\n\n{\"id\": ");
    assert!(broken.contains("corpus.jsonl, line 3"), "{broken}");
    let missing = message("corpus.jsonl", "{\"id\": \"a\"}");
    assert!(missing.contains("line 1") && missing.contains("text"), "{missing}");
    let no_tab = message("queries.tsv", "q1\tfine\nq2 no tab");
    assert!(no_tab.contains("queries.tsv, line 2"), "{no_tab}");
    let columns = message("qrels.tsv", "q1\t0\td1\t1\nq1\td1");
    assert!(columns.contains("qrels.tsv, line 2"), "{columns}");
    let grade = message("qrels.tsv", "q1\t0\td1\t1\nq1\t0\td1\tgood");
    assert!(grade.contains("qrels.tsv, line 2"), "{grade}");
    let strangers = message("qrels.tsv", "other\t0\td1\t1\n");
    assert!(strangers.contains("queries.tsv"), "{strangers}");

    let bench = Bench::new();
    fs::remove_file(bench.path("qrels.tsv")).expect("removed");
    let error = bench.run().expect_err("no file");
    assert!(matches!(&error, BenchError::Read { path, .. } if path.ends_with("qrels.tsv")));
}

fn normalise(text: &str) -> String {
    let spaced: String =
        text.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect();
    let words = spaced.split_whitespace().filter(|word| !["a", "an", "the"].contains(word));
    format!(" {} ", words.collect::<Vec<_>>().join(" "))
}

/// Prints the figures: `NIGHTSCHOOL_DATA=FOLDER cargo test --release -- --ignored figures`.
#[test]
#[expect(clippy::print_stdout, reason = "the figures are for a person to read")]
#[ignore = "needs the folder of benchmark data named by NIGHTSCHOOL_DATA"]
fn retrieval_figures() {
    let data = PathBuf::from(std::env::var("NIGHTSCHOOL_DATA").expect("NIGHTSCHOOL_DATA is set"));
    let scifact = data.join("ir/scifact");
    let judgements =
        Judgements::Tsv { queries: scifact.join("queries.tsv"), qrels: scifact.join("qrels.tsv") };
    let report = bench::run(&scifact.join("corpus.jsonl"), &judgements).expect("a report");
    println!("scifact {}", serde_json::to_string(&report).expect("JSON"));
    assert!(report.ndcg10 >= 0.66);
    for (name, least) in [("hotpotqa", 0.75), ("2wiki", 0.0), ("musique", 0.0), ("squad", 0.8)] {
        let corpus = data.join(format!("corpora/dev_{name}.jsonl"));
        let questions = Judgements::Questions(data.join(format!("eval/dev_{name}.jsonl")));
        let report = bench::run(&corpus, &questions).expect("a report");
        println!("{name} {}", serde_json::to_string(&report).expect("JSON"));
        assert!(report.ndcg10 >= least);
    }

    let index = LexicalIndex::in_memory(passages_of(&data.join("corpora/dev_squad.jsonl")));
    let index = index.expect("an index");
    let questions = fs::read_to_string(data.join("eval/dev_squad.jsonl")).expect("questions");
    let mut found = [0usize; 5];
    for line in questions.lines() {
        let question: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let text = question["question"].as_str().expect("text");
        let answers: Vec<String> = question["answers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|answer| answer.as_str().map(normalise))
            .collect();
        let hits = index.search(text, found.len()).expect("a search");
        let holds = |text: &str| answers.iter().any(|answer| normalise(text).contains(answer));
        if let Some(first) = hits.iter().position(|hit| holds(&hit.passage.text)) {
            found[first..].iter_mut().for_each(|count| *count += 1);
        }
    }
    let n = questions.lines().count() as f64;
    println!("squad, answer among the first 1 to 5: {:.4?}", found.map(|count| count as f64 / n));
}
