//! Getting to know a server: is it well, does it serve the model, does it part text as the model's
//! tokenizer does, and what can it do.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;

use super::ServedModel;
use super::http::Client;
use super::http::Failure;
use super::http::FailureKind;
use super::http::SMALL_ANSWER;
use super::protocol;
use super::protocol::Answer;
use super::protocol::Ask;
use crate::inference::Request;
use crate::inference::Sampling;

/// Parted differently by tokenizers that differ in what they do with case, accents, digits, white
/// space, other scripts or pictures.
const SAMPLE: &str = "In 1873, Zoë's 3.14  naïve tests:\n\tdon't_stop(42) — 日本語 🙂!";
/// A prompt after which many tokens are about as likely.
const OPEN: &str = "The";
/// Sharpens the distribution enough to be seen in log-probabilities.
const COLD: f32 = 0.5;
/// Change of a log-probability, in nats, that is not rounding.
const CHANGED: f32 = 0.05;

/// Which program answers, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Vllm,
    Sglang,
    LlamaCpp,
    Other,
}

impl Kind {
    /// What people call it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Vllm => "vLLM",
            Self::Sglang => "SGLang",
            Self::LlamaCpp => "llama.cpp",
            Self::Other => "another server",
        }
    }
}

/// How the ids of sampled tokens come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ids {
    /// All of them, always.
    Given,
    /// Without those of a stop string, so the server must not look for any.
    UpToStop,
    /// Only text comes back.
    Withheld,
}

/// Which distribution the server's log-probabilities are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logprobs {
    /// It gives none.
    None,
    /// The policy's own, whatever the sampling.
    Untempered,
    /// Scaled by the temperature, before tokens are left out.
    Tempered,
    /// The one that tokens are drawn from, with everything.
    Sampled,
}

/// What a server can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Abilities {
    /// Which program it is.
    pub(super) kind: Kind,
    /// Whether a prompt may be token ids.
    pub(super) takes_ids: bool,
    /// How ids of sampled tokens come back.
    pub(super) ids: Ids,
    /// Which log-probabilities it gives.
    pub(super) logprobs: Logprobs,
    /// Whether it scores the tokens of a prompt.
    pub(super) scores: bool,
    /// Longest prompt and continuation, where it says so.
    pub(super) context: Option<usize>,
}

impl Abilities {
    /// Whether its log-probabilities are those of the distribution sampled from.
    pub(super) fn knows_logprobs(&self, request: &Request) -> bool {
        let sampling = &request.sampling;
        let greedy = sampling.temperature <= 0.0;
        let whole = !protocol::is_truncated(sampling) && request.mask.is_none();
        match self.logprobs {
            Logprobs::None => false,
            Logprobs::Untempered => (protocol::is_plain(sampling) || greedy) && whole,
            Logprobs::Tempered => whole,
            Logprobs::Sampled => true,
        }
    }

    /// Why what it writes under `request` cannot be trained on; none if it can.
    pub(super) fn untrainable(&self, request: &Request) -> Option<String> {
        let name = self.kind.as_str();
        if !self.takes_ids {
            return Some(format!("{name} takes prompts as text only, not as token ids"));
        }
        if self.ids == Ids::Withheld {
            return Some(format!("{name} gives text only, not the ids of the sampled tokens"));
        }
        if self.logprobs == Logprobs::None {
            return Some(format!("{name} gives no log-probabilities"));
        }
        (!self.knows_logprobs(request)).then(|| {
            format!(
                "{name} gives log-probabilities of another distribution than the one it samples \
                 from; sample at temperature 1 without truncation (solve.temperature = 1.0), or \
                 start vLLM with --logprobs-mode processed_logprobs"
            )
        })
    }
}

/// Asks one server everything.
pub(super) struct Survey<'a> {
    pub(super) client: &'a Client,
    pub(super) url: &'a str,
    /// The base model's name on the server.
    pub(super) name: &'a str,
    pub(super) model: &'a ServedModel,
    /// Longest time for one question.
    pub(super) timeout: Duration,
}

/// What the list of models says about ours.
struct Listed {
    kind: Kind,
    context: Option<usize>,
}

