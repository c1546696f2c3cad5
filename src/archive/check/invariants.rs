//! What this program promises of an archive beyond SQL's own rules (`docs/archive.md`).

use rusqlite::Connection;
use rusqlite::OptionalExtension;
use rusqlite::Row;
use rusqlite::types::ValueRef;
use serde_json::Value;

use super::Finding;
use super::FindingKind;
use super::REBUILD_WORDS;
use super::RECOUNT;
use super::REFILL;
use crate::archive::tokens;
use crate::archive::value;

/// Rollouts read in one transaction: a reader must not hold the writer's log for long.
const PAGE: u32 = 2000;

/// A rule, and the query for what breaks it: the id and night of a task or draft.
pub(super) struct Invariant {
    kind: FindingKind,
    place: &'static str,
    wrong: &'static str,
    sql: &'static str,
    repair: Option<&'static str>,
}

/// The rules that a query can check.
pub(super) const ALL: &[Invariant] = &[
    Invariant {
        kind: FindingKind::Fate,
        place: "task",
        wrong: "drafts that are neither tasks nor rejected, or both",
        sql: "SELECT d.id, d.night FROM draft d LEFT JOIN task t ON t.number = d.number
              WHERE (d.rejection IS NULL) <> (t.number IS NOT NULL)
              UNION ALL
              SELECT t.id, t.night FROM task t LEFT JOIN draft d ON d.number = t.number
              WHERE d.id IS NOT t.id",
        repair: None,
    },
    Invariant {
        kind: FindingKind::Fate,
        place: "task_evidence",
        wrong: "tasks that rest on another number of passages than their hops say",
        sql: "SELECT t.id, t.night FROM task t WHERE t.hops < 1 OR t.hops <> (
                  SELECT count(*) FROM task_evidence e WHERE e.task_id = t.id)",
        repair: None,
    },
    Invariant {
        kind: FindingKind::Fate,
        place: "draft",
        wrong: "drafts whose rejection is not that of the first required check that rejected them",
        sql: "SELECT d.id, d.night FROM draft d WHERE d.rejection IS NOT (
                  SELECT v.rejection FROM verdict v
                  WHERE v.draft_id = d.id AND v.required = 1 AND v.rejection IS NOT NULL
                  ORDER BY v.ordinal LIMIT 1)",
        repair: None,
    },
    Invariant {
        kind: FindingKind::Count,
        place: "task",
        wrong: "tasks whose attempts or solved attempts are not those of their rollouts",
        sql: "SELECT t.id, t.night FROM task t LEFT JOIN (
                  SELECT task_id, count(*) AS n, sum(exact_match >= 0.5) AS solved
                  FROM rollout GROUP BY task_id) r ON r.task_id = t.id
              WHERE t.attempts <> coalesce(r.n, 0) OR t.solved <> coalesce(r.solved, 0)",
        repair: Some(RECOUNT),
    },
    Invariant {
        kind: FindingKind::Count,
        place: "task_play",
        wrong: "counts of a task by version that are not those of its rollouts",
        sql: "SELECT t.id, t.night FROM task_play p FULL JOIN (
                  SELECT task_id, model_version, count(*) AS n, sum(exact_match >= 0.5) AS solved
                  FROM rollout GROUP BY 1, 2) r
                  ON r.task_id = p.task_id AND r.model_version = p.model_version
              JOIN task t ON t.id = coalesce(p.task_id, r.task_id)
              WHERE p.attempts IS NOT r.n OR p.solved IS NOT r.solved",
        repair: Some(RECOUNT),
    },
    Invariant {
        kind: FindingKind::Count,
        place: "group_start",
        wrong: "groups whose depth is not one more than that of what they started from, or that \
                have no rollouts",
        sql: "SELECT g.task_id, g.night FROM group_start g LEFT JOIN group_start f
                  ON f.task_id = g.task_id AND f.night = g.from_night AND f.round = g.from_round
              WHERE g.depth <> coalesce(f.depth, 0) + 1
              OR NOT EXISTS (SELECT 1 FROM rollout r WHERE r.task_id = g.task_id
                             AND r.night = g.night AND r.round = g.round)",
        repair: None,
    },
    Invariant {
        kind: FindingKind::Words,
        place: "task_words",
        wrong: "tasks that the index of words lacks, or has although they are none",
        sql: "SELECT t.id, t.night FROM task t
              WHERE NOT EXISTS (SELECT 1 FROM task_words_docsize w WHERE w.id = t.number)
              UNION ALL
              SELECT NULL, NULL FROM task_words_docsize w
              WHERE NOT EXISTS (SELECT 1 FROM task t WHERE t.number = w.id)",
        repair: Some(REBUILD_WORDS),
    },
    Invariant {
        kind: FindingKind::Words,
        place: "task_minhash",
        wrong: "tasks without the signature of their question",
        sql: "SELECT t.id, t.night FROM task t
              WHERE NOT EXISTS (SELECT 1 FROM task_minhash m WHERE m.number = t.number)",
        repair: Some(REFILL),
    },
];

