//! What keeps promotions honest: general text, the sealed suite, demotion.

use super::School;

/// A warm start after which the model says 7 to everything, which is right here.
const LEARN: [&str; 5] = [
    "warm_start.steps=60",
    "warm_start.learning_rate=0.05",
    "solve.rounds=0",
    "propose.model_drafts=0",
    "evaluate.resamples=500",
];
/// One that leaves nothing of what the model could.
const BREAK: [&str; 4] = [
    "warm_start.steps=20",
    "warm_start.learning_rate=0.9",
    "solve.rounds=0",
    "evaluate.resamples=500",
];

#[test]
fn what_training_does_to_general_text_is_measured_before_a_version_goes_live() {
    let school = School::counting();
    // Its base says little but digits, so that anything it learns makes it better at English.
    let report = school.finish_with(&[&LEARN[..], &["evaluate.text_loss_rise_max=0"]].concat());
    assert_eq!(report["promoted"], true, "{report:#}");
    let loss = |of: &str| report["guards"][of].as_f64().unwrap();
    let (base, candidate) = (loss("text_loss_base"), loss("text_loss_candidate"));
    // ln 257 is the loss of one that knows nothing.
    assert!(base > 257_f64.ln() && (1.0..base).contains(&candidate), "{base} {candidate}");
    let stored = school.json(&["archive", "sql", "SELECT count(*), min(tokens) FROM text_loss"]);
    assert_eq!(stored["rows"][0]["count(*)"], 2, "{stored:#}");
    assert_eq!(stored["rows"][0]["min(tokens)"], 36 * 63, "{stored:#}");
}

#[test]
fn the_sealed_suite_is_read_when_it_is_due_and_asks_about_other_documents() {
    let school = School::counting();
    let settings = [
        &LEARN[..],
        &["evaluate.text_loss_rise_max=100", "heldout.sealed_every=2", "heldout.documents=0.5"],
    ]
    .concat();
    let first = school.finish_with(&settings);
    assert_eq!(first["promoted"], true, "{first:#}");
    assert!(first["guards"]["sealed"].is_null());
    let second = school.finish_with(&settings);
    let sealed = &second["guards"]["sealed"];
    assert_eq!(sealed["model_version"], first["live"]);
    // All that can be learnt here helps everywhere.
    assert_eq!(sealed["drifted"], false, "{sealed:#}");
    assert!(sealed["sealed_gain"].as_f64().unwrap() > 0.2, "{sealed:#}");
    let documents = |suite: &str| {
        let suite = school.json(&["suite", "show", suite]);
        let questions = suite["questions"].as_array().unwrap().clone();
        let document = |item: &serde_json::Value| item["source_document"].to_string();
        questions.iter().map(document).collect::<std::collections::BTreeSet<_>>()
    };
    let (open, sealed) = (documents("model-made"), documents("model-made-sealed"));
    assert!(!sealed.is_empty() && open.is_disjoint(&sealed));
    let text =
        String::from_utf8(school.command(&["run", "show"]).output().unwrap().stdout).unwrap();
    assert!(text.contains("Sealed suite: ") && text.contains("General text: loss"), "{text}");
}

#[test]
fn a_live_version_that_proves_worse_gives_way_to_the_one_before_it() {
    let school = School::asking();
    let first = school.finish_with(&BREAK);
    assert_eq!(first["promoted"], false);
    let base = first["live"].as_str().unwrap().to_string();
    // A person's mistake, or a corpus that has changed since.
    let promoted = school.command(&["model", "promote", "night1-warm"]).output().unwrap();
    assert!(promoted.status.success(), "{}", String::from_utf8_lossy(&promoted.stderr));
    let kept = school.finish_with(&[&BREAK[..], &["evaluate.demote=false"]].concat());
    assert_eq!(kept["live"], "night1-warm");
    let report = school.finish_with(&BREAK);
    let [demotion] = &report["guards"]["demotions"].as_array().unwrap()[..] else {
        panic!("{report:#}");
    };
    assert_eq!(demotion["model_version"], "night1-warm");
    assert_eq!(demotion["successor"], base.as_str());
    assert!(demotion["ci"][1].as_f64().unwrap() < 0.0);
    assert_eq!(report["live"], base.as_str(), "and training went on from there");
    assert_eq!(report["candidate"], "night3-warm");
    let text =
        String::from_utf8(school.command(&["run", "show"]).output().unwrap().stdout).unwrap();
    assert!(text.contains("DEMOTED: night1-warm proved worse than"), "{text}");
    school.archive().check().unwrap();
}

#[test]
fn a_night_killed_after_a_demotion_ends_the_same() {
    let school = School::asking();
    let settings = ["heldout.sealed_every=1", "propose.model_drafts=8", "solve.rounds=1"];
    let night = [&BREAK[..], &settings].concat();
    let prepare = || {
        school.finish_with(&BREAK);
        school.set_live("night1-warm");
    };
    prepare();
    school.finish_with(&night);
    let digest = school.digest();
    school.begin_again();
    prepare();
    for line in ["started: drafts by the model", "started: evaluation of"] {
        super::kill_at(school.night_with(&night), line);
    }
    let report = school.finish();
    assert_eq!(report["guards"]["demotions"].as_array().unwrap().len(), 1);
    assert_eq!(school.digest(), digest, "the archive's content");
}
