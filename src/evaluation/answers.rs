//! A file of answers: what an evaluation has come to so far, a line a question, so that it goes on
//! where it was cut off, and another can be compared with it question by question.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use super::Answered;

/// What was evaluated; the first line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Version of the lines' shape.
    pub schema_version: u32,
    /// The base model.
    pub model: String,
    /// A hash of the adapter's weights; none for the base model.
    pub adapter: Option<String>,
    /// The prompt.
    pub prompt: String,
    /// Passages per question; 0 without documents.
    pub passages: usize,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    /// A hash of the ids of all passages; empty without documents.
    pub corpus: String,
}

/// A file of answers, open to be gone on with.
#[derive(Debug)]
pub struct AnswerFile {
    path: PathBuf,
    file: File,
    known: HashMap<String, Answered>,
}

impl AnswerFile {
    /// Opens `path`, or begins it. A last line that was cut off is done again.
    ///
    /// # Errors
    /// When it cannot be read or written, or holds the answers of another evaluation.
    pub fn open(path: &Path, about: &About) -> anyhow::Result<Self> {
        let place = || format!("the answers {}", path.display());
        let mut options = File::options();
        options.read(true).append(true).create(true);
        let mut file = options.open(path).with_context(place)?;
        let text = std::fs::read_to_string(path).with_context(place)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).with_context(place)?;
        let mut known = HashMap::new();
        match parse(path, &text[..whole])? {
            Some((of, _)) if of != *about => anyhow::bail!(
                "{} holds the answers of another evaluation: {}; give another file with --answers, \
                 or remove that one",
                path.display(),
                difference(&of, about)?
            ),
            Some((_, answered)) => {
                known.extend(answered.into_iter().map(|one| (one.id.clone(), one)));
            }
            None => writeln!(file, "{}", serde_json::to_string(about)?).with_context(place)?,
        }
        Ok(Self { path: path.to_path_buf(), file, known })
    }

    /// The answer to a question, if it is known.
    pub fn known(&self, id: &str) -> Option<&Answered> {
        self.known.get(id)
    }

    /// Adds answers; they stay, whatever happens next.
    ///
    /// # Errors
    /// When the disk is full or unwritable.
    pub fn add(&mut self, answered: &[Answered]) -> anyhow::Result<()> {
        let mut lines = String::new();
        for one in answered {
            lines.push_str(&serde_json::to_string(one)?);
            lines.push('\n');
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("the answers {}", self.path.display()))
    }
}

/// Reads a file of answers.
///
/// # Errors
/// When it cannot be read, or is something else.
pub fn read(path: &Path) -> anyhow::Result<Vec<Answered>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the answers {}", path.display()))?;
    let (_, answered) = parse(path, &text)?.with_context(|| {
        format!("{} holds no answers: give what --answers wrote", path.display())
    })?;
    Ok(answered)
}

fn parse(path: &Path, text: &str) -> anyhow::Result<Option<(About, Vec<Answered>)>> {
    let mut lines = text.lines().enumerate();
    let wrong = |number: usize| {
        format!("{}, line {}: not what `eval --answers` writes", path.display(), number + 1)
    };
    let Some((number, first)) = lines.next() else { return Ok(None) };
    let about: About = serde_json::from_str(first).with_context(|| wrong(number))?;
    let answered =
        lines.map(|(number, line)| serde_json::from_str(line).with_context(|| wrong(number)));
    Ok(Some((about, answered.collect::<anyhow::Result<_>>()?)))
}

/// The first thing in which two evaluations differ.
fn difference(there: &About, here: &About) -> anyhow::Result<String> {
    let (there, here) = (serde_json::to_value(there)?, serde_json::to_value(here)?);
    let members = there.as_object().into_iter().flatten();
    let mut differing = members.filter(|(key, value)| here.get(key.as_str()) != Some(*value));
    let (key, value) = differing.next().context("they are the same")?;
    let here = here.get(key).unwrap_or(&Value::Null);
    Ok(format!("`{key}` is {value} there and {here} here"))
}
