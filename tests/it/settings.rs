//! Settings: the commented defaults, ranges, and what an older program stored.

use nightschool::config;
use nightschool::config::Adapters;
use nightschool::config::GroupKey;
use nightschool::config::ObjectiveName;
use nightschool::config::ProposerMethod;
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
        ("worker.silence_s=1", "`worker.silence_s` is 1; it must be from 2 to 86400"),
        ("worker.failures=0", "`worker.failures` is 0; it must be from 1 to 100"),
        ("inference.rows=0", "`inference.rows` is 0; it must be from 1 to 1024"),
        ("inference.rows=257", "`inference.rows` is 257; it must be at most half of"),
        ("inference.step_tokens=31", "`inference.step_tokens` is 31; it must be from 32"),
        ("inference.kv_mb=0", "`inference.kv_mb` is 0"),
        ("inference.queue=0", "`inference.queue` is 0"),
        ("inference.device=gpu", "`inference.device`: unknown variant `gpu`"),
        ("propose.method=seeded", "`propose.method`: unknown variant `seeded`"),
        ("propose.hops=0", "`propose.hops` is 0; it must be from 1 to 4"),
        ("propose.hops=5", "`propose.hops` is 5"),
        ("propose.hops=two", "`propose.hops`: expected a number of passages, or a list of weights"),
        ("propose.hops=[]", "`propose.hops` is []; weights must be at most 4"),
        ("propose.hops=[0, 0.0]", "`propose.hops` is [0.0, 0.0]"),
        ("propose.hops=[1, -0.5]", "`propose.hops` is [1.0, -0.5]"),
        ("propose.hops=[1, 1, 1, 1, 1]", "`propose.hops` is [1.0, 1.0"),
        ("propose.hops=[nan]", "`propose.hops` is [NaN]"),
        ("propose.turns=17", "`propose.turns` is 17; it must be from 0 to 16"),
        ("propose.archive_examples=17", "`propose.archive_examples` is 17"),
    ] {
        let error = with(flag).unwrap_err().to_string();
        assert!(error.contains(reason), "{flag}: {error}");
    }
    assert_eq!(with("train.dropout=0.99").unwrap().train.dropout, 0.99);
}

#[test]
fn hops_are_a_number_or_weights() {
    let counts =
        |hops: &str, n| with(&format!("propose.hops={hops}")).unwrap().propose.hops.counts(n);
    assert_eq!(counts("1", 400), [400]);
    assert_eq!(counts("3", 7), [0, 0, 7]);
    assert_eq!(counts("[0.7, 0.2, 0.1]", 400), [280, 80, 40]);
    assert_eq!(counts("[4, 3, 2, 1]", 9), [3, 3, 2, 1], "of 3.6, 2.7, 1.8 and 0.9");
    assert_eq!(counts("[1, 0, 1]", 3), [2, 0, 1], "of equal remainders that of fewer passages");
    assert_eq!(counts("[1, 1]", 0), [0, 0]);
    let stored = serde_json::to_value(with("propose.hops=[0.5, 0.5]").unwrap()).unwrap();
    assert_eq!(stored["propose"]["hops"], json!([0.5, 0.5]));
    assert_eq!(config::stored(&stored).unwrap(), with("propose.hops=[0.5, 0.5]").unwrap());
}

#[test]
fn a_proposer_that_writes_the_answer_too_does_not_search() {
    let flags = ["propose.method=document_seeded", "propose.turns=3"].map(String::from);
    let error = config::load(&[], &flags).unwrap_err().to_string();
    assert!(error.contains("`propose.turns` is 3; with `propose.method` = \"document_seeded\""));
    let propose = with("propose.method=document_seeded").unwrap().propose;
    assert_eq!(propose.prompt(false), "propose_document");
    assert_eq!(propose.prompt(true), "propose_document_bare");
    let propose = with("propose.turns=3").unwrap().propose;
    assert_eq!((propose.method, propose.turns), (ProposerMethod::AnswerSeeded, 3));
    assert_eq!(propose.prompt(true), "propose_bare");
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

#[test]
fn who_is_told_is_not_stored_with_a_night() {
    let defaults = config::load(&[], &[]).unwrap();
    assert_eq!(defaults.notify, config::Notify::default());
    let told = with("notify.webhook=https://example.org/T0P/SECRET").unwrap();
    assert!(told.notify.is_on() && !defaults.notify.is_on());
    let stored = serde_json::to_value(&told).unwrap();
    assert!(!stored.to_string().contains("T0P"), "{stored}");
    assert_eq!(config::stored(&stored).unwrap(), defaults);
    for (flag, reason) in [
        ("notify.command=[\"mail\", \"-s\"]", "must begin with the whole path of a program"),
        ("notify.webhook=ftp://example.org/T0P", "it must begin with http:// or https://"),
        ("notify.webhook_secret=T0P/s3cret", "must be the path of a file, or the name of"),
        ("notify.timeout_s=0", "is 0; it must be from 1 to 50"),
        ("notify.outcomes=[\"done\"]", "unknown variant `done`"),
        ("disk.floor_gb=-1", "`disk.floor_gb` is -1; it must be from 0"),
    ] {
        let error = with(flag).unwrap_err().to_string();
        assert!(error.contains(reason) && !error.contains("T0P"), "{flag}: {error}");
    }
}
