//! Schedules: what is refused, and when nights are, across clock changes, quiet hours and sleep.

use jiff::Timestamp;
use jiff::Zoned;
use jiff::tz::TimeZone;
use nightschool::clock::Clock as _;
use nightschool::clock::ManualClock;
use nightschool::schedule::BUILT_IN;
use nightschool::schedule::Pending;
use nightschool::schedule::Schedule;
use proptest::prelude::*;

fn text(cron: &str, zone: &str, rest: &str) -> String {
    let until =
        if rest.contains("minutes") || rest.contains("until") { "" } else { "minutes = 60" };
    format!("about = \"a test\"\ncron = \"{cron}\"\nzone = \"{zone}\"\n{until}\n{rest}\n")
}

fn schedule(cron: &str, zone: &str, rest: &str) -> Schedule {
    Schedule::parse("test.toml", &text(cron, zone, rest)).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Local start and end of the next windows, each with its offset.
fn next(schedule: &Schedule, after: &str, n: usize) -> Vec<String> {
    let shown = |time: &Zoned| time.strftime("%a %m-%d %H:%M %:z").to_string();
    schedule
        .windows(at(after))
        .take(n)
        .map(|window| format!("{} to {}", shown(&window.start), shown(&window.end)))
        .collect()
}

fn refusal(cron: &str) -> String {
    let error = Schedule::parse("test.toml", &text(cron, "UTC", "")).unwrap_err().to_string();
    // Below the place in the file, which every refusal has.
    assert!(error.starts_with("test.toml: TOML parse error at line 2"), "{error}");
    let reason = error.lines().rev().nth(1).unwrap();
    reason.to_string()
}

#[test]
fn what_others_would_misread_is_refused_with_what_was_meant() {
    let refused = [
        "0 0 1 * * *",
        "0 0 1 * * Mon *",
        "1 *",
        "@reboot",
        "0 1 * * 1-5",
        "0 1 * * 0,7",
        "0 1 * * 9",
        "0 1 * * */2",
        "0 1 13 * Fri",
        "0 1 31 2 *",
        "0 1 30 Feb *",
        "0 25 * * *",
        "0 1 * * Funday",
        "",
    ];
    let all: Vec<String> =
        refused.iter().map(|cron| format!("{cron:?}: {}", refusal(cron))).collect();
    insta::assert_snapshot!(all.join("\n"));
}

#[test]
fn other_mistakes_are_named_with_their_place() {
    let messages = [
        text("0 1 * * *", "Europe/Berlim", ""),
        text("0 1 * * *", "UTC", "until = \"25:00\""),
        text("0 1 * * *", "UTC", "until = \"6:00\""),
        text("0 1 * * *", "UTC", "until = \"06:00\"\nminutes = 5"),
        text("0 1 * * *", "UTC", "minutes = 100000"),
        text("0 1 * * *", "UTC", "quiet = [\"Mon 8-12\"]"),
        text("0 1 * * *", "UTC", "quiet = [\"08:00-08:00\"]"),
        text("0 1 * * *", "UTC", "clock_change = \"later\""),
        text("0 1 * * *", "UTC", "untill = \"06:00\"\nminutes = 5"),
        text("0 1 * * *", "UTC", "[settings.solve]\nrouds = 3"),
        text("0 1 * * *", "UTC", "[settings.solve]\nrollouts = 1"),
    ]
    .map(|text| Schedule::parse("test.toml", &text).unwrap_err().to_string());
    insta::assert_snapshot!(messages.join("\n\n"));
}

#[test]
fn windows_follow_the_local_clock_across_its_changes() {
    let zones = [
        // Forward and back, in the year 2027.
        ("America/New_York", "2027-03-13T12:00:00Z", "2027-11-06T12:00:00Z"),
        ("Europe/Berlin", "2027-03-27T12:00:00Z", "2027-10-30T12:00:00Z"),
        // The southern hemisphere, and a change of half an hour.
        ("Australia/Lord_Howe", "2027-10-02T00:00:00Z", "2027-04-03T00:00:00Z"),
        // No changes at all.
        ("Asia/Tokyo", "2027-03-27T12:00:00Z", "2027-10-30T12:00:00Z"),
    ];
    let mut all = String::new();
    for (zone, forward, back) in zones {
        for (name, after) in [("forward", forward), ("back", back)] {
            for cron in ["15 2 * * *", "30 1 * * *"] {
                for change in ["compatible", "skip"] {
                    let rest = format!("until = \"06:00\"\nclock_change = \"{change}\"");
                    let windows = next(&schedule(cron, zone, &rest), after, 3).join("; ");
                    all += &format!("{zone}, {name}, {cron}, {change}: {windows}\n");
                }
            }
        }
    }
    insta::assert_snapshot!(all);
}

#[test]
fn an_hour_that_comes_twice_counts_once() {
    let hourly = schedule("0 * * * *", "America/New_York", "");
    // From midnight to three o'clock: four local hours, five hours on a clock that does not change.
    let starts: Vec<String> = hourly
        .windows(at("2027-11-07T03:59:59Z"))
        .take(4)
        .map(|window| window.start.timestamp().to_string())
        .collect();
    assert_eq!(
        starts,
        [
            "2027-11-07T04:00:00Z",
            "2027-11-07T05:00:00Z",
            "2027-11-07T07:00:00Z",
            "2027-11-07T08:00:00Z"
        ]
    );
}

#[test]
fn years_end_and_leap_days_come() {
    let nightly = schedule("30 23 * * *", "Europe/Berlin", "until = \"06:00\"");
    insta::assert_snapshot!(next(&nightly, "2027-12-30T23:00:00Z", 2).join("\n"), @"
    Fri 12-31 23:30 +01:00 to Sat 01-01 06:00 +01:00
    Sat 01-01 23:30 +01:00 to Sun 01-02 06:00 +01:00
    ");
    let leap = schedule("0 1 29 2 *", "UTC", "");
    let days: Vec<String> = leap
        .windows(at("2027-01-01T00:00:00Z"))
        .take(3)
        .map(|window| window.start.date().to_string())
        .collect();
    assert_eq!(days, ["2028-02-29", "2032-02-29", "2036-02-29"]);
    let weekend = schedule("0 20 * * Fri-Sun", "UTC", "until = \"Mon 06:00\"");
    insta::assert_snapshot!(next(&weekend, "2027-12-30T00:00:00Z", 4).join("\n"), @"
    Fri 12-31 20:00 +00:00 to Mon 01-03 06:00 +00:00
    Sat 01-01 20:00 +00:00 to Mon 01-03 06:00 +00:00
    Sun 01-02 20:00 +00:00 to Mon 01-03 06:00 +00:00
    Fri 01-07 20:00 +00:00 to Mon 01-10 06:00 +00:00
    ");
}

#[test]
fn quiet_hours_put_a_start_off_and_end_a_night() {
    let quiet = "quiet = [\"Mon-Fri 08:00-18:00\", \"23:00-01:30\"]\nminutes = 600";
    let nightly = schedule("0 1 * * *", "Europe/Berlin", quiet);
    insta::assert_snapshot!(next(&nightly, "2027-06-03T20:00:00Z", 3).join("\n"), @"
    Fri 06-04 01:30 +02:00 to Fri 06-04 08:00 +02:00
    Sat 06-05 01:30 +02:00 to Sat 06-05 11:00 +02:00
    Sun 06-06 01:30 +02:00 to Sun 06-06 11:00 +02:00
    ");
    // Nothing is left of a window at noon on a workday.
    let noon = schedule("0 12 * * *", "Europe/Berlin", "quiet = [\"Mon-Fri 08:00-18:00\"]");
    insta::assert_snapshot!(next(&noon, "2027-06-03T20:00:00Z", 2).join("\n"), @"
    Sat 06-05 12:00 +02:00 to Sat 06-05 13:00 +02:00
    Sun 06-06 12:00 +02:00 to Sun 06-06 13:00 +02:00
    ");
}

/// What a daemon does that looks every so often, as `due time: what`.
fn lived(schedule: &Schedule, from: &str, steps: &[i64]) -> Vec<String> {
    let clock = ManualClock::new(at(from));
    let mut handled = clock.now();
    let mut log = Vec::new();
    for minutes in steps {
        clock.advance(std::time::Duration::from_secs(60 * minutes.unsigned_abs()));
        let what = match schedule.pending(handled, clock.now()) {
            None => continue,
            Some(Pending::Open(window)) => {
                handled = window.due.timestamp();
                format!("{}: begin until {}", window.due.timestamp(), window.end.timestamp())
            }
            Some(Pending::Missed { window, reason }) => {
                handled = window.due.timestamp();
                format!("{}: {reason}", window.due.timestamp())
            }
        };
        log.push(what);
    }
    log
}

#[test]
fn a_start_is_made_up_for_as_long_as_its_window_is_open() {
    let rest = "until = \"06:00\"";
    let nightly = schedule("0 1 * * *", "UTC", rest);
    // Looked at every minute, a start comes on time, once.
    let minutes = [1; 180];
    let on_time = lived(&nightly, "2027-06-03T00:00:00Z", &minutes);
    assert_eq!(on_time, ["2027-06-03T01:00:00Z: begin until 2027-06-03T06:00:00Z"]);
    // The machine slept until four; then until noon; then for three days, until three o'clock.
    let slept = [240, 480, 60 * 24 * 2 + 60 * 15, 1, 1];
    insta::assert_snapshot!(lived(&nightly, "2027-06-03T00:00:00Z", &slept).join("\n"), @"
    2027-06-03T01:00:00Z: begin until 2027-06-03T06:00:00Z
    2027-06-06T01:00:00Z: begin until 2027-06-06T06:00:00Z
    ");
    let over = lived(&nightly, "2027-06-03T00:00:00Z", &[60 * 12]);
    assert_eq!(over, ["2027-06-03T01:00:00Z: its window was over"]);
    let strict = schedule("0 1 * * *", "UTC", "until = \"06:00\"\nmissed = \"skip\"");
    insta::assert_snapshot!(lived(&strict, "2027-06-03T00:00:00Z", &[240, 60 * 21]).join("\n"), @r#"
    2027-06-03T01:00:00Z: it was missed, and `missed` is "skip"
    2027-06-04T01:00:00Z: begin until 2027-06-04T06:00:00Z
    "#);
    // One that quiet hours put off.
    let quiet = schedule("0 1 * * *", "UTC", "until = \"06:00\"\nquiet = [\"00:30-02:00\"]");
    let put_off = lived(&quiet, "2027-06-03T00:00:00Z", &minutes);
    assert_eq!(put_off, ["2027-06-03T01:00:00Z: begin until 2027-06-03T06:00:00Z"]);
}

#[test]
fn schedules_that_come_with_the_program_are_fine() {
    for (name, text) in BUILT_IN {
        let schedule = Schedule::parse(name, text).unwrap();
        assert_eq!(schedule.windows(at("2027-06-03T00:00:00Z")).take(100).count(), 100, "{name}");
    }
}

proptest! {
    /// Every start lies after the one before, in the zone's local time the expression says so unless
    /// a clock change moved it, and none is left out on days without a change.
    #[test]
    fn starts_are_in_order_and_none_is_lost(
        hour in 0u8..24,
        minute in 0u8..60,
        zone in prop::sample::select(vec![
            "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Africa/Casablanca",
            "America/Santiago", "Asia/Kathmandu", "Pacific/Apia",
        ]),
        day in 0i64..3650,
    ) {
        let nightly = schedule(&format!("{minute} {hour} * * *"), zone, "");
        let from = at("2024-01-01T00:00:00Z") + jiff::SignedDuration::from_hours(24 * day);
        let starts: Vec<Zoned> = nightly.windows(from).take(60).map(|window| window.start).collect();
        prop_assert_eq!(starts.len(), 60);
        prop_assert!(starts[0].timestamp() > from);
        let rules = TimeZone::get(zone).unwrap();
        for pair in starts.windows(2) {
            prop_assert!(pair[0] < pair[1]);
            let hours = pair[1].timestamp().duration_since(pair[0].timestamp()).as_secs_f64() / 3600.0;
            prop_assert!((22.0..=26.0).contains(&hours), "{} {}", pair[0], pair[1]);
        }
        for start in &starts {
            let wanted = start.date().at(hour as i8, minute as i8, 0, 0);
            let said = rules.to_ambiguous_zoned(wanted).compatible().unwrap();
            prop_assert!(said.timestamp() == start.timestamp(), "{} for {}", start, wanted);
        }
    }
}
