//! The tokenizer agrees with llama.cpp; GGUF metadata that is not understood is refused.
//!
//! `tests/fixtures/tokenizer.json` was made by `scripts/make_greedy_fixtures.py`. The vocabulary
//! is the default model's, from the file in `NIGHTSCHOOL_TEST_MODEL` or fetched into the target
//! folder.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;
use std::sync::OnceLock;

use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::gguf_file::Value;
use nightschool::model::chat::ChatTemplate;
use nightschool::model::chat::Message;
use nightschool::model::fetch::Layout;
use nightschool::model::fetch::ModelSpec;
use nightschool::model::fetch::SMOLLM2_135M;
use nightschool::model::fetch::resolve;
use nightschool::model::tokenizer::Tokenizer;
use nightschool::model::tokenizer::TokenizerError;
use proptest::prelude::ProptestConfig;
use proptest::prelude::prop_assert_eq;
use proptest::proptest;
use serde::Deserialize;
use unicode_normalization::is_nfc;

type Metadata = HashMap<String, Value>;

#[derive(Deserialize)]
struct Fixture {
    model_sha256: String,
    strings: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    pre: String,
    text: String,
    parse_specials: bool,
    tokens: Vec<u32>,
}

fn model_path() -> PathBuf {
    if let Some(path) = std::env::var_os("NIGHTSCHOOL_TEST_MODEL") {
        return path.into();
    }
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("model-cache");
    let files = resolve(&ModelSpec::Builtin(&SMOLLM2_135M), &cache).expect("default model");
    match files.layout {
        Layout::Gguf { path } => path,
        Layout::Folder { dir } => panic!("a folder: {dir:?}"),
    }
}

fn metadata() -> &'static Metadata {
    static METADATA: OnceLock<Metadata> = OnceLock::new();
    METADATA.get_or_init(|| {
        let file = File::open(model_path()).expect("model file");
        Content::read(&mut BufReader::new(file)).expect("GGUF").metadata
    })
}

fn smollm() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| Tokenizer::from_gguf(metadata()).expect("tokenizer"))
}

fn with(key: &str, value: Value) -> Metadata {
    let mut metadata = metadata().clone();
    metadata.insert(key.to_string(), value);
    metadata
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/tokenizer.json")).expect("fixture")
}

#[test]
fn encodes_as_llama_cpp_does() {
    let fixture = fixture();
    assert_eq!(fixture.model_sha256, SMOLLM2_135M.sha256);
    let mut tokenizers: HashMap<String, Tokenizer> = HashMap::new();
    let mut compared = 0;
    for row in fixture.strings {
        // llama.cpp leaves out the Unicode normalisation that Qwen2 was trained with.
        if row.pre == "qwen2" && !is_nfc(&row.text) {
            continue;
        }
        let tokenizer = tokenizers.entry(row.pre.clone()).or_insert_with(|| {
            let metadata = with("tokenizer.ggml.pre", Value::String(row.pre.clone()));
            Tokenizer::from_gguf(&metadata).expect("tokenizer")
        });
        let ids = match row.parse_specials {
            true => tokenizer.encode_with_specials(&row.text),
            false => tokenizer.encode(&row.text),
        };
        assert_eq!(ids, row.tokens, "{}: {:?}", row.pre, row.text);
        compared += 1;
    }
    assert!(compared > 120, "only {compared} strings were compared");
}

#[test]
fn decodes_what_it_encoded() {
    for row in fixture().strings.iter().filter(|row| row.pre == "smollm") {
        // This vocabulary has no token for some control characters and rare first bytes.
        if row.text.contains(['\u{4}', '\u{6}', '\u{f0000}']) {
            continue;
        }
        assert_eq!(smollm().decode(&row.tokens), row.text);
    }
}

#[test]
fn special_tokens_are_read_only_when_asked() {
    let tokenizer = smollm();
    let text = "a<|im_end|>b";
    assert!(!tokenizer.encode(text).contains(&tokenizer.eos()));
    assert!(tokenizer.encode_with_specials(text).contains(&tokenizer.eos()));
    let ids = tokenizer.encode_with_specials(text);
    assert_eq!(tokenizer.decode(&ids), text);
    assert_eq!(tokenizer.decode_without_specials(&ids), "ab");
}

#[test]
fn knows_the_special_ids() {
    let tokenizer = smollm();
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), 2, 2));
    assert!(!tokenizer.wants_bos());
    assert!(tokenizer.is_end(2) && !tokenizer.is_end(0));
    assert_eq!(tokenizer.vocab_size(), 49_152);
    assert_eq!(tokenizer.token_id("<|im_start|>"), Some(1));
    assert_eq!(tokenizer.token_text(2).as_deref(), Some("<|im_end|>"));
    assert_eq!(tokenizer.token_text(38_699).as_deref(), Some(" Hello"));
    assert_eq!(tokenizer.token_text(49_152), None);
}

#[test]
fn a_character_cut_in_two_decodes_to_replacement_until_it_is_whole() {
    let tokenizer = smollm();
    let ids = tokenizer.encode("日本🇩🇪");
    for end in 0..ids.len() {
        let text = tokenizer.decode(&ids[..end]);
        let whole = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        assert!("日本🇩🇪".starts_with(whole), "{text:?}");
    }
    assert_eq!(tokenizer.decode(&ids), "日本🇩🇪");
}

