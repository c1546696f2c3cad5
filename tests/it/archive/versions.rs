//! Archives of every earlier version, as their programs wrote them (scripts/make_archive_fixtures.py).

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use flate2::read::ZlibDecoder;
use nightschool::archive::ArchiveReader;
use nightschool::archive::TaskFilter;
use nightschool::verifier::minhash::Shingles;
use rusqlite::Connection;
use serde_json::Value;

use super::*;

/// The versions before the present one.
const VERSIONS: [u32; 7] = [1, 2, 3, 4, 5, 6, 7];

/// A copy of the archive that a program of that version wrote.
fn fixture(home: &Path, version: u32) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/archive");
    let path = home.join("archive.db");
    std::fs::copy(fixtures.join(format!("version-{version}.db")), &path).unwrap();
    path
}

fn words(blob: &[u8]) -> Vec<[u8; 4]> {
    let mut bytes = Vec::new();
    ZlibDecoder::new(blob).read_to_end(&mut bytes).unwrap();
    bytes.chunks(4).map(|word| word.try_into().unwrap()).collect()
}

/// Tokens and the bits of log-probabilities by task, night, round and place in the group.
type Sampled = BTreeMap<(String, u32, u32, u32), (Vec<u32>, Vec<u32>)>;

/// Where they stand in a file of version 2 or 3, and of later ones.
const STEPS: &str = "SELECT r.task_id, r.night, r.round, r.ordinal, s.tokens, s.logprobs
    FROM rollout r JOIN step s ON s.rollout_id = r.id ORDER BY r.id, s.ordinal";
const ROLLOUTS: &str = "SELECT r.task_id, r.night, r.round, r.ordinal, p.tokens, NULL, 0
    FROM rollout r JOIN prompt p ON p.id = r.prompt_id
    UNION ALL SELECT task_id, night, round, ordinal, tokens, logprobs, 1 FROM rollout ORDER BY 7";

fn sampled_before(path: &Path, version: u32) -> Sampled {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare(if version < 4 { STEPS } else { ROLLOUTS }).unwrap();
    let mut sampled = Sampled::new();
    let mut rows = statement.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let place = |column| row.get(column).unwrap();
        let key = (row.get(0).unwrap(), place(1), place(2), place(3));
        let (all_tokens, all_logprobs) = sampled.entry(key).or_default();
        let tokens: Vec<u8> = row.get(4).unwrap();
        all_tokens.extend(words(&tokens).into_iter().map(u32::from_le_bytes));
        if let Some(logprobs) = row.get::<_, Option<Vec<u8>>>(5).unwrap() {
            all_logprobs.extend(words(&logprobs).into_iter().map(u32::from_le_bytes));
        }
    }
    sampled
}

fn sampled_after(archive: &Archive) -> Sampled {
    let mut sampled = Sampled::new();
    let nights = archive.nights().unwrap().into_iter().map(|night| night.number);
    for (night, round) in nights.flat_map(|night| (0..4).map(move |round| (night, round))) {
        for stored in archive.rollouts_in(night, round).unwrap() {
            let rollout = stored.rollout;
            let steps = rollout.steps.iter();
            let tokens = steps.clone().flat_map(|step| step.tokens.clone()).collect();
            let logprobs = steps.flat_map(|step| step.logprobs.iter().map(|l| l.to_bits()));
            let key = (rollout.task_id.clone(), night, round, rollout.index);
            sampled.insert(key, (tokens, logprobs.collect()));
        }
    }
    sampled
}

/// What an archive says, in short.
fn summary(archive: &Archive) -> Value {
    let tasks = archive.tasks(&TaskFilter::default()).unwrap();
    let told = tasks.iter().map(|task| {
        let question: String = task.task.question.chars().take(40).collect();
        let (attempts, solved) = (task.attempts, task.solved);
        let hand = task.task.origin.as_str();
        format!("{} {hand}, {}: {question}; {solved}/{attempts}", task.task.id, task.topic)
    });
    let steps = archive.train_steps(1).unwrap();
    let steps = steps.iter().map(|step| {
        let (phase, adapter) = (step.phase.as_str(), step.adapter.as_str());
        format!("{phase} {adapter} {} {}", step.step, step.objective.as_str())
    });
    let versions = archive.model_versions().unwrap();
    json!({
        "tasks": told.collect::<Vec<_>>(),
        "drafts": archive.gate_counts(None).unwrap(),
        "rollouts": sampled_after(archive).len(),
        "train_steps": steps.collect::<Vec<_>>(),
        "versions": versions.into_iter().map(|(version, _)| version.id).collect::<Vec<_>>(),
        "live": archive.live_model().unwrap().map(|version| version.id),
        "promotions": archive.promotions().unwrap().iter().map(|p| &p.reason).collect::<Vec<_>>(),
        "nights": archive.nights().unwrap().len(),
    })
}

#[test]
fn an_archive_of_every_earlier_version_is_migrated_with_all_it_says() {
    for version in VERSIONS {
        let home = tempfile::tempdir().unwrap();
        let path = fixture(home.path(), version);
        let before = if version > 1 { sampled_before(&path, version) } else { Sampled::new() };
        let archive = open(&path);
        archive.check().unwrap();
        assert_eq!(sampled_after(&archive), before, "version {version}");
        insta::assert_json_snapshot!(format!("version_{version}"), summary(&archive));
        // What no draft may repeat.
        let suite = archive.suites().unwrap().pop();
        let suite = suite.map(|suite| archive.suite_named(&suite.name).unwrap());
        for item in suite.iter().flat_map(|suite| &suite.items) {
            assert!(archive.has_question(&item.question.to_uppercase()).unwrap());
        }
        // The words are found, too.
        let task = archive.tasks(&TaskFilter::default()).unwrap().remove(0);
        let found = archive.search_tasks(&task.task.question, 3).unwrap();
        assert_eq!(found.first().map(|found| &found.task.id), Some(&task.task.id));

        let copy = home.path().join(format!("archive.db.version-{version}.backup"));
        let connection = Connection::open(&copy).unwrap();
        let kept: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(kept, version);
        drop((archive, connection));
        // So are those that are nearly the same.
        let archive = open(&path);
        let signatures = archive.signatures_after(0).unwrap();
        assert_eq!(signatures.len(), archive.tasks(&TaskFilter::default()).unwrap().len());
        for (number, signature) in signatures {
            let asked = archive.asked(&[number]).unwrap().remove(0);
            assert_eq!(signature, Shingles::of(&asked.question).signature());
        }
        drop(archive);
        // Once is enough.
        ArchiveReader::open(&path).unwrap().check().unwrap();
    }
}

#[test]
fn a_file_of_every_earlier_version_is_there() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    drop(open(&path));
    let connection = Connection::open(&path).unwrap();
    let present: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    // A new version needs a fixture of the one before it.
    assert_eq!(VERSIONS.to_vec(), (1..present).collect::<Vec<_>>());
}
