//! Parking tasks that nobody solves and resting those that everybody does, by rule.

use crate::config::Curriculum;
use crate::task::Standing;
use crate::task::StandingReason;

/// A group of rollouts at a task, begun with its question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// The night.
    pub night: u32,
    /// The round of that night.
    pub round: u32,
    /// The version that played.
    pub model_version: String,
    /// Rollouts.
    pub attempts: u64,
    /// Those whose answer was right.
    pub solved: u64,
}

/// A standing, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// What the task is.
    pub standing: Standing,
    /// The night in which it became that.
    pub night: u32,
    /// The round before which it did.
    pub round: u32,
}

/// A change that a rule asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// What the task is from now on.
    pub standing: Standing,
    /// Why.
    pub reason: StandingReason,
    /// Attempts that it was decided by.
    pub attempts: u64,
    /// Those of them that solved it.
    pub solved: u64,
}

/// What the rules make of a task in `night`: none where it stays as it is. `since` is its standing,
/// none where it was always active; `played` are all its groups, first to last; `promoted` is the
/// last night before that promoted a model.
///
/// Only groups since the last change count, of them those of the `recent_versions` latest.
pub fn change(
    settings: &Curriculum,
    night: u32,
    since: Option<Since>,
    played: &[Played],
    promoted: Option<u32>,
) -> Option<Change> {
    let standing = since.map_or(Standing::Active, |since| since.standing);
    let (attempts, solved) = recent(settings, since, played);
    let to = |standing, reason| Some(Change { standing, reason, attempts, solved });
    let enough = solved as f64 >= settings.retire_solved * attempts as f64;
    match (standing, since) {
        (Standing::Active, _) | (_, None) => {
            let (park, rest) = (settings.park_after, settings.retire_attempts);
            if park > 0 && attempts >= park && solved == 0 {
                return to(Standing::Parked, StandingReason::Unsolved);
            }
            if rest > 0 && attempts >= rest && enough {
                return to(Standing::Resting, StandingReason::Solved);
            }
            None
        }
        (Standing::Parked, Some(since)) => {
            if settings.park_after == 0 {
                return to(Standing::Active, StandingReason::RuleOff);
            }
            if promoted.is_some_and(|promoted| promoted >= since.night) {
                return to(Standing::Active, StandingReason::Promoted);
            }
            let due = night.saturating_sub(since.night) >= settings.retry_after;
            if due { to(Standing::Active, StandingReason::RetryDue) } else { None }
        }
        (Standing::Resting, Some(_)) => {
            if settings.retire_attempts == 0 {
                return to(Standing::Active, StandingReason::RuleOff);
            }
            let forgotten = attempts > 0 && !enough;
            if forgotten { to(Standing::Active, StandingReason::Forgotten) } else { None }
        }
    }
}

/// Attempts since the last change by the latest versions, and those of them that solved the task.
fn recent(settings: &Curriculum, since: Option<Since>, played: &[Played]) -> (u64, u64) {
    let mut versions: Vec<&str> = Vec::new();
    let (mut attempts, mut solved) = (0, 0);
    for group in played.iter().rev() {
        if since.is_some_and(|since| (group.night, group.round) < (since.night, since.round)) {
            break;
        }
        if !versions.contains(&group.model_version.as_str()) {
            if versions.len() == settings.recent_versions {
                break;
            }
            versions.push(&group.model_version);
        }
        attempts += group.attempts;
        solved += group.solved;
    }
    (attempts, solved)
}
