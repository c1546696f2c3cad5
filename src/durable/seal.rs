//! Directories that carry the hashes of their files.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use tempfile::TempDir;
use walkdir::WalkDir;

use super::ASIDE_PREFIX;
use super::DurableError;
use super::parent;
use super::sync_directory;
use super::write_file;

/// Name of the file that makes a directory whole.
pub const SEAL_FILE: &str = "seal.json";

/// Version of the layout of `seal.json`.
const SEAL_FORMAT: u32 = 1;

/// One file of a sealed directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedFile {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its BLAKE3 hash, 64 hexadecimal digits.
    pub blake3: String,
}

/// The contents of `seal.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seal {
    format: u32,
    /// By path relative to the directory, with `/` between parts.
    files: BTreeMap<String, SealedFile>,
}

/// A directory being written aside; gone again when dropped before [`PendingDirectory::seal`].
#[derive(Debug)]
pub struct PendingDirectory {
    aside: TempDir,
    destination: PathBuf,
}

impl PendingDirectory {
    /// Starts a directory that will be called `destination`.
    ///
    /// # Errors
    /// [`DurableError`] when the place beside `destination` cannot be written to.
    pub fn create(destination: &Path) -> Result<Self, DurableError> {
        let directory = parent(destination);
        std::fs::create_dir_all(directory)
            .map_err(|error| DurableError::io("create the directory", directory, error))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(ASIDE_PREFIX);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
        let aside = builder
            .tempdir_in(directory)
            .map_err(|error| DurableError::io("write beside", destination, error))?;
        Ok(Self { aside, destination: destination.to_path_buf() })
    }

    /// Where to write the files until then.
    pub fn path(&self) -> &Path {
        self.aside.path()
    }

    /// Hashes and flushes every file, writes the seal last, and moves the directory into place.
    /// A directory already there is replaced.
    ///
    /// # Errors
    /// [`DurableError`]; what was written aside is then removed.
    pub fn seal(self) -> Result<SealedDirectory, DurableError> {
        let aside = self.aside.path();
        let mut files = BTreeMap::new();
        for (name, path) in files_of(aside)? {
            if name == SEAL_FILE {
                continue;
            }
            let sealed = hash_file(&path)?;
            File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|error| DurableError::io("flush", &path, error))?;
            files.insert(name, sealed);
        }
        for entry in WalkDir::new(aside).contents_first(true).into_iter().flatten() {
            if entry.file_type().is_dir() {
                sync_directory(entry.path())?;
            }
        }
        let seal = Seal { format: SEAL_FORMAT, files };
        let text = serde_json::to_vec_pretty(&seal)
            .map_err(|error| DurableError::io("write", &aside.join(SEAL_FILE), error.into()))?;
        write_file(&aside.join(SEAL_FILE), &text)?;
        self.move_into_place()?;
        Ok(SealedDirectory { path: self.destination.clone(), seal })
    }

    fn move_into_place(&self) -> Result<(), DurableError> {
        let directory = parent(&self.destination);
        let failed = |error| DurableError::io("rename to", &self.destination, error);
        if self.destination.exists() {
            // A rename cannot replace a directory that has files: the old one steps aside first,
            // under a name that `remove_stale` knows. A crash in between leaves none, never half.
            let old = tempfile::Builder::new().prefix(ASIDE_PREFIX).tempdir_in(directory);
            let old = old.map_err(failed)?;
            std::fs::rename(&self.destination, old.path().join("old")).map_err(failed)?;
            std::fs::rename(self.aside.path(), &self.destination).map_err(failed)?;
        } else {
            std::fs::rename(self.aside.path(), &self.destination).map_err(failed)?;
        }
        sync_directory(directory)
    }
}

/// A directory whose files were all there and all as written when it was opened.
#[derive(Debug, Clone)]
pub struct SealedDirectory {
    path: PathBuf,
    seal: Seal,
}

impl SealedDirectory {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its files by relative path, the seal itself left out.
    pub fn files(&self) -> &BTreeMap<String, SealedFile> {
        &self.seal.files
    }

    /// A hash of the names and contents of all files: 64 hexadecimal digits, equal for equal
    /// contents wherever and whenever they were written.
    pub fn content_hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, file) in &self.seal.files {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(file.blake3.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// Opens a sealed directory and checks every file against the seal.
///
/// # Errors
/// [`DurableError::NotSealed`] when the seal is missing or unreadable, [`DurableError::Altered`]
/// when a file is missing, different or not listed.
pub fn open_sealed(path: &Path) -> Result<SealedDirectory, DurableError> {
    let not_sealed = |why: String| DurableError::NotSealed { path: path.to_path_buf(), why };
    let text = match std::fs::read(path.join(SEAL_FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(not_sealed(format!("it has no {SEAL_FILE}")));
        }
        Err(error) => return Err(DurableError::io("read", &path.join(SEAL_FILE), error)),
    };
    let seal: Seal = serde_json::from_slice(&text)
        .map_err(|error| not_sealed(format!("{SEAL_FILE} cannot be read: {error}")))?;
    if seal.format != SEAL_FORMAT {
        return Err(not_sealed(format!(
            "its seal has format {}, this program knows {SEAL_FORMAT}",
            seal.format
        )));
    }
    let altered = |file: &str, why| DurableError::Altered {
        path: path.to_path_buf(),
        file: file.to_string(),
        why,
    };
    let present = files_of(path)?;
    for name in present.keys() {
        if name != SEAL_FILE && !seal.files.contains_key(name) {
            return Err(altered(name, "was added"));
        }
    }
    for (name, sealed) in &seal.files {
        let file = present.get(name).ok_or_else(|| altered(name, "is missing"))?;
        if hash_file(file)? != *sealed {
            return Err(altered(name, "differs from what was written"));
        }
    }
    Ok(SealedDirectory { path: path.to_path_buf(), seal })
}

/// The regular files under `directory` by relative path; anything else there is refused.
fn files_of(directory: &Path) -> Result<BTreeMap<String, PathBuf>, DurableError> {
    let mut files = BTreeMap::new();
    for entry in WalkDir::new(directory) {
        let entry = entry.map_err(|error| DurableError::io("list", directory, error.into()))?;
        if entry.file_type().is_dir() {
            continue;
        }
        let relative = entry.path().strip_prefix(directory).unwrap_or(entry.path());
        let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
        let name = parts.join("/");
        if !entry.file_type().is_file() {
            let path = directory.to_path_buf();
            return Err(DurableError::Altered { path, file: name, why: "is not a regular file" });
        }
        files.insert(name, entry.into_path());
    }
    Ok(files)
}

fn hash_file(path: &Path) -> Result<SealedFile, DurableError> {
    let failed = |error| DurableError::io("read", path, error);
    let mut hasher = blake3::Hasher::new();
    let mut file = File::open(path).map_err(failed)?;
    io::copy(&mut file, &mut hasher).map_err(failed)?;
    Ok(SealedFile { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
}
