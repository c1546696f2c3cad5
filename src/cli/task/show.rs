//! One task with everything that led to it and came of it.

use clap::Args;
use serde_json::Value;

use super::super::Json;
use super::super::Output;
use super::super::output::or_dash;
use super::super::output::printable;
use super::super::output::shortened;
use super::super::output::table;
use crate::archive::ArchiveReader;
use crate::archive::Imported;
use crate::archive::StoredRollout;
use crate::archive::TaskDetail;
use crate::rollout::Start;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool task show 3fa9          # the beginning of its id
  nightschool task show 3fa9 --json --tokens")]
pub(in crate::cli) struct ShowArgs {
    /// The task's id, or the beginning of it
    id: String,
    /// With --json: the rollouts' token ids and log-probabilities too
    #[arg(long, requires = "json")]
    tokens: bool,
    #[command(flatten)]
    json: Json,
}

pub(super) fn run(archive: &ArchiveReader, args: &ShowArgs) -> anyhow::Result<()> {
    let detail = archive.task_detail(&args.id)?;
    let value = as_json(&detail, args.tokens)?;
    Output::new(args.json.json).show(&value, || rendered(&detail))
}

/// The detail with token counts in place of tokens, unless those are asked for.
fn as_json(detail: &TaskDetail, tokens: bool) -> anyhow::Result<Value> {
    let mut value = serde_json::to_value(detail)?;
    let rollouts = value.get_mut("rollouts").and_then(Value::as_array_mut);
    for json in rollouts.into_iter().flatten().filter(|_| !tokens) {
        json.as_object_mut().map(|members| members.shift_remove("steps"));
    }
    Ok(value)
}

fn rendered(detail: &TaskDetail) -> String {
    let (stored, draft) = (&detail.task, &detail.draft);
    let task = &stored.task;
    let mut facts = vec![
        ("Task", task.id.clone()),
        ("Question", task.question.clone()),
        ("Answer", format!("{} ({})", task.answer, task.kind.as_str())),
        ("Made", made(detail)),
        ("Side", task.split.as_str().to_string()),
        (
            "State",
            match &stored.state_reason {
                Some(reason) => format!("{} ({reason})", stored.state.as_str()),
                None => stored.state.as_str().to_string(),
            },
        ),
        ("Solved", format!("{} of {} attempts", stored.solved, stored.attempts)),
        ("Seed", format!("{} over {} passages", draft.seed.answer, draft.seed.hops())),
    ];
    if let Some(transcript) = &draft.transcript {
        facts.push(("Written", shortened(transcript, 400)));
    }
    for (name, ids) in [("Made from", &detail.parents), ("Led to", &detail.children)] {
        if !ids.is_empty() {
            facts.push((name, ids.join(", ")));
        }
    }
    let facts = facts.into_iter().map(|(name, value)| vec![name.to_string(), value]);
    let mut text = table(&[], facts);
    for passage in &detail.passages {
        text += &format!(
            "\n\nEvidence {}: {} ({}{})\n{}",
            passage.passage.id,
            printable(&passage.passage.title),
            printable(&passage.sources.join(", ")),
            if passage.retired { "; retired" } else { "" },
            printable(&passage.passage.text)
        );
    }
    let verdicts = detail.verdicts.iter().map(|verdict| {
        let outcome = verdict.rejection.map_or("passed", |reason| reason.as_str());
        let required = if verdict.required { "required" } else { "recorded" };
        let evidence = shortened(&verdict.evidence.to_string(), 160);
        vec![verdict.check.clone(), outcome.to_string(), required.to_string(), evidence]
    });
    text += &format!("\n\n{}", table(&["check", "outcome", "", "evidence"], verdicts));
    if !detail.verifications.is_empty() {
        let rows = detail.verifications.iter().map(|again| {
            let reason = again.verdicts.iter().filter(|v| v.required).find_map(|v| v.rejection);
            let outcome = reason.map_or("stands", |reason| reason.as_str());
            vec![again.night.to_string(), outcome.to_string(), again.evidence.join(", ")]
        });
        text += &format!("\n\n{}", table(&["again in night", "outcome", "against"], rows));
    }
    text += &played(detail);
    if !detail.model_versions.is_empty() {
        let rows = detail.model_versions.iter().map(|version| {
            vec![
                version.id.clone(),
                version.kind.as_str().to_string(),
                or_dash(version.parent.clone()),
                or_dash(version.night),
                version.note.clone(),
            ]
        });
        text += &format!("\n\n{}", table(&["version", "kind", "from", "night", "note"], rows));
    }
    text
}

/// How it stood in the curriculum, and every attempt.
fn played(detail: &TaskDetail) -> String {
    let mut text = String::new();
    if !detail.standings.is_empty() {
        let rows = detail.standings.iter().map(|change| {
            vec![
                change.standing.as_str().to_string(),
                change.night.to_string(),
                change.round.to_string(),
                change.reason.as_str().to_string(),
                format!("{} of {} solved", change.solved, change.attempts),
            ]
        });
        let header = ["standing", "since night", "round", "because", "of these attempts"];
        text += &format!("\n\n{}", table(&header, rows));
    }
    if !detail.rollouts.is_empty() {
        let header =
            ["night", "round", "no", "from", "by", "answer", "em", "f1", "reward", "end", "tokens"];
        text += &format!("\n\n{}", table(&header, detail.rollouts.iter().map(rollout_row)));
    }
    text
}

fn made(detail: &TaskDetail) -> String {
    let by = &detail.draft.model_version;
    match (detail.task.task.night, &detail.imported) {
        (Some(night), _) => format!("night {night}, by {by}"),
        (None, None) => format!("by {by}"),
        (None, Some(before)) => {
            let night = before.night.map(|night| format!("night {night}, ")).unwrap_or_default();
            let Imported { source, solved, attempts, .. } = before;
            let played = format!("{solved} of {attempts} attempts solved there");
            format!("{night}by {by}, before it was imported with {source}; {played}")
        }
    }
}

/// How a rollout goes on from an earlier one, and by night, round and number from which.
fn start(start: &Start) -> String {
    let Start { kind, depth, night, round, index, .. } = start;
    format!("{} {night}/{round}/{index}, depth {depth}", kind.as_str())
}

fn rollout_row(stored: &StoredRollout) -> Vec<String> {
    let (rollout, score) = (&stored.rollout, &stored.score);
    vec![
        stored.night.to_string(),
        stored.round.to_string(),
        rollout.index.to_string(),
        or_dash(rollout.start.as_ref().map(start)),
        rollout.model_version.clone(),
        or_dash(rollout.answer.as_ref().map(|answer| shortened(answer, 40))),
        format!("{:.0}", score.exact_match),
        format!("{:.2}", score.f1),
        format!("{:.2}", score.reward),
        rollout.stop.as_str().to_string(),
        match stored.tokens_removed_night {
            Some(night) => format!("{}, removed in night {night}", stored.model_tokens),
            None => stored.model_tokens.to_string(),
        },
    ]
}
