//! `nightschool daemon`, and what other commands ask of one that runs.

use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;

use super::Global;
use super::Json;
use super::Output;
use super::output::or_dash;
use super::output::table;
use super::places;
use crate::clock::SystemClock;
use crate::daemon;
use crate::daemon::DaemonContext;
use crate::daemon::control;
use crate::daemon::control::Answer;
use crate::daemon::control::DaemonStatus;
use crate::daemon::control::Request;
use crate::http::Server;
use crate::phase::home::Home;
use crate::phase::notify;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool daemon                   # TERM stops a night at a safe point, and then it
  nightschool daemon --check           # whether schedules and settings would be taken
  nightschool daemon --status")]
pub(super) struct DaemonArgs {
    /// Only check the schedules of the home together with its settings
    #[arg(long)]
    check: bool,
    /// Only say what the daemon of this home is doing
    #[arg(long, conflicts_with = "check")]
    status: bool,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, args: &DaemonArgs) -> anyhow::Result<()> {
    let home = places::home(global)?;
    let http = Server::new(home.clone(), global.set.clone());
    if args.status {
        return ask(&home, &Request::Status, args.json);
    }
    if args.check {
        let schedules = daemon::load(&home)?;
        notify::check(&places::settings(global, &home, &[], &[])?.notify)?;
        for (name, schedule) in &schedules {
            notify::check(&daemon::settings_of(&home, name, schedule)?.notify)?;
        }
        let names: Vec<String> = schedules.into_keys().collect();
        let http = http.check()?;
        let checked = serde_json::json!({ "schedules": names, "http": http });
        return Output::new(args.json.json).show(&checked, || {
            let http = http.map(|at| format!("; http://{at}/")).unwrap_or_default();
            format!("{} schedules, all fine: {}{http}", names.len(), names.join(", "))
        });
    }
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let (clock, listener) = (Arc::new(SystemClock), Box::new(http));
    daemon::run(&home, DaemonContext { program, clock, listener })
}

/// Asks the daemon of a home and shows what it then does.
pub(super) fn ask(home: &Home, request: &Request, json: Json) -> anyhow::Result<()> {
    match control::ask(&home.socket(), request)? {
        Some(Answer::Status(status)) => Output::new(json.json).show(&status, || rendered(&status)),
        Some(Answer::Refused(why)) => anyhow::bail!("the daemon did not do it: {why}"),
        None => anyhow::bail!(
            "no daemon runs in {}; begin one with `{}`, or as a service",
            home.dir().display(),
            places::command_for(home, "daemon")
        ),
    }
}

/// What it is doing, in a line.
pub(super) fn doing(status: &DaemonStatus) -> String {
    match &status.at_work {
        Some(work) => {
            let process = match work.pid {
                Some(pid) => format!("process {pid}"),
                None => "failed, to be tried again".to_string(),
            };
            format!("a night of {}, until {:.0} ({process})", work.schedule, work.until)
        }
        None if status.paused => "paused".to_string(),
        None => "waiting".to_string(),
    }
}

fn rendered(status: &DaemonStatus) -> String {
    let rows = status.schedules.iter().map(|schedule| {
        vec![
            schedule.name.clone(),
            or_dash(schedule.next.map(|next| format!("{next:.0}"))),
            or_dash(schedule.last_at.map(|at| format!("{at:.0}"))),
            or_dash(schedule.last.clone()),
        ]
    });
    let http = status.http.map(|at| format!("\nhttp://{at}/")).unwrap_or_default();
    format!(
        "Process {}, since {:.0}: {}{http}\n\n{}",
        status.pid,
        status.since,
        doing(status),
        table(&["schedule", "next", "last", "what"], rows)
    )
}
