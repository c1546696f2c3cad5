//! The morning report: what a night did, read back from the archive.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use comfy_table::Table;
use comfy_table::presets;
use serde::Deserialize;
use serde::Serialize;

use super::guards::GuardReport;
use super::night::Night;
use super::rounds::RoundReport;
use crate::archive::CheckCounts;
use crate::archive::Demotion;
use crate::archive::Suite;
use crate::archive::SuiteOrigin;
use crate::archive::TrainPhase;
use crate::archive::TrainStep;
use crate::evaluation::Metrics;
use crate::task::Origin;

/// Version of the report's JSON shape; it grows when a field changes its meaning.
const SCHEMA_VERSION: u32 = 1;

/// What happened to the drafts of one origin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OriginReport {
    /// Drafts put forward.
    pub drafts: u64,
    /// Drafts that became tasks.
    pub accepted: u64,
    /// Drafts turned away, by the first required check that did so.
    pub rejections: BTreeMap<String, u64>,
    /// How many came to each check, and how many it turned away, in the order of the gate.
    #[serde(default)]
    pub gate: Vec<CheckCounts>,
    /// Accepted drafts that a check would have turned away, had it not only been recorded.
    #[serde(default)]
    pub unverified: u64,
}

/// What training did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Optimiser steps, of the warm start and of the game.
    pub steps: usize,
    /// Loss of the first step of the warm start; of the game in nights without one.
    pub loss_first: f64,
    /// Mean loss of the last five steps of the same.
    pub loss_last: f64,
    /// Tokens read by the forward passes.
    pub tokens: u64,
    /// Steps of the warm start.
    pub warm_start_steps: usize,
    /// Steps on demonstrations that were mixed into the game.
    #[serde(default)]
    pub demonstration_steps: usize,
    /// Steps of the solver on rollouts.
    pub policy_steps: usize,
    /// Steps of the proposer on its drafts.
    #[serde(default)]
    pub proposer_steps: usize,
    /// Steps, of both, whose loss or gradient was not finite: they changed nothing.
    pub skipped_steps: usize,
    /// What training on rollouts minimised.
    pub objective: String,
    /// Mean k3 estimate of KL(policy ‖ base) in the last step on rollouts, nats.
    pub kl_last: f64,
    /// Groups of rollouts played.
    pub groups: usize,
    /// Groups whose rewards were all equal: they taught nothing.
    pub groups_without_variance: usize,
    /// Groups that were trained on.
    pub groups_trained: usize,
    /// Groups that were not, by reason: `no_variance`, `below_min_reward`, ….
    pub groups_left_out: BTreeMap<String, usize>,
    /// The tripwire that stopped the training, if one did.
    pub stopped: Option<String>,
}

/// What the end of the night removed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RetentionReport {
    /// Versions of past nights that lost their weights; their rows stay.
    pub versions_removed: Vec<String>,
    /// Checkpoints of this night that are not kept.
    pub checkpoints_removed: usize,
}

/// Evaluation before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldoutReport {
    /// Name of the suite.
    pub suite: String,
    /// Whether people wrote its questions, or the game did.
    pub origin: String,
    /// The live version when the night began.
    pub before: Metrics,
    /// The night's candidate.
    pub after: Metrics,
    /// Mean paired difference in F1.
    pub f1_delta: Option<f64>,
    /// Its 95 % interval, resampled by document.
    pub f1_delta_ci: Option<(f64, f64)>,
}

/// In nights of programs that knew nothing else.
fn enforced() -> bool {
    true
}

/// The morning report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of this shape.
    pub schema_version: u32,
    /// The night, from 1.
    pub night: u32,
    /// Drafts by origin: `code`, `model`.
    pub origin: BTreeMap<String, OriginReport>,
    /// Whether the gate decided about the model's drafts, or was only recorded.
    #[serde(default = "enforced")]
    pub gate_enforced: bool,
    /// Rollouts of the night.
    pub rollouts: u64,
    /// Share of them whose answer matched exactly.
    pub solve_rate: f64,
    /// Tokens that the model wrote, those of evaluations left out.
    #[serde(default)]
    pub generated_tokens: u64,
    /// What each round brought.
    #[serde(default)]
    pub rounds: Vec<RoundReport>,
    /// What training did.
    pub train: TrainReport,
    /// Held-out evaluation.
    pub heldout: HeldoutReport,
    /// What keeps the decision honest.
    #[serde(default)]
    pub guards: GuardReport,
    /// What was removed.
    pub retention: RetentionReport,
    /// Whether the candidate went live.
    pub promoted: bool,
    /// Why.
    pub reason: String,
    /// The live version now.
    pub live: String,
    /// The night's candidate.
    pub candidate: String,
    /// Wall-clock time of this run of the program.
    pub seconds: f64,
    /// The home.
    pub home: String,
}

