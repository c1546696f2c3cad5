//! Reads files and folders into documents. What cannot be read is listed with its reason and
//! never stops the rest.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use rayon::prelude::*;
use walkdir::WalkDir;

use crate::corpus::html;
use crate::corpus::markdown;
use crate::corpus::reading::Document;
use crate::corpus::reading::ReadError;
use crate::corpus::reading::Reading;
use crate::corpus::reading::SkipReason;
use crate::corpus::reading::Skipped;
use crate::corpus::reading::SourceFile;
use crate::corpus::records;
use crate::corpus::restructured;
use crate::rng::content_id;

/// Above this a file is listed as too large: it is held in memory whole while it is read.
const FILE_LIMIT_BYTES: u64 = 1 << 30;

/// How much of a file is looked at to tell text from binary data.
const SNIFF_BYTES: usize = 8192;

/// Kinds of documents and data that people keep in folders and that have no reader yet.
const NOT_READ_YET: [&str; 24] = [
    "adoc", "csv", "doc", "docx", "epub", "gz", "ipynb", "json", "mobi", "odp", "ods", "odt",
    "org", "pdf", "ppt", "pptx", "rtf", "tex", "tsv", "xls", "xlsx", "xml", "zip", "zst",
];

/// A format's yield: documents without their ids, and the lines at fault.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) pieces: Vec<Piece>,
    pub(super) faults: Vec<Fault>,
}

/// One document as its format gives it.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) title: String,
    pub(super) text: String,
    pub(super) record_id: Option<String>,
}

/// Something in a file that could not be used.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) line: Option<u64>,
    pub(super) reason: SkipReason,
    pub(super) detail: String,
}

impl Fault {
    /// A fault of the file as a whole.
    pub(super) fn whole(reason: SkipReason, detail: impl Into<String>) -> Self {
        Self { line: None, reason, detail: detail.into() }
    }
}

/// One file to be read.
struct Entry {
    path: PathBuf,
    /// Path relative to the folder that was added, with `/` between the parts.
    relative: String,
    /// Whether the file was found in a folder, not named by the user.
    in_folder: bool,
}

enum Outcome {
    Unchanged,
    Read(SourceFile, Vec<Document>, Vec<Skipped>),
    Skipped(Vec<Skipped>),
}

/// Reads `paths`, files or folders. `known` maps [`SourceFile::path`] to [`SourceFile::hash`] of
/// the last ingest: files with the same bytes are not parsed again. Hidden files in folders are
/// passed over silently. `progress` is told (files done, files in all), from several threads.
///
/// The result depends on the files alone, not on the order of `paths` or of the folder.
///
/// # Errors
/// When one of `paths` does not exist or cannot be looked at; nothing is read then.
pub fn read_paths(
    paths: &[PathBuf],
    known: &HashMap<String, String>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Reading, ReadError> {
    let mut entries = BTreeMap::new();
    let mut reading = Reading::default();
    let mut roots = Vec::new();
    for path in paths {
        let root = path.canonicalize().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => ReadError::NotFound { path: path.clone() },
            _ => ReadError::Inaccessible { path: path.clone(), source },
        })?;
        collect(&root, &mut entries, &mut reading.skipped);
        roots.push(root);
    }
    let total = entries.len() as u64;
    let done = AtomicU64::new(0);
    let outcomes: Vec<(&String, Outcome)> = entries
        .par_iter()
        .map(|(key, entry)| {
            let outcome = read_file(key, entry, known.get(key));
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            (key, outcome)
        })
        .collect();
    for (key, outcome) in outcomes {
        match outcome {
            Outcome::Unchanged => reading.unchanged.push(key.clone()),
            Outcome::Skipped(skipped) => reading.skipped.extend(skipped),
            Outcome::Read(file, documents, skipped) => {
                reading.files.push(file);
                reading.documents.extend(documents);
                reading.skipped.extend(skipped);
            }
        }
    }
    let gone = known.keys().filter(|key| {
        let path = Path::new(key.as_str());
        !entries.contains_key(*key) && roots.iter().any(|root| path.starts_with(root))
    });
    // A folder that cannot be opened now hides its files; they have not vanished.
    let hidden = |key: &str| {
        reading.skipped.iter().any(|skipped| {
            skipped.reason == SkipReason::Unreadable && Path::new(key).starts_with(&skipped.path)
        })
    };
    reading.vanished = gone.filter(|key| !hidden(key)).cloned().collect();
    reading.vanished.sort();
    reading.skipped.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    reading.skipped.dedup();
    Ok(reading)
}

/// Adds the files at or under `root`. A file reached by two roots is read once.
fn collect(root: &Path, entries: &mut BTreeMap<String, Entry>, skipped: &mut Vec<Skipped>) {
    let visible = |entry: &walkdir::DirEntry| {
        entry.depth() == 0 || !entry.file_name().to_string_lossy().starts_with('.')
    };
    let walk = WalkDir::new(root).follow_links(true).sort_by_file_name();
    for entry in walk.into_iter().filter_entry(visible) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => {
                let path = entry.path().to_path_buf();
                let in_folder = entry.depth() > 0;
                let inner = if in_folder { path.strip_prefix(root).ok() } else { None };
                let name = inner.unwrap_or_else(|| Path::new(entry.file_name()));
                let parts: Vec<_> = name.iter().map(|part| part.to_string_lossy()).collect();
                let relative = parts.join("/");
                let key = path.to_string_lossy().into_owned();
                entries.entry(key).or_insert(Entry { path, relative, in_folder });
            }
            Ok(_) => {}
            Err(error) => skipped.push(Skipped {
                path: error.path().unwrap_or(root).to_string_lossy().into_owned(),
                line: None,
                reason: SkipReason::Unreadable,
                detail: format!("{error}; check permissions and links"),
            }),
        }
    }
}

