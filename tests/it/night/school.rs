//! A home with a tiny model and a few documents, and the program that works on it.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use candle_core::Device;
use candle_core::Tensor;
use nightschool::archive::Archive;
use nightschool::archive::ArchiveReader;
use nightschool::model::lora::Target;
use rand::Rng as _;

/// Settings that make a night short.
const SHORT: [&str; 21] = [
    "propose.code_drafts=60",
    "propose.model_drafts=20",
    "propose.max_tokens=12",
    "verify.record_on_code=4",
    "verify.noise_passages=1",
    // These models find an answer without reading, and what they read is the same all over.
    "verify.evidence_needed=false",
    "verify.uniqueness=false",
    // Their documents say nearly the same again and again.
    "verify.duplicate_jaccard=1",
    "verify.samples=1",
    "verify.min_f1=0.8",
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
];

/// What the weights of a model are like.
#[derive(Clone, Copy, PartialEq)]
enum Voice {
    /// Any byte may follow any other.
    Babbling,
    /// It says little but digits, blanks and line ends, so that some of its answers are right.
    Counting,
    /// What it says next follows from the byte before, so that it finds the answer when it takes
    /// the likeliest, and writes questions now and then when it draws.
    Asking,
}

/// The bytes that a counting model says.
const COUNTED: [u8; 4] = *b" 73\n";
/// What an asking model may say after a byte, with the logits. Prompts end with a colon; the one
/// without documents ends with a dash, so that it does not know the answer there.
const ASKED: [(u8, &[(u8, f32)]); 6] = [
    (b':', &[(b'7', 3.0), (b'3', 2.0), (b' ', 2.0)]),
    (b'7', &[(b'\n', 4.0), (b' ', 1.0)]),
    (b'3', &[(b' ', 2.5), (b'3', 2.0), (b'?', 1.5)]),
    (b' ', &[(b'3', 2.5), (b'?', 1.0), (b'7', 0.5)]),
    (b'?', &[(b'\n', 4.0)]),
    (b'-', &[(b'3', 4.0)]),
];

