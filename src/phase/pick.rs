//! The tasks of a round: which are played, and where their rollouts begin. Chosen once and kept,
//! because playing them changes what the choice is made from.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use rand::seq::SliceRandom;
use serde::Deserialize;
use serde::Serialize;

use super::night::Night;
use crate::archive::FinishedGroup;
use crate::archive::StandingChange;
use crate::archive::StoredTask;
use crate::config::SamplerName;
use crate::curriculum;
use crate::curriculum::Entry;
use crate::curriculum::Measured;
use crate::curriculum::Played;
use crate::curriculum::Scored;
use crate::curriculum::Since;
use crate::curriculum::Spread;
use crate::curriculum::places;
use crate::rng;
use crate::rollout::Start;
use crate::solver::Instance;
use crate::task::Origin;
use crate::task::Standing;

/// Why a task is played in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PickReason {
    /// The model wrote it tonight, and nobody has tried it.
    New,
    /// It rests, and may have been forgotten.
    Rehearsed,
    /// Its rollouts go on from an earlier one.
    Started,
    /// The sampler chose it.
    Sampled,
}

/// A task of a round.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Pick {
    /// The task.
    pub(super) task_id: String,
    /// Why it is played.
    pub(super) reason: PickReason,
    /// Where its rollouts begin.
    pub(super) start: Option<Start>,
    /// What it, or its start, was drawn by, where the sampler draws by score.
    pub(super) scored: Option<Scored>,
    /// At which share of solved attempts it came to rest; of one that rests.
    pub(super) solved_then: Option<f64>,
}

/// The tasks of a round, and what they were chosen from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Picks {
    /// By which sampler.
    pub(super) sampler: SamplerName,
    /// Tasks that it could choose.
    pub(super) eligible: Option<usize>,
    /// Effective sample size of the distribution over them.
    pub(super) effective_sample_size: Option<f64>,
    /// Tasks that were left out because nobody solves them.
    pub(super) parked: usize,
    /// Tasks that rest.
    pub(super) resting: usize,
    /// Those of `tasks` that were made by code.
    #[serde(default)]
    pub(super) code_made: usize,
    /// The tasks, in the order in which they are played.
    pub(super) tasks: Vec<Pick>,
}

impl Pick {
    /// One that begins with its question.
    pub(super) fn of(task_id: &str, reason: PickReason) -> Self {
        let task_id = task_id.to_string();
        Self { task_id, reason, start: None, scored: None, solved_then: None }
    }
}

/// How the tasks of an archive fared, by task.
type Groups = BTreeMap<String, Vec<FinishedGroup>>;

