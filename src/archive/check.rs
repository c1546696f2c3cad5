//! Looking for damage, saying what it affects, and mending what follows from the rest.

use std::collections::BTreeMap;

use rusqlite::Transaction;
use rusqlite::params;
use serde::Serialize;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::value;

/// Findings of SQLite's own check at most; the first tell enough.
const FINDINGS: u32 = 100;
/// Rows that are read in one go.
const ROWS: i64 = 10_000;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What is wrong.
    pub what: String,
    /// What that affects.
    pub affects: String,
    /// Whether it follows from the rest, so that `--repair` mends it.
    pub derivable: bool,
}

/// What must hold of the rows, as a query for those that break it.
struct Rule {
    what: &'static str,
    affects: &'static str,
    derivable: bool,
    /// Ids of what breaks it.
    broken: &'static str,
}

const RULES: [Rule; 6] = [
    Rule {
        what: "a draft is a task and was turned away, or neither",
        affects: "what the gate let through",
        derivable: false,
        broken: "SELECT d.id FROM draft d LEFT JOIN task t ON t.number = d.number
                 WHERE (d.rejection IS NULL) <> (t.id IS NOT NULL)",
    },
    Rule {
        what: "a task's counts are not those of its rollouts",
        affects: "how hard tasks seem",
        derivable: true,
        broken: "SELECT t.id FROM task t LEFT JOIN (
                     SELECT task_id, count(*) AS n, sum(exact_match >= 0.5) AS k FROM rollout
                     GROUP BY 1) r ON r.task_id = t.id
                 WHERE t.attempts <> coalesce(r.n, 0) OR t.solved <> coalesce(r.k, 0)",
    },
    Rule {
        what: "a version's counts of a task are not those of its rollouts",
        affects: "comparisons of versions",
        derivable: true,
        broken: "SELECT coalesce(p.task_id, r.task_id) FROM task_play p FULL JOIN (
                     SELECT task_id, model_version, count(*) AS n, sum(exact_match >= 0.5) AS k
                     FROM rollout GROUP BY 1, 2) r
                     ON r.task_id = p.task_id AND r.model_version = p.model_version
                 WHERE p.attempts IS NOT r.n OR p.solved IS NOT r.k",
    },
    Rule {
        what: "a task rests on no passage, or on other than its hops say",
        affects: "verifying it",
        derivable: false,
        broken: "SELECT t.id FROM task t WHERE t.hops <> (
                     SELECT count(*) FROM task_evidence e WHERE e.task_id = t.id) OR t.hops = 0",
    },
    Rule {
        what: "a task is not found by its words",
        affects: "task search",
        derivable: true,
        broken: "SELECT t.id FROM task t LEFT JOIN task_words_docsize w ON w.id = t.number
                 WHERE w.id IS NULL",
    },
    Rule {
        what: "words are found that belong to no task",
        affects: "task search",
        derivable: true,
        broken: "SELECT w.id FROM task_words_docsize w LEFT JOIN task t ON t.number = w.id
                 WHERE t.number IS NULL",
    },
];

impl ArchiveReader {
    /// Everything that is wrong with the file and with what it says. Reads all of it.
    ///
    /// # Errors
    /// [`ArchiveError`] when it cannot be read at all.
    pub fn findings(&self) -> Result<Vec<Finding>, ArchiveError> {
        let mut findings = self.structure().map_err(|failure| failure.at(self.path()))?;
        if findings.is_empty() {
            findings.extend(self.read(references)?);
            for rule in &RULES {
                findings.extend(self.read(|tx| rule.finding(tx))?);
            }
        }
        findings.extend(self.blobs()?);
        Ok(findings)
    }

    /// What SQLite finds, by table or index.
    fn structure(&self) -> Result<Vec<Finding>, Failure> {
        let mut of_root: BTreeMap<i64, (String, String)> = BTreeMap::new();
        let mut roots =
            self.connection.prepare("SELECT rootpage, type, name, tbl_name FROM sqlite_schema")?;
        let mut rows = roots.query([])?;
        while let Some(row) = rows.next()? {
            let (kind, name): (String, String) = (row.get(1)?, row.get(2)?);
            let of =
                if kind == "index" { format!("index {name}") } else { format!("table {name}") };
            of_root.insert(row.get(0)?, (of, row.get(3)?));
        }
        let mut check = self.connection.prepare(&format!("PRAGMA integrity_check({FINDINGS})"))?;
        let mut lines: Vec<String> = Vec::new();
        for line in check.query_map([], |row| row.get(0))? {
            match line {
                Ok(line) => lines.push(line),
                // The check itself may come to an end at what it finds.
                Err(error) if lines.is_empty() => lines.push(error.to_string()),
                Err(_) => break,
            }
        }
        let mut findings = Vec::new();
        for what in lines
            .iter()
            .flat_map(|text| text.lines())
            .filter(|line| *line != "ok" && !line.starts_with("***"))
        {
            // "Tree 12 page 34 cell 5: …" names the root page; other lines name what is meant.
            let root = what
                .split_once("Tree ")
                .and_then(|(_, rest)| rest.split(' ').next()?.parse::<i64>().ok());
            let of = root.and_then(|root| of_root.get(&root));
            let derivable = match of {
                Some((name, _)) => name.starts_with("index "),
                None => what.contains(" index "),
            };
            let affects = match of {
                Some((name, table)) => format!("{name}: {}", self.reach(table)),
                None => "see there".into(),
            };
            findings.push(Finding { what: what.to_string(), affects, derivable });
        }
        Ok(findings)
    }

