//! Room on the disk: a night begins nothing that would leave less than the settings' floor.
//!
//! What the work ahead will write is estimated, never too low by much: weights and checkpoints by
//! the shape of the adapters, rows of the archive by those that are there.

use std::path::PathBuf;

use super::home::Home;
use super::night::Night;
use super::retention;
use super::usage;
use super::usage::readable;
use crate::archive::ArchiveReader;
use crate::archive::ModelKind;
use crate::config::Adapters;
use crate::config::Settings;
use crate::durable;
use crate::model::config::DecoderConfig;
use crate::model::lora::Target;

/// What a draft takes with its seed, verdicts and task.
const DRAFT_BYTES: u64 = 4 << 10;
/// What a rollout takes beside what the model writes, as long as there is none to tell.
const ROLLOUT_BYTES: u64 = 16 << 10;
/// Bytes of a token with its log-probability.
const TOKEN_BYTES: u64 = 8;
/// Adapters that are trained in a round: the solver's, and the proposer's or the same again.
const COURSES: u64 = 2;
/// How many times a checkpoint is as large as its adapter: with it are two moments of each weight.
const CHECKPOINT_PARTS: u64 = 3;
/// What takes the space that a message names.
const NAMED: usize = 2;

/// There is too little room for what a night does next. It stays as it is, and the same command
/// goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} has {} free, and {what} needs {}: {}{} that stay free (disk.floor_gb). {}`nightschool \
     doctor --disk` says what can go; the same command goes on then",
    home.display(),
    readable(*free),
    readable(floor.saturating_add(growth.sum())),
    growth.described(),
    readable(*floor),
    largest_described(largest)
)]
pub struct NoSpace {
    /// The home.
    home: PathBuf,
    /// What was about to begin.
    what: String,
    /// Bytes that are free.
    free: u64,
    /// Bytes that stay free.
    floor: u64,
    /// What it would write.
    growth: Growth,
    /// What takes most space in the home.
    largest: Vec<(&'static str, u64)>,
}

fn largest_described(largest: &[(&'static str, u64)]) -> String {
    let each = largest.iter().map(|(what, bytes)| format!("{what} ({})", readable(*bytes)));
    match each.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => none,
        most => format!("Most there is taken by {most}; "),
    }
}

/// What a piece of work leaves on the disk, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Growth {
    adapters: u64,
    checkpoints: u64,
    archive: u64,
}

impl Growth {
    fn sum(self) -> u64 {
        self.adapters.saturating_add(self.checkpoints).saturating_add(self.archive)
    }

    fn described(self) -> String {
        let parts = [
            (self.adapters, "adapters"),
            (self.checkpoints, "checkpoints"),
            (self.archive, "the archive"),
        ];
        let of = |(bytes, what): (u64, &str)| format!("{} for {what}, ", readable(bytes));
        parts.into_iter().filter(|(bytes, _)| *bytes > 0).map(of).collect()
    }
}

/// What of a night needs room of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Drafts by code.
    Drafts,
    /// Training before the first game.
    WarmStart,
    /// A round of the game.
    Round(u32),
}

impl Stage {
    /// The name of the version that is stored at its end.
    fn version(self) -> Option<String> {
        match self {
            Self::Drafts => None,
            Self::WarmStart => Some("warm".to_string()),
            Self::Round(round) => Some(format!("round{round}")),
        }
    }
}

/// Fails unless the floor is free.
pub(super) fn ensure_floor(home: &Home, settings: &Settings) -> anyhow::Result<()> {
    ensure(home, settings, "a night".to_string(), Growth::default())
}

/// Fails unless there is room for a night, or for what is left of one.
pub(super) fn ensure_night(
    home: &Home,
    archive: &ArchiveReader,
    settings: &Settings,
    config: &DecoderConfig,
    number: Option<u32>,
) -> anyhow::Result<()> {
    let estimate = Estimate { home, archive, settings, config };
    let rounds = (0..settings.solve.rounds as u32).map(Stage::Round);
    let mut all = Growth::default();
    for stage in [Stage::Drafts, Stage::WarmStart].into_iter().chain(rounds) {
        if estimate.is_ahead(stage, number)? {
            let growth = estimate.of(stage)?;
            all.adapters += growth.adapters;
            all.archive = all.archive.saturating_add(growth.archive);
            // Later ones take the place of earlier ones.
            all.checkpoints = all.checkpoints.max(growth.checkpoints);
        }
    }
    let what = number.map_or("a night".to_string(), |night| format!("the rest of night {night}"));
    ensure(home, settings, what, all)
}

impl Night<'_> {
    /// Fails unless there is room for what comes next.
    pub(super) fn ensure_space(&self, stage: Stage) -> anyhow::Result<()> {
        let config = &self.outline.config;
        let (home, archive, settings) = (self.home, &**self.archive, &self.settings);
        let estimate = Estimate { home, archive, settings, config };
        if !estimate.is_ahead(stage, Some(self.number))? {
            return Ok(());
        }
        let what = match stage {
            Stage::Drafts => "making drafts".to_string(),
            Stage::WarmStart => "the warm start".to_string(),
            Stage::Round(round) => format!("round {} of {}", round + 1, settings.solve.rounds),
        };
        ensure(home, settings, what, estimate.of(stage)?)
    }
}

fn ensure(home: &Home, settings: &Settings, what: String, growth: Growth) -> anyhow::Result<()> {
    let (free, floor) = (durable::free_bytes(home.dir())?, settings.disk.floor_bytes());
    if free >= floor.saturating_add(growth.sum()) {
        return Ok(());
    }
    // Looked at now only: it reads all folders of the home. That it fails must not hide the rest.
    let mut parts = usage::of(home, None).map(|usage| usage.parts).unwrap_or_default();
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    let largest = parts.iter().take(NAMED).map(|part| (part.what.as_str(), part.bytes)).collect();
    let home = home.dir().to_path_buf();
    Err(NoSpace { home, what, free, floor, growth, largest }.into())
}

struct Estimate<'a> {
    home: &'a Home,
    archive: &'a ArchiveReader,
    settings: &'a Settings,
    config: &'a DecoderConfig,
}

impl Estimate<'_> {
    /// Whether a stage is still to be done in the night of that number; in a new one, whether it
    /// is part of it.
    fn is_ahead(&self, stage: Stage, night: Option<u32>) -> anyhow::Result<bool> {
        if stage == Stage::WarmStart {
            let live = self.archive.live_model()?;
            let trained = live.is_some_and(|version| version.kind == ModelKind::Adapter);
            if trained || self.settings.warm_start.steps == 0 {
                return Ok(false);
            }
        }
        let (Some(night), Some(version)) = (night, stage.version()) else { return Ok(true) };
        Ok(self.archive.model_version(&format!("night{night}-{version}"))?.is_none())
    }

    fn of(&self, stage: Stage) -> anyhow::Result<Growth> {
        let propose = &self.settings.propose;
        let drafts = |n: usize| (n as u64).saturating_mul(DRAFT_BYTES);
        Ok(match stage {
            Stage::Drafts => Growth { archive: drafts(propose.code_drafts), ..Growth::default() },
            Stage::WarmStart => Growth {
                adapters: self.adapter() * self.slots(),
                checkpoints: self.checkpoints(self.slots()),
                archive: 0,
            },
            Stage::Round(_) => Growth {
                adapters: self.adapter() * self.slots(),
                checkpoints: self.checkpoints(COURSES),
                archive: drafts(propose.model_drafts).saturating_add(self.rollouts()?),
            },
        })
    }

    /// Adapters of a version.
    fn slots(&self) -> u64 {
        match self.settings.train.adapters {
            Adapters::Shared => 1,
            Adapters::PerRole => 2,
        }
    }

    /// Bytes of an adapter, which is kept in f32.
    fn adapter(&self) -> u64 {
        let train = &self.settings.train;
        let weights = |target: &Target| {
            let (out, inner) = target.dims(self.config);
            train.rank * (out + inner)
        };
        let layer: usize = train.target_modules.iter().map(weights).sum();
        (layer * self.config.layers * size_of::<f32>()) as u64
    }

    /// Bytes that checkpoints of so many courses come to take beside those that are there.
    fn checkpoints(&self, courses: u64) -> u64 {
        let kept = retention::WHILE_TRAINING.max(self.settings.retention.checkpoints) as u64;
        // One is written before the oldest goes.
        let all = (courses * kept).saturating_add(1);
        let bytes = all.saturating_mul(CHECKPOINT_PARTS * self.adapter());
        bytes.saturating_sub(usage::bytes_below(&self.home.checkpoints()))
    }

    /// Bytes of a round's rollouts.
    fn rollouts(&self) -> anyhow::Result<u64> {
        let solve = &self.settings.solve;
        let each = match self.archive.rollout_bytes()? {
            Some(bytes) => bytes,
            None => solve.max_tokens as u64 * TOKEN_BYTES + ROLLOUT_BYTES,
        };
        Ok((solve.tasks as u64).saturating_mul(solve.rollouts as u64).saturating_mul(each))
    }
}
