//! What the gate did with the drafts.

use std::path::PathBuf;

use serde::Serialize;

use super::Corruption;
use super::GateBench;
use super::Posed;
use crate::config::Verify;
use crate::evaluation::bootstrap::Interval;
use crate::evaluation::proportion::wilson;
use crate::verifier::CHECKS;
use crate::verifier::model_checks::Costs;

/// How one kind of corrupted drafts fared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KindReport {
    /// What was done to them.
    pub corruption: Corruption,
    /// Drafts.
    pub drafts: usize,
    /// Those that the gate accepted.
    pub accepted: usize,
    /// Their share.
    pub share: f64,
    /// Its 95 % interval.
    pub share_ci: Interval,
}

/// What one check did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckReport {
    /// The check.
    pub check: &'static str,
    /// Good drafts that came to it.
    pub clean: usize,
    /// Those that it turned away.
    pub clean_rejected: usize,
    /// Bad drafts that came to it.
    pub corrupted: usize,
    /// Those that it turned away.
    pub corrupted_rejected: usize,
    /// Prompts, and given texts to be scored.
    pub requests: u64,
    /// Their tokens, those included that the engine had read for another.
    pub prompt_tokens: u64,
    /// Tokens written or scored.
    pub tokens: u64,
    /// Wall-clock time.
    pub seconds: f64,
}

/// What the gate did with the drafts; shares are fractions of 1, intervals Wilson's at 95 %.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateReport {
    /// The model.
    pub model: String,
    /// The adapter's folder, if one read the passages.
    pub adapter: Option<PathBuf>,
    /// The settings of the gate.
    pub verify: Verify,
    /// Good drafts.
    pub clean: usize,
    /// Bad drafts.
    pub corrupted: usize,
    /// Drafts accepted.
    pub accepted: usize,
    /// Share of good ones among those accepted; 0 when there are none.
    pub precision: f64,
    /// Its interval.
    pub precision_ci: Interval,
    /// Share of the good ones that were accepted.
    pub recall: f64,
    /// Its interval.
    pub recall_ci: Interval,
    /// The bad ones by kind.
    pub corruptions: Vec<KindReport>,
    /// The checks in the order of the gate.
    pub checks: Vec<CheckReport>,
    /// Wall-clock time.
    pub seconds: f64,
}

impl GateReport {
    pub(super) fn new(
        bench: &GateBench,
        model: &str,
        posed: &[Posed],
        costs: &Costs,
        seconds: f64,
    ) -> Self {
        let of = |kind: Option<Corruption>| posed.iter().filter(move |p| p.corruption == kind);
        let accepted = posed.iter().filter(|posed| posed.is_accepted()).count();
        let clean = of(None).count();
        let right = of(None).filter(|posed| posed.is_accepted()).count();
        let corruptions = Corruption::ALL.map(|corruption| {
            let drafts = of(Some(corruption)).count();
            let accepted = of(Some(corruption)).filter(|posed| posed.is_accepted()).count();
            let (share, share_ci) = (share(accepted, drafts), wilson(accepted, drafts));
            KindReport { corruption, drafts, accepted, share, share_ci }
        });
        let checks = CHECKS.into_iter().map(|check| check_report(check, posed, costs));
        Self {
            model: model.to_string(),
            adapter: bench.adapter.clone(),
            verify: bench.settings.verify.clone(),
            clean,
            corrupted: posed.len() - clean,
            accepted,
            precision: share(right, accepted),
            precision_ci: wilson(right, accepted),
            recall: share(right, clean),
            recall_ci: wilson(right, clean),
            corruptions: corruptions.to_vec(),
            checks: checks.filter(|report| report.clean + report.corrupted > 0).collect(),
            seconds,
        }
    }
}

fn share(part: usize, all: usize) -> f64 {
    part as f64 / all.max(1) as f64
}

fn check_report(check: &'static str, posed: &[Posed], costs: &Costs) -> CheckReport {
    let count = |clean: bool, rejected: bool| {
        let verdicts = posed.iter().filter(|posed| posed.corruption.is_none() == clean);
        let verdicts = verdicts.flat_map(|posed| &posed.candidate.verdicts);
        let own = verdicts.filter(|verdict| verdict.check == check);
        own.filter(|verdict| !rejected || verdict.rejection.is_some()).count()
    };
    let cost = costs.get(check).copied().unwrap_or_default();
    CheckReport {
        check,
        clean: count(true, false),
        clean_rejected: count(true, true),
        corrupted: count(false, false),
        corrupted_rejected: count(false, true),
        requests: cost.requests,
        prompt_tokens: cost.prompt_tokens,
        tokens: cost.tokens,
        seconds: cost.seconds,
    }
}
