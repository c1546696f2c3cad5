//! Text to token ids and back: byte-pair encoding, from GGUF metadata or a `tokenizer.json`.
//!
//! GGUF files name their way of cutting text before merging (`tokenizer.ggml.pre`) instead of
//! describing it. A wrong guess changes token ids silently, so names this module has not been
//! compared with llama.cpp on are refused.

use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::Value;
use tokenizers::AddedToken;
use tokenizers::DecoderWrapper;
use tokenizers::ModelWrapper;
use tokenizers::PreTokenizerWrapper;
use tokenizers::SplitDelimiterBehavior;
use tokenizers::models::bpe::BPE;
use tokenizers::models::bpe::Vocab;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::Split;
use tokenizers::pre_tokenizers::split::SplitPattern;

use super::gguf::Metadata;
use super::gguf::MetadataError;
use super::special_ids::SpecialIds;

/// Values of `tokenizer.ggml.pre` that are understood.
pub const SUPPORTED_PRE: &[&str] = &["smollm", "gpt-2", "llama-bpe", "qwen2"];

/// How Llama 3 cuts text before merging: words, up to three digits, punctuation, white space.
const LLAMA3_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// How Qwen2 cuts text: as Llama 3, but digit by digit.
const QWEN2_SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// Kinds of token in `tokenizer.ggml.token_type` that need more than the merges.
mod token_type {
    pub(super) const UNKNOWN: u32 = 2;
    pub(super) const CONTROL: u32 = 3;
    pub(super) const USER_DEFINED: u32 = 4;
}

/// Why a tokenizer could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A metadata entry is missing or malformed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Not byte-pair encoding.
    #[error(
        "the model's tokenizer is of kind `{0}`, which is not supported (supported: byte-pair \
         encoding); use a model with a byte-pair tokenizer"
    )]
    Kind(String),
    /// A way of cutting text that is not known here.
    #[error(
        "the model cuts text the `{found}` way (tokenizer.ggml.pre), which is not supported; \
         supported: {}; use the model's Hugging Face folder, whose tokenizer.json says how",
        SUPPORTED_PRE.join(", ")
    )]
    Pre {
        /// What the file says.
        found: String,
    },
    /// The vocabulary contradicts itself.
    #[error("the model's vocabulary is inconsistent: {0}; the file may be damaged")]
    Vocabulary(String),
    /// No end token is declared.
    #[error("{0} declares no end-of-text token, so generation could not know when to stop")]
    NoEnd(String),
    /// A file of a model folder could not be read.
    #[error("cannot read {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        why: String,
    },
}

/// A model's tokenizer with its special token ids.
///
/// The padding id may equal the end id, and both may occur inside a chat prompt: never find out
/// from ids which positions are padding.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    /// Takes special tokens written in a text as ordinary characters.
    plain: tokenizers::Tokenizer,
    /// Takes them as what they stand for.
    parsing: tokenizers::Tokenizer,
    ids: SpecialIds,
}

impl Tokenizer {
    /// Builds the tokenizer a GGUF file's metadata describes.
    ///
    /// # Errors
    /// When entries are missing or contradictory, or describe a tokenizer that is not supported.
    pub fn from_gguf(metadata: &HashMap<String, Value>) -> Result<Self, TokenizerError> {
        let metadata = Metadata(metadata);
        let kind = metadata.string("tokenizer.ggml.model")?;
        if kind != "gpt2" {
            return Err(TokenizerError::Kind(kind.to_string()));
        }
        let tokens = metadata.strings("tokenizer.ggml.tokens")?;
        let pre = metadata.string("tokenizer.ggml.pre")?;
        let mut inner = tokenizers::Tokenizer::new(byte_pairs(metadata, &tokens, pre)?);
        if pre == "qwen2" {
            // llama.cpp leaves this step out; the model was trained with it.
            inner.with_normalizer(Some(NFC)).map_err(unusable)?;
        }
        inner.with_pre_tokenizer(Some(pre_tokenizer(pre)?));
        inner.with_decoder(Some(ByteLevel::new(false, false, false)));
        inner.add_tokens(added_tokens(metadata, &tokens)?).map_err(unusable)?;
        let ids = SpecialIds::from_gguf(metadata, &tokens)?;
        Ok(Self::new(inner, ids))
    }

