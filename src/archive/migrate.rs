//! The schema's versions, and what SQL alone cannot carry from one to the next.

use rusqlite::Connection;
use rusqlite::Transaction;
use rusqlite::params;
use rusqlite_migration::HookResult;
use rusqlite_migration::M;
use rusqlite_migration::Migrations;

use super::draft::question_hash;
use super::minhash;
use super::rollout::PackedSteps;
use super::rollout::put_prompt;
use super::value;
use crate::rollout::Step;

/// How many migrations there are: the schema version this program reads and writes.
pub(super) const VERSION: u32 = 8;

/// All of them; a released one never changes.
fn all() -> Migrations<'static> {
    Migrations::new(vec![
        M::up(include_str!("migrations/0001_corpus_and_game.sql")),
        M::up(include_str!("migrations/0002_play_and_measures.sql")),
        M::up(include_str!("migrations/0003_objectives_and_adapters.sql")),
        M::up_with_hook(include_str!("migrations/0004_lineage_and_lists.sql"), to_version_4)
            .foreign_key_check(),
        M::up_with_hook(include_str!("migrations/0005_suites_and_imports.sql"), to_version_5),
        M::up_with_hook(
            concat!(
                include_str!("migrations/0006_proposals.sql"),
                include_str!("migrations/0006_guards.sql"),
                include_str!("migrations/0006_curriculum.sql"),
                include_str!("migrations/0006_minhash.sql"),
            ),
            to_version_6,
        )
        .foreign_key_check(),
        M::up(include_str!("migrations/0007_outcomes.sql")),
        M::up(include_str!("migrations/0008_token_removal.sql")),
    ])
}

/// Brings the file to [`VERSION`], each version in a transaction of its own. Foreign keys must not
/// be enforced meanwhile: tables are replaced.
pub(super) fn to_latest(connection: &mut Connection) -> rusqlite_migration::Result<()> {
    all().to_latest(connection)
}

/// Computes the signatures of the questions.
fn to_version_6(tx: &Transaction<'_>) -> HookResult {
    Ok(minhash::refill(tx)?)
}

/// Hashes the questions of suites.
fn to_version_5(tx: &Transaction<'_>) -> HookResult {
    let sql = "SELECT suite_id, ordinal, question FROM suite_item WHERE question <> ''";
    let mut questions = tx.prepare(sql)?;
    let set = "UPDATE suite_item SET question_hash = ?3 WHERE suite_id = ?1 AND ordinal = ?2";
    let mut hash = tx.prepare(set)?;
    let mut rows = questions.query([])?;
    while let Some(row) = rows.next()? {
        let (suite, ordinal, question): (String, i64, String) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        hash.execute(params![suite, ordinal, question_hash(&question)])?;
    }
    Ok(())
}

/// Hashes the questions, and puts what stood in `rollout`, `step` and `score` into one row each.
fn to_version_4(tx: &Transaction<'_>) -> HookResult {
    let mut questions = tx.prepare("SELECT number, question FROM task_view")?;
    let mut hash = tx.prepare("UPDATE task SET question_hash = ?2 WHERE number = ?1")?;
    let mut rows = questions.query([])?;
    while let Some(row) = rows.next()? {
        let (number, question): (i64, String) = (row.get(0)?, row.get(1)?);
        hash.execute(params![number, question_hash(&question)])?;
    }
    let mut rollouts = tx.prepare(
        "SELECT r.id, r.task_id, r.night, r.round, r.ordinal FROM rollout r
         ORDER BY r.night, r.round, r.rowid",
    )?;
    let mut copy = tx.prepare(
        "INSERT INTO new_rollout (task_id, night, round, ordinal, model_version, answer, stop,
             queries_json, retrieved_json, prompt_id, steps_json, tokens, logprobs, exact_match,
             f1, reward)
         SELECT r.task_id, r.night, r.round, r.ordinal, r.model_version, r.answer, r.stop,
             r.queries_json, r.retrieved_json, ?2, ?3, ?4, ?5, s.exact_match, s.f1, s.reward
         FROM rollout r JOIN score s ON s.rollout_id = r.id WHERE r.id = ?1",
    )?;
    let mut steps = tx.prepare(
        "SELECT owner, tokens, logprobs FROM step WHERE rollout_id = ?1 ORDER BY ordinal",
    )?;
    let mut rows = rollouts.query([])?;
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        let old = steps.query_map([&id], |step| {
            let (owner, tokens) = (value::named(step, 0)?, value::tokens(step, 1)?);
            Ok(Step { owner, tokens, logprobs: value::logprobs(step, 2)? })
        })?;
        let old: Vec<Step> = old.collect::<Result<_, _>>()?;
        let packed = PackedSteps::new(&old);
        let prompt = packed.prompt.map(|tokens| put_prompt(tx, tokens)).transpose()?;
        copy.execute(params![id, prompt, packed.owners, packed.tokens, packed.logprobs])?;
    }
    tx.execute_batch(
        "DROP TABLE step;
         DROP TABLE score;
         DROP TABLE rollout;
         ALTER TABLE new_rollout RENAME TO rollout;
         CREATE INDEX rollout_round ON rollout (night, round);",
    )?;
    Ok(())
}
