//! The OpenAI completions protocol with its extensions: what is sent, and what comes back.
//!
//! Prompts go out as token ids and, where a server can, sampled tokens come back as ids. vLLM and
//! SGLang return them when asked (`return_token_ids`), older versions of vLLM in the place of
//! the tokens' texts, and llama.cpp's server beside the log-probabilities.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use super::http::Failure;
use super::survey::Abilities;
use super::survey::Kind;
use crate::inference::Request;
use crate::inference::Sampling;

/// Seeds that every server takes, and more than any night draws: llama.cpp has 32 bits, SGLang
/// wants them positive.
const SEED_BITS: u64 = 0x7fff_ffff;

/// What a completion request is made of.
pub(super) struct Ask<'a> {
    /// The policy's name on the server.
    pub(super) model: &'a str,
    /// What the server can do.
    pub(super) abilities: &'a Abilities,
    /// The prompt, and how to continue it.
    pub(super) request: &'a Request,
    /// The prompt's text, for servers that take no ids.
    pub(super) text: Option<&'a str>,
    /// Tokens in the model's vocabulary.
    pub(super) vocabulary: usize,
    /// Tokens at which the model ends.
    pub(super) ends: &'a [u32],
    /// Seed of this sample.
    pub(super) seed: u64,
    /// Whether the server shall look for stop strings.
    pub(super) stop: bool,
    /// Whether ids and log-probabilities are wanted.
    pub(super) ids: bool,
}

impl Ask<'_> {
    /// The body of a POST to `/v1/completions`.
    ///
    /// Every parameter of sampling is sent, in its neutral value too: servers have defaults of
    /// their own, and vLLM takes them from the model's `generation_config.json`.
    pub(super) fn body(&self) -> Value {
        let request = self.request;
        let ends = [self.ends, &request.stop_tokens].concat();
        let mut body = json!({
            "model": self.model,
            "prompt": request.prompt,
            "max_tokens": request.max_tokens,
            "n": 1,
            "stream": false,
            "seed": self.seed & SEED_BITS,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "skip_special_tokens": false,
            "stop_token_ids": ends,
        });
        if let Some(text) = self.text {
            body["prompt"] = text.into();
        }
        self.add_sampling(&mut body);
        if self.stop && !request.stop.is_empty() {
            body["stop"] = json!(request.stop);
        }
        if self.ids {
            body["logprobs"] = 1.into();
            body["return_token_ids"] = true.into();
        }
        if self.abilities.kind == Kind::Vllm {
            body["return_tokens_as_token_ids"] = self.ids.into();
            body["spaces_between_special_tokens"] = false.into();
        }
        if let Some(mask) = &request.mask {
            let all = 0..self.vocabulary as u32;
            let allowed: Vec<u32> = all.filter(|token| mask.allows(*token)).collect();
            body["allowed_token_ids"] = json!(allowed);
        }
        body
    }

    fn add_sampling(&self, body: &mut Value) {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty } =
            self.request.sampling;
        body["temperature"] = json!(temperature);
        body["top_p"] = json!(top_p);
        // All tokens by their number. SGLang refuses 0 and llama-cpp-python −1, which mean the same
        // elsewhere.
        body["top_k"] = json!(if top_k == 0 { self.vocabulary } else { top_k });
        body["min_p"] = json!(min_p);
        // What one family calls so, the other does not know, and vLLM logs what it does not know.
        let penalty = match self.abilities.kind {
            Kind::Vllm | Kind::Sglang => "repetition_penalty",
            Kind::LlamaCpp | Kind::Other => "repeat_penalty",
        };
        body[penalty] = json!(repetition_penalty);
    }
}

/// Whether tokens are drawn from the policy's own distribution, whole and untempered.
pub(super) fn is_plain(sampling: &Sampling) -> bool {
    sampling.temperature == 1.0 && !is_truncated(sampling)
}

/// Whether some tokens could not have been drawn at all, or their probabilities were shifted by
/// more than a temperature.
pub(super) fn is_truncated(sampling: &Sampling) -> bool {
    let Sampling { top_k, top_p, min_p, repetition_penalty, .. } = *sampling;
    top_k > 0 || top_p < 1.0 || min_p > 0.0 || repetition_penalty != 1.0
}