    /// Reads a `tokenizer.json`; the special ids come from `tokenizer_config.json`,
    /// `generation_config.json` and `config.json` beside it, as far as they are there.
    ///
    /// # Errors
    /// When a file cannot be read, the model in it is not byte-pair encoding, or no end token is
    /// declared.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let file_error = |why: String| TokenizerError::File { path: path.to_path_buf(), why };
        let bytes = std::fs::read(path).map_err(|error| file_error(error.to_string()))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| file_error(error.to_string()))?;
        match inner.get_model() {
            ModelWrapper::BPE(model) => {
                if let Some(unknown) = &model.unk_token
                    && inner.token_to_id(unknown).is_none()
                {
                    let why = format!("the unknown token `{unknown}` is not a token");
                    return Err(TokenizerError::Vocabulary(why));
                }
            }
            ModelWrapper::WordPiece(_) => return Err(TokenizerError::Kind("WordPiece".into())),
            ModelWrapper::WordLevel(_) => return Err(TokenizerError::Kind("WordLevel".into())),
            ModelWrapper::Unigram(_) => return Err(TokenizerError::Kind("Unigram".into())),
        }
        inner.with_truncation(None).map_err(unusable)?;
        inner.with_padding(None);
        let ids = SpecialIds::from_folder(path.parent().unwrap_or(Path::new(".")), &inner)?;
        Ok(Self::new(inner, ids))
    }

    fn new(parsing: tokenizers::Tokenizer, ids: SpecialIds) -> Self {
        let mut plain = parsing.clone();
        plain.set_encode_special_tokens(true);
        Self { plain, parsing, ids }
    }

    /// The tokenizer as the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// When the library cannot write it down.
    pub fn to_json(&self) -> Result<String, TokenizerError> {
        let wrong = |error: tokenizers::Error| TokenizerError::Vocabulary(error.to_string());
        self.parsing.to_string(true).map_err(wrong)
    }

    /// Token ids of `text`. Nothing is added, and special tokens written in the text are taken as
    /// ordinary characters: a document cannot end a turn.
    ///
    /// Bytes for which the vocabulary has no token (in some models: a few control characters) are
    /// left out, as in llama.cpp.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        encode(&self.plain, text)
    }

    /// As [`Self::encode`], but special tokens written in the text become those tokens. For
    /// rendered chat templates only.
    pub fn encode_with_specials(&self, text: &str) -> Vec<u32> {
        encode(&self.parsing, text)
    }

    /// The text of `ids`, special tokens included. Bytes that are no whole character (yet) come
    /// out as U+FFFD; ids outside the vocabulary are left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.decode_ids(ids, false)
    }

    /// As [`Self::decode`], without the special tokens.
    pub fn decode_without_specials(&self, ids: &[u32]) -> String {
        self.decode_ids(ids, true)
    }

    fn decode_ids(&self, ids: &[u32], skip_specials: bool) -> String {
        self.parsing.decode(ids, skip_specials).unwrap_or_else(|error| {
            // Only a decoder with a regular expression can fail; byte-level ones have none.
            tracing::error!(%error, tokens = ids.len(), "the tokenizer could not decode");
            char::REPLACEMENT_CHARACTER.to_string()
        })
    }

    /// The text of one token; `None` outside the vocabulary.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.parsing.id_to_token(id)?;
        Some(self.decode(&[id]))
    }

    /// The bytes of one token, of which every text is made by laying them end to end; none outside
    /// the vocabulary. `None` where the decoder does more than that: the text of a token then
    /// depends on its neighbours, and only [`Self::decode`] knows it.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        if !self.is_byte_level() {
            return None;
        }
        let spelling = self.parsing.id_to_token(id).unwrap_or_default();
        // A spelling with characters of its own stands for itself: an added token.
        let bytes: Option<Vec<u8>> = spelling.chars().map(byte_of).collect();
        Some(bytes.unwrap_or_else(|| spelling.into_bytes()))
    }

    /// Whether [`Self::token_bytes`] knows the tokens' bytes.
    pub fn is_byte_level(&self) -> bool {
        matches!(self.parsing.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
    }

    /// The id of the token with exactly this spelling in the vocabulary, such as `<|im_end|>`.
    pub fn token_id(&self, spelling: &str) -> Option<u32> {
        self.parsing.token_to_id(spelling)
    }

    /// The token that ends a text or a turn.
    pub fn eos(&self) -> u32 {
        self.ids.end
    }

    /// Whether the model ends its text with this token; some models have several.
    pub fn is_end(&self, id: u32) -> bool {
        self.ids.ends.contains(&id)
    }

    /// The token that begins a text, where the model has one.
    pub fn bos(&self) -> Option<u32> {
        self.ids.begin
    }

    /// Whether the model expects [`Self::bos`] before every text. [`Self::encode`] does not add it.
    pub fn wants_bos(&self) -> bool {
        self.ids.wants_begin
    }

    /// The token to fill rows with; the end token where the model has none of its own.
    pub fn pad(&self) -> u32 {
        self.ids.padding
    }

    /// Number of tokens, added ones included. The model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.parsing.get_vocab_size(true)
    }
}

