//! From local times to instants: windows, clock changes, quiet hours, starts that were missed.

use jiff::SignedDuration;
use jiff::Timestamp;
use jiff::ToSpan as _;
use jiff::Zoned;
use jiff::civil;
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::ClockChange;
use super::MissedPolicy;
use super::Schedule;
use super::weekday;

/// More than a clock is ever put forward or back at once, zones that crossed the date line
/// included.
const LONGEST_CHANGE: SignedDuration = SignedDuration::from_hours(25);

/// How late a start may be without having been missed.
const GRACE: SignedDuration = SignedDuration::from_mins(2);

/// Starts in a row that quiet hours may leave nothing of: a year of quarter hours.
const FRUITLESS: usize = 366 * 24 * 4;

/// A time of day at which a window ends, on the next such day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Until {
    day: Option<Weekday>,
    time: civil::Time,
}

impl TryFrom<String> for Until {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (day, time) = match text.trim().split_once(' ') {
            Some((day, time)) => (Some(weekday::named(day)?), time.trim()),
            None => (None, text.trim()),
        };
        Ok(Self { day, time: time_of_day(time)? })
    }
}

/// Hours in which nothing runs, on some days of the week.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Quiet {
    days: Vec<Weekday>,
    from: civil::Time,
    to: civil::Time,
}

impl TryFrom<String> for Quiet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (days, hours) = match text.trim().split_once(' ') {
            Some((days, hours)) => (weekday::listed(days)?, hours.trim()),
            None => (weekday::listed("Mon-Sun")?, text.trim()),
        };
        let (from, to) = hours.split_once('-').ok_or_else(|| {
            format!("\"{text}\": quiet hours are written as \"Mon-Fri 08:00-18:00\"")
        })?;
        let (from, to) = (time_of_day(from.trim())?, time_of_day(to.trim())?);
        if from == to {
            return Err(format!("\"{text}\": quiet hours begin and end at different times"));
        }
        Ok(Self { days, from, to })
    }
}

fn time_of_day(text: &str) -> Result<civil::Time, String> {
    let wrong = || format!("\"{text}\" is no time of day; write HH:MM, such as \"06:00\"");
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let number = |part: &str| {
        let two = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<i8>().ok().filter(|_| two).ok_or_else(wrong)
    };
    civil::Time::new(number(hour)?, number(minute)?, 0, 0).map_err(|_| wrong())
}

/// A time in which a night may run.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// When the expression asks for it.
    pub due: Zoned,
    /// When it begins: later than that where quiet hours come first.
    pub start: Zoned,
    /// When it must have ended: at most when quiet hours begin.
    pub end: Zoned,
}

/// What a schedule asks for at an instant.
#[derive(Debug, Clone, PartialEq)]
pub enum Pending {
    /// A night is to begin, in this window.
    Open(Window),
    /// A start that nothing came of.
    Missed {
        /// Its window.
        window: Window,
        /// Why nothing comes of it.
        reason: &'static str,
    },
}

impl Schedule {
    /// The windows that are due after an instant, in order. Those that quiet hours leave nothing of
    /// are left out; where they leave nothing of a great many, there are no more.
    pub fn windows(&self, after: Timestamp) -> impl Iterator<Item = Window> {
        let mut starts = self.starts(after);
        std::iter::from_fn(move || starts.by_ref().take(FRUITLESS).find_map(|due| self.window(due)))
    }

    /// The window of a night that begins at `now` although it is not due; none in quiet hours.
    pub fn window_at(&self, now: Timestamp) -> Option<Window> {
        let window = self.window(now.to_zoned(self.zone.rules().clone()))?;
        (window.start == window.due).then_some(window)
    }

    /// What is to be done at `now`, when the window due at `handled` was the last that something
    /// was done about; of several since then only the latest counts. Depends on nothing but these
    /// two, so that clocks may jump and machines may sleep.
    pub fn pending(&self, handled: Timestamp, now: Timestamp) -> Option<Pending> {
        let longest = SignedDuration::from_mins(i64::from(super::LONGEST_MINUTES) + 24 * 60);
        let after = handled.max(now.checked_sub(longest).ok()?);
        let begun = |window: &Window| window.start.timestamp() <= now;
        let window = self.windows(after).take_while(begun).last()?;
        let late = now.duration_since(window.start.timestamp()) > GRACE;
        let reason = match self.missed {
            _ if window.end.timestamp() <= now => "its window was over",
            MissedPolicy::Skip if late => "it was missed, and `missed` is \"skip\"",
            _ => return Some(Pending::Open(window)),
        };
        Some(Pending::Missed { window, reason })
    }

