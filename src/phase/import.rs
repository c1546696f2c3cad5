//! Taking in tasks that another home exported, and questions that a person wrote.
//!
//! An exported task went through a gate already and keeps what that said; only a question that the
//! archive has is turned away. Its passages come with it where the corpus lacks them. A person's
//! question is matched to a passage that holds its answer and goes through the gate: its rules, and
//! where that is asked for the model's checks.

mod judges;
mod passages;
pub(super) mod questions;

use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use self::judges::Judges;
use self::passages::Brought;
use self::questions::Matcher;
use crate::answer;
use crate::archive::Archive;
use crate::archive::GatedDraft;
use crate::archive::Imported;
use crate::archive::ImportedDraft;
use crate::archive::PlacedPassage;
use crate::archive::TaskState;
use crate::config::Settings;
use crate::durable;
use crate::export;
use crate::export::TaskRow;
use crate::export::VerdictRow;
use crate::phase::asked::Asked;
use crate::phase::asked::UnreadableRow;
use crate::phase::home::Home;
use crate::phase::ingest;
use crate::phase::known::ArchivedQuestions;
use crate::phase::open_model::ModelContext;
use crate::phase::propose::MODEL_UNIT;
use crate::progress::Progress;
use crate::task::Draft;
use crate::task::Passage;
use crate::task::Rejection;
use crate::task::Seed;
use crate::task::Split;
use crate::task::Task;
use crate::task::Verdict;
use crate::verifier::Candidate;
use crate::verifier::Passages;
use crate::verifier::RuleChecks;

/// The passage that a person's question rests on, with the answer that it holds.
type Evidence<'a> = Option<(&'a Passage, String)>;

/// Drafts stored at a time.
const CHUNK: usize = 256;

/// A row that the gate turned away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedRow {
    /// Name of the file.
    pub file: String,
    /// Its place there, from 1.
    pub row: u64,
    /// The id of the draft that it is stored as.
    pub id: String,
    /// Why.
    pub reason: Rejection,
    /// The question.
    pub question: Option<String>,
    /// The answer.
    pub answer: String,
}

/// What an import did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    /// Rows read: accepted, known, rejected and unreadable ones.
    pub rows: u64,
    /// Tasks added.
    pub accepted: u64,
    /// Rows whose task the archive had.
    pub known: u64,
    /// Rows that were turned away; they are stored as drafts with the reason.
    pub rejected: Vec<RejectedRow>,
    /// Rows that were left out.
    pub unreadable: Vec<UnreadableRow>,
    /// Documents that the corpus lacked.
    pub documents_added: u64,
    /// Passages that the corpus lacked.
    pub passages_added: u64,
}

/// A row of a file.
enum Row {
    Task(Box<TaskRow>),
    Question(Asked),
}

/// What is taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportSource {
    /// What it is called, and the documents that it brings are named after.
    pub name: String,
    /// Hash of its seal, where it is the folder of an export as that was written.
    pub export_hash: Option<String>,
    /// The files with the rows.
    pub files: Vec<PathBuf>,
}

