//! Lists of tasks: filters, orders, pages.
//!
//! Every filter and every order has its index (`migrations/0004_lineage_and_lists.sql`), so that a
//! page costs what it shows and not what the archive holds.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params_from_iter;
use rusqlite::types::Value;
use serde::Serialize;

use super::ArchiveReader;
use super::compare::TRAINED_ON;
use super::error::ArchiveError;
use super::error::Failure;
use super::task;
use super::task::Band;
use super::task::StoredTask;
use super::task::TaskState;
use super::value;
use super::words;
use super::words::Query;
use crate::task::AnswerKind;
use crate::task::Origin;
use crate::task::Rejection;
use crate::task::Split;

/// The order of a list of tasks. Every order is total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TaskOrder {
    /// By id: arbitrary, but the same in every archive with the same tasks.
    #[default]
    Id,
    /// The latest first.
    Newest,
    /// The earliest first.
    Oldest,
    /// Those with the largest share of failed attempts first, of equal ones the latest; untried
    /// tasks last.
    Hardest,
}

/// Which tasks to list; the default is all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskFilter {
    /// Only those of this hand.
    pub origin: Option<Origin>,
    /// Only those on this side of the split.
    pub split: Option<Split>,
    /// Only those accepted in this night.
    pub night: Option<u32>,
    /// Only those accepted in nights that began at this time or later, or by hand since.
    pub since: Option<Timestamp>,
    /// Only those in this state.
    pub state: Option<TaskState>,
    /// Only those whose answer is of this sort.
    pub kind: Option<AnswerKind>,
    /// Only those that combine so many passages.
    pub hops: Option<u32>,
    /// Only those that play has shown to be so hard.
    pub band: Option<Band>,
    /// Only those whose first passage stands in this document.
    pub document: Option<String>,
    /// Only those whose first passage stands in a document of this title.
    pub topic: Option<String>,
    /// Only those that this model version wrote.
    pub proposed_by: Option<String>,
    /// Only those whose latest rollout is this model version's.
    pub played_by: Option<String>,
    /// Only those that this model version, or one that it came from, was trained on.
    pub trained_into: Option<String>,
    /// Only those with all these words in question or answer.
    pub text: Option<String>,
    /// At most so many.
    pub limit: Option<u32>,
    /// In this order.
    pub order: TaskOrder,
    /// Only those after this place in the order.
    pub after: Option<Cursor>,
}

/// A place in a list, to go on from. It stays valid while tasks are added.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cursor {
    number: i64,
    difficulty: f64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{:x}", self.number, self.difficulty.to_bits())
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no cursor; take `next` of the page before");
        let (number, bits) = text.split_once(':').ok_or_else(wrong)?;
        let bits = u64::from_str_radix(bits, 16).map_err(|_| wrong())?;
        let number = number.parse().map_err(|_| wrong())?;
        Ok(Self { number, difficulty: f64::from_bits(bits) })
    }
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The tasks.
    pub tasks: Vec<StoredTask>,
    /// Where the next page begins; none when this is the last.
    pub next: Option<Cursor>,
}

/// A draft that the gate turned away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedDraft {
    /// Its id.
    pub id: String,
    /// Who wrote it.
    pub origin: Origin,
    /// When.
    pub night: Option<u32>,
    /// The version that wrote it.
    pub proposed_by: String,
    /// The first required check that turned it away said so.
    pub rejection: Rejection,
    /// The answer that it was to ask for.
    pub answer: String,
    /// The question, if there was one.
    pub question: Option<String>,
}

/// A query in the making: conditions, all of which must hold, and their arguments.
#[derive(Default)]
struct Conditions {
    all: Vec<String>,
    arguments: Vec<Value>,
}

impl Conditions {
    /// Adds a condition with `?` for its argument.
    fn add(&mut self, condition: &str, argument: impl Into<Value>) {
        self.all.push(condition.to_string());
        self.arguments.push(argument.into());
    }

    /// Adds one if there is an argument.
    fn add_some<T: Into<Value>>(&mut self, condition: &str, argument: Option<T>) {
        if let Some(argument) = argument {
            self.add(condition, argument);
        }
    }

    fn sql(&self) -> String {
        match self.all.as_slice() {
            [] => String::new(),
            all => format!("WHERE {}", all.join(" AND ")),
        }
    }
}

/// More than a difficulty is off by rounding.
const ROUNDING: f64 = 1e-9;

/// How a list is made.
struct Plan {
    /// The table to begin with, if any.
    first: &'static str,
    order: &'static str,
    /// Whether words are looked for task by task.
    by_walking: bool,
}

