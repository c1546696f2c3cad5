//! What a night may spend.

use super::night::Night;
use crate::config::Adapters;

/// The phase whose units say which rounds have begun within a budget.
const PHASE: &str = "budget";

impl Night<'_> {
    /// Whether a round may begin. One that has begun goes on, whatever it spends.
    pub(super) fn affords(&self, round: u32) -> anyhow::Result<bool> {
        let budget = self.settings.budget;
        if budget.generated_tokens == 0 && budget.tokens == 0 {
            return Ok(true);
        }
        let key = format!("round{round}");
        if self.done(PHASE, &key)? {
            return Ok(true);
        }
        if self.is_spent()? {
            tracing::info!(round, "the night's budget is used up");
            return Ok(false);
        }
        self.archive.record_unit(&self.unit(PHASE, &key))?;
        Ok(true)
    }

    /// Whether the night has spent all that it may.
    pub(super) fn is_spent(&self) -> anyhow::Result<bool> {
        let budget = self.settings.budget;
        let generated = self.archive.generated_tokens(self.number)?;
        let beyond = |limit, spent| limit > 0 && spent >= limit;
        Ok(beyond(budget.generated_tokens, generated)
            || beyond(budget.tokens, generated + self.trained_tokens()?))
    }

    /// Tokens that the warm start of an adapter may read; none for as many as it likes.
    pub(super) fn warm_start_budget(&self) -> anyhow::Result<Option<u64>> {
        let tokens = self.settings.budget.tokens;
        if tokens == 0 {
            return Ok(None);
        }
        // Nothing is generated while it runs, so that this is the same after a restart.
        let left = tokens.saturating_sub(self.archive.generated_tokens(self.number)?);
        Ok(Some(match self.settings.train.adapters {
            Adapters::Shared => left,
            Adapters::PerRole => left / 2,
        }))
    }

    /// Tokens that the night's training read.
    pub(super) fn trained_tokens(&self) -> anyhow::Result<u64> {
        let steps = self.archive.train_steps(self.number)?;
        let tokens = steps.iter().filter_map(|step| step.metrics["tokens"].as_u64());
        Ok(tokens.sum())
    }
}
