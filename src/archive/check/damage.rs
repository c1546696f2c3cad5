//! Damaged pages: SQLite's own check, by the table or index that a page belongs to, and what of
//! the tasks' history lies on them.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::types::Value;

use super::Affected;
use super::COPY;
use super::Finding;
use super::FindingKind;
use super::REBUILD_WORDS;
use super::REINDEX;
use crate::archive::readable::Gap;
use crate::archive::readable::Table;
use crate::archive::readable::is_damage;

/// The index of words; SQLite keeps it in tables whose names begin like this.
const WORDS: &str = "task_words";

/// Most messages that SQLite is asked for.
const MESSAGES: u32 = 10_000;

/// Most messages quoted of one table or index.
const QUOTED: usize = 3;

/// What a page or an entry belongs to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Table(String),
    Index(String),
    Words,
    File,
}

/// The tables and indexes of a file.
struct Schema {
    /// By root page: the name, and whether it is an index.
    objects: BTreeMap<u32, (String, bool)>,
}

impl Schema {
    fn of(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare(
            "SELECT rootpage, name, type = 'index' FROM sqlite_schema WHERE rootpage > 0",
        )?;
        let objects =
            statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
        Ok(Self { objects: objects.collect::<Result<_, _>>()? })
    }

    fn place(&self, name: &str, index: bool) -> Place {
        match name {
            name if name.starts_with(WORDS) => Place::Words,
            name if index => Place::Index(name.to_string()),
            name => Place::Table(name.to_string()),
        }
    }

    /// What a message of `PRAGMA integrity_check` speaks of: a tree by its root page, or the name
    /// of an index or table.
    fn place_of(&self, message: &str) -> Place {
        let after = |word: &str| message.split_once(word).map(|(_, rest)| rest);
        if let Some(rest) = after("Tree ") {
            let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            let object = digits.parse().ok().and_then(|root: u32| self.objects.get(&root));
            return match object {
                Some((name, index)) => self.place(name, *index),
                None => Place::File,
            };
        }
        if message.contains(WORDS) {
            return Place::Words;
        }
        if let Some(rest) = after(" index ") {
            return self.place(rest.split_whitespace().next().unwrap_or_default(), true);
        }
        // Such as "NULL value in TABLE.COLUMN".
        let name = after(" in ").and_then(|rest| rest.split(['.', ' ']).next());
        match name.filter(|name| self.objects.values().any(|(known, _)| known == name)) {
            Some(name) => self.place(name, false),
            None => Place::File,
        }
    }
}

/// What SQLite's check finds, one finding for each table or index.
pub(super) fn find(connection: &Connection) -> rusqlite::Result<Vec<Finding>> {
    let mut messages = Vec::new();
    match read_messages(connection, &mut messages) {
        Ok(()) => {}
        Err(error) if is_damage(&error) => messages.push(error.to_string()),
        Err(error) => return Err(error),
    }
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let schema = Schema::of(connection)?;
    let mut by_place: BTreeMap<Place, Vec<String>> = BTreeMap::new();
    for message in messages {
        by_place.entry(schema.place_of(&message)).or_default().push(message);
    }
    let tables = Table::all(connection)?;
    by_place.into_iter().map(|(place, said)| finding(connection, &tables, place, &said)).collect()
}

fn read_messages(connection: &Connection, messages: &mut Vec<String>) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA integrity_check({MESSAGES})"))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        let lines = text.lines().filter(|line| *line != "ok" && !line.starts_with("***"));
        messages.extend(lines.map(str::to_string));
    }
    Ok(())
}

fn finding(
    connection: &Connection,
    tables: &[Table],
    place: Place,
    said: &[String],
) -> rusqlite::Result<Finding> {
    let mut detail = said.iter().take(QUOTED).cloned().collect::<Vec<_>>().join("; ");
    if said.len() > QUOTED {
        detail += &format!("; and {} more", said.len() - QUOTED);
    }
    let (name, repair) = match &place {
        Place::Table(name) => (name.as_str(), COPY),
        Place::Index(name) => (name.as_str(), REINDEX),
        Place::Words => (WORDS, REBUILD_WORDS),
        Place::File => ("file", COPY),
    };
    let mut finding = Finding::new(FindingKind::Structure, name, detail);
    finding.repair = Some(repair);
    if let Some(table) = tables.iter().find(|table| Place::Table(table.name.clone()) == place) {
        let gaps = table.scan(connection, &mut |_, _| Ok(()))?;
        for gap in &gaps {
            finding.detail += &format!("; rows cannot be read: {gap}");
            affected(connection, &table.name, gap, &mut finding.affected);
        }
    }
    Ok(finding)
}

/// Adds the tasks and nights whose rows in `table` lie, or may lie, in `gap`, from tables and
/// indexes that name them too. What cannot be read is left out.
pub(in crate::archive) fn affected(
    connection: &Connection,
    table: &str,
    gap: &Gap,
    affected: &mut Affected,
) {
    let between = |what: &str, key: &str| {
        format!("SELECT {what} WHERE (?1 IS NULL OR {key} > ?1) AND (?2 IS NULL OR {key} < ?2)")
    };
    // A key of several columns may begin like the last that can be read.
    let around = |what: &str, key: &str| {
        format!("SELECT {what} WHERE (?1 IS NULL OR {key} >= ?1) AND (?2 IS NULL OR {key} <= ?2)")
    };
    let sql = match table {
        "draft" => between("id, night FROM task", "number"),
        "task" => between("id, night FROM draft", "rejection IS NULL AND number"),
        "rollout" => between(
            "DISTINCT task_id, night FROM rollout INDEXED BY sqlite_autoindex_rollout_1",
            "rowid",
        ),
        "passage" => between(
            "e.task_id, t.night FROM passage p INDEXED BY sqlite_autoindex_passage_1
             JOIN task_evidence e ON e.passage_id = p.id JOIN task t ON t.id = e.task_id",
            "p.rowid",
        ),
        "seed" => between("id, night FROM draft", "seed_id"),
        "seed_passage" => around("id, night FROM draft", "seed_id"),
        "verdict" => around("id, night FROM draft", "id"),
        "task_evidence" | "task_parent" | "task_play" | "curation" => {
            around("id, night FROM task", "id")
        }
        "document" => between("id, night FROM task", "document_id"),
        "unit" | "train_step" | "train_item" => around("NULL, number FROM night", "number"),
        "night" | "promotion" => between("NULL, night FROM unit", "night"),
        _ => return,
    };
    let first = |key: &Option<Vec<Value>>| {
        key.as_ref().and_then(|key| key.first().cloned()).unwrap_or(Value::Null)
    };
    let read = || -> rusqlite::Result<Vec<(Option<String>, Option<u32>)>> {
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([first(&gap.after), first(&gap.before)], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
        rows.collect()
    };
    // What says so is damaged, too: the gap itself has been told.
    for (id, night) in read().unwrap_or_default() {
        affected.add(id, night);
    }
}
