//! `task review`, with the answers that a person gives.

use serde_json::Value;
use serde_json::json;

use super::Desk;
use super::with_corpus;

/// A desk with four tasks, questions of a person about its two documents.
fn with_questions() -> Desk {
    let desk = with_corpus();
    let rows = [
        ("Who patented the separate condenser?", "James Watt"),
        ("Who built the first practical steam engine?", "Thomas Newcomen"),
        ("Who reached the Challenger Deep with Don Walsh?", "Jacques Piccard"),
        ("Which ocean covers about 165 million square kilometres?", "The Pacific Ocean"),
    ];
    let rows = rows
        .map(|(question, answer)| json!({ "question": question, "answer": answer }).to_string());
    desk.write("own.jsonl", rows.join("\n"));
    let report = desk.json(&["task", "import", "own.jsonl"]);
    assert_eq!(report["accepted"], 4, "{report}");
    desk
}

/// What a review prints to both sides when these lines are typed.
fn review(desk: &Desk, args: &[&str], typed: &str) -> (String, String) {
    let command = [&["task", "review"], args].concat();
    let output = desk.command(&command).write_stdin(typed).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}");
    (out, err)
}

fn task(desk: &Desk, question: &str) -> Value {
    let list = desk.json(&["task", "list", "--limit", "0"]);
    let tasks = list["tasks"].as_array().unwrap();
    tasks.iter().find(|task| task["question"] == question).unwrap().clone()
}

fn decisions(desk: &Desk) -> String {
    let query = "SELECT c.action, c.note, old.question, new.question AS edited, new.answer
                 FROM curation c JOIN task_view old ON old.id = c.task_id
                 LEFT JOIN task_view new ON new.id = c.replaced_by
                 ORDER BY c.decided_at, c.ordinal";
    desk.out(&["archive", "sql", query, "--output", "tsv"])
}

#[test]
fn tasks_are_accepted_rejected_and_edited_until_one_quits() {
    let desk = with_questions();
    let (out, err) = review(
        &desk,
        &[],
        "what\n\
         a\n\
         e clearer\nWho went down to the Challenger Deep with Don Walsh?\n\n\
         r two answers are right\n\
         q\n",
    );
    assert!(out.ends_with(
        "\n1 accepted, 1 rejected, 1 edited (0 edits turned away by the gate), 0 skipped\n"
    ));
    // Each is shown with its passage, and asked about again when the answer makes no sense.
    assert_eq!(out.matches("\nTask ").count(), 4, "{out}");
    assert!(out.contains("James Watt patented the separate condenser in 1769"), "{out}");
    assert_eq!(err.matches("[a]ccept [r]eject [e]dit [s]kip [q]uit > ").count(), 5, "{err}");
    assert_eq!(err.matches("question > ").count(), 1, "{err}");
    insta::assert_snapshot!(decisions(&desk));

    let list = desk.json(&["task", "list", "--limit", "0"]);
    let states: Vec<[&str; 2]> = list["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| ["state", "state_reason"].map(|name| task[name].as_str().unwrap_or("")))
        .collect();
    let in_state = |state: [&str; 2]| states.iter().filter(|one| **one == state).count();
    assert_eq!(in_state(["active", ""]), 3, "{states:?}");
    assert_eq!(in_state(["retired", "rejected"]), 1, "{states:?}");
    assert_eq!(in_state(["retired", "edited"]), 1, "{states:?}");
    let edited = task(&desk, "Who went down to the Challenger Deep with Don Walsh?");
    let id = edited["id"].as_str().unwrap();
    let shown = desk.json(&["task", "show", id]);
    assert_eq!(shown["origin"], "person");
    assert_eq!(shown["answer"], "Jacques Piccard");
    let old = task(&desk, "Who reached the Challenger Deep with Don Walsh?");
    assert_eq!(shown["parents"], json!([old["id"]]));
    let shown = desk.json(&["task", "show", old["id"].as_str().unwrap()]);
    assert_eq!((&shown["state"], &shown["children"]), (&"retired".into(), &json!([id])));

    // What was decided is not asked again, but for --again; the end of the input quits.
    let (out, _) = review(&desk, &[], "");
    assert_eq!(out.matches("\nTask ").count(), 1, "{out}");
    let again = ["--again", "--state", "retired", "--text", "engine"];
    let (out, _) = review(&desk, &again, "a a second look\n");
    assert!(out.contains("\n1 accepted, 0 rejected"), "{out}");
    assert_eq!(decisions(&desk).matches("a second look").count(), 1);
}

#[test]
fn an_edit_goes_through_the_gate() {
    let desk = with_questions();
    let before = desk.json(&["task", "list"]);
    let (out, err) = review(
        &desk,
        &["--text", "condenser", "--json"],
        "e\n\nIsaac Newton\ne\nDid James Watt patent the condenser?\n\ns\n",
    );
    assert!(err.contains("the gate turns it away: evidence"), "{err}");
    assert!(err.contains("the gate turns it away: leak"), "{err}");
    let counts: Value = serde_json::from_str(&out).unwrap();
    insta::assert_json_snapshot!(counts, @r#"
    {
      "schema_version": 1,
      "accepted": 0,
      "rejected": 0,
      "edited": 0,
      "edits_turned_away": 2,
      "skipped": 1
    }
    "#);
    assert_eq!(desk.json(&["task", "list"]), before);
    assert_eq!(decisions(&desk).lines().count(), 1, "only the header");
}
