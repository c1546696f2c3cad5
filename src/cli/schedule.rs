//! `nightschool schedule`: when nights are to be.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::Subcommand;
use jiff::Timestamp;
use jiff::Zoned;
use jiff::tz::TimeZone;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::Global;
use super::Json;
use super::Output;
use super::daemon;
use super::errors::NoSuchObject;
use super::errors::UsageError;
use super::listing::Listing;
use super::listing::ListingArgs;
use super::output;
use super::places;
use crate::config;
use crate::daemon::control::Request;
use crate::phase::home::Home;
use crate::schedule::BUILT_IN;
use crate::schedule::Schedule;
use crate::schedule::Window;

#[derive(Debug, Subcommand)]
#[command(before_help = "\
Examples:
  nightschool schedule list
  nightschool schedule show overnight > ~/.local/state/nightschool/schedules/overnight.toml
  nightschool schedule check
  nightschool schedule next overnight --count 10 --zone Europe/Berlin")]
pub(super) enum ScheduleCommand {
    /// List this home's schedules and those that come with the program
    List(ListArgs),
    /// Check schedule files: all of this home, or those that are named
    Check(CheckArgs),
    /// Show when nights will be
    Next(NextArgs),
    /// Print a schedule's file
    Show(ShowArgs),
    /// Have the daemon begin a night of a schedule now
    Trigger(TriggerArgs),
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool schedule list
  nightschool schedule list --json")]
pub(super) struct ListArgs {
    #[command(flatten)]
    listing: ListingArgs,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool schedule check
  nightschool schedule check mine.toml")]
pub(super) struct CheckArgs {
    /// Names from `schedule list`, or TOML files [default: all of this home]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool schedule next
  nightschool schedule next overnight --count 10
  nightschool schedule next mine.toml --from 2027-03-27T00:00:00Z --zone America/New_York")]
pub(super) struct NextArgs {
    /// Names from `schedule list`, or TOML files [default: all of this home]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// How many nights of each
    #[arg(long, value_name = "N", default_value_t = 5)]
    count: usize,
    /// Show times as this zone has them; when nights are does not change
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Nights after this time, in place of now
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    #[command(flatten)]
    listing: ListingArgs,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool schedule show overnight")]
pub(super) struct ShowArgs {
    /// A name from `schedule list`
    name: String,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool schedule trigger overnight")]
pub(super) struct TriggerArgs {
    /// A schedule of the home
    name: String,
    #[command(flatten)]
    json: Json,
}

/// A schedule, and where it comes from.
struct Found {
    name: String,
    /// Its file; none for one that comes with the program.
    file: Option<PathBuf>,
    text: String,
    schedule: Schedule,
}

impl Found {
    fn built_in((name, text): (&str, &str)) -> anyhow::Result<Self> {
        let (name, text) = (name.to_string(), text.to_string());
        Ok(Self { schedule: Schedule::parse(&name, &text)?, name, file: None, text })
    }

