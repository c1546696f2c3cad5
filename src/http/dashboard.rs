//! The page: what the daemon is at, and how its home has fared.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::header::HeaderValue;
use indicatif::DecimalBytes;
use indicatif::HumanCount;
use indicatif::HumanDuration;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use minijinja::AutoEscape;
use minijinja::Environment;
use minijinja::Value;
use minijinja::context;
use minijinja::value::Serde;
use sha2::Digest as _;
use sha2::Sha256;

use super::status::Facts;
use crate::config::DeviceName;
use crate::daemon::control::DaemonStatus;
use crate::evaluation::Metrics;
use crate::phase::overview::NightOutcome;
use crate::phase::overview::Overview;
use crate::phase::plots;
use crate::phase::plots::Series;
use crate::progress::ProgressReport;

const TEMPLATE: &str = include_str!("dashboard.html");
const STYLE: &str = include_str!("dashboard.css");
const SCRIPT: &str = include_str!("dashboard.js");

/// Nights that the table lists; all of them are in the plots.
const NIGHTS: usize = 14;

/// Width and height of a plot: three stand side by side, and one is as wide as a phone.
const PLOT: (u32, u32) = (380, 250);

/// Renders the page.
pub(super) struct Dashboard {
    environment: Environment<'static>,
    policy: HeaderValue,
}

/// The state of the daemon, in words.
struct State {
    /// The page's colour: `night`, `paused`, `waiting` or `trouble`.
    kind: &'static str,
    headline: String,
    detail: String,
}

impl Dashboard {
    /// Reads the template.
    ///
    /// # Errors
    /// When it is faulty.
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut environment = Environment::new();
        // Names come from files and from models: nothing of them may be taken for markup.
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_filter("percent", |share: f64| format!("{:.1}", share * 100.0));
        environment.add_filter("points", |share: f64| format!("{:+.1}", share * 100.0));
        environment.add_filter("bytes", |bytes: u64| DecimalBytes(bytes).to_string());
        environment.add_filter("count", |n: u64| HumanCount(n).to_string());
        environment.add_template("dashboard.html", TEMPLATE)?;
        let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src \
             'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(STYLE),
            hash(SCRIPT)
        );
        Ok(Self { environment, policy: HeaderValue::from_str(&policy)? })
    }

    /// What a browser may load and run on the page: its own style and script.
    pub(super) fn policy(&self) -> HeaderValue {
        self.policy.clone()
    }

    /// The page of a home at a time.
    ///
    /// # Errors
    /// When a plot cannot be drawn, or the template does not take what it is given.
    pub(super) fn render(
        &self,
        facts: &Facts,
        home: &str,
        now: Timestamp,
    ) -> anyhow::Result<String> {
        let empty = Overview::default();
        let overview = facts.overview().unwrap_or(&empty);
        let (last, _) = NightOutcome::latest(&overview.nights);
        let state = state(facts, now);
        let errors = facts.errors().into_iter().map(|trouble| {
            context! { at => trouble.at.map(clock), message => trouble.message }
        });
        let page = self.environment.get_template("dashboard.html")?.render(context! {
            style => Value::from_safe_string(STYLE.to_string()),
            script => Value::from_safe_string(SCRIPT.to_string()),
            home,
            version => env!("CARGO_PKG_VERSION"),
            now => clock(now),
            kind => state.kind,
            headline => state.headline,
            detail => state.detail,
            progress => facts.progress().map(|report| work(report, now)),
            errors => errors.collect::<Vec<Value>>(),
            live => overview.live.as_ref().map(|live| Value::from(Serde(live))),
            promotion => overview.promotion.as_ref().map(|it| Value::from(Serde(it))),
            last => last.map(|last| Value::from(Serde(last))),
            tasks => overview.tasks,
            added => overview.growth.last().map(|(_, n)| *n),
            plots => plots(overview)?,
            fates => Value::from(Serde(&overview.fates)),
            nights => nights(overview),
            schedules => schedules(&facts.seen.status, now),
            disk => facts.past.disk.map(|disk| Value::from(Serde(disk))),
            gpu => gpu(facts),
            daemon => context! {
                pid => facts.seen.status.pid,
                since => clock(facts.seen.status.since),
            },
        })?;
        Ok(page)
    }
}

/// A time by this machine's clock.
fn clock(time: Timestamp) -> String {
    time.to_zoned(TimeZone::system()).strftime("%a %-d %b, %H:%M").to_string()
}

/// How far off a time is; none when it is past.
fn ahead(time: Timestamp, now: Timestamp) -> Option<String> {
    let left = Duration::try_from(time.duration_since(now)).ok()?;
    Some(HumanDuration(left).to_string())
}

