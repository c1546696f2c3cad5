//! Finding tasks by their words.
//!
//! Ranking reads every task that has the words, and a word like "what" stands in half of them. So
//! how a query is run follows from how many tasks its rarest word stands in.

use std::collections::BTreeSet;

use rusqlite::OptionalExtension;
use rusqlite::Transaction;
use rusqlite::params;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::task;
use super::task::StoredTask;

/// Words that stand in more tasks than this are not ranked by: some tens of milliseconds.
const COMMON: i64 = 20_000;
/// Words of a query that are looked at.
const WORDS: usize = 32;

/// The words of a text, as the index has them but for accents and case.
fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// The words that are looked for.
fn words(text: &str) -> Vec<&str> {
    words_of(text).take(WORDS).collect()
}

/// A query for all of these words.
fn all_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(" AND ")
}

/// How to find the tasks that have some words.
pub(super) enum Query {
    /// There is no word to look for.
    Empty,
    /// Few have them: find those first.
    Rare(String),
    /// Many have them: go through the tasks in the order that is wanted.
    Common(String),
}

/// How many tasks a query finds, as far as it matters.
fn count(tx: &Transaction<'_>, query: &str) -> Result<i64, Failure> {
    let sql = "SELECT count(*) FROM (SELECT 1 FROM task_words WHERE task_words MATCH ?1 LIMIT ?2)";
    Ok(tx.prepare_cached(sql)?.query_row(params![query, COMMON + 1], |row| row.get(0))?)
}

/// How to find the tasks that have all words of `text`.
pub(super) fn query(tx: &Transaction<'_>, text: &str) -> Result<Query, Failure> {
    let words = words(text);
    if words.is_empty() {
        return Ok(Query::Empty);
    }
    let all = all_of(&words);
    Ok(if count(tx, &all)? <= COMMON { Query::Rare(all) } else { Query::Common(all) })
}

/// Whether a text has all of these words, as the index would find: for walks through tasks in an
/// order that the index does not have.
pub(super) fn has_all(text: &str, words: &BTreeSet<String>) -> bool {
    let found = folded(text);
    words.iter().all(|word| found.contains(word))
}

/// The words of a text without case and accents.
pub(super) fn folded(text: &str) -> BTreeSet<String> {
    let plain: String = text.nfd().filter(|c| !is_combining_mark(*c)).collect();
    words_of(&plain.to_lowercase()).map(String::from).collect()
}

impl ArchiveReader {
    /// Up to `limit` tasks with the words of `text` in question or answer, the best match first
    /// (BM25). Words that stand in very many tasks choose only where the text has no others; then
    /// the latest tasks come first.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn search_tasks(&self, text: &str, limit: u32) -> Result<Vec<StoredTask>, ArchiveError> {
        self.read(|tx| {
            let (mut rare, words) = (Vec::new(), words(text));
            for word in &words {
                if count(tx, &all_of(&[word]))? <= COMMON {
                    rare.push(*word);
                }
            }
            let (query, order) = match (rare.is_empty(), words.is_empty()) {
                (_, true) => return Ok(Vec::new()),
                (true, _) => (all_of(&words), "rowid DESC"),
                (false, _) => (all_of(&rare), "rank"),
            };
            let found = format!(
                "SELECT rowid FROM task_words WHERE task_words MATCH ?1 ORDER BY {order} LIMIT ?2"
            );
            let numbers: Vec<i64> = tx
                .prepare_cached(&found)?
                .query_map(params![query, limit], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let mut one = tx.prepare_cached(&task::select("", "WHERE t.number = ?1"))?;
            let mut tasks = Vec::with_capacity(numbers.len());
            for number in numbers {
                tasks.extend(one.query_row([number], |row| task::task_of(tx, row)).optional()?);
            }
            Ok(tasks)
        })
    }
}
