//! Fetching models from a hub, which a listener on the loopback address plays.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::Weak;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use nightschool::model::fetch::FetchError;
use nightschool::model::fetch::Layout;
use nightschool::model::fetch::ModelFiles;
use nightschool::model::fetch::ModelSpec;
use nightschool::model::fetch::resolve_from;
use nightschool::model::fetch::verify;
use tempfile::TempDir;

use super::fetch::content;
use super::fetch::hex;
use super::fetch::left;
use super::fetch::sources;
use super::support::http;
use super::support::http::Call;
use super::support::http::Reply;

/// What the toy hub does with requests for the weights.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    /// Serves whole files and ranges.
    Well,
    /// Cuts the connection after this many bytes of the weights' answer.
    Cut(usize),
    /// As `Cut`, and ignores range requests.
    CutWithoutRanges(usize),
}

/// A hub on the loopback address with one repository, `lab/toy`.
struct Hub {
    address: String,
    weights: Vec<u8>,
    manner: Mutex<Manner>,
    ranges: Mutex<Vec<String>>,
    requests: AtomicUsize,
    listed_sha256: Mutex<String>,
}

impl Hub {
    fn start(weights: Vec<u8>) -> Arc<Self> {
        Arc::new_cyclic(|hub: &Weak<Self>| {
            let hub = hub.clone();
            let answer = move |call: &Call| match hub.upgrade() {
                Some(hub) => hub.answer(call),
                None => Reply::new(503, ""),
            };
            Self {
                address: http::serve(answer),
                listed_sha256: Mutex::new(hex(&weights)),
                weights,
                manner: Mutex::new(Manner::Well),
                ranges: Mutex::default(),
                requests: AtomicUsize::new(0),
            }
        })
    }

    fn set(&self, manner: Manner) {
        *self.manner.lock().expect("lock") = manner;
    }

    fn answer(&self, call: &Call) -> Reply {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let weights = call.path == "/lab/toy/resolve/c0ffee/model.safetensors";
        let body = match call.path.as_str() {
            "/api/models/lab/toy?blobs=true" => self.listing().into_bytes(),
            "/lab/toy/resolve/c0ffee/config.json" => b"{}".to_vec(),
            "/lab/toy/resolve/c0ffee/tokenizer.json" => b"{\"t\":1}".to_vec(),
            _ if weights => self.weights.clone(),
            _ => return Reply::new(404, ""),
        };
        let manner = *self.manner.lock().expect("lock");
        let range = call.header("range").and_then(|range| range.strip_prefix("bytes="));
        let from: usize = match (range, manner) {
            (Some(range), Manner::Well | Manner::Cut(_)) => {
                self.ranges.lock().expect("lock").push(range.to_string());
                range.trim_end_matches('-').parse().unwrap_or(0)
            }
            _ => 0,
        };
        let mut reply = Reply::new(if from > 0 { 206 } else { 200 }, &body[from..]);
        if let (Manner::Cut(bytes) | Manner::CutWithoutRanges(bytes), true) = (manner, weights) {
            reply.cut = Some(bytes);
        }
        reply
    }

    fn listing(&self) -> String {
        serde_json::json!({
            "id": "lab/toy", "sha": "c0ffee",
            "siblings": [
                {"rfilename": ".gitattributes", "size": 5},
                {"rfilename": "config.json", "size": 2},
                {"rfilename": "tokenizer.json", "size": 7},
                {"rfilename": "onnx/model.onnx", "size": 1},
                {"rfilename": "model.safetensors", "size": self.weights.len(),
                 "lfs": {"sha256": *self.listed_sha256.lock().expect("lock")}},
            ]
        })
        .to_string()
    }
}

fn from_hub(hub: &Hub, cache: &TempDir, id: &str) -> Result<ModelFiles, FetchError> {
    let spec = id.parse::<ModelSpec>()?;
    resolve_from(&spec, cache.path(), &sources("", &hub.address))
}

