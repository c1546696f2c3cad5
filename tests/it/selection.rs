//! What of a round's rollouts is trained on, by objective.

use std::collections::BTreeMap;

use nightschool::archive::StoredRollout;
use nightschool::config;
use nightschool::config::Settings;
use nightschool::config::Train;
use nightschool::phase::selection;
use nightschool::phase::selection::ChosenGroup;
use nightschool::phase::selection::Counts;
use nightschool::phase::selection::LeftOut;
use nightschool::phase::selection::PlayedGroup;
use nightschool::rollout::Owner;
use nightschool::rollout::Rollout;
use nightschool::rollout::Score;
use nightschool::rollout::Step;
use nightschool::rollout::StopReason;
use nightschool::trainer::batch::Example;
use nightschool::trainer::objective::advantage::Baselines;

const PROMPT: [u32; 3] = [7, 8, 9];

fn settings(flags: &[&str]) -> Settings {
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_string()).collect();
    config::load(&[], &flags).unwrap()
}

fn train(flags: &[&str]) -> Train {
    settings(flags).train
}

/// What is chosen where every group is admitted.
fn select(
    train: &Train,
    groups: Vec<PlayedGroup>,
    baselines: &mut Baselines,
) -> (Vec<ChosenGroup>, Counts) {
    let Settings { reward, curriculum, .. } = settings(&[]);
    selection::select(train, &reward, &curriculum, groups, baselines)
}

/// A rollout that wrote token `index` and then was given a passage.
fn rollout(index: u32, reward: f32) -> StoredRollout {
    let step = |owner, tokens: &[u32], logprobs: &[f32]| Step {
        owner,
        tokens: tokens.to_vec(),
        logprobs: logprobs.to_vec(),
    };
    let rollout = Rollout {
        task_id: "task".into(),
        index,
        model_version: "base".into(),
        steps: vec![
            step(Owner::Tool, &PROMPT, &[]),
            step(Owner::Model, &[index], &[-0.5]),
            step(Owner::Tool, &[50, 51], &[]),
            step(Owner::Model, &[60], &[-0.25]),
        ],
        queries: Vec::new(),
        retrieved: Vec::new(),
        answer: None,
        stop: StopReason::EndOfText,
        start: None,
    };
    let score = Score { exact_match: 0.0, f1: reward, reward };
    let model_tokens = rollout.model_tokens();
    StoredRollout {
        night: 1,
        round: 0,
        rollout,
        score,
        sampling: None,
        model_tokens,
        tokens_removed_night: None,
    }
}

fn group(hops: usize, rewards: &[f32]) -> PlayedGroup {
    let rollouts = rewards.iter().enumerate().map(|(i, reward)| rollout(i as u32, *reward));
    PlayedGroup { hops, rollouts: rollouts.collect() }
}

fn cut_off(mut group: PlayedGroup, which: &[usize]) -> PlayedGroup {
    which.iter().for_each(|index| group.rollouts[*index].rollout.stop = StopReason::Length);
    group
}

/// For each example, the rollout (its first token) and advantage of each branch.
fn chosen(groups: &[ChosenGroup]) -> Vec<Vec<(u32, f32)>> {
    let branches = |example: &Example| {
        example.branches.iter().map(|branch| (branch.tokens[0], branch.advantage)).collect()
    };
    groups.iter().map(|group| branches(&group.example)).collect()
}

fn counts(trained: usize, left_out: &[(LeftOut, usize)]) -> Counts {
    Counts { trained, left_out: BTreeMap::from_iter(left_out.iter().copied()) }
}

#[test]
fn likelihood_takes_what_is_good_enough() {
    let groups = || {
        vec![
            group(1, &[1.0, 0.5, 1.0]),
            group(1, &[0.9, 0.2]),
            cut_off(group(1, &[1.0, 1.0, 0.0]), &[0, 1]),
            cut_off(group(1, &[1.0, 1.0]), &[0, 1]),
        ]
    };
    let strict = train(&["train.objective=likelihood"]);
    let (examples, counted) = select(&strict, groups(), &mut Baselines::default());
    assert_eq!(chosen(&examples), [[(0, 1.0), (2, 1.0)]]);
    assert_eq!(counted, counts(1, &[(LeftOut::BelowMinReward, 2), (LeftOut::CutOff, 1)]));
    let lenient = train(&["train.objective=likelihood", "train.likelihood_min_reward=0.9"]);
    let (examples, counted) = select(&lenient, groups(), &mut Baselines::default());
    assert_eq!(chosen(&examples), [vec![(0, 1.0), (2, 1.0)], vec![(0, 1.0)]]);
    assert_eq!(counted.trained, 2);
}

