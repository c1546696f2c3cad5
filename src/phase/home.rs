//! A home: the folder that holds one learner's archive, adapters and settings.

use std::path::Path;
use std::path::PathBuf;

/// Where things lie in a home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    dir: PathBuf,
}

impl Home {
    /// The home at `dir`; nothing is created.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Settings of this home.
    pub fn config(&self) -> PathBuf {
        self.dir.join("nightschool.toml")
    }

    /// Schedules in use, a file for each.
    pub fn schedules(&self) -> PathBuf {
        self.dir.join("schedules")
    }

    /// The socket of its daemon.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("daemon.sock")
    }

    /// What its daemon remembers.
    pub fn daemon_memory(&self) -> PathBuf {
        self.dir.join("daemon.json")
    }

    /// What the night under way is at, or why the last one failed.
    pub fn progress(&self) -> PathBuf {
        self.dir.join("progress.json")
    }

    /// The task archive.
    pub fn archive(&self) -> PathBuf {
        self.dir.join("archive.db")
    }

    /// Adapters, a folder for each version.
    pub fn adapters(&self) -> PathBuf {
        self.dir.join("adapters")
    }

    /// Training state of the night under way, and of past ones as the settings say.
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// Morning reports as pages.
    pub fn reports(&self) -> PathBuf {
        self.dir.join("reports")
    }

    /// The morning report of a night as a page.
    pub fn page(&self, night: u32) -> PathBuf {
        self.reports().join(format!("night-{night:04}.html"))
    }

    /// Metrics of the last training, for monitoring.
    pub fn metrics(&self) -> PathBuf {
        self.dir.join("metrics.prom")
    }

    /// The search index, rebuilt from the archive at will.
    pub fn index(&self) -> PathBuf {
        self.dir.join("index")
    }

    /// Backups, unless another folder is named.
    pub fn backups(&self) -> PathBuf {
        self.dir.join("backups")
    }

    /// Prompts that replace built-in ones.
    pub fn prompts(&self) -> PathBuf {
        self.dir.join("prompts")
    }
}
