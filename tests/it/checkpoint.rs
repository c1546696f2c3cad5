//! Checkpoints: they go on bit for bit, fit only the training they are of, and are whole or not
//! there, also after `kill -9` in the middle of saving.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use nightschool::archive::TrainPhase;
use nightschool::config;
use nightschool::config::AdapterSlot;
use nightschool::model::decoder::Decoder;
use nightschool::model::lora::Adapter;
use nightschool::trainer::checkpoint;
use nightschool::trainer::checkpoint::CheckpointError;
use nightschool::trainer::checkpoint::Circumstances;
use nightschool::trainer::checkpoint::Cursor;
use nightschool::trainer::optimizer::AdamW;
use nightschool::trainer::optimizer::AdamWSettings;

use super::trainer::adapter;
use super::trainer::train;
use super::trainer::values;
use crate::support;

fn circumstances(flags: &[&str]) -> Circumstances {
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_string()).collect();
    let settings = config::load(&[], &flags).unwrap();
    Circumstances {
        settings: serde_json::to_value(settings).unwrap(),
        base: "tiny".into(),
        base_hash: "ab".repeat(32),
        seed: u64::MAX - 3,
    }
}

fn cursor(next_step: usize) -> Cursor {
    let (phase, adapter) = (TrainPhase::WarmStart, AdapterSlot::Shared);
    Cursor { night: 1, phase, adapter, stretch: "00000".into(), next_step }
}

fn load(dir: &Path, decoder: &Decoder, at: usize) -> Result<(Adapter, AdamW), CheckpointError> {
    let settings = AdamWSettings::default();
    checkpoint::load(dir, decoder.config(), settings, &cursor(at), &circumstances(&[]))
}

/// A checkpoint of some training in a folder of its own.
fn saved(decoder: &Decoder) -> (tempfile::TempDir, PathBuf, Adapter) {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("checkpoint");
    let trained = adapter(decoder);
    let (optimizer, _) = train(decoder, &trained, AdamW::new(AdamWSettings::default()), 12);
    checkpoint::save(&dir, &trained, &optimizer, &cursor(12), &circumstances(&[])).unwrap();
    (folder, dir, trained)
}

#[test]
fn a_resumed_run_equals_a_straight_one() {
    let decoder = support::tiny_decoder();
    let straight = adapter(&decoder);
    train(&decoder, &straight, AdamW::new(AdamWSettings::default()), 30);
    let (_folder, dir, _) = saved(&decoder);
    let (resumed, optimizer) = load(&dir, &decoder, 12).unwrap();
    assert_eq!(optimizer.steps(), 12);
    train(&decoder, &resumed, optimizer, 18);
    assert_eq!(values(&resumed), values(&straight), "bit for bit");
}

#[test]
fn other_training_is_refused_by_name() {
    let decoder = support::tiny_decoder();
    let (_folder, dir, _) = saved(&decoder);
    let refused = |cursor: &Cursor, circumstances: &Circumstances| {
        let settings = AdamWSettings::default();
        let loaded = checkpoint::load(&dir, decoder.config(), settings, cursor, circumstances);
        let error = loaded.err().unwrap();
        assert!(error.is_foreign(), "{error}");
        error.to_string().replace(&dir.display().to_string(), "DIR")
    };
    let changed = circumstances(&["train.learning_rate=0.001", "train.dual_clip=3.0"]);
    insta::assert_snapshot!(
        refused(&cursor(12), &changed),
        @"the checkpoint DIR was made under other circumstances: `train.learning_rate` is \
          0.00009999999747378752 there and 0.0010000000474974513 here, `train.dual_clip` is null \
          there and 3.0 here; go on under those, or delete it to train its steps again"
    );
    let other_base = Circumstances { base_hash: "cd".repeat(32), ..circumstances(&[]) };
    let message = refused(&cursor(12), &other_base);
    assert!(message.contains("its base model is tiny (abab") && message.contains("(cdcd"));
    let other_seed = Circumstances { seed: 1, ..circumstances(&[]) };
    assert!(refused(&cursor(12), &other_seed).contains("its seed is 18446744073709551612"));
    let later = refused(&cursor(24), &circumstances(&[]));
    assert!(later.contains("step 12, not at night 1, warm_start of the shared"), "{later}");
    load(&dir, &decoder, 12).unwrap();
}

