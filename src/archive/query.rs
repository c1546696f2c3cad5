//! A person's own queries, read-only and bounded.

use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use serde::Serialize;
use serde_json::Value;

use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;

/// Longest statement, in bytes.
const STATEMENT_BYTES: i32 = 64 << 10;

/// What bounds a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryLimits {
    /// Rows at most; the rest is left out.
    pub rows: usize,
    /// Longest time. A reader that takes longer keeps the writer's log from being cut.
    pub time: Duration,
}

/// What a query found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QueryResult {
    /// The columns' names.
    pub columns: Vec<String>,
    /// The rows; blobs are in hexadecimal.
    pub rows: Vec<Vec<Value>>,
    /// Whether there were more.
    pub truncated: bool,
}

impl ArchiveReader {
    /// What one statement that only reads finds.
    ///
    /// # Errors
    /// [`ArchiveError::Query`] with SQLite's reason when it is no such statement, or takes too
    /// long.
    pub fn query(&self, sql: &str, limits: QueryLimits) -> Result<QueryResult, ArchiveError> {
        let refused = |why: String| Failure::Named(ArchiveError::Query { why });
        let outcome = || -> Result<QueryResult, Failure> {
            // Other files stay out of reach.
            self.connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
            self.connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, STATEMENT_BYTES)?;
            let mut statement =
                self.connection.prepare(sql).map_err(|error| refused(reason(&error)))?;
            if !statement.readonly() || statement.column_count() == 0 {
                return Err(refused("it must be a statement that only reads".into()));
            }
            if statement.parameter_count() > 0 {
                return Err(refused("it must not have parameters".into()));
            }
            let columns: Vec<String> =
                statement.column_names().into_iter().map(String::from).collect();
            let width = columns.len();
            let mut result = QueryResult { columns, rows: Vec::new(), truncated: false };
            let mut rows = statement.raw_query();
            loop {
                let row = rows.next().map_err(|error| refused(self.why(&error, limits)))?;
                let Some(row) = row else { break };
                if result.rows.len() == limits.rows {
                    result.truncated = true;
                    break;
                }
                let cells = (0..width).map(|column| Ok(shown(row.get_ref(column)?)));
                result.rows.push(cells.collect::<rusqlite::Result<_>>()?);
            }
            Ok(result)
        };
        self.within(limits.time, outcome).map_err(|failure| failure.at(self.path()))
    }

    /// Runs `work`, whose statements are interrupted after `time`.
    fn within<T>(&self, time: Duration, work: impl FnOnce() -> T) -> T {
        let handle = self.connection.get_interrupt_handle();
        let (done, waiting) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if waiting.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                    handle.interrupt();
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    fn why(&self, error: &rusqlite::Error, limits: QueryLimits) -> String {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::OperationInterrupted) => format!(
                "it took longer than {} s; give it a narrower condition, or --seconds",
                limits.time.as_secs_f64()
            ),
            _ => reason(error),
        }
    }

    /// The statements that make the archive's tables, indexes and views, in the order of their
    /// names.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn schema(&self) -> Result<Vec<SchemaObject>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT s.type, s.name, s.tbl_name, s.sql FROM sqlite_schema s
                 JOIN pragma_table_list l ON l.schema = 'main' AND l.name = s.tbl_name
                 WHERE s.sql IS NOT NULL AND l.type <> 'shadow'
                 ORDER BY s.tbl_name, s.type <> 'table', s.name",
            )?;
            let objects = statement.query_map([], |row| {
                Ok(SchemaObject {
                    kind: row.get(0)?,
                    name: row.get(1)?,
                    table: row.get(2)?,
                    sql: row.get(3)?,
                })
            })?;
            Ok(objects.collect::<Result<_, _>>()?)
        })
    }
}

/// A table, index, or view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaObject {
    /// `table`, `index` or `view`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The table that it belongs to.
    pub table: String,
    /// The statement that makes it.
    pub sql: String,
}

/// SQLite's reason alone.
fn reason(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

fn shown(cell: ValueRef<'_>) -> Value {
    match cell {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(integer) => integer.into(),
        ValueRef::Real(real) => real.into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned().into(),
        ValueRef::Blob(blob) => {
            blob.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
        }
    }
}
