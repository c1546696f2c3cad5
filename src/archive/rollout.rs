//! Rollouts token by token, and their scores.

use std::collections::BTreeMap;

use rusqlite::Params;
use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;
use rusqlite::types::Type;
use rusqlite::types::ValueRef;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use super::Archive;
use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::group;
use super::night::Unit;
use super::tokens;
use super::value;
use crate::rng::content_id;
use crate::rollout::Owner;
use crate::rollout::Rollout;
use crate::rollout::Score;
use crate::rollout::Step;

/// A rollout with its place in the game and its score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredRollout {
    /// The night it was made in.
    pub night: u32,
    /// The round of that night, from 0.
    pub round: u32,
    /// The rollout itself.
    #[serde(flatten)]
    pub rollout: Rollout,
    /// How it was judged.
    pub score: Score,
    /// How its tokens were drawn: protocol, temperature and the like; none where that was not
    /// noted.
    pub sampling: Option<Value>,
    /// How many tokens the model itself wrote; known also when they were removed.
    pub model_tokens: usize,
    /// The night at whose end its tokens were removed; it has no steps then.
    pub tokens_removed_night: Option<u32>,
}

/// A rollout's columns; behind them stands when its tokens were removed.
const ROLLOUT: &str = "SELECT r.night, r.round, r.task_id, r.ordinal, r.model_version, r.answer,
    r.stop, r.queries_json, r.retrieved_json, r.steps_json, r.tokens, r.logprobs, r.exact_match,
    r.f1, r.reward, s.settings_json, p.tokens, g.kind, g.depth, g.from_night, g.from_round,
    g.from_ordinal, g.steps, ";
const FROM: &str = " FROM rollout r LEFT JOIN sampling s ON s.id = r.sampling_id
    LEFT JOIN prompt p ON p.id = r.prompt_id
    LEFT JOIN group_start g
        ON g.task_id = r.task_id AND g.night = r.night AND g.round = r.round";

fn rollout_of(row: &Row<'_>) -> rusqlite::Result<StoredRollout> {
    let removed: Option<u32> = row.get(23)?;
    let owners = owners_of(row)?.into_iter();
    let written = owners.filter(|(owner, _)| *owner == Owner::Model).map(|(_, tokens)| tokens);
    let rollout = Rollout {
        task_id: row.get(2)?,
        index: row.get(3)?,
        model_version: row.get(4)?,
        answer: row.get(5)?,
        stop: value::named(row, 6)?,
        queries: value::json(row, 7)?,
        retrieved: value::json(row, 8)?,
        steps: if removed.is_some() { Vec::new() } else { steps_of(row)? },
        start: group::start_of(row, 17)?,
    };
    let score = Score { exact_match: row.get(12)?, f1: row.get(13)?, reward: row.get(14)? };
    let (night, round, sampling) = (row.get(0)?, row.get(1)?, value::json_or_none(row, 15)?);
    let (model_tokens, tokens_removed_night) = (written.sum(), removed);
    Ok(StoredRollout { night, round, rollout, score, sampling, model_tokens, tokens_removed_night })
}

/// Owner and number of tokens of each step behind the prompt (column 9).
fn owners_of(row: &Row<'_>) -> rusqlite::Result<Vec<(Owner, usize)>> {
    value::json(row, 9)
}

/// The prompt (column 16), and the runs of tokens behind it (9), cut from those of all of them (10,
/// with log-probabilities in 11). None where they were removed.
pub(super) fn steps_of(row: &Row<'_>) -> rusqlite::Result<Vec<Step>> {
    if row.get_ref(10)? == ValueRef::Blob(&[]) {
        return Ok(Vec::new());
    }
    let prompt = match row.get_ref(16)? {
        ValueRef::Null => None,
        _ => {
            let (owner, tokens) = (Owner::Tool, value::tokens(row, 16)?);
            Some(Step { owner, tokens, logprobs: Vec::new() })
        }
    };
    let owners = owners_of(row)?;
    let (mut tokens, mut logprobs) = (value::tokens(row, 10)?, value::logprobs(row, 11)?);
    let of_model = |owner: Owner, n: usize| if owner == Owner::Model { n } else { 0 };
    let totals = owners
        .iter()
        .fold((0, 0), |(all, model), (owner, n)| (all + n, model + of_model(*owner, *n)));
    if totals != (tokens.len(), logprobs.len()) {
        let why = format!(
            "{} tokens and {} log-probabilities for steps of {} and {}",
            tokens.len(),
            logprobs.len(),
            totals.0,
            totals.1
        );
        return Err(value::unreadable(9, Type::Text, why));
    }
    let step = |(owner, n): (Owner, usize)| Step {
        owner,
        tokens: tokens.drain(..n).collect(),
        logprobs: logprobs.drain(..of_model(owner, n)).collect(),
    };
    Ok(prompt.into_iter().chain(owners.into_iter().map(step)).collect())
}