    /// How far a table can be read.
    fn reach(&self, table: &str) -> String {
        let count = |sql: &str| self.connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        match count(&format!("SELECT count(*) FROM (SELECT * FROM \"{table}\")")) {
            Ok(rows) => format!("all {rows} rows of {table} are still found"),
            Err(error) => format!("not all rows of {table} can be read ({error})"),
        }
    }

    /// Rollouts whose tokens do not unpack.
    fn blobs(&self) -> Result<Vec<Finding>, ArchiveError> {
        let mut findings = Vec::new();
        for (table, of) in [("prompt", "id"), ("rollout", "task_id || ' in night ' || night")] {
            let mut from = 0;
            loop {
                // A bit at a time, so that the writer's log is not held.
                let page = self.read(|tx| blob_page(tx, table, of, from));
                let page = match page {
                    Ok(page) => page,
                    // Said by the check of the structure already.
                    Err(ArchiveError::Damaged { .. }) => break,
                    Err(error) => return Err(error),
                };
                for id in page.broken {
                    findings.push(Finding {
                        what: format!("the tokens of a {table} do not unpack"),
                        affects: format!("{table} of {id}"),
                        derivable: false,
                    });
                }
                let Some(last) = page.last else { break };
                from = last;
            }
        }
        Ok(findings)
    }
}

/// What reading some rows found.
struct BlobPage {
    broken: Vec<String>,
    /// The last row, if there may be more.
    last: Option<i64>,
}

fn blob_page(tx: &Transaction<'_>, table: &str, of: &str, from: i64) -> Result<BlobPage, Failure> {
    let logprobs = if table == "rollout" { "logprobs" } else { "NULL" };
    let sql = format!(
        "SELECT rowid, tokens, {logprobs}, {of} FROM {table} WHERE rowid > ?1
         ORDER BY rowid LIMIT ?2"
    );
    let mut statement = tx.prepare_cached(&sql)?;
    let mut rows = statement.query(params![from, ROWS])?;
    let (mut page, mut n) = (BlobPage { broken: Vec::new(), last: None }, 0);
    while let Some(row) = rows.next()? {
        let tokens: Vec<u8> = row.get(1)?;
        let logprobs: Option<Vec<u8>> = row.get(2)?;
        let whole = |blob: &[u8]| value::inflate(blob).is_ok_and(|bytes| bytes.len() % 4 == 0);
        if !whole(&tokens) || !logprobs.is_none_or(|blob| whole(&blob)) {
            page.broken.push(row.get(3)?);
        }
        page.last = Some(row.get(0)?);
        n += 1;
    }
    page.last = page.last.filter(|_| n == ROWS);
    Ok(page)
}

fn references(tx: &Transaction<'_>) -> Result<Vec<Finding>, Failure> {
    let mut statement = tx.prepare(
        "SELECT \"table\", parent, count(*) FROM pragma_foreign_key_check GROUP BY 1, 2",
    )?;
    let findings = statement.query_map([], |row| {
        let (table, parent, n): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Finding {
            what: format!("{n} rows of {table} refer to rows that {parent} lacks"),
            affects: table.clone(),
            derivable: false,
        })
    })?;
    Ok(findings.collect::<Result<_, _>>()?)
}

impl Rule {
    fn finding(&self, tx: &Transaction<'_>) -> Result<Option<Finding>, Failure> {
        let mut statement = tx.prepare(self.broken)?;
        let mut rows = statement.query([])?;
        let (mut n, mut first) = (0_u64, None);
        while let Some(row) = rows.next()? {
            n += 1;
            if first.is_none() {
                first = Some(match row.get_ref(0)? {
                    rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                    other => other.as_str().unwrap_or_default().to_string(),
                });
            }
        }
        Ok(first.map(|first| Finding {
            what: format!("{} ({n} times, the first {first})", self.what),
            affects: self.affects.to_string(),
            derivable: self.derivable,
        }))
    }
}

impl Archive {
    /// Makes again what follows from the rest: indexes, the index of words, counts. Opens a file
    /// that [`Archive::open`] would refuse.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read or written.
    pub fn repair(&self) -> Result<(), ArchiveError> {
        // Copies every table into a new file and makes the indexes from them: what is wrong with
        // an index is gone.
        self.vacuum()?;
        self.write(|tx| {
            tx.execute_batch(
                "UPDATE task SET attempts = 0, solved = 0;
                 UPDATE task SET attempts = r.n, solved = r.k FROM (
                     SELECT task_id, count(*) AS n, sum(exact_match >= 0.5) AS k
                     FROM rollout GROUP BY 1) r WHERE r.task_id = task.id;
                 DELETE FROM task_play;
                 INSERT INTO task_play (task_id, model_version, attempts, solved)
                 SELECT task_id, model_version, count(*), sum(exact_match >= 0.5) FROM rollout
                 GROUP BY 1, 2;
                 INSERT INTO task_words (task_words) VALUES ('delete-all');
                 INSERT INTO task_words (rowid, question, answer)
                 SELECT number, question, answer FROM task_view;",
            )?;
            Ok(())
        })
    }

    /// Rewrites the file without the space of what was deleted. Returns its size before and after,
    /// in bytes.
    ///
    /// # Errors
    /// [`ArchiveError::DiskFull`] when a second copy of it does not fit.
    pub fn vacuum(&self) -> Result<[u64; 2], ArchiveError> {
        let size = || std::fs::metadata(self.path()).map_or(0, |metadata| metadata.len());
        let before = size();
        self.connection
            .execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)")
            .map_err(|error| Failure::from(error).at(self.path()))?;
        Ok([before, size()])
    }
}
