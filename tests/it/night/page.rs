//! The morning report as a page.

use std::fs;

use super::School;

#[test]
fn a_night_leaves_a_page_that_needs_nothing_else() {
    let school = School::asking();
    let prepared = ["propose.model_drafts=40", "verify.min_words=1", "verify.min_chars=3"];
    school.finish_with(&prepared);
    let page = fs::read_to_string(school.home().join("reports/night-0001.html")).unwrap();
    for part in [
        "<h1>Night 1</h1>",
        "<strong>Kept.</strong>",
        "Loss of the warm start",
        "Divergence from the base model",
        "made by model",
        "<td>accepted</td>",
        "never",
        "Questions that the model wrote",
    ] {
        assert!(page.contains(part), "{part} is not in the page");
    }
    assert!(page.matches("<svg").count() >= 4, "plots");
    for outside in ["<script", "http://", "https://", "<link", "<img"] {
        let found = page.matches(outside).count();
        let names = page.matches("http://www.w3.org/2000/svg").count();
        let allowed = if outside == "http://" { names } else { 0 };
        assert_eq!(found, allowed, "{outside}: the page must not load or run anything");
    }
    let again = school.command(&["run", "report", "1"]).output().unwrap();
    assert!(again.status.success());
    assert_eq!(String::from_utf8_lossy(&again.stdout).trim_end(), page.trim_end());
    let file = school.path("night.html");
    let mut command = school.command(&["run", "report", "--to"]);
    assert!(command.arg(&file).output().unwrap().status.success());
    assert_eq!(fs::read_to_string(file).unwrap(), page);
    let message = school.error(3, school.command(&["run", "report", "7"]));
    assert!(message.contains("no night 7"), "{message}");
}

#[test]
fn what_documents_say_is_no_markup_in_the_page() {
    let school = School::asking();
    let forged = "# Forged\n\nThe sign says <script>alert(1)</script> since 1987.\n";
    fs::write(school.path("documents/forged.md"), forged).unwrap();
    school.add_documents();
    let suite = school.path("a&b.jsonl");
    let question = r#"{"id": "1", "question": "Which year?", "answers": ["1987"]}"#;
    fs::write(&suite, question).unwrap();
    let name = format!("heldout.suite={}", suite.display());
    school.finish_with(&[&name, "solve.rounds=1"]);
    let page = fs::read_to_string(school.home().join("reports/night-0001.html")).unwrap();
    assert!(page.contains("Held out: a&amp;b") && !page.contains("<script"));
}
