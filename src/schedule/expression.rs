//! Expressions as crontab has them: minute, hour, day of the month, month, weekday.
//!
//! The `cron` crate reads them with seconds in front, counts weekdays from 1 for Sunday and takes
//! dates that never come; what it would misread is refused here, with what was probably meant. It
//! is asked in local time without a zone: what clock changes do is decided in `times`.

use std::str::FromStr;

use chrono::DateTime;
use chrono::Datelike as _;
use chrono::TimeZone as _;
use chrono::Timelike as _;
use chrono::Utc;
use jiff::civil;
use serde::Deserialize;

use super::weekday;

/// Short forms that crontab knows.
const SHORT: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * Sun"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// Local times that come again and again.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Expression {
    text: String,
    times: cron::Schedule,
}

impl Expression {
    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The local times after `after`, in order.
    pub(super) fn after(&self, after: civil::DateTime) -> impl Iterator<Item = civil::DateTime> {
        // UTC stands in for a zone without clock changes.
        let start = in_utc(after);
        start
            .into_iter()
            .flat_map(|start| self.times.after(&start))
            .filter_map(|time| civil_of(&time))
    }
}

impl TryFrom<String> for Expression {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let whole = SHORT.iter().find(|(short, _)| *short == text.trim());
        let fields: Vec<&str> =
            whole.map_or(text.as_str(), |(_, whole)| whole).split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(miscounted(&text, &fields));
        };
        let open = |field: &str| field == "*" || field == "?";
        if !open(day) && !open(weekday) {
            return Err(format!(
                "\"{text}\" names days of the month and weekdays: crontab would take either, other \
                 programs only days that are both; make it two schedules"
            ));
        }
        let weekdays = match open(weekday) {
            true => "*".to_string(),
            false => weekdays(weekday)?,
        };
        let times = format!("0 {minute} {hour} {day} {month} {weekdays} *");
        let times = cron::Schedule::from_str(&times).map_err(|_| {
            format!(
                "\"{text}\" is no time: five fields are expected, minute (0-59), hour (0-23), day \
                 of the month (1-31), month (1-12 or Jan-Dec) and weekday (Sun-Sat), each *, a \
                 value, a range a-b, steps */n or a list of these"
            )
        })?;
        let expression = Self { text, times };
        // From a year before a leap year, so that its day is among what may come.
        if expression.after(civil::date(2027, 1, 1).at(0, 0, 0, 0)).next().is_none() {
            let text = &expression.text;
            return Err(format!("\"{text}\" never comes: no such month has such a day"));
        }
        Ok(expression)
    }
}

/// The weekday field as the crate reads it.
fn weekdays(field: &str) -> Result<String, String> {
    if field.contains('/') {
        return Err(format!(
            "steps in the weekday \"{field}\" begin anew each week; name the days"
        ));
    }
    if field.contains(|c: char| c.is_ascii_digit()) {
        let meant = weekday::from_numbers(field)
            .map_or_else(String::new, |names| format!(": crontab means {names} by it, write that"));
        return Err(format!(
            "the weekday \"{field}\" is a number, and programs disagree about which day is 1{meant}"
        ));
    }
    let days = weekday::listed(field)?;
    Ok(days.into_iter().map(weekday::name).collect::<Vec<_>>().join(","))
}

/// What to write in the place of an expression that has not five fields.
fn miscounted(text: &str, fields: &[&str]) -> String {
    let suggested = match fields {
        [_, five @ ..] if five.len() == 5 => format!(": \"{}\"", five.join(" ")),
        [_, five @ .., _] if five.len() == 5 => format!(": \"{}\"", five.join(" ")),
        ["@reboot"] => "; what is due when the daemon begins is decided by `missed`".to_string(),
        _ => ", such as \"0 1 * * Mon-Fri\"".to_string(),
    };
    format!(
        "\"{text}\" has not five fields; write minute, hour, day of the month, month and weekday, \
         without seconds and years{suggested}"
    )
}

fn in_utc(time: civil::DateTime) -> Option<DateTime<Utc>> {
    let (year, month, day) = (time.year(), time.month(), time.day());
    let part = |number: i8| u32::try_from(number).unwrap_or(0);
    Utc.with_ymd_and_hms(
        i32::from(year),
        part(month),
        part(day),
        part(time.hour()),
        part(time.minute()),
        part(time.second()),
    )
    .single()
}

fn civil_of(time: &DateTime<Utc>) -> Option<civil::DateTime> {
    let part = |number: u32| i8::try_from(number).ok();
    civil::DateTime::new(
        i16::try_from(time.year()).ok()?,
        part(time.month())?,
        part(time.day())?,
        part(time.hour())?,
        part(time.minute())?,
        part(time.second())?,
        0,
    )
    .ok()
}
