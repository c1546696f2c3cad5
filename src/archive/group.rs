//! Groups of rollouts: where they began, and how they went.

use rusqlite::Row;
use rusqlite::Transaction;
use rusqlite::params;

use super::ArchiveReader;
use super::error::ArchiveError;
use super::error::Failure;
use super::value;
use crate::rollout::Rollout;
use crate::rollout::Start;
use crate::rollout::StopReason;

/// How the rollouts of one task in one round went, without their tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct FinishedGroup {
    /// The task.
    pub task_id: String,
    /// The night.
    pub night: u32,
    /// The round of that night, from 0.
    pub round: u32,
    /// The version that made them.
    pub model_version: String,
    /// The history that they began with; none where they began with the question.
    pub start: Option<Start>,
    /// Rewards of those that were not cut off.
    pub rewards: Vec<f32>,
    /// All of them.
    pub attempts: u64,
    /// Those whose answer was right.
    pub solved: u64,
}

impl FinishedGroup {
    fn place(&self) -> (&str, u32, u32) {
        (&self.task_id, self.night, self.round)
    }
}

/// The columns of `group_start` under the name `g`, which [`start_of`] reads.
pub(super) const START: &str =
    "g.kind, g.depth, g.from_night, g.from_round, g.from_ordinal, g.steps";

/// The start in six columns from `first` on, if there is one.
pub(super) fn start_of(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Start>> {
    let Some(kind) = value::named_or_none(row, first)? else { return Ok(None) };
    Ok(Some(Start {
        kind,
        depth: row.get(first + 1)?,
        night: row.get(first + 2)?,
        round: row.get(first + 3)?,
        index: row.get(first + 4)?,
        steps: row.get(first + 5)?,
    }))
}

/// Stores where the group of a rollout began; all of a group begin with the same.
pub(super) fn put_start(
    tx: &Transaction<'_>,
    (night, round): (u32, u32),
    rollout: &Rollout,
) -> Result<(), Failure> {
    let find = format!(
        "SELECT {START} FROM group_start g
         WHERE g.task_id = ?1 AND g.night = ?2 AND g.round = ?3"
    );
    let mut statement = tx.prepare_cached(&find)?;
    let mut rows = statement.query(params![rollout.task_id, night, round])?;
    let known = rows.next()?.map(|row| start_of(row, 0)).transpose()?.flatten();
    if known.is_some() || rollout.index > 0 {
        if known != rollout.start {
            let what = format!("a group of task {} to begin with one history", rollout.task_id);
            return Err(Failure::inconsistent(what));
        }
        return Ok(());
    }
    let Some(start) = &rollout.start else { return Ok(()) };
    tx.prepare_cached(
        "INSERT INTO group_start (task_id, night, round, kind, depth, from_night, from_round,
                                  from_ordinal, steps)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        rollout.task_id,
        night,
        round,
        start.kind.as_str(),
        start.depth,
        start.night,
        start.round,
        start.index,
        start.steps,
    ])?;
    Ok(())
}

impl ArchiveReader {
    /// How every group of rollouts went, by task, night and round.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn finished_groups(&self) -> Result<Vec<FinishedGroup>, ArchiveError> {
        self.read(|tx| {
            // In the order of the file, which is read from end to end: any other jumps about in it.
            // The rollouts of a group mostly stand together there.
            let mut statement = tx.prepare(&format!(
                "SELECT r.task_id, r.night, r.round, r.model_version, r.stop, r.exact_match,
                        r.reward, {START}
                 FROM rollout r NOT INDEXED LEFT JOIN group_start g
                     ON g.task_id = r.task_id AND g.night = r.night AND g.round = r.round
                 ORDER BY r.rowid"
            ))?;
            let mut groups: Vec<FinishedGroup> = Vec::new();
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let place = (value::text(row, 0)?, row.get(1)?, row.get(2)?);
                if groups.last().is_none_or(|group| group.place() != place) {
                    groups.push(FinishedGroup {
                        task_id: place.0.to_string(),
                        night: place.1,
                        round: place.2,
                        model_version: row.get(3)?,
                        start: start_of(row, 7)?,
                        rewards: Vec::new(),
                        attempts: 0,
                        solved: 0,
                    });
                }
                let Some(group) = groups.last_mut() else { continue };
                let stop: StopReason = value::named(row, 4)?;
                group.attempts += 1;
                group.solved += u64::from(row.get::<_, f64>(5)? >= 0.5);
                if !stop.is_cut() {
                    group.rewards.push(row.get(6)?);
                }
            }
            groups.sort_by(|one, other| one.place().cmp(&other.place()));
            groups.dedup_by(|more, group| {
                let same = more.place() == group.place();
                if same {
                    group.rewards.append(&mut more.rewards);
                    group.attempts += more.attempts;
                    group.solved += more.solved;
                }
                same
            });
            Ok(groups)
        })
    }
}
