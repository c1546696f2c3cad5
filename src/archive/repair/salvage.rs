//! Taking what can be read of a damaged archive into a new one.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;

use rusqlite::Connection;
use rusqlite::ErrorCode;
use rusqlite::Transaction;
use rusqlite::TransactionBehavior;
use rusqlite::params_from_iter;

use super::Loss;
use super::Repair;
use super::derive;
use crate::archive::error::ArchiveError;
use crate::archive::error::Failure;
use crate::archive::readable::Table;

/// Tables to which nearly everything refers: without one of their rows little would be left.
const ROOTS: [&str; 2] = ["night", "model_version"];

/// Rows without which a task is not whole, a draft or the start of a group not what it was; with
/// the table that they leave.
const HALVES: [(&str, &str); 4] = [
    (
        "task",
        "DELETE FROM task WHERE hops <> (
             SELECT count(*) FROM task_evidence e WHERE e.task_id = task.id)
         OR NOT EXISTS (SELECT 1 FROM draft d WHERE d.number = task.number AND d.id = task.id)",
    ),
    (
        "draft",
        "DELETE FROM draft WHERE rejection IS NULL
         AND NOT EXISTS (SELECT 1 FROM task t WHERE t.number = draft.number)",
    ),
    (
        "draft",
        "DELETE FROM draft WHERE rejection IS NOT (
             SELECT v.rejection FROM verdict v
             WHERE v.draft_id = draft.id AND v.required = 1 AND v.rejection IS NOT NULL
             ORDER BY v.ordinal LIMIT 1)",
    ),
    (
        "group_start",
        "DELETE FROM group_start WHERE NOT EXISTS (
             SELECT 1 FROM rollout r WHERE r.task_id = group_start.task_id
                 AND r.night = group_start.night AND r.round = group_start.round)
         OR depth <> 1 + coalesce((
             SELECT f.depth FROM group_start f WHERE f.task_id = group_start.task_id
                 AND f.night = group_start.from_night AND f.round = group_start.from_round), 0)",
    ),
];

/// Copies all tables of `old`, the archive at `path`, into the empty archive `new`; leaves out what
/// is no longer whole, and makes again what follows from the rest.
pub(super) fn copy(
    old: &Connection,
    new: &Connection,
    path: &Path,
) -> Result<Repair, ArchiveError> {
    let failed = |error: rusqlite::Error| Failure::from(error).at(path);
    new.pragma_update(None, "foreign_keys", false).map_err(failed)?;
    let tx = Transaction::new_unchecked(new, TransactionBehavior::Immediate).map_err(failed)?;
    let mut losses = BTreeMap::new();
    for table in Table::all(old).map_err(failed)? {
        let loss = copy_table(old, &tx, &table).map_err(failed)?;
        if ROOTS.contains(&table.name.as_str()) && !loss.gaps.is_empty() {
            return Err(ArchiveError::Damaged {
                path: path.to_path_buf(),
                detail: format!(
                    "rows of {} cannot be read ({}), and nearly everything refers to them: it \
                     cannot be repaired",
                    table.name,
                    loss.gaps.join(", ")
                ),
            });
        }
        losses.insert(table.name.clone(), loss);
    }
    let mut finish = || -> rusqlite::Result<(BTreeSet<String>, u64)> {
        let known = names(
            &tx,
            "SELECT id FROM task UNION SELECT id FROM draft WHERE rejection IS NULL
             UNION SELECT task_id FROM task_evidence UNION SELECT task_id FROM rollout",
        )?;
        leave_out_halves(&tx, &mut losses)?;
        let rollouts_lost: i64 = tx.query_row(
            "SELECT coalesce(sum(t.attempts), 0) - (SELECT count(*) FROM rollout) FROM task t",
            [],
            |row| row.get(0),
        )?;
        derive(&tx)?;
        let left = names(&tx, "SELECT id FROM task")?;
        let lost = known.difference(&left).cloned().collect();
        Ok((lost, u64::try_from(rollouts_lost).unwrap_or(0)))
    };
    let (tasks_lost, rollouts_lost) = finish().map_err(failed)?;
    tx.commit().map_err(failed)?;
    let losses = losses.into_values().filter(|l| !l.gaps.is_empty() || l.rows_left_out > 0);
    let losses = losses.collect();
    Ok(Repair { copied: true, losses, tasks_lost, rollouts_lost, ..Repair::default() })
}

