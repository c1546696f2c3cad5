//! Prompts: minijinja templates, rendered and encoded in two parts.
//!
//! A template has a line `===` that parts the context (passages, examples) from the query
//! (question, answer). The two are encoded on their own, so that many queries about the same
//! passages have the same token prefix: it is read once and its branches trained together.

use std::collections::HashMap;
use std::path::Path;

use minijinja::Environment;
use minijinja::context;
use minijinja::value::Serde;
use serde::Serialize;

use crate::model::tokenizer::Tokenizer;
use crate::task::Passage;

const SEPARATOR: &str = "===\n";

/// The prompts that come with the program, by name.
const BUILT_IN: [(&str, &str); 9] = [
    ("few_shot", include_str!("prompts/few_shot.jinja")),
    ("bare", include_str!("prompts/bare.jinja")),
    ("closed_book", include_str!("prompts/closed_book.jinja")),
    ("improve", include_str!("prompts/improve.jinja")),
    ("diverge", include_str!("prompts/diverge.jinja")),
    ("propose", include_str!("prompts/propose.jinja")),
    ("propose_bare", include_str!("prompts/propose_bare.jinja")),
    ("propose_document", include_str!("prompts/propose_document.jinja")),
    ("propose_document_bare", include_str!("prompts/propose_document_bare.jinja")),
];

/// Why a prompt cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// No such prompt.
    #[error("there is no prompt `{name}`; there are: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The template is wrong.
    #[error("prompt `{name}`: {reason}")]
    Template {
        /// The prompt.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A prompt file cannot be read.
    #[error("cannot read the prompt {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A rendered prompt as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// Examples and passages.
    pub context: Vec<u32>,
    /// The question, up to where the model begins to write.
    pub query: Vec<u32>,
}

impl Prompt {
    /// Context and query, end to end.
    pub fn tokens(&self) -> Vec<u32> {
        [self.context.as_slice(), self.query.as_slice()].concat()
    }
}

/// A task that a proposer is shown as an example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    /// Its id.
    pub task_id: String,
    /// The passages of its evidence, first hop first.
    pub passages: Vec<Passage>,
    /// Its question.
    pub question: String,
    /// Its answer.
    pub answer: String,
}

/// The prompts in use: those built in, and a folder's `*.jinja` files in their place.
#[derive(Debug)]
pub struct Prompts {
    templates: HashMap<String, Environment<'static>>,
}

impl Prompts {
    /// The built-in prompts.
    ///
    /// # Errors
    /// When one of them is not a valid template, which a test rules out.
    pub fn built_in() -> Result<Self, PromptError> {
        let mut prompts = Self { templates: HashMap::new() };
        for (name, source) in BUILT_IN {
            prompts.insert(name, source)?;
        }
        Ok(prompts)
    }

    /// The built-in prompts, with those of `dir` added or in their place.
    ///
    /// # Errors
    /// When a file cannot be read or is not a valid template.
    pub fn with_folder(dir: &Path) -> Result<Self, PromptError> {
        let mut prompts = Self::built_in()?;
        let Ok(entries) = std::fs::read_dir(dir) else { return Ok(prompts) };
        for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
            let (Some(stem), true) = (
                path.file_stem().and_then(|stem| stem.to_str()),
                path.extension().is_some_and(|extension| extension == "jinja"),
            ) else {
                continue;
            };
            let source = std::fs::read_to_string(&path)
                .map_err(|source| PromptError::Read { path: path.display().to_string(), source })?;
            prompts.insert(stem, &source)?;
        }
        Ok(prompts)
    }

    /// The names there are, sorted.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.templates.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    fn insert(&mut self, name: &str, source: &str) -> Result<(), PromptError> {
        let wrong = |reason: String| PromptError::Template { name: name.to_string(), reason };
        if source.matches(SEPARATOR).count() != 1 {
            return Err(wrong("it needs exactly one line `===` before the query".into()));
        }
        let mut environment = Environment::new();
        environment
            .add_template_owned("prompt", source.trim_end().to_string())
            .map_err(|error| wrong(error.to_string()))?;
        self.templates.insert(name.to_string(), environment);
        Ok(())
    }

    /// Renders prompt `name` and encodes it. `answer` is the one that the proposer writes a
    /// question for, or an earlier one of the solver's; empty otherwise.
    ///
    /// Passages and questions are data: nothing in them is read as a template or special token.
    ///
    /// # Errors
    /// When there is no such prompt or it fails on this input.
    pub fn render(
        &self,
        name: &str,
        tokenizer: &Tokenizer,
        passages: &[&Passage],
        question: &str,
        answer: &str,
    ) -> Result<Prompt, PromptError> {
        Ok(encoded(self.text(name, passages, question, answer)?, tokenizer))
    }

    /// Like [`Prompts::render`], for a proposer that is shown tasks as examples.
    ///
    /// # Errors
    /// As [`Prompts::render`].
    pub fn render_with_examples(
        &self,
        name: &str,
        tokenizer: &Tokenizer,
        passages: &[&Passage],
        answer: &str,
        examples: &[&Example],
    ) -> Result<Prompt, PromptError> {
        Ok(encoded(self.filled(name, passages, "", answer, examples)?, tokenizer))
    }

    /// Renders prompt `name` as text: the context and the query.
    ///
    /// # Errors
    /// As [`Prompts::render`].
    pub fn text(
        &self,
        name: &str,
        passages: &[&Passage],
        question: &str,
        answer: &str,
    ) -> Result<(String, String), PromptError> {
        self.filled(name, passages, question, answer, &[])
    }

    fn filled(
        &self,
        name: &str,
        passages: &[&Passage],
        question: &str,
        answer: &str,
        examples: &[&Example],
    ) -> Result<(String, String), PromptError> {
        let environment = self.templates.get(name).ok_or_else(|| PromptError::Unknown {
            name: name.to_string(),
            known: self.names().join(", "),
        })?;
        let passages: Vec<_> = passages
            .iter()
            .map(|passage| context! { title => &passage.title, text => &passage.text })
            .collect();
        let wrong = |reason: String| PromptError::Template { name: name.to_string(), reason };
        let text = environment
            .get_template("prompt")
            .and_then(|template| {
                template.render(context! {
                    passages, question, answer, examples => Serde(examples)
                })
            })
            .map_err(|error| wrong(error.to_string()))?;
        // The last separator: a passage may contain such a line, a question is one line.
        let (context, query) =
            text.rsplit_once(SEPARATOR).ok_or_else(|| wrong("the query is missing".into()))?;
        Ok((context.to_string(), query.to_string()))
    }
}

fn encoded((context, query): (String, String), tokenizer: &Tokenizer) -> Prompt {
    Prompt { context: tokenizer.encode(&context), query: tokenizer.encode(&query) }
}
