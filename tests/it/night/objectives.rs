//! Nights under each objective: it trains, it is recorded, and what it leaves out is counted.

use nightschool::archive::TrainPhase;
use nightschool::archive::TrainStep;
use serde_json::Value;

use super::School;

/// Rounds and groups large enough that the model is right now and then.
const PLAY: [&str; 6] = [
    "warm_start.steps=2",
    "solve.tasks=12",
    "solve.rollouts=6",
    "solve.max_tokens=6",
    "train.groups=4",
    "solve.temperature=1.0",
];

fn play(school: &School, settings: &[&str]) -> (Value, Vec<TrainStep>) {
    let report = school.finish_with(&[&PLAY[..], settings].concat());
    let steps = school.archive().train_steps(1).unwrap();
    (report, steps.into_iter().filter(|step| step.phase == TrainPhase::Policy).collect())
}

fn left_out(report: &Value, reason: &str) -> u64 {
    report["train"]["groups_left_out"][reason].as_u64().unwrap_or(0)
}

#[test]
fn each_objective_trains_and_counts_what_it_leaves_out() {
    for (objective, settings, absent) in [
        ("policy_gradient", &["train.kl_coefficient=0.0"][..], &[][..]),
        ("likelihood", &["train.likelihood_min_reward=0.6"], &["kl", "clip_fraction", "corrected"]),
        ("preference", &["train.preference_margin=0.6"], &["clip_fraction", "corrected"]),
    ] {
        let school = School::counting();
        let setting = format!("train.objective={objective}");
        let (report, steps) = play(&school, &[&[setting.as_str()], settings].concat());
        let train = &report["train"];
        assert_eq!(train["objective"], objective);
        assert!(!steps.is_empty(), "{objective}: {train}");
        assert_eq!(train["policy_steps"], steps.len());
        assert_eq!((&train["skipped_steps"], &train["stopped"]), (&0.into(), &Value::Null));
        let reasons = train["groups_left_out"].as_object().unwrap().values();
        let all = train["groups_trained"].as_u64().unwrap()
            + reasons.map(|n| n.as_u64().unwrap()).sum::<u64>();
        assert_eq!(train["groups"], all, "{objective}: every group is trained on or counted");
        assert_eq!(all, 24, "two rounds of twelve");
        let counted = ["no_variance", "below_min_reward", "below_margin"]
            .map(|why| left_out(&report, why) > 0);
        assert!(counted.contains(&true), "{objective}: {train}");
        for step in &steps {
            assert_eq!(step.objective.as_str(), objective);
            assert!(step.metrics["loss"].is_number() && step.metrics["entropy"].is_number());
            assert!(step.metrics["ratio_max"].as_f64() >= step.metrics["ratio"].as_f64());
            for measure in ["kl", "clip_fraction", "corrected"] {
                let taken = step.metrics.get(measure).is_some_and(Value::is_number);
                assert_eq!(taken, !absent.contains(&measure), "{objective}, {measure}");
            }
        }
        // It learnt: the round's version is not the one behind the warm start.
        let adapters = school.adapters();
        let weights = |version: &str| {
            let name = format!("{version}/adapter_model.safetensors");
            &adapters.iter().find(|(path, _)| *path == name).unwrap().1
        };
        assert_ne!(weights("night1-warm"), weights("night1-round1"), "{objective}");
    }
}

#[test]
fn groups_are_compared_as_the_key_says() {
    for (key, advantage) in [("hops", "grpo"), ("round", "grpo_sample"), ("round", "reinforce")] {
        let school = School::counting();
        let key = format!("train.group_key={key}");
        let advantage = format!("train.advantage={advantage}");
        let (report, steps) = play(&school, &[&key, &advantage]);
        // Rewards vary over a round, so no group is without a comparison, whatever its own are.
        assert!(report["train"]["groups_without_variance"].as_u64().unwrap() > 0);
        assert_eq!(left_out(&report, "no_variance"), 0, "{}", report["train"]);
        assert!(steps.len() >= 5, "{} steps", steps.len());
    }
}
