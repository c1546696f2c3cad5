//! Which tasks of the archive a proposer is shown as examples.

use std::collections::HashSet;

use crate::archive::StoredTask;
use crate::protocol::Example;
use crate::task::Origin;
use crate::task::Passage;
use crate::task::Split;
use crate::verifier::Passages;

/// Attempts from which the share of solved ones says something.
const ATTEMPTS_MIN: u64 = 4;

/// At most `n` of these tasks, the best first: of those that the model wrote and that some of at
/// least a few attempts solved, the ones solved nearest to half the time, of equal ones those with
/// more attempts. None is of the held-out side, and no two are from one document.
pub fn choose(
    tasks: impl IntoIterator<Item = StoredTask>,
    passages: &Passages,
    n: usize,
) -> Vec<Example> {
    let mut fit: Vec<(f64, StoredTask, Vec<Passage>)> = tasks
        .into_iter()
        .filter(|stored| {
            stored.task.origin == Origin::Model
                && stored.task.split == Split::Train
                && stored.attempts >= ATTEMPTS_MIN
                && (1..stored.attempts).contains(&stored.solved)
        })
        .filter_map(|stored| {
            let evidence = stored.task.evidence.iter().map(|id| passages.get(id).cloned());
            let evidence = evidence.collect::<Option<Vec<_>>>()?;
            let share = stored.solved as f64 / stored.attempts as f64;
            Some(((share - 0.5).abs(), stored, evidence))
        })
        .collect();
    fit.sort_by(|(one, a, _), (other, b, _)| {
        one.total_cmp(other)
            .then(b.attempts.cmp(&a.attempts))
            .then_with(|| a.task.id.cmp(&b.task.id))
    });
    let mut documents: HashSet<String> = HashSet::new();
    let mut chosen = Vec::new();
    for (_, StoredTask { task, .. }, passages) in fit {
        if chosen.len() == n {
            break;
        }
        if passages.iter().any(|passage| documents.contains(&passage.document_id)) {
            continue;
        }
        documents.extend(passages.iter().map(|passage| passage.document_id.clone()));
        let (task_id, question, answer) = (task.id, task.question, task.answer);
        chosen.push(Example { task_id, passages, question, answer });
    }
    chosen
}
