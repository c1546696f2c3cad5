//! Ranges of the settings.

use std::fmt::Display;

use super::ConfigError;
use super::Settings;
use crate::model::lora::Target;

/// Fails on the first value outside its range.
pub(super) fn check(settings: &Settings) -> Result<(), ConfigError> {
    settings.inference.check()?;
    settings.propose.check()?;
    let counts = [
        ("retrieval.passages", settings.retrieval.passages, 1, 20),
        ("verify.noise_passages", settings.verify.noise_passages, 0, 20),
        ("verify.samples", settings.verify.samples, 1, 64),
        ("verify.uniqueness_passages", settings.verify.uniqueness_passages, 1, 20),
        ("solve.rollouts", settings.solve.rollouts, 2, 64),
        ("solve.max_tokens", settings.solve.max_tokens, 1, 4096),
        ("train.rank", settings.train.rank, 1, 512),
        ("train.target_modules", settings.train.target_modules.len(), 1, Target::COUNT),
        ("train.groups", settings.train.groups, 1, 4096),
        ("train_proposer.every", settings.train_proposer.every, 1, 1000),
        ("train_proposer.drafts", settings.train_proposer.drafts, 1, 4096),
        ("train.checkpoint_steps", settings.train.checkpoint_steps, 1, 10_000),
        ("retention.adapters", settings.retention.adapters, 0, 1_000_000),
        ("retention.checkpoints", settings.retention.checkpoints, 0, 10_000),
        ("retention.rollout_nights", settings.retention.rollout_nights, 0, 1_000_000),
        ("retention.reports", settings.retention.reports, 0, 1_000_000),
        ("warm_start.searches", settings.warm_start.searches, 1, 4096),
        ("evaluate.max_tokens", settings.evaluate.max_tokens, 1, 4096),
        ("evaluate.resamples", settings.evaluate.resamples, 100, 1_000_000),
    ];
    for (key, value, low, high) in counts {
        within(key, value, low, high)?;
    }
    let worker = &settings.worker;
    within("worker.silence_s", worker.silence_s, 2, 86_400)?;
    within("worker.progress_s", worker.progress_s, 10, 604_800)?;
    within("worker.failures", worker.failures, 1, 100)?;
    let proposer = &settings.train_proposer;
    let reals = [
        ("heldout.documents", settings.heldout.documents, 0.0, 0.5),
        ("solve.temperature", f64::from(settings.solve.temperature), 0.01, 5.0),
        ("verify.min_f1", f64::from(settings.verify.min_f1), 0.01, 1.0),
        ("reward.format", f64::from(settings.reward.format), 0.0, 1.0),
        ("reward.malformed", f64::from(settings.reward.malformed), 0.0, 1.0),
        ("reward.repeated_search", f64::from(settings.reward.repeated_search), 0.0, 1.0),
        ("verify.duplicate_jaccard", settings.verify.duplicate_jaccard, 0.3, 1.0),
        ("verify.majority", f64::from(settings.verify.majority), 0.01, 1.0),
        ("verify.temperature", f64::from(settings.verify.temperature), 0.01, 5.0),
        ("verify.uniqueness_margin", f64::from(settings.verify.uniqueness_margin), -20.0, 20.0),
        ("train.learning_rate", f64::from(settings.train.learning_rate), 0.0, 1.0),
        ("warm_start.learning_rate", f64::from(settings.warm_start.learning_rate), 0.0, 1.0),
        ("warm_start.share", settings.warm_start.share, 0.0, 1.0),
        ("warm_start.share_half_life", settings.warm_start.share_half_life, 0.0, 10_000.0),
        ("train_proposer.learning_rate", f64::from(proposer.learning_rate), 0.0, 1.0),
        (
            "train_proposer.likelihood_min_reward",
            f64::from(proposer.likelihood_min_reward),
            0.0,
            1.0,
        ),
        ("evaluate.text_loss_rise_max", settings.evaluate.text_loss_rise_max, 0.0, 100.0),
        ("train.weight_decay", settings.train.weight_decay, 0.0, 1.0),
        ("train.clip_low", f64::from(settings.train.clip_low), 0.0, 1.0),
        ("train.clip_high", f64::from(settings.train.clip_high), 0.0, 10.0),
        ("train.kl_coefficient", f64::from(settings.train.kl_coefficient), 0.0, 10.0),
        ("train.likelihood_min_reward", f64::from(settings.train.likelihood_min_reward), 0.0, 1.0),
        ("train.preference_beta", f64::from(settings.train.preference_beta), 0.001, 100.0),
        ("train.preference_margin", f64::from(settings.train.preference_margin), 0.001, 1.0),
        ("train.dual_clip", f64::from(settings.train.dual_clip.unwrap_or(3.0)), 1.0, 100.0),
        ("train.entropy_coefficient", f64::from(settings.train.entropy_coefficient), 0.0, 1.0),
        ("train.correction_limit", f64::from(settings.train.correction_limit), 1.0, 100.0),
    ];
    for (key, value, low, high) in reals {
        within(key, value, low, high)?;
    }
    settings.curriculum.check()?;
    settings.balance.check()?;
    settings.disk.check()?;
    settings.notify.check()?;
    let dropout = settings.train.dropout;
    if !(0.0..1.0).contains(&dropout) {
        let reason = format!("is {dropout}; it must be at least 0 and below 1");
        return Err(ConfigError::Range { key: "train.dropout", reason });
    }
    settings.http.address()?;
    super::remote::check(&settings.remote)
}

/// Fails unless the value lies in its range, both ends included.
pub(super) fn within<T: PartialOrd + Display>(
    key: &'static str,
    value: T,
    low: T,
    high: T,
) -> Result<(), ConfigError> {
    if low <= value && value <= high {
        return Ok(());
    }
    let reason = format!("is {value}; it must be from {low} to {high}");
    Err(ConfigError::Range { key, reason })
}