/// A Hugging Face folder with a random Llama that reads bytes.
fn byte_model(dir: &Path, voice: Voice) {
    fs::create_dir_all(dir).unwrap();
    let config = serde_json::json!({
        "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 32,
        "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48,
        "vocab_size": 257, "max_position_embeddings": 12000, "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": voice == Voice::Babbling, "eos_token_id": 256
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
    // Blanks and line ends stand in the vocabulary as the letters that byte-level BPE gives them.
    let token = |byte: u8| {
        let letter = match byte {
            b' ' => 'Ġ',
            b'\n' => 'Ċ',
            other => char::from(other),
        };
        alphabet.binary_search(&letter).unwrap()
    };
    candle_core::safetensors::save(&byte_weights(voice, token), dir.join("model.safetensors"))
        .unwrap();
}

/// Makes what may follow a byte depend on it: it has a dimension of its own, which the head reads.
fn follow(embedding: &mut [f32], head: &mut [f32], token: impl Fn(u8) -> usize) {
    for id in 0..257 {
        embedding[id * 32] = 2.0;
        head[id * 32] = -4.0;
    }
    for (place, (byte, next)) in ASKED.iter().enumerate() {
        let dimension = place + 1;
        (0..257).for_each(|id| embedding[id * 32 + dimension] = 0.0);
        embedding[token(*byte) * 32 + dimension] = 4.0;
        for (said, logit) in *next {
            head[token(*said) * 32] = 0.0;
            // About what the norm leaves of the 4 above.
            head[token(*said) * 32 + dimension] = (logit + 3.0) / 4.8;
        }
    }
}

/// Random weights; a counting model has one dimension that is the same for all tokens it reads and
/// raises only those that it writes.
fn byte_weights(
    voice: Voice,
    token: impl Fn(u8) -> usize,
) -> std::collections::HashMap<String, Tensor> {
    let mut rng = nightschool::rng::stream(3, &["byte model"]);
    let mut random = |rows: usize, cols: usize, scale: f32| -> Vec<f32> {
        (0..rows * cols).map(|_| rng.random_range(-scale..scale)).collect()
    };
    let tensor = |values: Vec<f32>, rows: usize, cols: usize| {
        Tensor::from_vec(values, (rows, cols), &Device::Cpu).unwrap()
    };
    let ones = Tensor::ones(32, candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut tensors = std::collections::HashMap::new();
    let mut embedding = random(257, 32, 0.5);
    let scale = if voice == Voice::Babbling { 0.3 } else { 0.1 };
    if voice != Voice::Babbling {
        let mut head = random(257, 32, 0.1);
        if voice == Voice::Counting {
            let counted = COUNTED.map(&token);
            for id in 0..257 {
                embedding[id * 32] = 2.0;
                head[id * 32] = if counted.contains(&id) { 1.0 } else { -1.0 };
            }
        } else {
            follow(&mut embedding, &mut head, &token);
        }
        tensors.insert("lm_head.weight".to_string(), tensor(head, 257, 32));
    }
    tensors.insert("model.embed_tokens.weight".to_string(), tensor(embedding, 257, 32));
    tensors.insert("model.norm.weight".to_string(), ones.clone());
    let shapes = [(32, 32), (16, 32), (16, 32), (32, 32), (48, 32), (48, 32), (32, 48)];
    for layer in 0..2 {
        for (target, (out, inner)) in Target::ALL.into_iter().zip(shapes) {
            let name = format!("model.layers.{layer}.{}.weight", target.module());
            tensors.insert(name, tensor(random(out, inner, scale), out, inner));
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.insert(format!("model.layers.{layer}.{norm}.weight"), ones.clone());
        }
    }
    tensors
}

/// Documents whose every answer is 7.
fn sevens() -> String {
    let owners = ["mill", "barn", "inn", "school", "bakery", "chapel", "stable", "tavern"];
    let owned = ["doors", "windows", "lamps", "benches", "stairs"];
    let mut text = String::from("# Village\n");
    for owner in owners {
        for thing in owned {
            let title = format!("{}{} and {thing}", owner[..1].to_uppercase(), &owner[1..]);
            // The second kind becomes a question with its question word in front.
            let sentence = match title.len() % 2 {
                0 => format!("The old {owner} by the road has 7 {thing} now."),
                _ => format!("7 {thing} are in good repair at the old {owner}."),
            };
            text += &format!("\n## {title}\n\n{sentence}\n");
        }
    }
    text
}

pub(crate) struct School {
    pub(crate) folder: tempfile::TempDir,
}

impl School {
    pub(crate) fn new() -> Self {
        let articles = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/corpus_small.md");
        Self::with(Voice::Babbling, &fs::read_to_string(articles).unwrap())
    }

    /// A school whose model is right now and then, with its documents added.
    pub(crate) fn counting() -> Self {
        let school = Self::with(Voice::Counting, &sevens());
        school.add_documents();
        school
    }

    /// A school whose model writes questions that pass the gate now and then, and finds the answer
    /// to all of them, with its documents added.
    pub(super) fn asking() -> Self {
        let school = Self::with(Voice::Asking, &sevens());
        let prompts = school.home().join("prompts");
        fs::create_dir_all(&prompts).unwrap();
        let closed_book = "From memory.\n===\n{{ question }} -\n";
        fs::write(prompts.join("closed_book.jinja"), closed_book).unwrap();
        school.add_documents();
        school
    }

    /// A home without nights again, with its prompts and documents.
    pub(crate) fn begin_again(&self) {
        let (prompts, kept) = (self.home().join("prompts"), self.path("prompts-kept"));
        let own = prompts.exists();
        if own {
            fs::rename(&prompts, &kept).unwrap();
        }
        fs::remove_dir_all(self.home()).unwrap();
        fs::create_dir_all(self.home()).unwrap();
        if own {
            fs::rename(&kept, &prompts).unwrap();
        }
        self.add_documents();
    }

    fn with(voice: Voice, articles: &str) -> Self {
        let school = Self { folder: tempfile::tempdir().unwrap() };
        byte_model(&school.path("model"), voice);
        let documents = school.path("documents");
        fs::create_dir_all(&documents).unwrap();
        fs::write(documents.join("articles.md"), articles).unwrap();
        school
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.path("home")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
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

    /// A night with these settings beside those that make it short.
    pub(crate) fn night_with(&self, settings: &[&str]) -> Command {
        let mut command = self.night();
        for setting in settings {
            command.arg("--set").arg(setting);
        }
        command
    }

    pub(crate) fn night(&self) -> Command {
        let mut command = self.command(&["night", "--now", "--json", "--model"]);
        command.arg(self.path("model"));
        for setting in SHORT {
            command.arg("--set").arg(setting);
        }
        command
    }

    /// The same as a settings file.
    pub(crate) fn short_settings(&self) -> String {
        let model = self.path("model").display().to_string();
        SHORT.iter().fold(format!("model = {model:?}\n"), |text, one| text + one + "\n")
    }

    pub(crate) fn add_documents(&self) {
        let added = self
            .command(&["--set", "heldout.documents=0.3", "corpus", "add"])
            .arg(self.path("documents"))
            .output()
            .unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    }

    /// Runs a night to its end; returns its report.
    pub(crate) fn finish(&self) -> serde_json::Value {
        self.finish_with(&[])
    }

    pub(crate) fn finish_with(&self, settings: &[&str]) -> serde_json::Value {
        let output = self.night_with(settings).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What a command prints as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.command(arguments).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// The message of a command that fails with `code`.
    pub(crate) fn error(&self, code: i32, mut command: Command) -> String {
        let output = command.output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{message}");
        message
    }

    pub(crate) fn archive(&self) -> ArchiveReader {
        ArchiveReader::open(&self.home().join("archive.db")).unwrap()
    }

    pub(crate) fn set_live(&self, version: &str) {
        let clock = std::sync::Arc::new(nightschool::clock::SystemClock);
        let archive = Archive::open(&self.home().join("archive.db"), clock).unwrap();
        archive.set_live_model(version, "the first").unwrap();
    }

    /// The names of what is in a folder of the home, sorted; none when it is not there.
    pub(crate) fn listed(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.home().join(folder)) else { return Vec::new() };
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<String> =
            entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub(crate) fn kill_at(&self, line: &str) {
        super::kill_at(self.night(), line);
    }

    pub(crate) fn digest(&self) -> String {
        super::digest(&self.home())
    }

    pub(crate) fn adapters(&self) -> Vec<(String, Vec<u8>)> {
        super::adapters(&self.home())
    }
}