impl ImportSource {
    /// A file, or the folder of an export.
    ///
    /// # Errors
    /// When it is not there, has another ending or cannot be opened.
    pub fn at(path: &Path) -> anyhow::Result<Self> {
        let files = export::files_of(path)?;
        for file in &files {
            drop(export::rows_of(file)?);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let export_hash = durable::open_sealed(path).ok().map(|sealed| sealed.content_hash());
        Ok(Self { name, export_hash, files })
    }
}

/// Takes the rows of `source` into the archive, whose home's lock is held. With a model a person's
/// questions go through the same gate as the drafts of a night; without, its rules alone decide.
/// The same rows again change nothing.
///
/// # Errors
/// When a file cannot be opened, archive or search index fail, the model cannot be loaded, or the
/// user asked to stop. What was stored until then stays; the same command goes on from there.
pub fn import(
    home: &Home,
    archive: &Archive,
    settings: &Settings,
    source: &ImportSource,
    with_model: Option<&ModelContext>,
) -> anyhow::Result<ImportReport> {
    let mut report = ImportReport::default();
    let mut brought = Brought::default();
    let (mut rows, mut asks) = (0, false);
    for_each_row(&source.files, |_, row| {
        rows += 1;
        match row {
            Ok(Row::Task(row)) => brought.note(archive, &row)?,
            Ok(Row::Question(_)) => asks = true,
            Err(_) => {}
        }
        Ok(())
    })?;
    // First: without its model nothing comes.
    let context = with_model.filter(|_| asks);
    let open = context.map(|context| judges::open(home, archive, settings, context)).transpose()?;
    let summary = brought.store(archive, &source.name)?;
    report.documents_added = summary.documents_added;
    report.passages_added = summary.passages_added + summary.passages_restored;
    let index = match asks || report.passages_added > 0 {
        true => Some(ingest::open_index(home, archive)?),
        false => None,
    };
    // Only a person's questions are matched to the corpus.
    let corpus = if asks { archive.passages()? } else { Vec::new() };
    let passages: Passages = corpus.iter().map(|p| (p.id.clone(), p.clone())).collect();
    let mut ids: Vec<String> = passages.keys().cloned().collect();
    ids.sort_unstable();
    let judges = match (&open, &index) {
        (Some(open), Some(index)) => Some(Judges::new(open, &passages, &ids, index)?),
        _ => None,
    };
    let known = ArchivedQuestions::of(archive);
    let matcher = index.as_ref().filter(|_| asks);
    let mut import = Import {
        archive,
        source,
        rules: RuleChecks::new(&settings.verify, &passages, &known),
        judges,
        matcher: matcher.map(|index| Matcher::new(archive, index, &corpus, &passages)),
        asked: HashSet::new(),
        waiting: Vec::new(),
        links: Vec::new(),
        progress: Progress::start("rows of the import", rows),
        report,
    };
    for_each_row(&source.files, |place, row| import.take(place, row))?;
    import.flush()?;
    archive.import_parents(&import.links)?;
    Ok(import.report)
}

/// Name of the file and number of the row.
type Place<'a> = (&'a str, u64);

fn for_each_row(
    files: &[PathBuf],
    mut take: impl FnMut(Place<'_>, Result<Row, String>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        for (number, row) in export::rows_of(file)?.enumerate() {
            let row = row.map_err(|error| format!("{error:#}")).and_then(row_of);
            take((&name, number as u64 + 1), row)?;
        }
    }
    Ok(())
}

/// What a row is. A task brings its passages, a question at most names one.
fn row_of(value: Value) -> Result<Row, String> {
    let brings = value["evidence"].as_array().is_some_and(|all| all.iter().any(Value::is_object));
    if !brings {
        return Asked::read(&value).map(Row::Question);
    }
    let row: TaskRow = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if row.id.trim().is_empty() || row.question.trim().is_empty() || row.answer.trim().is_empty() {
        return Err("a task without id, question or answer".to_string());
    }
    if row.verdicts.iter().any(|verdict| verdict.required && verdict.rejection.is_some()) {
        return Err("a task that a required check of its gate turned away".to_string());
    }
    Ok(Row::Task(Box::new(row)))
}

/// What is known of a candidate on its way into the archive.
struct Waiting {
    file: String,
    row: u64,
    /// Whether it is a question of a person, and not the task of an export.
    of_person: bool,
    /// The side that it stood on.
    split: Split,
    /// The state that it was in, with the reason.
    state: Option<(TaskState, String)>,
    /// What it was in the archive that it comes from.
    imported: Option<Imported>,
}

struct Import<'a> {
    archive: &'a Archive,
    source: &'a ImportSource,
    rules: RuleChecks<'a>,
    /// None where the rules alone decide.
    judges: Option<Judges<'a>>,
    matcher: Option<Matcher<'a>>,
    /// Questions of tasks taken so far.
    asked: HashSet<String>,
    /// Candidates of one sort: questions, or tasks.
    waiting: Vec<(Candidate, Waiting)>,
    /// Tasks with their parents.
    links: Vec<(String, u32, String)>,
    progress: Progress,
    report: ImportReport,
}

