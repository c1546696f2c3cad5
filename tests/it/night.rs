//! Whole nights of the real program on a tiny model: they end, they go on after `kill -9`, and the
//! end is the same.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use candle_core::Device;
use candle_core::Tensor;
use nightschool::archive::ArchiveReader;
use nightschool::archive::NightState;
use nightschool::model::lora::Target;
use rand::Rng as _;

use crate::support;

/// A Hugging Face folder with a random Llama that reads bytes.
fn byte_model(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let config = serde_json::json!({
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
        "vocab_size": 257, "max_position_embeddings": 12000, "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "eos_token_id": 256
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let mut alphabet: Vec<char> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let vocabulary: serde_json::Map<String, serde_json::Value> =
        alphabet.iter().enumerate().map(|(id, c)| (c.to_string(), id.into())).collect();
    let byte_level = serde_json::json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{
            "id": 256, "content": "<end>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true
        }],
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false,
            "vocab": vocabulary, "merges": []
        }
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(dir.join("tokenizer_config.json"), r#"{"eos_token": "<end>"}"#).unwrap();
    let mut rng = nightschool::rng::stream(3, &["byte model"]);
    let mut random = |rows: usize, cols: usize, scale: f32| {
        let values: Vec<f32> = (0..rows * cols).map(|_| rng.random_range(-scale..scale)).collect();
        Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
    };
    let ones = Tensor::ones(32, candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut tensors = std::collections::HashMap::new();
    tensors.insert("model.embed_tokens.weight".to_string(), random(257, 32, 0.5));
    tensors.insert("model.norm.weight".to_string(), ones.clone());
    let shapes = [(32, 32), (16, 32), (16, 32), (32, 32), (48, 32), (48, 32), (32, 48)];
    for layer in 0..2 {
        for (target, (out, inner)) in Target::ALL.into_iter().zip(shapes) {
            let name = format!("model.layers.{layer}.{}.weight", target.module());
            tensors.insert(name, random(out, inner, 0.3));
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.insert(format!("model.layers.{layer}.{norm}.weight"), ones.clone());
        }
    }
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
}

struct School {
    folder: tempfile::TempDir,
}

impl School {
    fn new() -> Self {
        let school = Self { folder: tempfile::tempdir().unwrap() };
        byte_model(&school.path("model"));
        let documents = school.path("documents");
        fs::create_dir_all(&documents).unwrap();
        fs::copy(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/corpus_small.md"),
            documents.join("articles.md"),
        )
        .unwrap();
        school
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn home(&self) -> PathBuf {
        self.path("home")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightschool"));
        command
            .arg("--home")
            .arg(self.home())
            .args(arguments)
            .env("NIGHTSCHOOL_CACHE", self.path("cache"))
            .env("NIGHTSCHOOL_LOG", "info")
            .env("RAYON_NUM_THREADS", "2");
        command
    }

    fn night(&self) -> Command {
        let mut command = self.command(&["night", "--now", "--json", "--model"]);
        command.arg(self.path("model"));
        for setting in [
            "propose.code_drafts=60",
            "propose.model_drafts=20",
            "propose.max_tokens=12",
            "verify.record_on_code=4",
            "verify.noise_passages=1",
            "retrieval.passages=1",
            "warm_start.steps=6",
            "warm_start.searches=1",
            "train.checkpoint_steps=2",
            "train.rank=2",
            "solve.rounds=2",
            "solve.tasks=6",
            "solve.rollouts=3",
            "solve.max_tokens=8",
            "evaluate.max_tokens=8",
            "heldout.documents=0.3",
        ] {
            command.arg("--set").arg(setting);
        }
        command
    }

    fn add_documents(&self) {
        let added = self
            .command(&["--set", "heldout.documents=0.3", "corpus", "add"])
            .arg(self.path("documents"))
            .output()
            .unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    }

    /// Runs a night to its end; returns its report.
    fn finish(&self) -> serde_json::Value {
        let output = self.night().output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn kill_at(&self, line: &str) {
        kill_at(self.night(), line);
    }

    fn digest(&self) -> String {
        digest(&self.home())
    }

    fn adapters(&self) -> Vec<(String, Vec<u8>)> {
        adapters(&self.home())
    }
}

/// Starts a night and kills it when it logs `line`.
fn kill_at(mut night: Command, line: &str) {
    let mut child = night.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let seen = stderr.lines().map_while(Result::ok).any(|logged| logged.contains(line));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(seen, "the night ended without saying `{line}`");
}

fn digest(home: &Path) -> String {
    let archive = ArchiveReader::open(&home.join("archive.db")).unwrap();
    assert!(archive.nights().unwrap().iter().all(|n| n.state == NightState::Finished));
    archive.content_digest().unwrap()
}

/// Every adapter's name and weights, byte for byte.
fn adapters(home: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(home.join("adapters")).unwrap() {
        let dir = entry.unwrap().path();
        let weights = fs::read(dir.join("adapter_model.safetensors")).unwrap();
        all.push((dir.file_name().unwrap().to_string_lossy().into_owned(), weights));
    }
    all.sort();
    all
}

#[test]
fn a_night_killed_anywhere_goes_on_to_the_same_end() {
    let school = School::new();
    school.add_documents();
    let report = school.finish();
    assert_eq!(report["night"], 1);
    assert_eq!(report["heldout"]["origin"], "model-made");
    assert_eq!(report["train"]["warm_start_steps"], 6);
    assert_eq!(report["origin"]["model"]["drafts"], 20);
    assert!(report["origin"]["code"]["accepted"].as_u64().unwrap() > 10);
    let (digest, adapters) = (school.digest(), school.adapters());
    assert!(!adapters.is_empty());
    fs::remove_dir_all(school.home()).unwrap();

    school.add_documents();
    for line in [
        "started: tasks made by code",
        "started: evaluation",
        "started: warm start",
        "ended: warm start",
        "started: drafts by the model",
        "started: rollouts, round 2",
    ] {
        school.kill_at(line);
    }
    school.finish();
    assert_eq!(school.digest(), digest, "the archive's content");
    assert_eq!(school.adapters(), adapters, "the adapters' bytes");
}

/// The demo on the default model, made smaller.
struct SmallDemo {
    folder: tempfile::TempDir,
}

impl SmallDemo {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let questions = fs::read_to_string(repository.join("corpus/heldout/questions.jsonl"));
        let few: Vec<String> = questions.unwrap().lines().take(20).map(String::from).collect();
        fs::write(folder.path().join("suite.jsonl"), few.join("\n")).unwrap();
        Self { folder }
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightschool"));
        command.arg("--home").arg(self.home()).args(["demo", "--json"]);
        let suite = self.folder.path().join("suite.jsonl");
        command.arg("--set").arg(format!("heldout.suite={}", suite.display()));
        for setting in [
            "propose.code_drafts=120",
            "propose.model_drafts=32",
            "verify.record_on_code=4",
            "warm_start.steps=6",
            "warm_start.searches=1",
            "train.checkpoint_steps=2",
            "train.groups=2",
            "solve.tasks=6",
            "solve.rollouts=4",
        ] {
            command.arg("--set").arg(setting);
        }
        command.env("NIGHTSCHOOL_CACHE", support::cache()).env("NIGHTSCHOOL_LOG", "info");
        command
    }
}

/// `cargo test --release --locked -- --ignored demo_killed`
#[test]
#[ignore = "two small demos on the default model, before a release: about five minutes"]
fn a_demo_killed_at_three_points_goes_on_to_the_same_end() {
    let demo = SmallDemo::new();
    let home = demo.home();
    assert!(demo.command().stdout(Stdio::null()).status().unwrap().success());
    let straight = (digest(&home), adapters(&home));
    fs::remove_dir_all(&home).unwrap();
    for line in ["started: warm start", "started: drafts by the model", "rollouts, round 2"] {
        kill_at(demo.command(), line);
    }
    assert!(demo.command().stdout(Stdio::null()).status().unwrap().success());
    assert_eq!((digest(&home), adapters(&home)), straight);
}

/// `cargo test --release --locked -- --ignored tripwire`
#[test]
#[ignore = "a small demo on the default model, before a release: about two minutes"]
fn a_tripwire_stops_the_game_and_keeps_what_was_stored() {
    let demo = SmallDemo::new();
    let output = demo.command().args(["--set", "tripwires.entropy_max=0.0001"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let stopped = report["train"]["stopped"].as_str().unwrap();
    assert!(stopped.contains("entropy was") && stopped.contains("above the limit"), "{stopped}");
    assert_eq!(report["train"]["policy_steps"], 1);
    assert_eq!(report["candidate"], "night1-warm");
}

#[test]
fn a_second_night_goes_on_in_the_same_home() {
    let school = School::new();
    school.add_documents();
    assert_eq!(school.finish()["night"], 1);
    let second = school.finish();
    assert_eq!(second["night"], 2);
    assert!(second["origin"]["code"]["drafts"].as_u64().unwrap() > 0);
    let shown = school.command(&["task", "list", "--json"]).output().unwrap();
    let tasks: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let tasks = tasks["tasks"].as_array().unwrap();
    let nights: std::collections::BTreeSet<u64> =
        tasks.iter().filter_map(|task| task["night"].as_u64()).collect();
    assert!(nights.contains(&1), "{nights:?}");
}

#[test]
fn ctrl_c_stops_a_night_and_the_next_call_goes_on() {
    let school = School::new();
    school.add_documents();
    let mut child = school.night().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("started: warm start")));
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert_eq!(school.finish()["night"], 1);
}

#[test]
fn an_evaluation_takes_prompts_of_ones_own() {
    let school = School::new();
    let question = r#"{"id": "1", "question": "Who built the tower?", "answers": ["Odo"]}"#;
    fs::write(school.path("questions.jsonl"), question).unwrap();
    fs::create_dir_all(school.path("prompts")).unwrap();
    fs::write(school.path("prompts/mine.jinja"), "Short.\n===\n{{ question }}\n").unwrap();
    let eval = |prompts: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightschool"));
        command.args(["eval", "--closed-book", "--max-tokens", "4", "--json", "--prompt", "mine"]);
        command.arg("--model").arg(school.path("model"));
        command.arg("--questions").arg(school.path("questions.jsonl"));
        command.arg("--prompts").arg(school.path(prompts)).output().unwrap()
    };
    let output = eval("prompts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["prompt"], &report["n"]), (&"mine".into(), &1.into()));
    assert_eq!(eval("nowhere").status.code(), Some(2));
}
