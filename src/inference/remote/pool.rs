//! The servers together: which is well, which has room, and what happens when one fails.
//!
//! A server that fails a request gets no work until it has been surveyed anew, at once after a
//! first failure, then at growing intervals; its requests move to the others.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::Instant;

use super::Options;
use super::RemoteError;
use super::ServedModel;
use super::adapters::Adapters;
use super::adapters::Place;
use super::adapters::RemoteAdapter;
use super::batch::Stop;
use super::http::Client;
use super::http::Failure;
use super::http::FailureKind;
use super::lock;
use super::retry;
use super::survey::Abilities;
use super::survey::Survey;
use crate::inference::Request;

/// How often those who wait look whether they shall stop, or whether a server is to be surveyed.
const SLICE: Duration = Duration::from_millis(20);
/// Longest time for a question about a server itself.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time to remove an adapter.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How a server is doing, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStatus {
    /// Its address.
    pub endpoint: String,
    /// Which program answers there, once it has answered.
    pub server: Option<&'static str>,
    /// Whether it gets work.
    pub healthy: bool,
    /// Requests under way.
    pub in_flight: usize,
    /// The last failure, which it may have recovered from.
    pub last_error: Option<String>,
    /// Why what it writes at temperature 1 cannot be trained on, where that is so.
    pub untrainable: Option<String>,
}

/// What is known of a server.
#[derive(Debug)]
struct State {
    health: Health,
    in_flight: usize,
    /// Failures since it last served a request.
    failures: u32,
    /// It asked not to be asked before.
    paused_until: Option<Instant>,
    last_error: Option<String>,
    abilities: Option<Abilities>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Up,
    /// To be surveyed at this time.
    Down(Instant),
    /// A thread is looking at it.
    Surveyed,
}

/// What a request needs of a server.
pub(super) struct Errand<'a> {
    /// What its waiting times are drawn from.
    pub(super) seed: u64,
    /// The adapter that shall serve it; the base model where there is none.
    pub(super) adapter: Option<&'a RemoteAdapter>,
    /// Why a server cannot serve it; none if it can.
    pub(super) unable: &'a (dyn Fn(&Abilities) -> Option<String> + Sync),
    /// When its result is of no use any more.
    pub(super) deadline: Option<Instant>,
}

/// A server chosen for one try.
pub(super) struct Chosen<'a> {
    pub(super) client: &'a Client,
    pub(super) url: &'a str,
    pub(super) abilities: Abilities,
    /// The policy's name there.
    pub(super) model: String,
    /// Longest time for the try.
    pub(super) timeout: Duration,
}

/// The servers of the settings.
pub struct Pool {
    shared: Arc<Shared>,
}

/// What surveys in the background share with the requests.
struct Shared {
    options: Options,
    client: Client,
    model: ServedModel,
    adapters: Adapters,
    states: Mutex<Vec<State>>,
    /// Notified when a server has room, or is well again.
    changed: Condvar,
}

impl Pool {
    /// The servers of `options`, for `model`. Nothing is asked of them yet.
    pub fn new(options: Options, model: ServedModel) -> Self {
        let states = options.endpoints.iter().map(|_| State {
            health: Health::Down(Instant::now()),
            in_flight: 0,
            failures: 0,
            paused_until: None,
            last_error: None,
            abilities: None,
        });
        let states = Mutex::new(states.collect());
        let adapters = Adapters::new(options.endpoints.len(), options.load_adapters);
        let client = Client::new(options.secret.clone());
        let changed = Condvar::new();
        let shared = Shared { options, client, model, adapters, states, changed };
        Self { shared: Arc::new(shared) }
    }

