//! The tree's own rules: which module may use which, file and line lengths. Standard library only.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// Modules in the order of `src/lib.rs`: a module uses only modules before it.
fn ranks() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    let module = |line: &str| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_string());
    lib.lines().filter_map(module).collect()
}

/// Base modules may use each other: they are one layer.
const BASE: [&str; 12] = [
    "answer",
    "clock",
    "durable",
    "machine",
    "progress",
    "rng",
    "rollout",
    "task",
    "config",
    "model",
    "inference",
    "protocol",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a readable source file");
            (path.strip_prefix(root()).expect("inside").to_path_buf(), text)
        })
        .collect()
}

#[test]
fn modules_use_only_those_to_their_left() {
    let ranks = ranks();
    assert!(ranks.len() > 15, "the module list was not read");
    let rank = |name: &str| ranks.iter().position(|module| module == name);
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let mut parts = path.components().skip(1);
        let Some(first) = parts.next() else { continue };
        let module = first.as_os_str().to_string_lossy().replace(".rs", "");
        let Some(own) = rank(&module) else { continue };
        for (number, line) in text.lines().enumerate() {
            for used in line.match_indices("crate::").map(|(at, _)| &line[at + 7..]) {
                let end = used.find(|c: char| !c.is_alphanumeric() && c != '_');
                let used = &used[..end.unwrap_or(used.len())];
                let both_base = BASE.contains(&module.as_str()) && BASE.contains(&used);
                if rank(used).is_some_and(|rank| rank > own) && !both_base {
                    wrong.push(format!("{}:{}: {module} uses {used}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "edges that go the wrong way:\n{}", wrong.join("\n"));
}

#[test]
fn files_and_lines_stay_short() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > 700 {
            wrong.push(format!("{}: {lines} lines, at most 700", path.display()));
        }
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > 100 || line.contains('\t') {
                wrong.push(format!("{}:{}: long line or tab", path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_has_a_description() {
    let bare = sources()
        .into_iter()
        .filter(|(path, text)| !text.starts_with("//!") && !path.ends_with("main.rs"))
        .map(|(path, _)| path.display().to_string());
    let bare: Vec<String> = bare.collect();
    assert!(bare.is_empty(), "files that do not say what they are: {}", bare.join(", "));
}
