//! The reading step every stage shares: passages and a question in, a short answer out.

use super::Prompt;
use super::PromptError;
use super::Prompts;
use crate::inference::Generation;
use crate::inference::Request;
use crate::inference::Sampling;
use crate::model::tokenizer::Tokenizer;
use crate::task::Passage;

/// Turns questions into requests with one prompt.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    /// The prompts in use.
    pub prompts: &'a Prompts,
    /// Name of the prompt.
    pub prompt: &'a str,
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
}

impl Reader<'_> {
    /// The prompt for a question with these passages.
    ///
    /// # Errors
    /// When the template fails.
    pub fn prompt(&self, passages: &[&Passage], question: &str) -> Result<Prompt, PromptError> {
        self.prompts.render(self.prompt, self.tokenizer, passages, question, "")
    }

    /// A request that ends with the answer's line.
    ///
    /// # Errors
    /// When the template fails.
    pub fn request(
        &self,
        passages: &[&Passage],
        question: &str,
        sampling: Sampling,
        samples: usize,
        seed: u64,
    ) -> Result<Request, PromptError> {
        Ok(self.request_for(&self.prompt(passages, question)?, sampling, samples, seed))
    }

    /// The prompt for another answer to a question that `earlier` answered with these passages.
    ///
    /// # Errors
    /// When the template fails.
    pub fn revision(
        &self,
        passages: &[&Passage],
        question: &str,
        earlier: &str,
    ) -> Result<Prompt, PromptError> {
        self.prompts.render(self.prompt, self.tokenizer, passages, question, earlier)
    }

    /// A request behind this prompt that ends with the answer's line.
    pub fn request_for(
        &self,
        prompt: &Prompt,
        sampling: Sampling,
        samples: usize,
        seed: u64,
    ) -> Request {
        Request {
            samples,
            sampling,
            stop: vec!["\n".into()],
            seed,
            ..Request::new(prompt.tokens(), self.max_tokens)
        }
    }

    /// What a demonstration of `text` looks like: exactly what generation would have produced.
    pub fn demonstration(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode(&format!(" {text}\n"))
    }
}

/// The answer in a generation: its line, trimmed; `None` when it is empty or was cut off.
pub fn answer_of(generation: &Generation) -> Option<String> {
    let text = generation.text.trim();
    (!text.is_empty() && !generation.stop.is_cut()).then(|| text.to_string())
}
