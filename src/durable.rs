//! Files that survive a crash: whole or not there at all.
//!
//! A file or directory is written aside in the directory it will live in, flushed to the disk,
//! renamed, and the parent flushed. A directory is sealed besides: its last file, `seal.json`,
//! lists the BLAKE3 hash of every other file, so that one that was cut short or changed later is
//! told from a whole one.

mod lock;
mod replace;
mod seal;

use std::fs::File;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

pub use self::lock::HomeLock;
pub use self::replace::Move;
pub use self::replace::is_replacement_unfinished;
pub use self::replace::replace;
pub use self::seal::PendingDirectory;
pub use self::seal::SEAL_FILE;
pub use self::seal::SealedDirectory;
pub use self::seal::SealedFile;
pub use self::seal::open_sealed;

/// What everything written aside is called until it is renamed.
const ASIDE_PREFIX: &str = ".partial-";

/// Why something could not be written, or what was found could not be trusted.
#[derive(Debug, thiserror::Error)]
pub enum DurableError {
    /// The file system said no.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk filled up, or a quota was reached, while writing.
    #[error(
        "no space left while writing {}; free some and run the same command again",
        path.display()
    )]
    DiskFull {
        /// The file or directory being written. Nothing of it was left behind.
        path: PathBuf,
    },
    /// Less space is free than the work ahead needs.
    #[error(
        "{} has {available} bytes free but {needed} are needed; free some space or choose another \
         directory",
        path.display()
    )]
    TooLittleSpace {
        /// The directory asked about.
        path: PathBuf,
        /// Bytes the work needs.
        needed: u64,
        /// Bytes free to this user.
        available: u64,
    },
    /// The directory has no readable seal: it was never finished, or is something else.
    #[error("{} is not complete ({why}); delete it and make it again", path.display())]
    NotSealed {
        /// The directory.
        path: PathBuf,
        /// What is wrong with the seal.
        why: String,
    },
    /// The directory was sealed but differs from its seal.
    #[error(
        "{} was changed after it was written: {file} {why}; delete it and make it again",
        path.display()
    )]
    Altered {
        /// The directory.
        path: PathBuf,
        /// The file that differs, relative to the directory.
        file: String,
        /// How it differs.
        why: &'static str,
    },
    /// Another process holds the lock.
    #[error(
        "{} is in use by another nightschool process{}; wait for it to end or stop it",
        path.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Busy {
        /// The locked directory.
        path: PathBuf,
        /// The holder, where it could be read.
        pid: Option<u32>,
    },
}

impl DurableError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_path_buf() }
            }
            _ => Self::Io { action, path: path.to_path_buf(), source },
        }
    }
}

/// The directory that holds `path`; the present one for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Flushes a directory's entries to the disk, so that a rename in it survives a power cut.
///
/// # Errors
/// [`DurableError::Io`] when the directory cannot be opened or flushed.
pub fn sync_directory(path: &Path) -> Result<(), DurableError> {
    // Only Unix lets a directory be opened and flushed; elsewhere a rename has to do.
    if cfg!(unix) {
        File::open(path)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| DurableError::io("flush the directory", path, error))?;
    }
    Ok(())
}

/// Replaces the file `path` by `bytes`, all or nothing. Its directory is made if needed.
///
/// # Errors
/// [`DurableError`]; the old file, if there was one, is then untouched.
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), DurableError> {
    write_file_with(path, |out| out.write_all(bytes))
}

/// Replaces the file `path` by what `write` writes, all or nothing.
///
/// # Errors
/// [`DurableError`], also when `write` fails; the old file, if any, is then untouched and nothing
/// is left beside it.
pub fn write_file_with(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), DurableError> {
    let directory = parent(path);
    std::fs::create_dir_all(directory)
        .map_err(|error| DurableError::io("create the directory", directory, error))?;
    let failed = |error| DurableError::io("write", path, error);
    let mut builder = tempfile::Builder::new();
    builder.prefix(ASIDE_PREFIX);
    // A temporary file is private by default; this one becomes the real file, so the umask decides.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut aside = builder.tempfile_in(directory).map_err(failed)?;
    let mut buffered = io::BufWriter::new(aside.as_file_mut());
    write(&mut buffered).and_then(|()| buffered.flush()).map_err(failed)?;
    drop(buffered);
    aside.as_file().sync_all().map_err(failed)?;
    aside.persist(path).map_err(|error| DurableError::io("rename to", path, error.error))?;
    sync_directory(directory)
}

