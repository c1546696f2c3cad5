//! The files and folders that a corpus is made from, and the lasting names of what lies in them.

use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::archive::Archive;
use crate::archive::ArchiveError;
use crate::archive::ArchiveReader;
use crate::corpus::ReadError;

/// Where the archive keeps the roots.
const META_KEY: &str = "corpus_roots";

/// A file or folder that was added to the corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Its name in the archive: its file name, with a number where two roots have the same.
    pub label: String,
    /// Absolute path, links resolved.
    pub path: PathBuf,
}

/// All roots, in the order they were added.
#[derive(Debug)]
pub(super) struct Roots(Vec<Root>);

impl Roots {
    pub(super) fn load(archive: &ArchiveReader) -> Result<Self, ArchiveError> {
        let Some(text) = archive.meta(META_KEY)? else {
            return Ok(Self(Vec::new()));
        };
        let roots = serde_json::from_str(&text).map_err(|error| ArchiveError::Damaged {
            path: archive.path().to_path_buf(),
            detail: format!("its list of corpus folders cannot be read: {error}"),
        })?;
        Ok(Self(roots))
    }

    /// Writes the list where it differs from what is stored.
    pub(super) fn store(&self, archive: &Archive) -> Result<(), ArchiveError> {
        let text = serde_json::to_string(&self.0).map_err(|error| ArchiveError::Inconsistent {
            what: format!("a path that is not Unicode: {error}; rename the folder"),
        })?;
        if archive.meta(META_KEY)?.as_deref() != Some(&text) {
            archive.put_meta(META_KEY, &text)?;
        }
        Ok(())
    }

    pub(super) fn add(&mut self, path: &Path) -> Result<(), ReadError> {
        let absolute = path.canonicalize().map_err(|source| match source.kind() {
            ErrorKind::NotFound => ReadError::NotFound { path: path.to_path_buf() },
            _ => ReadError::Inaccessible { path: path.to_path_buf(), source },
        })?;
        if self.0.iter().any(|root| root.path == absolute) {
            return Ok(());
        }
        let name = absolute.file_name().map_or("root".into(), |name| name.to_string_lossy());
        // A folder that moved keeps its name, and with it its documents.
        let moved = |root: &&mut Root| root.label == name && !root.path.exists();
        if let Some(root) = self.0.iter_mut().find(moved) {
            root.path = absolute;
            return Ok(());
        }
        let taken = |label: &str| self.0.iter().any(|root| root.label == label);
        let mut label = name.to_string();
        let mut number = 2;
        while taken(&label) {
            label = format!("{name}-{number}");
            number += 1;
        }
        self.0.push(Root { label, path: absolute });
        Ok(())
    }

    pub(super) fn into_vec(self) -> Vec<Root> {
        self.0
    }

    /// Looks which roots are there now, and warns of the others.
    pub(super) fn look(&self) -> Place {
        let mut place = Place { here: Vec::new(), out_of_sight: Vec::new() };
        for root in &self.0 {
            match root.path.metadata() {
                Ok(_) => place.here.push(root.clone()),
                Err(error) if error.kind() == ErrorKind::NotFound => tracing::warn!(
                    "{} is gone; its documents are set aside until it is back",
                    root.path.display()
                ),
                Err(error) => {
                    tracing::warn!(
                        "{} cannot be looked at ({error}); its documents stay as they were",
                        root.path.display()
                    );
                    place.out_of_sight.push(root.label.clone());
                }
            }
        }
        // The innermost root first: a file belongs to the root that was pointed at most closely.
        let depth = |root: &Root| root.path.components().count();
        place.here.sort_by_key(|root| std::cmp::Reverse(depth(root)));
        place
    }
}

/// The roots as they lie now: from absolute paths to lasting names and back.
#[derive(Debug)]
pub(super) struct Place {
    /// Innermost first.
    here: Vec<Root>,
    /// Labels of roots that exist but cannot be opened.
    out_of_sight: Vec<String>,
}

impl Place {
    /// The roots that are there.
    pub(super) fn to_read(&self) -> Vec<PathBuf> {
        self.here.iter().map(|root| root.path.clone()).collect()
    }

    /// The label that a lasting name begins with.
    pub(super) fn label_of<'name>(&self, name: &'name str) -> &'name str {
        name.split_once('/').map_or(name, |(label, _)| label)
    }

    /// Whether the file lies where nothing can be seen now.
    pub(super) fn is_out_of_sight(&self, name: &str) -> bool {
        self.out_of_sight.iter().any(|label| label == self.label_of(name))
    }

    /// The lasting name of what lies at `path`; the path itself if that is under no root.
    pub(super) fn name_of(&self, path: &str) -> String {
        for root in &self.here {
            if let Ok(inner) = Path::new(path).strip_prefix(&root.path) {
                let mut name = root.label.clone();
                for part in inner.iter() {
                    name.push('/');
                    name.push_str(&part.to_string_lossy());
                }
                return name;
            }
        }
        path.to_string()
    }

    /// Where the file of this lasting name lies, or lay; none when its root is gone.
    pub(super) fn path_of(&self, name: &str) -> Option<String> {
        let label = self.label_of(name);
        let root = self.here.iter().find(|root| root.label == label)?;
        let inner = name.get(label.len() + 1..).unwrap_or_default();
        let mut path = root.path.clone();
        path.extend(inner.split('/').filter(|part| !part.is_empty()));
        Some(path.to_string_lossy().into_owned())
    }
}
