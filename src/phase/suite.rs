//! The held-out suite: people's questions, or tasks from documents set aside, frozen before
//! anything is measured on them.

use std::collections::HashMap;
use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;

use super::asked::Asked;
use super::asked::UnreadableRow;
use super::home::Home;
use super::night::Night;
use super::night::SuiteSource;
use crate::archive::Archive;
use crate::archive::ArchiveError;
use crate::archive::ArchiveReader;
use crate::archive::Suite;
use crate::archive::SuiteItem;
use crate::archive::SuiteOrigin;
use crate::archive::TaskFilter;
use crate::config::ConfigError;
use crate::evaluation::Question;
use crate::evaluation::standalone;
use crate::export;
use crate::rng;
use crate::rng::content_id;
use crate::task::Split;

/// The suite that a home makes for itself.
pub const MODEL_MADE: &str = "model-made";
/// The one that it keeps sealed.
pub const MODEL_MADE_SEALED: &str = "model-made-sealed";

/// Of the documents set aside, one in so many is kept for the sealed suite.
const SEALED_SHARE: u64 = 4;

/// The suites of a night.
pub(super) struct Suites {
    /// Decides promotions.
    pub(super) open: Suite,
    /// Decides nothing; shows whether the other is worn out.
    pub(super) sealed: Option<Suite>,
}

/// What an import of a suite did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SuiteReport {
    /// Hash of name, origin and questions.
    pub id: String,
    /// What it is called.
    pub name: String,
    /// Its questions.
    pub questions: u64,
    /// Whether it was there already, with the same questions.
    pub known: bool,
    /// Tasks of the training side that ask what a suite asks: they are not trained on.
    pub tasks_left_out: u64,
    /// Rows that were left out.
    pub unreadable: Vec<UnreadableRow>,
}

/// Freezes the questions of a file as a suite of the archive, whose home's lock is held. The same
/// again changes nothing.
///
/// # Errors
/// When the file cannot be opened or holds no question, the name belongs to other questions, or
/// the archive fails.
pub fn import(archive: &Archive, name: &str, path: &Path) -> anyhow::Result<SuiteReport> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let (mut items, mut unreadable) = (Vec::new(), Vec::new());
    let mut rows_by_id: HashMap<String, u64> = HashMap::new();
    for (row, value) in (1..).zip(export::rows_of(path)?) {
        let item = value.map_err(|error| format!("{error:#}")).and_then(|value| item_of(&value));
        let new = item.and_then(|item| match rows_by_id.get(&item.question_id) {
            Some(first) => Err(format!("it has the id, or the words, of row {first}")),
            None => Ok(item),
        });
        match new {
            Ok(item) => {
                rows_by_id.insert(item.question_id.clone(), row);
                items.push(item);
            }
            Err(why) => unreadable.push(UnreadableRow { file: file.to_string(), row, why }),
        }
    }
    if items.is_empty() {
        let first = unreadable.first().map(|row| format!("; row {}: {}", row.row, row.why));
        anyhow::bail!("{} holds no question{}", path.display(), first.unwrap_or_default());
    }
    let suite = Suite::new(name, SuiteOrigin::Human, items);
    let new = archive.freeze_suite(&suite).map_err(|error| match error {
        ArchiveError::Frozen { .. } => anyhow::anyhow!(
            "the suite {name} is there with other questions, and a suite never changes under its \
             name: import these under another name, and name that one in heldout.suite"
        ),
        other => other.into(),
    })?;
    Ok(SuiteReport {
        id: suite.id,
        name: suite.name,
        questions: suite.items.len() as u64,
        known: !new,
        tasks_left_out: archive.tasks_of_suites()?.len() as u64,
        unreadable,
    })
}

/// A row as a question of a suite. Without an id it gets one made of its words, so that the same
/// question twice is seen.
fn item_of(row: &Value) -> Result<SuiteItem, String> {
    let Asked { id, question, answers, document, .. } = Asked::read(row)?;
    let words = || std::iter::once(&question).chain(&answers).map(String::as_str);
    let question_id = id.unwrap_or_else(|| content_id(&words().collect::<Vec<_>>()));
    // As in a file of questions that a setting names.
    let first = row["supporting"].as_array().and_then(|all| all.first());
    let title = [Some(&row["title"]), first].into_iter().flatten().find_map(Value::as_str);
    let source_document = document.or(title.map(String::from));
    let source_document = source_document.unwrap_or_else(|| question_id.clone());
    Ok(SuiteItem { question_id, question, answers, source_document })
}

