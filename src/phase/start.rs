//! Starts within tasks: earlier rollouts from which a group goes on, and what happened in them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use rand::Rng as _;
use rand::seq::IndexedRandom as _;

use super::night::Night;
use super::pick::Pick;
use super::pick::PickReason;
use crate::archive::FinishedGroup;
use crate::archive::StoredRollout;
use crate::archive::StoredTask;
use crate::config::ProtocolName;
use crate::curriculum;
use crate::curriculum::Entry;
use crate::protocol::blocks;
use crate::rng;
use crate::rollout::Rollout;
use crate::rollout::Start;
use crate::rollout::StartKind;
use crate::solver::History;
use crate::task::Origin;
use crate::task::Passage;

impl Night<'_> {
    /// Up to `wanted` active tasks, other than those in `taken`, whose groups start from an earlier
    /// rollout. Every finished group has one start, a rollout of it, from which a deeper group can
    /// go on; the sampler chooses among all of these, and a task is played once.
    pub(super) fn starts(
        &self,
        round: u32,
        wanted: usize,
        active: &BTreeMap<&str, &StoredTask>,
        groups: &BTreeMap<String, Vec<FinishedGroup>>,
        taken: &BTreeSet<String>,
    ) -> anyhow::Result<Vec<Pick>> {
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let free = active.iter().filter(|(id, _)| !taken.contains(**id));
        let sources: Vec<(&StoredTask, &FinishedGroup)> = free
            .flat_map(|(id, stored)| {
                groups.get(*id).into_iter().flatten().map(move |one| (*stored, one))
            })
            .collect();
        let entries: Vec<Entry> = sources
            .iter()
            .map(|(stored, source)| self.start_entry(stored, source, groups))
            .collect();
        let sampler = curriculum::sampler(&self.settings.curriculum);
        let round = round.to_string();
        let mut rng = rng::stream(self.seed(), &["starts", &round]);
        // All in the order of the draws: some may have nothing to go on from.
        let choice = sampler.pick(&entries, entries.len(), &mut rng);
        let (mut picked, mut used) = (Vec::new(), BTreeSet::new());
        for (drawn, place) in choice.places.into_iter().enumerate() {
            let (_, source) = sources[place];
            if picked.len() == wanted {
                break;
            }
            if used.contains(&source.task_id) {
                continue;
            }
            let mut rng = rng::stream(self.seed(), &["start", &round, &source.task_id]);
            let Some(start) = self.start_from(source, &mut rng)? else { continue };
            used.insert(&source.task_id);
            let scored = choice.scores.get(drawn).copied();
            let pick = Pick::of(&source.task_id, PickReason::Started);
            picked.push(Pick { start: Some(start), scored, ..pick });
        }
        Ok(picked)
    }

    /// A start as the sampler sees it: by its own latest group, or, as long as there is none, by
    /// the group that it starts from.
    fn start_entry(
        &self,
        stored: &StoredTask,
        source: &FinishedGroup,
        groups: &BTreeMap<String, Vec<FinishedGroup>>,
    ) -> Entry {
        let goes_on = |group: &&FinishedGroup| {
            group.start.is_some_and(|one| (one.night, one.round) == (source.night, source.round))
        };
        let own: Vec<&FinishedGroup> =
            groups.get(&source.task_id).into_iter().flatten().filter(goes_on).collect();
        let latest = own.last().copied();
        let all = if own.is_empty() { vec![source] } else { own };
        Entry {
            task_id: source.task_id.clone(),
            attempts: all.iter().map(|group| group.attempts).sum(),
            solved: all.iter().map(|group| group.solved).sum(),
            model_made: stored.task.origin == Origin::Model,
            measured: Some(self.measured(latest.unwrap_or(source), latest.is_none())),
        }
    }

    /// The start that a group has, and how it is gone on from this time; none where none of its
    /// rollouts came to something that can be gone on from.
    fn start_from(
        &self,
        source: &FinishedGroup,
        rng: &mut rng::Rng,
    ) -> anyhow::Result<Option<Start>> {
        let (night, round) = (source.night, source.round);
        let rollouts = self.archive.group(&source.task_id, night, round)?;
        let fit: Vec<&StoredRollout> =
            rollouts.iter().filter(|stored| self.can_start(&stored.rollout)).collect();
        // Always the same one: with its rollout the start would become another.
        let place = [night, round].map(|number| number.to_string());
        let parts = ["start of", &source.task_id, &place[0], &place[1]];
        let mut which = rng::stream(self.settings.seed, &parts);
        let Some(stored) = fit.choose(&mut which) else { return Ok(None) };
        let diverges = rng.random::<f64>() < self.settings.curriculum.diverge_probability;
        let (kind, steps) = match self.settings.solve.protocol {
            ProtocolName::Blocks => {
                let cuts = blocks::cuts(&self.outline.tokenizer, &stored.rollout.steps);
                (StartKind::Continue, cuts.choose(rng).map(|steps| *steps as u32))
            }
            ProtocolName::ScriptedSearch if diverges => (StartKind::Diverge, None),
            ProtocolName::ScriptedSearch => (StartKind::Improve, None),
        };
        let index = stored.rollout.index;
        let depth = source.start.map_or(0, |start| start.depth) + 1;
        Ok(Some(Start { kind, depth, night, round, index, steps }))
    }

    /// Whether a group can go on from a rollout: it came to an answer, or, in blocks, searched; and
    /// what it was shown is still in the corpus.
    fn can_start(&self, rollout: &Rollout) -> bool {
        let there = rollout.retrieved.iter().all(|id| self.passages.contains_key(id));
        let fit = match self.settings.solve.protocol {
            ProtocolName::ScriptedSearch => {
                rollout.answer.is_some() && !rollout.stop.is_cut() && !rollout.retrieved.is_empty()
            }
            ProtocolName::Blocks => {
                !blocks::cuts(&self.outline.tokenizer, &rollout.steps).is_empty()
            }
        };
        there && fit
    }

    /// What happened before a start; none where the rollout, something that it was shown, or
    /// tokens that are to be gone on from have been taken out.
    pub(super) fn history(&self, task_id: &str, start: Start) -> anyhow::Result<Option<History>> {
        let group = self.archive.group(task_id, start.night, start.round)?;
        let Some(stored) = group.into_iter().find(|one| one.rollout.index == start.index) else {
            return Ok(None);
        };
        if start.steps.is_some() && stored.tokens_removed_night.is_some() {
            return Ok(None);
        }
        let mut rollout = stored.rollout;
        let passages = rollout.retrieved.iter().map(|id| self.passages.get(id).cloned());
        let Some(passages) = passages.collect::<Option<Vec<Passage>>>() else { return Ok(None) };
        if let Some(kept) = start.steps {
            let kept = kept as usize;
            let (tokenizer, queries) = (&self.outline.tokenizer, rollout.queries);
            rollout.queries = blocks::queries_until(tokenizer, &rollout.steps, kept, queries);
            rollout.steps.truncate(kept);
        }
        Ok(Some(History {
            start,
            queries: rollout.queries,
            passages,
            answer: rollout.answer.unwrap_or_default(),
            steps: rollout.steps,
        }))
    }
}
