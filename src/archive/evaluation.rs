//! Frozen suites of held-out questions, and how model versions did on them.

use jiff::Timestamp;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use super::Archive;
use super::ArchiveReader;
use super::draft::question_hash;
use super::error::ArchiveError;
use super::error::Failure;
use super::night::Unit;
use super::value;
use crate::rng::content_id;

/// Who wrote the questions of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuiteOrigin {
    /// People.
    Human,
    /// The game, from held-out documents; a report says so.
    Model,
}

impl SuiteOrigin {
    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Model => "model",
        }
    }
}

/// A question of a suite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuiteItem {
    /// Id within the suite.
    pub question_id: String,
    /// The question.
    pub question: String,
    /// Answers that count as right; at least one.
    pub answers: Vec<String>,
    /// The document it came from: what an interval is resampled by.
    pub source_document: String,
}

/// Held-out questions that never change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Suite {
    /// Hash of name, origin and questions.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Who wrote the questions.
    pub origin: SuiteOrigin,
    /// The questions, in order.
    pub items: Vec<SuiteItem>,
}

/// A suite in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SuiteSummary {
    /// Hash of name, origin and questions.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Who wrote the questions.
    pub origin: SuiteOrigin,
    /// How many.
    pub questions: u64,
    /// Finished measurements of model versions on it.
    pub evaluations: u64,
    /// Since when it is the same.
    pub frozen_at: Timestamp,
}

/// What tells one evaluation from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EvaluationName {
    /// Stable id, the same after a restart.
    pub id: String,
    /// Id of the suite.
    pub suite_id: String,
    /// The version evaluated.
    pub model_version: String,
    /// Name of the prompt.
    pub prompt: String,
}

/// How one question was answered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvaluationItem {
    /// Id within the suite.
    pub question_id: String,
    /// The answer read from the text; `None` when there was none.
    pub answer: Option<String>,
    /// Exact match after SQuAD normalisation, 0 or 1.
    pub exact_match: f64,
    /// Token F1 after SQuAD normalisation, in [0, 1].
    pub f1: f64,
    /// Whether a retrieved passage contains a right answer.
    pub answer_in_retrieved: bool,
    /// Tokens the model wrote.
    pub tokens: u64,
}

/// An evaluation, finished or under way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// What was evaluated.
    #[serde(flatten)]
    pub name: EvaluationName,
    /// The night it belongs to.
    pub night: u32,
    /// Means with intervals; none until all questions are answered.
    pub metrics: Option<Value>,
    /// When the metrics were stored.
    pub finished_at: Option<Timestamp>,
}

impl Suite {
    /// A suite of these questions, its id computed.
    pub fn new(name: &str, origin: SuiteOrigin, items: Vec<SuiteItem>) -> Self {
        let mut parts = vec!["suite".to_string(), name.to_string(), origin.as_str().to_string()];
        for item in &items {
            parts.extend(
                [&item.question_id, &item.question, &item.source_document].map(Clone::clone),
            );
            parts.push(value::json_list(&item.answers));
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Self { id: content_id(&parts), name: name.to_string(), origin, items }
    }
}

const EVALUATION: &str = "SELECT id, suite_id, model_version, prompt, night, metrics_json,
    finished_at FROM evaluation";

fn evaluation_of(row: &Row<'_>) -> rusqlite::Result<Evaluation> {
    Ok(Evaluation {
        name: EvaluationName {
            id: row.get(0)?,
            suite_id: row.get(1)?,
            model_version: row.get(2)?,
            prompt: row.get(3)?,
        },
        night: row.get(4)?,
        metrics: value::json_or_none(row, 5)?,
        finished_at: value::time_or_none(row, 6)?,
    })
}

fn find_suite(tx: &Transaction<'_>, name: &str) -> Result<Option<Suite>, Failure> {
    let found: Option<(String, SuiteOrigin)> = tx
        .prepare("SELECT id, origin FROM suite WHERE name = ?1")?
        .query_row([name], |row| Ok((row.get(0)?, value::named(row, 1)?)))
        .optional()?;
    let Some((id, origin)) = found else { return Ok(None) };
    let mut statement = tx.prepare(
        "SELECT question_id, question, answers_json, source_document FROM suite_item
         WHERE suite_id = ?1 ORDER BY ordinal",
    )?;
    let items = statement.query_map([&id], |row| {
        Ok(SuiteItem {
            question_id: row.get(0)?,
            question: row.get(1)?,
            answers: value::json(row, 2)?,
            source_document: row.get(3)?,
        })
    })?;
    let items = items.collect::<Result<_, _>>()?;
    Ok(Some(Suite { id, name: name.to_string(), origin, items }))
}

fn find_evaluation(tx: &Transaction<'_>, id: &str) -> Result<Option<Evaluation>, Failure> {
    let mut statement = tx.prepare_cached(&format!("{EVALUATION} WHERE id = ?1"))?;
    Ok(statement.query_row([id], evaluation_of).optional()?)
}

impl ArchiveReader {
    /// The suite of that name, if one is frozen.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn suite(&self, name: &str) -> Result<Option<Suite>, ArchiveError> {
        self.read(|tx| find_suite(tx, name))
    }

