//! Settings: the commented defaults, ranges, and what an older program stored.

use nightschool::config;
use nightschool::config::Adapters;
use nightschool::config::GroupKey;
use nightschool::config::ObjectiveName;
use serde_json::json;

fn with(flag: &str) -> Result<config::Settings, config::ConfigError> {
    config::load(&[], &[flag.to_string()])
}

#[test]
fn training_methods_have_names() {
    let train = config::load(&[], &[]).unwrap().train;
    assert_eq!(train.objective, ObjectiveName::PolicyGradient);
    assert_eq!((train.group_key, train.adapters), (GroupKey::Task, Adapters::Shared));
    assert_eq!((train.dropout, train.likelihood_min_reward), (0.0, 1.0));
    assert_eq!(with("train.objective=preference").unwrap().train.objective.as_str(), "preference");
    assert_eq!(with("train.adapters=per_role").unwrap().train.adapters, Adapters::PerRole);
    let error = with("train.group_key=hop").unwrap_err().to_string();
    assert!(error.contains("`train.group_key`") && error.contains("`hops`"), "{error}");
}

#[test]
fn values_outside_their_range_are_named() {
    for (flag, reason) in [
        ("train.dropout=1.0", "setting `train.dropout` is 1; it must be at least 0 and below 1"),
        ("train.dropout=-0.1", "`train.dropout` is -0.1"),
        ("train.likelihood_min_reward=1.5", "`train.likelihood_min_reward` is 1.5"),
        ("train.preference_beta=0.0", "`train.preference_beta` is 0"),
        ("train.preference_margin=0.0", "`train.preference_margin` is 0"),
        ("verify.samples=0", "`verify.samples` is 0; it must be from 1 to 64"),
        ("verify.majority=0.0", "`verify.majority` is 0"),
        ("verify.duplicate_jaccard=1.1", "`verify.duplicate_jaccard` is 1.1"),
        ("retention.checkpoints=10001", "`retention.checkpoints` is 10001"),
        ("inference.rows=0", "`inference.rows` is 0; it must be from 1 to 1024"),
        ("inference.rows=257", "`inference.rows` is 257; it must be at most half of"),
        ("inference.step_tokens=31", "`inference.step_tokens` is 31; it must be from 32"),
        ("inference.kv_mb=0", "`inference.kv_mb` is 0"),
        ("inference.queue=0", "`inference.queue` is 0"),
        ("inference.device=gpu", "`inference.device`: unknown variant `gpu`"),
    ] {
        let error = with(flag).unwrap_err().to_string();
        assert!(error.contains(reason), "{flag}: {error}");
    }
    assert_eq!(with("train.dropout=0.99").unwrap().train.dropout, 0.99);
}

#[test]
fn every_key_of_the_defaults_has_a_comment() {
    let mut described = false;
    for line in config::DEFAULTS.lines() {
        match line {
            "" => described = false,
            line if line.starts_with('#') => described = true,
            // A comment holds for the keys below it, up to the next blank line.
            line if line.starts_with('[') => {}
            line => assert!(described, "no comment above `{line}`"),
        }
    }
}

#[test]
fn settings_that_an_older_program_stored_are_completed() {
    let mut stored = serde_json::to_value(with("seed=9").unwrap()).unwrap();
    stored["train"].as_object_mut().unwrap().remove("objective");
    stored.as_object_mut().unwrap().remove("retention");
    assert_eq!(config::stored(&stored).unwrap(), with("seed=9").unwrap());
    let all = serde_json::to_value(with("train.dual_clip=2.0").unwrap()).unwrap();
    assert_eq!(config::stored(&all).unwrap(), with("train.dual_clip=2.0").unwrap());
    let error = config::stored(&json!({ "seed": "nine" })).unwrap_err().to_string();
    assert!(error.contains("the night's settings"), "{error}");
}
