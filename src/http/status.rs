//! What is known of the daemon and its home, gathered for all who ask.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use crate::archive::ArchiveReader;
use crate::archive::ModelVersion;
use crate::archive::Promotion;
use crate::config::DeviceName;
use crate::daemon::control::DaemonStatus;
use crate::daemon::listener::Seen;
use crate::machine;
use crate::phase::home::Home;
use crate::phase::overview::Disk;
use crate::phase::overview::NightOutcome;
use crate::phase::overview::Overview;
use crate::progress::ProgressReport;

/// Version of the JSON shape; it grows when a member goes away or changes its meaning.
const SCHEMA_VERSION: u32 = 1;

/// What changes from second to second.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    /// What the night under way is at, or why the last one failed.
    pub(super) progress: Option<ProgressReport>,
    /// Why the archive cannot be opened, where it cannot.
    pub(super) closed: Option<String>,
    /// Metrics of the last training, as its file has them.
    pub(super) trained: String,
}

impl Moment {
    /// Looks at the home.
    pub(super) fn of(home: &Home) -> Self {
        Self {
            progress: ProgressReport::read(&home.progress()),
            closed: ArchiveReader::open(&home.archive()).err().map(|error| error.to_string()),
            trained: std::fs::read_to_string(home.metrics()).unwrap_or_default(),
        }
    }
}

/// What changes from night to night.
#[derive(Debug, Clone)]
pub(super) struct Past {
    /// What the archive says; or why it says nothing.
    pub(super) overview: Result<Overview, String>,
    /// What the disk holds; none where the system does not say.
    pub(super) disk: Option<Disk>,
    /// The machine's GPUs by their models.
    pub(super) gpus: Vec<String>,
}

impl Past {
    /// Reads the archive and adds up folders.
    pub(super) fn of(home: &Home) -> Self {
        let archive = ArchiveReader::open(&home.archive()).map_err(anyhow::Error::from);
        let overview = archive.and_then(|archive| Overview::read(&archive));
        Self {
            overview: overview.map_err(|error| format!("{error:#}")),
            disk: Disk::of(home).ok(),
            gpus: machine::gpus(),
        }
    }
}

/// Something that went wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Trouble {
    /// When; none where it is so now.
    pub(super) at: Option<Timestamp>,
    /// What, for people.
    pub(super) message: String,
}

/// All that is known.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// The daemon, when its loop last went round.
    pub(super) seen: Seen,
    /// The home at this moment.
    pub(super) moment: Arc<Moment>,
    /// The home's past.
    pub(super) past: Arc<Past>,
    /// What generation is to run on.
    pub(super) device: DeviceName,
}

/// All that is known, as JSON.
#[derive(Debug, Serialize)]
struct Status<'a> {
    schema_version: u32,
    #[serde(flatten)]
    daemon: &'a DaemonStatus,
    progress: Option<&'a ProgressReport>,
    unfinished_night: Option<&'a NightOutcome>,
    last_night: Option<&'a NightOutcome>,
    live_model: Option<&'a ModelVersion>,
    promotion: Option<&'a Promotion>,
    tasks: Option<u64>,
    disk: Option<Disk>,
    device: DeviceName,
    gpus: &'a [String],
    errors: Vec<Trouble>,
}

impl Facts {
    /// What the archive says, where it can be read.
    pub(super) fn overview(&self) -> Option<&Overview> {
        self.past.overview.as_ref().ok()
    }

    /// The work of the night under way.
    pub(super) fn progress(&self) -> Option<&ProgressReport> {
        self.moment.progress.as_ref().filter(|report| report.is_at_work())
    }

    /// What went wrong last, and what is wrong now.
    pub(super) fn errors(&self) -> Vec<Trouble> {
        let failed = self.moment.progress.as_ref().and_then(|report| {
            let message = format!("the last night failed: {}", report.failed.as_ref()?);
            Some(Trouble { at: Some(report.updated_at), message })
        });
        let now = |message: &String| Trouble { at: None, message: message.clone() };
        let closed = self.moment.closed.as_ref().or(self.past.overview.as_ref().err()).map(now);
        failed.into_iter().chain(closed).collect()
    }

    /// All of it as JSON.
    pub(super) fn to_json(&self) -> impl Serialize + '_ {
        let overview = self.overview();
        let nights = overview.map(|overview| overview.nights.as_slice()).unwrap_or_default();
        let (last_night, unfinished_night) = NightOutcome::latest(nights);
        Status {
            schema_version: SCHEMA_VERSION,
            daemon: &self.seen.status,
            progress: self.progress(),
            unfinished_night,
            last_night,
            live_model: overview.and_then(|overview| overview.live.as_ref()),
            promotion: overview.and_then(|overview| overview.promotion.as_ref()),
            tasks: overview.map(|overview| overview.tasks),
            disk: self.past.disk,
            device: self.device,
            gpus: &self.past.gpus,
            errors: self.errors(),
        }
    }
}

/// The daemon's answer to what it was told to do.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    schema_version: u32,
    #[serde(flatten)]
    daemon: &'a DaemonStatus,
}

impl<'a> Told<'a> {
    /// What it does now.
    pub(super) fn of(daemon: &'a DaemonStatus) -> Self {
        Self { schema_version: SCHEMA_VERSION, daemon }
    }
}