/// The steps of a rollout as columns.
pub(super) struct PackedSteps<'a> {
    /// The first step's tokens, if the model did not write them.
    pub(super) prompt: Option<&'a [u32]>,
    /// Owner and number of tokens of each further step, as JSON.
    pub(super) owners: String,
    /// Their tokens.
    pub(super) tokens: Vec<u8>,
    /// The log-probabilities of those that the model wrote.
    pub(super) logprobs: Vec<u8>,
}

impl<'a> PackedSteps<'a> {
    pub(super) fn new(steps: &'a [Step]) -> Self {
        let (prompt, rest) = match steps.split_first() {
            Some((first, rest)) if first.owner == Owner::Tool => (Some(first), rest),
            _ => (None, steps),
        };
        let owners: Vec<Value> =
            rest.iter().map(|step| json!([step.owner, step.tokens.len()])).collect();
        let tokens: Vec<u32> = rest.iter().flat_map(|step| step.tokens.iter().copied()).collect();
        let logprobs: Vec<f32> =
            rest.iter().flat_map(|step| step.logprobs.iter().copied()).collect();
        Self {
            prompt: prompt.map(|step| step.tokens.as_slice()),
            owners: Value::from(owners).to_string(),
            tokens: value::pack_tokens(&tokens),
            logprobs: value::pack_logprobs(&logprobs),
        }
    }
}

/// Stores a prompt unless it is there; returns its id.
pub(super) fn put_prompt(tx: &Transaction<'_>, tokens: &[u32]) -> rusqlite::Result<String> {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    let id = blake3::hash(&bytes).to_hex()[..32].to_string();
    if !tx.prepare_cached("SELECT 1 FROM prompt WHERE id = ?1")?.exists([&id])? {
        tx.prepare_cached("INSERT INTO prompt (id, tokens) VALUES (?1, ?2)")?
            .execute(params![id, value::pack_tokens(tokens)])?;
    }
    Ok(id)
}

/// The rollouts that `condition` selects, by night, round, task and place in the group.
pub(super) fn select(
    tx: &Transaction<'_>,
    condition: &str,
    arguments: impl Params,
) -> Result<Vec<StoredRollout>, Failure> {
    let removed = tokens::removed_night("r.night");
    let order = "ORDER BY r.night, r.round, r.task_id, r.ordinal";
    let sql = format!("{ROLLOUT}{removed}{FROM} WHERE {condition} {order}");
    let mut statement = tx.prepare_cached(&sql)?;
    let rollouts = statement.query_map(arguments, rollout_of)?;
    Ok(rollouts.collect::<Result<_, _>>()?)
}

impl ArchiveReader {
    /// All rollouts of one task, by night, round and place in the group.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn rollouts_of(&self, task_id: &str) -> Result<Vec<StoredRollout>, ArchiveError> {
        self.read(|tx| select(tx, "r.task_id = ?1", [task_id]))
    }

    /// The rollouts of one task in one round, by place in the group.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn group(
        &self,
        task_id: &str,
        night: u32,
        round: u32,
    ) -> Result<Vec<StoredRollout>, ArchiveError> {
        let condition = "r.task_id = ?1 AND r.night = ?2 AND r.round = ?3";
        self.read(|tx| select(tx, condition, params![task_id, night, round]))
    }

    /// The rollouts of one round of a night, by task and place in the group: what a trainer that
    /// was interrupted goes on from.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn rollouts_in(&self, night: u32, round: u32) -> Result<Vec<StoredRollout>, ArchiveError> {
        self.read(|tx| select(tx, "r.night = ?1 AND r.round = ?2", [night, round]))
    }
}

