//! Conversations become the prompts and token ids that transformers makes of them, with every
//! family's tokenizer and template, from a folder and from a GGUF file.
//!
//! `scripts/make_chat_fixtures.py` made the values.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::Content;
use candle_core::quantized::gguf_file::Value;
use nightschool::model::chat::ChatTemplate;
use nightschool::model::chat::Message;
use nightschool::model::tokenizer::Tokenizer;
use serde::Deserialize;

use crate::support;

#[derive(Deserialize)]
struct Values {
    conversations: Vec<Vec<Message>>,
    /// What each tokenizer makes of each conversation.
    rows: BTreeMap<String, Vec<Row>>,
}

#[derive(Deserialize)]
struct Row {
    /// The prompt.
    text: String,
    /// Its ids.
    ids: Vec<u32>,
    /// Ids of the last message, special tokens taken as text.
    plain: Vec<u32>,
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat")
}

fn values(folder: &Path) -> Values {
    serde_json::from_slice(&std::fs::read(folder.join("values.json")).unwrap()).unwrap()
}

fn metadata(path: &Path) -> HashMap<String, Value> {
    Content::read(&mut BufReader::new(File::open(path).unwrap())).unwrap().metadata
}

/// Tokenizer and template of the folder `name` and of the GGUF file `name`.
fn both(folder: &Path, name: &str) -> [(Tokenizer, ChatTemplate); 2] {
    let metadata = metadata(&folder.join(format!("{name}.gguf")));
    let dir = folder.join(name);
    [
        (
            Tokenizer::from_file(&dir.join("tokenizer.json")).unwrap(),
            ChatTemplate::from_folder(&dir).unwrap().unwrap(),
        ),
        (
            Tokenizer::from_gguf(&metadata).unwrap(),
            ChatTemplate::from_gguf(&metadata).unwrap().unwrap(),
        ),
    ]
}

fn compare(
    name: &str,
    (tokenizer, template): (&Tokenizer, &ChatTemplate),
    conversation: &[Message],
    row: &Row,
) {
    let last = conversation.last().unwrap();
    let text = template.render(conversation, last.role == "user").unwrap();
    assert_eq!(text, row.text, "{name}");
    assert_eq!(tokenizer.encode_with_specials(&text), row.ids, "{name}: {text:?}");
    assert_eq!(tokenizer.encode(&last.content), row.plain, "{name}: {:?}", last.content);
    let decoded = tokenizer.decode(&row.ids);
    // Qwen composes characters first; SmolLM2 has no token for some bytes.
    if decoded != text {
        let composed: String = unicode_normalization::UnicodeNormalization::nfc(&*text).collect();
        assert_eq!(decoded, composed, "{name}");
    }
}

/// Every conversation with the tokenizers of `folder`.
fn compare_all(folder: &Path) {
    let values = values(folder);
    assert_eq!(values.conversations.len(), 30);
    for (name, rows) in values.rows.iter().filter(|(name, _)| *name != "smollm2") {
        for ((tokenizer, template), kind) in both(folder, name).iter().zip(["folder", "file"]) {
            for (conversation, row) in values.conversations.iter().zip(rows) {
                compare(&format!("{name} {kind}"), (tokenizer, template), conversation, row);
            }
        }
    }
}

#[test]
fn conversations_become_the_prompts_and_ids_of_transformers() {
    compare_all(&fixtures());
}

#[test]
fn conversations_become_the_prompts_and_ids_of_smollm2() {
    let model = support::default_model();
    let template = model.chat_template.as_ref().unwrap();
    let values = values(&fixtures());
    for (conversation, row) in values.conversations.iter().zip(&values.rows["smollm2"]) {
        compare("smollm2", (&model.tokenizer, template), conversation, row);
    }
}

/// The same with the whole vocabularies of Qwen2 and Llama 3:
/// `NIGHTSCHOOL_CHAT_FIXTURES=FOLDER cargo test --release --locked -- --ignored whole_vocab`
#[test]
#[ignore = "needs what make_chat_fixtures.py --full makes, named by NIGHTSCHOOL_CHAT_FIXTURES"]
fn whole_vocabularies_give_the_prompts_and_ids_of_transformers() {
    let folder = std::env::var("NIGHTSCHOOL_CHAT_FIXTURES").expect("NIGHTSCHOOL_CHAT_FIXTURES");
    compare_all(Path::new(&folder));
}

#[test]
fn a_gguf_file_that_names_one_end_token_knows_its_familys_others() {
    for (name, begin, ends) in [
        ("qwen2", None, &["<|im_end|>", "<|endoftext|>"][..]),
        ("llama3", Some("<|begin_of_text|>"), &["<|eot_id|>", "<|end_of_text|>", "<|eom_id|>"]),
    ] {
        for (tokenizer, _) in both(&fixtures(), name) {
            let id = |spelling: &str| tokenizer.token_id(spelling).unwrap();
            let found = (0..tokenizer.vocab_size() as u32).filter(|id| tokenizer.is_end(*id));
            let mut expected: Vec<u32> = ends.iter().map(|end| id(end)).collect();
            expected.sort_unstable();
            assert_eq!(found.collect::<Vec<u32>>(), expected, "{name}");
            assert_eq!(tokenizer.eos(), id(ends[0]));
            assert_eq!((tokenizer.bos(), tokenizer.wants_bos()), (begin.map(id), begin.is_some()));
        }
    }
}
