//! One process per home.

use std::fs::File;
use std::fs::TryLockError;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::path::Path;

use super::DurableError;
use super::replace;

/// Name of the file that a process holds a lock on while it owns a home.
const LOCK_FILE: &str = "nightschool.lock";

/// Name of the file that the daemon of a home holds a lock on; its workers own the home.
const DAEMON_LOCK_FILE: &str = "daemon.lock";

/// Exclusive use of a home directory; given up when dropped, and by the system when the process
/// dies however it dies.
#[derive(Debug)]
pub struct HomeLock {
    file: File,
}

impl HomeLock {
    /// Takes the lock of `home`, without waiting. The directory is made if needed. What a
    /// [`super::replace`] in it left undone is done first.
    ///
    /// # Errors
    /// [`DurableError::Busy`] when another process (or another lock of this one) has it.
    pub fn acquire(home: &Path) -> Result<Self, DurableError> {
        let lock = Self::of_file(home, LOCK_FILE)?;
        if replace::finish_replacement(home)? {
            tracing::info!("finished what was cut off while files were put in place");
        }
        Ok(lock)
    }

    /// Takes the lock that the daemon of `home` holds as long as it runs. It gives no right to
    /// write to the home.
    ///
    /// # Errors
    /// [`DurableError::Busy`] when another daemon has it.
    pub fn acquire_for_daemon(home: &Path) -> Result<Self, DurableError> {
        Self::of_file(home, DAEMON_LOCK_FILE)
    }

    fn of_file(home: &Path, name: &str) -> Result<Self, DurableError> {
        std::fs::create_dir_all(home)
            .map_err(|error| DurableError::io("create the directory", home, error))?;
        let path = home.join(name);
        let failed = |error| DurableError::io("lock", &path, error);
        let mut options = File::options();
        // Not truncated on opening: the text belongs to whoever holds the lock.
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = match file.read_to_string(&mut text) {
                    Ok(_) => text.trim().parse().ok(),
                    Err(_) => None,
                };
                return Err(DurableError::Busy { path: home.to_path_buf(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { file })
    }
}

impl Drop for HomeLock {
    fn drop(&mut self) {
        // The file stays, since removing it would race with the next holder; only the pid goes. If
        // that fails, a stale pid is left, which is never shown while the lock is free.
        let _ = self.file.set_len(0);
    }
}