impl TaskFilter {
    fn conditions(&self, tx: &Transaction<'_>) -> Result<Conditions, Failure> {
        let mut conditions = Conditions::default();
        let name = |name: &str| name.to_string();
        // Half of all tasks are of one origin or state. A page in the order of ids goes by these,
        // and the plus keeps the indexes of the others out: sorted again for each page, a list
        // would cost the square of its length.
        let by = |column| match self.order {
            TaskOrder::Id => format!("+{column} = ?"),
            _ => format!("{column} = ?"),
        };
        conditions.add_some(&by("t.origin"), self.origin.map(|it| name(it.as_str())));
        conditions.add_some("t.split = ?", self.split.map(|it| name(it.as_str())));
        conditions.add_some("t.night = ?", self.night);
        conditions.add_some(&by("t.state"), self.state.map(|it| name(it.as_str())));
        conditions.add_some("t.kind = ?", self.kind.map(|it| name(it.as_str())));
        conditions.add_some(&by("t.hops"), self.hops);
        if let Some(band) = self.band {
            self.add_band(&mut conditions, band);
        }
        conditions.add_some("t.document_id = ?", self.document.clone());
        let topic = "t.document_id IN (SELECT id FROM document WHERE title = ?)";
        conditions.add_some(topic, self.topic.clone());
        conditions.add_some("t.proposed_by = ?", self.proposed_by.clone());
        conditions.add_some("t.played_by = ?", self.played_by.clone());
        let trained = format!("t.id IN ({TRAINED_ON})");
        conditions.add_some(&trained, self.trained_into.clone());
        if let Some(since) = self.since {
            conditions.add("t.number >= ?", first_since(tx, since)?);
        }
        match (self.after, self.order) {
            (None, _) => {}
            (Some(after), TaskOrder::Newest) => conditions.add("t.number < ?", after.number),
            (Some(after), TaskOrder::Oldest) => conditions.add("t.number > ?", after.number),
            (Some(after), TaskOrder::Hardest) => {
                conditions.add("(t.difficulty, t.number) < (?, ?)", after.difficulty);
                conditions.arguments.push(after.number.into());
            }
            (Some(after), TaskOrder::Id) => {
                conditions.add("t.id > (SELECT id FROM task WHERE number = ?)", after.number);
            }
        }
        Ok(conditions)
    }

    fn add_band(&self, conditions: &mut Conditions, band: Band) {
        if self.order != TaskOrder::Hardest {
            return conditions.add("t.band = ?", band.as_str().to_string());
        }
        // A stretch of the index of difficulty. The plus keeps that of bands out: it has another
        // order.
        let (low, high) = band.difficulty();
        conditions.add("t.difficulty >= ?", low - ROUNDING);
        conditions.add("t.difficulty <= ?", high + ROUNDING);
        conditions.add("+t.band = ?", band.as_str().to_string());
    }

    /// How the list is made; adds the condition on words. None where no task can have them.
    fn plan(
        &self,
        tx: &Transaction<'_>,
        conditions: &mut Conditions,
    ) -> Result<Option<Plan>, Failure> {
        let order = match self.order {
            TaskOrder::Id => "t.id",
            TaskOrder::Newest => "t.number DESC",
            TaskOrder::Oldest => "t.number",
            TaskOrder::Hardest => "t.difficulty DESC, t.number DESC",
        };
        let plan = Plan { first: "", order, by_walking: false };
        let Some(text) = &self.text else { return Ok(Some(plan)) };
        let by_number = match self.order {
            TaskOrder::Newest => Some("task_words.rowid DESC"),
            TaskOrder::Oldest => Some("task_words.rowid"),
            TaskOrder::Id | TaskOrder::Hardest => None,
        };
        Ok(match (words::query(tx, text)?, by_number) {
            (Query::Empty, _) => None,
            (Query::Rare(query), _) => {
                let found = "SELECT rowid FROM task_words WHERE task_words MATCH ?";
                conditions.add(&format!("t.number IN ({found})"), query);
                Some(plan)
            }
            // The index of words goes by number, too.
            (Query::Common(query), Some(order)) => {
                conditions.add("t.number = task_words.rowid AND task_words MATCH ?", query);
                if let Some(after) = self.after {
                    let sign = if self.order == TaskOrder::Newest { '<' } else { '>' };
                    conditions.add(&format!("task_words.rowid {sign} ?"), after.number);
                }
                Some(Plan { first: "task_words CROSS JOIN", order, ..plan })
            }
            // Most of the tasks that are gone through have them.
            (Query::Common(_), None) => Some(Plan { by_walking: true, ..plan }),
        })
    }
}

