//! The remote engine: servers with an OpenAI-compatible interface generate in the place of this
//! machine. `docs/remote.md` says how to use it, and what each program can and cannot do.
//!
//! ```text
//! Remote ─► batch (threads) ─► pool (again?) ─► servers (which?) ─► protocol ─► http
//!                                                 │                   settle ◄── answer
//!                                                 └─► survey (well, and ours?)
//!                                                     adapters (has it the version?)
//! ```
//!
//! Each sample is a request of its own with a seed of its own, so that the result does not depend
//! on which server serves it, nor on how a server counts the samples of one request.
//!
//! **Token in, token out.** Prompts are sent as ids. What comes back without ids, or without the
//! log-probabilities of the distribution that was sampled from, has no [`Generation::logprobs`],
//! and an engine made [`Remote::for_training`] does not give it out.

mod adapters;
mod batch;
mod error;
mod http;
mod pool;
mod protocol;
mod retry;
mod secret;
mod servers;
mod settle;
mod survey;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use std::time::Instant;

pub use self::adapters::RemoteAdapter;
pub use self::error::RemoteError;
pub use self::pool::Pool;
pub use self::secret::Secret;
pub use self::servers::EndpointStatus;

use self::batch::Stop;
use self::http::Failure;
use self::protocol::Answer;
use self::protocol::Ask;
use self::servers::Chosen;
use self::servers::Errand;
use self::survey::Abilities;
use self::survey::Ids;
use self::survey::Kind;
use super::Continuation;
use super::GenerateError;
use super::Generation;
use super::Generator;
use super::Request;
use super::Sampling;
use super::TokenScore;
use crate::config;
use crate::model::Model;
use crate::model::Outline;
use crate::model::tokenizer::Tokenizer;
use crate::rng;
use crate::rollout::StopReason;

/// Bytes of an answer that do not depend on its length.
const ANSWER_BYTES: u64 = 1 << 20;
/// Bytes of an answer for one token of prompt or continuation, with ids, text and
/// log-probabilities: about 300 are usual.
const TOKEN_BYTES: u64 = 4 << 10;

/// How servers are reached and used.
#[derive(Debug, Clone)]
pub struct Options {
    /// Their addresses, without `/v1`.
    pub endpoints: Vec<String>,
    /// The name under which they serve the base model.
    pub model: String,
    /// Their key.
    pub secret: Option<Secret>,
    /// Requests under way at each of them at once.
    pub concurrency: usize,
    /// Longest time for one try.
    pub timeout: Duration,
    /// Tries beside the first.
    pub retries: u32,
    /// The wait before the second try; it doubles from there.
    pub backoff: Duration,
    /// Whether adapters are loaded into the servers.
    pub load_adapters: bool,
}

impl Options {
    /// What the settings say; none where this machine generates.
    ///
    /// # Errors
    /// When the key that they name is not there.
    pub fn from_settings(settings: &config::Remote) -> Result<Option<Self>, RemoteError> {
        let Some(model) = settings.model.clone().filter(|_| settings.is_on()) else {
            return Ok(None);
        };
        let secret = settings.api_key_env.as_deref().map(Secret::find).transpose()?;
        let endpoints = settings.endpoints.iter().map(|endpoint| {
            let endpoint = endpoint.trim_end_matches('/');
            endpoint.strip_suffix("/v1").unwrap_or(endpoint).to_string()
        });
        Ok(Some(Self {
            endpoints: endpoints.collect(),
            model,
            secret,
            concurrency: settings.concurrency,
            timeout: Duration::from_secs(settings.timeout_s),
            retries: settings.retries,
            backoff: Duration::from_millis(500),
            load_adapters: settings.load_adapters,
        }))
    }
}

/// What must be known here of the model that is served there.
#[derive(Debug, Clone)]
pub struct ServedModel {
    tokenizer: Tokenizer,
    /// Rows of the model's embedding, or more than any id.
    vocabulary: usize,
    max_positions: usize,
    ends: Vec<u32>,
}

impl ServedModel {
    /// A model with this tokenizer, so many tokens in its vocabulary, and so long a context.
    pub fn new(tokenizer: Tokenizer, vocabulary: usize, max_positions: usize) -> Self {
        let all = 0..u32::try_from(vocabulary).unwrap_or(u32::MAX);
        let ends = all.filter(|token| tokenizer.is_end(*token)).collect();
        Self { tokenizer, vocabulary, max_positions, ends }
    }

    /// The model that is loaded here.
    pub fn of(model: &Model) -> Self {
        let config = model.decoder.config();
        Self::new(model.tokenizer.clone(), config.vocabulary, config.max_positions)
    }

    /// The model of this outline.
    pub fn of_outline(outline: &Outline) -> Self {
        let Outline { config, tokenizer, .. } = outline;
        Self::new(tokenizer.clone(), config.vocabulary, config.max_positions)
    }

    /// A text as a prompt, with the begin token where the model wants one.
    fn prompt_of(&self, text: &str) -> Vec<u32> {
        let begin = self.tokenizer.bos().filter(|_| self.tokenizer.wants_bos());
        begin.into_iter().chain(self.tokenizer.encode(text)).collect()
    }