/// An answer to a completion request, as servers send it.
#[derive(Debug, Deserialize)]
pub(super) struct Completion {
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Usage {
    prompt_tokens: Option<usize>,
    completion_tokens: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    #[serde(default)]
    text: String,
    finish_reason: Option<String>,
    token_ids: Option<Vec<u32>>,
    prompt_token_ids: Option<Vec<u32>>,
    logprobs: Option<Logprobs>,
    prompt_logprobs: Option<Vec<Option<HashMap<String, Scored>>>>,
}

/// Log-probabilities by the tokens' texts.
type TextScores = HashMap<String, Option<f32>>;

/// The completions form (vLLM, SGLang, llama-cpp-python), and the chat form (llama.cpp).
///
/// A log-probability may be null, which is how JSON writers that accept −∞ put it: it is not known.
#[derive(Debug, Deserialize)]
struct Logprobs {
    tokens: Option<Vec<String>>,
    token_logprobs: Option<Vec<Option<f32>>>,
    top_logprobs: Option<Vec<Option<TextScores>>>,
    content: Option<Vec<Entry>>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    id: Option<u32>,
    logprob: Option<f32>,
    top_logprobs: Option<Vec<Scored>>,
}

#[derive(Debug, Deserialize)]
struct Scored {
    logprob: Option<f32>,
}

/// Why the server says that a continuation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    /// A stop string or token, or the model's end of text.
    Stop,
    /// The longest length.
    Length,
}

/// An answer in the terms of this program.
#[derive(Debug)]
pub(super) struct Answer {
    /// The text, as the server gave it.
    pub(super) text: String,
    /// Why it ended.
    pub(super) finish: Finish,
    /// The sampled tokens' ids, where all of them came.
    pub(super) ids: Option<Vec<u32>>,
    /// Their log-probabilities, where they came.
    pub(super) logprobs: Option<Vec<f32>>,
    /// The prompt's ids as the server read them.
    pub(super) prompt_ids: Option<Vec<u32>>,
    /// How many tokens the server counts in the prompt.
    pub(super) prompt_tokens: Option<usize>,
    /// How many it counts in the continuation.
    pub(super) completion_tokens: Option<usize>,
    /// The highest log-probability at the first position.
    pub(super) best_first: Option<f32>,
    /// For each token of the prompt the log-probability of what stands there.
    pub(super) prompt_scores: Option<Vec<Option<HashMap<u32, f32>>>>,
}

impl Answer {
    /// Reads an answer.
    pub(super) fn read(value: Value) -> Result<Self, Failure> {
        let completion: Completion = serde_json::from_value(value).map_err(|error| {
            Failure::broken(format!("an answer that is no completion: {error}"))
        })?;
        let choice = completion.choices.into_iter().next();
        let choice = choice.ok_or_else(|| Failure::broken("a completion without a choice"))?;
        let finish = match choice.finish_reason.as_deref() {
            Some("stop") => Finish::Stop,
            Some("length") => Finish::Length,
            other => {
                let found = other.unwrap_or("none");
                return Err(Failure::broken(format!("a completion that ended with `{found}`")));
            }
        };
        let usage = completion.usage;
        let completion_tokens = usage.as_ref().and_then(|usage| usage.completion_tokens);
        let (mut ids, mut logprobs, mut best_first) = (choice.token_ids, None, None);
        if let Some(given) = choice.logprobs {
            best_first = given.best_first();
            let (named, scored) = given.split();
            // Not all of them, where llama.cpp leaves out the parts of a character.
            let whole = |named: &Vec<u32>| completion_tokens.is_none_or(|n| n == named.len());
            ids = ids.or(named.filter(whole));
            logprobs = scored;
        }
        Ok(Self {
            text: choice.text,
            finish,
            ids,
            logprobs,
            prompt_ids: choice.prompt_token_ids,
            prompt_tokens: usage.and_then(|usage| usage.prompt_tokens),
            completion_tokens,
            best_first,
            prompt_scores: choice.prompt_logprobs.map(prompt_scores),
        })
    }
}

impl Logprobs {
    /// The highest log-probability at the first position.
    fn best_first(&self) -> Option<f32> {
        let highest = |values: &mut dyn Iterator<Item = f32>| values.reduce(f32::max);
        if let Some(entry) = self.content.as_ref().and_then(|entries| entries.first()) {
            let tops = entry.top_logprobs.as_ref()?;
            return highest(&mut tops.iter().filter_map(|top| top.logprob));
        }
        let first = self.top_logprobs.as_ref()?.first()?.as_ref()?;
        highest(&mut first.values().filter_map(|logprob| *logprob))
    }

    /// The tokens' ids, if all have one, and their log-probabilities, if all have one.
    fn split(self) -> (Option<Vec<u32>>, Option<Vec<f32>>) {
        if let Some(entries) = self.content {
            let ids = entries.iter().map(|entry| entry.id).collect();
            return (ids, entries.iter().map(|entry| entry.logprob).collect());
        }
        let id = |token: String| token.strip_prefix("token_id:")?.parse().ok();
        let ids = self.tokens.and_then(|tokens| tokens.into_iter().map(id).collect());
        (ids, self.token_logprobs.and_then(|scores| scores.into_iter().collect()))
    }
}

fn prompt_scores(
    positions: Vec<Option<HashMap<String, Scored>>>,
) -> Vec<Option<HashMap<u32, f32>>> {
    let position = |scores: HashMap<String, Scored>| {
        let scores = scores.into_iter();
        scores.filter_map(|(id, scored)| Some((id.parse().ok()?, scored.logprob?))).collect()
    };
    positions.into_iter().map(|scores| scores.map(position)).collect()
}