/// The number of the first draft that came in or after the first night that began at `since` or
/// later; one past all numbers where there is none.
fn first_since(tx: &Transaction<'_>, since: Timestamp) -> Result<i64, Failure> {
    // Times are stored in one form, in which their order is that of the text up to the fraction.
    let mut nights = tx.prepare_cached("SELECT number, started_at FROM night ORDER BY number")?;
    let mut rows = nights.query([])?;
    while let Some(row) = rows.next()? {
        if value::time(row, 1)? >= since {
            let night: u32 = row.get(0)?;
            let first = "SELECT min(number) FROM draft WHERE night >= ?1";
            let first: Option<i64> =
                tx.prepare_cached(first)?.query_row([night], |row| row.get(0))?;
            return Ok(first.unwrap_or(i64::MAX));
        }
    }
    Ok(i64::MAX)
}

fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    row.get(column)
}

impl ArchiveReader {
    /// The tasks that `filter` lets through.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn tasks(&self, filter: &TaskFilter) -> Result<Vec<StoredTask>, ArchiveError> {
        Ok(self.task_page(filter)?.tasks)
    }

    /// The tasks that `filter` lets through, and where to go on if its limit leaves some out.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn task_page(&self, filter: &TaskFilter) -> Result<Page, ArchiveError> {
        self.read(|tx| {
            let mut conditions = filter.conditions(tx)?;
            let Some(Plan { first, order, by_walking }) = filter.plan(tx, &mut conditions)? else {
                return Ok(Page { tasks: Vec::new(), next: None });
            };
            // One more than wanted says whether there are more.
            let wanted = filter.limit.map_or(usize::MAX, |limit| limit as usize);
            let mut rest = format!("{} ORDER BY {order}", conditions.sql());
            if !by_walking {
                rest += " LIMIT ?";
                conditions
                    .arguments
                    .push(i64::try_from(wanted.saturating_add(1)).unwrap_or(-1).into());
            }
            let mut statement = tx.prepare_cached(&task::select(first, &rest))?;
            let mut rows = statement.query(params_from_iter(&conditions.arguments))?;
            let words = filter.text.as_deref().map(words::folded).unwrap_or_default();
            let mut all: Vec<(StoredTask, Cursor)> = Vec::new();
            while all.len() <= wanted
                && let Some(row) = rows.next()?
            {
                if by_walking
                    && !words::has_all(&format!("{} {}", text(row, 2)?, text(row, 3)?), &words)
                {
                    continue;
                }
                let cursor = Cursor { number: row.get(16)?, difficulty: row.get(17)? };
                all.push((task::task_of(tx, row)?, cursor));
            }
            let more = all.len() > wanted;
            all.truncate(wanted);
            let next = all.last().map(|(_, cursor)| *cursor).filter(|_| more);
            Ok(Page { tasks: all.into_iter().map(|(task, _)| task).collect(), next })
        })
    }

    /// Drafts that the gate turned away, the latest first: for one reason or all, of one night or
    /// all.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn rejected_drafts(
        &self,
        rejection: Option<Rejection>,
        night: Option<u32>,
        limit: Option<u32>,
    ) -> Result<Vec<RejectedDraft>, ArchiveError> {
        let mut conditions = Conditions::default();
        match rejection {
            Some(rejection) => conditions.add("d.rejection = ?", rejection.as_str().to_string()),
            None => conditions.all.push("d.rejection IS NOT NULL".into()),
        }
        conditions.add_some("d.night = ?", night);
        conditions.arguments.push(limit.map_or(-1, i64::from).into());
        let sql = format!(
            "SELECT d.id, d.origin, d.night, d.model_version, d.rejection, s.answer, d.question
             FROM draft d JOIN seed s ON s.id = d.seed_id {} ORDER BY d.number DESC LIMIT ?",
            conditions.sql()
        );
        self.read(|tx| {
            let mut statement = tx.prepare_cached(&sql)?;
            let drafts = statement.query_map(params_from_iter(&conditions.arguments), |row| {
                Ok(RejectedDraft {
                    id: row.get(0)?,
                    origin: value::named(row, 1)?,
                    night: row.get(2)?,
                    proposed_by: row.get(3)?,
                    rejection: value::named(row, 4)?,
                    answer: row.get(5)?,
                    question: row.get(6)?,
                })
            })?;
            Ok(drafts.collect::<Result<_, _>>()?)
        })
    }
}
