//! A person looks at tasks one by one, and decides.

use std::io::BufRead as _;
use std::io::Write as _;

use clap::Args;
use serde::Serialize;

use super::super::Global;
use super::super::Json;
use super::super::Output;
use super::super::output::print;
use super::super::output::printable;
use super::super::output::table;
use super::super::places;
use super::list::FilterArgs;
use crate::archive::Archive;
use crate::archive::Decision;
use crate::archive::TaskDetail;
use crate::archive::TaskFilter;
use crate::archive::TaskOrder;
use crate::archive::TaskState;
use crate::config::Settings;
use crate::phase::curate;

/// Tasks that are read at once.
const PAGE: u32 = 50;

#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  nightschool task review --origin model --band never
  nightschool task review --text tower",
    after_help = "\
Each task is shown with its passages; then one line decides about it:
  a [NOTE]   accept: it is right
  r [NOTE]   reject: it is wrong, and is not played any more
  e [NOTE]   edit: asks for question and answer (an empty line keeps the old one)
  s          skip it, this time
  q          quit"
)]
pub(in crate::cli) struct ReviewArgs {
    /// Those, too, about which a person has decided before
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    json: Json,
    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DecideArgs {
    /// The task's id, or the beginning of it
    id: String,
    /// Why
    #[arg(long, default_value = "")]
    note: String,
    #[command(flatten)]
    json: Json,
}

/// How a review went.
#[derive(Debug, Default, Serialize)]
struct Counts {
    accepted: u32,
    rejected: u32,
    edited: u32,
    /// Edits that the gate turned away.
    edits_turned_away: u32,
    skipped: u32,
}

pub(super) fn decide(global: &Global, args: &DecideArgs, decision: Decision) -> anyhow::Result<()> {
    let (_lock, archive) = places::writable(global)?;
    let id = archive.task_detail(&args.id)?.task.task.id;
    let task = archive.curate(&id, decision, &args.note)?;
    Output::new(args.json.json).show(&task, || format!("{id} is {}", task.state.as_str()))
}

pub(super) fn review(global: &Global, args: &ReviewArgs) -> anyhow::Result<()> {
    let (_lock, archive) = places::writable(global)?;
    let settings = places::settings(global, &places::home(global)?, &[], &[])?;
    let mut counts = Counts::default();
    let mut lines = std::io::stdin().lock().lines();
    let mut ask = |question: &str| -> anyhow::Result<Option<String>> {
        let mut stderr = anstream::stderr();
        write!(stderr, "{question}").and_then(|()| stderr.flush())?;
        Ok(lines.next().transpose()?.map(|line| line.trim().to_string()))
    };
    let mut filter = args.filter.filter();
    filter.state.get_or_insert(TaskState::Active);
    filter = TaskFilter { order: TaskOrder::Newest, limit: Some(PAGE), ..filter };
    'pages: loop {
        let page = archive.task_page(&filter)?;
        for stored in page.tasks {
            let id = &stored.task.id;
            if !args.again && archive.is_curated(id)? {
                continue;
            }
            let detail = archive.task_detail(id)?;
            if !args.json.json {
                print(&shown(&detail))?;
            }
            if !one(&archive, &settings, &detail, &mut counts, &mut ask)? {
                break 'pages;
            }
        }
        let Some(next) = page.next else { break };
        filter.after = Some(next);
    }
    Output::new(args.json.json).show(&counts, || {
        format!(
            "\n{} accepted, {} rejected, {} edited ({} edits turned away by the gate), {} skipped",
            counts.accepted,
            counts.rejected,
            counts.edited,
            counts.edits_turned_away,
            counts.skipped
        )
    })
}

fn shown(detail: &TaskDetail) -> String {
    let task = &detail.task.task;
    let facts = [
        ("Task", task.id.clone()),
        ("Question", task.question.clone()),
        ("Answer", task.answer.clone()),
        ("Solved", format!("{} of {}", detail.task.solved, detail.task.attempts)),
    ];
    let facts = facts.into_iter().map(|(name, value)| vec![name.to_string(), value]);
    let mut text = format!("\n{}\n", table(&[], facts));
    for passage in &detail.passages {
        let (title, words) = (&passage.passage.title, &passage.passage.text);
        text += &format!("\n{}\n{}\n", printable(title), printable(words));
    }
    text
}

/// Asks about one task; returns false when the person has had enough.
fn one(
    archive: &Archive,
    settings: &Settings,
    detail: &TaskDetail,
    counts: &mut Counts,
    ask: &mut impl FnMut(&str) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<bool> {
    let task = &detail.task.task;
    loop {
        let Some(line) = ask("[a]ccept [r]eject [e]dit [s]kip [q]uit > ")? else {
            return Ok(false);
        };
        let (action, note) = line.split_once(' ').unwrap_or((&line, ""));
        match action {
            "a" => {
                archive.curate(&task.id, Decision::Accept, note)?;
                counts.accepted += 1;
            }
            "r" => {
                archive.curate(&task.id, Decision::Reject, note)?;
                counts.rejected += 1;
            }
            "e" => {
                let question = ask("question > ")?.unwrap_or_default();
                let answer = ask("answer > ")?.unwrap_or_default();
                let or = |new: String, old: &str| if new.is_empty() { old.into() } else { new };
                let (question, answer) = (or(question, &task.question), or(answer, &task.answer));
                let edited = curate::edited(archive, &settings.verify, detail, &question, &answer);
                if let Some(verdict) = edited.verdicts.iter().find(|v| v.rejection.is_some()) {
                    let mut stderr = anstream::stderr();
                    writeln!(stderr, "the gate turns it away: {}", verdict.check)?;
                    counts.edits_turned_away += 1;
                    continue;
                }
                archive.replace_task(&task.id, &edited, note)?;
                counts.edited += 1;
            }
            "s" => counts.skipped += 1,
            "q" => return Ok(false),
            _ => continue,
        }
        return Ok(true);
    }
}
