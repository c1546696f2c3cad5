//! A home at a glance: its nights, its live version, how its archive grew, what its disk holds.

use std::path::Path;

use jiff::Timestamp;
use serde::Serialize;

use super::home::Home;
use super::page;
use super::page::Bar;
use super::report::HeldoutReport;
use super::report::Report;
use crate::archive::ArchiveReader;
use crate::archive::ModelVersion;
use crate::archive::Night;
use crate::archive::NightState;
use crate::archive::Promotion;
use crate::archive::TaskGrouping;
use crate::durable;
use crate::durable::DurableError;

/// A night, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NightOutcome {
    /// Its number.
    pub number: u32,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended, if it has.
    pub finished_at: Option<Timestamp>,
    /// Whether its candidate went live; none before the decision.
    pub promoted: Option<bool>,
    /// Why.
    pub reason: Option<String>,
    /// The held-out evaluation, once the night is over.
    pub heldout: Option<HeldoutReport>,
}

impl NightOutcome {
    /// All nights, first to last.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn all(archive: &ArchiveReader) -> anyhow::Result<Vec<Self>> {
        let promotions = archive.promotions()?;
        Ok(archive.nights()?.iter().map(|night| Self::of(night, &promotions)).collect())
    }

    fn of(night: &Night, promotions: &[Promotion]) -> Self {
        let promotion = promotions.iter().find(|promotion| promotion.night == night.number);
        // Of another version of this program, it may have another shape.
        let heldout = night.report.as_ref().map(|report| report["heldout"].clone());
        Self {
            number: night.number,
            started_at: night.started_at,
            finished_at: night.finished_at,
            promoted: promotion.map(|promotion| promotion.promoted),
            reason: promotion.map(|promotion| promotion.reason.clone()),
            heldout: heldout.and_then(|heldout| serde_json::from_value(heldout).ok()),
        }
    }

    /// The last one that is over, and the one that is not.
    pub fn latest(nights: &[Self]) -> (Option<&Self>, Option<&Self>) {
        let last = |over| nights.iter().rev().find(|night| night.finished_at.is_some() == over);
        (last(true), last(false))
    }
}

/// What an archive says of the past.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overview {
    /// The version that answers.
    pub live: Option<ModelVersion>,
    /// The decision that made it live; none where no night did.
    pub promotion: Option<Promotion>,
    /// All nights, first to last.
    pub nights: Vec<NightOutcome>,
    /// The tasks that each night added, by the number of the night.
    pub growth: Vec<(u32, u64)>,
    /// All tasks, also those that people wrote.
    pub tasks: u64,
    /// What became of the last night's drafts, by who made them.
    pub(crate) fates: Vec<(String, Vec<Bar>)>,
}

impl Overview {
    /// Reads it.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn read(archive: &ArchiveReader) -> anyhow::Result<Self> {
        let promotions = archive.promotions()?;
        let nights = archive.nights()?;
        let live = archive.live_model()?;
        let made_live = |promotion: &Promotion| {
            let live = live.as_ref().map(|version| &version.id);
            promotion.promoted && live == Some(&promotion.candidate)
        };
        let promotion = promotions.iter().rev().find(|promotion| made_live(promotion)).cloned();
        let last = nights.iter().rev().find(|night| night.state == NightState::Finished);
        let report = last.and_then(|night| night.report.clone());
        let report: Option<Report> = report.and_then(|report| serde_json::from_value(report).ok());
        let groups = archive.task_stats(TaskGrouping::Night)?;
        let counts = groups.iter().map(|group| {
            (group.group.parse::<u32>().ok(), group.active + group.stale + group.retired)
        });
        let counts: Vec<(Option<u32>, u64)> = counts.collect();
        Ok(Self {
            nights: nights.iter().map(|night| NightOutcome::of(night, &promotions)).collect(),
            growth: counts.iter().filter_map(|(night, n)| Some(((*night)?, *n))).collect(),
            tasks: counts.iter().map(|(_, n)| n).sum(),
            fates: report.as_ref().map(page::rejections).unwrap_or_default(),
            live,
            promotion,
        })
    }
}

/// What a home takes of its disk, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// Free to this user.
    pub free_bytes: u64,
    /// The archive with its log.
    pub archive_bytes: u64,
    /// Adapters.
    pub adapters_bytes: u64,
    /// Checkpoints.
    pub checkpoints_bytes: u64,
}

impl Disk {
    /// Adds it up.
    ///
    /// # Errors
    /// When the system does not say what is free.
    pub fn of(home: &Home) -> Result<Self, DurableError> {
        let archive = home.archive();
        let log = archive.with_extension("db-wal");
        let files = [archive, log];
        let bytes = |file: &Path| std::fs::metadata(file).map_or(0, |file| file.len());
        Ok(Self {
            free_bytes: durable::free_bytes(home.dir())?,
            archive_bytes: files.iter().map(|file| bytes(file)).sum(),
            adapters_bytes: folder_bytes(&home.adapters()),
            checkpoints_bytes: folder_bytes(&home.checkpoints()),
        })
    }
}

/// Files that go away meanwhile do not count.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = walkdir::WalkDir::new(folder).into_iter().flatten();
    entries
        .filter_map(|entry| entry.metadata().ok())
        .filter(|it| it.is_file())
        .map(|it| it.len())
        .sum()
}
