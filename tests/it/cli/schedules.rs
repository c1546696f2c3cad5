//! `nightschool schedule`, as a person uses it.

use super::Desk;

const FROM: [&str; 2] = ["--from", "2027-03-26T12:00:00Z"];

const MINE: &str = r#"about = "workdays"
cron = "30 2 * * Mon-Fri,Sun"
zone = "Europe/Berlin"
until = "06:00"
"#;

#[test]
fn schedules_are_listed_shown_and_copied() {
    let desk = Desk::new();
    let (_, error) = desk.run(3, &["schedule", "check"]);
    insta::assert_snapshot!(error.trim_end(), @"");
    let shown = desk.out(&["schedule", "show", "overnight"]);
    assert!(shown.contains("cron = \"0 1 * * *\""), "{shown}");
    desk.write("home/schedules/overnight.toml", shown);
    let all = desk.json(&["schedule", "list"]);
    let in_use: Vec<(&str, bool)> = all["schedules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap(), one["in_use"].as_bool().unwrap()))
        .collect();
    let expected =
        [("overnight", true), ("weekend", false), ("continuous", false), ("smoke", false)];
    assert_eq!(in_use, expected);
    assert!(desk.out(&["schedule", "check"]).starts_with("overnight: fine; next "));
}

#[test]
fn the_next_nights_are_told_across_a_clock_change() {
    let desk = Desk::new();
    desk.write("mine.toml", MINE);
    let next = [&["schedule", "next", "mine.toml", "--count", "3"], &FROM[..]].concat();
    insta::assert_snapshot!(desk.out(&next), @"");
    let elsewhere = [&next[..], &["--zone", "America/New_York", "--output", "tsv"]].concat();
    insta::assert_snapshot!(desk.out(&elsewhere), @"");
    insta::assert_snapshot!(serde_json::to_string_pretty(&desk.json(&next)).unwrap(), @"");
}

#[test]
fn faulty_schedules_are_refused() {
    let desk = Desk::new();
    desk.write("mine.toml", MINE.replace("Mon-Fri", "1-5"));
    insta::assert_snapshot!(desk.error(78, &["schedule", "check", "mine.toml"]), @"");
    desk.write("mine.toml", MINE.to_string() + "quiet = [\"00:00-23:59\", \"23:00-01:00\"]\n");
    insta::assert_snapshot!(desk.error(1, &["schedule", "check", "mine.toml"]), @"");
    insta::assert_snapshot!(desk.error(3, &["schedule", "next", "yours"]), @"");
    let zone = ["schedule", "next", "overnight", "--zone", "Mars/Base"];
    insta::assert_snapshot!(desk.error(2, &zone), @"");
}