    fn file(path: &Path) -> anyhow::Result<Self> {
        let schedule = Schedule::read(path)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, file: Some(path.to_path_buf()), text: config::read_layer(path)?, schedule })
    }
}

pub(super) fn run(global: &Global, command: &ScheduleCommand) -> anyhow::Result<()> {
    let home = places::home(global)?;
    match command {
        ScheduleCommand::List(args) => list(&home, args),
        ScheduleCommand::Check(args) => check(&home, args),
        ScheduleCommand::Next(args) => next(&home, args),
        ScheduleCommand::Trigger(args) => {
            let request = Request::Trigger { schedule: args.name.clone() };
            daemon::ask(&home, &request, args.json)
        }
        ScheduleCommand::Show(args) => output::print(find(&home, &args.name)?.text.trim_end()),
    }
}

/// The schedules of a home, in the order of their names.
fn own(home: &Home) -> anyhow::Result<Vec<Found>> {
    let found = |(name, schedule): (String, Schedule)| {
        let file = home.schedules().join(format!("{name}.toml"));
        let text = config::read_layer(&file)?;
        Ok(Found { name, file: Some(file), text, schedule })
    };
    Schedule::read_all(&home.schedules())?.into_iter().map(found).collect()
}

/// The schedule of a name: the home's, then the program's, then a file.
fn find(home: &Home, name: &str) -> anyhow::Result<Found> {
    let own = home.schedules().join(format!("{name}.toml"));
    if own.is_file() {
        return Found::file(&own);
    }
    if let Some(built_in) = BUILT_IN.into_iter().find(|(built_in, _)| *built_in == name) {
        return Found::built_in(built_in);
    }
    if Path::new(name).is_file() {
        return Found::file(Path::new(name));
    }
    let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
    let why = format!(
        "no schedule {name:?} in {}, and no such file; the program comes with {}",
        home.schedules().display(),
        names.join(", ")
    );
    Err(NoSuchObject(why).into())
}

/// The schedules that were named, or all of the home.
fn chosen(home: &Home, names: &[String]) -> anyhow::Result<Vec<Found>> {
    if !names.is_empty() {
        return names.iter().map(|name| find(home, name)).collect();
    }
    let found = own(home)?;
    if found.is_empty() {
        let show = places::command_for(home, "schedule show overnight");
        let why = format!(
            "{} has no schedule; begin with one that the program comes with: `{show} > {}`",
            home.schedules().display(),
            home.schedules().join("overnight.toml").display()
        );
        return Err(NoSuchObject(why).into());
    }
    Ok(found)
}

fn list(home: &Home, args: &ListArgs) -> anyhow::Result<()> {
    let mut all = own(home)?;
    let taken: Vec<String> = all.iter().map(|found| found.name.clone()).collect();
    for built_in in BUILT_IN {
        if !taken.iter().any(|name| name == built_in.0) {
            all.push(Found::built_in(built_in)?);
        }
    }
    let now = Timestamp::now();
    let row = |found: &Found| {
        let next = found.schedule.windows(now).next().filter(|_| found.file.is_some());
        json!({
            "name": found.name,
            "in_use": found.file.is_some(),
            "about": found.schedule.about,
            "cron": found.schedule.cron.as_str(),
            "zone": found.schedule.zone.rules().iana_name(),
            "next": next.map(|window| window.start.timestamp().to_string()),
            "file": found.file,
        })
    };
    args.listing.show(Listing {
        name: "schedules",
        rows: all.iter().map(row).collect(),
        beside: Map::new(),
        columns: &["name", "in_use", "about", "cron", "zone", "next", "file"],
        shown: &["name", "in_use", "about", "cron", "next"],
        note: Some(format!("In use are the files in {}.", home.schedules().display())),
    })
}

fn check(home: &Home, args: &CheckArgs) -> anyhow::Result<()> {
    let found = chosen(home, &args.names)?;
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for one in &found {
        let Some(next) = one.schedule.windows(now).next() else {
            anyhow::bail!(
                "schedule {} never begins: quiet hours take all of its windows, or it is past",
                one.name
            );
        };
        rows.push((one.name.clone(), next));
    }
    let json = json!({ "schedules": rows.iter().map(|(name, next)| json!({
        "name": name,
        "next": next.start.timestamp().to_string(),
    })).collect::<Vec<Value>>() });
    let line =
        |(name, next): &(String, Window)| format!("{name}: fine; next {}", shown(&next.start));
    Output::new(args.json.json).show(&json, || rows.iter().map(line).collect::<Vec<_>>().join("\n"))
}

fn next(home: &Home, args: &NextArgs) -> anyhow::Result<()> {
    let zone = args.zone.as_deref().map(|name| {
        TimeZone::get(name).map_err(|_| {
            UsageError(format!("--zone: \"{name}\" is no time zone, such as Europe/Berlin"))
        })
    });
    let zone = zone.transpose()?;
    let from = args.from.unwrap_or_else(Timestamp::now);
    let local = |time: &Zoned| match &zone {
        Some(zone) => shown(&time.with_time_zone(zone.clone())),
        None => shown(time),
    };
    let mut rows = Vec::new();
    for found in chosen(home, &args.names)? {
        for Window { due, start, end } in found.schedule.windows(from).take(args.count) {
            rows.push(json!({
                "schedule": found.name,
                "start": local(&start),
                "end": local(&end),
                "due": local(&due),
                "start_utc": start.timestamp().to_string(),
                "end_utc": end.timestamp().to_string(),
            }));
        }
    }
    rows.sort_by(|one, other| one["start_utc"].as_str().cmp(&other["start_utc"].as_str()));
    args.listing.show(Listing {
        name: "windows",
        rows,
        beside: Map::new(),
        columns: &["schedule", "start", "end", "due", "start_utc", "end_utc"],
        shown: &["schedule", "start", "end", "start_utc"],
        note: None,
    })
}

/// A time for people: the day, the time, and how far it is from UTC.
fn shown(time: &Zoned) -> String {
    time.strftime("%a %Y-%m-%d %H:%M %:z").to_string()
}