impl Import<'_> {
    fn take(&mut self, place: Place<'_>, row: Result<Row, String>) -> anyhow::Result<()> {
        self.report.rows += 1;
        let of_person = matches!(row, Ok(Row::Question(_)));
        if self.waiting.last().is_some_and(|(_, last)| last.of_person != of_person) {
            // So that the questions of one sort are known when those of the other come.
            self.flush()?;
        }
        let mut waiting = Waiting {
            file: place.0.to_string(),
            row: place.1,
            of_person,
            split: Split::Train,
            state: None,
            imported: None,
        };
        let found = match row {
            Err(why) => {
                self.leave_out(place, why);
                return Ok(());
            }
            Ok(Row::Task(row)) => {
                let path: Vec<String> = row.evidence.iter().map(passages::id_of).collect();
                if !self.archive.lacking_passages(&path)?.is_empty() {
                    // Its words are not to come back, in a draft neither.
                    self.leave_out(place, "a person took its document out".to_string());
                    return Ok(());
                }
                let links = row.parents.iter().zip(0..);
                self.links.extend(links.map(|(parent, at)| (row.id.clone(), at, parent.clone())));
                waiting.split = row.split;
                waiting.state = row.state_reason.clone().map(|reason| (row.state, reason));
                waiting.imported = Some(imported(self.source, &row));
                self.exported(*row, path)?
            }
            Ok(Row::Question(asked)) => self.question(asked)?,
        };
        match found {
            Found::Known(id) => self.again(place, &id)?,
            Found::New(candidate) => self.waiting.push((*candidate, waiting)),
        }
        let by_model = of_person && self.judges.is_some();
        let full = if by_model { MODEL_UNIT } else { CHUNK };
        if self.waiting.len() >= full { self.flush() } else { Ok(()) }
    }

    fn leave_out(&mut self, place: Place<'_>, why: String) {
        let (file, row) = (place.0.to_string(), place.1);
        self.report.unreadable.push(UnreadableRow { file, row, why });
        self.progress.advance(1);
    }

    /// Takes those that wait through the rest of the gate and stores them.
    fn flush(&mut self) -> anyhow::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let (mut candidates, rows): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let of_person = rows.last().is_some_and(|last: &Waiting| last.of_person);
        if let Some(judges) = self.judges.as_ref().filter(|_| of_person) {
            judges.check(&mut candidates)?;
        }
        let mut drafts = Vec::with_capacity(rows.len());
        for (candidate, waiting) in candidates.into_iter().zip(rows) {
            let gated = self.gated(candidate, waiting.split)?;
            self.report.accepted += u64::from(gated.task.is_some());
            self.reject((&waiting.file, waiting.row), &gated.draft, &gated.verdicts);
            let Waiting { state, imported, .. } = waiting;
            drafts.push(ImportedDraft { gated, state, imported });
        }
        self.archive.import_drafts(&drafts)?;
        self.progress.advance(drafts.len() as u64);
        Ok(())
    }

    /// Says of a draft that the archive has what it said when it came.
    fn again(&mut self, place: Place<'_>, id: &str) -> anyhow::Result<()> {
        // It may be among those that wait.
        self.flush()?;
        let (draft, verdicts) = self.archive.draft(id)?;
        if !self.reject(place, &draft, &verdicts) {
            self.report.known += 1;
        }
        self.progress.advance(1);
        Ok(())
    }

    /// Notes a draft as rejected, if it was.
    fn reject(&mut self, place: Place<'_>, draft: &Draft, verdicts: &[Verdict]) -> bool {
        let reason = verdicts.iter().filter(|verdict| verdict.required).find_map(|v| v.rejection);
        self.report.rejected.extend(reason.map(|reason| RejectedRow {
            file: place.0.to_string(),
            row: place.1,
            id: draft.id.clone(),
            reason,
            question: draft.question.clone(),
            answer: draft.seed.answer.clone(),
        }));
        reason.is_some()
    }

    fn is_known(&self, id: &str) -> anyhow::Result<bool> {
        let waits = self.waiting.iter().any(|(candidate, _)| candidate.draft.id == id);
        Ok(waits || self.archive.has_draft(id)?)
    }

    /// A task that another archive accepted.
    fn exported(&mut self, row: TaskRow, path: Vec<String>) -> anyhow::Result<Found> {
        if self.is_known(&row.id)? {
            return Ok(Found::Known(row.id));
        }
        let draft = Draft {
            id: row.id,
            origin: row.origin,
            seed: Seed { answer: row.answer, kind: row.kind, path },
            question: Some(row.question),
            transcript: row.transcript,
            model_version: row.proposed_by,
        };
        let mut verdicts: Vec<Verdict> = row.verdicts.into_iter().map(verdict_of).collect();
        let question = draft.question.clone().unwrap_or_default();
        let new = self.asked.insert(answer::normalise(&question));
        if !new || self.archive.has_question(&question)? {
            verdicts.push(Verdict {
                check: "duplicate".to_string(),
                rejection: Some(Rejection::Duplicate),
                required: true,
                evidence: json!({ "of": if new { "the archive" } else { "this import" } }),
            });
        }
        Ok(Found::New(Box::new(Candidate { verdicts, ..Candidate::new(draft) })))
    }

    /// A question of a person, behind the rules of the gate.
    fn question(&mut self, asked: Asked) -> anyhow::Result<Found> {
        let draft = match &mut self.matcher {
            Some(matcher) => matcher.draft(asked)?,
            None => asked.draft(None),
        };
        if self.is_known(&draft.id)? {
            return Ok(Found::Known(draft.id));
        }
        let mut candidate = Candidate { model_decides: true, ..Candidate::new(draft) };
        self.rules.run(&mut candidate);
        Ok(Found::New(Box::new(candidate)))
    }

    /// A draft with its task, if it stands; on the held-out side if it was there, or its evidence
    /// is here.
    fn gated(&self, candidate: Candidate, split: Split) -> anyhow::Result<GatedDraft> {
        let accepted = candidate.stands();
        let Candidate { draft, verdicts, .. } = candidate;
        let placed = self.archive.placed_passages(&draft.seed.path)?;
        let heldout = split == Split::Heldout || placed.iter().any(stands_in_heldout);
        let task = draft.question.clone().filter(|_| accepted).map(|question| Task {
            id: draft.id.clone(),
            origin: draft.origin,
            question,
            answer: draft.seed.answer.clone(),
            kind: draft.seed.kind,
            evidence: draft.seed.path.clone(),
            split: if heldout { Split::Heldout } else { Split::Train },
            night: None,
        });
        Ok(GatedDraft { draft, verdicts, task, parents: Vec::new() })
    }
}

/// What the archive has of a row.
enum Found {
    /// A draft of this id.
    Known(String),
    New(Box<Candidate>),
}

/// What a task was in the archive that its row comes from.
fn imported(source: &ImportSource, row: &TaskRow) -> Imported {
    Imported {
        source: source.name.clone(),
        export_hash: source.export_hash.clone(),
        night: row.night,
        played_by: row.played_by.clone(),
        attempts: row.attempts,
        solved: row.solved,
        plays: row.plays.clone(),
        parents: row.parents.clone(),
        sources: row.evidence.iter().map(|evidence| evidence.source.clone()).collect(),
    }
}

fn stands_in_heldout(placed: &PlacedPassage) -> bool {
    placed.documents.iter().any(|document| document.split == Split::Heldout)
}

fn verdict_of(row: VerdictRow) -> Verdict {
    // Text that is no JSON is kept as text.
    let evidence = serde_json::from_str(&row.evidence).unwrap_or(Value::String(row.evidence));
    Verdict { check: row.check, rejection: row.rejection, required: row.required, evidence }
}