    /// The instants after `after` at which a night is due.
    fn starts(&self, after: Timestamp) -> impl Iterator<Item = Zoned> {
        let mut last = after;
        std::iter::from_fn(move || {
            let next = self.start_after(last)?;
            last = next.timestamp();
            Some(next)
        })
    }

    /// The first of them. Around a clock change the order of local times is not that of instants,
    /// so all local times near enough are looked at.
    fn start_after(&self, after: Timestamp) -> Option<Zoned> {
        let zone = self.zone.rules();
        let near =
            [after.checked_sub(LONGEST_CHANGE).ok()?, after.checked_add(LONGEST_CHANGE).ok()?];
        let steady = zone.to_offset(near[0]) == zone.to_offset(near[1]);
        let look_back = if steady { SignedDuration::ZERO } else { LONGEST_CHANGE };
        let from = after.to_zoned(zone.clone()).datetime().checked_sub(look_back).ok()?;
        let mut first: Option<Zoned> = None;
        for local in self.cron.after(from) {
            if let Some(first) = &first
                && local > first.datetime().checked_add(look_back).ok()?
            {
                break;
            }
            let Some(instant) = resolved(zone, local, self.clock_change) else { continue };
            let sooner = first.as_ref().is_none_or(|first| instant < *first);
            if instant.timestamp() > after && sooner {
                first = Some(instant);
            }
        }
        first
    }

    fn window(&self, due: Zoned) -> Option<Window> {
        let mut end = match (self.until, self.minutes) {
            (Some(until), _) => self.first_until(&due, until)?,
            (None, minutes) => due.checked_add(i64::from(minutes?).minutes()).ok()?,
        };
        let mut quiet = self.quiet_between(&due, &end);
        quiet.sort_by_key(|(from, _)| from.timestamp());
        let mut start = due.clone();
        for (from, to) in quiet {
            if from <= start {
                start = start.max(to);
            } else {
                end = end.min(from);
                break;
            }
        }
        (start < end).then_some(Window { due, start, end })
    }

    /// The first end after `due`.
    fn first_until(&self, due: &Zoned, until: Until) -> Option<Zoned> {
        (0..=8).find_map(|days| {
            let day = due.date().checked_add(i64::from(days).days()).ok()?;
            let fits = until.day.is_none_or(|wanted| day.weekday() == wanted);
            let end =
                resolved(self.zone.rules(), day.to_datetime(until.time), ClockChange::Compatible)?;
            (fits && end > *due).then_some(end)
        })
    }

    /// The quiet hours that touch the time between two instants.
    fn quiet_between(&self, start: &Zoned, end: &Zoned) -> Vec<(Zoned, Zoned)> {
        let at = |day: civil::Date, time| {
            resolved(self.zone.rules(), day.to_datetime(time), ClockChange::Compatible)
        };
        let mut all = Vec::new();
        let mut day = start.date().yesterday().ok();
        while let Some(date) = day.filter(|date| *date <= end.date()) {
            for quiet in self.quiet.iter().filter(|one| one.days.contains(&date.weekday())) {
                let last = if quiet.to > quiet.from { Some(date) } else { date.tomorrow().ok() };
                let hours = at(date, quiet.from).zip(last.and_then(|last| at(last, quiet.to)));
                all.extend(hours.filter(|(from, to)| to > start && from < end && from < to));
            }
            day = date.tomorrow().ok();
        }
        all
    }
}

/// The instant of a local time. Of the two that a clock put back gives it, the first.
fn resolved(zone: &TimeZone, local: civil::DateTime, change: ClockChange) -> Option<Zoned> {
    let ambiguous = zone.to_ambiguous_zoned(local);
    let left_out = matches!(ambiguous.offset(), jiff::tz::AmbiguousOffset::Gap { .. });
    if left_out && change == ClockChange::Skip {
        return None;
    }
    ambiguous.compatible().ok()
}
