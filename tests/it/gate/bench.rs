//! `bench gate` of the real program, on a tiny model.

use std::fs;

use nightschool::evaluation::proportion::wilson;
use serde_json::Value;
use serde_json::json;

use crate::night::school::School;

/// Towns that each have a record, with two questions about it.
fn write_files(school: &School) {
    let towns = [
        "Alden", "Berrow", "Calder", "Dunmore", "Elmley", "Farley", "Gosford", "Harwick", "Ilford",
        "Jarrow", "Kelso", "Lydney",
    ];
    let (mut corpus, mut questions) = (String::new(), String::new());
    for (number, town) in towns.iter().enumerate() {
        let (founded, lamps) = (1200 + number * 7, 310 + number * 3);
        let text = format!(
            "The town of {town} lies by the river. {town} was founded in {founded} and had a wall \
             from {} on. There are {lamps} lamps and {} wells in it.",
            founded + 100,
            lamps + 100
        );
        corpus += &format!("{}\n", json!({ "id": town, "title": town, "text": text }));
        for (place, question, answer) in [
            ("a", format!("In which year was the town of {town} founded?"), founded),
            ("b", format!("How many lamps are there in the town of {town}?"), lamps),
        ] {
            let answers = [answer.to_string()];
            let row = json!({
                "id": format!("{town}-{place}"),
                "question": question,
                "answers": answers,
                "supporting": [town]
            });
            questions += &format!("{row}\n");
        }
    }
    fs::write(school.path("corpus.jsonl"), corpus).unwrap();
    fs::write(school.path("questions.jsonl"), questions).unwrap();
}

#[test]
fn the_gate_is_measured_on_questions_half_of_them_corrupted() {
    let school = School::counting();
    write_files(&school);
    // Those built in have examples, which a model of bytes reads for long.
    let prompts = school.home().join("prompts");
    fs::create_dir_all(&prompts).unwrap();
    let prompt = "{% for p in passages %}{{ p.text }}\n{% endfor %}\n===\n{{ question }} :\n";
    for name in ["few_shot", "closed_book"] {
        fs::write(prompts.join(format!("{name}.jinja")), prompt).unwrap();
    }
    let files =
        ["corpus", "questions", "details"].map(|name| school.path(&format!("{name}.jsonl")));
    let [corpus, questions, details] = files.each_ref().map(|path| path.to_str().unwrap());
    let model = school.path("model");
    let report = school.json(&[
        "bench",
        "gate",
        "--drafts",
        "10",
        "--every-check",
        "--corpus",
        corpus,
        "--questions",
        questions,
        "--details",
        details,
        "--model",
        model.to_str().unwrap(),
    ]);
    assert_eq!((&report["clean"], &report["corrupted"]), (&5.into(), &5.into()), "{report}");
    let kinds = report["corruptions"].as_array().unwrap();
    assert_eq!(kinds.len(), 5);
    assert!(kinds.iter().all(|kind| kind["drafts"] == 1), "{report}");
    let checks = report["checks"].as_array().unwrap();
    let names: Vec<&str> = checks.iter().filter_map(|check| check["check"].as_str()).collect();
    assert_eq!(names, nightschool::verifier::CHECKS);
    let rag = checks.iter().find(|check| check["check"] == "rag").unwrap();
    assert!(rag["prompt_tokens"].as_u64() > Some(0) && rag["requests"].as_u64() >= Some(5));
    let rows: Vec<Value> = fs::read_to_string(details)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows.len(), 10);
    let of = |kind: &str| rows.iter().find(|row| row["corruption"] == kind).unwrap();
    let reason = |row: &Value| {
        let verdicts = row["verdicts"].as_array().unwrap();
        verdicts.iter().find(|verdict| !verdict["rejection"].is_null()).cloned()
    };
    assert_eq!(reason(of("leak")).unwrap()["check"], "leak");
    let vague = of("ambiguous")["question"].as_str().unwrap();
    assert!(vague.contains("it"), "{vague}");
    let swapped = of("answer_swapped");
    assert!(swapped["verdicts"][3]["rejection"].is_null(), "its passage states it: {swapped}");
    // The clean ones pass the rules.
    for row in rows.iter().filter(|row| row["corruption"].is_null()) {
        assert!(row["verdicts"].as_array().unwrap().len() > 6, "{row}");
    }
    // The same again, to the same end.
    let again = school.json(&[
        "bench",
        "gate",
        "--drafts",
        "10",
        "--every-check",
        "--corpus",
        corpus,
        "--questions",
        questions,
        "--model",
        model.to_str().unwrap(),
    ]);
    assert_eq!(again["corruptions"], report["corruptions"]);
}

#[test]
fn proportions_have_the_intervals_of_wilson() {
    let near = |(low, high): (f64, f64), (l, h): (f64, f64)| {
        assert!((low - l).abs() < 5e-4 && (high - h).abs() < 5e-4, "{low} {high}");
    };
    near(wilson(8, 10), (0.4902, 0.9433));
    near(wilson(0, 20), (0.0, 0.1611));
    near(wilson(20, 20), (0.8389, 1.0));
    near(wilson(0, 0), (0.0, 1.0));
}