#[test]
fn unknown_ways_of_cutting_text_are_refused_by_name() {
    let metadata = with("tokenizer.ggml.pre", Value::String("brand-new".into()));
    let error = Tokenizer::from_gguf(&metadata).expect_err("unknown pre");
    assert!(matches!(&error, TokenizerError::Pre { found } if found == "brand-new"));
    let text = error.to_string();
    assert!(text.contains("supported: smollm, gpt-2, llama-bpe, qwen2;"), "{text}");
}

#[test]
fn damaged_metadata_is_named() {
    let mut without_merges = metadata().clone();
    without_merges.remove("tokenizer.ggml.merges");
    let cases = [
        (without_merges, "`tokenizer.ggml.merges`"),
        (with("tokenizer.ggml.model", Value::String("llama".into())), "`llama`"),
        (with("tokenizer.ggml.tokens", Value::U32(1)), "`tokenizer.ggml.tokens`"),
        (with("tokenizer.ggml.token_type", Value::Array(vec![Value::I32(1)])), "1 token types"),
        (with("tokenizer.ggml.eos_token_id", Value::U32(50_000)), "eos_token_id is 50000"),
        (
            with("tokenizer.ggml.merges", Value::Array(vec![Value::String("nopair".into())])),
            "`nopair`",
        ),
    ];
    for (metadata, expected) in cases {
        let error = Tokenizer::from_gguf(&metadata).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn chat_template_renders_the_prompt_of_the_fixture() {
    let template = ChatTemplate::from_gguf(metadata()).expect("valid").expect("present");
    let messages = [Message::new("user", "Why is the sky blue?")];
    let prompt = template.render(&messages, true).expect("rendered");
    let fixture = fixture();
    let row = fixture
        .strings
        .iter()
        .find(|row| row.parse_specials && row.text.contains("sky"))
        .expect("the chat row");
    assert_eq!(prompt, row.text);
    assert_eq!(smollm().encode_with_specials(&prompt), row.tokens);
}

#[test]
fn chat_templates_may_use_python_methods_and_refuse_conversations() {
    let source = concat!(
        "{%- if messages[0].role != 'user' %}{{ raise_exception('start with user') }}{% endif -%}",
        "{{ bos_token }}{% for m in messages %}\n    {% if m.content.strip() == '' %}",
        "{% continue %}{% endif %}\n[{{ m.role.upper() }}] {{ m['content'] | trim | tojson }} ",
        "{{ [1, {'a': '<ä>'}] | tojson }}{{ strftime_now is defined }}{{ tools is none }}",
        "{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    );
    let template = ChatTemplate::new(source, "<s>", "</s>").expect("valid");
    let messages = [Message::new("user", " hi \"you\" "), Message::new("assistant", "  ")];
    let prompt = template.render(&messages, true).expect("rendered");
    insta::assert_snapshot!(prompt, @r#"<s>[USER] "hi \"you\"" [1, {"a": "<ä>"}]FalseTrue>"#);
    let error = template.render(&messages[1..], false).expect_err("refused").to_string();
    assert!(error.contains("start with user"), "{error}");
    assert!(ChatTemplate::new("{% if %}", "", "").is_err());
}

#[test]
fn a_folder_gives_the_tokenizer_and_template_its_files_describe() {
    let folder = tempfile::tempdir().expect("folder");
    write_small_tokenizer(folder.path());
    let path = folder.path().join("tokenizer.json");
    let error = Tokenizer::from_file(&path).expect_err("no end token").to_string();
    assert!(error.contains("no end-of-text token"), "{error}");

    let config = r#"{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "chat_template":
        [{"name": "tool", "template": "x"}, {"name": "default", "template": "{{ eos_token }}"}]}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).expect("written");
    let generation = r#"{"eos_token_id": [2, 3, 99]}"#;
    std::fs::write(folder.path().join("generation_config.json"), generation).expect("written");
    let tokenizer = Tokenizer::from_file(&path).expect("tokenizer");
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.pad()), (Some(1), 2, 2));
    assert!(tokenizer.is_end(3) && !tokenizer.is_end(99));
    assert_eq!(tokenizer.encode("abab"), [6, 6]);
    assert_eq!(tokenizer.encode_with_specials("</s>ab"), [2, 6]);
    assert_eq!(tokenizer.decode(&[6, 2]), "ab</s>");
    let template = ChatTemplate::from_folder(folder.path()).expect("valid").expect("present");
    assert_eq!(template.render(&[], false).expect("rendered"), "</s>");
}

fn write_small_tokenizer(folder: &Path) {
    let added: Vec<_> = ["<unk>", "<s>", "</s>", "<end>"]
        .iter()
        .enumerate()
        .map(|(id, content)| {
            serde_json::json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true
            })
        })
        .collect();
    let byte_level = serde_json::json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": byte_level, "post_processor": null,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "byte_fallback": false, "ignore_merges": false,
            "vocab": {"<unk>": 0, "<s>": 1, "</s>": 2, "<end>": 3, "a": 4, "b": 5, "ab": 6},
            "merges": [["a", "b"]]
        }
    });
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).expect("written");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Printable text survives, and never turns into special tokens.
    #[test]
    fn round_trip(text in r"[ -~\nà-ɏα-ωа-я一-龥]{0,80}") {
        let ids = smollm().encode(&text);
        prop_assert_eq!(smollm().decode(&ids), text);
        prop_assert_eq!(ids.iter().filter(|id| **id < 17).count(), 0);
    }
}
