//! Retention: old versions lose their weights and keep their rows, old rollouts their tokens;
//! checkpoints go when nothing needs them.
//!
//! What is to go is decided once, at the end of a night, and noted in the archive before a file is
//! touched. Files are removed after that, and again at the beginning of the next night in case a
//! crash came between: a version whose row says that its weights are there has them whole. Tokens
//! that were noted to go are not read again, whether they are still there or not.

use std::collections::BTreeSet;
use std::path::Component;
use std::path::Path;

use super::home::Home;
use super::night::Night;
use crate::archive::Archive;
use crate::archive::ArchiveReader;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::archive::TrainPhase;
use crate::durable;
use crate::trainer::checkpoint::Cursor;

/// Checkpoints of each adapter and phase that stay while a night trains: the newest, and one to
/// fall back on.
pub(super) const WHILE_TRAINING: usize = 2;

/// Which versions lose their weights at the end of `night`, newest first: of past nights all but
/// the newest `keep` and those in `always`. `versions` are in the order they were made.
pub fn superfluous(
    versions: &[ModelVersion],
    always: &BTreeSet<String>,
    night: u32,
    keep: usize,
) -> Vec<String> {
    let past = versions.iter().rev().filter(|version| version.night.is_some_and(|of| of < night));
    let old = past.skip(keep).filter(|version| !always.contains(&version.id));
    old.map(|version| version.id.clone()).collect()
}

/// A checkpoint's name: names of one phase and adapter are in the order they were made in.
pub(super) fn checkpoint_name(cursor: &Cursor) -> String {
    let rank = match cursor.phase {
        TrainPhase::WarmStart => 1,
        TrainPhase::Policy => 2,
        TrainPhase::Proposer => 3,
    };
    let (phase, adapter) = (cursor.phase.as_str(), cursor.adapter.as_str());
    format!("night{:05}-{rank}-{phase}-{adapter}-{:06}", cursor.night, cursor.next_step)
}

/// Whether a checkpoint of that name is of that night.
pub(super) fn is_of(checkpoint: &str, night: u32) -> bool {
    checkpoint.starts_with(&format!("night{night:05}-"))
}

/// The live version, and what to go back to from it.
pub(super) fn always_kept(archive: &ArchiveReader) -> anyhow::Result<BTreeSet<String>> {
    let mut kept: BTreeSet<String> =
        archive.live_model()?.into_iter().map(|version| version.id).collect();
    let promotions = archive.promotions()?;
    if let Some(last) = promotions.into_iter().rev().find(|promotion| promotion.promoted) {
        kept.extend([last.candidate, last.incumbent]);
    }
    Ok(kept)
}

