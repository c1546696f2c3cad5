//! The servers together: how they are chosen among, and what happens to a request that one fails.

use std::sync::Arc;
use std::time::Instant;

use super::Options;
use super::RemoteError;
use super::ServedModel;
use super::adapters::RemoteAdapter;
use super::batch::Stop;
use super::http::Failure;
use super::http::FailureKind;
use super::retry;
use super::servers::Chosen;
use super::servers::EndpointStatus;
use super::servers::Errand;
use super::servers::Servers;
use crate::inference::Request;

/// The servers of the settings.
pub struct Pool {
    servers: Arc<Servers>,
}

impl Pool {
    /// The servers of `options`, for `model`. Nothing is asked of them yet.
    pub fn new(options: Options, model: ServedModel) -> Self {
        Self { servers: Arc::new(Servers::new(options, model)) }
    }

    /// Surveys all servers, and fails unless they can be worked with: at least one is well, and
    /// none is another than the settings mean. One that does not answer may come later.
    ///
    /// # Errors
    /// When a server is refused, with the reason, or none is there.
    pub fn check(&self) -> Result<(), RemoteError> {
        let failures = self.servers.survey_all();
        for (endpoint, failure) in &failures {
            match failure.kind {
                FailureKind::Refused(_) | FailureKind::Wrong => {
                    let (endpoint, why) = (endpoint.clone(), failure.why.clone());
                    return Err(RemoteError::Refused { endpoint, why });
                }
                FailureKind::Broken | FailureKind::Busy(_) => {
                    tracing::warn!(endpoint, why = failure.why, "a remote server is not there");
                }
            }
        }
        match failures.len() < self.servers.options.endpoints.len() {
            true => Ok(()),
            false => Err(RemoteError::AllDown(lines(&failures))),
        }
    }

    /// Fails unless a server that is well can write what may be trained on, asked as `request`
    /// asks.
    ///
    /// # Errors
    /// When none can, with each one's reason.
    pub fn check_trainable(&self, request: &Request) -> Result<(), RemoteError> {
        let states = self.servers.states();
        let reasons = self.servers.reasons(&states, &|can| can.untrainable(request));
        match reasons.len() < states.len() {
            true => Ok(()),
            false => Err(RemoteError::Unable(reasons)),
        }
    }

    /// How the servers are doing.
    pub fn status(&self) -> Vec<EndpointStatus> {
        self.servers.status()
    }

    /// The facts of the model that the servers serve.
    pub(super) fn model(&self) -> &ServedModel {
        &self.servers.model
    }

    /// Requests under way at once, at most.
    pub(super) fn room(&self) -> usize {
        self.servers.options.endpoints.len() * self.servers.options.concurrency
    }

    /// Longest prompt and continuation that every server takes.
    pub(super) fn context(&self) -> usize {
        self.servers.context()
    }

    /// Takes an adapter in; the oldest idle ones leave the servers if there are many.
    pub(super) fn want(&self, adapter: RemoteAdapter) -> Arc<RemoteAdapter> {
        let (adapter, gone) = self.servers.adapters.want(adapter);
        self.servers.unload(&gone);
        adapter
    }

    /// Has one of the servers do an errand, trying again as often as the settings allow.
    pub(super) fn run<T>(
        &self,
        errand: &Errand<'_>,
        stop: &Stop,
        attempt: impl Fn(&Chosen<'_>) -> Result<T, Failure>,
    ) -> Result<T, RemoteError> {
        let options = &self.servers.options;
        let tries = options.retries + 1;
        let time = options.timeout * tries;
        let until = Instant::now() + time;
        let until = errand.deadline.map_or(until, |deadline| deadline.min(until));
        let late = |why: String| match errand.deadline {
            Some(deadline) if Instant::now() >= deadline => RemoteError::Deadline,
            _ => RemoteError::OutOfTime { seconds: time.as_secs(), why },
        };
        let (mut avoid, mut last) = (None, String::new());
        for number in 0..tries {
            let place = self.servers.wait_for_room(errand, avoid, until, stop);
            let lease = place?.ok_or_else(|| late(self.servers.why_no_room(&last)))?;
            let failure = match lease.serve(errand, until, &attempt) {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let endpoint = &options.endpoints[lease.index];
            last = format!("{endpoint}: {}", failure.why);
            if matches!(failure.kind, FailureKind::Refused(_) | FailureKind::Wrong) {
                return Err(RemoteError::Refused { endpoint: endpoint.clone(), why: failure.why });
            }
            if Instant::now() >= until {
                return Err(late(last));
            }
            avoid = Some(lease.index);
            drop(lease);
            tracing::debug!(number, why = last, "a request to a remote server failed");
            if number + 1 < tries {
                let wait = retry::wait(errand.seed, number, options.backoff);
                stop.sleep(wait.min(until.saturating_duration_since(Instant::now())))?;
            }
        }
        Err(RemoteError::GaveUp { tries, why: last })
    }
}

impl Drop for Pool {
    /// The servers are left as they were found.
    fn drop(&mut self) {
        self.servers.unload(&self.servers.adapters.all());
    }
}

fn lines(failures: &[(String, Failure)]) -> Vec<String> {
    failures.iter().map(|(endpoint, failure)| format!("{endpoint}: {}", failure.why)).collect()
}