fn state(facts: &Facts, now: Timestamp) -> State {
    let daemon = &facts.seen.status;
    if let Some(work) = &daemon.at_work {
        let name = &work.schedule;
        let until = clock(work.until);
        return match work.pid {
            Some(_) => State {
                kind: "night",
                headline: format!("The night of {name} is under way."),
                detail: format!("Its window ends {until}."),
            },
            None => State {
                kind: "trouble",
                headline: format!("The night of {name} failed."),
                detail: format!("It is tried again, as long as its window is open: until {until}."),
            },
        };
    }
    if facts.progress().is_some() {
        return State {
            kind: "night",
            headline: "A night is under way.".to_string(),
            detail: "It was begun by hand.".to_string(),
        };
    }
    if daemon.paused {
        return State {
            kind: "paused",
            headline: "Paused.".to_string(),
            detail: "No night begins until a person says so.".to_string(),
        };
    }
    let next = daemon.schedules.iter().filter_map(|schedule| Some((schedule.next?, schedule)));
    match next.min_by_key(|(next, _)| *next) {
        Some((next, schedule)) => {
            let left = ahead(next, now).map(|left| format!(", in {left}")).unwrap_or_default();
            State {
                kind: "waiting",
                headline: "Waiting for the night.".to_string(),
                detail: format!("{} begins {}{left}.", schedule.name, clock(next)),
            }
        }
        None => State {
            kind: "waiting",
            headline: "Nothing is planned.".to_string(),
            detail: "The home has no schedule whose time comes.".to_string(),
        },
    }
}

/// The work under way.
fn work(report: &ProgressReport, now: Timestamp) -> Value {
    let spent = Duration::try_from(now.duration_since(report.started_at)).unwrap_or_default();
    let share = 100.0 * report.done as f64 / report.total.max(1) as f64;
    context! {
        phase => report.phase.as_str(),
        done => report.done,
        total => report.total,
        percent => format!("{share:.0}"),
        note => report.note.as_deref(),
        ended => report.ended,
        spent => HumanDuration(spent).to_string(),
        rest => report.rest().map(|rest| HumanDuration(rest).to_string()),
    }
}

/// The plots that there is something to show in, each with its title.
fn plots(overview: &Overview) -> anyhow::Result<Vec<Value>> {
    let (last, _) = NightOutcome::latest(&overview.nights);
    let suite = last.and_then(|night| night.heldout.as_ref()).map(|heldout| &heldout.suite);
    // Figures on different questions are not to be compared.
    let heldout = || {
        overview.nights.iter().filter_map(|night| {
            let heldout = night.heldout.as_ref()?;
            (Some(&heldout.suite) == suite).then_some((f64::from(night.number), heldout))
        })
    };
    let of = |mean: fn(&Metrics) -> f64, interval: fn(&Metrics) -> (f64, f64)| {
        let percent = |value: f64| value * 100.0;
        let live = heldout().map(|(night, heldout)| (night, percent(mean(&heldout.before))));
        let candidate = heldout().map(|(night, heldout)| (night, percent(mean(&heldout.after))));
        let intervals = heldout().map(|(night, heldout)| {
            let (low, high) = interval(&heldout.after);
            (night, (percent(low), percent(high)))
        });
        [Series::new("live before", live), Series::new("candidate", candidate).within(intervals)]
    };
    let mut total = 0;
    let grown = overview.growth.iter().map(|(night, n)| {
        total += n;
        (f64::from(*night), total as f64)
    });
    let archive = [Series::new("tasks", grown)];
    let about = suite.map(|suite| format!("Suite {suite}, 95 % intervals"));
    let grown_by = Some("What the nights added, together".to_string());
    let mut all = Vec::new();
    for (title, caption, unit, series) in [
        ("Held-out F1", about.clone(), "F1, %", &of(|it| it.f1, |it| it.f1_ci)[..]),
        ("Held-out exact match", about, "exact match, %", &of(|it| it.em, |it| it.em_ci)[..]),
        ("Tasks in the archive", grown_by, "tasks", &archive[..]),
    ] {
        if let Some(svg) = plots::lines_of_size(PLOT, "night", unit, series)? {
            all.push(context! { title, caption, svg => Value::from_safe_string(svg) });
        }
    }
    Ok(all)
}

/// The latest nights, the last one first.
fn nights(overview: &Overview) -> Vec<Value> {
    let added = |night: u32| overview.growth.iter().find(|(of, _)| *of == night).map(|(_, n)| *n);
    let latest = overview.nights.iter().rev().take(NIGHTS).map(|night| {
        context! {
            number => night.number,
            ended => night.finished_at.map(clock),
            started => clock(night.started_at),
            promoted => night.promoted,
            reason => night.reason.as_deref(),
            heldout => night.heldout.as_ref().map(|heldout| Value::from(Serde(heldout))),
            tasks => added(night.number),
        }
    });
    latest.collect()
}

fn schedules(daemon: &DaemonStatus, now: Timestamp) -> Vec<Value> {
    let rows = daemon.schedules.iter().map(|schedule| {
        context! {
            name => schedule.name.as_str(),
            next => schedule.next.map(clock),
            left => schedule.next.and_then(|next| ahead(next, now)),
            last => schedule.last.as_deref(),
            last_at => schedule.last_at.map(clock),
        }
    });
    rows.collect()
}

fn gpu(facts: &Facts) -> String {
    let found = facts.past.gpus.join(", ");
    match (found.is_empty(), facts.device) {
        (true, DeviceName::Cuda) => "none found, but inference.device is \"cuda\"".to_string(),
        (true, _) => "none".to_string(),
        (false, DeviceName::Cpu) => format!("{found} (not used: inference.device is \"cpu\")"),
        (false, _) => found,
    }
}
