//! Which token ids begin, end and pad a text, from GGUF metadata or a Hugging Face folder.

use std::path::Path;

use serde::Deserialize;

use super::gguf::Metadata;
use super::tokenizer::TokenizerError;

/// Special token ids of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SpecialIds {
    pub(super) begin: Option<u32>,
    pub(super) wants_begin: bool,
    pub(super) end: u32,
    /// All tokens that end a text, `end` among them.
    pub(super) ends: Vec<u32>,
    pub(super) padding: u32,
}

/// One id or several, as `eos_token_id` is written.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

/// The part of `config.json` and `generation_config.json` that is about special tokens.
#[derive(Debug, Default, Deserialize)]
struct IdConfig {
    bos_token_id: Option<Ids>,
    eos_token_id: Option<Ids>,
    pad_token_id: Option<u32>,
}

/// A token as `tokenizer_config.json` writes it.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Spelling {
    Text(String),
    Object { content: String },
}

impl Spelling {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

/// The part of `tokenizer_config.json` that is about special tokens.
#[derive(Debug, Default, Deserialize)]
struct SpellingConfig {
    bos_token: Option<Spelling>,
    eos_token: Option<Spelling>,
    pad_token: Option<Spelling>,
    add_bos_token: Option<bool>,
}

/// Tokens that end a text or a turn in models that cut text the `pre` way. Their folders list all
/// of them in `generation_config.json`; GGUF files often name only one.
fn usual_ends(pre: Option<&str>) -> &'static [&'static str] {
    match pre {
        Some("llama-bpe") => &["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"],
        Some("qwen2") => &["<|endoftext|>", "<|im_end|>"],
        _ => &[],
    }
}

impl SpecialIds {
    /// Reads `tokenizer.ggml.*_token_id`; every id must be that of one of `tokens`.
    pub(super) fn from_gguf(
        metadata: Metadata<'_>,
        tokens: &[&str],
    ) -> Result<Self, TokenizerError> {
        let vocabulary = tokens.len();
        let id = |name: &str| -> Result<Option<u32>, TokenizerError> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match metadata.optional_u32(&key)? {
                Some(id) if id as usize >= vocabulary => {
                    let why = format!("{key} is {id}, but there are {vocabulary} tokens");
                    Err(TokenizerError::Vocabulary(why))
                }
                found => Ok(found),
            }
        };
        let end = id("eos")?.ok_or_else(|| TokenizerError::NoEnd("the GGUF file".into()))?;
        let pre = metadata.optional_string("tokenizer.ggml.pre")?;
        let mut ends = vec![end];
        ends.extend(id("eot")?);
        ends.extend(id("eom")?);
        for spelling in usual_ends(pre) {
            let found = tokens.iter().position(|token| token == spelling);
            ends.extend(found.and_then(|id| u32::try_from(id).ok()));
        }
        ends.sort_unstable();
        ends.dedup();
        let begin = id("bos")?;
        // Files of Llama 3 leave the flag out; llama.cpp sets it for them.
        let wants_begin = metadata
            .optional_bool("tokenizer.ggml.add_bos_token")?
            .unwrap_or(pre == Some("llama-bpe"));
        let padding = id("padding")?.unwrap_or(end);
        Ok(Self { begin, wants_begin: wants_begin && begin.is_some(), end, ends, padding })
    }

    /// Reads the three configuration files of `folder` that may be there.
    pub(super) fn from_folder(
        folder: &Path,
        tokenizer: &tokenizers::Tokenizer,
    ) -> Result<Self, TokenizerError> {
        let spellings: SpellingConfig = read(&folder.join("tokenizer_config.json"))?;
        let generation: IdConfig = read(&folder.join("generation_config.json"))?;
        let config: IdConfig = read(&folder.join("config.json"))?;
        let id = |spelling: &Option<Spelling>| -> Option<u32> {
            spelling.as_ref().and_then(|spelling| tokenizer.token_to_id(spelling.text()))
        };
        let mut ends: Vec<u32> = id(&spellings.eos_token).into_iter().collect();
        for ids in [generation.eos_token_id, config.eos_token_id].into_iter().flatten() {
            ends.extend(ids.into_vec());
        }
        let mut seen = Vec::new();
        ends.retain(|end| {
            let new = tokenizer.id_to_token(*end).is_some() && !seen.contains(end);
            seen.push(*end);
            new
        });
        let Some(end) = ends.first().copied() else {
            return Err(TokenizerError::NoEnd(folder.display().to_string()));
        };
        let configured = config.bos_token_id.and_then(|ids| ids.into_vec().first().copied());
        let begin = id(&spellings.bos_token).or(configured);
        // Where no flag says it, the post-processor does: does it put the token before nothing?
        let prefixes = tokenizer
            .encode_fast("", true)
            .is_ok_and(|encoding| begin.is_some() && encoding.get_ids().first().copied() == begin);
        let wants_begin = spellings.add_bos_token.unwrap_or(prefixes) && begin.is_some();
        let padding = id(&spellings.pad_token).or(config.pad_token_id).unwrap_or(end);
        Ok(Self { begin, wants_begin, end, ends, padding })
    }
}

/// Reads a JSON file; defaults when it does not exist.
fn read<T: Default + serde::de::DeserializeOwned>(path: &Path) -> Result<T, TokenizerError> {
    let file_error = |why: String| TokenizerError::File { path: path.to_path_buf(), why };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(file_error(error.to_string())),
    };
    serde_json::from_str(&text).map_err(|error| file_error(error.to_string()))
}
