//! The servers themselves: which is well, which has room, and what each try tells of them.
//!
//! A server that fails a request gets no work until it has been surveyed anew, at once after a
//! first failure, then at growing intervals.

use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::time::Duration;
use std::time::Instant;

use serde::Serialize;

use super::Options;
use super::RemoteError;
use super::ServedModel;
use super::adapters::Adapters;
use super::adapters::Place;
use super::adapters::RemoteAdapter;
use super::batch::SLICE;
use super::batch::Stop;
use super::http::Client;
use super::http::Failure;
use super::http::FailureKind;
use super::lock;
use super::retry;
use super::survey::Abilities;
use super::survey::Survey;
use crate::inference::Request;

/// Longest time for a question about a server itself.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time to remove an adapter.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How a server is doing, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
pub(super) struct State {
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

/// What surveys in the background share with the requests.
pub(super) struct Servers {
    pub(super) options: Options,
    client: Client,
    pub(super) model: ServedModel,
    pub(super) adapters: Adapters,
    states: Mutex<Vec<State>>,
    /// Notified when a server has room, or is well again.
    changed: Condvar,
}

impl Servers {
    /// The servers of `options`, for `model`, all of them to be surveyed.
    pub(super) fn new(options: Options, model: ServedModel) -> Self {
        let due = Instant::now();
        let states = options.endpoints.iter().map(|_| State {
            health: Health::Down(due),
            in_flight: 0,
            failures: 0,
            paused_until: None,
            last_error: None,
            abilities: None,
        });
        let states = Mutex::new(states.collect());
        let adapters = Adapters::new(options.endpoints.len(), options.load_adapters);
        let client = Client::new(options.secret.clone());
        Self { options, client, model, adapters, states, changed: Condvar::new() }
    }

    /// How they are doing.
    pub(super) fn status(&self) -> Vec<EndpointStatus> {
        let states = self.states();
        let plain = Request::new(Vec::new(), 1);
        let status = |(endpoint, state): (&String, &State)| EndpointStatus {
            endpoint: endpoint.clone(),
            server: state.abilities.map(|abilities| abilities.kind.as_str()),
            healthy: state.health == Health::Up,
            in_flight: state.in_flight,
            last_error: state.last_error.clone(),
            untrainable: state.abilities.and_then(|abilities| abilities.untrainable(&plain)),
        };
        self.options.endpoints.iter().zip(states.iter()).map(status).collect()
    }

    /// Longest prompt and continuation that every one of them takes.
    pub(super) fn context(&self) -> usize {
        let states = self.states();
        let contexts = states.iter().filter_map(|state| state.abilities?.context);
        contexts.min().unwrap_or(usize::MAX).min(self.model.max_positions)
    }

    /// Surveys all at once; returns those that failed.
    pub(super) fn survey_all(&self) -> Vec<(String, Failure)> {
        let outcomes: Vec<Option<Failure>> = std::thread::scope(|scope| {
            let look = |index| scope.spawn(move || self.survey(index).err());
            let threads: Vec<_> = (0..self.options.endpoints.len()).map(look).collect();
            let died = |_| Some(Failure::broken("the survey failed"));
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(died)).collect()
        });
        let named = self.options.endpoints.iter().cloned().zip(outcomes);
        named.filter_map(|(endpoint, failure)| Some((endpoint, failure?))).collect()
    }

