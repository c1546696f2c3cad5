//! One HTTP exchange with a server, and what its failure means for the request and the server.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::Body;
use ureq::http::Response;

use super::secret::Secret;

/// Longest message of a server that is shown, in characters.
const MESSAGE_CHARS: usize = 300;
/// Longest failure that is shown, in characters: such a message, and what to do about it.
const FAILURE_CHARS: usize = 1000;
/// How much of an error's body is read.
const ERROR_BYTES: u64 = 64 << 10;
/// Longest answer to a question about the server itself, in bytes.
pub(super) const SMALL_ANSWER: u64 = 8 << 20;
/// Longest time that a server may ask us to wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What a failed exchange means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// The server is not well: no connection, no answer in time, half an answer, a 5xx status.
    /// The request may be tried elsewhere; the server is looked at before it gets more.
    Broken,
    /// The server is well but full: the request may be tried again after this time.
    Busy(Option<Duration>),
    /// The server does not take the request, with this status; no other try would change that.
    Refused(u16),
    /// The answer contradicts the model or the request; no other try would change that.
    Wrong,
}

/// A failed exchange.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// What it means.
    pub(super) kind: FailureKind,
    /// What happened, in one line.
    pub(super) why: String,
}

impl Failure {
    pub(super) fn broken(why: impl Into<String>) -> Self {
        Self { kind: FailureKind::Broken, why: why.into() }
    }

    pub(super) fn wrong(why: impl Into<String>) -> Self {
        Self { kind: FailureKind::Wrong, why: why.into() }
    }
}

/// Asks servers, with the key where there is one.
#[derive(Debug, Clone)]
pub(super) struct Client {
    agent: Agent,
    secret: Option<Secret>,
}

impl Client {
    pub(super) fn new(secret: Option<Secret>) -> Self {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            // A key must not follow a redirection, nor a request that is answered elsewhere.
            .max_redirects(0)
            .max_redirects_will_error(false)
            // A connection that a server closed while idle would look like a server that broke.
            // Generation takes far longer than to connect.
            .max_idle_connections(0)
            .build()
            .into();
        Self { agent, secret }
    }

    /// The answer to a GET, as JSON; plain text becomes a string.
    pub(super) fn get(&self, url: &str, timeout: Duration) -> Result<Value, Failure> {
        let mut request = self.agent.get(url).config().timeout_global(Some(timeout)).build();
        if let Some(secret) = &self.secret {
            request = request.header("authorization", secret.header());
        }
        let response = request.call().map_err(|error| self.broken(&error, timeout))?;
        self.answer(response, SMALL_ANSWER, timeout)
    }

    /// The answer of at most `limit` bytes to a POST of JSON, as JSON.
    pub(super) fn post(
        &self,
        url: &str,
        body: &Value,
        timeout: Duration,
        limit: u64,
    ) -> Result<Value, Failure> {
        let mut request = self.agent.post(url).config().timeout_global(Some(timeout)).build();
        request = request.header("content-type", "application/json");
        if let Some(secret) = &self.secret {
            request = request.header("authorization", secret.header());
        }
        let sent = request.send(body.to_string().as_bytes());
        let response = sent.map_err(|error| self.broken(&error, timeout))?;
        self.answer(response, limit, timeout)
    }

    fn answer(
        &self,
        mut response: Response<Body>,
        limit: u64,
        timeout: Duration,
    ) -> Result<Value, Failure> {
        let status = response.status().as_u16();
        if !(200..300).contains(&status) {
            return Err(self.refusal(status, response));
        }
        let expected = response.body().content_length();
        let read = response.body_mut().with_config().limit(limit).read_to_vec();
        let bytes = read.map_err(|error| match error {
            ureq::Error::BodyExceedsLimit(_) => {
                Failure::wrong(format!("an answer of more than {limit} bytes, which is not read"))
            }
            error => self.broken(&error, timeout),
        })?;
        if expected.is_some_and(|expected| (bytes.len() as u64) < expected) {
            let expected = expected.unwrap_or_default();
            let arrived = bytes.len();
            let why = format!("an answer that ended after {arrived} of {expected} bytes");
            return Err(Failure::broken(why));
        }
        let text = String::from_utf8_lossy(&bytes);
        serde_json::from_slice(&bytes).or_else(|error| {
            // The endpoints for adapters and health answer in words, or not at all.
            match text.trim_start().starts_with(['{', '[', '<']) {
                true => {
                    let shown = self.clean(&text);
                    Err(Failure::broken(format!("an answer that is not JSON ({error}): {shown}")))
                }
                false => Ok(Value::String(text.into_owned())),
            }
        })
    }

    fn refusal(&self, status: u16, mut response: Response<Body>) -> Failure {
        let after = retry_after(&response);
        let body = response.body_mut().with_config().limit(ERROR_BYTES).read_to_string();
        let mut why = format!("status {status}");
        let message = self.clean(&message_of(&body.unwrap_or_default()));
        if !message.is_empty() {
            why = format!("{why}: {message}");
        }
        let kind = match status {
            429 => FailureKind::Busy(after),
            503 if after.is_some() => FailureKind::Busy(after),
            408 | 500..=599 => FailureKind::Broken,
            _ => FailureKind::Refused(status),
        };
        match status {
            401 | 403 => why.push_str("; set remote.api_key_env to where the server's key is"),
            300..=399 => why.push_str("; give the address it redirects to in remote.endpoints"),
            _ => {}
        }
        Failure { kind, why }
    }

    fn broken(&self, error: &ureq::Error, timeout: Duration) -> Failure {
        match error {
            ureq::Error::Timeout(_) => {
                Failure::broken(format!("no answer within {:.1} s", timeout.as_secs_f64()))
            }
            ureq::Error::ConnectionFailed => Failure::broken("no connection"),
            error => Failure::broken(self.clean(&error.to_string())),
        }
    }

    /// A failure whose reason may quote the server, fit to be shown. Every failure passes here on
    /// its way to a person.
    pub(super) fn tidy(&self, failure: Failure) -> Failure {
        Failure { why: self.shown(&failure.why, FAILURE_CHARS), ..failure }
    }

    /// A server's words, fit to be shown.
    fn clean(&self, text: &str) -> String {
        self.shown(text, MESSAGE_CHARS)
    }

    /// One line of at most `chars` characters, without the key.
    fn shown(&self, text: &str, chars: usize) -> String {
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = text.chars().map(visible).collect();
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = match &self.secret {
            Some(secret) => secret.hide_in(&line),
            None => line,
        };
        match line.char_indices().nth(chars) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }
}

/// The message in an error's body, in any of the shapes that servers use.
fn message_of(body: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(body) else { return body.to_string() };
    let error = value.get("error").unwrap_or(&value);
    for key in ["message", "error_message", "detail"] {
        match error.get(key).or_else(|| value.get(key)) {
            Some(Value::String(text)) => return text.clone(),
            Some(other) if !other.is_null() => return other.to_string(),
            _ => {}
        }
    }
    match error {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The seconds of a `retry-after` header; dates are not read.
fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let seconds: f64 = response.headers().get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    let wait = Duration::try_from_secs_f64(seconds).ok()?;
    Some(wait.min(RETRY_AFTER_MAX))
}