/// Flushes the finished file `from` and renames it to `to`, on the same file system.
///
/// # Errors
/// [`DurableError`]; `to` is then as it was.
pub fn move_file(from: &Path, to: &Path) -> Result<(), DurableError> {
    File::open(from)
        .and_then(|file| file.sync_all())
        .map_err(|error| DurableError::io("flush", from, error))?;
    std::fs::rename(from, to).map_err(|error| DurableError::io("rename to", to, error))?;
    sync_directory(parent(to))
}

/// Copies the file `from` to the new name `to` and flushes it. Where `link` is set and both lie on
/// one file system, `to` is another name of the same file: for files that are never written again.
///
/// # Errors
/// [`DurableError`]; what was written of `to` may be left.
pub fn copy_file(from: &Path, to: &Path, link: bool) -> Result<(), DurableError> {
    if link && std::fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    std::fs::copy(from, to).map_err(|error| DurableError::io("copy to", to, error))?;
    File::open(to)
        .and_then(|file| file.sync_all())
        .map_err(|error| DurableError::io("flush", to, error))
}

/// Copies the folder `from` to the new name `to`, file by file as [`copy_file`] does.
///
/// # Errors
/// [`DurableError`]; what was written of `to` may be left.
pub fn copy_directory(from: &Path, to: &Path, link: bool) -> Result<(), DurableError> {
    for entry in walkdir::WalkDir::new(from) {
        let entry = entry.map_err(|error| DurableError::io("list", from, error.into()))?;
        let Ok(relative) = entry.path().strip_prefix(from) else { continue };
        let copy = to.join(relative);
        if entry.file_type().is_dir() {
            std::fs::create_dir_all(&copy)
                .map_err(|error| DurableError::io("create the directory", &copy, error))?;
        } else {
            copy_file(entry.path(), &copy, link)?;
        }
    }
    for entry in walkdir::WalkDir::new(to).contents_first(true).into_iter().flatten() {
        if entry.file_type().is_dir() {
            sync_directory(entry.path())?;
        }
    }
    Ok(())
}

/// Removes a directory with all it holds; from one moment to the next it is not there. A crash may
/// leave remains that [`remove_stale`] knows. Returns false when it was not there.
///
/// # Errors
/// [`DurableError::Io`] when it cannot be moved or its files not deleted.
pub fn remove_directory(path: &Path) -> Result<bool, DurableError> {
    if !path.exists() {
        return Ok(false);
    }
    let failed = |error| DurableError::io("remove", path, error);
    let aside = tempfile::Builder::new().prefix(ASIDE_PREFIX).tempdir_in(parent(path));
    let aside = aside.map_err(failed)?;
    std::fs::rename(path, aside.path().join("old")).map_err(failed)?;
    sync_directory(parent(path))?;
    aside.close().map_err(failed)?;
    Ok(true)
}

/// Removes what crashed writers left in `directory`, and says how many things that were.
///
/// Call it only where nobody else can be writing: while holding the home's lock.
///
/// # Errors
/// [`DurableError::Io`] when the directory cannot be listed or an entry not removed. A directory
/// that does not exist has nothing stale.
pub fn remove_stale(directory: &Path) -> Result<usize, DurableError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(DurableError::io("list", directory, error)),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(|error| DurableError::io("list", directory, error))?;
        if !entry.file_name().to_string_lossy().starts_with(ASIDE_PREFIX) {
            continue;
        }
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) }
            .map_err(|error| DurableError::io("remove", &path, error))?;
        removed += 1;
    }
    Ok(removed)
}

/// Bytes that are free to this user where `path` is, or will be.
///
/// # Errors
/// [`DurableError::Io`] when the system does not say.
pub fn free_bytes(path: &Path) -> Result<u64, DurableError> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("."));
    fs4::available_space(existing)
        .map_err(|error| DurableError::io("ask for the free space of", existing, error))
}

/// Fails unless `needed` bytes are free to this user where `path` is, or will be.
///
/// # Errors
/// [`DurableError::TooLittleSpace`], or [`DurableError::Io`] when the system does not say.
pub fn ensure_free(path: &Path, needed: u64) -> Result<(), DurableError> {
    let available = free_bytes(path)?;
    if available < needed {
        return Err(DurableError::TooLittleSpace { path: path.to_path_buf(), needed, available });
    }
    Ok(())
}