    /// Surveys all servers, and fails unless they can be worked with: at least one is well, and
    /// none is another than the settings mean. One that does not answer may come later.
    ///
    /// # Errors
    /// When a server is refused, with the reason, or none is there.
    pub fn check(&self) -> Result<(), RemoteError> {
        let failures = self.survey();
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
        match failures.len() < self.shared.options.endpoints.len() {
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
        let states = self.shared.states();
        let reasons = self.shared.reasons(&states, &|can| can.untrainable(request));
        match reasons.len() < states.len() {
            true => Ok(()),
            false => Err(RemoteError::Unable(reasons)),
        }
    }

    /// Surveys all servers at once; returns those that failed.
    fn survey(&self) -> Vec<(String, Failure)> {
        let shared = &self.shared;
        let outcomes: Vec<Option<Failure>> = std::thread::scope(|scope| {
            let look = |index| scope.spawn(move || shared.survey(index).err());
            let threads: Vec<_> = (0..shared.options.endpoints.len()).map(look).collect();
            let died = |_| Some(Failure::broken("the survey failed"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect()
        });
        let named = shared.options.endpoints.iter().cloned().zip(outcomes);
        named.filter_map(|(endpoint, failure)| Some((endpoint, failure?))).collect()
    }

    /// How the servers are doing.
    pub fn status(&self) -> Vec<EndpointStatus> {
        let states = self.shared.states();
        let plain = Request::new(Vec::new(), 1);
        let status = |(endpoint, state): (&String, &State)| EndpointStatus {
            endpoint: endpoint.clone(),
            server: state.abilities.map(|abilities| abilities.kind.as_str()),
            healthy: state.health == Health::Up,
            in_flight: state.in_flight,
            last_error: state.last_error.clone(),
            untrainable: state.abilities.and_then(|abilities| abilities.untrainable(&plain)),
        };
        self.shared.options.endpoints.iter().zip(states.iter()).map(status).collect()
    }

    /// The facts of the model that the servers serve.
    pub(super) fn model(&self) -> &ServedModel {
        &self.shared.model
    }

    /// Requests under way at once, at most.
    pub(super) fn room(&self) -> usize {
        self.shared.options.endpoints.len() * self.shared.options.concurrency
    }

    /// Longest prompt and continuation that every server takes.
    pub(super) fn context(&self) -> usize {
        let states = self.shared.states();
        let contexts = states.iter().filter_map(|state| state.abilities?.context);
        contexts.min().unwrap_or(usize::MAX).min(self.shared.model.max_positions)
    }

    /// Takes an adapter in; the oldest idle ones leave the servers if there are many.
    pub(super) fn want(&self, adapter: RemoteAdapter) -> Arc<RemoteAdapter> {
        let (adapter, gone) = self.shared.adapters.want(adapter);
        self.shared.unload(&gone);
        adapter
    }

    /// Has one of the servers do an errand, trying again as often as the settings allow.
    pub(super) fn run<T>(
        &self,
        errand: &Errand<'_>,
        stop: &Stop,
        attempt: impl Fn(&Chosen<'_>) -> Result<T, Failure>,
    ) -> Result<T, RemoteError> {
        let options = &self.shared.options;
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
            let place = self.shared.wait_for_room(errand, avoid, until, stop);
            let lease = place?.ok_or_else(|| late(self.shared.why_no_room(&last)))?;
            let outcome = lease.serve(errand, until, &attempt);
            let endpoint = &options.endpoints[lease.index];
            let failure = match outcome {
                Ok(done) => return Ok(done),
                Err(_) if Instant::now() >= until => return Err(late(last)),
                Err(failure) => failure,
            };
            last = format!("{endpoint}: {}", failure.why);
            if matches!(failure.kind, FailureKind::Refused(_) | FailureKind::Wrong) {
                return Err(RemoteError::Refused { endpoint: endpoint.clone(), why: failure.why });
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
        self.shared.unload(&self.shared.adapters.all());
    }
}

impl Shared {
    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        lock(&self.states)
    }

    fn place(&self, index: usize, abilities: &Abilities, timeout: Duration) -> Place<'_> {
        let url = &self.options.endpoints[index];
        Place { client: &self.client, url, kind: abilities.kind, timeout }
    }

    fn unload(&self, gone: &[Arc<RemoteAdapter>]) {
        let up = |state: &State| state.abilities.filter(|_| state.health == Health::Up);
        let places: Vec<Option<Abilities>> = self.states().iter().map(up).collect();
        for (index, abilities) in places.into_iter().enumerate() {
            if let Some(abilities) = abilities {
                let place = self.place(index, &abilities, UNLOAD_TIMEOUT);
                self.adapters.unload(index, &place, gone);
            }
        }
    }

    /// Looks at a server, loads what it needs, and gives it work if it is well.
    fn survey(&self, index: usize) -> Result<(), Failure> {
        let url = &self.options.endpoints[index];
        let outcome = Survey {
            client: &self.client,
            url,
            name: &self.options.model,
            model: &self.model,
            timeout: self.options.timeout.min(SURVEY_TIMEOUT),
        }
        .run();
        let outcome = outcome.and_then(|(abilities, names)| {
            let place = self.place(index, &abilities, self.options.timeout);
            self.adapters.restore(index, &place, &names)?;
            Ok(abilities)
        });
        let mut states = self.states();
        let state = &mut states[index];
        let outcome = match outcome {
            Ok(abilities) => {
                tracing::info!(
                    endpoint = url,
                    server = abilities.kind.as_str(),
                    "remote server up"
                );
                state.abilities = Some(abilities);
                state.health = Health::Up;
                Ok(())
            }
            Err(failure) => {
                self.take_down(state, &failure.why);
                Err(failure)
            }
        };
        self.changed.notify_all();
        outcome
    }

    fn take_down(&self, state: &mut State, why: &str) {
        // After a first failure at once: most are of the request, or of the moment.
        let wait = match state.failures {
            0 => Duration::ZERO,
            failures => retry::doubled(self.options.backoff, failures - 1),
        };
        state.failures = state.failures.saturating_add(1);
        state.health = Health::Down(Instant::now() + wait);
        state.last_error = Some(why.to_string());
    }

    /// Starts a look at every server that is due for one.
    fn survey_due(self: &Arc<Self>, states: &mut [State]) {
        let now = Instant::now();
        for (index, state) in states.iter_mut().enumerate() {
            if !matches!(state.health, Health::Down(at) if at <= now) {
                continue;
            }
            let shared = self.clone();
            let look = move || {
                if let Err(failure) = shared.survey(index) {
                    let endpoint = &shared.options.endpoints[index];
                    tracing::debug!(endpoint, why = failure.why, "a remote server stays down");
                }
            };
            // Without a thread it stays due.
            if std::thread::Builder::new().name("survey".into()).spawn(look).is_ok() {
                state.health = Health::Surveyed;
            }
        }
    }

    /// A place at the least busy server that can do the errand, other than `avoid` if there is one;
    /// none when the time is up first.
    fn wait_for_room(
        self: &Arc<Self>,
        errand: &Errand<'_>,
        avoid: Option<usize>,
        until: Instant,
        stop: &Stop,
    ) -> Result<Option<Lease<'_>>, RemoteError> {
        let mut states = self.states();
        loop {
            stop.check()?;
            let now = Instant::now();
            if now >= until {
                return Ok(None);
            }
            self.survey_due(&mut states);
            let able = |state: &State| {
                state.abilities.filter(|abilities| (errand.unable)(abilities).is_none())
            };
            let known = states.iter().all(|state| state.abilities.is_some());
            if known && states.iter().all(|state| able(state).is_none()) {
                return Err(RemoteError::Unable(self.reasons(&states, errand.unable)));
            }
            let free = states.iter().enumerate().filter_map(|(index, state)| {
                let paused = state.paused_until.is_some_and(|until| until > now);
                let full = state.in_flight >= self.options.concurrency;
                let ready = state.health == Health::Up && !paused && !full;
                Some((index, able(state).filter(|_| ready)?, state.in_flight))
            });
            let best = free.min_by_key(|(index, _, load)| (avoid == Some(*index), *load, *index));
            if let Some((index, abilities, _)) = best {
                states[index].in_flight += 1;
                return Ok(Some(Lease { shared: self, index, abilities }));
            }
            let slice = SLICE.min(until - now);
            let waited = self.changed.wait_timeout(states, slice);
            states = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// For each server that has a reason not to do something, the reason.
    fn reasons(
        &self,
        states: &[State],
        unable: &dyn Fn(&Abilities) -> Option<String>,
    ) -> Vec<String> {
        let reason = |(endpoint, state): (&String, &State)| {
            let why = match (&state.abilities, &state.last_error) {
                (Some(abilities), _) => unable(abilities)?,
                (None, Some(error)) => error.clone(),
                (None, None) => "it has not answered yet".into(),
            };
            Some(format!("{endpoint}: {why}"))
        };
        self.options.endpoints.iter().zip(states).filter_map(reason).collect()
    }

    /// What every server was like when a request found no place, and what it met before.
    fn why_no_room(&self, last: &str) -> String {
        let states = self.states();
        let one = |(endpoint, state): (&String, &State)| {
            let error = state.last_error.as_deref().unwrap_or("no answer yet");
            match state.health {
                Health::Up => format!("{endpoint} had no room"),
                _ => format!("{endpoint} is down ({error})"),
            }
        };
        let all: Vec<String> = self.options.endpoints.iter().zip(states.iter()).map(one).collect();
        match last {
            "" => all.join("; "),
            last => format!("{}; before that, {last}", all.join("; ")),
        }
    }
}

fn lines(failures: &[(String, Failure)]) -> Vec<String> {
    failures.iter().map(|(endpoint, failure)| format!("{endpoint}: {}", failure.why)).collect()
}

/// A place at a server, given back when dropped.
struct Lease<'a> {
    shared: &'a Shared,
    index: usize,
    abilities: Abilities,
}

impl Lease<'_> {
    /// One try, and what it tells of the server.
    fn serve<T>(
        &self,
        errand: &Errand<'_>,
        until: Instant,
        attempt: impl Fn(&Chosen<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let options = &self.shared.options;
        let left = |()| until.saturating_duration_since(Instant::now()).min(options.timeout);
        let place = self.shared.place(self.index, &self.abilities, options.timeout);
        let ready = match errand.adapter {
            Some(adapter) => self.shared.adapters.ensure(self.index, &place, adapter),
            None => Ok(()),
        };
        let base = &options.model;
        let name = |adapter: &RemoteAdapter| adapter.model_name(base, self.abilities.kind);
        let outcome = ready.and_then(|()| {
            attempt(&Chosen {
                client: &self.shared.client,
                url: place.url,
                abilities: self.abilities,
                model: errand.adapter.map_or_else(|| base.clone(), name),
                timeout: left(()),
            })
        });
        let outcome = outcome.map_err(|failure| match failure.kind {
            // It was started anew and lacks what it had.
            FailureKind::Refused(404) if errand.adapter.is_some() => {
                self.shared.adapters.forget(self.index);
                Failure::broken(failure.why)
            }
            _ => failure,
        });
        self.note(outcome.as_ref().err(), Instant::now() >= until);
        outcome
    }

    fn note(&self, failure: Option<&Failure>, cut_short: bool) {
        let mut states = self.shared.states();
        let state = &mut states[self.index];
        match failure.map(|failure| (failure.kind, &failure.why)) {
            None => state.failures = 0,
            // The request ran out of time, not the server.
            Some((FailureKind::Broken, _)) if cut_short => {}
            Some((FailureKind::Broken, why)) if state.health == Health::Up => {
                let endpoint = &self.shared.options.endpoints[self.index];
                tracing::warn!(endpoint, why, "a remote server failed; it is looked at anew");
                self.shared.take_down(state, why);
            }
            Some((FailureKind::Busy(after), why)) => {
                let wait = after.unwrap_or(self.shared.options.backoff);
                state.paused_until = Some(Instant::now() + wait);
                state.last_error = Some(why.clone());
            }
            Some((_, why)) => state.last_error = Some(why.clone()),
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.shared.states()[self.index].in_flight -= 1;
        self.shared.changed.notify_all();
    }
}
