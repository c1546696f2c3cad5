//! Verifying tasks again whose evidence changed: the same question and answer, against what the
//! documents say now.

use std::collections::HashSet;

use super::gate::Models;
use super::night::Night;
use crate::answer;
use crate::archive::PassageDetail;
use crate::archive::TaskDetail;
use crate::archive::TaskFilter;
use crate::archive::TaskState;
use crate::archive::Verified;
use crate::progress::Progress;
use crate::task::Passage;
use crate::verifier::Candidate;
use crate::verifier::KnownQuestion;
use crate::verifier::KnownQuestions;
use crate::verifier::ModelChecks;
use crate::verifier::RuleChecks;
use crate::verifier::minhash::Signature;

/// Tasks per unit of work.
const UNIT: usize = 16;

/// The question itself is in the archive, and no duplicate of itself; others were accepted beside
/// it.
struct NothingKnown;

impl KnownQuestions for NothingKnown {
    fn contains(&self, _question: &str) -> anyhow::Result<bool> {
        Ok(false)
    }

    fn alike(&self, _: &Signature, _matches: usize) -> anyhow::Result<Vec<KnownQuestion>> {
        Ok(Vec::new())
    }
}

impl Night<'_> {
    /// Takes every stale task through the gate again.
    pub(super) fn verify_stale(&self) -> anyhow::Result<()> {
        const PHASE: &str = "verify_stale";
        if self.done(PHASE, "all")? {
            return Ok(());
        }
        let stale = TaskFilter { state: Some(TaskState::Stale), ..TaskFilter::default() };
        let stale = self.archive.tasks(&stale)?;
        let progress = Progress::start("tasks whose evidence changed", stale.len() as u64);
        // The first of them names the unit: those done before are not stale any more.
        for tasks in stale.chunks(UNIT) {
            self.check_interrupt()?;
            let Some(first) = tasks.first() else { break };
            let details = tasks.iter().map(|stored| self.archive.task_detail(&stored.task.id));
            let details: Vec<TaskDetail> = details.collect::<Result<_, _>>()?;
            let verified = self.verified(&details)?;
            let unit = self.unit(PHASE, &first.task.id);
            self.archive.record_verifications(&unit, &verified)?;
            progress.advance(tasks.len() as u64);
        }
        self.archive.record_unit(&self.unit(PHASE, "all"))?;
        Ok(())
    }

    fn verified(&self, details: &[TaskDetail]) -> anyhow::Result<Vec<Verified>> {
        let mut candidates: Vec<Candidate> = details
            .iter()
            .map(|detail| {
                let mut draft = detail.draft.clone();
                draft.seed.path = self.evidence_now(detail);
                let mut candidate = Candidate::new(draft);
                // What it decided about when the draft came, it decides about again.
                candidate.model_decides |= detail.verdicts.iter().any(ModelChecks::decided);
                candidate
            })
            .collect();
        // Each on its own: that it resembles another was no reason when the two came.
        for candidate in &mut candidates {
            RuleChecks::new(&self.settings.verify, &self.passages, &NothingKnown).run(candidate);
        }
        let base = self.base()?;
        let models = Models { with_documents: &base, from_memory: &base };
        self.tonights_gate().ask_model(&mut candidates, models)?;
        Ok(candidates
            .into_iter()
            .map(|candidate| Verified {
                task_id: candidate.draft.id,
                evidence: candidate.draft.seed.path,
                verdicts: candidate.verdicts,
            })
            .collect())
    }

    /// The passages that stand now for those that a task rested on; those that nothing stands for
    /// are left as they were, and the gate turns the task away.
    fn evidence_now(&self, detail: &TaskDetail) -> Vec<String> {
        let last = detail.passages.len().saturating_sub(1);
        let answer = &detail.task.task.answer;
        let now = |(place, old): (usize, &PassageDetail)| {
            if self.passages.contains_key(&old.passage.id) {
                return old.passage.id.clone();
            }
            let needed = (place == last).then_some(answer.as_str());
            let found = self.closest(&old.passage, needed);
            found.map_or_else(|| old.passage.id.clone(), |passage| passage.id.clone())
        };
        detail.passages.iter().enumerate().map(now).collect()
    }

    /// The passage of the same document that shares most words with an old one, among those that
    /// hold the answer if one is needed.
    fn closest(&self, old: &Passage, needed: Option<&str>) -> Option<&Passage> {
        let words = |text: &str| -> HashSet<String> {
            answer::normalise(text).split(' ').map(String::from).collect()
        };
        let before = words(&old.text);
        self.passages
            .values()
            .filter(|passage| passage.document_id == old.document_id)
            .filter(|passage| needed.is_none_or(|answer| answer::contains(&passage.text, answer)))
            .max_by_key(|passage| {
                let shared = words(&passage.text).intersection(&before).count();
                // Of equal ones the first, whatever the order of the map.
                (shared, std::cmp::Reverse(passage.ordinal))
            })
    }
}
