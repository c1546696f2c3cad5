//! Experiments: arms and seeds in homes of their own, resumable, and what they differ by.

use std::fs;
use std::process::Command;

use super::School;

const DEFINITION: &str = r#"
question = "Does a warm start help?"
baseline = "none"
seeds = [1, 2]
nights = 1

[settings.propose]
code_drafts = 60
model_drafts = 0

[settings.verify]
record_on_code = 0

[settings.retrieval]
passages = 1

[settings.solve]
rounds = 0

[settings.evaluate]
max_tokens = 8

[settings.warm_start]
steps = 60
searches = 1
learning_rate = 0.05

[settings.train]
rank = 2

[arms.none]
about = "no training"
settings.warm_start.steps = 0

[arms.warm]
about = "a warm start"

[arms.short]
about = "a warm start that its budget ends"
settings.budget.tokens = 3000
"#;

fn experiment(school: &School, arguments: &[&str]) -> Command {
    let mut command = school.command(&["experiment"]);
    command.args(arguments).arg("--model").arg(school.path("model"));
    command.arg("--dir").arg(school.path("arms"));
    command
}

fn output(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(command: Command) -> serde_json::Value {
    serde_json::from_str(&output(command)).unwrap()
}

#[test]
fn arms_are_compared_over_their_seeds_and_what_is_over_stays() {
    let school = School::counting();
    let file = school.path("warm.toml");
    fs::write(&file, DEFINITION).unwrap();
    let file = file.to_str().unwrap();
    let questions = school.path("exam.jsonl");
    let rows = ["mill", "barn", "inn", "school"].map(|owner| {
        let question = format!("How many doors has the old {owner}?");
        let row = serde_json::json!({ "id": owner, "question": question, "answers": ["7"] });
        row.to_string()
    });
    fs::write(&questions, rows.join("\n")).unwrap();
    let run = |more: &[&str]| {
        let mut command = experiment(&school, &["run", file, "--json"]);
        command.arg("--corpus").arg(school.path("documents"));
        command.arg("--questions").arg(&questions).args(more);
        command
    };
    let nothing = json(run(&["--minutes", "0"]));
    assert_eq!((&nothing["left"], &nothing["suite"]), (&6.into(), &serde_json::Value::Null));
    super::kill_at(run(&[]), "started: warm start");
    let results = json(run(&[]));
    assert_eq!(results["left"], 0);
    assert_eq!((&results["suite"], &results["questions"]), (&"exam".into(), &4.into()));
    let arm = |name: &str| {
        let arms = results["arms"].as_array().unwrap();
        arms.iter().find(|arm| arm["arm"] == name).unwrap().clone()
    };
    let (none, warm, short) = (arm("none"), arm("warm"), arm("short"));
    assert!(none["difference"].is_null());
    assert_eq!(none["runs"].as_array().unwrap().len(), 2);
    assert_eq!(warm["difference"]["seeds"], serde_json::json!([1, 2]));
    // Everything it is taught and asked has the same answer.
    let f1 = |of: &serde_json::Value| of["f1"].as_f64().unwrap();
    assert!(f1(&warm) > f1(&none), "{results:#}");
    let gain = &warm["difference"];
    assert!((f1(gain) - (f1(&warm) - f1(&none))).abs() < 1e-6, "{results:#}");
    assert!(gain["f1_ci"][0].as_f64().unwrap() <= f1(gain), "{gain:#}");
    let trained = |arm: &serde_json::Value| arm["runs"][0]["trained_tokens"].as_u64().unwrap();
    assert_eq!(trained(&none), 0);
    assert!(trained(&short) > 1500 && trained(&short) <= 3000, "{}", trained(&short));
    assert!(trained(&warm) > 3000);

    let shown = json(experiment(&school, &["show", file, "--json"]));
    assert_eq!(shown, results);
    assert_eq!(json(run(&[])), results, "nothing is run twice");
    let table = output(experiment(&school, &["show", file, "--markdown"]));
    assert!(table.starts_with("## warm\n") && table.contains("| warm | 2 | "), "{table}");
    let message = school.error(1, run(&["--set", "solve.tasks=7"]));
    assert!(message.contains("was begun as another experiment"), "{message}");
}

#[test]
fn an_experiment_that_makes_no_sense_is_refused_before_anything_is_run() {
    let school = School::new();
    let file = school.path("wrong.toml");
    for (old, new, says) in [
        (r#"baseline = "none""#, r#"baseline = "nothing""#, "\"nothing\", which is no arm"),
        ("seeds = [1, 2]", "seeds = [2, 2]", "a seed stands twice"),
        ("nights = 1", "nights = 0", "needs a seed and a night"),
        ("rank = 2", "rank = 0", "train.rank"),
        ("[arms.warm]", "[arms.\"../warm\"]", "letters, digits and _ only"),
        ("searches = 1", "surches = 1", "surches"),
    ] {
        fs::write(&file, DEFINITION.replace(old, new)).unwrap();
        let message = school.error(78, experiment(&school, &["show", file.to_str().unwrap()]));
        assert!(message.contains(says), "{message}");
    }
    let message = school.error(3, experiment(&school, &["show", "gain"]));
    assert!(message.contains("there are: game"), "{message}");
    assert!(!school.path("arms").exists());
    let listed = school.json(&["experiment", "list"]);
    let game = &listed["experiments"][0];
    assert_eq!(game["name"], "game");
    assert!(game["arms"].as_array().unwrap().contains(&"unverified".into()), "{game}");
}
