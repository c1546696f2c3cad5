//! Objectives and advantages against torch: `scripts/make_objective_fixtures.py` made the values.

use candle_core::Device;
use candle_core::Tensor;
use candle_core::Var;
use nightschool::config::GroupKey;
use nightschool::config::Role;
use nightschool::model::ops::TokenScores;
use nightschool::trainer::batch::Target;
use nightschool::trainer::batch::Totals;
use nightschool::trainer::objective::Advantage;
use nightschool::trainer::objective::Objective;
use nightschool::trainer::objective::advantage::Baselines;
use nightschool::trainer::objective::pool;
use nightschool::trainer::objective::pool::RewardGroup;
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    sequence: Vec<u32>,
    logprobs: Vec<f32>,
    old_logprobs: Vec<f32>,
    sampled_logprobs: Vec<f32>,
    base_logprobs: Vec<f32>,
    entropies: Vec<f32>,
    advantages: Vec<f32>,
    cases: Vec<Case>,
    groups: Vec<Group>,
    reinforce: Vec<Vec<f32>>,
    round: Round,
}

#[derive(Deserialize)]
struct Round {
    groups: Vec<Stratified>,
    cases: Vec<Pooled>,
}

#[derive(Deserialize)]
struct Stratified {
    hops: usize,
    rewards: Vec<f32>,
}

#[derive(Deserialize)]
struct Pooled {
    rule: Advantage,
    key: GroupKey,
    advantages: Vec<Option<Vec<f32>>>,
}

#[derive(Deserialize)]
struct Case {
    objective: String,
    settings: serde_json::Value,
    loss: f32,
    logprob_gradient: Vec<f32>,
    entropy_gradient: Vec<f32>,
}

#[derive(Deserialize)]
struct Group {
    rewards: Vec<f32>,
    grpo: Vec<f32>,
    grpo_sample: Vec<f32>,
    dr_grpo: Vec<f32>,
    leave_one_out: Vec<f32>,
}

fn fixture() -> Fixture {
    serde_json::from_str(include_str!("../fixtures/objectives.json")).unwrap()
}

impl Case {
    fn objective(&self) -> Objective {
        let settings = self.settings.clone();
        match self.objective.as_str() {
            "likelihood" => Objective::Likelihood,
            "policy_gradient" => {
                Objective::PolicyGradient(serde_json::from_value(settings).unwrap())
            }
            "preference" => Objective::Preference(serde_json::from_value(settings).unwrap()),
            other => panic!("no objective {other}"),
        }
    }
}

fn assert_near(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(error < 1e-5 * (1.0 + expected.abs()), "{what}, {index}: {found} for {expected}");
    }
}

#[test]
fn losses_and_gradients_equal_torch() {
    let f = fixture();
    let length = |sequence| f.sequence.iter().filter(|s| **s == sequence).count();
    let totals = Totals { targets: f.sequence.len(), sequences: 4 };
    for case in &f.cases {
        let objective = case.objective();
        // Without a correction the sampler's log-probabilities are the old policy's.
        let corrected = case.settings.get("correction").is_some();
        let targets: Vec<Target> = (0..f.sequence.len())
            .map(|i| Target {
                row: 0,
                token: 0,
                sampled_logprob: Some(f.sampled_logprobs[i]),
                old_logprob: corrected.then(|| f.old_logprobs[i]),
                advantage: f.advantages[i],
                weight: objective.weight(totals, length(f.sequence[i])),
                sequence: f.sequence[i],
            })
            .collect();
        let columns = f.logprobs.iter().zip(&f.entropies);
        let rows: Vec<f32> = columns.flat_map(|(l, e)| [*l, *e]).collect();
        let scores = Var::from_vec(rows, (f.sequence.len(), 2), &Device::Cpu).unwrap();
        let base = Tensor::new(f.base_logprobs.as_slice(), &Device::Cpu).unwrap();
        let policy = TokenScores { scores: scores.as_tensor().clone() };
        let (loss, _) = objective.loss(&policy, Some(&base), &targets).unwrap();
        let gradients = loss.backward().unwrap();
        let gradient = gradients.get(scores.as_tensor()).unwrap().to_vec2::<f32>().unwrap();
        let column = |side: usize| gradient.iter().map(|row| row[side]).collect::<Vec<_>>();
        let what = format!("{} {}", case.objective, case.settings);
        assert_near(&[loss.to_scalar().unwrap()], &[case.loss], &what);
        assert_near(&column(0), &case.logprob_gradient, &what);
        assert_near(&column(1), &case.entropy_gradient, &what);
    }
}

#[test]
fn advantages_equal_torch() {
    let f = fixture();
    let mut baselines = Baselines::default();
    for (group, reinforce) in f.groups.iter().zip(&f.reinforce) {
        for (rule, expected) in [
            (Advantage::Grpo, &group.grpo),
            (Advantage::GrpoSample, &group.grpo_sample),
            (Advantage::DrGrpo, &group.dr_grpo),
            (Advantage::LeaveOneOut, &group.leave_one_out),
            (Advantage::Reinforce, reinforce),
        ] {
            let found = rule.of(&group.rewards, "solver/hops 1", &mut baselines).unwrap();
            assert_near(&found, expected, &format!("{rule:?}"));
        }
    }
}

#[test]
fn each_stratum_has_its_own_baseline() {
    let mut baselines = Baselines::default();
    let mut ask = |stratum| Advantage::Reinforce.of(&[1.0], stratum, &mut baselines).unwrap()[0];
    assert_eq!([ask("solver/hops 1"), ask("solver/hops 2")], [1.0, 1.0]);
    assert!((ask("solver/hops 1") - 0.95).abs() < 1e-6);
}

#[test]
fn advantages_by_group_key_equal_torch() {
    let round = fixture().round;
    let groups: Vec<RewardGroup> = round
        .groups
        .into_iter()
        .map(|Stratified { hops, rewards }| RewardGroup { rewards, hops })
        .collect();
    assert_eq!(round.cases.len(), 5 * 3);
    for case in &round.cases {
        let found =
            pool::advantages(case.rule, case.key, Role::Solver, &groups, &mut Baselines::default());
        assert_eq!(found.len(), case.advantages.len());
        for (index, (found, expected)) in found.iter().zip(&case.advantages).enumerate() {
            let what = format!("{:?} by {:?}, group {index}", case.rule, case.key);
            match (found, expected) {
                (Some(found), Some(expected)) => assert_near(found, expected, &what),
                (found, expected) => assert_eq!(found, expected, "{what}"),
            }
        }
    }
}
