//! Models of a hub that speaks the Hugging Face protocol, over plain blocking HTTP.
//!
//! The revision is first turned into a commit; files of a commit never change, so that a partial
//! file can be continued by a range request, in a later run too.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;
use ureq::Body;
use ureq::http::Response;

use super::FetchError;
use super::Layout;
use super::ModelFiles;
use super::Sources;
use super::exclusively;
use super::put_in_place;
use super::seal;
use super::seal::INDEX;
use super::seal::Seal;
use crate::progress::Progress;

/// The hub asked unless `HF_ENDPOINT` names another.
pub const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How often one file is tried before the fetch gives up; each try continues the one before.
const TRIES: u32 = 3;

/// A file in a repository, as the hub lists it.
#[derive(Debug, Clone, Deserialize)]
struct Listed {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

/// What the hub knows about a large file.
#[derive(Debug, Clone, Deserialize)]
struct Lfs {
    sha256: Option<String>,
}

/// The hub's answer about a repository.
#[derive(Debug, Deserialize)]
struct Repository {
    sha: Option<String>,
    siblings: Vec<Listed>,
}

/// One fetch: where from, what, and where the parts gather.
struct Download<'a> {
    agent: Agent,
    sources: &'a Sources,
    id: &'a str,
    commit: String,
    listed: BTreeMap<String, Listed>,
}

/// The repository's files in `cache`; fetched when they are not there.
pub(super) fn resolve(
    id: &str,
    revision: &str,
    cache: &Path,
    sources: &Sources,
) -> Result<ModelFiles, FetchError> {
    let target = cache.join("models").join("hub").join(id.replace('/', "--")).join(revision);
    let seal = match whole(&target)? {
        Some(seal) => seal,
        None => exclusively(cache, |models| match whole(&target)? {
            Some(seal) => Ok(seal),
            None => fetch(id, revision, models, &target, sources),
        })?,
    };
    let layout = Layout::Folder { dir: target };
    Ok(ModelFiles { name: id.to_string(), sha256: seal.content_hash(), layout })
}

/// The seal of a fetched model, if the files are still what they were.
fn whole(target: &Path) -> Result<Option<Seal>, FetchError> {
    if !target.is_dir() {
        return Ok(None);
    }
    let Ok(names) = seal::model_files(target) else {
        tracing::warn!(path = %target.display(), "the model is incomplete; fetching it again");
        return Ok(None);
    };
    let path = target.join(seal::SEAL_FILE);
    let found = Seal::load(&path);
    if found.as_ref().is_some_and(|seal| seal.holds(target, &names)) {
        return Ok(found);
    }
    let fresh = Seal::make(target, &names)?;
    if found.is_none_or(|seal| seal.content_hash() != fresh.content_hash()) {
        tracing::warn!(path = %target.display(), "the model's files changed; fetching again");
        return Ok(None);
    }
    fresh.store(&path)?;
    Ok(Some(fresh))
}

fn fetch(
    id: &str,
    revision: &str,
    models: &Path,
    target: &Path,
    sources: &Sources,
) -> Result<Seal, FetchError> {
    let download = Download::begin(id, revision, sources)?;
    // Kept after a failure, for the next try to continue; the commit makes that safe.
    let name = format!(".partial-{}-{}", id.replace('/', "--"), download.commit);
    let parts = models.join(name);
    std::fs::create_dir_all(&parts).map_err(FetchError::io("make the folder", &parts))?;
    let shards = match download.listed.contains_key(INDEX) {
        true => {
            download.file(INDEX, &parts, None)?;
            let path = parts.join(INDEX);
            let text = std::fs::read(&path).map_err(FetchError::io("read", &path))?;
            let damaged = |why| FetchError::Damaged { what: format!("{id}/{INDEX}"), why };
            Some(seal::shard_names(&text).map_err(damaged)?)
        }
        false => None,
    };
    let present: BTreeSet<String> = download.listed.keys().cloned().collect();
    let names = seal::select(&present, shards, id)?;
    let sizes = names.iter().map(|name| download.size(name).unwrap_or(0));
    let progress = Progress::start(&format!("fetching {id} (kB)"), sizes.sum::<u64>() / 1_000);
    for name in &names {
        progress.note(name);
        download.file(name, &parts, Some(&progress))?;
    }
    let seal = Seal::make(&parts, &names)?;
    seal.store(&parts.join(seal::SEAL_FILE))?;
    put_in_place(&parts, target)?;
    Ok(seal)
}

