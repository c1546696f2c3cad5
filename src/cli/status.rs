//! `nightschool status`: what a home holds, how its last night went, what to do next.

use clap::Args;
use serde::Serialize;

use super::Global;
use super::Json;
use super::Output;
use super::daemon;
use super::output::or_dash;
use super::output::table;
use super::places;
use crate::archive::ArchiveError;
use crate::archive::ArchiveReader;
use crate::archive::FileState;
use crate::archive::ModelVersion;
use crate::archive::TaskGroup;
use crate::archive::TaskGrouping;
use crate::daemon::control;
use crate::daemon::control::Answer;
use crate::daemon::control::DaemonStatus;
use crate::daemon::control::Request;
use crate::durable::DurableError;
use crate::durable::HomeLock;
use crate::phase::home::Home;
use crate::phase::overview::NightOutcome;
use crate::progress::ProgressReport;
use crate::task::Split;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool status
  nightschool status --json
  nightschool --home /srv/school status --digest")]
pub(super) struct StatusArgs {
    /// Also a hash of all the archive holds, clock times left out: equal for equal nights
    #[arg(long)]
    digest: bool,
    #[command(flatten)]
    json: Json,
}

/// What a home holds.
#[derive(Debug, Default, Serialize)]
struct Status {
    home: String,
    /// Its settings file, if there is one.
    config: Option<String>,
    /// Whether another process is at work in it.
    busy: bool,
    /// That process, where it is known.
    pid: Option<u32>,
    /// Its daemon, where one runs.
    daemon: Option<DaemonStatus>,
    /// What the night under way is at, or why the last one failed.
    progress: Option<ProgressReport>,
    corpus: CorpusStatus,
    tasks: Vec<TaskGroup>,
    live_model: Option<ModelVersion>,
    nights: usize,
    last_night: Option<NightOutcome>,
    unfinished_night: Option<NightOutcome>,
    /// Hash of the archive's content, when asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Commands that make sense now.
    next: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct CorpusStatus {
    files: usize,
    skipped: usize,
    documents: usize,
    heldout_documents: usize,
    passages: usize,
}

pub(super) fn run(global: &Global, args: &StatusArgs) -> anyhow::Result<()> {
    let home = places::home(global)?;
    let mut status = status_of(&home)?;
    if args.digest {
        status.digest = Some(ArchiveReader::open(&home.archive())?.content_digest()?);
    }
    Output::new(args.json.json).show(&status, || rendered(&status))
}

fn status_of(home: &Home) -> anyhow::Result<Status> {
    let config = home.config();
    let mut status = Status {
        home: home.dir().display().to_string(),
        config: config.exists().then(|| config.display().to_string()),
        daemon: daemon_of(home),
        progress: ProgressReport::read(&home.progress()),
        ..Status::default()
    };
    match ArchiveReader::open(&home.archive()) {
        Ok(archive) => look_into(&archive, home, &mut status)?,
        // A home that has not been used is a fact, not a failure.
        Err(ArchiveError::Missing { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    status.next = next_commands(home, &status);
    Ok(status)
}

/// What the home's daemon says; that it does not answer is no reason to say nothing of the rest.
fn daemon_of(home: &Home) -> Option<DaemonStatus> {
    match control::ask(&home.socket(), &Request::Status) {
        Ok(Some(Answer::Status(status))) => Some(status),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!("{error:#}");
            None
        }
    }
}

fn look_into(archive: &ArchiveReader, home: &Home, status: &mut Status) -> anyhow::Result<()> {
    if let Err(DurableError::Busy { pid, .. }) = HomeLock::acquire(home.dir()) {
        (status.busy, status.pid) = (true, pid);
    }
    let files = archive.source_files()?;
    let in_state = |state| files.iter().filter(|file| file.state == state).count();
    let documents = archive.documents()?;
    let present = documents.iter().filter(|document| !document.retired);
    status.corpus = CorpusStatus {
        files: in_state(FileState::Read),
        skipped: in_state(FileState::Skipped),
        documents: present.clone().count(),
        heldout_documents: present.filter(|document| document.split == Split::Heldout).count(),
        passages: archive.passages()?.len(),
    };
    status.tasks = archive.task_stats(TaskGrouping::Origin)?;
    status.live_model = archive.live_model()?;
    let nights = NightOutcome::all(archive)?;
    status.nights = nights.len();
    let (last, unfinished) = NightOutcome::latest(&nights);
    (status.last_night, status.unfinished_night) = (last.cloned(), unfinished.cloned());
    Ok(())
}

fn next_commands(home: &Home, status: &Status) -> Vec<String> {
    let command = |command: &str| places::command_for(home, command);
    if status.corpus.passages == 0 {
        let first = (status.config.is_none()).then(|| command("init"));
        return first.into_iter().chain([command("corpus add DIR")]).collect();
    }
    let mut next = Vec::new();
    if !status.busy {
        next.push(command("night --now"));
    }
    if !status.tasks.is_empty() {
        next.push(command("task list"));
        next.push(command("task stats"));
        next.push(command("model list"));
    }
    next.push(command("corpus search \"…\""));
    next
}

fn progress(report: &ProgressReport) -> String {
    if let Some(why) = &report.failed {
        return format!("the last night failed at {:.0}: {why}", report.updated_at);
    }
    if report.ended {
        return format!("{} is over", report.phase);
    }
    let note = report.note.as_ref().map(|note| format!(" · {note}")).unwrap_or_default();
    format!("{}: {} of {}{note}", report.phase, report.done, report.total)
}

fn rendered(status: &Status) -> String {
    let corpus = &status.corpus;
    let sum = |count: fn(&TaskGroup) -> u64| status.tasks.iter().map(count).sum::<u64>();
    let busy = match (status.busy, status.pid) {
        (true, Some(pid)) => format!("{} (in use by process {pid})", status.home),
        (true, None) => format!("{} (in use)", status.home),
        (false, _) => status.home.clone(),
    };
    let night = |night: &NightOutcome| {
        let outcome = match (night.promoted, &night.reason) {
            (Some(true), Some(reason)) => format!(": promoted, {reason}"),
            (Some(false), Some(reason)) => format!(": kept the old model, {reason}"),
            _ => String::new(),
        };
        format!("{}, begun {:.0}{outcome}", night.number, night.started_at)
    };
    let rows = [
        ("Home", busy),
        ("Settings", status.config.clone().unwrap_or_else(|| "defaults (no file)".to_string())),
        (
            "Corpus",
            format!(
                "{} files ({} left out), {} documents ({} held out), {} passages",
                corpus.files,
                corpus.skipped,
                corpus.documents,
                corpus.heldout_documents,
                corpus.passages
            ),
        ),
        (
            "Tasks",
            format!(
                "{} active, {} retired; {} of {} attempts solved",
                sum(|group| group.active),
                sum(|group| group.retired),
                sum(|group| group.solved),
                sum(|group| group.attempts)
            ),
        ),
        ("Live model", or_dash(status.live_model.as_ref().map(|version| version.id.clone()))),
        ("Daemon", or_dash(status.daemon.as_ref().map(daemon::doing))),
        ("Progress", or_dash(status.progress.as_ref().map(progress))),
        ("Last night", or_dash(status.last_night.as_ref().map(night))),
        ("Unfinished", or_dash(status.unfinished_night.as_ref().map(night))),
    ];
    let rows = rows.into_iter().map(|(name, value)| vec![name.to_string(), value]);
    let next: Vec<String> = status.next.iter().map(|command| format!("  {command}")).collect();
    format!("{}\n\nNext:\n{}", table(&[], rows), next.join("\n"))
}
