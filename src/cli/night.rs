//! `nightschool night --now`: one night on the documents of a home.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::Global;
use super::Json;
use super::Output;
use super::errors;
use super::errors::Exit;
use super::errors::UsageError;
use super::places;
use crate::archive::ArchiveError;
use crate::archive::ArchiveReader;
use crate::clock::Clock as _;
use crate::clock::SystemClock;
use crate::config::Notify;
use crate::config::Outcome;
use crate::config::Settings;
use crate::daemon::control;
use crate::phase::home::Home;
use crate::phase::ingest;
use crate::phase::night;
use crate::phase::night::NightContext;
use crate::phase::notify;
use crate::phase::notify::Message;
use crate::phase::report::Report;
use crate::progress;
use crate::schedule::Schedule;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool night --now
  nightschool night --now --json > report.json
  nightschool night --now --schedule ~/.local/state/nightschool/schedules/weekend.toml
  nightschool night --now --set solve.rounds=4 --seed 7")]
pub(super) struct NightArgs {
    /// Begin at once, or continue the night that was interrupted
    #[arg(long)]
    now: bool,
    /// A built-in name, a folder, a .gguf file or a hub id in place of the one in the settings
    #[arg(long)]
    model: Option<String>,
    /// With the settings of a schedule's file over those of the home
    #[arg(long, value_name = "FILE")]
    schedule: Option<PathBuf>,
    /// Seed of every random draw
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, args: &NightArgs) -> anyhow::Result<()> {
    if !args.now {
        let message = "a night begins with `nightschool night --now`; nights at set times are \
                       the daemon's: see `nightschool daemon --help`";
        return Err(UsageError(message.to_string()).into());
    }
    let home = places::home(global)?;
    let mut flags: Vec<String> = places::model_flag(args.model.as_ref()).into_iter().collect();
    flags.extend(args.seed.map(|seed| format!("seed={seed}")));
    let schedule = args.schedule.as_deref().map(Schedule::read).transpose()?;
    let over = schedule.map(|schedule| schedule.settings.to_string()).unwrap_or_default();
    let over = [("the schedule's [settings]", over.as_str())];
    let settings = places::settings_over(global, &home, &[], &over, &flags)?;
    require_corpus(&home)?;
    let context = NightContext {
        model: places::model_context(global)?,
        sources: Vec::new(),
        suite: None,
        clock: Arc::new(SystemClock),
    };
    let ended = run_told(&home, &settings, &context);
    tell(&home, &settings.notify, &ended);
    let report = ended?;
    Output::new(args.json.json).show(&report, || report.render())
}

/// Runs a night whose progress stands in the home, where the daemon and `status` read it. One that
/// fails leaves its reason there.
pub(super) fn run_told(
    home: &Home,
    settings: &Settings,
    context: &NightContext,
) -> anyhow::Result<Report> {
    let published = progress::publish(home.progress());
    let outcome = night::run(home, settings, context);
    if let Err(error) = &outcome
        // Of a home that another process uses, the file is that one's.
        && !matches!(errors::exit_of(error), Exit::Busy | Exit::Interrupted)
    {
        published.fail(&errors::message(error));
    }
    outcome
}

/// Tells of a night that a person began; of the daemon's nights the daemon does, which also sees
/// how its process died.
fn tell(home: &Home, settings: &Notify, ended: &anyhow::Result<Report>) {
    if !settings.is_on() || control::is_night_of(&home.socket()) {
        return;
    }
    let now = SystemClock.now();
    let message = match ended {
        Ok(_) => Message::of_finished(home, None, now),
        Err(error) => {
            let outcome = match errors::exit_of(error) {
                Exit::Interrupted => Outcome::Stopped,
                Exit::Config | Exit::Usage => Outcome::Refused,
                _ => Outcome::Failed,
            };
            Message::of_night(home, None, outcome, &errors::message(error), now)
        }
    };
    notify::tell(settings, &message);
}

/// Fails, before anything is fetched or made, when there is nothing to learn from.
fn require_corpus(home: &Home) -> anyhow::Result<()> {
    let add = places::command_for(home, "corpus add DIR");
    let empty = || {
        anyhow::anyhow!(
            "{} has no documents to learn from; add some with `{add}`",
            home.dir().display()
        )
    };
    match ArchiveReader::open(&home.archive()) {
        Ok(archive) if ingest::roots(&archive)?.is_empty() && archive.passages()?.is_empty() => {
            Err(empty())
        }
        Ok(_) => Ok(()),
        Err(ArchiveError::Missing { .. }) => Err(empty()),
        // The night itself brings it up to date.
        Err(ArchiveError::Older { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
