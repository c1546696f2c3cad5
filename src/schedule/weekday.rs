//! Days of the week by their names. Numbers are not taken: programs disagree about which day is 1.

use jiff::civil::Weekday;

/// The names, the day that crontab counts as 0 first.
const NAMES: [(&str, Weekday); 7] = [
    ("Sun", Weekday::Sunday),
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
];

/// The short name of a day.
pub(super) fn name(day: Weekday) -> &'static str {
    NAMES[day.to_sunday_zero_offset() as usize].0
}

/// The day of a short name, whatever its case.
pub(super) fn named(text: &str) -> Result<Weekday, String> {
    let found = NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(_, day)| *day).ok_or_else(|| {
        format!("\"{text}\" is no weekday; write Mon, Tue, Wed, Thu, Fri, Sat or Sun")
    })
}

/// The days of a list of days and ranges, such as `Mon-Fri,Sun`; a range may go over the end of
/// the week.
pub(super) fn listed(text: &str) -> Result<Vec<Weekday>, String> {
    let mut days = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (named(first)?, named(last)?);
        days.push(day);
        while day != last {
            day = day.next();
            days.push(day);
        }
    }
    Ok(days)
}

/// What crontab means by a weekday field with numbers, in names; none where it means nothing.
pub(super) fn from_numbers(field: &str) -> Option<String> {
    let name = |text: &str| match text.parse::<usize>() {
        Ok(number) => NAMES.get(number % 7).filter(|_| number <= 7).map(|(name, _)| *name),
        Err(_) => named(text).ok().map(name),
    };
    let range = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some(format!("{}-{}", name(first)?, name(last)?)),
        None => name(part).map(String::from),
    };
    Some(field.split(',').map(range).collect::<Option<Vec<_>>>()?.join(","))
}
