//! Chat templates: the Jinja text a model ships, rendered to the prompt it was trained on.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use candle_core::quantized::gguf_file::Value;
use minijinja::Environment;
use minijinja::ErrorKind;
use minijinja::context;
use minijinja::syntax::SyntaxConfig;
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Deserialize;
use serde::Serialize;
use serde_json::ser::Formatter;

use super::gguf::Metadata;
use super::gguf::MetadataError;

const NAME: &str = "chat_template";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Whose turn: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A turn of `role` saying `content`.
    pub fn new(role: &str, content: &str) -> Self {
        Self { role: role.to_string(), content: content.to_string() }
    }
}

/// Why a template could not be read or rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// A GGUF metadata entry of the wrong kind.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A file of the model folder could not be read.
    #[error("cannot read the chat template in {path}: {why}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        why: String,
    },
    /// The template is not valid, or refused the conversation.
    #[error("the model's chat template failed: {0}")]
    Template(#[from] minijinja::Error),
}

/// A model's chat template, compiled.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    begin: String,
    end: String,
}

/// The part of `tokenizer_config.json` that templates need.
#[derive(Debug, Default, Deserialize)]
struct TokenizerConfig {
    chat_template: Option<Templates>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Debug, Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        match token {
            Token::Text(text) | Token::Object { content: text } => text,
        }
    }
}

impl ChatTemplate {
    /// Compiles `source`; `begin` and `end` are what `bos_token` and `eos_token` stand for in it.
    ///
    /// # Errors
    /// When the source is not a valid template.
    pub fn new(source: &str, begin: &str, end: &str) -> Result<Self, ChatError> {
        let mut environment = Environment::new();
        // The settings and additions under which the templates' authors tested them.
        environment
            .set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
        environment.set_unknown_method_callback(unknown_method_callback);
        environment.add_function("raise_exception", |why: String| -> Result<String, _> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
        });
        environment.add_filter("tojson", json_as_python);
        environment.add_template_owned(NAME, source.to_string())?;
        Ok(Self { environment, begin: begin.to_string(), end: end.to_string() })
    }

    /// The template in a GGUF file's metadata; `None` when it has none.
    ///
    /// # Errors
    /// When the entry is not a string or not a valid template.
    pub fn from_gguf(metadata: &HashMap<String, Value>) -> Result<Option<Self>, ChatError> {
        let metadata = Metadata(metadata);
        let Some(source) = metadata.optional_string("tokenizer.chat_template")? else {
            return Ok(None);
        };
        let tokens = metadata.strings("tokenizer.ggml.tokens")?;
        let spelling = |key: &str| -> Result<&str, ChatError> {
            let id = metadata.optional_u32(key)?;
            let token = id.and_then(|id| tokens.get(id as usize));
            Ok(token.copied().unwrap_or_default())
        };
        let begin = spelling("tokenizer.ggml.bos_token_id")?;
        let end = spelling("tokenizer.ggml.eos_token_id")?;
        Self::new(source, begin, end).map(Some)
    }

    /// The template of a Hugging Face folder, from `chat_template.jinja` or
    /// `tokenizer_config.json`; `None` when it has none.
    ///
    /// # Errors
    /// When a file is there but cannot be read, or is not a valid template.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, ChatError> {
        let path = folder.join("tokenizer_config.json");
        let config: TokenizerConfig = match read_optional(&path)? {
            Some(text) => serde_json::from_str(&text)
                .map_err(|error| ChatError::File { path, why: error.to_string() })?,
            None => TokenizerConfig::default(),
        };
        let source = match read_optional(&folder.join("chat_template.jinja"))? {
            Some(source) => Some(source),
            None => config.chat_template.and_then(|templates| match templates {
                Templates::One(source) => Some(source),
                Templates::Named(mut list) => {
                    let default = list.iter().position(|named| named.name == "default");
                    default.map(|index| list.swap_remove(index).template)
                }
            }),
        };
        let Some(source) = source else {
            return Ok(None);
        };
        let begin = config.bos_token.map(String::from).unwrap_or_default();
        let end = config.eos_token.map(String::from).unwrap_or_default();
        Self::new(&source, &begin, &end).map(Some)
    }

    /// The template's own text.
    pub fn source(&self) -> String {
        let template = self.environment.get_template(NAME);
        template.map(|template| template.source().to_string()).unwrap_or_default()
    }

    /// The prompt for `messages`; with `add_generation_prompt` it ends where the assistant's next
    /// turn begins. Encode it with [`super::tokenizer::Tokenizer::encode_with_specials`].
    ///
    /// As transformers renders it, without tools and documents; but there is no `strftime_now`, so
    /// that templates that write the day's date fall back to a fixed one, and a prompt is the same
    /// tomorrow.
    ///
    /// # Errors
    /// When the template refuses the conversation, for example because roles do not alternate.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, ChatError> {
        let template = self.environment.get_template(NAME)?;
        let messages: Vec<_> = messages
            .iter()
            .map(|message| context! { role => &message.role, content => &message.content })
            .collect();
        Ok(template.render(context! {
            messages,
            add_generation_prompt,
            tools => (),
            documents => (),
            bos_token => &self.begin,
            eos_token => &self.end,
        })?)
    }
}

/// JSON as Python's `json.dumps` writes it: blanks behind commas and colons, nothing escaped for
/// the sake of HTML.
fn json_as_python(value: &minijinja::Value) -> Result<String, minijinja::Error> {
    let mut text = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, PythonFormatter);
    let wrong = |error: String| minijinja::Error::new(ErrorKind::BadSerialization, error);
    value.serialize(&mut serializer).map_err(|error| wrong(error.to_string()))?;
    String::from_utf8(text).map_err(|error| wrong(error.to_string()))
}

struct PythonFormatter;

impl PythonFormatter {
    fn separate<W: ?Sized + io::Write>(writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }
}

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        Self::separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

fn read_optional(path: &Path) -> Result<Option<String>, ChatError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(ChatError::File { path: path.to_path_buf(), why: error.to_string() }),
    }
}
