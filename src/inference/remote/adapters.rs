//! Adapters on the servers: loaded under a name that is theirs alone before a request uses them.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::TryLockError;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use serde_json::json;

use super::RemoteError;
use super::batch::SLICE;
use super::http::Client;
use super::http::Failure;
use super::http::FailureKind;
use super::http::SMALL_ANSWER;
use super::lock;
use super::survey::Kind;

/// Adapters that stay on the servers at once: base aside, a night compares two versions, and each
/// may have one per role.
const KEPT: usize = 4;
/// The weights in a PEFT directory.
const WEIGHTS: &str = "adapter_model.safetensors";
/// The folder of a home that holds its adapters.
const FOLDER: &str = "adapters";

/// A PEFT directory, as the servers know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteAdapter {
    /// Its name: the version's, and the weights' hash, so that two homes do not get each other's.
    name: String,
    /// Its path on the servers.
    path: PathBuf,
}

impl RemoteAdapter {
    /// The adapter in `dir`, which the servers see in `seen_at` if the folder of adapters has
    /// another path there; `label` says which it is.
    ///
    /// # Errors
    /// When its weights cannot be read.
    pub fn open(dir: &Path, seen_at: Option<&Path>, label: &str) -> Result<Self, RemoteError> {
        let unreadable = |why: std::io::Error| RemoteError::Adapter {
            path: dir.display().to_string(),
            why: why.to_string(),
        };
        let dir = dir.canonicalize().map_err(unreadable)?;
        let weights = std::fs::read(dir.join(WEIGHTS)).map_err(unreadable)?;
        let plain = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '-' };
        let label: String = label.chars().map(plain).collect();
        let name = format!("{label}-{}", &blake3::hash(&weights).to_hex()[..12]);
        let path = match seen_at {
            Some(base) => base.join(below_adapters(&dir)),
            None => dir,
        };
        Ok(Self { name, path })
    }

    /// The name under which the servers have it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a request gives as its model.
    pub(super) fn model_name(&self, base: &str, kind: Kind) -> String {
        match kind {
            Kind::Sglang => format!("{base}:{}", self.name),
            _ => self.name.clone(),
        }
    }
}

/// The part of a path below the home's folder of adapters; the last part where there is none.
fn below_adapters(dir: &Path) -> PathBuf {
    let parts: Vec<_> = dir.components().collect();
    let after = parts.iter().rposition(|part| part.as_os_str() == FOLDER).map(|at| at + 1);
    let from = after.filter(|at| *at < parts.len()).unwrap_or(parts.len().saturating_sub(1));
    parts[from..].iter().collect()
}

/// A server that adapters are loaded into.
pub(super) struct Place<'a> {
    pub(super) client: &'a Client,
    pub(super) url: &'a str,
    pub(super) kind: Kind,
    pub(super) timeout: Duration,
}

/// Which adapters are wanted, and which server has which.
pub(super) struct Adapters {
    /// Whether they are loaded by us.
    load: bool,
    /// Wanted, oldest first.
    wanted: Mutex<Vec<Arc<RemoteAdapter>>>,
    /// The names that each server has. Held while one is loaded, so that it is loaded once.
    loaded: Vec<Mutex<BTreeSet<String>>>,
}

impl Adapters {
    pub(super) fn new(servers: usize, load: bool) -> Self {
        let loaded = (0..servers).map(|_| Mutex::default()).collect();
        Self { load, wanted: Mutex::default(), loaded }
    }

    /// Takes an adapter in; returns those that need not stay any more.
    pub(super) fn want(
        &self,
        adapter: RemoteAdapter,
    ) -> (Arc<RemoteAdapter>, Vec<Arc<RemoteAdapter>>) {
        let mut wanted = lock(&self.wanted);
        let known = wanted.iter().position(|known| **known == adapter);
        let adapter = match known {
            Some(at) => wanted.remove(at),
            None => Arc::new(adapter),
        };
        wanted.push(adapter.clone());
        let mut gone = Vec::new();
        while wanted.len() > KEPT {
            // In use by no engine: the list holds the only reference.
            let idle = wanted.iter().position(|known| Arc::strong_count(known) == 1);
            let Some(at) = idle else { break };
            gone.push(wanted.remove(at));
        }
        (adapter, gone)
    }

    /// Sees to it that a server has an adapter, within the place's time.
    pub(super) fn ensure(
        &self,
        server: usize,
        place: &Place<'_>,
        adapter: &RemoteAdapter,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let mut loaded = self.loaded_of(server, started + place.timeout)?;
        if loaded.contains(&adapter.name) {
            return Ok(());
        }
        let timeout = place.timeout.saturating_sub(started.elapsed());
        let place = &Place { timeout, ..*place };
        match self.load {
            true => load(place, adapter)?,
            false => find(place, adapter)?,
        }
        loaded.insert(adapter.name.clone());
        Ok(())
    }

