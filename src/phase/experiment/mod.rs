//! Experiments: every arm with every seed in a home of its own, and what the arms differ by.
//!
//! A run that is over stays as it is, one that was cut off goes on: the same call continues.

mod results;

use std::path::Path;
use std::time::Duration;
use std::time::Instant;

pub use self::results::ArmResult;
pub use self::results::Difference;
pub use self::results::Results;
pub use self::results::RunResult;
pub use self::results::results;
use super::home::Home;
use super::night;
use super::night::NightContext;
use crate::archive::ArchiveReader;
use crate::archive::NightState;
use crate::config::Settings;
use crate::config::experiment::Experiment;
use crate::durable;
use crate::durable::HomeLock;

/// An experiment and where it is done.
pub struct Bench<'a> {
    /// What it is called.
    pub name: &'a str,
    /// What is compared.
    pub experiment: &'a Experiment,
    /// Settings of all arms, as `key=value`.
    pub flags: &'a [String],
    /// The folder of its homes.
    pub dir: &'a Path,
}

/// One arm with one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The arm.
    pub arm: String,
    /// The seed.
    pub seed: u64,
}

impl Bench<'_> {
    /// All runs, in the order in which they are done: all arms with a seed before the next seed, so
    /// that what there is can be compared at any time.
    pub fn runs(&self) -> Vec<Run> {
        let of_seed = |seed: &u64| {
            let seed = *seed;
            self.experiment.arms.keys().map(move |arm| Run { arm: arm.clone(), seed })
        };
        self.experiment.seeds.iter().flat_map(of_seed).collect()
    }

    /// Where a run is done.
    pub fn home(&self, run: &Run) -> Home {
        Home::at(self.dir.join(&run.arm).join(format!("seed-{}", run.seed)))
    }

    /// The settings of a run.
    ///
    /// # Errors
    /// When they are refused.
    pub fn settings(&self, run: &Run) -> anyhow::Result<Settings> {
        Ok(self.experiment.settings_of(self.name, &run.arm, run.seed, self.flags)?)
    }

    /// How many nights of a run are over.
    ///
    /// # Errors
    /// When its archive cannot be read.
    pub fn nights_done(&self, run: &Run) -> anyhow::Result<u32> {
        let path = self.home(run).archive();
        if !path.exists() {
            return Ok(0);
        }
        let nights = ArchiveReader::open(&path)?.nights()?;
        Ok(nights.iter().filter(|night| night.state == NightState::Finished).count() as u32)
    }

    /// Does what is left, until it is done or `limit` is over: a night that has begun by then is
    /// finished. Returns how many runs are left.
    ///
    /// # Errors
    /// When the folder was begun with other settings, or a night fails.
    pub fn run(&self, context: &NightContext, limit: Option<Duration>) -> anyhow::Result<usize> {
        let start = Instant::now();
        let _lock = HomeLock::acquire(self.dir)?;
        self.check_same()?;
        let runs = self.runs();
        for (place, run) in runs.iter().enumerate() {
            let mut done = self.nights_done(run)?;
            while done < self.experiment.nights {
                if limit.is_some_and(|limit| start.elapsed() >= limit) {
                    return Ok(runs.len() - place);
                }
                let night = done + 1;
                tracing::info!(arm = run.arm, seed = run.seed, night, "a night of the experiment");
                night::run(&self.home(run), &self.settings(run)?, context)?;
                done = self.nights_done(run)?;
            }
        }
        Ok(0)
    }

    /// Runs of other settings, or of another corpus, are not compared with each other.
    fn check_same(&self) -> anyhow::Result<()> {
        let mut described = serde_json::to_value(self.experiment)?;
        described["flags"] = self.flags.into();
        let text = serde_json::to_string_pretty(&described)?;
        let file = self.dir.join("experiment.json");
        match std::fs::read_to_string(&file) {
            Ok(known) if known == text => Ok(()),
            Ok(_) => anyhow::bail!(
                "{} was begun as another experiment, or with other settings: give another folder \
                 with --dir, or remove that one",
                self.dir.display()
            ),
            Err(_) => Ok(durable::write_file(&file, text.as_bytes())?),
        }
    }
}
