//! The bundled corpus is what its manifest says, and its held-out suite is sound.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use sha2::Digest;
use sha2::Sha256;

#[derive(Deserialize)]
struct Manifest {
    schema_version: u32,
    file: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    path: String,
    role: String,
    license: String,
    source: String,
    bytes: u64,
    sha256: String,
}

#[derive(Deserialize)]
struct Question {
    id: String,
    question: String,
    answers: Vec<String>,
    title: String,
    passage: String,
}

#[derive(Deserialize)]
struct Paragraph {
    id: String,
    title: String,
    text: String,
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn lines<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    let text = std::fs::read_to_string(corpus().join(name)).expect("bundled file");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON line")).collect()
}

#[test]
fn manifest_lists_every_file_with_its_hash() {
    let text = std::fs::read_to_string(corpus().join("manifest.toml")).expect("manifest");
    let manifest: Manifest = toml::from_str(&text).expect("manifest is TOML");
    assert_eq!(manifest.schema_version, 1);
    let mut listed = BTreeSet::new();
    for entry in &manifest.file {
        let content = std::fs::read(corpus().join(&entry.path)).expect("listed file exists");
        assert_eq!(content.len() as u64, entry.bytes, "{}", entry.path);
        let sha256: String =
            Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sha256, entry.sha256, "{}: run scripts/make_corpus_manifest.py", entry.path);
        assert!(["documents", "questions", "notes"].contains(&entry.role.as_str()));
        assert!(!entry.license.is_empty() && !entry.source.is_empty());
        listed.insert(entry.path.clone());
    }
    let present: BTreeSet<String> = walkdir::WalkDir::new(corpus())
        .into_iter()
        .map(|entry| entry.expect("corpus can be listed"))
        .filter(|entry| entry.file_type().is_file() && entry.file_name() != "manifest.toml")
        .map(|entry| {
            let path = entry.path().strip_prefix(corpus()).expect("inside").to_path_buf();
            path.to_string_lossy().into_owned()
        })
        .collect();
    assert_eq!(listed, present);
}

#[test]
fn heldout_suite_spreads_over_articles_and_every_answer_stands_in_its_paragraph() {
    let questions: Vec<Question> = lines("heldout/questions.jsonl");
    let paragraphs: Vec<Paragraph> = lines("heldout/passages.jsonl");
    let by_id: BTreeMap<&str, &Paragraph> =
        paragraphs.iter().map(|paragraph| (paragraph.id.as_str(), paragraph)).collect();
    let ids: BTreeSet<&str> = questions.iter().map(|question| question.id.as_str()).collect();
    assert_eq!((questions.len(), ids.len()), (100, 100));
    let mut articles: BTreeMap<&str, u32> = BTreeMap::new();
    for question in &questions {
        let paragraph = by_id[question.passage.as_str()];
        assert_eq!(paragraph.title, question.title);
        assert!(!question.question.trim().is_empty());
        let stands = question.answers.iter().any(|answer| paragraph.text.contains(answer));
        assert!(stands, "{}: no answer in {}", question.id, paragraph.id);
        *articles.entry(&question.title).or_default() += 1;
    }
    assert_eq!(articles.len(), 17);
    assert!(articles.values().all(|count| (5..=6).contains(count)), "{articles:?}");
}