fn read_file(key: &str, entry: &Entry, known_hash: Option<&String>) -> Outcome {
    let skip = |fault: Fault| Skipped {
        path: key.to_string(),
        line: fault.line,
        reason: fault.reason,
        detail: fault.detail,
    };
    let parse = match parser_for(entry) {
        Ok(parse) => parse,
        Err(fault) => return Outcome::Skipped(vec![skip(fault)]),
    };
    let bytes = match read_bytes(&entry.path) {
        Ok(bytes) => bytes,
        Err(fault) => return Outcome::Skipped(vec![skip(fault)]),
    };
    let hash = blake3::hash(&bytes).to_hex().to_string();
    if known_hash == Some(&hash) {
        return Outcome::Unchanged;
    }
    let text = match text_of(&bytes) {
        Ok(text) => text,
        Err(fault) => return Outcome::Skipped(vec![skip(fault)]),
    };
    let stem = entry.path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    let parsed = parse(text, &stem);
    let mut skipped: Vec<Skipped> = parsed.faults.into_iter().map(skip).collect();
    let documents = identify(key, &entry.relative, parsed.pieces);
    if documents.is_empty() {
        if skipped.is_empty() {
            skipped.push(skip(Fault::whole(SkipReason::NoText, "there is no text in it")));
        }
        return Outcome::Skipped(skipped);
    }
    let file = SourceFile { path: key.to_string(), hash, documents: documents.len() };
    Outcome::Read(file, documents, skipped)
}

type Parser = fn(&str, &str) -> Parsed;

/// The parser for the file's kind, by its name.
fn parser_for(entry: &Entry) -> Result<Parser, Fault> {
    let name = entry.path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let upper = name.to_uppercase();
    let about = ["ATTRIBUTION", "LICENSE", "LICENCE"];
    if entry.in_folder && about.iter().any(|start| upper.starts_with(start)) {
        let detail = "an attribution or licence file is not content; add it by name to read it";
        return Err(Fault::whole(SkipReason::NotContent, detail));
    }
    let extension = entry.path.extension().map(|extension| extension.to_string_lossy());
    let extension = extension.unwrap_or_default().to_lowercase();
    match extension.as_str() {
        "md" | "markdown" => Ok(markdown::parse),
        "txt" | "text" => Ok(plain),
        "rst" => Ok(restructured::parse),
        "html" | "htm" | "xhtml" => Ok(html::parse),
        "jsonl" => Ok(records::parse),
        other if NOT_READ_YET.contains(&other) => Err(Fault::whole(
            SkipReason::NotReadYet,
            format!(".{other} files are not read yet; convert it to .txt, .md or .html"),
        )),
        _ => Err(Fault::whole(
            SkipReason::UnknownKind,
            "not a document; .md, .txt, .rst, .html and .jsonl files are read",
        )),
    }
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, Fault> {
    let unreadable = |error: std::io::Error| {
        Fault::whole(SkipReason::Unreadable, format!("{error}; check the file's permissions"))
    };
    let size_bytes = std::fs::metadata(path).map_err(unreadable)?.len();
    if size_bytes > FILE_LIMIT_BYTES {
        let detail =
            format!("{size_bytes} bytes, and {FILE_LIMIT_BYTES} are the most; split the file");
        return Err(Fault::whole(SkipReason::TooLarge, detail));
    }
    std::fs::read(path).map_err(unreadable)
}

fn text_of(bytes: &[u8]) -> Result<&str, Fault> {
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        let detail = "it looks like UTF-16; save it as UTF-8";
        return Err(Fault::whole(SkipReason::BadUtf8, detail));
    }
    if bytes[..bytes.len().min(SNIFF_BYTES)].contains(&0) {
        return Err(Fault::whole(SkipReason::Binary, "the bytes are not text"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count() as u64;
        let detail = format!("byte {} is not UTF-8; save the file as UTF-8", error.valid_up_to());
        Fault { line: Some(line), reason: SkipReason::BadUtf8, detail }
    })?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// Plain text: one document, titled by its file.
fn plain(text: &str, stem: &str) -> Parsed {
    let piece = Piece { title: stem.to_string(), text: text.to_string(), record_id: None };
    Parsed { pieces: vec![piece], faults: Vec::new() }
}

/// Normalises the pieces, drops the empty ones and gives the rest their ids.
fn identify(source: &str, relative: &str, pieces: Vec<Piece>) -> Vec<Document> {
    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut documents = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let text = crate::corpus::words::normalise_paragraphs(&piece.text);
        let title = crate::corpus::words::normalise(&piece.title);
        if text.is_empty() {
            continue;
        }
        let name = piece.record_id.as_ref().unwrap_or(&title);
        // Two sections of a file may have the same heading.
        let nth = seen.entry(name.clone()).or_insert(0);
        let id = content_id(&["document", relative, name, &nth.to_string()]);
        *nth += 1;
        let source = source.to_string();
        documents.push(Document { id, source, record_id: piece.record_id, title, text });
    }
    documents
}