impl Night<'_> {
    /// Decides what goes at the end of the night, and notes it.
    pub(super) fn retain(&self) -> anyhow::Result<()> {
        self.retain_versions()?;
        self.retain_tokens()
    }

    /// Up to which night rollouts lose their tokens.
    fn retain_tokens(&self) -> anyhow::Result<()> {
        let unit = self.unit("retention", "tokens");
        let nights = u32::try_from(self.settings.retention.rollout_nights).unwrap_or(u32::MAX);
        let until = self.number.saturating_sub(nights);
        if nights > 0 && until > 0 {
            self.archive.record_token_removal(&unit, until)?;
        }
        Ok(())
    }

    /// Which versions lose their weights.
    fn retain_versions(&self) -> anyhow::Result<()> {
        let unit = self.unit("retention", "versions");
        if self.archive.unit_done(&unit)? {
            return Ok(());
        }
        let removed = self.archive.removed_versions()?;
        let versions = self.archive.model_versions()?.into_iter().map(|(version, _)| version);
        let present: Vec<ModelVersion> = versions
            .filter(|version| version.kind == ModelKind::Adapter)
            .filter(|version| !removed.contains_key(&version.id))
            .collect();
        let always = always_kept(self.archive)?;
        let keep = self.settings.retention.adapters;
        let ids = superfluous(&present, &always, self.number, keep);
        self.archive.record_removed_versions(&unit, &ids)?;
        Ok(())
    }

    /// Versions whose weights are removed at the end of this night.
    pub(super) fn versions_removed(&self) -> anyhow::Result<Vec<String>> {
        let removed = self.archive.removed_versions()?.into_iter();
        Ok(removed.filter(|(_, night)| *night == self.number).map(|(id, _)| id).collect())
    }

    /// Checkpoints that this night wrote and does not leave behind.
    pub(super) fn checkpoints_removed(&self) -> anyhow::Result<usize> {
        let mut written = 0;
        for phase in [TrainPhase::WarmStart, TrainPhase::Policy, TrainPhase::Proposer] {
            written += self.archive.units_done(self.number, phase.as_str())?.len();
        }
        Ok(written.saturating_sub(self.settings.retention.checkpoints))
    }

    /// Removes checkpoints that newer ones of the same phase and adapter have made superfluous.
    pub(super) fn remove_superseded_checkpoints(&self, newest: &Cursor) -> anyhow::Result<()> {
        let newest = checkpoint_name(newest);
        let course = |name: &str| name.rsplit_once('-').map(|(course, _)| course.to_string());
        let names = names(&self.home.checkpoints())?;
        let older = names.iter().rev().filter(|name| course(name) == course(&newest));
        let older = older.filter(|name| **name <= newest);
        for name in older.skip(WHILE_TRAINING.max(self.settings.retention.checkpoints)) {
            durable::remove_directory(&self.home.checkpoints().join(name))?;
        }
        Ok(())
    }

    /// Removes the checkpoints of nights that are over, but the newest ones that are to be kept.
    pub(super) fn remove_old_checkpoints(&self) -> anyhow::Result<()> {
        let dir = self.home.checkpoints();
        durable::remove_stale(&dir)?;
        for name in names(&dir)?.iter().rev().skip(self.settings.retention.checkpoints) {
            durable::remove_directory(&dir.join(name))?;
        }
        Ok(())
    }
}

/// Removes pages of morning reports but the newest `keep`; none where that is 0.
pub(super) fn remove_old_pages(home: &Home, keep: usize) -> anyhow::Result<()> {
    if keep == 0 {
        return Ok(());
    }
    let dir = home.reports();
    for name in names(&dir)?.iter().rev().filter(|name| name.ends_with(".html")).skip(keep) {
        std::fs::remove_file(dir.join(name))?;
    }
    Ok(())
}

/// Removes what was noted to go: weights of versions, and tokens of rollouts and proposals.
pub(super) fn remove_noted(home: &Home, archive: &Archive) -> anyhow::Result<()> {
    remove_weights(home, archive)?;
    let rows = archive.remove_noted_tokens()?;
    if rows > 0 {
        tracing::info!(rows, "removed the tokens of old rollouts and proposals");
    }
    Ok(())
}

/// Removes the weights of versions whose rows say that they are gone.
fn remove_weights(home: &Home, archive: &ArchiveReader) -> anyhow::Result<()> {
    durable::remove_stale(&home.adapters())?;
    let removed = archive.removed_versions()?;
    for (version, _) in archive.model_versions()? {
        let dir = home.dir().join(&version.path);
        if removed.contains_key(&version.id) && is_inside(&version.path) && dir.exists() {
            tracing::info!("removing the weights of {}", version.id);
            durable::remove_directory(&dir)?;
        }
    }
    Ok(())
}

/// Whether a version's path is one that this program gives: nothing else is ever deleted.
fn is_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    let first = parts.next().is_some_and(|part| part.as_os_str() == "adapters");
    first && matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()
}

/// The names in a folder of what nights left there, in order.
fn names(dir: &Path) -> anyhow::Result<BTreeSet<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => anyhow::bail!("cannot list {}: {error}", dir.display()),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("night") {
            names.insert(name);
        }
    }
    Ok(names)
}
