//! How much is learnt from demonstrations, in tasks made by code, while the game is played.

use crate::config::WarmStart;

/// Steps on demonstrations for each step of the game, when a home is `age` nights old and has so
/// many training tasks made by code, and so many that the model wrote: the share of the settings,
/// halved with every half-life, times the part of the tasks that was made by code.
pub fn demonstration_share(
    settings: &WarmStart,
    age: f64,
    code_tasks: usize,
    own_tasks: usize,
) -> f64 {
    let half_lives = match settings.share_half_life {
        nights if nights > 0.0 => age / nights,
        _ => 0.0,
    };
    let part = code_tasks as f64 / (code_tasks + own_tasks).max(1) as f64;
    settings.share * (-half_lives).exp2() * part
}

/// How many whole steps a share of `steps` comes to, with what earlier rounds left over, and what
/// is left over now: over the rounds it is the share as nearly as whole numbers can be.
pub fn whole_steps(share: f64, steps: usize, left_over: f64) -> (usize, f64) {
    let exact = share * steps as f64 + left_over;
    // Ten times a tenth is a whole step, whatever rounding makes of it.
    let whole = ((exact + 1e-9).floor() as usize).min(steps);
    (whole, exact - whole as f64)
}
