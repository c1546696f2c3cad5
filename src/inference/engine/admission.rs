//! Who starts next.
//!
//! Requests start in the order they came. One that has no room may be passed by later ones, but
//! only [`BYPASS`] times: then what runs must end first, and make room. One whose prefix another is
//! reading waits for it, and is looked at first at the next step; meanwhile it holds nothing, so
//! nothing waits for it.

use super::job::Active;
use super::job::Work;
use super::plain;
use super::scheduler::Scheduler;
use super::sequence::Sequence;
use crate::inference::GenerateError;

/// How many sequences may start while an earlier request has no room.
pub const BYPASS: usize = 16;
/// How many requests without room are looked past.
const BLOCKED: usize = 8;
/// Positions that a request waits for rather than compute them itself.
const WORTH_WAITING: usize = 16;

/// What became of a try.
enum Try {
    Started,
    /// What it needs is being computed.
    Waits,
    /// There are not enough pages.
    NoRoom,
    Failed(GenerateError),
}

impl Scheduler {
    /// Starts what can be started. Returns how many requests began or failed to.
    pub(super) fn admit(&mut self) -> usize {
        let mut begun = 0;
        let mut blocked: Vec<u64> = Vec::new();
        let mut index = 0;
        while let Some(&id) = self.queue.get(index) {
            if self.sequences.len() >= self.limits.rows || blocked.len() >= BLOCKED {
                break;
            }
            match self.try_start(id) {
                Try::Started => {
                    let Some(active) = self.active.get_mut(&id) else { break };
                    begun += usize::from(active.started == 1);
                    active.passed = 0;
                    if active.left() == 0 {
                        self.queue.remove(index);
                    }
                    for passed in &blocked {
                        if let Some(active) = self.active.get_mut(passed) {
                            active.passed += 1;
                        }
                    }
                }
                Try::Waits => index += 1,
                Try::NoRoom => {
                    blocked.push(id);
                    index += 1;
                }
                Try::Failed(error) => {
                    begun += self.fail(id, error);
                }
            }
            let full = |id: &u64| self.active.get(id).is_some_and(|a| a.passed >= BYPASS);
            if blocked.iter().any(full) {
                break;
            }
        }
        begun
    }

    /// Starts one sequence of a request, if it can be.
    fn try_start(&mut self, id: u64) -> Try {
        let Some(active) = self.active.get_mut(&id) else {
            return Try::Failed(GenerateError::Stopped("a request was lost".into()));
        };
        if active.reading {
            return Try::Waits;
        }
        let (work, version) = (active.job.work.clone(), active.job.version.known);
        let prompt = work.prompt();
        // The last token must be read, unless it was and its logits are known.
        let mut found = match active.logits {
            Some(_) => self.pages.find(version.id, prompt),
            None => self.pages.find(version.id, &prompt[..prompt.len() - 1]),
        };
        let forked = active.logits.is_some() && found.ready() == prompt.len();
        if active.logits.is_some() && !forked {
            found = self.pages.find(version.id, &prompt[..prompt.len() - 1]);
        }
        if found.planned - found.ready() >= WORTH_WAITING {
            return Try::Waits;
        }
        let Some(place) = self.pages.admit(version.id, prompt, &found, work.pages()) else {
            return Try::NoRoom;
        };
        let copied =
            place.copy.map(|copy| self.runner.copy_page(copy.from, copy.to, copy.positions));
        if let Some(Err(error)) = copied {
            self.pages.discard(place.held);
            return Try::Failed(GenerateError::Step(plain(&error)));
        }
        self.statistics.shared_positions += place.ready as u64;
        let (held, ready) = (place.held, place.ready);
        let mut sequence = Sequence::new(id, &work, active.started, version.adapter, (held, ready));
        if !forked {
            active.logits = None;
            sequence.leads = matches!(&*work, Work::Generate(_)) && active.left() > 1;
            active.reading = sequence.leads;
        }
        active.started += 1;
        self.sequences.push(sequence);
        Try::Started
    }

    /// Ends a request with an error; returns 1 if it had not begun.
    pub(super) fn fail(&mut self, id: u64, error: GenerateError) -> usize {
        let Some((active, fresh)) = self.withdraw(id) else { return 0 };
        self.outbox.push((active, Err(error)));
        fresh
    }

    /// Takes a request and its sequences out; with it, 1 if it had not begun.
    pub(super) fn withdraw(&mut self, id: u64) -> Option<(Active, usize)> {
        let mut active = self.active.remove(&id)?;
        self.queue.retain(|queued| *queued != id);
        let (gone, rest) = std::mem::take(&mut self.sequences)
            .into_iter()
            .partition(|sequence| sequence.job == id);
        self.sequences = rest;
        let gone: Vec<Sequence> = gone;
        for sequence in gone {
            let (held, outcome) = sequence.end(self.early);
            self.pages.release(held);
            active.store(outcome);
        }
        let fresh = usize::from(active.started == 0);
        Some((active, fresh))
    }
}
