//! Whether the curriculum does what it is for, on a model that is a table: tasks on a line of
//! difficulty, where what is learnt at one helps its neighbours.

use nightschool::curriculum::Entry;
use nightschool::curriculum::Exit;
use nightschool::curriculum::Measured;
use nightschool::curriculum::Sampler;
use nightschool::curriculum::Uniform;
use nightschool::curriculum::score;
use nightschool::rng;
use rand::Rng as _;

/// Tasks, from the easiest to the hardest.
const TASKS: usize = 64;
/// Tasks of a round, rollouts of each, rounds.
const PICKED: usize = 8;
const GROUP: usize = 8;
const ROUNDS: usize = 45;
/// What a group teaches at most, and how far it reaches, in tasks.
const RATE: f64 = 1.5;
const REACH: f64 = 3.0;

/// Plays and learns; returns the mean solve rate at the end, and the share of groups that taught
/// something.
fn learn(sampler: &dyn Sampler, seed: u64) -> (f64, f64) {
    let mut rng = rng::stream(seed, &["line"]);
    let mut logits: Vec<f64> = (0..TASKS).map(|i| 3.0 - 10.0 * i as f64 / 63.0).collect();
    let mut measured: Vec<Option<Measured>> = vec![None; TASKS];
    let mut taught = 0;
    for _ in 0..ROUNDS {
        let entries: Vec<Entry> = (0..TASKS)
            .map(|i| Entry {
                task_id: i.to_string(),
                attempts: 0,
                solved: 0,
                model_made: false,
                measured: measured[i],
            })
            .collect();
        for place in sampler.pick(&entries, PICKED, &mut rng).places {
            let p = 1.0 / (1.0 + (-logits[place]).exp());
            let rewards: Vec<f32> =
                (0..GROUP).map(|_| f32::from(u8::from(rng.random_bool(p)))).collect();
            let variance = score(&rewards);
            measured[place] = Some(Measured { variance, nights_ago: 0, estimated: false });
            taught += usize::from(variance > 0.0);
            for (i, logit) in logits.iter_mut().enumerate() {
                let distance = (i as f64 - place as f64) / REACH;
                *logit += RATE * variance * (-distance * distance / 2.0).exp();
            }
        }
    }
    let solved = logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).sum::<f64>();
    (solved / TASKS as f64, taught as f64 / (ROUNDS * PICKED) as f64)
}

/// Means over ten seeds.
fn mean(sampler: &dyn Sampler) -> (f64, f64) {
    let all: Vec<(f64, f64)> = (0..10).map(|seed| learn(sampler, seed)).collect();
    let mean = |of: fn(&(f64, f64)) -> f64| all.iter().map(of).sum::<f64>() / 10.0;
    (mean(|one| one.0), mean(|one| one.1))
}

#[test]
fn choosing_by_score_teaches_more_than_chance_and_than_shuffled_scores() {
    let exit = |kappa, permuted| Exit {
        kappa,
        capacity: TASKS,
        min_buffer: 0,
        selection_probability: 1.0,
        unplayed_score: 0.25,
        stale_after: 1,
        permuted,
    };
    let uniform = mean(&Uniform);
    let chosen = mean(&exit(40.0, false));
    let permuted = mean(&exit(40.0, true));
    let weak = mean(&exit(1.0, false));
    let told = format!("uniform {uniform:?}, exit {chosen:?}, permuted {permuted:?}, κ=1 {weak:?}");
    // 0.75 against 0.69 and 0.68; a seed's standard deviation is 0.02.
    assert!(chosen.0 > uniform.0 + 0.03, "{told}");
    assert!(chosen.0 > permuted.0 + 0.03, "{told}");
    assert!(chosen.1 > uniform.1 + 0.03, "more groups teach something: {told}");
    assert!((weak.0 - uniform.0).abs() < 0.02, "κ = 1 is nearly uniform: {told}");
}