/// Where the questions are that the setting `key` names: a suite of the archive, or a file, in
/// the home or from the present folder.
///
/// # Errors
/// [`ConfigError`] when it is neither.
pub(super) fn source(
    archive: &ArchiveReader,
    home: &Home,
    key: &'static str,
    named: &Path,
) -> anyhow::Result<SuiteSource> {
    let suites = archive.suites()?;
    let name = named.to_string_lossy();
    let stem = named.file_stem().unwrap_or_default().to_string_lossy();
    let frozen = |name: &str| suites.iter().any(|suite| suite.name == name);
    let in_home = home.dir().join(named);
    let file = [in_home.as_path(), named].into_iter().find(|path| path.is_file());
    let questions = file.unwrap_or(named).to_path_buf();
    if frozen(&name) {
        return Ok(SuiteSource { name: name.into_owned(), questions });
    }
    // A file that is gone was read when it was frozen.
    if file.is_some() || frozen(&stem) {
        return Ok(SuiteSource { name: stem.into_owned(), questions });
    }
    let names: Vec<&str> = suites.iter().map(|suite| suite.name.as_str()).collect();
    let there = if names.is_empty() { "none yet".to_string() } else { names.join(", ") };
    let reason = format!(
        "is \"{name}\", which is neither a suite of this home (there are: {there}) nor a file; \
         `nightschool suite import NAME FILE` makes a suite of a file"
    );
    Err(ConfigError::Range { key, reason }.into())
}

impl Night<'_> {
    /// People's questions, frozen under their name when first seen.
    pub(super) fn human_suite(&self, source: &SuiteSource) -> anyhow::Result<Suite> {
        if let Some(frozen) = self.archive.suite(&source.name)? {
            return Ok(frozen);
        }
        let items = read_items(&source.questions)?;
        let suite = Suite::new(&source.name, SuiteOrigin::Human, items);
        self.archive.freeze_suite(&suite)?;
        Ok(suite)
    }

    /// Suites of verified tasks from held-out documents, frozen once and for all.
    pub(super) fn model_made_suites(&self) -> anyhow::Result<Suites> {
        let open = match self.archive.suite(MODEL_MADE)? {
            Some(frozen) => frozen,
            None => self.freeze_model_made()?,
        };
        Ok(Suites { open, sealed: self.archive.suite(MODEL_MADE_SEALED)? })
    }

    fn freeze_model_made(&self) -> anyhow::Result<Suite> {
        let filter = TaskFilter { split: Some(Split::Heldout), ..TaskFilter::default() };
        let items = self.archive.tasks(&filter)?.into_iter().map(|stored| {
            let task = stored.task;
            let passage = task.evidence.last().and_then(|id| self.passages.get(id));
            SuiteItem {
                source_document: passage.map_or(String::new(), |p| p.document_id.clone()),
                question_id: task.id,
                question: task.question,
                answers: vec![task.answer],
            }
        });
        let (mut sealed, mut open): (Vec<SuiteItem>, Vec<SuiteItem>) =
            items.partition(|item| is_sealed(&item.source_document));
        if open.is_empty() {
            open = std::mem::take(&mut sealed);
        }
        if open.is_empty() {
            anyhow::bail!(
                "no question could be made from the documents set aside for evaluation: add more \
                 documents, raise heldout.documents, or name a file of your own questions in \
                 heldout.suite"
            );
        }
        open.truncate(self.settings.heldout.questions);
        sealed.truncate(self.settings.heldout.questions);
        if !sealed.is_empty() {
            self.archive.freeze_suite(&Suite::new(
                MODEL_MADE_SEALED,
                SuiteOrigin::Model,
                sealed,
            ))?;
        }
        let open = Suite::new(MODEL_MADE, SuiteOrigin::Model, open);
        self.archive.freeze_suite(&open)?;
        Ok(open)
    }
}

/// Whether the questions about a held-out document are kept for the sealed suite.
fn is_sealed(document_id: &str) -> bool {
    rng::derive(0, &["sealed", document_id]).is_multiple_of(SEALED_SHARE)
}

fn read_items(path: &Path) -> anyhow::Result<Vec<SuiteItem>> {
    let questions = standalone::read_questions(path)
        .with_context(|| format!("cannot use the suite {}", path.display()))?;
    let item = |question: Question| SuiteItem {
        question_id: question.id,
        question: question.question,
        answers: question.answers,
        source_document: question.source_document,
    };
    Ok(questions.into_iter().map(item).collect())
}

/// A suite's items as questions.
pub fn questions(suite: &Suite) -> Vec<Question> {
    let question = |item: &SuiteItem| Question {
        id: item.question_id.clone(),
        question: item.question.clone(),
        answers: item.answers.clone(),
        source_document: item.source_document.clone(),
    };
    suite.items.iter().map(question).collect()
}