    /// All suites, in order of name.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn suites(&self) -> Result<Vec<SuiteSummary>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT id, name, origin,
                     (SELECT count(*) FROM suite_item i WHERE i.suite_id = s.id),
                     (SELECT count(*) FROM evaluation e
                      WHERE e.suite_id = s.id AND e.metrics_json IS NOT NULL),
                     frozen_at
                 FROM suite s ORDER BY name",
            )?;
            let suites = statement.query_map([], |row| {
                Ok(SuiteSummary {
                    id: row.get(0)?,
                    name: row.get(1)?,
                    origin: value::named(row, 2)?,
                    questions: row.get::<_, i64>(3)?.cast_unsigned(),
                    evaluations: row.get::<_, i64>(4)?.cast_unsigned(),
                    frozen_at: value::time(row, 5)?,
                })
            })?;
            Ok(suites.collect::<Result<_, _>>()?)
        })
    }

    /// The suite of that name.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] when none is frozen.
    pub fn suite_named(&self, name: &str) -> Result<Suite, ArchiveError> {
        self.read(|tx| find_suite(tx, name)?.ok_or_else(|| Failure::not_found("suite", name)))
    }

    /// The evaluation of that id, if its first answers are stored.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn evaluation(&self, id: &str) -> Result<Option<Evaluation>, ArchiveError> {
        self.read(|tx| find_evaluation(tx, id))
    }

    /// All evaluations of a night, in order of id.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn evaluations(&self, night: u32) -> Result<Vec<Evaluation>, ArchiveError> {
        self.read(|tx| {
            let mut statement =
                tx.prepare(&format!("{EVALUATION} WHERE night = ?1 ORDER BY id"))?;
            Ok(statement.query_map([night], evaluation_of)?.collect::<Result<_, _>>()?)
        })
    }

    /// The answers of an evaluation stored so far, in the order of the suite.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn evaluation_items(&self, id: &str) -> Result<Vec<EvaluationItem>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT i.question_id, i.answer, i.exact_match, i.f1, i.answer_in_retrieved,
                        i.tokens
                 FROM evaluation_item i
                 JOIN evaluation e ON e.id = i.evaluation_id
                 JOIN suite_item s ON s.suite_id = e.suite_id AND s.question_id = i.question_id
                 WHERE i.evaluation_id = ?1 ORDER BY s.ordinal",
            )?;
            let items = statement.query_map([id], |row| {
                Ok(EvaluationItem {
                    question_id: row.get(0)?,
                    answer: row.get(1)?,
                    exact_match: row.get(2)?,
                    f1: row.get(3)?,
                    answer_in_retrieved: row.get(4)?,
                    tokens: row.get::<_, i64>(5)?.cast_unsigned(),
                })
            })?;
            Ok(items.collect::<Result<_, _>>()?)
        })
    }
}