#[test]
fn preference_pairs_the_best_with_the_worst() {
    let preference = train(&["train.objective=preference", "train.preference_margin=0.5"]);
    let groups = vec![
        group(1, &[0.5, 0.0, 1.0, 0.0, 1.0]),
        group(1, &[0.5, 0.5]),
        group(1, &[0.5, 0.25]),
        group(1, &[0.25, 0.75]),
        group(1, &[0.75]),
    ];
    let (examples, counted) = select(&preference, groups, &mut Baselines::default());
    // The better one first, as the objective takes pairs; of equal ones the first.
    assert_eq!(chosen(&examples), [[(2, 1.0), (1, -1.0)], [(1, 1.0), (0, -1.0)]]);
    assert_eq!(counted, counts(2, &[(LeftOut::NoVariance, 2), (LeftOut::BelowMargin, 1)]));
}

#[test]
fn the_policy_gradient_takes_all_by_advantage() {
    let groups = || vec![group(1, &[1.0, 0.0]), group(2, &[0.0, 0.0]), group(1, &[1.0, 1.0])];
    let by_task = train(&["train.advantage=dr_grpo"]);
    let (examples, counted) = select(&by_task, groups(), &mut Baselines::default());
    assert_eq!(chosen(&examples), [[(0, 0.5), (1, -0.5)]]);
    assert_eq!(counted, counts(1, &[(LeftOut::NoVariance, 2)]));
    // Among all with one hop, the third group is better than most.
    let by_hops = train(&["train.advantage=dr_grpo", "train.group_key=hops"]);
    let (examples, counted) = select(&by_hops, groups(), &mut Baselines::default());
    assert_eq!(chosen(&examples), [[(0, 0.25), (1, -0.75)], [(0, 0.25), (1, 0.25)]]);
    assert_eq!(counted, counts(2, &[(LeftOut::NoVariance, 1)]));
    let by_round = train(&["train.advantage=dr_grpo", "train.group_key=round"]);
    let (examples, counted) = select(&by_round, groups(), &mut Baselines::default());
    assert_eq!(
        chosen(&examples),
        [[(0, 0.5), (1, -0.5)], [(0, -0.5), (1, -0.5)], [(0, 0.5), (1, 0.5)]]
    );
    assert_eq!(counted, counts(3, &[]));
    let equal = vec![group(1, &[0.5, 0.5]), group(2, &[0.5])];
    let (examples, counted) = select(&by_round, equal, &mut Baselines::default());
    assert!(examples.is_empty());
    assert_eq!(counted, counts(0, &[(LeftOut::NoVariance, 2)]));
}

#[test]
fn branches_hold_what_followed_the_prompt() {
    let (examples, _) = select(&train(&[]), vec![group(1, &[1.0, 0.0])], &mut Baselines::default());
    assert_eq!(examples[0].example.prompt, PROMPT);
    let branch = &examples[0].example.branches[1];
    assert_eq!(branch.tokens, [1, 50, 51, 60]);
    assert_eq!(branch.owned, [true, false, false, true]);
    assert_eq!(branch.sampled_logprobs, [-0.5, 0.0, 0.0, -0.25]);
    let mut strange = group(1, &[1.0, 0.0]);
    strange.rollouts[1].rollout.steps[0].tokens = vec![1];
    let (examples, counted) = select(&train(&[]), vec![strange], &mut Baselines::default());
    assert!(examples.is_empty());
    assert_eq!(counted, counts(0, &[(LeftOut::PromptsDiffer, 1)]));
}

#[test]
fn only_groups_that_the_curriculum_admits_are_trained_on() {
    let solved = |mut group: PlayedGroup| {
        for stored in &mut group.rollouts {
            stored.score.exact_match = f32::from(u8::from(stored.score.reward >= 1.0));
        }
        group
    };
    let groups = || {
        [&[1.0, 0.5, 0.0][..], &[0.5, 0.0, 0.0], &[1.0, 1.0, 1.0], &[0.5, 0.4, 0.5]]
            .map(|rewards| solved(group(1, rewards)))
            .to_vec()
    };
    let admit = |flags: &[&str]| {
        let settings = settings(flags);
        let mut baselines = Baselines::default();
        let Settings { train, reward, curriculum, .. } = &settings;
        selection::select(train, reward, curriculum, groups(), &mut baselines).1
    };
    assert_eq!(admit(&[]), counts(3, &[(LeftOut::NoVariance, 1)]));
    assert_eq!(admit(&["curriculum.admit=mixed"]), counts(1, &[(LeftOut::NotMixed, 3)]));
    // The variances are 0.167, 0.056, 0 and 0.002.
    assert_eq!(admit(&["curriculum.admit=learnable"]), counts(2, &[(LeftOut::BelowMinScore, 2)]));
    let strict = ["curriculum.admit=learnable", "curriculum.min_score=0.1"];
    assert_eq!(admit(&strict), counts(1, &[(LeftOut::BelowMinScore, 3)]));
    // What was cut off does not make a group mixed.
    let settings = settings(&["curriculum.admit=mixed"]);
    let cut = vec![cut_off(solved(group(1, &[1.0, 1.0, 0.0])), &[2])];
    let (_, counted) = selection::select(
        &settings.train,
        &settings.reward,
        &settings.curriculum,
        cut,
        &mut Baselines::default(),
    );
    assert_eq!(counted, counts(0, &[(LeftOut::NotMixed, 1)]));
}
