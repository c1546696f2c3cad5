//! Totals over tasks.

use rusqlite::Row;
use serde::Serialize;

use super::ArchiveReader;
use super::error::ArchiveError;

/// What totals are made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskGrouping {
    /// Who wrote them, and the side of the split.
    Origin,
    /// The night in which they were accepted.
    Night,
    /// What sort of thing the answer is.
    Kind,
    /// How many passages must be combined.
    Hops,
    /// How hard play has shown them to be.
    Band,
    /// Whether they are still played.
    State,
    /// The document of their first passage.
    Document,
    /// The title of that document.
    Topic,
    /// The version that wrote them.
    ProposedBy,
    /// The version of the latest rollout.
    PlayedBy,
}

impl TaskGrouping {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Origin,
        Self::Night,
        Self::Kind,
        Self::Hops,
        Self::Band,
        Self::State,
        Self::Document,
        Self::Topic,
        Self::ProposedBy,
        Self::PlayedBy,
    ];

    /// The name used on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Night => "night",
            Self::Kind => "kind",
            Self::Hops => "hops",
            Self::Band => "band",
            Self::State => "state",
            Self::Document => "document",
            Self::Topic => "topic",
            Self::ProposedBy => "proposed-by",
            Self::PlayedBy => "played-by",
        }
    }

    /// The columns that make a group's name, joined by a comma and a blank.
    fn expression(self) -> &'static str {
        match self {
            Self::Origin => "t.origin || ', ' || t.split",
            Self::Night => "coalesce(t.night, 'by hand')",
            Self::Kind => "t.kind",
            Self::Hops => "t.hops",
            Self::Band => "t.band",
            Self::State => "t.state",
            Self::Document | Self::Topic => "t.document_id",
            Self::ProposedBy => "t.proposed_by",
            Self::PlayedBy => "coalesce(t.played_by, 'none')",
        }
    }
}

/// Totals over a group of tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskGroup {
    /// What its tasks have in common.
    pub group: String,
    /// Tasks that may be picked.
    pub active: u64,
    /// Tasks that wait to be verified again.
    pub stale: u64,
    /// Tasks that are not played any more.
    pub retired: u64,
    /// Tasks never attempted.
    pub untried: u64,
    /// Tasks attempted and never solved.
    pub never_solved: u64,
    /// Tasks solved in some attempts and not in others: those that can teach.
    pub sometimes_solved: u64,
    /// Tasks solved in every attempt.
    pub always_solved: u64,
    /// Rollouts made.
    pub attempts: u64,
    /// Rollouts whose answer matched exactly.
    pub solved: u64,
}

const TOTALS: &str = "sum(t.state = 'active') AS active, sum(t.state = 'stale') AS stale,
    sum(t.state = 'retired') AS retired, sum(t.attempts = 0) AS untried,
    sum(t.attempts > 0 AND t.solved = 0) AS never,
    sum(t.solved > 0 AND t.solved < t.attempts) AS sometimes,
    sum(t.attempts > 0 AND t.solved = t.attempts) AS always,
    sum(t.attempts) AS attempts, sum(t.solved) AS solved";

/// The totals' names.
const COLUMNS: &str = "active, stale, retired, untried, never, sometimes, always, attempts, solved";

fn group_of(row: &Row<'_>) -> rusqlite::Result<TaskGroup> {
    let count = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
    Ok(TaskGroup {
        group: row.get(0)?,
        active: count(1)?,
        stale: count(2)?,
        retired: count(3)?,
        untried: count(4)?,
        never_solved: count(5)?,
        sometimes_solved: count(6)?,
        always_solved: count(7)?,
        attempts: count(8)?,
        solved: count(9)?,
    })
}

/// How a night's rollouts fared at tasks of the same number of hops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HopGroup {
    /// Passages that a question combines.
    pub hops: u32,
    /// Tasks that were played.
    pub tasks: u64,
    /// Rollouts of them.
    pub rollouts: u64,
    /// Those whose answer was right.
    pub solved: u64,
}

impl ArchiveReader {
    /// A night's rollouts by the hops of their tasks, fewest first.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn rollouts_by_hops(&self, night: u32) -> Result<Vec<HopGroup>, ArchiveError> {
        self.read(|tx| {
            let mut statement = tx.prepare(
                "SELECT t.hops, count(DISTINCT t.id), count(*), sum(r.exact_match >= 0.5)
                 FROM rollout r JOIN task t ON t.id = r.task_id
                 WHERE r.night = ?1 GROUP BY t.hops ORDER BY t.hops",
            )?;
            let groups = statement.query_map([night], |row| {
                let count = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
                Ok(HopGroup {
                    hops: row.get(0)?,
                    tasks: count(1)?,
                    rollouts: count(2)?,
                    solved: count(3)?,
                })
            })?;
            Ok(groups.collect::<Result<_, _>>()?)
        })
    }
    /// Totals by what `by` says, for groups that have tasks, in the order of their names; numbers
    /// in that of their values.
    ///
    /// # Errors
    /// [`ArchiveError`] when the file cannot be read.
    pub fn task_stats(&self, by: TaskGrouping) -> Result<Vec<TaskGroup>, ArchiveError> {
        // All tasks are read in any case: in their own order rather than in that of an index.
        let groups = format!(
            "SELECT {} AS name, {TOTALS} FROM task t NOT INDEXED GROUP BY 1 ORDER BY 1",
            by.expression()
        );
        let sql = match by {
            // Few documents beside many tasks: their titles are looked up once for each.
            TaskGrouping::Topic => format!(
                "SELECT d.title, sum(g.active), sum(g.stale), sum(g.retired), sum(g.untried),
                        sum(g.never), sum(g.sometimes), sum(g.always), sum(g.attempts),
                        sum(g.solved)
                 FROM ({groups}) g JOIN document d ON d.id = g.name GROUP BY 1 ORDER BY 1"
            ),
            _ => format!("SELECT CAST(name AS TEXT), {COLUMNS} FROM ({groups})"),
        };
        self.read(|tx| {
            let mut statement = tx.prepare(&sql)?;
            Ok(statement.query_map([], group_of)?.collect::<Result<_, _>>()?)
        })
    }
}
