//! What the model wrote for its drafts, token by token, and what that was worth.

use rusqlite::Transaction;
use rusqlite::params;
use serde_json::Value;

use super::Archive;
use super::ArchiveReader;
use super::draft;
use super::draft::GatedDraft;
use super::error::ArchiveError;
use super::error::Failure;
use super::night::Unit;
use super::rollout;
use super::rollout::PackedSteps;
use super::value;
use crate::rollout::Step;
use crate::rollout::StopReason;
use crate::task::Rejection;

/// What the model wrote for a draft.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposal {
    /// The draft with what the gate said of it.
    pub gated: GatedDraft,
    /// Tokens with their owners, the prompt first; none where they are not known.
    pub steps: Vec<Step>,
    /// Why it ended.
    pub stop: StopReason,
}

/// A draft of a round with what the model wrote, and how the night's rollouts fared at its task.
#[derive(Debug, Clone, PartialEq)]
pub struct PlayedProposal {
    /// The draft.
    pub draft_id: String,
    /// The policy that wrote it.
    pub model_version: String,
    /// The round of the night in which it was written.
    pub round: u32,
    /// How many passages its question combines.
    pub hops: usize,
    /// Why it was turned away; none for one that became a task.
    pub rejection: Option<Rejection>,
    /// Tokens with their owners; the first step is the prompt.
    pub steps: Vec<Step>,
    /// Rollouts of the night at its task.
    pub attempts: u64,
    /// Those of them whose answer was right.
    pub solved: u64,
    /// What it was worth, once that is decided.
    pub reward: Option<f32>,
}

/// What a draft was worth to its proposer.
#[derive(Debug, Clone, PartialEq)]
pub struct ProposalScore {
    /// The draft.
    pub draft_id: String,
    /// Rollouts that the reward was made from.
    pub attempts: u64,
    /// Those of them whose answer was right.
    pub solved: u64,
    /// What the trainer sees, in [0, 1].
    pub reward: f32,
}

impl ArchiveReader {
    /// The drafts that the model wrote in these rounds of a night, in the order in which they came.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn proposals(
        &self,
        night: u32,
        rounds: std::ops::RangeInclusive<u32>,
    ) -> Result<Vec<PlayedProposal>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare_cached(
                "SELECT d.id, d.model_version, p.round,
                        (SELECT count(*) FROM seed_passage s WHERE s.seed_id = d.seed_id),
                        d.rejection,
                        (SELECT count(*) FROM rollout r WHERE r.task_id = d.id AND r.night = ?1),
                        (SELECT count(*) FROM rollout r WHERE r.task_id = d.id AND r.night = ?1
                             AND r.exact_match >= 0.5),
                        p.reward, NULL, p.steps_json, p.tokens, p.logprobs, NULL, NULL, NULL, NULL,
                        prompt.tokens
                 FROM draft d JOIN proposal p ON p.draft_id = d.id
                 LEFT JOIN prompt ON prompt.id = p.prompt_id
                 WHERE d.night = ?1 AND p.round BETWEEN ?2 AND ?3 ORDER BY d.number",
            )?;
            let all = statement.query_map(params![night, rounds.start(), rounds.end()], |row| {
                Ok(PlayedProposal {
                    draft_id: row.get(0)?,
                    model_version: row.get(1)?,
                    round: row.get(2)?,
                    hops: row.get::<_, i64>(3)?.cast_unsigned() as usize,
                    rejection: value::named_or_none(row, 4)?,
                    attempts: row.get::<_, i64>(5)?.cast_unsigned(),
                    solved: row.get::<_, i64>(6)?.cast_unsigned(),
                    reward: row.get(7)?,
                    steps: rollout::steps_of(row)?,
                })
            })?;
            Ok(all.collect::<Result<_, _>>()?)
        })
    }
}

impl Archive {
    /// Stores drafts that the model wrote in a round, all drawn as `sampling` says, with what it
    /// wrote. Returns false, and changes nothing, when the unit is already there.
    ///
    /// # Errors
    /// As [`Archive::record_drafts`]; and when a token of the model lacks its log-probability.
    pub fn record_proposals(
        &self,
        unit: &Unit<'_>,
        round: u32,
        sampling: &Value,
        proposals: &[Proposal],
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            let sampling_id = rollout::put_sampling(tx, sampling)?;
            proposals.iter().try_for_each(|proposal| {
                draft::put_gated(tx, Some(unit.night), &proposal.gated)?;
                put_proposal(tx, round, &sampling_id, proposal)
            })
        })
    }

    /// Stores what drafts were worth. Returns false, and changes nothing, when the unit is already
    /// there.
    ///
    /// # Errors
    /// [`ArchiveError::Inconsistent`] when the model did not write one of them, or a reward is no
    /// number.
    pub fn record_proposal_scores(
        &self,
        unit: &Unit<'_>,
        scores: &[ProposalScore],
    ) -> Result<bool, ArchiveError> {
        self.write_unit(unit, |tx| {
            let mut update = tx.prepare_cached(
                "UPDATE proposal SET attempts = ?2, solved = ?3, reward = ?4 WHERE draft_id = ?1",
            )?;
            for score in scores {
                let ProposalScore { draft_id, attempts, solved, reward } = score;
                let counts = (attempts.cast_signed(), solved.cast_signed());
                let changed = update.execute(params![draft_id, counts.0, counts.1, reward])?;
                if changed != 1 {
                    let what = format!("draft {draft_id} to be one that the model wrote");
                    return Err(Failure::inconsistent(what));
                }
            }
            Ok(())
        })
    }
}

fn put_proposal(
    tx: &Transaction<'_>,
    round: u32,
    sampling_id: &str,
    proposal: &Proposal,
) -> Result<(), Failure> {
    let draft_id = &proposal.gated.draft.id;
    rollout::check_logprobs(&format!("draft {draft_id}"), &proposal.steps)?;
    let packed = PackedSteps::new(&proposal.steps);
    let prompt_id = packed.prompt.map(|tokens| rollout::put_prompt(tx, tokens)).transpose()?;
    tx.prepare_cached(
        "INSERT INTO proposal (draft_id, round, sampling_id, prompt_id, stop, steps_json, tokens,
                               logprobs)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        draft_id,
        round,
        sampling_id,
        prompt_id,
        proposal.stop.as_str(),
        packed.owners,
        packed.tokens,
        packed.logprobs,
    ])?;
    Ok(())
}
