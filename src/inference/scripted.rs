//! A generator that says what a test tells it to.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use super::Continuation;
use super::GenerateError;
use super::Generation;
use super::Generator;
use super::Request;
use super::TokenScore;
use crate::rollout::StopReason;

/// Answers each sample of each request with the next text of its script; for tests of logic.
///
/// Every character becomes one token (its code point), with log-probability −1.
#[derive(Debug, Default)]
pub struct Scripted {
    texts: Vec<String>,
    next: AtomicUsize,
    seen: Mutex<Vec<Request>>,
}

impl Scripted {
    /// A generator that will say `texts`, in order.
    pub fn new<S: Into<String>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self { texts: texts.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The requests received so far.
    pub fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Generator for Scripted {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generation>>, GenerateError> {
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut all = Vec::with_capacity(requests.len());
        for request in requests {
            seen.push(request.clone());
            let mut samples = Vec::with_capacity(request.samples);
            for _ in 0..request.samples {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                let text = self.texts.get(index).ok_or(GenerateError::ScriptEnded(index))?;
                let tokens: Vec<u32> = text.chars().map(u32::from).collect();
                samples.push(Generation {
                    logprobs: vec![-1.0; tokens.len()],
                    scores: Vec::new(),
                    tokens,
                    text: text.clone(),
                    stop: StopReason::StopString,
                });
            }
            all.push(samples);
        }
        Ok(all)
    }

    fn score(&self, _: &[Continuation]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        Err(GenerateError::Unsupported("a script cannot score".into()))
    }

    fn model_version(&self) -> &str {
        "scripted"
    }
}