impl Archive {
    /// Freezes a suite. The same again changes nothing and returns false.
    ///
    /// # Errors
    /// [`ArchiveError::Frozen`] when the name belongs to other questions;
    /// [`ArchiveError::Inconsistent`] when it has no questions, or one without an answer.
    pub fn freeze_suite(&self, suite: &Suite) -> Result<bool, ArchiveError> {
        let now = self.now();
        self.write(|tx| {
            if let Some(known) = find_suite(tx, &suite.name)? {
                if known == *suite {
                    return Ok(false);
                }
                return Err(ArchiveError::Frozen { kind: "suite", id: suite.name.clone() }.into());
            }
            if suite.items.is_empty() {
                return Err(Failure::inconsistent(format!(
                    "suite {} without questions",
                    suite.name
                )));
            }
            tx.execute(
                "INSERT INTO suite (id, name, origin, frozen_at) VALUES (?1, ?2, ?3, ?4)",
                params![suite.id, suite.name, suite.origin.as_str(), now],
            )?;
            let mut statement = tx.prepare(
                "INSERT INTO suite_item
                     (suite_id, ordinal, question_id, question, answers_json, source_document,
                      question_hash)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?;
            for (ordinal, item) in suite.items.iter().enumerate() {
                if item.answers.is_empty() {
                    let what = format!("question {} without an answer", item.question_id);
                    return Err(Failure::inconsistent(what));
                }
                statement.execute(params![
                    suite.id,
                    ordinal as i64,
                    item.question_id,
                    item.question,
                    value::json_list(&item.answers),
                    item.source_document,
                    question_hash(&item.question),
                ])?;
            }
            Ok(true)
        })
    }

    /// Stores answers of an evaluation, which the first of them begins. Returns false, and changes
    /// nothing, when the unit is already there.
    ///
    /// # Errors
    /// [`ArchiveError::Frozen`] when the id belongs to an evaluation of something else;
    /// [`ArchiveError::Inconsistent`] when suite, question or model version is unknown.
    pub fn record_evaluation_items(
        &self,
        unit: &Unit<'_>,
        name: &EvaluationName,
        items: &[EvaluationItem],
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            begin_evaluation(tx, unit.night, name)?;
            for item in items {
                put_item(tx, name, item)?;
            }
            Ok(())
        })
    }

    /// Ends an evaluation with its metrics. Returns false, and changes nothing, when the unit is
    /// already there.
    ///
    /// # Errors
    /// [`ArchiveError::Frozen`] when the id belongs to an evaluation of something else;
    /// [`ArchiveError::Inconsistent`] when a question of the suite has no answer yet.
    pub fn record_evaluation(
        &self,
        unit: &Unit<'_>,
        name: &EvaluationName,
        metrics: &Value,
    ) -> Result<bool, ArchiveError> {
        let now = self.now();
        self.write_unit(unit, |tx| {
            begin_evaluation(tx, unit.night, name)?;
            let open: i64 = tx.query_row(
                "SELECT count(*) FROM suite_item s WHERE s.suite_id = ?1 AND NOT EXISTS
                     (SELECT 1 FROM evaluation_item i
                      WHERE i.evaluation_id = ?2 AND i.question_id = s.question_id)",
                params![name.suite_id, name.id],
                |row| row.get(0),
            )?;
            if open > 0 {
                return Err(Failure::inconsistent(format!(
                    "metrics of evaluation {}: {open} questions are not answered",
                    name.id
                )));
            }
            tx.execute(
                "UPDATE evaluation SET metrics_json = ?2, finished_at = ?3 WHERE id = ?1",
                params![name.id, metrics.to_string(), now],
            )?;
            Ok(())
        })
    }
}

fn begin_evaluation(
    tx: &Transaction<'_>,
    night: u32,
    name: &EvaluationName,
) -> Result<(), Failure> {
    match find_evaluation(tx, &name.id)? {
        Some(known) if known.name == *name && known.night == night => return Ok(()),
        Some(_) => {
            return Err(ArchiveError::Frozen { kind: "evaluation", id: name.id.clone() }.into());
        }
        None => {}
    }
    tx.execute(
        "INSERT INTO evaluation (id, night, suite_id, model_version, prompt)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![name.id, night, name.suite_id, name.model_version, name.prompt],
    )?;
    Ok(())
}

fn put_item(
    tx: &Transaction<'_>,
    name: &EvaluationName,
    item: &EvaluationItem,
) -> Result<(), Failure> {
    let known = "SELECT 1 FROM suite_item WHERE suite_id = ?1 AND question_id = ?2";
    if !tx.prepare_cached(known)?.exists(params![name.suite_id, item.question_id])? {
        return Err(Failure::inconsistent(format!(
            "an answer to {}, which suite {} does not ask",
            item.question_id, name.suite_id
        )));
    }
    tx.prepare_cached(
        "INSERT INTO evaluation_item
             (evaluation_id, question_id, answer, exact_match, f1, answer_in_retrieved, tokens)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        name.id,
        item.question_id,
        item.answer,
        item.exact_match,
        item.f1,
        item.answer_in_retrieved,
        item.tokens.cast_signed(),
    ])?;
    Ok(())
}