impl<'a> Download<'a> {
    /// Asks the hub what the repository holds.
    fn begin(id: &'a str, revision: &str, sources: &'a Sources) -> Result<Self, FetchError> {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build()
            .into();
        let place = match revision {
            "main" => String::new(),
            other => format!("/revision/{other}"),
        };
        let mut download =
            Self { agent, sources, id, commit: String::new(), listed: BTreeMap::new() };
        let url = format!("{}/api/models/{id}{place}?blobs=true", sources.hub);
        let mut response = download.get(&url, 0)?;
        if response.status() != 200 {
            return Err(download.refused(&url, response.status().as_u16()));
        }
        let text = response.body_mut().with_config().limit(100 << 20).read_to_vec();
        let text = text.map_err(|error| download.unreachable(&error))?;
        let repository: Repository = serde_json::from_slice(&text).map_err(|error| {
            FetchError::Refused { url, why: format!("its answer is not understood: {error}") }
        })?;
        download.commit = repository.sha.unwrap_or_else(|| revision.to_string());
        if !download.commit.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            let why = format!("it names the commit `{}`", download.commit);
            return Err(FetchError::Refused { url: sources.hub.clone(), why });
        }
        let listed = repository.siblings.into_iter();
        download.listed = listed.map(|file| (file.rfilename.clone(), file)).collect();
        Ok(download)
    }

    fn size(&self, name: &str) -> Option<u64> {
        self.listed.get(name).and_then(|file| file.size)
    }

    fn get(&self, url: &str, from: u64) -> Result<Response<Body>, FetchError> {
        let mut request = self.agent.get(url);
        // Ranges count the bytes of the file, so it must not be compressed on its way.
        request = request.header("accept-encoding", "identity");
        if let Some(token) = &self.sources.hub_token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        request.call().map_err(|error| self.unreachable(&error))
    }

    fn unreachable(&self, error: &ureq::Error) -> FetchError {
        let why = format!("{}: {error}", self.sources.hub);
        FetchError::Offline { what: self.id.to_string(), why }
    }

    fn refused(&self, url: &str, status: u16) -> FetchError {
        let why = match status {
            401 | 403 => "access denied; set HF_TOKEN to a token that may read the model",
            404 => "there is no such model, revision or file",
            429 => "too many requests; try again later",
            _ => "unexpected status",
        };
        FetchError::Refused { url: url.to_string(), why: format!("status {status}, {why}") }
    }

    /// Fetches one file into `parts`, unless it is there; cut streams are continued.
    fn file(
        &self,
        name: &str,
        parts: &Path,
        progress: Option<&Progress>,
    ) -> Result<(), FetchError> {
        let whole = parts.join(name);
        let part = parts.join(format!("{name}.part"));
        if whole.exists() {
            if let (Some(progress), Some(size)) = (progress, self.size(name)) {
                progress.advance(size / 1_000);
            }
            return Ok(());
        }
        if let (Some(progress), Ok(metadata)) = (progress, std::fs::metadata(&part)) {
            progress.advance(metadata.len() / 1_000);
        }
        for attempt in 1..=TRIES {
            match self.stream(name, &part, progress) {
                Ok(()) => break,
                Err(error @ FetchError::Offline { .. }) if attempt < TRIES => {
                    tracing::warn!(%error, name, attempt, "the download was cut; continuing");
                    std::thread::sleep(Duration::from_millis(500 * u64::from(attempt)));
                }
                Err(error) => return Err(error),
            }
        }
        self.check(name, &part)?;
        std::fs::rename(&part, &whole).map_err(FetchError::io("rename into place", &whole))
    }

    /// Appends to `part` what of the file is not in it yet.
    fn stream(
        &self,
        name: &str,
        part: &Path,
        progress: Option<&Progress>,
    ) -> Result<(), FetchError> {
        let url = format!("{}/{}/resolve/{}/{name}", self.sources.hub, self.id, self.commit);
        let have = std::fs::metadata(part).map_or(0, |metadata| metadata.len());
        if have > 0 && self.size(name) == Some(have) {
            return Ok(());
        }
        let mut response = self.get(&url, have)?;
        let continued = match response.status().as_u16() {
            206 => true,
            200 => false,
            // The part is longer than the file: begin again.
            416 => {
                std::fs::remove_file(part).map_err(FetchError::io("remove", part))?;
                response = self.get(&url, 0)?;
                if response.status() != 200 {
                    return Err(self.refused(&url, response.status().as_u16()));
                }
                false
            }
            status => return Err(self.refused(&url, status)),
        };
        let mut options = OpenOptions::new();
        options.create(true).write(true).append(continued).truncate(!continued);
        let mut file = options.open(part).map_err(FetchError::io("write", part))?;
        let expected = response.body().content_length();
        let arrived = self.copy(response, &mut file, part, progress)?;
        file.sync_all().map_err(FetchError::io("write", part))?;
        match expected {
            Some(expected) if arrived < expected => {
                let why = format!("{name} ended after {arrived} of {expected} bytes");
                Err(FetchError::Offline { what: self.id.to_string(), why })
            }
            _ => Ok(()),
        }
    }

    /// Copies the answer's body; returns how many bytes arrived.
    fn copy(
        &self,
        response: Response<Body>,
        file: &mut File,
        path: &Path,
        progress: Option<&Progress>,
    ) -> Result<u64, FetchError> {
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 20];
        let (mut arrived, mut shown) = (0_u64, 0_u64);
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => return Ok(arrived),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.unreachable(&error.into())),
            };
            file.write_all(&buffer[..read]).map_err(FetchError::io("write", path))?;
            arrived += read as u64;
            if let Some(progress) = progress {
                progress.advance(arrived / 1_000 - shown);
                shown = arrived / 1_000;
            }
        }
    }

    /// Compares a downloaded file with what the hub said about it; a wrong one is removed.
    fn check(&self, name: &str, part: &Path) -> Result<(), FetchError> {
        let found = std::fs::metadata(part).map_err(FetchError::io("read", part))?.len();
        let listed = self.listed.get(name);
        let mut why = None;
        if let Some(size) = self.size(name).filter(|size| *size != found) {
            why = Some(format!("it has {found} bytes, the hub says {size}"));
        } else if let Some(sha256) = listed.and_then(|file| file.lfs.as_ref()?.sha256.as_ref()) {
            let found = seal::hash(part)?;
            if found != *sha256 {
                why = Some(format!("its SHA-256 is {found}, the hub says {sha256}"));
            }
        }
        let Some(why) = why else {
            return Ok(());
        };
        std::fs::remove_file(part).map_err(FetchError::io("remove", part))?;
        Err(FetchError::Damaged { what: format!("{}/{name}", self.id), why })
    }
}
