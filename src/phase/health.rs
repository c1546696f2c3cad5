//! Whether a home is whole: its archive, and the weights that the archive speaks of.

use std::collections::BTreeSet;

use super::home::Home;
use crate::archive::Affected;
use crate::archive::ArchiveReader;
use crate::archive::Finding;
use crate::archive::FindingKind;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::durable;

/// Adapter versions whose weights should be there.
///
/// # Errors
/// When the archive cannot be read.
pub fn versions_with_weights(archive: &ArchiveReader) -> anyhow::Result<Vec<ModelVersion>> {
    let removed = archive.removed_versions()?;
    let versions = archive.model_versions()?.into_iter().map(|(version, _)| version);
    Ok(versions
        .filter(|version| version.kind == ModelKind::Adapter && !removed.contains_key(&version.id))
        .collect())
}

/// Whether a version's files are those that were written; says what is wrong with them.
pub fn weights_problem(home: &Home, version: &ModelVersion) -> Option<String> {
    let dir = home.dir().join(&version.path);
    if !dir.is_dir() {
        return Some(format!("the folder {} is not there", dir.display()));
    }
    match durable::open_sealed(&dir) {
        Err(error) => Some(error.to_string()),
        Ok(sealed) if sealed.content_hash() != version.content_hash => {
            Some(format!("{} holds other weights than the archive says", dir.display()))
        }
        Ok(_) => None,
    }
}

/// Versions whose weights are not there or not as they were written.
///
/// # Errors
/// When the archive cannot be read.
pub fn check_weights(home: &Home, archive: &ArchiveReader) -> anyhow::Result<Vec<Finding>> {
    let live = archive.live_model()?.map(|version| version.id);
    let mut findings = Vec::new();
    for version in versions_with_weights(archive)? {
        let Some(problem) = weights_problem(home, &version) else { continue };
        let is_live = live.as_ref() == Some(&version.id);
        let note = if is_live { "; it is the live version" } else { "" };
        findings.push(Finding {
            kind: FindingKind::Weights,
            place: version.id,
            detail: format!("{problem}{note}"),
            affected: Affected {
                tasks: BTreeSet::new(),
                nights: version.night.into_iter().collect(),
            },
            repair: None,
        });
    }
    Ok(findings)
}