impl Night<'_> {
    /// Puts the report together.
    pub(super) fn report(&self, suite: &Suite, elapsed: Duration) -> anyhow::Result<Report> {
        let promotions = self.archive.promotions()?;
        let promotion = promotions
            .into_iter()
            .find(|promotion| promotion.night == self.number)
            .context("the night has no decision")?;
        let (before, after) =
            (self.version(&promotion.incumbent)?, self.version(&promotion.candidate)?);
        let measured = |version| -> anyhow::Result<Metrics> {
            let name = self.evaluation_name(suite, version);
            let evaluation = self.archive.evaluation(&name.id)?;
            let metrics = evaluation.and_then(|evaluation| evaluation.metrics);
            Ok(serde_json::from_value(metrics.context("an evaluation is missing")?)?)
        };
        let counts = self.archive.gate_counts(Some(self.number))?;
        let mut checks = self.archive.check_counts(Some(self.number))?;
        let unverified = self.archive.accepted_unverified(self.number)?;
        let origin = [Origin::Code, Origin::Model].map(|origin| {
            let counts = counts.get(&origin).cloned().unwrap_or_default();
            let rejections =
                counts.rejections.iter().map(|(reason, n)| (reason.as_str().to_string(), *n));
            let report = OriginReport {
                drafts: counts.drafts,
                accepted: counts.accepted,
                rejections: rejections.collect(),
                gate: checks.remove(&origin).unwrap_or_default(),
                unverified: unverified.get(&origin).copied().unwrap_or_default(),
            };
            (origin.as_str().to_string(), report)
        });
        let mut train = self.train_report()?;
        let rounds = self.round_reports()?;
        let total = |of: fn(&RoundReport) -> usize| rounds.iter().map(of).sum::<usize>();
        train.groups = total(|round| round.groups);
        train.groups_without_variance = total(|round| round.without_variance);
        let (rollouts, solved) = (total(|round| round.rollouts), total(|round| round.solved));
        let retention = RetentionReport {
            versions_removed: self.versions_removed()?,
            checkpoints_removed: self.checkpoints_removed()?,
        };
        Ok(Report {
            schema_version: SCHEMA_VERSION,
            night: self.number,
            origin: origin.into_iter().collect(),
            gate_enforced: self.settings.verify.enforce,
            rollouts: rollouts as u64,
            solve_rate: solved as f64 / rollouts.max(1) as f64,
            generated_tokens: self.archive.generated_tokens(self.number)?,
            rounds,
            train,
            heldout: HeldoutReport {
                suite: suite.name.clone(),
                origin: match suite.origin {
                    SuiteOrigin::Human => "human".into(),
                    SuiteOrigin::Model => "model-made".into(),
                },
                before: measured(&before)?,
                after: measured(&after)?,
                f1_delta: promotion.delta,
                f1_delta_ci: promotion.ci,
            },
            guards: self.guard_report(&after)?,
            retention,
            live: self.archive.live_model()?.context("no live model")?.id,
            promoted: promotion.promoted,
            reason: promotion.reason,
            candidate: after.id,
            seconds: elapsed.as_secs_f64(),
            home: self.home.dir().display().to_string(),
        })
    }
}