impl Survey<'_> {
    /// What the server can do, and the names of all models that it lists.
    pub(super) fn run(&self) -> Result<(Abilities, Vec<String>), Failure> {
        self.check_health()?;
        let (names, listed) = self.check_listed()?;
        let compared = self.compare_tokenizers()?;
        let mut abilities = self.try_out(&listed)?;
        if !compared && !abilities.takes_ids {
            let why = "it takes prompts as text only, and offers no way to see its tokens, so it \
                       cannot be known whether it reads what is meant";
            return Err(Failure::wrong(why));
        }
        if !compared {
            tracing::warn!(
                endpoint = self.url,
                "the server offers no way to compare its tokenizer with the model's"
            );
        }
        abilities.context = listed.context;
        Ok((abilities, names))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn check_health(&self) -> Result<(), Failure> {
        match self.client.get(&self.url("/health"), self.timeout) {
            // A server without this page says whether it is well by answering the next question.
            Err(Failure { kind: FailureKind::Refused(404 | 405), .. }) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn check_listed(&self) -> Result<(Vec<String>, Listed), Failure> {
        let answer = self.client.get(&self.url("/v1/models"), self.timeout)?;
        let models = answer.get("data").and_then(Value::as_array).cloned().unwrap_or_default();
        let name_of = |model: &Value| Some(model.get("id")?.as_str()?.to_string());
        let names: Vec<String> = models.iter().filter_map(name_of).collect();
        let ours = models.iter().find(|model| name_of(model).as_deref() == Some(self.name));
        let Some(ours) = ours else {
            let why = format!(
                "it does not serve `{}` but {}; set remote.model to the base model's name there",
                self.name,
                if names.is_empty() { "nothing".into() } else { names.join(", ") }
            );
            return Err(Failure::wrong(why));
        };
        let kind = match ours.get("owned_by").and_then(Value::as_str) {
            Some("vllm") => Kind::Vllm,
            Some("sglang") => Kind::Sglang,
            Some("llamacpp") => Kind::LlamaCpp,
            _ => Kind::Other,
        };
        let context = ours.get("max_model_len").and_then(Value::as_u64);
        Ok((names, Listed { kind, context: context.map(|context| context as usize) }))
    }

    /// Fails when the server parts a text into other tokens than the model's tokenizer; whether it
    /// could be asked.
    fn compare_tokenizers(&self) -> Result<bool, Failure> {
        let tokenizer = &self.model.tokenizer;
        // The end token's spelling, too: a server may know other special tokens.
        let end = tokenizer.token_text(tokenizer.eos()).unwrap_or_default();
        for text in [SAMPLE, end.as_str()] {
            let ours = tokenizer.encode_with_specials(text);
            let Some((theirs, begun)) = self.tokens_of(text)? else { return Ok(false) };
            let begin = tokenizer.bos().filter(|_| begun && tokenizer.wants_bos());
            let expected: Vec<u32> = begin.into_iter().chain(ours).collect();
            if theirs != expected {
                let why = format!(
                    "its tokenizer is not the model's: of {text:?} it makes {} tokens, beginning \
                     {:?}, and the model's {}, beginning {:?}; serve the model that the setting \
                     `model` names",
                    theirs.len(),
                    &theirs[..theirs.len().min(8)],
                    expected.len(),
                    &expected[..expected.len().min(8)],
                );
                return Err(Failure::wrong(why));
            }
        }
        Ok(true)
    }

    /// The server's tokens of a text, and whether it puts a begin token before them where the model
    /// wants one; none when it cannot be asked.
    fn tokens_of(&self, text: &str) -> Result<Option<(Vec<u32>, bool)>, Failure> {
        // Names of parameters of vLLM and SGLang, and of llama.cpp.
        let body = json!({
            "model": self.name, "prompt": text, "add_special_tokens": false,
            "content": text, "add_special": false, "parse_special": true,
        });
        let plain = self.ask_tokens("/tokenize", &body)?;
        if let Some(tokens) = plain {
            return Ok(Some((tokens, false)));
        }
        let body = json!({ "model": self.name, "input": text });
        Ok(self.ask_tokens("/extras/tokenize", &body)?.map(|tokens| (tokens, true)))
    }

    fn ask_tokens(&self, path: &str, body: &Value) -> Result<Option<Vec<u32>>, Failure> {
        match self.client.post(&self.url(path), body, self.timeout, SMALL_ANSWER) {
            Ok(answer) => {
                let tokens = answer.get("tokens").cloned().unwrap_or_default();
                let tokens = serde_json::from_value(tokens);
                tokens.map(Some).map_err(|error| {
                    Failure::broken(format!("{path} gave no list of tokens: {error}"))
                })
            }
            Err(Failure { kind: FailureKind::Refused(404 | 405 | 501), .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Has it write a token or two, and looks at the answers.
    fn try_out(&self, listed: &Listed) -> Result<Abilities, Failure> {
        let mut abilities = Abilities {
            kind: listed.kind,
            takes_ids: true,
            ids: Ids::Withheld,
            logprobs: Logprobs::None,
            scores: false,
            context: None,
        };
        let answer = match self.write(&abilities, 1.0, None) {
            Ok(answer) => answer,
            Err(refused) => {
                abilities.takes_ids = false;
                // Its own words about the ids are of more use than those about the text.
                return self.write(&abilities, 1.0, Some(OPEN)).map(|_| abilities).or(Err(refused));
            }
        };
        let given = |answer: &Answer| answer.ids.is_some() && answer.logprobs.is_some();
        if !given(&answer) {
            return Ok(abilities);
        }
        abilities.ids = match listed.kind {
            Kind::LlamaCpp => Ids::UpToStop,
            _ => Ids::Given,
        };
        abilities.scores = answer.prompt_scores.is_some();
        let cold = self.write(&abilities, COLD, None)?;
        let tempered = match (answer.best_first, cold.best_first) {
            (Some(warm), Some(cold)) => (warm - cold).abs() > CHANGED,
            // Without a sign of it nothing is known but the policy's own.
            _ => false,
        };
        abilities.logprobs = match (tempered, listed.kind) {
            (false, _) => Logprobs::Untempered,
            (true, Kind::Vllm) => Logprobs::Sampled,
            (true, _) => Logprobs::Tempered,
        };
        Ok(abilities)
    }

    fn write(
        &self,
        abilities: &Abilities,
        temperature: f32,
        text: Option<&str>,
    ) -> Result<Answer, Failure> {
        let model = self.model;
        let sampling = Sampling::at(temperature);
        let request = Request { sampling, ..Request::new(model.prompt_of(OPEN), 1) };
        let ask = Ask {
            model: self.name,
            abilities,
            request: &request,
            text,
            vocabulary: model.vocabulary,
            ends: &model.ends,
            seed: 0,
            stop: false,
            // llama-cpp-python fails on log-probabilities where it was not started for them.
            ids: text.is_none(),
        };
        let mut body = ask.body();
        if text.is_none() {
            body["prompt_logprobs"] = 0.into();
        }
        let url = self.url("/v1/completions");
        Answer::read(self.client.post(&url, &body, self.timeout, SMALL_ANSWER)?)
    }
}
