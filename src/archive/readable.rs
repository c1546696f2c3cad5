//! Reading a table of which pages are damaged: all rows that can be reached, and where there are
//! gaps.
//!
//! A table is a tree over its key. Going through it ends at the first damaged page; going through
//! it from the other end finds what lies behind. Between two damaged pages rows are found by
//! looking from keys in between.

use std::cmp::Ordering;

use rusqlite::Connection;
use rusqlite::ErrorCode;
use rusqlite::Row;
use rusqlite::params_from_iter;
use rusqlite::types::Value;

/// Keys in a gap from which readable rows are looked for.
const PROBES: i64 = 4096;

/// A row's key.
type Key = Vec<Value>;

/// A table as it is copied: its columns, and the key that its tree is ordered by.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) name: String,
    /// Without computed ones.
    pub(super) columns: Vec<String>,
    /// The primary key of a table without row ids, else `rowid`.
    key: Vec<String>,
}

/// A stretch of a table that cannot be read; none where it reaches to the table's end.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gap {
    /// The last key that can be read before it.
    pub(super) after: Option<Key>,
    /// The first key that can be read behind it.
    pub(super) before: Option<Key>,
}

impl std::fmt::Display for Gap {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.after, &self.before) {
            (None, None) => write!(formatter, "all of it"),
            (None, Some(before)) => write!(formatter, "before {}", shown(before)),
            (Some(after), None) => write!(formatter, "after {}", shown(after)),
            (Some(after), Some(before)) => {
                write!(formatter, "between {} and {}", shown(after), shown(before))
            }
        }
    }
}

fn shown(key: &Key) -> String {
    let one = |value: &Value| match value {
        Value::Integer(integer) => integer.to_string(),
        Value::Real(real) => real.to_string(),
        Value::Text(text) => text.clone(),
        Value::Null | Value::Blob(_) => "?".to_string(),
    };
    key.iter().map(one).collect::<Vec<_>>().join("/")
}

/// Whether an error says that a page cannot be read or makes no sense.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::SystemIoFailure | ErrorCode::NotADatabase)
    )
}

/// How a stretch of reading ended: at its end, or at damage.
struct Reached {
    last: Option<Key>,
    damaged: bool,
}

/// What is read: a direction, and the keys between which, without the keys themselves but for the
/// one that an ascending stretch begins with where `from_included` is set.
struct Stretch<'a> {
    descending: bool,
    after: Option<&'a Key>,
    before: Option<&'a Key>,
    from_included: bool,
}

impl Table {
    /// All tables of a schema but those of the index of words, which is made from others.
    pub(super) fn all(connection: &Connection) -> rusqlite::Result<Vec<Self>> {
        let mut statement = connection.prepare(
            "SELECT name, wr FROM pragma_table_list
             WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite~_%' ESCAPE '~'
             ORDER BY name",
        )?;
        let tables = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let tables: Vec<(String, bool)> = tables.collect::<Result<_, _>>()?;
        tables.into_iter().map(|(name, keyed)| Self::of(connection, name, keyed)).collect()
    }

    fn of(connection: &Connection, name: String, keyed: bool) -> rusqlite::Result<Self> {
        let mut statement =
            connection.prepare("SELECT name, pk FROM pragma_table_info(?1) ORDER BY cid")?;
        let columns = statement.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let columns: Vec<(String, i64)> = columns.collect::<Result<_, _>>()?;
        let mut key: Vec<&(String, i64)> = columns.iter().filter(|(_, pk)| *pk > 0).collect();
        key.sort_by_key(|(_, pk)| *pk);
        let key = match keyed {
            true => key.into_iter().map(|(name, _)| name.clone()).collect(),
            false => vec!["rowid".to_string()],
        };
        Ok(Self { name, columns: columns.into_iter().map(|(name, _)| name).collect(), key })
    }