impl Night<'_> {
    /// What the steps of the night say.
    fn train_report(&self) -> anyhow::Result<TrainReport> {
        let steps = self.archive.train_steps(self.number)?;
        let value = |step: &TrainStep, key: &str| step.metrics[key].as_f64().unwrap_or_default();
        let of = |phase| steps.iter().filter(move |step| step.phase == phase).collect::<Vec<_>>();
        let before = self.settings.warm_start.steps as u32;
        let (warm, mixed): (Vec<_>, Vec<_>) =
            of(TrainPhase::WarmStart).into_iter().partition(|step| step.step < before);
        let policy = of(TrainPhase::Policy);
        let proposer = of(TrainPhase::Proposer);
        let shown = if warm.is_empty() { &policy } else { &warm };
        let last = &shown[shown.len().saturating_sub(5)..];
        let counts = self.group_counts()?;
        let left_out = counts.left_out.iter().map(|(why, n)| (why.as_str().to_string(), *n));
        Ok(TrainReport {
            steps: steps.len(),
            loss_first: shown.first().map_or(0.0, |step| value(step, "loss")),
            loss_last: last.iter().map(|step| value(step, "loss")).sum::<f64>()
                / last.len().max(1) as f64,
            tokens: steps.iter().map(|step| value(step, "tokens") as u64).sum(),
            warm_start_steps: warm.len(),
            demonstration_steps: mixed.len(),
            policy_steps: policy.len(),
            proposer_steps: proposer.len(),
            skipped_steps: steps.iter().filter(|step| step.metrics["skipped"] == true).count(),
            objective: self.settings.train.objective.as_str().to_string(),
            kl_last: policy.last().map_or(0.0, |step| value(step, "kl")),
            groups_trained: counts.trained,
            groups_left_out: left_out.collect(),
            stopped: self.stop()?.map(|stop| stop.to_string()),
            ..TrainReport::default()
        })
    }
}

fn percent(part: usize, all: usize) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}

impl Report {
    /// The report for people.
    pub fn render(&self) -> String {
        let mut text = format!("Morning report of night {}\n\n", self.night);
        text.push_str(&self.drafts_table());
        text.push_str(&self.gate_table());
        if !self.gate_enforced {
            let model = self.origin.get(Origin::Model.as_str()).cloned().unwrap_or_default();
            let _ = writeln!(
                text,
                "\nTHE GATE DID NOT DECIDE (verify.enforce = false): {} of the {} accepted drafts \
                 of the model would have been turned away",
                model.unverified, model.accepted
            );
        }
        text.push_str(&self.rounds_table());
        for (number, round) in self.rounds.iter().enumerate() {
            let about = round.about();
            if !about.is_empty() {
                let _ = write!(text, "\nRound {}: {}", number + 1, about.join("; "));
            }
        }
        text.push_str(&self.training());
        text.push('\n');
        text.push_str(&self.heldout_table());
        text.push_str(&self.guarded());
        let verdict = if self.promoted { "PROMOTED" } else { "KEPT" };
        let (live, candidate) = (&self.live, &self.candidate);
        let _ = write!(
            text,
            "\n\n{verdict}: {}\nLive now: {live} (tonight's candidate: {candidate})\n{}\
             Everything is in {}; the night took {:.1} minutes.\n",
            self.reason,
            self.removed(),
            self.home,
            self.seconds / 60.0,
        );
        text
    }

