//! Metrics for monitoring: what training measures, through the `metrics` facade, as text that
//! Prometheus reads.
//!
//! `metrics.prom` in the home is replaced after each step and at the end of a night; the textfile
//! collector of node_exporter reads such a file. `docs/metrics.md` describes every metric.

use std::sync::OnceLock;

use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_exporter_prometheus::PrometheusHandle;

use super::guards::GuardReport;
use super::night::Night;
use super::selection::Counts;
use crate::archive::TrainStep;
use crate::durable;
use crate::trainer::tripwire::Stop;

/// What kind of number a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Grows while the program runs, and begins at zero with it.
    Counter,
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// The member of a step's recorded measures that it shows, if it shows one.
    pub measure: Option<&'static str>,
    /// What it says.
    pub help: &'static str,
}

const fn gauge(name: &'static str, measure: &'static str, help: &'static str) -> Metric {
    Metric { name, kind: Kind::Gauge, measure: Some(measure), help }
}

const fn other(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { name, kind, measure: None, help }
}

const STEPS: &str = "nightschool_train_steps_total";
const SKIPPED: &str = "nightschool_train_skipped_steps_total";
const TOKENS: &str = "nightschool_train_tokens_total";
const LEFT_OUT: &str = "nightschool_train_left_out_groups_total";
const STOPPED: &str = "nightschool_train_stopped";
const TEXT_LOSS_RISE: &str = "nightschool_text_loss_rise_nats";
const DRIFTED: &str = "nightschool_suite_drifted";
const DEMOTIONS: &str = "nightschool_demotions_total";
const NIGHT: &str = "nightschool_night";

/// Every metric there is.
pub const METRICS: [Metric; 24] = [
    gauge("nightschool_train_loss", "loss", "The objective's value"),
    gauge("nightschool_train_learning_rate", "learning_rate", "Learning rate"),
    gauge("nightschool_train_grad_norm", "grad_norm", "Gradient norm before clipping"),
    gauge("nightschool_train_kl_nats", "kl", "Mean k3 estimate of KL(policy, base)"),
    gauge("nightschool_train_entropy_nats", "entropy", "Mean entropy at the targets"),
    gauge("nightschool_train_logprob_nats", "logprob", "Mean log-probability of the targets"),
    gauge(
        "nightschool_train_clip_fraction",
        "clip_fraction",
        "Share of targets whose ratio was clipped",
    ),
    gauge("nightschool_train_ratio_mean", "ratio", "Mean ratio to the policy before the update"),
    gauge(
        "nightschool_train_ratio_max",
        "ratio_max",
        "Largest ratio to the policy before the update",
    ),
    gauge(
        "nightschool_train_sampler_gap_nats",
        "sampler_gap",
        "Mean distance to the sampler's log-probabilities",
    ),
    gauge(
        "nightschool_train_corrected_fraction",
        "corrected",
        "Share of targets at the limit of the importance ratio",
    ),
    gauge(
        "nightschool_train_response_tokens",
        "response_tokens",
        "Mean length of a round's answers",
    ),
    gauge("nightschool_train_reward_mean", "reward_mean", "Mean reward of a round"),
    gauge("nightschool_train_reward_std", "reward_std", "Standard deviation of a round's rewards"),
    gauge(
        "nightschool_train_zero_variance_fraction",
        "zero_variance",
        "Share of a round's groups whose rewards are all equal",
    ),
    other(STEPS, Kind::Counter, "Optimiser steps, those that were skipped among them"),
    other(SKIPPED, Kind::Counter, "Steps whose loss or gradient was not finite"),
    other(TOKENS, Kind::Counter, "Tokens read by forward passes of training"),
    other(LEFT_OUT, Kind::Counter, "Groups of rollouts that were not trained on"),
    other(STOPPED, Kind::Gauge, "1 when a tripwire stopped the night's training"),
    other(TEXT_LOSS_RISE, Kind::Gauge, "Loss of the candidate on general text above the base's"),
    other(DRIFTED, Kind::Gauge, "1 when the last reading of the sealed suite raised the alarm"),
    other(DEMOTIONS, Kind::Counter, "Live versions that proved worse than the one before"),
    other(NIGHT, Kind::Gauge, "Number of the night that ran last"),
];

/// The recorder of this process, put in place on first use. None where the program that uses this
/// library has a recorder of its own, which then gets the metrics.
pub fn recorder() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let installed = metrics::set_global_recorder(recorder).is_ok();
        for metric in METRICS {
            match metric.kind {
                Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
                Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            }
        }
        installed.then_some(handle)
    };
    HANDLE.get_or_init(install).as_ref()
}

/// Shows a step's measures. One that is not finite shows as NaN, one that was not taken not at all.
pub(super) fn count_step(step: &TrainStep) {
    recorder();
    let labels = [
        ("phase", step.phase.as_str()),
        ("adapter", step.adapter.as_str()),
        ("objective", step.objective.as_str()),
    ];
    for metric in METRICS {
        let Some(value) = metric.measure.and_then(|measure| step.metrics.get(measure)) else {
            continue;
        };
        metrics::gauge!(metric.name, &labels).set(value.as_f64().unwrap_or(f64::NAN));
    }
    metrics::counter!(STEPS, &labels).increment(1);
    let skipped = step.metrics["skipped"] == true;
    metrics::counter!(SKIPPED, &labels).increment(u64::from(skipped));
    let tokens = step.metrics["tokens"].as_u64().unwrap_or_default();
    metrics::counter!(TOKENS, &labels).increment(tokens);
}

/// Shows how many of a round's groups are not trained on.
pub(super) fn count_left_out(counts: &Counts) {
    recorder();
    for (reason, n) in &counts.left_out {
        metrics::counter!(LEFT_OUT, "reason" => reason.as_str()).increment(*n as u64);
    }
}

/// Shows what the guards saw.
pub(super) fn show_guards(guards: &GuardReport) {
    recorder();
    metrics::gauge!(TEXT_LOSS_RISE).set(guards.text_loss_candidate - guards.text_loss_base);
    if let Some(sealed) = &guards.sealed {
        metrics::gauge!(DRIFTED).set(f64::from(u8::from(sealed.drifted)));
    }
    metrics::counter!(DEMOTIONS).increment(guards.demotions.len() as u64);
}

impl Night<'_> {
    /// Replaces the home's metrics file. That it cannot be written is no reason to lose a night.
    pub(super) fn write_metrics(&self, stop: Option<Stop>) {
        let Some(handle) = recorder() else { return };
        metrics::gauge!(NIGHT).set(f64::from(self.number));
        metrics::gauge!(STOPPED).set(f64::from(u8::from(stop.is_some())));
        if let Err(error) = durable::write_file(&self.home.metrics(), handle.render().as_bytes()) {
            tracing::warn!("the metrics were not written: {error}");
        }
    }
}