    /// Goes through all rows that can be read; `visit` gets each row with the number of columns
    /// before the first of the table's own. Returns the stretches that cannot be read.
    pub(super) fn scan(
        &self,
        connection: &Connection,
        visit: &mut dyn FnMut(&Row<'_>, usize) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<Vec<Gap>> {
        let all = Stretch { descending: false, after: None, before: None, from_included: false };
        let up = self.read(connection, &all, visit)?;
        if !up.damaged {
            return Ok(Vec::new());
        }
        let after = up.last;
        let rest = Stretch { descending: true, after: after.as_ref(), ..all };
        let before = self.read(connection, &rest, visit)?.last;
        self.look_between(connection, after, before, visit)
    }

    /// Finds what can be read between two damaged pages.
    fn look_between(
        &self,
        connection: &Connection,
        mut after: Option<Key>,
        before: Option<Key>,
        visit: &mut dyn FnMut(&Row<'_>, usize) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<Vec<Gap>> {
        let mut gaps = Vec::new();
        for probe in self.probes(after.as_ref(), before.as_ref()) {
            let behind = after.as_ref().is_none_or(|after| compare(&probe, after).is_gt());
            if !behind {
                continue;
            }
            let up = Stretch {
                descending: false,
                after: Some(&probe),
                before: before.as_ref(),
                from_included: true,
            };
            let Some(last) = self.read(connection, &up, visit)?.last else { continue };
            let down = Stretch {
                descending: true,
                after: after.as_ref(),
                before: Some(&probe),
                from_included: false,
            };
            let first = self.read(connection, &down, visit)?.last.unwrap_or(probe);
            gaps.push(Gap { after: after.replace(last), before: Some(first) });
        }
        gaps.push(Gap { after, before });
        Ok(gaps)
    }

    /// Keys, in order, that may lie between two others.
    fn probes(&self, after: Option<&Key>, before: Option<&Key>) -> Vec<Key> {
        let first = |key: Option<&Key>| key.and_then(|key| key.first().cloned());
        match (first(after), first(before)) {
            (Some(Value::Integer(low)), Some(Value::Integer(high))) => {
                let step = (high.saturating_sub(low) / PROBES).max(1);
                let count = high.saturating_sub(low) / step;
                (1..=count).map(|i| vec![Value::Integer(low + i * step)]).collect()
            }
            (Some(Value::Integer(low)), None) => {
                (0..40).map(|power| vec![Value::Integer(low + (1 << power))]).collect()
            }
            (None, Some(Value::Integer(high))) => {
                let step = (high.max(1) / PROBES).max(1);
                (0..high.max(0) / step).map(|i| vec![Value::Integer(i * step)]).collect()
            }
            // Most text keys are hashes.
            _ => (0..PROBES).map(|i| vec![Value::Text(format!("{i:03x}"))]).collect(),
        }
    }

    fn read(
        &self,
        connection: &Connection,
        stretch: &Stretch<'_>,
        visit: &mut dyn FnMut(&Row<'_>, usize) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<Reached> {
        let (mut conditions, mut arguments) = (Vec::new(), Vec::new());
        let sign = if stretch.from_included { ">=" } else { ">" };
        for (bound, sign) in [(stretch.after, sign), (stretch.before, "<")] {
            if let Some(bound) = bound {
                let key = self.key[..bound.len()].join(", ");
                let marks = vec!["?"; bound.len()].join(", ");
                conditions.push(format!("({key}) {sign} ({marks})"));
                arguments.extend(bound.iter().cloned());
            }
        }
        let condition = match conditions.is_empty() {
            true => String::new(),
            false => format!("WHERE {}", conditions.join(" AND ")),
        };
        let order = if stretch.descending { " DESC" } else { "" };
        let sql = format!(
            "SELECT {}, {} FROM \"{}\" {condition} ORDER BY {}{order}",
            self.key.join(", "),
            self.columns.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", "),
            self.name,
            self.key.join(&format!("{order}, ")),
        );
        let mut reached = Reached { last: None, damaged: false };
        let mut outcome = || -> rusqlite::Result<()> {
            let mut statement = connection.prepare(&sql)?;
            let mut rows = statement.query(params_from_iter(&arguments))?;
            while let Some(row) = rows.next()? {
                let key = (0..self.key.len()).map(|i| row.get(i)).collect::<Result<_, _>>()?;
                visit(row, self.key.len())?;
                reached.last = Some(key);
            }
            Ok(())
        };
        match outcome() {
            Ok(()) => {}
            Err(error) if is_damage(&error) => reached.damaged = true,
            Err(error) => return Err(error),
        }
        Ok(reached)
    }
}

/// The order of two keys, by as many columns as both have.
fn compare(one: &Key, other: &Key) -> Ordering {
    let pairs = one.iter().zip(other);
    pairs
        .map(|pair| match pair {
            (Value::Integer(one), Value::Integer(other)) => one.cmp(other),
            (Value::Text(one), Value::Text(other)) => one.as_bytes().cmp(other.as_bytes()),
            _ => Ordering::Equal,
        })
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}
