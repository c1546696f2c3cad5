//! How a step's room for prompts is shared.

/// Shares `budget` tokens among prompts that have so many `left` to read, oldest first.
///
/// The oldest is given half. The rest goes to those that are nearest to their end, so that a short
/// prompt does not wait for long ones; what they leave, to the others. So every prompt gets on: it
/// is near its end, or it becomes the oldest.
pub fn share(budget: usize, left: &[usize]) -> Vec<usize> {
    let mut given = vec![0; left.len()];
    let Some(oldest) = left.first() else { return given };
    given[0] = budget.div_ceil(2).min(*oldest);
    let mut rest = budget - given[0];
    let mut by_length: Vec<usize> = (0..left.len()).collect();
    by_length.sort_by_key(|index| left[*index] - given[*index]);
    for index in by_length {
        let more = rest.min(left[index] - given[index]);
        given[index] += more;
        rest -= more;
    }
    given
}