    pub(super) fn states(&self) -> MutexGuard<'_, Vec<State>> {
        lock(&self.states)
    }

    fn place(&self, index: usize, abilities: &Abilities, timeout: Duration) -> Place<'_> {
        let url = &self.options.endpoints[index];
        Place { client: &self.client, url, kind: abilities.kind, timeout }
    }

    /// Takes adapters off every server that is well, off all servers at once: one that hangs holds
    /// up none of the others.
    pub(super) fn unload(&self, gone: &[Arc<RemoteAdapter>]) {
        let up = |state: &State| state.abilities.filter(|_| state.health == Health::Up);
        let places: Vec<Option<Abilities>> = self.states().iter().map(up).collect();
        std::thread::scope(|scope| {
            for (index, abilities) in places.into_iter().enumerate() {
                let Some(abilities) = abilities else { continue };
                let place = self.place(index, &abilities, UNLOAD_TIMEOUT);
                scope.spawn(move || self.adapters.unload(index, &place, gone));
            }
        });
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
        let outcome = outcome.map_err(|failure| self.client.tidy(failure));
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
                self.take_down(state, &failure);
                Err(failure)
            }
        };
        self.changed.notify_all();
        outcome
    }

    fn take_down(&self, state: &mut State, failure: &Failure) {
        // After a first failure at once: most are of the request, or of the moment.
        let wait = match state.failures {
            0 => Duration::ZERO,
            failures => retry::doubled(self.options.backoff, failures - 1),
        };
        let asked = if let FailureKind::Busy(asked) = failure.kind { asked } else { None };
        state.failures = state.failures.saturating_add(1);
        state.health = Health::Down(Instant::now() + wait.max(asked.unwrap_or_default()));
        state.last_error = Some(failure.why.clone());
    }

    /// Starts a look at every server that is due for one.
    fn survey_due(self: &Arc<Self>, states: &mut [State]) {
        let now = Instant::now();
        for (index, state) in states.iter_mut().enumerate() {
            if !matches!(state.health, Health::Down(at) if at <= now) {
                continue;
            }
            let servers = self.clone();
            let look = move || {
                if let Err(failure) = servers.survey(index) {
                    let endpoint = &servers.options.endpoints[index];
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
    pub(super) fn wait_for_room(
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
                return Ok(Some(Lease { servers: self, index, abilities }));
            }
            let slice = SLICE.min(until - now);
            let waited = self.changed.wait_timeout(states, slice);
            states = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// For each server that has a reason not to do something, the reason.
    pub(super) fn reasons(
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
    pub(super) fn why_no_room(&self, last: &str) -> String {
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

/// A place at a server, given back when dropped.
pub(super) struct Lease<'a> {
    servers: &'a Servers,
    pub(super) index: usize,
    abilities: Abilities,
}

impl Lease<'_> {
    /// One try, and what it tells of the server.
    pub(super) fn serve<T>(
        &self,
        errand: &Errand<'_>,
        until: Instant,
        attempt: impl Fn(&Chosen<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let options = &self.servers.options;
        let left = || until.saturating_duration_since(Instant::now()).min(options.timeout);
        let place = self.servers.place(self.index, &self.abilities, left());
        let ready = match errand.adapter {
            Some(adapter) => self.servers.adapters.ensure(self.index, &place, adapter),
            None => Ok(()),
        };
        let base = &options.model;
        let name = |adapter: &RemoteAdapter| adapter.model_name(base, self.abilities.kind);
        let outcome = ready.and_then(|()| {
            attempt(&Chosen {
                client: &self.servers.client,
                url: place.url,
                abilities: self.abilities,
                model: errand.adapter.map_or_else(|| base.clone(), name),
                timeout: left(),
            })
        });
        let outcome = outcome.map_err(|failure| match failure.kind {
            // It was started anew and lacks what it had.
            FailureKind::Refused(404) if errand.adapter.is_some() => {
                self.servers.adapters.forget(self.index);
                Failure::broken(failure.why)
            }
            _ => failure,
        });
        let outcome = outcome.map_err(|failure| self.servers.client.tidy(failure));
        self.note(outcome.as_ref().err(), Instant::now() >= until);
        outcome
    }

    fn note(&self, failure: Option<&Failure>, cut_short: bool) {
        let mut states = self.servers.states();
        let state = &mut states[self.index];
        let Some(failure) = failure else {
            state.failures = 0;
            return;
        };
        match failure.kind {
            // The request ran out of time, not the server.
            FailureKind::Broken if cut_short => {}
            FailureKind::Broken if state.health == Health::Up => {
                let endpoint = &self.servers.options.endpoints[self.index];
                let why = &failure.why;
                tracing::warn!(endpoint, why, "a remote server failed; it is looked at anew");
                self.servers.take_down(state, failure);
            }
            FailureKind::Busy(after) => {
                let until = Instant::now() + after.unwrap_or(self.servers.options.backoff);
                // Of several answers the one that asks for the longest wait counts.
                state.paused_until = state.paused_until.max(Some(until));
                state.last_error = Some(failure.why.clone());
            }
            _ => state.last_error = Some(failure.why.clone()),
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.servers.states()[self.index].in_flight -= 1;
        self.servers.changed.notify_all();
    }
}
