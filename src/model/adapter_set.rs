//! The adapters of a model version: one that plays both roles, or one for each.
//!
//! On the disk a version is a folder. With a shared adapter it is a PEFT directory; with one per
//! role it holds two of them, `solver/` and `proposer/`, under one seal. Either way PEFT and vLLM
//! load the directories as they are.

use std::path::Path;
use std::path::PathBuf;

use super::config::DecoderConfig;
use super::lora::Adapter;
use super::lora::AdapterError;
use crate::config::Adapters;
use crate::config::Role;
use crate::durable::PendingDirectory;

/// The file that every PEFT directory has.
const PEFT_CONFIG: &str = "adapter_config.json";

/// The adapters of a model version.
#[derive(Debug)]
pub enum AdapterSet {
    /// One for both roles.
    Shared(Adapter),
    /// One for each.
    PerRole {
        /// Searches and answers.
        solver: Adapter,
        /// Writes questions.
        proposer: Adapter,
    },
}

impl AdapterSet {
    /// Whether the roles share one.
    pub fn form(&self) -> Adapters {
        match self {
            Self::Shared(_) => Adapters::Shared,
            Self::PerRole { .. } => Adapters::PerRole,
        }
    }

    /// The adapter that plays `role`.
    pub fn of(&self, role: Role) -> &Adapter {
        match (self, role) {
            (Self::Shared(adapter), _) => adapter,
            (Self::PerRole { solver, .. }, Role::Solver) => solver,
            (Self::PerRole { proposer, .. }, Role::Proposer) => proposer,
        }
    }

    /// Puts `adapter` in the place of the one that plays `role`.
    pub fn replace(&mut self, role: Role, adapter: Adapter) {
        *match (self, role) {
            (Self::Shared(old), _) => old,
            (Self::PerRole { solver, .. }, Role::Solver) => solver,
            (Self::PerRole { proposer, .. }, Role::Proposer) => proposer,
        } = adapter;
    }

    /// The same adapters, to be trained with another dropout than they were stored with.
    #[must_use]
    pub fn with_dropout(self, rate: f32) -> Self {
        match self {
            Self::Shared(adapter) => Self::Shared(adapter.with_dropout(rate)),
            Self::PerRole { solver, proposer } => Self::PerRole {
                solver: solver.with_dropout(rate),
                proposer: proposer.with_dropout(rate),
            },
        }
    }

    /// A set of the given form from what `make` gives for each role; called once when they share.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn build<E>(
        form: Adapters,
        mut make: impl FnMut(Role) -> Result<Adapter, E>,
    ) -> Result<Self, E> {
        Ok(match form {
            Adapters::Shared => Self::Shared(make(Role::Solver)?),
            Adapters::PerRole => {
                Self::PerRole { solver: make(Role::Solver)?, proposer: make(Role::Proposer)? }
            }
        })
    }

    /// Reads a version's folder, whichever form it has, as a set of the form `wanted`. From a
    /// shared adapter each role gets a copy of its own.
    ///
    /// # Errors
    /// When the folder holds no adapter, one per role where a shared one is wanted, or one that
    /// does not fit the model.
    pub fn load(
        dir: &Path,
        wanted: Adapters,
        config: &DecoderConfig,
    ) -> Result<Self, AdapterError> {
        if (wanted, form_of(dir)) == (Adapters::Shared, Some(Adapters::PerRole)) {
            let path = dir.display().to_string();
            let reason = "it has an adapter for each role, which cannot become one";
            return Err(AdapterError::Config { path, reason: reason.into() });
        }
        Self::build(wanted, |role| Adapter::load(&dir_of(dir, role), config))
    }

    /// Writes a version's folder and seals it: it appears whole or not at all. Returns the hash of
    /// its contents.
    ///
    /// # Errors
    /// When the disk is full or unwritable.
    pub fn save(&self, dir: &Path, base: &str) -> Result<String, AdapterError> {
        match self {
            Self::Shared(adapter) => adapter.save(dir, base),
            Self::PerRole { solver, proposer } => {
                let pending = PendingDirectory::create(dir)?;
                solver.save(&pending.path().join(Role::Solver.as_str()), base)?;
                proposer.save(&pending.path().join(Role::Proposer.as_str()), base)?;
                Ok(pending.seal()?.content_hash())
            }
        }
    }
}

/// The form of the version in a folder; none when it holds no adapter.
pub fn form_of(dir: &Path) -> Option<Adapters> {
    if dir.join(PEFT_CONFIG).is_file() {
        return Some(Adapters::Shared);
    }
    let has = |role: Role| dir.join(role.as_str()).join(PEFT_CONFIG).is_file();
    (has(Role::Solver) && has(Role::Proposer)).then_some(Adapters::PerRole)
}

/// The PEFT directory, within a version's folder, of the adapter that plays `role`.
pub fn dir_of(dir: &Path, role: Role) -> PathBuf {
    match form_of(dir) {
        Some(Adapters::PerRole) => dir.join(role.as_str()),
        _ => dir.to_path_buf(),
    }
}

/// Whether an adapter changes nothing, because no training has touched it: every B is zero.
///
/// # Errors
/// Those of candle.
pub fn is_untouched(adapter: &Adapter) -> Result<bool, AdapterError> {
    for (name, variable) in adapter.variables() {
        let zero = || -> candle_core::Result<bool> {
            Ok(variable.abs()?.sum_all()?.to_scalar::<f32>()? == 0.0)
        };
        if name.contains(".lora_B.") && !zero()? {
            return Ok(false);
        }
    }
    Ok(true)
}