/// The byte a character stands for in spellings of byte-level vocabularies (Radford et al. 2019,
/// GPT-2): printable ones stand for themselves, the others are counted up from U+0100.
fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character);
    let byte = match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x100..=0x120 => code - 0x100,
        0x121..=0x142 => code - 0x121 + 0x7f,
        0x143 => 0xad,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// Encodes; a text on which a pre-tokenizer's regular expression gives up is cut in two.
fn encode(inner: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    match inner.encode_fast(text, false) {
        Ok(encoding) => encoding.get_ids().to_vec(),
        // The error may quote the text, which belongs into no log.
        Err(_) => {
            let Some((middle, _)) = text.char_indices().nth(text.chars().count() / 2) else {
                return Vec::new();
            };
            if middle == 0 {
                tracing::error!(bytes = text.len(), "the tokenizer could not encode a character");
                return Vec::new();
            }
            tracing::warn!(bytes = text.len(), "a text was encoded in two halves");
            let (left, right) = text.split_at(middle);
            [encode(inner, left), encode(inner, right)].concat()
        }
    }
}

fn unusable(error: tokenizers::Error) -> TokenizerError {
    TokenizerError::Vocabulary(error.to_string())
}

/// The merges. No unknown token: llama.cpp drops bytes without a token, and so did training.
fn byte_pairs(metadata: Metadata<'_>, tokens: &[&str], pre: &str) -> Result<BPE, TokenizerError> {
    let mut vocabulary = Vocab::default();
    for (id, token) in (0_u32..).zip(tokens) {
        vocabulary.insert((*token).to_string(), id);
    }
    if vocabulary.len() != tokens.len() {
        let twice = tokens.len() - vocabulary.len();
        return Err(TokenizerError::Vocabulary(format!("{twice} tokens are listed twice")));
    }
    let merges = metadata.strings("tokenizer.ggml.merges")?;
    let pairs = merges.into_iter().map(|merge| {
        let pair = merge.split_once(' ').map(|(left, right)| (left.into(), right.into()));
        let why = || format!("the merge `{merge}` is not a pair");
        pair.ok_or_else(|| TokenizerError::Vocabulary(why()))
    });
    BPE::builder()
        .vocab_and_merges(vocabulary, pairs.collect::<Result<Vec<_>, _>>()?)
        .ignore_merges(pre == "llama-bpe")
        .build()
        .map_err(unusable)
}

/// The way of cutting text that `tokenizer.ggml.pre` names.
fn pre_tokenizer(pre: &str) -> Result<PreTokenizerWrapper, TokenizerError> {
    let gpt2 = ByteLevel::new(false, true, true);
    let split_by = |pattern: &str| -> Result<PreTokenizerWrapper, TokenizerError> {
        let pattern = SplitPattern::Regex(pattern.to_string());
        let split =
            Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(unusable)?;
        let bytes = ByteLevel::new(false, true, false);
        Ok(Sequence::new(vec![split.into(), bytes.into()]).into())
    };
    match pre {
        "smollm" => Ok(Sequence::new(vec![Digits::new(true).into(), gpt2.into()]).into()),
        "gpt-2" => Ok(gpt2.into()),
        "llama-bpe" => split_by(LLAMA3_SPLIT),
        "qwen2" => split_by(QWEN2_SPLIT),
        _ => Err(TokenizerError::Pre { found: pre.to_string() }),
    }
}

/// Tokens that are matched in the text before it is cut.
fn added_tokens(
    metadata: Metadata<'_>,
    tokens: &[&str],
) -> Result<Vec<AddedToken>, TokenizerError> {
    let Some(types) = metadata.optional_u32s("tokenizer.ggml.token_type")? else {
        return Ok(Vec::new());
    };
    if types.len() != tokens.len() {
        let why = format!("{} tokens, but {} token types", tokens.len(), types.len());
        return Err(TokenizerError::Vocabulary(why));
    }
    let pairs = tokens.iter().zip(types);
    let added = pairs.filter_map(|(token, kind)| match kind {
        token_type::CONTROL | token_type::UNKNOWN => Some(AddedToken::from(*token, true)),
        token_type::USER_DEFINED => Some(AddedToken::from(*token, false).normalized(false)),
        _ => None,
    });
    Ok(added.collect())
}
