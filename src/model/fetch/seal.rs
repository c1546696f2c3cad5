//! What a model's files were when they were last hashed, so that a start need not hash them again.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde::Serialize;
use sha2::Digest;
use sha2::Sha256;

use super::FetchError;
use crate::progress::Progress;

/// Name of the seal inside a fetched model's folder.
pub(super) const SEAL_FILE: &str = "seal.json";

/// Files above this size are worth a progress bar while they are hashed.
const SHOW_ABOVE_BYTES: u64 = 1 << 30;

/// One file as it was when hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SealedFile {
    name: String,
    bytes: u64,
    modified_ns: u64,
    sha256: String,
}

/// Sizes, times and hashes of a model's files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    files: Vec<SealedFile>,
}

impl Seal {
    /// Hashes `names` in `folder`.
    pub(super) fn make(folder: &Path, names: &[String]) -> Result<Self, FetchError> {
        let mut files = Vec::with_capacity(names.len());
        for name in names {
            let path = folder.join(name);
            let (bytes, modified_ns) = stamp(&path)?;
            files.push(SealedFile { name: name.clone(), bytes, modified_ns, sha256: hash(&path)? });
        }
        files.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(Self { files })
    }

    /// The seal stored at `path`; `None` when there is none, or none that can be read.
    pub(super) fn load(path: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(path).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Stores the seal at `path`, all or nothing.
    pub(super) fn store(&self, path: &Path) -> Result<(), FetchError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(FetchError::io("make the folder", folder))?;
        let write = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer(&mut file, self)?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(FetchError::io("write", path))
    }

    /// Whether `names` in `folder` have the sizes and times of the seal.
    pub(super) fn holds(&self, folder: &Path, names: &[String]) -> bool {
        let sealed: BTreeSet<&str> = self.files.iter().map(|file| file.name.as_str()).collect();
        let present: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        sealed == present
            && self.files.iter().all(|file| {
                stamp(&folder.join(&file.name)).is_ok_and(|(bytes, modified_ns)| {
                    (bytes, modified_ns) == (file.bytes, file.modified_ns)
                })
            })
    }

    /// The hash of the only file, or of the list of names and hashes.
    pub(super) fn content_hash(&self) -> String {
        if let [only] = self.files.as_slice() {
            return only.sha256.clone();
        }
        let mut hasher = Sha256::new();
        for file in &self.files {
            hasher.update(format!("{}  {}\n", file.sha256, file.name));
        }
        hex(&hasher.finalize())
    }
}

/// The seal of files that belong to the person, kept in `cache` under their path's hash.
pub(super) fn of_foreign(
    place: &Path,
    folder: &Path,
    names: &[String],
    cache: &Path,
) -> Result<Seal, FetchError> {
    let key = hex(&Sha256::digest(place.as_os_str().as_encoded_bytes()));
    let path = cache.join("seals").join(format!("{key}.json"));
    if let Some(seal) = Seal::load(&path).filter(|seal| seal.holds(folder, names)) {
        return Ok(seal);
    }
    let seal = Seal::make(folder, names)?;
    seal.store(&path)?;
    Ok(seal)
}

/// The files of a Hugging Face folder that make the model what it is.
///
/// # Errors
/// [`FetchError::Incomplete`] names what is missing.
pub(super) fn model_files(folder: &Path) -> Result<Vec<String>, FetchError> {
    let listing = std::fs::read_dir(folder).map_err(FetchError::io("list", folder))?;
    let mut present = BTreeSet::new();
    for entry in listing {
        let entry = entry.map_err(FetchError::io("list", folder))?;
        present.extend(entry.file_name().into_string().ok());
    }
    let index = folder.join(INDEX);
    let shards =
        match present.contains(INDEX) {
            true => {
                let text = std::fs::read(&index).map_err(FetchError::io("read", &index))?;
                Some(shard_names(&text).map_err(|why| FetchError::Damaged {
                    what: index.display().to_string(),
                    why,
                })?)
            }
            false => None,
        };
    select(&present, shards, &folder.display().to_string())
}

/// Name of the file that says which shard holds which tensor.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Small files that are taken when they are there.
const OPTIONAL: &[&str] =
    &["tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

/// Of the files `present` at `place`, those that make the model; `shards` is what its index names.
pub(super) fn select(
    present: &BTreeSet<String>,
    shards: Option<BTreeSet<String>>,
    place: &str,
) -> Result<Vec<String>, FetchError> {
    let mut wanted = BTreeSet::from(["config.json".to_string(), "tokenizer.json".to_string()]);
    match shards {
        Some(shards) => {
            wanted.insert(INDEX.to_string());
            wanted.extend(shards);
        }
        None => {
            let weights = |name: &&String| name.ends_with(".safetensors") && !name.contains('/');
            let mut weights: BTreeSet<String> = present.iter().filter(weights).cloned().collect();
            if weights.is_empty() || weights.contains("model.safetensors") {
                weights = BTreeSet::from(["model.safetensors".to_string()]);
            }
            wanted.extend(weights);
        }
    }
    let missing: Vec<String> = wanted.difference(present).cloned().collect();
    if !missing.is_empty() {
        let missing = missing.join(", ");
        return Err(FetchError::Incomplete { place: place.to_string(), missing });
    }
    let optional = OPTIONAL.iter().map(|name| (*name).to_string());
    wanted.extend(optional.filter(|name| present.contains(name)));
    Ok(wanted.into_iter().collect())
}

/// The shards a `model.safetensors.index.json` names.
pub(super) fn shard_names(index: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|error| error.to_string())?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    match names.iter().find(|name| name.contains(['/', '\\']) || name.starts_with('.')) {
        Some(outside) => Err(format!("it names a shard outside the folder: `{outside}`")),
        None => Ok(names),
    }
}

/// Size in bytes and time of modification in nanoseconds since 1970.
fn stamp(path: &Path) -> Result<(u64, u64), FetchError> {
    let metadata = std::fs::metadata(path).map_err(FetchError::io("read", path))?;
    let modified = metadata.modified().map_err(FetchError::io("read", path))?;
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok((metadata.len(), u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)))
}

/// SHA-256 of a file, in hexadecimal.
pub(super) fn hash(path: &Path) -> Result<String, FetchError> {
    let mut file = File::open(path).map_err(FetchError::io("open", path))?;
    let bytes = file.metadata().map_err(FetchError::io("read", path))?.len();
    let progress = (bytes > SHOW_ABOVE_BYTES)
        .then(|| Progress::start(&format!("hashing {} (MB)", name_of(path)), bytes / 1_000_000));
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1_000_000];
    loop {
        let read = file.read(&mut buffer).map_err(FetchError::io("read", path))?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        if let Some(progress) = &progress {
            // Reads of a regular file fill the buffer, but for the last.
            progress.advance(1);
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| PathBuf::from(path), PathBuf::from).display().to_string()
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
