//! `nightschool notify`: whether those who are told of nights can be reached.

use clap::Args;
use serde_json::json;

use super::Global;
use super::Json;
use super::Output;
use super::errors::UsageError;
use super::places;
use crate::clock::Clock as _;
use crate::clock::SystemClock;
use crate::phase::notify;
use crate::phase::notify::Delivery;
use crate::phase::notify::Message;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool notify --test            # to whoever [notify] in the settings names
  nightschool notify --test --set 'notify.command=[\"/usr/bin/tee\", \"/tmp/message.json\"]'")]
pub(super) struct NotifyArgs {
    /// Send a test message, and say what came of it
    #[arg(long)]
    test: bool,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(global: &Global, args: &NotifyArgs) -> anyhow::Result<()> {
    if !args.test {
        let message = "nights send their messages themselves; `nightschool notify --test` sends \
                       one that tells of nothing";
        return Err(UsageError(message.to_string()).into());
    }
    let home = places::home(global)?;
    let settings = places::settings(global, &home, &[], &[])?.notify;
    notify::check(&settings)?;
    if !settings.is_on() {
        anyhow::bail!(
            "nobody is told of nights; set `command` or `webhook` in [notify] of {}",
            home.config().display()
        );
    }
    let deliveries = notify::deliver(&settings, &Message::test(&home, SystemClock.now()));
    let why = |one: &Delivery| one.failure.as_ref().map(|failure| failure.why.clone());
    let all: Vec<_> =
        deliveries.iter().map(|one| json!({ "to": one.to, "failure": why(one) })).collect();
    Output::new(args.json.json).show(&json!({ "deliveries": all }), || {
        let line = |one: &Delivery| match why(one) {
            Some(why) => format!("{}: not delivered: {why}", one.to),
            None => format!("{}: delivered", one.to),
        };
        deliveries.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    let failed = deliveries.iter().filter(|one| one.failure.is_some()).count();
    match failed {
        0 => Ok(()),
        _ => anyhow::bail!("{failed} of {} messages were not delivered", deliveries.len()),
    }
}