    /// The text that a server which encodes prompts itself makes exactly these tokens of, with the
    /// begin token that it adds where the model wants one; none where there is no such text.
    fn text_of(&self, prompt: &[u32]) -> Option<String> {
        let body = match self.tokenizer.bos().filter(|_| self.tokenizer.wants_bos()) {
            Some(begin) => prompt.strip_prefix(&[begin])?,
            None => prompt,
        };
        let text = self.tokenizer.decode(body);
        (self.tokenizer.encode_with_specials(&text) == body).then_some(text)
    }
}

/// The servers that the settings name, surveyed; none where this machine generates.
///
/// # Errors
/// When the key is missing, no server is there, or one is not what the settings mean.
pub fn connect(
    settings: &config::Remote,
    model: impl FnOnce() -> ServedModel,
) -> Result<Option<Arc<Pool>>, RemoteError> {
    let Some(options) = Options::from_settings(settings)? else { return Ok(None) };
    let pool = Pool::new(options, model());
    pool.check()?;
    Ok(Some(Arc::new(pool)))
}

/// The adapter in a PEFT directory, to be served by the servers of the settings.
///
/// # Errors
/// When its weights cannot be read.
pub fn adapter(
    settings: &config::Remote,
    dir: &std::path::Path,
    label: &str,
) -> Result<RemoteAdapter, RemoteError> {
    let seen_at: Option<&PathBuf> = settings.adapters_dir.as_ref();
    RemoteAdapter::open(dir, seen_at.map(PathBuf::as_path), label)
}

/// One policy on the servers: the base model, or an adapter of it.
pub struct Remote {
    pool: Arc<Pool>,
    adapter: Option<Arc<RemoteAdapter>>,
    version: String,
    exact: bool,
    interrupt: Arc<AtomicBool>,
}

/// One sample of one request.
struct Job {
    request: Arc<Request>,
    /// The prompt's text, if servers make the prompt of it.
    text: Option<String>,
    sample: usize,
    deadline: Option<Instant>,
}

impl Remote {
    /// An engine for the base model (`adapter` none) or an adapter of it.
    pub fn new(
        pool: Arc<Pool>,
        adapter: Option<RemoteAdapter>,
        version: &str,
        interrupt: Arc<AtomicBool>,
    ) -> Self {
        let adapter = adapter.map(|adapter| pool.want(adapter));
        Self { pool, adapter, version: version.to_string(), exact: false, interrupt }
    }

    /// The same engine, whose every continuation may be trained on: its tokens are those sampled,
    /// with their log-probabilities. Servers that cannot tell get none of its work; a continuation
    /// of which a server cannot tell is empty and [`StopReason::Cancelled`].
    #[must_use]
    pub fn for_training(mut self) -> Self {
        self.exact = true;
        self
    }

    /// How the servers are doing.
    pub fn status(&self) -> Vec<EndpointStatus> {
        self.pool.status()
    }

    fn check(&self, prompt: usize, max_tokens: usize) -> Result<(), GenerateError> {
        let limit = self.pool.context();
        match prompt {
            0 => Err(GenerateError::EmptyPrompt),
            _ if prompt + max_tokens > limit => {
                Err(GenerateError::TooLong { prompt, max_tokens, limit })
            }
            _ => Ok(()),
        }
    }

    fn jobs(&self, requests: &[Request]) -> Result<Vec<Job>, GenerateError> {
        let now = Instant::now();
        let mut jobs = Vec::new();
        for request in requests {
            self.check(request.prompt.len(), request.max_tokens)?;
            let shared = Arc::new(request.clone());
            let text = self.pool.model().text_of(&request.prompt);
            jobs.extend((0..request.samples).map(|sample| Job {
                request: shared.clone(),
                text: text.clone(),
                sample,
                deadline: request.deadline.and_then(|time| now.checked_add(time)),
            }));
        }
        Ok(jobs)
    }
}

impl Job {
    /// Why a server cannot serve it; none if it can.
    fn unable(&self, can: &Abilities, exact: bool) -> Option<String> {
        if self.request.mask.is_some() && can.kind != Kind::Vllm {
            return Some(format!(
                "{} cannot be told which tokens it may choose",
                can.kind.as_str()
            ));
        }
        if !can.takes_ids && self.text.is_none() {
            let why = "takes prompts as text only, and would read this one as other tokens";
            return Some(format!("{} {why}", can.kind.as_str()));
        }
        if exact { can.untrainable(&self.request) } else { None }
    }

    fn serve(
        &self,
        pool: &Pool,
        adapter: Option<&RemoteAdapter>,
        exact: bool,
        stop: &Stop,
    ) -> Result<Generation, RemoteError> {
        let request = &*self.request;
        let seed = rng::derive(request.seed, &["sample", &self.sample.to_string()]);
        let unable = |can: &Abilities| self.unable(can, exact);
        let errand = Errand { seed, adapter, unable: &unable, deadline: self.deadline };
        match pool.run(&errand, stop, |chosen| self.attempt(pool, chosen, seed, exact)) {
            Err(RemoteError::Deadline) => Ok(nothing(StopReason::Deadline)),
            other => other,
        }
    }