impl Invariant {
    /// Its name in a progress display.
    pub(super) fn name(&self) -> &'static str {
        self.place
    }

    pub(super) fn check(&self, connection: &Connection) -> rusqlite::Result<Vec<Finding>> {
        let mut statement = connection.prepare(self.sql)?;
        let mut rows = statement.query([])?;
        let mut finding =
            Finding { repair: self.repair, ..Finding::new(self.kind, self.place, "") };
        let mut broken = 0_u64;
        while let Some(row) = rows.next()? {
            broken += 1;
            finding.affected.add(row.get(0)?, row.get(1)?);
        }
        finding.detail = format!("{broken} {}", self.wrong);
        Ok(if broken > 0 { vec![finding] } else { Vec::new() })
    }
}

/// Tokens and log-probabilities that do not unpack, or not to what a rollout's steps say.
pub(super) fn blobs(connection: &Connection) -> rusqlite::Result<Vec<Finding>> {
    let of_rollouts = format!(
        "SELECT rowid, task_id, night, steps_json, tokens, logprobs, {} FROM rollout
         WHERE rowid > ?1 ORDER BY rowid LIMIT ?2",
        tokens::are_removed("rollout.night")
    );
    let of_prompts = "SELECT rowid, NULL, NULL, id, tokens FROM prompt
                      WHERE rowid > ?1 ORDER BY rowid LIMIT ?2";
    let of_proposals = format!(
        "SELECT p.rowid, t.id, d.night, p.steps_json, p.tokens, p.logprobs, {}
         FROM proposal p JOIN draft d ON d.id = p.draft_id LEFT JOIN task t ON t.id = d.id
         WHERE p.rowid > ?1 ORDER BY p.rowid LIMIT ?2",
        tokens::are_removed("d.night")
    );
    let mut findings = Vec::new();
    findings.extend(blobs_of(connection, "rollout", &of_rollouts, unpack)?.0);
    findings.extend(blobs_of(connection, "proposal", &of_proposals, unpack)?.0);
    let prompt = |row: &Row<'_>| value::tokens(row, 4).map(drop).map_err(|e| e.to_string());
    let (found, broken) = blobs_of(connection, "prompt", of_prompts, prompt)?;
    if let Some(mut finding) = found {
        let whose = "SELECT r.task_id, r.night FROM rollout r JOIN prompt p ON p.id = r.prompt_id
                     WHERE p.rowid = ?1";
        for rowid in broken {
            let mut statement = connection.prepare_cached(whose)?;
            let mut rows = statement.query([rowid])?;
            while let Some(row) = rows.next()? {
                finding.affected.add(row.get(0)?, row.get(1)?);
            }
        }
        findings.push(finding);
    }
    Ok(findings)
}

/// Read in pages, each in a transaction of its own. Returns what was found, and the row ids.
fn blobs_of(
    connection: &Connection,
    place: &str,
    sql: &str,
    unpack: fn(&Row<'_>) -> Result<(), String>,
) -> rusqlite::Result<(Option<Finding>, Vec<i64>)> {
    let mut finding = Finding::new(FindingKind::Value, place, "");
    let (mut broken, mut first) = (Vec::new(), None);
    let mut last = i64::MIN;
    loop {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query((last, PAGE))?;
        let mut any = false;
        while let Some(row) = rows.next()? {
            any = true;
            last = row.get(0)?;
            if let Err(why) = unpack(row) {
                broken.push(last);
                first.get_or_insert(why);
                finding.affected.add(row.get(1)?, row.get(2)?);
            }
        }
        if !any {
            break;
        }
    }
    let Some(first) = first else { return Ok((None, broken)) };
    let rows = broken.len();
    finding.detail = format!("{rows} rows whose tokens do not read back, such as: {first}");
    Ok((Some(finding), broken))
}

fn unpack(row: &Row<'_>) -> Result<(), String> {
    let text = |error: rusqlite::Error| error.to_string();
    let steps: Vec<(String, usize)> = value::json::<Vec<Value>>(row, 3)
        .map_err(text)?
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let noted: bool = row.get(6).map_err(text)?;
    let empty = |column| Ok(row.get_ref(column)? == ValueRef::Blob(&[]));
    if noted && empty(4).map_err(text)? && empty(5).map_err(text)? {
        return Ok(());
    }
    let tokens = value::tokens(row, 4).map_err(text)?.len();
    let logprobs = value::logprobs(row, 5).map_err(text)?.len();
    let all: usize = steps.iter().map(|(_, tokens)| tokens).sum();
    let own = steps.iter().filter(|(owner, _)| owner == "model").map(|(_, n)| n).sum::<usize>();
    if (all, own) != (tokens, logprobs) {
        return Err(format!(
            "{tokens} tokens and {logprobs} log-probabilities where the steps have {all} and {own}"
        ));
    }
    Ok(())
}

/// The live version: it must be there and have its weights.
pub(super) fn live(connection: &Connection) -> rusqlite::Result<Vec<Finding>> {
    let sql = "SELECT l.model_version, m.id IS NULL, m.removed_night IS NOT NULL
               FROM live_model l LEFT JOIN model_version m ON m.id = l.model_version";
    let live: Option<(String, bool, bool)> = connection
        .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let played = connection.prepare("SELECT 1 FROM rollout LIMIT 1")?.exists([])?;
    let wrong = match live {
        None if played => ("live_model", "no version is live although tasks were played"),
        Some((_, true, _)) => ("live_model", "the live version is not in the archive"),
        Some((_, _, true)) => ("live_model", "the weights of the live version were removed"),
        None | Some(_) => return Ok(Vec::new()),
    };
    Ok(vec![Finding::new(FindingKind::Live, wrong.0, wrong.1)])
}