fn names(tx: &Transaction<'_>, sql: &str) -> rusqlite::Result<BTreeSet<String>> {
    tx.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

fn copy_table(old: &Connection, tx: &Transaction<'_>, table: &Table) -> rusqlite::Result<Loss> {
    let quoted: Vec<String> = table.columns.iter().map(|name| format!("\"{name}\"")).collect();
    let sql = format!(
        "INSERT OR IGNORE INTO \"{}\" ({}) VALUES ({})",
        table.name,
        quoted.join(", "),
        vec!["?"; quoted.len()].join(", ")
    );
    let mut insert = tx.prepare(&sql)?;
    let mut refused = 0;
    let gaps = table.scan(old, &mut |row, first| {
        let values: Vec<rusqlite::types::Value> = (first..first + table.columns.len())
            .map(|column| row.get(column))
            .collect::<Result<_, _>>()?;
        match insert.execute(params_from_iter(values)) {
            Ok(_) => Ok(()),
            // What no writer of ours can have stored.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                refused += 1;
                Ok(())
            }
            Err(error) => Err(error),
        }
    })?;
    Ok(Loss {
        table: table.name.clone(),
        gaps: gaps.iter().map(ToString::to_string).collect(),
        rows_left_out: refused,
    })
}

/// Removes rows whose other half was lost, until all that is left is whole.
fn leave_out_halves(
    tx: &Transaction<'_>,
    losses: &mut BTreeMap<String, Loss>,
) -> rusqlite::Result<()> {
    let references = References::of(tx)?;
    loop {
        let mut changed = 0;
        for (table, sql) in HALVES {
            changed += count(losses, table, tx.execute(sql, [])?);
        }
        for (table, sql, deletes) in &references.0 {
            let rows = tx.execute(sql, [])?;
            changed += if *deletes { count(losses, table, rows) } else { rows };
        }
        if changed == 0 {
            return Ok(());
        }
    }
}

fn count(losses: &mut BTreeMap<String, Loss>, table: &str, rows: usize) -> usize {
    if let Some(loss) = losses.get_mut(table) {
        loss.rows_left_out += rows as u64;
    }
    rows
}

/// For every reference of the schema, the table and the statement that removes rows whose target
/// is not there, or, where a row may do without, the reference itself; and whether it deletes.
struct References(Vec<(String, String, bool)>);

impl References {
    fn of(tx: &Transaction<'_>) -> rusqlite::Result<Self> {
        let mut statements = Vec::new();
        for table in Table::all(tx)? {
            for columns in foreign_keys(tx, &table.name)?.into_values() {
                let target = columns[0].target.clone();
                let same: Vec<String> = columns
                    .iter()
                    .map(|c| format!("p.\"{}\" = \"{}\".\"{}\"", c.to, table.name, c.from))
                    .collect();
                let there: Vec<String> =
                    columns.iter().map(|c| format!("\"{}\" IS NOT NULL", c.from)).collect();
                let condition = format!(
                    "WHERE {} AND NOT EXISTS (SELECT 1 FROM \"{target}\" p WHERE {})",
                    there.join(" AND "),
                    same.join(" AND ")
                );
                let optional = columns.iter().find(|column| column.optional);
                let sql = match optional {
                    Some(column) => format!(
                        "UPDATE \"{}\" SET \"{}\" = NULL {condition}",
                        table.name, column.from
                    ),
                    None => format!("DELETE FROM \"{}\" {condition}", table.name),
                };
                statements.push((table.name.clone(), sql, optional.is_none()));
            }
        }
        Ok(Self(statements))
    }
}

struct Reference {
    target: String,
    from: String,
    to: String,
    optional: bool,
}

fn foreign_keys(
    tx: &Transaction<'_>,
    table: &str,
) -> rusqlite::Result<BTreeMap<i64, Vec<Reference>>> {
    let mut statement = tx.prepare(
        "SELECT f.id, f.\"table\", f.\"from\", f.\"to\", c.\"notnull\" = 0 AND c.pk = 0
         FROM pragma_foreign_key_list(?1) f JOIN pragma_table_info(?1) c ON c.name = f.\"from\"
         ORDER BY f.id, f.seq",
    )?;
    let mut rows = statement.query([table])?;
    let mut keys: BTreeMap<i64, Vec<Reference>> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let reference = Reference {
            target: row.get(1)?,
            from: row.get(2)?,
            to: row.get(3)?,
            optional: row.get(4)?,
        };
        keys.entry(row.get(0)?).or_default().push(reference);
    }
    Ok(keys)
}