impl Night<'_> {
    /// The tasks of a round: the model's new ones, whose worth is to be found out, then others.
    pub(super) fn pick(&self, round: u32) -> anyhow::Result<Vec<Instance>> {
        let mut tasks = self.training_tasks()?;
        let picks = match self.picks(round)? {
            Some(picks) => picks,
            None => {
                let picks = self.choose(round, &tasks)?;
                self.archive.put_meta(&self.picks_key(round), &serde_json::to_string(&picks)?)?;
                picks
            }
        };
        tracing::info!(
            round,
            sampler = picks.sampler.as_str(),
            tasks = picks.tasks.len(),
            eligible = picks.eligible,
            effective_sample_size = picks.effective_sample_size,
            "picked"
        );
        let mut instances = Vec::with_capacity(picks.tasks.len());
        for Pick { task_id, start, .. } in picks.tasks {
            let Some(StoredTask { task, .. }) = tasks.remove(&task_id) else { continue };
            match start {
                None => instances.push(Instance::from(task)),
                // What it goes on from may have been taken out since.
                Some(start) => instances.extend(
                    self.history(&task.id, start)?
                        .map(|history| Instance { task, history: Some(history) }),
                ),
            }
        }
        Ok(instances)
    }

    fn picks_key(&self, round: u32) -> String {
        format!("picks/{}/{round}", self.number)
    }

    /// What was picked for a round, if that was done.
    pub(super) fn picks(&self, round: u32) -> anyhow::Result<Option<Picks>> {
        let Some(stored) = self.archive.meta(&self.picks_key(round))? else { return Ok(None) };
        // Ids alone are what programs kept that knew one sampler.
        if let Ok(ids) = serde_json::from_str::<Vec<String>>(&stored) {
            return Ok(Some(Picks {
                sampler: SamplerName::Learnability,
                eligible: None,
                effective_sample_size: None,
                parked: 0,
                resting: 0,
                code_made: 0,
                tasks: ids.into_iter().map(|id| Pick::of(&id, PickReason::Sampled)).collect(),
            }));
        }
        Ok(Some(serde_json::from_str(&stored)?))
    }

    fn choose(&self, round: u32, tasks: &BTreeMap<String, StoredTask>) -> anyhow::Result<Picks> {
        let settings = &self.settings.curriculum;
        let mut groups = Groups::new();
        if settings.looks_back() {
            for group in self.archive.finished_groups()? {
                groups.entry(group.task_id.clone()).or_default().push(group);
            }
        }
        let standings = self.standings(round, tasks, &groups)?;
        let is = |id: &str, what| {
            standings.get(id).map_or(Standing::Active, |change| change.standing) == what
        };
        let n = self.settings.solve.tasks;
        let mut picked: Vec<Pick> = new_tasks(tasks, self.number).take(n).collect();
        let taken = |picked: &[Pick]| -> BTreeSet<String> {
            picked.iter().map(|pick| pick.task_id.clone()).collect()
        };

        let mut resting: Vec<&str> =
            tasks.keys().map(String::as_str).filter(|id| is(id, Standing::Resting)).collect();
        let rested = resting.len();
        resting.shuffle(&mut self.picks_rng("rehearsal", round));
        resting.truncate(places(settings.rehearsal_share, n, round).min(n - picked.len()));
        picked.extend(resting.into_iter().map(|id| rehearsed(&standings[id])));

        let active: BTreeMap<&str, &StoredTask> = tasks
            .iter()
            .map(|(id, stored)| (id.as_str(), stored))
            .filter(|(id, _)| is(id, Standing::Active))
            .collect();
        let wanted = places(settings.improve_share, n, round).min(n - picked.len());
        let started = self.starts(round, wanted, &active, &groups, &taken(&picked))?;
        picked.extend(started);

        let others = taken(&picked);
        let free: Vec<&StoredTask> =
            active.into_values().filter(|stored| !others.contains(&stored.task.id)).collect();
        let entries: Vec<Entry> = free.iter().map(|stored| self.entry(stored, &groups)).collect();
        let by_code = |id: &str| tasks.get(id).is_some_and(|one| one.task.origin == Origin::Code);
        let spread = self.sample(round, &entries, by_code, &mut picked);
        Ok(Picks {
            sampler: settings.sampler,
            eligible: spread.map(|spread| spread.eligible),
            effective_sample_size: spread.map(|spread| spread.effective),
            parked: tasks.keys().filter(|id| is(id, Standing::Parked)).count(),
            resting: rested,
            code_made: picked.iter().filter(|pick| by_code(&pick.task_id)).count(),
            tasks: picked,
        })
    }

    /// Fills the places that are left with tasks that the sampler chooses, among them no more made
    /// by code than a round may have, and says what it drew from.
    fn sample(
        &self,
        round: u32,
        entries: &[Entry],
        by_code: impl Fn(&str) -> bool,
        picked: &mut Vec<Pick>,
    ) -> Option<Spread> {
        let settings = &self.settings.curriculum;
        let n = self.settings.solve.tasks;
        let most = places(settings.code_share, n, round);
        let mut code_made = picked.iter().filter(|pick| by_code(&pick.task_id)).count();
        // Below 1 it puts all in order, so that others can take the places of those made by code.
        let wanted = if settings.code_share < 1.0 { entries.len() } else { n - picked.len() };
        let sampler = curriculum::sampler(settings);
        let choice = sampler.pick(entries, wanted, &mut self.picks_rng("picks", round));
        for (drawn, place) in choice.places.iter().enumerate() {
            let task_id = &entries[*place].task_id;
            let is_code_made = by_code(task_id);
            if picked.len() < n && (!is_code_made || code_made < most) {
                code_made += usize::from(is_code_made);
                let scored = choice.scores.get(drawn).copied();
                picked.push(Pick { scored, ..Pick::of(task_id, PickReason::Sampled) });
            }
        }
        choice.spread
    }

    fn picks_rng(&self, purpose: &str, round: u32) -> rng::Rng {
        rng::stream(self.seed(), &[purpose, &round.to_string()])
    }

    /// A task as the sampler sees it.
    fn entry(&self, stored: &StoredTask, groups: &Groups) -> Entry {
        let mut latest = groups.get(&stored.task.id).into_iter().flatten();
        let latest = latest.rfind(|group| group.start.is_none());
        Entry {
            task_id: stored.task.id.clone(),
            attempts: stored.attempts,
            solved: stored.solved,
            model_made: stored.task.origin == Origin::Model,
            measured: latest.map(|group| self.measured(group, false)),
        }
    }

    /// What a group says of the entry that it was played at, or, as an estimate, of one that starts
    /// from it.
    pub(super) fn measured(&self, group: &FinishedGroup, estimated: bool) -> Measured {
        Measured {
            variance: curriculum::score(&group.rewards),
            nights_ago: self.number.saturating_sub(group.night),
            estimated,
        }
    }

    /// The standings of all tasks before a round, with the changes that the rules ask for, which
    /// are stored.
    fn standings(
        &self,
        round: u32,
        tasks: &BTreeMap<String, StoredTask>,
        groups: &Groups,
    ) -> anyhow::Result<BTreeMap<String, StandingChange>> {
        let settings = &self.settings.curriculum;
        let mut standings = self.archive.standings()?;
        let key = format!("{round:04}");
        if self.done("standings", &key)? {
            return Ok(standings);
        }
        let promotions = self.archive.promotions()?.into_iter();
        let earlier = promotions.filter(|one| one.promoted && one.night < self.number);
        let promoted = earlier.map(|promotion| promotion.night).max();
        let mut changes = Vec::new();
        for id in tasks.keys() {
            let since = standings.get(id).map(|change| Since {
                standing: change.standing,
                night: change.night,
                round: change.round,
            });
            let of_task = groups.get(id).into_iter().flatten();
            let played: Vec<Played> =
                of_task.filter(|group| group.start.is_none()).map(played).collect();
            let change = curriculum::change(settings, self.number, since, &played, promoted);
            changes.extend(change.map(|change| StandingChange {
                task_id: id.clone(),
                night: self.number,
                round,
                standing: change.standing,
                reason: change.reason,
                attempts: change.attempts,
                solved: change.solved,
            }));
        }
        if !changes.is_empty() {
            self.archive.record_standings(&self.unit("standings", &key), &changes)?;
        }
        standings.extend(changes.into_iter().map(|change| (change.task_id.clone(), change)));
        Ok(standings)
    }
}

/// The tasks that the model wrote in this night and nobody has tried.
fn new_tasks(tasks: &BTreeMap<String, StoredTask>, night: u32) -> impl Iterator<Item = Pick> {
    let is_new = move |stored: &&StoredTask| {
        let task = &stored.task;
        (task.origin, task.night) == (Origin::Model, Some(night)) && stored.attempts == 0
    };
    tasks.values().filter(is_new).map(|stored| Pick::of(&stored.task.id, PickReason::New))
}

fn played(group: &FinishedGroup) -> Played {
    Played {
        night: group.night,
        round: group.round,
        model_version: group.model_version.clone(),
        attempts: group.attempts,
        solved: group.solved,
    }
}

/// A resting task that is played to see whether it still is solved.
fn rehearsed(change: &StandingChange) -> Pick {
    let solved_then = Some(change.solved as f64 / change.attempts.max(1) as f64);
    Pick { solved_then, ..Pick::of(&change.task_id, PickReason::Rehearsed) }
}
