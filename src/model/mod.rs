//! The language model: a frozen decoder, its tokenizer, and adapters on top.

pub mod adapter_set;
pub mod backward;
pub mod chat;
pub mod config;
pub mod decoder;
pub mod device;
pub mod export;
pub mod fetch;
pub mod gguf;
pub mod lora;
pub mod ops;
pub mod packed;
pub mod runner;
mod special_ids;
pub mod stored;
#[cfg(target_arch = "x86_64")]
mod tile_unit;
pub mod tokenizer;
mod weights;

use std::path::Path;
use std::path::PathBuf;

use self::chat::ChatError;
use self::chat::ChatTemplate;
use self::config::ConfigError;
use self::config::DecoderConfig;
use self::decoder::Decoder;
use self::fetch::FetchError;
use self::fetch::Layout;
use self::fetch::ModelFiles;
use self::tokenizer::Tokenizer;
use self::tokenizer::TokenizerError;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {source}; check the path, or fetch the model again")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what its name promises.
    #[error("{path} is damaged or not a model file: {source}; fetch it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: candle_core::Error,
    },
    /// A GGUF file with a type of weights that is not read.
    #[error(
        "{path} stores weights in ggml type number {kind}, which is not supported (supported: \
         F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K); use another file of the model"
    )]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The number, from the ggml library.
        kind: String,
    },
    /// A tensor that is not plain numbers.
    #[error(
        "tensor `{name}` is of type {found}, not of F32, F16, BF16 or F64; use the model's \
         unquantised folder or a GGUF file of it"
    )]
    NotFloat {
        /// The tensor.
        name: String,
        /// Its type.
        found: &'static str,
    },
    /// A folder lacks files.
    #[error(transparent)]
    Files(#[from] FetchError),
    /// A tensor has another shape than the model's description says.
    #[error("tensor `{name}` is {found:?}, expected {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its dimensions.
        found: Vec<usize>,
        /// What they should be.
        expected: Vec<usize>,
    },
    /// The model's description was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The tokenizer was refused.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template was refused.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The tensor library failed.
    #[error("loading weights failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

/// What is known of a model without its weights.
#[derive(Debug, Clone)]
pub struct Outline {
    /// What people call it.
    pub name: String,
    /// Its decoder's dimensions.
    pub config: DecoderConfig,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
}

impl Outline {
    /// Reads it from a model's files; no weight is read.
    ///
    /// # Errors
    /// When a file is missing, damaged, or of an unsupported architecture.
    pub fn read(files: &ModelFiles) -> Result<Self, ModelError> {
        let name = files.name.clone();
        let tokenizer = Model::load_tokenizer(files)?;
        let config = match &files.layout {
            Layout::Gguf { path } => weights::Gguf::open(path)?.config()?,
            Layout::Folder { dir } => weights::folder_config(dir)?,
        };
        Ok(Self { name, config, tokenizer })
    }
}

/// A frozen base model, ready to read and write text.
#[derive(Debug)]
pub struct Model {
    /// What people call it: `smollm2-135m`, a folder's path, a hub id.
    pub name: String,
    /// The frozen weights.
    pub decoder: Decoder,
    /// Text to tokens and back.
    pub tokenizer: Tokenizer,
    /// The chat template, if the model carries one.
    pub chat_template: Option<ChatTemplate>,
}

impl Model {
    /// Loads weights and tokenizer.
    ///
    /// # Errors
    /// When a file is missing, damaged, or of an unsupported architecture.
    pub fn load(files: &ModelFiles) -> Result<Self, ModelError> {
        match &files.layout {
            Layout::Gguf { path } => Self::load_gguf(&files.name, path),
            Layout::Folder { dir } => Self::load_folder(&files.name, dir),
        }
    }

    /// Loads the tokenizer alone.
    ///
    /// # Errors
    /// When its file is missing or damaged.
    pub fn load_tokenizer(files: &ModelFiles) -> Result<Tokenizer, ModelError> {
        Ok(match &files.layout {
            Layout::Gguf { path } => {
                Tokenizer::from_gguf(&weights::Gguf::open(path)?.content.metadata)?
            }
            Layout::Folder { dir } => Tokenizer::from_file(&dir.join("tokenizer.json"))?,
        })
    }

    fn load_gguf(name: &str, path: &Path) -> Result<Self, ModelError> {
        let file = weights::Gguf::open(path)?;
        let metadata = &file.content.metadata;
        let tokenizer = Tokenizer::from_gguf(metadata)?;
        let chat_template = ChatTemplate::from_gguf(metadata)?;
        let decoder = file.decoder()?;
        Ok(Self { name: name.to_string(), decoder, tokenizer, chat_template })
    }

    fn load_folder(name: &str, dir: &Path) -> Result<Self, ModelError> {
        let decoder = weights::folder_decoder(dir)?;
        let tokenizer = Tokenizer::from_file(&dir.join("tokenizer.json"))?;
        let chat_template = ChatTemplate::from_folder(dir)?;
        Ok(Self { name: name.to_string(), decoder, tokenizer, chat_template })
    }

    /// Whether the model means to end its text with this token.
    pub fn is_end(&self, token: u32) -> bool {
        self.tokenizer.is_end(token)
    }
}