    fn rounds_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["round", "drafts", "accepted", "worth", "groups", "solved", "reward"]);
        let share = |part: usize, all: usize| format!("{:.0} %", percent(part, all));
        for (number, round) in self.rounds.iter().enumerate() {
            table.add_row([
                (number + 1).to_string(),
                round.drafts.to_string(),
                share(round.accepted, round.drafts),
                round.proposal_reward.map_or_else(|| "–".into(), |mean| format!("{mean:.2}")),
                round.groups.to_string(),
                share(round.solved, round.rollouts),
                format!("{:.2}", round.reward),
            ]);
        }
        format!("\n{table}")
    }

    /// What was played and trained.
    fn training(&self) -> String {
        let train = &self.train;
        let mixed = match train.demonstration_steps {
            0 => String::new(),
            n => format!(", {n} on demonstrations between them"),
        };
        let mut text = format!(
            "\n\nGame: {} tokens written; {} rollouts, {:.0} % solved exactly; {} of {} groups \
             without variance\n\
             Training: {} steps ({} warm start, {} solver, {} proposer{}), {} tokens, \
             loss {:.3} → {:.3}\n",
            self.generated_tokens,
            self.rollouts,
            self.solve_rate * 100.0,
            train.groups_without_variance,
            train.groups,
            train.steps,
            train.warm_start_steps,
            train.policy_steps,
            train.proposer_steps,
            mixed,
            train.tokens,
            train.loss_first,
            train.loss_last,
        );
        let left_out: Vec<String> =
            train.groups_left_out.iter().map(|(why, n)| format!("{why} {n}")).collect();
        let _ = write!(text, "Objective: {}, {} groups", train.objective, train.groups_trained);
        let _ = match left_out.is_empty() {
            true => writeln!(text),
            false => writeln!(text, "; left out: {}", left_out.join(", ")),
        };
        if train.skipped_steps > 0 {
            let _ = writeln!(
                text,
                "{} steps were SKIPPED: their loss or gradient was not finite",
                train.skipped_steps
            );
        }
        if let Some(stopped) = &train.stopped {
            let _ = writeln!(text, "Training was STOPPED by a tripwire at {stopped}");
        }
        text
    }

    /// What the guards saw, a line each.
    fn guarded(&self) -> String {
        let guards = &self.guards;
        let mut text = format!(
            "\n\nGeneral text: loss {:.3} nats per token, base model {:.3}",
            guards.text_loss_candidate, guards.text_loss_base
        );
        if let Some(sealed) = &guards.sealed {
            let (low, high) = (sealed.drift_ci.0 * 100.0, sealed.drift_ci.1 * 100.0);
            let _ = write!(
                text,
                "\nSealed suite: {} gained {:+.1} F1 points there and {:+.1} on the suite that \
                 decides, 95 % interval of the difference {low:+.1} to {high:+.1}",
                sealed.model_version,
                sealed.sealed_gain * 100.0,
                sealed.gain * 100.0,
            );
            if sealed.drifted {
                text.push_str("\nALARM: the suite that decides is WORN OUT; freeze a new one");
            }
        }
        for demotion in &guards.demotions {
            let Demotion { model_version, successor, delta, ci, .. } = demotion;
            let _ = write!(
                text,
                "\nDEMOTED: {model_version} proved worse than {successor}, which is live again: \
                 {:+.1} F1 points, 95 % interval {:+.1} to {:+.1}",
                delta * 100.0,
                ci.0 * 100.0,
                ci.1 * 100.0
            );
        }
        text
    }

    /// A line about what was removed; none when nothing of interest was.
    fn removed(&self) -> String {
        match self.retention.versions_removed.as_slice() {
            [] => String::new(),
            ids => format!("Weights removed, as the settings say: {}\n", ids.join(", ")),
        }
    }

    fn drafts_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["made by", "drafts", "accepted", "rejected because"]);
        for (origin, report) in &self.origin {
            let reasons: Vec<String> =
                report.rejections.iter().map(|(reason, n)| format!("{reason} {n}")).collect();
            table.add_row([
                origin.clone(),
                report.drafts.to_string(),
                report.accepted.to_string(),
                reasons.join(", "),
            ]);
        }
        table.to_string()
    }

    /// What each check did with the model's drafts; nothing when there were none.
    fn gate_table(&self) -> String {
        let checks = self.origin.get(Origin::Model.as_str()).map_or(&[][..], |model| &model.gate);
        if checks.is_empty() {
            return String::new();
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        let mut header = vec!["check of the model's drafts", "came", "turned away"];
        header.extend((!self.gate_enforced).then_some("only recorded"));
        table.set_header(header);
        for counts in checks {
            let of = |n: u64| format!("{n} ({:.0} %)", percent(n as usize, counts.drafts as usize));
            let mut row =
                vec![counts.check.clone(), counts.drafts.to_string(), of(counts.rejected)];
            row.extend((!self.gate_enforced).then(|| of(counts.recorded)));
            table.add_row(row);
        }
        format!("\n\n{table}\n")
    }

    fn heldout_table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        let title = format!("held out: {} ({})", self.heldout.suite, self.heldout.origin);
        table.set_header([title.as_str(), "n", "EM", "95 %", "F1", "95 %", "found"]);
        for (name, m) in [("before", &self.heldout.before), ("after", &self.heldout.after)] {
            table.add_row([
                name.to_string(),
                m.n.to_string(),
                format!("{:.1}", m.em * 100.0),
                format!("{:.1}–{:.1}", m.em_ci.0 * 100.0, m.em_ci.1 * 100.0),
                format!("{:.1}", m.f1 * 100.0),
                format!("{:.1}–{:.1}", m.f1_ci.0 * 100.0, m.f1_ci.1 * 100.0),
                format!("{:.0} %", m.answer_in_retrieved * 100.0),
            ]);
        }
        table.to_string()
    }
}
