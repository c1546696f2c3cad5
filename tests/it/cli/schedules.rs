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
    insta::assert_snapshot!(error.trim_end(), @"error: DESK/home/schedules has no schedule; begin with one that the program comes with: `nightschool schedule show overnight > DESK/home/schedules/overnight.toml`");
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
    insta::assert_snapshot!(desk.out(&next), @r#"
    SCHEDULE  START                        END                          START UTC
    mine      Sun 2027-03-28 03:30 +02:00  Sun 2027-03-28 06:00 +02:00  2027-03-28T01:30:00Z
    mine      Mon 2027-03-29 02:30 +02:00  Mon 2027-03-29 06:00 +02:00  2027-03-29T00:30:00Z
    mine      Tue 2027-03-30 02:30 +02:00  Tue 2027-03-30 06:00 +02:00  2027-03-30T00:30:00Z
    "#);
    let elsewhere = [&next[..], &["--zone", "America/New_York", "--output", "tsv"]].concat();
    insta::assert_snapshot!(desk.out(&elsewhere), @r#"
    schedule	start	end	start_utc
    mine	Sat 2027-03-27 21:30 -04:00	Sun 2027-03-28 00:00 -04:00	2027-03-28T01:30:00Z
    mine	Sun 2027-03-28 20:30 -04:00	Mon 2027-03-29 00:00 -04:00	2027-03-29T00:30:00Z
    mine	Mon 2027-03-29 20:30 -04:00	Tue 2027-03-30 00:00 -04:00	2027-03-30T00:30:00Z
    "#);
    insta::assert_snapshot!(serde_json::to_string_pretty(&desk.json(&next)).unwrap(), @r#"
    {
      "schema_version": 1,
      "windows": [
        {
          "schedule": "mine",
          "start": "Sun 2027-03-28 03:30 +02:00",
          "end": "Sun 2027-03-28 06:00 +02:00",
          "due": "Sun 2027-03-28 03:30 +02:00",
          "start_utc": "2027-03-28T01:30:00Z",
          "end_utc": "2027-03-28T04:00:00Z"
        },
        {
          "schedule": "mine",
          "start": "Mon 2027-03-29 02:30 +02:00",
          "end": "Mon 2027-03-29 06:00 +02:00",
          "due": "Mon 2027-03-29 02:30 +02:00",
          "start_utc": "2027-03-29T00:30:00Z",
          "end_utc": "2027-03-29T04:00:00Z"
        },
        {
          "schedule": "mine",
          "start": "Tue 2027-03-30 02:30 +02:00",
          "end": "Tue 2027-03-30 06:00 +02:00",
          "due": "Tue 2027-03-30 02:30 +02:00",
          "start_utc": "2027-03-30T00:30:00Z",
          "end_utc": "2027-03-30T04:00:00Z"
        }
      ]
    }
    "#);
}

#[test]
fn faulty_schedules_are_refused() {
    let desk = Desk::new();
    desk.write("mine.toml", MINE.replace("Mon-Fri", "1-5"));
    insta::assert_snapshot!(desk.error(78, &["schedule", "check", "mine.toml"]), @r#"
    error: mine.toml: TOML parse error at line 2, column 8
      |
    2 | cron = "30 2 * * 1-5,Sun"
      |        ^^^^^^^^^^^^^^^^^^
    the weekday "1-5,Sun" is a number, and programs disagree about which day is 1: crontab means Mon-Fri,Sun by it, write that
    Every key is described in schedules/overnight.toml.
    "#);
    desk.write("mine.toml", MINE.to_string() + "quiet = [\"00:00-23:59\", \"23:00-01:00\"]\n");
    insta::assert_snapshot!(desk.error(1, &["schedule", "check", "mine.toml"]), @"error: schedule mine never begins: quiet hours take all of its windows, or it is past");
    insta::assert_snapshot!(desk.error(3, &["schedule", "next", "yours"]), @r#"error: no schedule "yours" in DESK/home/schedules, and no such file; the program comes with overnight, weekend, continuous, smoke"#);
    let zone = ["schedule", "next", "overnight", "--zone", "Mars/Base"];
    insta::assert_snapshot!(desk.error(2, &zone), @r#"error: --zone: "Mars/Base" is no time zone, such as Europe/Berlin"#);
}
