//! One hash for all that an archive says, whenever and wherever it was written.
//!
//! Two runs with the same seed, one of them killed and continued, must come to the same digest.
//! What is hashed follows from the schema, so that a new table or column is never forgotten:
//! every table, its rows in the order of the primary key, every column but clock times
//! (`…_at`, `…_seconds`), computed ones and [`LEFT_OUT`]; what is [`DERIVED`] is none of it. JSON
//! columns (`…_json`) are hashed without the order of their members and without members that tell
//! time; blobs by what they unpack to.

use std::collections::BTreeMap;

use blake3::Hasher;
use rusqlite::Transaction;
use rusqlite::types::ValueRef;
use serde_json::Value;

use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::value;

/// Tables that follow from others, like an index of words.
const DERIVED: [&str; 1] = ["task_minhash"];

/// Columns that say where something lies or when it came, not what it is.
const LEFT_OUT: [(&str, &str); 3] =
    [("model_version", "path"), ("draft", "number"), ("task", "number")];

/// A column that is hashed.
struct Column {
    name: String,
    /// Place in the primary key, from 1; 0 for none.
    key: i64,
}

impl ArchiveReader {
    /// The BLAKE3 hash of the whole content, 64 hexadecimal digits. Equal for archives with equal
    /// content, whatever the order of insertion and the clock.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn content_digest(&self) -> Result<String, ArchiveError> {
        let mut hasher = Hasher::new();
        for (table, digest) in self.table_digests()? {
            put(&mut hasher, table.as_bytes());
            put(&mut hasher, digest.as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// The hash of each table: where two archives differ.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn table_digests(&self) -> Result<BTreeMap<String, String>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'
                 AND name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY name",
            )?;
            let tables: Vec<String> =
                statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            let mut digests = BTreeMap::new();
            for table in tables.into_iter().filter(|name| !DERIVED.contains(&name.as_str())) {
                let digest = table_digest(tx, &table)?;
                digests.insert(table, digest);
            }
            Ok(digests)
        })
    }
}

/// Whether a column or JSON member of this name holds a clock time or a duration.
fn tells_time(name: &str) -> bool {
    name == "seconds"
        || ["_at", "_seconds", "_s", "_ms"].iter().any(|suffix| name.ends_with(suffix))
}

fn columns(tx: &Transaction<'_>, table: &str) -> Result<Vec<Column>, Failure> {
    let mut statement = tx.prepare("SELECT name, pk FROM pragma_table_info(?1) ORDER BY cid")?;
    let all = statement
        .query_map([table], |row| Ok(Column { name: row.get(0)?, key: row.get(1)? }))?
        .collect::<Result<Vec<_>, _>>()?;
    Ok(all
        .into_iter()
        .filter(|column| !tells_time(&column.name))
        .filter(|column| !LEFT_OUT.contains(&(table, column.name.as_str())))
        .collect())
}

fn table_digest(tx: &Transaction<'_>, table: &str) -> Result<String, Failure> {
    let columns = columns(tx, table)?;
    let mut key: Vec<&Column> = columns.iter().filter(|column| column.key > 0).collect();
    key.sort_by_key(|column| column.key);
    if key.is_empty() {
        // A numbered table: its rows have an id, too.
        key.extend(columns.iter().filter(|column| column.name == "id"));
    }
    let list = |columns: &[&Column]| -> String {
        let names: Vec<String> = columns.iter().map(|c| format!("\"{}\"", c.name)).collect();
        names.join(", ")
    };
    let all: Vec<&Column> = columns.iter().collect();
    let sql = format!("SELECT {} FROM \"{table}\" ORDER BY {}", list(&all), list(&key));
    let mut hasher = Hasher::new();
    let mut statement = tx.prepare(&sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for (index, column) in columns.iter().enumerate() {
            put(&mut hasher, column.name.as_bytes());
            put_cell(&mut hasher, column, row.get_ref(index)?).map_err(|error| {
                Failure::Sqlite(rusqlite::Error::FromSqlConversionFailure(
                    index,
                    rusqlite::types::Type::Text,
                    format!("{table}.{}: {error}", column.name).into(),
                ))
            })?;
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Hashes bytes with their length, so that no two sequences of pieces run into one another.
fn put(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn put_cell(
    hasher: &mut Hasher,
    column: &Column,
    cell: ValueRef<'_>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // The type first: the integer 0 and eight zero bytes of text are not the same.
    hasher.update(&[cell.data_type() as u8]);
    match cell {
        ValueRef::Null => {}
        ValueRef::Integer(integer) => put(hasher, &integer.to_le_bytes()),
        ValueRef::Real(real) => put(hasher, &real.to_bits().to_le_bytes()),
        ValueRef::Text(text) if column.name.ends_with("_json") => {
            let timeless = without_time(serde_json::from_slice(text)?);
            put(hasher, timeless.to_string().as_bytes());
        }
        ValueRef::Text(text) => put(hasher, text),
        // Tokens that were removed.
        ValueRef::Blob([]) => put(hasher, &[]),
        ValueRef::Blob(blob) => put(hasher, &value::inflate(blob)?),
    }
    Ok(())
}

/// The same JSON with members sorted by name and those that tell time removed, at every depth.
fn without_time(json: Value) -> Value {
    match json {
        Value::Object(members) => {
            let sorted: BTreeMap<String, Value> =
                members.into_iter().filter(|(name, _)| !tells_time(name)).collect();
            Value::Object(sorted.into_iter().map(|(k, v)| (k, without_time(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_time).collect()),
        other => other,
    }
}
