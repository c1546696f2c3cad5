//! Curriculum: which tasks are played next, where their rollouts begin, and which are left out; how
//! hot they are drawn. `docs/curriculum.md` has the formulas.

pub mod balance;
mod exit;
mod mixture;
mod rest;
mod sampler;

pub use self::exit::Exit;
pub use self::exit::effective_sample_size;
pub use self::exit::score;
pub use self::mixture::demonstration_share;
pub use self::mixture::whole_steps;
pub use self::rest::Change;
pub use self::rest::Played;
pub use self::rest::Since;
pub use self::rest::change;
pub use self::sampler::Choice;
pub use self::sampler::Entry;
pub use self::sampler::Learnability;
pub use self::sampler::Measured;
pub use self::sampler::Sampler;
pub use self::sampler::Scored;
pub use self::sampler::Spread;
pub use self::sampler::Uniform;
pub use self::sampler::sampler;

/// How many of the `n` places of round `round`, from 0, a share of all places comes to. Over the
/// rounds it is the share as nearly as whole numbers can be.
pub fn places(share: f64, n: usize, round: u32) -> usize {
    let until = |rounds: u32| (share * n as f64 * f64::from(rounds) + 1e-9).floor() as usize;
    until(round + 1) - until(round)
}
