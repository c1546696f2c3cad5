//! The roles of the model in the game, and the adapters that play them.

use serde::Deserialize;
use serde::Serialize;

/// What the model does in the game.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Searches and answers.
    Solver,
    /// Writes questions.
    Proposer,
}

impl Role {
    /// The name used in folders, in JSON and on the command line.
    pub fn as_str(self) -> &'static str {
        AdapterSlot::from(self).as_str()
    }
}

/// Whether the roles share one adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Adapters {
    /// One adapter plays both roles, told apart by their prompts (Search Self-play).
    Shared,
    /// Each role has an adapter of its own over the same base (as R-Zero's and Dr. Zero's two
    /// models, at the size of an adapter).
    PerRole,
}

impl Adapters {
    /// The name used in the archive, in settings and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerRole => "per_role",
        }
    }

    /// The adapter that plays `role`.
    pub fn slot(self, role: Role) -> AdapterSlot {
        match self {
            Self::Shared => AdapterSlot::Shared,
            Self::PerRole => role.into(),
        }
    }
}

/// One adapter of a model version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterSlot {
    /// The one that plays both roles.
    Shared,
    /// The solver's own.
    Solver,
    /// The proposer's own.
    Proposer,
}

impl AdapterSlot {
    /// The name used in the archive, in folders and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Solver => "solver",
            Self::Proposer => "proposer",
        }
    }
}

impl From<Role> for AdapterSlot {
    fn from(role: Role) -> Self {
        match role {
            Role::Solver => Self::Solver,
            Role::Proposer => Self::Proposer,
        }
    }
}