    fn attempt(
        &self,
        pool: &Pool,
        chosen: &Chosen<'_>,
        seed: u64,
        exact: bool,
    ) -> Result<Generation, Failure> {
        let (request, model, can) = (&*self.request, pool.model(), &chosen.abilities);
        // Where ids of a stop string do not come back, and ids matter, the server writes on and the
        // text is cut here. So it is with several strings and text alone: which one it was is lost.
        let several = request.stop.len() > 1;
        let (ids, stop) = match can.ids {
            Ids::Given => (true, true),
            Ids::UpToStop => (exact || several, !(exact || several)),
            Ids::Withheld => (false, !several),
        };
        let ask = Ask {
            model: &chosen.model,
            abilities: can,
            request,
            text: self.text.as_deref().filter(|_| !can.takes_ids),
            vocabulary: model.vocabulary,
            ends: &model.ends,
            seed,
            stop,
            ids,
        };
        let url = format!("{}/v1/completions", chosen.url);
        let limit = ANSWER_BYTES + TOKEN_BYTES * (request.prompt.len() + request.max_tokens) as u64;
        let answer = chosen.client.post(&url, &ask.body(), chosen.timeout, limit)?;
        let known = can.knows_logprobs(request);
        let generation = settle::settle(Answer::read(answer)?, request, model, known)?;
        if exact && generation.logprobs.len() != generation.tokens.len() {
            let endpoint = chosen.url;
            tracing::warn!(endpoint, "a continuation came without its tokens' ids; it is left out");
            return Ok(nothing(StopReason::Cancelled));
        }
        Ok(generation)
    }
}

/// A continuation that nothing is known of.
fn nothing(stop: StopReason) -> Generation {
    let (tokens, logprobs, scores) = (Vec::new(), Vec::new(), Vec::new());
    Generation { tokens, logprobs, scores, text: String::new(), stop }
}

/// Scores by the log-probabilities that vLLM gives for the tokens of a prompt.
fn score(
    pool: &Pool,
    adapter: Option<&RemoteAdapter>,
    index: usize,
    given: &Continuation,
    stop: &Stop,
) -> Result<Vec<TokenScore>, RemoteError> {
    if given.tokens.is_empty() {
        return Ok(Vec::new());
    }
    let unable = |can: &Abilities| {
        (!can.scores).then(|| format!("{} does not score given tokens", can.kind.as_str()))
    };
    // Only waiting times are drawn from it, which must not be the same for all.
    let seed = rng::derive(0, &["score", &index.to_string()]);
    let errand = Errand { seed, adapter, unable: &unable, deadline: None };
    let prompt = [given.prompt.as_slice(), &given.tokens].concat();
    let request = Request { sampling: Sampling::at(1.0), ..Request::new(prompt, 1) };
    pool.run(&errand, stop, |chosen| {
        let model = pool.model();
        let ask = Ask {
            model: &chosen.model,
            abilities: &chosen.abilities,
            request: &request,
            text: None,
            vocabulary: model.vocabulary,
            ends: &model.ends,
            seed: 0,
            stop: false,
            ids: false,
        };
        let mut body = ask.body();
        body["prompt_logprobs"] = 0.into();
        let url = format!("{}/v1/completions", chosen.url);
        let limit = ANSWER_BYTES + TOKEN_BYTES * request.prompt.len() as u64;
        let answer = chosen.client.post(&url, &body, chosen.timeout, limit)?;
        settle::scores(Answer::read(answer)?, given)
    })
}

impl Generator for Remote {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generation>>, GenerateError> {
        let jobs = self.jobs(requests)?;
        let (pool, adapter, exact) = (self.pool.clone(), self.adapter.clone(), self.exact);
        let work = move |job: &Job, stop: &Stop| job.serve(&pool, adapter.as_deref(), exact, stop);
        let mut all = batch::run(jobs, self.pool.room(), &self.interrupt, work)?.into_iter();
        Ok(requests.iter().map(|request| all.by_ref().take(request.samples).collect()).collect())
    }

    fn score(&self, given: &[Continuation]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        for continuation in given {
            self.check(continuation.prompt.len(), continuation.tokens.len() + 1)?;
        }
        let (pool, adapter) = (self.pool.clone(), self.adapter.clone());
        let work = move |(index, given): &(usize, Continuation), stop: &Stop| {
            score(&pool, adapter.as_deref(), *index, given, stop)
        };
        let jobs = given.iter().cloned().enumerate().collect();
        Ok(batch::run(jobs, self.pool.room(), &self.interrupt, work)?)
    }

    fn model_version(&self) -> &str {
        &self.version
    }
}

impl From<RemoteError> for GenerateError {
    fn from(error: RemoteError) -> Self {
        match error {
            RemoteError::Stopped => Self::Interrupted,
            error @ RemoteError::Unable(_) => Self::Unsupported(error.to_string()),
            error => Self::Remote(error),
        }
    }
}

/// Takes a lock; what a thread that panicked left behind is still true.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