impl Archive {
    /// Stores scored rollouts of one round, all drawn as `sampling` says, and adds them to their
    /// tasks' counts. Returns false, and changes nothing, when the unit is already there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when a task, a model version or a rollout that one starts
    /// from is unknown, a model token lacks its log-probability, or a score is not a number.
    pub fn record_rollouts(
        &self,
        unit: &Unit<'_>,
        round: u32,
        sampling: &Value,
        rollouts: &[(Rollout, Score)],
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            let sampling_id = put_sampling(tx, sampling)?;
            let mut plays: BTreeMap<(&str, &str), (u32, u32)> = BTreeMap::new();
            for (rollout, score) in rollouts {
                put_rollout(tx, (unit.night, round), &sampling_id, rollout, score)?;
                group::put_start(tx, (unit.night, round), rollout)?;
                let play = (rollout.task_id.as_str(), rollout.model_version.as_str());
                let (attempts, solved) = plays.entry(play).or_default();
                *attempts += 1;
                // Exact match is 0 or 1; the half tells them apart without comparing floats.
                *solved += u32::from(score.exact_match >= 0.5);
            }
            plays.into_iter().try_for_each(|(play, counts)| add_play(tx, play, counts))
        })
    }
}

pub(super) fn put_sampling(tx: &Transaction<'_>, sampling: &Value) -> Result<String, Failure> {
    let text = sampling.to_string();
    let id = content_id(&["sampling", &text]);
    tx.prepare_cached(
        "INSERT INTO sampling (id, settings_json) VALUES (?1, ?2) ON CONFLICT (id) DO NOTHING",
    )?
    .execute(params![id, text])?;
    Ok(id)
}

/// Every token of the model has a log-probability, and no other has.
pub(super) fn check_logprobs(whose: &str, steps: &[Step]) -> Result<(), Failure> {
    for (ordinal, step) in steps.iter().enumerate() {
        let expected = if step.owner == Owner::Model { step.tokens.len() } else { 0 };
        if step.logprobs.len() != expected {
            return Err(Failure::inconsistent(format!(
                "{whose}: step {ordinal} has {} tokens and {} log-probabilities",
                step.tokens.len(),
                step.logprobs.len()
            )));
        }
    }
    Ok(())
}

fn put_rollout(
    tx: &Transaction<'_>,
    (night, round): (u32, u32),
    sampling_id: &str,
    rollout: &Rollout,
    score: &Score,
) -> Result<(), Failure> {
    let whose = format!("rollout {} of task {}", rollout.index, rollout.task_id);
    check_logprobs(&whose, &rollout.steps)?;
    let packed = PackedSteps::new(&rollout.steps);
    let prompt_id = packed.prompt.map(|tokens| put_prompt(tx, tokens)).transpose()?;
    tx.prepare_cached(
        "INSERT INTO rollout (task_id, night, round, ordinal, model_version, sampling_id,
             prompt_id, answer, stop, queries_json, retrieved_json, steps_json, tokens, logprobs,
             exact_match, f1, reward)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
    )?
    .execute(params![
        rollout.task_id,
        night,
        round,
        rollout.index,
        rollout.model_version,
        sampling_id,
        prompt_id,
        rollout.answer,
        rollout.stop.as_str(),
        value::json_list(&rollout.queries),
        value::json_list(&rollout.retrieved),
        packed.owners,
        packed.tokens,
        packed.logprobs,
        score.exact_match,
        score.f1,
        score.reward,
    ])?;
    Ok(())
}

/// Adds what a version made of a task to its counts.
fn add_play(
    tx: &Transaction<'_>,
    (task_id, model_version): (&str, &str),
    (attempts, solved): (u32, u32),
) -> Result<(), Failure> {
    tx.prepare_cached(
        "UPDATE task SET attempts = attempts + ?3, solved = solved + ?4, played_by = ?2
         WHERE id = ?1",
    )?
    .execute(params![task_id, model_version, attempts, solved])?;
    tx.prepare_cached(
        "INSERT INTO task_play (task_id, model_version, attempts, solved) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (task_id, model_version) DO UPDATE SET
             attempts = attempts + excluded.attempts, solved = solved + excluded.solved",
    )?
    .execute(params![task_id, model_version, attempts, solved])?;
    Ok(())
}