    /// The names that a server has. While another request loads one, this waits until `until`.
    fn loaded_of(
        &self,
        server: usize,
        until: Instant,
    ) -> Result<MutexGuard<'_, BTreeSet<String>>, Failure> {
        loop {
            match self.loaded[server].try_lock() {
                Ok(loaded) => return Ok(loaded),
                Err(TryLockError::Poisoned(poisoned)) => return Ok(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                    return Err(Failure::broken("an adapter is still being loaded"));
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(SLICE),
            }
        }
    }

    /// Loads the adapters in use into a server that came up, which lists `names`.
    pub(super) fn restore(
        &self,
        server: usize,
        place: &Place<'_>,
        names: &[String],
    ) -> Result<(), Failure> {
        let wanted = lock(&self.wanted);
        let listed = wanted.iter().filter(|adapter| names.contains(&adapter.name));
        let listed = listed.map(|adapter| adapter.name.clone()).collect();
        // The files of others may be gone.
        let in_use = wanted.iter().filter(|adapter| Arc::strong_count(adapter) > 1);
        let in_use: Vec<Arc<RemoteAdapter>> = in_use.cloned().collect();
        drop(wanted);
        *lock(&self.loaded[server]) = listed;
        in_use.iter().try_for_each(|adapter| self.ensure(server, place, adapter))
    }

    /// Forgets what a server has: it says that it lacks one.
    pub(super) fn forget(&self, server: usize) {
        lock(&self.loaded[server]).clear();
    }

    /// Removes adapters from a server, as far as it has them. That it keeps some is no harm but
    /// memory, so a failure is only logged, and one that is not well is left alone.
    pub(super) fn unload(&self, server: usize, place: &Place<'_>, gone: &[Arc<RemoteAdapter>]) {
        for adapter in gone {
            if !self.load || !lock(&self.loaded[server]).remove(&adapter.name) {
                continue;
            }
            let body = json!({ "lora_name": adapter.name });
            let url = format!("{}{}", place.url, path_of(place.kind, "unload_lora_adapter"));
            if let Err(failure) = place.client.post(&url, &body, place.timeout, SMALL_ANSWER) {
                let (endpoint, name, why) = (place.url, &adapter.name, &failure.why);
                tracing::warn!(endpoint, name, why, "an adapter stays on a server");
                if failure.kind == FailureKind::Broken {
                    return;
                }
            }
        }
    }

    /// All adapters that some engine wanted.
    pub(super) fn all(&self) -> Vec<Arc<RemoteAdapter>> {
        lock(&self.wanted).clone()
    }
}

fn path_of(kind: Kind, action: &str) -> String {
    match kind {
        Kind::Sglang => format!("/{action}"),
        _ => format!("/v1/{action}"),
    }
}

fn load(place: &Place<'_>, adapter: &RemoteAdapter) -> Result<(), Failure> {
    if place.kind == Kind::LlamaCpp {
        let why = "llama.cpp's server takes adapters only when it starts: it can serve the base \
                   model, not a version in training";
        return Err(Failure::wrong(why));
    }
    let body = json!({ "lora_name": adapter.name, "lora_path": adapter.path });
    let url = format!("{}{}", place.url, path_of(place.kind, "load_lora_adapter"));
    let outcome = place.client.post(&url, &body, place.timeout, SMALL_ANSWER);
    let why = match outcome {
        Ok(answer) if answer.get("success").and_then(Value::as_bool) == Some(false) => {
            let message = answer.get("error_message").and_then(Value::as_str);
            message.unwrap_or("without a reason").to_string()
        }
        Ok(_) => return Ok(()),
        // An earlier run, or a request that was tried twice, has loaded it; its name has its hash.
        Err(failure) if failure.why.contains("already") => return Ok(()),
        Err(Failure { kind: FailureKind::Refused(404 | 405), .. })
            if place.kind != Kind::Sglang =>
        {
            "it has no endpoint for that; start vLLM with --enable-lora and \
             VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
                .into()
        }
        // vLLM says so that the adapter does not fit.
        Err(failure) if failure.why.starts_with("status 500") => failure.why,
        Err(failure) if matches!(failure.kind, FailureKind::Refused(_)) => failure.why,
        Err(failure) => return Err(failure),
    };
    if why.contains("already") {
        return Ok(());
    }
    let path = adapter.path.display();
    let hint = "does the server see this path (remote.adapters_dir), and has it room for the rank?";
    Err(Failure::wrong(format!("it cannot load the adapter {path}: {why}; {hint}")))
}

/// Fails when a server that adapters are not loaded into does not list one.
fn find(place: &Place<'_>, adapter: &RemoteAdapter) -> Result<(), Failure> {
    let answer = place.client.get(&format!("{}/v1/models", place.url), place.timeout)?;
    let models = answer.get("data").and_then(Value::as_array);
    let is_it = |model: &Value| model.get("id").and_then(Value::as_str) == Some(&adapter.name);
    match models.is_some_and(|models| models.iter().any(is_it)) {
        true => Ok(()),
        false => Err(Failure::wrong(format!(
            "it has no adapter `{}`; load {} there under that name, or set remote.load_adapters = \
             true",
            adapter.name,
            adapter.path.display()
        ))),
    }
}