#[test]
fn damage_to_any_file_is_found() {
    let decoder = support::tiny_decoder();
    let (folder, dir, _) = saved(&decoder);
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in walkdir::WalkDir::new(&dir) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            files.push(entry.path().strip_prefix(&dir).unwrap().to_path_buf());
        }
    }
    assert_eq!(files.len(), 6, "adapter (2 and its seal), moments, state, seal: {files:?}");
    for file in files {
        let path = dir.join(&file);
        let whole = std::fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        let cut = whole[..whole.len() / 2].to_vec();
        for damaged in [flipped, cut, Vec::new()] {
            std::fs::write(&path, damaged).unwrap();
            let error = load(&dir, &decoder, 12).err().unwrap();
            assert!(!error.is_foreign(), "{}: {error}", file.display());
        }
        std::fs::remove_file(&path).unwrap();
        assert!(load(&dir, &decoder, 12).is_err(), "{} is missing", file.display());
        std::fs::write(&path, whole).unwrap();
        load(&dir, &decoder, 12).unwrap();
    }
    assert!(load(&folder.path().join("nowhere"), &decoder, 12).is_err());
}

/// Where the child writes; set by the parent.
const PATH_VARIABLE: &str = "NIGHTSCHOOL_TEST_CHECKPOINTS";
/// Checkpoints that the child writes over and over.
const PLACES: usize = 3;

/// What checkpoint `n` holds: every value of the adapter is n.
fn numbered(decoder: &Decoder, n: usize) -> Adapter {
    let adapter = adapter(decoder);
    for variable in adapter.variables().values() {
        let value = (variable.ones_like().unwrap() * n as f64).unwrap();
        variable.set(&value).unwrap();
    }
    adapter
}

#[test]
#[ignore = "the child process of `a_killed_save_leaves_a_whole_checkpoint_or_none`"]
fn child_that_is_killed() {
    let Some(folder) = std::env::var_os(PATH_VARIABLE) else { return };
    let folder = Path::new(&folder);
    let decoder = support::tiny_decoder();
    let circumstances = circumstances(&[]);
    for n in 0.. {
        let trained = numbered(&decoder, n);
        let scratch = adapter(&decoder);
        let (optimizer, _) = train(&decoder, &scratch, AdamW::new(AdamWSettings::default()), 1);
        let dir = folder.join(format!("place-{}", n % PLACES));
        checkpoint::save(&dir, &trained, &optimizer, &cursor(n), &circumstances).unwrap();
    }
}

/// What a folder that calls itself a checkpoint holds: the number of its values if it loads.
fn content(dir: &Path, decoder: &Decoder) -> Option<usize> {
    // The cursor says which one it is; the adapter must then be that one's.
    let state = std::fs::read(dir.join("state.json")).ok()?;
    let state: serde_json::Value = serde_json::from_slice(&state).ok()?;
    let n = state["cursor"]["next_step"].as_u64()? as usize;
    let (adapter, optimizer) = load(dir, decoder, n).ok()?;
    assert_eq!(optimizer.steps(), 1);
    assert_eq!(values(&adapter), values(&numbered(decoder, n)), "{}", dir.display());
    Some(n)
}

#[test]
fn a_killed_save_leaves_a_whole_checkpoint_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let decoder = support::tiny_decoder();
    let (mut kills_within_a_save, mut whole) = (0, 0);
    for round in 0..200_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["checkpoint::child_that_is_killed", "--exact", "--ignored"])
            .env(PATH_VARIABLE, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // Killed at many different moments of a save; which ones is left to the machine. Later and
        // later, in case it is a slow one.
        std::thread::sleep(Duration::from_micros(20_000 + 7_919 * (round % 13) + 1_000 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let mut cut_off = false;
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let dir = entry.unwrap().path();
            let aside = !dir.file_name().unwrap().to_string_lossy().starts_with("place-");
            match content(&dir, &decoder) {
                Some(_) if !aside => whole += 1,
                // Killed between the seal and the rename, or beside the one it replaced.
                Some(_) => {}
                None => {
                    assert!(aside, "{} is there, and not whole", dir.display());
                    cut_off = true;
                }
            }
        }
        kills_within_a_save += usize::from(cut_off);
        nightschool::durable::remove_stale(folder.path()).unwrap();
        if kills_within_a_save >= 10 && whole > 0 {
            return;
        }
    }
    panic!("{kills_within_a_save} kills fell within a save, {whole} checkpoints were whole");
}