#[test]
fn hub_model_is_fetched_once() {
    let cache = tempfile::tempdir().expect("cache");
    let hub = Hub::start(content(300_000));
    let files = from_hub(&hub, &cache, "lab/toy").expect("fetched");
    let dir = cache.path().join("models/hub/lab--toy/main");
    assert_eq!(files.layout, Layout::Folder { dir: dir.clone() });
    assert_eq!(std::fs::read(dir.join("model.safetensors")).expect("weights"), hub.weights);
    assert!(!dir.join("onnx").exists() && !dir.join(".gitattributes").exists());
    assert_eq!(left(cache.path()), ["hub"]);
    verify(&files).expect("whole");
    let requests = hub.requests.load(Ordering::Relaxed);
    assert_eq!(requests, 4);
    assert_eq!(from_hub(&hub, &cache, "lab/toy").expect("again"), files);
    assert_eq!(hub.requests.load(Ordering::Relaxed), requests, "the second time needs no hub");

    // A file lost later is noticed.
    std::fs::remove_file(dir.join("config.json")).expect("removed");
    assert_eq!(from_hub(&hub, &cache, "lab/toy").expect("mended"), files);
}

#[test]
fn a_cut_stream_leaves_nothing_that_looks_whole_and_is_continued() {
    let cache = tempfile::tempdir().expect("cache");
    let hub = Hub::start(content(300_000));
    hub.set(Manner::Cut(40_000));
    let error = from_hub(&hub, &cache, "lab/toy").expect_err("cut");
    assert!(matches!(error, FetchError::Offline { .. }), "{error}");
    assert!(!cache.path().join("models/hub").exists());
    // Three tries of 40,000 bytes, each continuing the one before.
    assert_eq!(*hub.ranges.lock().expect("lock"), ["40000-", "80000-"]);

    hub.set(Manner::Well);
    let files = from_hub(&hub, &cache, "lab/toy").expect("continued");
    assert_eq!(hub.ranges.lock().expect("lock").last().map(String::as_str), Some("120000-"));
    let Layout::Folder { dir } = files.layout else { panic!("a folder") };
    assert_eq!(std::fs::read(dir.join("model.safetensors")).expect("weights"), hub.weights);
    assert_eq!(left(cache.path()), ["hub"]);
}

#[test]
fn a_hub_without_ranges_is_asked_for_the_whole_file_again() {
    let cache = tempfile::tempdir().expect("cache");
    let hub = Hub::start(content(300_000));
    hub.set(Manner::CutWithoutRanges(40_000));
    from_hub(&hub, &cache, "lab/toy").expect_err("cut");
    hub.set(Manner::CutWithoutRanges(usize::MAX));
    let files = from_hub(&hub, &cache, "lab/toy").expect("whole");
    let Layout::Folder { dir } = files.layout else { panic!("a folder") };
    assert_eq!(std::fs::read(dir.join("model.safetensors")).expect("weights"), hub.weights);
}

#[test]
fn wrong_bytes_from_a_hub_are_not_kept() {
    let cache = tempfile::tempdir().expect("cache");
    let hub = Hub::start(content(300_000));
    let right = std::mem::replace(&mut *hub.listed_sha256.lock().expect("lock"), hex(b"other"));
    let error = from_hub(&hub, &cache, "lab/toy").expect_err("wrong hash");
    assert!(matches!(error, FetchError::Damaged { .. }), "{error}");
    assert!(!cache.path().join("models/hub").exists());
    *hub.listed_sha256.lock().expect("lock") = right;
    from_hub(&hub, &cache, "lab/toy").expect("right now");
}

#[test]
fn a_hub_that_has_no_such_model_or_is_not_there_is_said() {
    let cache = tempfile::tempdir().expect("cache");
    let hub = Hub::start(Vec::new());
    let error = from_hub(&hub, &cache, "lab/none").expect_err("404").to_string();
    assert!(error.contains("status 404, there is no such model"), "{error}");
    let nobody = sources("", &http::nobody());
    let spec = "lab/toy".parse::<ModelSpec>().expect("hub id");
    let error = resolve_from(&spec, cache.path(), &nobody).expect_err("nobody");
    assert!(matches!(error, FetchError::Offline { .. }), "{error}");
}

#[test]
fn a_full_disk_is_said() {
    // Present on Linux: every write to it fails for lack of space.
    let full = Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let mut file = OpenOptions::new().write(true).open(full).expect("open");
    let error = file.write_all(b"x").expect_err("full");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let cache = tempfile::tempdir().expect("cache");
    let hub = Hub::start(content(1_000));
    let parts = cache.path().join("models/.partial-lab--toy-c0ffee");
    std::fs::create_dir_all(&parts).expect("folder");
    std::os::unix::fs::symlink(full, parts.join("model.safetensors.part")).expect("link");
    let error = from_hub(&hub, &cache, "lab/toy").expect_err("full");
    assert!(matches!(error, FetchError::DiskFull { .. }), "{error}");
    assert!(!cache.path().join("models/hub").exists());
}
