//! A night with all checks of the gate.

use std::fs;

use nightschool::verifier::CHECKS;
use serde_json::Value;

use super::School;

/// All checks, on drafts that an asking model writes.
const ALL: [&str; 10] = [
    "propose.model_drafts=40",
    "warm_start.steps=2",
    "verify.min_words=1",
    "verify.min_chars=3",
    "verify.duplicate_jaccard=0.8",
    "verify.evidence_needed=true",
    "verify.uniqueness=true",
    "verify.samples=3",
    "verify.majority=0.5",
    "verify.temperature=0.2",
];

/// A school whose model finds the answer when it is shown a passage, and not otherwise: its prompts
/// end with what it answers to.
fn reading() -> School {
    let school = School::asking();
    let prompt = "{% for passage in passages %}{{ passage.text }}\n{% endfor %}\n===\n\
                  {{ question }} {% if passages %}:{% else %}-{% endif %}\n";
    for name in ["few_shot", "bare"] {
        fs::write(school.home().join(format!("prompts/{name}.jinja")), prompt).unwrap();
    }
    school
}

fn count(counts: &Value, name: &str) -> u64 {
    counts[name].as_u64().unwrap()
}

#[test]
fn the_report_says_how_many_came_to_each_check_and_how_many_it_turned_away() {
    let school = reading();
    let report = school.finish_with(&ALL);
    let model = &report["origin"]["model"];
    let gate = model["gate"].as_array().unwrap();
    let names: Vec<&str> = gate.iter().filter_map(|counts| counts["check"].as_str()).collect();
    assert_eq!(names, CHECKS, "{model}");
    // Who is not turned away comes to the next one; who is left is accepted.
    let left = gate.iter().fold(count(model, "drafts"), |came, counts| {
        assert_eq!((count(counts, "drafts"), count(counts, "recorded")), (came, 0), "{model}");
        came - count(counts, "rejected")
    });
    assert_eq!(left, count(model, "accepted"));
    assert!(left > 0, "{model}");
    // Of those made by code the model's checks turn none away.
    let code = report["origin"]["code"]["gate"].as_array().unwrap();
    let recorded = code.iter().find(|counts| counts["check"] == "rag").unwrap();
    assert_eq!((count(recorded, "rejected"), count(recorded, "drafts") <= 4), (0, true));
    let archive = school.archive();
    archive.check().unwrap();
    // Every sample is kept.
    let tasks = school.json(&["task", "list", "--origin", "model"]);
    let id = tasks["tasks"][0]["id"].as_str().unwrap();
    let (_, verdicts) = archive.draft(id).unwrap();
    let rag = verdicts.iter().find(|verdict| verdict.check == "rag").unwrap();
    assert_eq!(rag.evidence["answers"].as_array().unwrap().len(), 3);
}

#[test]
fn a_night_killed_at_the_gate_goes_on_to_the_same_end() {
    let school = reading();
    school.finish_with(&ALL);
    let (digest, adapters) = (school.digest(), school.adapters());
    school.begin_again();
    for line in [
        "started: tasks made by code",
        "started: drafts by the model, and their gate, round 1",
        "started: drafts by the model, and their gate, round 2",
    ] {
        super::kill_at(school.night_with(&ALL), line);
    }
    school.finish();
    assert_eq!(school.digest(), digest, "the archive's content");
    assert_eq!(school.adapters(), adapters, "the adapters' bytes");
}

#[test]
fn a_gate_that_is_not_enforced_records_what_it_would_have_turned_away() {
    let school = reading();
    let enforced = school.finish_with(&ALL);
    school.begin_again();
    let settings = [&ALL[..], &["verify.enforce=false"]].concat();
    let report = school.finish_with(&settings);
    assert_eq!(
        (&enforced["gate_enforced"], &report["gate_enforced"]),
        (&true.into(), &false.into())
    );
    let (strict, model) = (&enforced["origin"]["model"], &report["origin"]["model"]);
    assert_eq!(count(strict, "unverified"), 0);
    let accepted = count(model, "accepted");
    assert!(accepted > count(strict, "accepted"), "{model}");
    let unverified = count(model, "unverified");
    assert!(unverified > 0 && unverified < accepted, "{model}");
    let reasons: Vec<&str> =
        model["rejections"].as_object().unwrap().keys().map(String::as_str).collect();
    for reason in &reasons {
        let structural =
            ["malformed", "no_evidence", "duplicate", "near_duplicate", "check_failed"];
        assert!(structural.contains(reason), "{reasons:?}");
    }
    // Whoever is not turned away comes to every check, and what these said is there.
    let checks = model["gate"].as_array().unwrap();
    let check = |name: &str| checks.iter().find(|counts| counts["check"] == name).unwrap();
    for name in &CHECKS[6..] {
        assert_eq!(count(check(name), "drafts"), accepted, "{name}");
        assert_eq!(count(check(name), "rejected"), 0, "{name}");
    }
    let recorded: u64 = checks.iter().map(|counts| count(counts, "recorded")).sum();
    assert!(recorded >= unverified, "{model}");
    // Drafts made by code are judged as before.
    let by_code = |report: &Value| {
        let code = &report["origin"]["code"];
        (code["accepted"].clone(), code["rejections"].clone())
    };
    assert_eq!(by_code(&report), by_code(&enforced));
    let archive = school.archive();
    archive.check().unwrap();
    let findings = school.json(&["archive", "check"]);
    assert_eq!(findings["ok"], true, "{findings}");
    let mut questions = archive.questions().unwrap();
    let n = questions.len();
    questions.sort();
    questions.dedup();
    assert_eq!(questions.len(), n, "no question was taken twice");
    let shown = school.command(&["run", "show"]).output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let loud = format!(
        "THE GATE DID NOT DECIDE (verify.enforce = false): {unverified} of the {accepted} accepted \
         drafts of the model would have been turned away"
    );
    assert!(shown.contains(&loud) && shown.contains("only recorded"), "{shown}");
    let page = fs::read_to_string(school.home().join("reports/night-0001.html")).unwrap();
    assert!(page.contains("The gate did not decide"));
    // The next night, enforced again, goes on in the same home.
    let next = school.finish_with(&ALL);
    assert_eq!(next["gate_enforced"], true);
    school.archive().check().unwrap();
}
