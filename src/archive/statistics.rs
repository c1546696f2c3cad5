//! Totals over tasks.

use std::collections::BTreeMap;
use std::collections::HashMap;

use rusqlite::Row;
use rusqlite::types::Type;
use rusqlite::types::ValueRef;
use serde::Serialize;

use super::ArchiveReader;
use super::error::ArchiveError;
use super::task::TaskState;
use super::value;

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

    /// The column, or two that are joined, that a group's name is made of.
    fn columns(self) -> &'static str {
        match self {
            Self::Origin => "origin, split",
            Self::Night => "coalesce(night, 'by hand'), NULL",
            Self::Kind => "kind, NULL",
            Self::Hops => "hops, NULL",
            Self::Band => "band, NULL",
            Self::State => "state, NULL",
            Self::Document | Self::Topic => "document_id, NULL",
            Self::ProposedBy => "proposed_by, NULL",
            Self::PlayedBy => "coalesce(played_by, 'none'), NULL",
        }
    }
}

/// Totals over a group of tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
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

impl TaskGroup {
    /// Counts a task.
    fn add(&mut self, state: TaskState, attempts: u64, solved: u64) {
        *match state {
            TaskState::Active => &mut self.active,
            TaskState::Stale => &mut self.stale,
            TaskState::Retired => &mut self.retired,
        } += 1;
        *match (attempts, solved) {
            (0, _) => &mut self.untried,
            (_, 0) => &mut self.never_solved,
            _ if solved < attempts => &mut self.sometimes_solved,
            _ => &mut self.always_solved,
        } += 1;
        self.attempts += attempts;
        self.solved += solved;
    }

    /// Counts the tasks of another group.
    fn merge(&mut self, other: &Self) {
        self.active += other.active;
        self.stale += other.stale;
        self.retired += other.retired;
        self.untried += other.untried;
        self.never_solved += other.never_solved;
        self.sometimes_solved += other.sometimes_solved;
        self.always_solved += other.always_solved;
        self.attempts += other.attempts;
        self.solved += other.solved;
    }
}

/// Groups by name. Those that SQLite would sort a million rows for are found by hashing.
#[derive(Default)]
struct Groups {
    numbers: BTreeMap<i64, TaskGroup>,
    /// Places in `named`.
    names: HashMap<String, usize>,
    named: Vec<TaskGroup>,
}

impl Groups {
    /// The group that the first two columns name; `name` is memory to write it to.
    fn of(&mut self, row: &Row<'_>, name: &mut String) -> rusqlite::Result<&mut TaskGroup> {
        if let ValueRef::Integer(number) = row.get_ref(0)? {
            return Ok(self.numbers.entry(number).or_default());
        }
        name.clear();
        name.push_str(value::text(row, 0)?);
        if let Some(rest) = row.get_ref(1)?.as_str_or_null()? {
            name.push_str(", ");
            name.push_str(rest);
        }
        Ok(self.named(name))
    }

    /// The group of a name.
    fn named(&mut self, name: &str) -> &mut TaskGroup {
        // An entry of the map would take a copy of every name.
        let place = match self.names.get(name) {
            Some(place) => *place,
            None => {
                self.names.insert(name.to_string(), self.named.len());
                self.named.push(TaskGroup { group: name.to_string(), ..TaskGroup::default() });
                self.named.len() - 1
            }
        };
        &mut self.named[place]
    }

    /// Puts together those that `names` gives the same name; those without one are left out.
    fn renamed(self, names: &HashMap<String, String>) -> Self {
        let mut groups = Self { numbers: self.numbers, ..Self::default() };
        for group in &self.named {
            if let Some(name) = names.get(&group.group) {
                groups.named(name).merge(group);
            }
        }
        groups
    }

    /// All of them, numbers in the order of their values, then names in theirs.
    fn sorted(mut self) -> Vec<TaskGroup> {
        self.named.sort_by(|one, other| one.group.cmp(&other.group));
        let numbers = self.numbers.into_iter();
        let numbers = numbers.map(|(number, of)| TaskGroup { group: number.to_string(), ..of });
        numbers.chain(self.named).collect()
    }
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
        let sql = format!("SELECT {}, state, attempts, solved FROM task NOT INDEXED", by.columns());
        self.read(|tx| {
            let (mut groups, mut name) = (Groups::default(), String::new());
            let mut statement = tx.prepare(&sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let named =
                    |state: &TaskState| value::text(row, 2).is_ok_and(|it| it == state.as_str());
                let state = TaskState::ALL.into_iter().find(named);
                let state =
                    state.ok_or_else(|| value::unreadable(2, Type::Text, "no state of a task"))?;
                let count = |column| row.get::<_, i64>(column).map(i64::cast_unsigned);
                groups.of(row, &mut name)?.add(state, count(3)?, count(4)?);
            }
            if by == TaskGrouping::Topic {
                let mut titles = tx.prepare("SELECT id, title FROM document")?;
                let titles = titles.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                groups = groups.renamed(&titles.collect::<Result<_, _>>()?);
            }
            Ok(groups.sorted())
        })
    }
}
