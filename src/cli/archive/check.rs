//! `nightschool archive check`.

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;

use crate::archive::ArchiveError;
use crate::archive::ArchiveReader;
use crate::archive::Finding;
use crate::archive::FindingKind;
use crate::archive::Repair;
use crate::archive::repair;
use crate::cli::Global;
use crate::cli::Json;
use crate::cli::Output;
use crate::cli::output::printable;
use crate::cli::places;
use crate::durable::HomeLock;
use crate::phase::health;
use crate::phase::home::Home;
use crate::progress::Progress;

/// Ids listed for people; JSON has all.
const LISTED: usize = 8;

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool archive check
  nightschool archive check --json > findings.json
  nightschool archive check --repair")]
pub(in crate::cli) struct CheckArgs {
    /// Repair what can be: indexes and counts are made again, and of a damaged table what can be
    /// read is copied into a new file. The old file is kept beside it
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    json: Json,
}

/// What a check found, and what was done about it.
#[derive(Debug, Serialize)]
struct Report {
    archive: String,
    ok: bool,
    /// As found at first.
    findings: Vec<Finding>,
    /// What a repair did.
    repair: Option<Repair>,
    /// What is still wrong after it.
    left: Option<Vec<Finding>>,
}

pub(super) fn run(global: &Global, args: &CheckArgs) -> anyhow::Result<()> {
    let home = &places::home(global)?;
    if !home.archive().exists() {
        return Err(ArchiveError::Missing { path: home.archive() }.into());
    }
    let _lock = args.repair.then(|| HomeLock::acquire(home.dir())).transpose()?;
    let findings = look(home)?;
    let mut report = Report {
        archive: home.archive().display().to_string(),
        ok: findings.is_empty(),
        findings,
        repair: None,
        left: None,
    };
    if args.repair && !report.ok {
        report.repair = repair(&home.archive(), &report.findings)?;
        if report.repair.is_some() {
            let left = look(home)?;
            report.ok = left.is_empty();
            report.left = Some(left);
        }
    }
    Output::new(args.json.json).show(&report, || rendered(&report))?;
    if report.ok {
        return Ok(());
    }
    let left = report.left.as_ref().unwrap_or(&report.findings);
    let can = left.iter().any(|finding| finding.repair.is_some());
    let next = match can && report.repair.is_none() {
        true => format!("`{}` repairs what can be", command(home, "archive check --repair")),
        false => format!("`{}` brings a backup back", command(home, "archive restore BACKUP")),
    };
    anyhow::bail!("{} is not whole: {} findings; {next}", report.archive, left.len())
}

fn command(home: &Home, command: &str) -> String {
    places::command_for(home, command)
}

fn look(home: &Home) -> anyhow::Result<Vec<Finding>> {
    let progress = Progress::start("checking the archive", ArchiveReader::CHECKS + 1);
    let read = || -> anyhow::Result<Vec<Finding>> {
        let archive = ArchiveReader::open(&home.archive())?;
        let mut findings = archive.findings_with(&mut |step| {
            progress.advance(1);
            progress.note(step);
        })?;
        let damaged = findings.iter().any(|finding| finding.kind == FindingKind::Structure);
        match health::check_weights(home, &archive) {
            Ok(found) => findings.extend(found),
            // Versions that cannot be read are in the findings already.
            Err(_) if damaged => {}
            Err(error) => return Err(error),
        }
        Ok(findings)
    };
    match read() {
        Ok(findings) => Ok(findings),
        Err(error) => match error.downcast_ref::<ArchiveError>() {
            // So damaged that it does not even open.
            Some(ArchiveError::Damaged { detail, .. }) => {
                Ok(vec![whole_file(FindingKind::Structure, detail.clone())])
            }
            _ => Err(error),
        },
    }
}

fn whole_file(kind: FindingKind, detail: String) -> Finding {
    let (place, affected) = ("file".to_string(), crate::archive::Affected::default());
    Finding { kind, place, detail, affected, repair: None }
}

fn rendered(report: &Report) -> String {
    let mut text = match report.findings.as_slice() {
        [] => return format!("{} is whole.", report.archive),
        found => format!("{} findings in {}:\n\n{}", found.len(), report.archive, list(found)),
    };
    if let Some(repair) = &report.repair {
        text += &format!("\n\n{}", repaired(repair));
    }
    match &report.left {
        None => {}
        Some(left) if left.is_empty() => text += "\n\nThe archive is whole now.",
        Some(left) => text += &format!("\n\nStill wrong:\n\n{}", list(left)),
    }
    text
}

fn list(findings: &[Finding]) -> String {
    let one = |finding: &Finding| {
        let mut text = format!("{}: {}", finding.place, printable(&finding.detail));
        let affected = &finding.affected;
        if !affected.nights.is_empty() {
            let nights: Vec<String> = affected.nights.iter().map(u32::to_string).collect();
            text += &format!("\n  nights: {}", nights.join(", "));
        }
        if !affected.tasks.is_empty() {
            text += &format!("\n  tasks: {}", ids(&affected.tasks));
        }
        if let Some(repair) = finding.repair {
            text += &format!("\n  --repair {repair}");
        }
        text
    };
    findings.iter().map(one).collect::<Vec<_>>().join("\n\n")
}

fn ids(all: &BTreeSet<String>) -> String {
    let listed: Vec<&str> = all.iter().take(LISTED).map(String::as_str).collect();
    match all.len() - listed.len() {
        0 => listed.join(", "),
        more => format!("{} and {more} more", listed.join(", ")),
    }
}

fn repaired(repair: &Repair) -> String {
    let kept = repair.kept.display();
    if !repair.copied {
        return format!("Repaired. The file as it was: {kept}");
    }
    let mut text = format!("What can be read is in a new file. The damaged one: {kept}");
    for loss in &repair.losses {
        for gap in &loss.gaps {
            text += &format!("\n  {}: rows cannot be read {gap}", loss.table);
        }
        if loss.rows_left_out > 0 {
            let rows = loss.rows_left_out;
            text += &format!("\n  {}: {rows} rows left out that were not whole", loss.table);
        }
    }
    text += &format!(
        "\n  lost: {} tasks, and {} rollouts of tasks that are still there",
        repair.tasks_lost.len(),
        repair.rollouts_lost
    );
    if !repair.tasks_lost.is_empty() {
        text += &format!("\n  tasks: {}", ids(&repair.tasks_lost));
    }
    text
}
