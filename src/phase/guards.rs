//! What keeps promotions honest: the loss on general text, the sealed suite, and going back from a
//! live version that proves worse than the one before it.

use anyhow::Context as _;
use serde::Deserialize;
use serde::Serialize;

use super::night::Night;
use super::suite::Suites;
use crate::archive::Demotion;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::archive::SealedReading;
use crate::archive::Suite;
use crate::archive::TextLoss;
use crate::config::Adapters;
use crate::config::Role;
use crate::evaluation::Gains;
use crate::evaluation::general_text;
use crate::model::lora::Adapter;
use crate::trainer::batch::Branch;
use crate::trainer::batch::Example;

/// Tokens of a paragraph of general text that are read at most.
const PARAGRAPH: usize = 64;

/// What the guards saw in a night.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GuardReport {
    /// Mean loss of the base model on general text, nats per token.
    pub text_loss_base: f64,
    /// That of the night's candidate; of adapters for two roles the worse one's.
    pub text_loss_candidate: f64,
    /// The reading of the sealed suite, in nights with one.
    pub sealed: Option<SealedReading>,
    /// Live versions that gave way to the one before them.
    pub demotions: Vec<Demotion>,
}

impl Night<'_> {
    /// The version to go on from: `live`, or the one that was live before it, if that one answers
    /// the suite better.
    pub(super) fn demote_if_worse(
        &self,
        suite: &Suite,
        live: ModelVersion,
    ) -> anyhow::Result<ModelVersion> {
        let unit = self.unit("demote", &suite.id);
        if !self.settings.evaluate.demote || self.archive.unit_done(&unit)? {
            return Ok(live);
        }
        if let Some(before) = self.archive.predecessor()? {
            self.evaluate(suite, &before)?;
            let (earlier, later) = (self.answered(suite, &before)?, self.answered(suite, &live)?);
            let gains = Gains::of(&earlier, &later);
            let ci = gains.interval(self.settings.evaluate.resamples, self.settings.seed);
            if ci.1 < 0.0 {
                let (delta, suite_id) = (gains.mean(), suite.id.clone());
                let (model_version, successor) = (live.id, before.id.clone());
                tracing::warn!(model_version, successor, delta, "the live version proved worse");
                let night = self.number;
                let demotion = Demotion { night, suite_id, model_version, successor, delta, ci };
                self.archive.record_demotion(&unit, &demotion)?;
                return Ok(before);
            }
        }
        self.archive.record_unit(&unit)?;
        Ok(live)
    }

    /// Reads the sealed suite, in the nights in which that is due and an adapter is live: whether
    /// its gain over the base model is as large as on the suite that decides, and whether it is
    /// better than the version before it.
    pub(super) fn read_sealed(&self, suites: &Suites) -> anyhow::Result<()> {
        let every = self.settings.heldout.sealed_every;
        let Some(sealed) = &suites.sealed else { return Ok(()) };
        if every == 0 || !self.number.is_multiple_of(every) {
            return Ok(());
        }
        let live = match self.sealed_reading()? {
            Some(reading) => self.version(&reading.model_version)?,
            None => self.archive.live_model()?.context("no live model")?,
        };
        if live.kind == ModelKind::Base {
            return Ok(());
        }
        let base = self.version(&self.base_id()?)?;
        let unit = self.unit("sealed", "reading");
        if !self.archive.unit_done(&unit)? {
            for suite in [&suites.open, sealed] {
                self.evaluate(suite, &base)?;
                self.evaluate(suite, &live)?;
            }
            let reading = self.compare_suites(&suites.open, sealed, &base, &live)?;
            if reading.drifted {
                tracing::warn!(
                    gain = reading.gain,
                    sealed_gain = reading.sealed_gain,
                    "the suite that decides promotions is worn out: freeze a new one"
                );
            }
            self.archive.record_sealed_reading(&unit, &reading)?;
        }
        self.demote_if_worse(sealed, live)?;
        Ok(())
    }

    fn compare_suites(
        &self,
        open: &Suite,
        sealed: &Suite,
        base: &ModelVersion,
        live: &ModelVersion,
    ) -> anyhow::Result<SealedReading> {
        let answers = |suite| -> anyhow::Result<_> {
            Ok((self.answered(suite, base)?, self.answered(suite, live)?))
        };
        let (of_open, of_sealed) = (answers(open)?, answers(sealed)?);
        let gains = Gains::of(&of_open.0, &of_open.1);
        let sealed_gains = Gains::of(&of_sealed.0, &of_sealed.1);
        let resamples = self.settings.evaluate.resamples;
        let drift_ci = gains.drift(&sealed_gains, resamples, self.settings.seed);
        Ok(SealedReading {
            night: self.number,
            suite_id: open.id.clone(),
            sealed_id: sealed.id.clone(),
            model_version: live.id.clone(),
            reference: base.id.clone(),
            gain: gains.mean(),
            sealed_gain: sealed_gains.mean(),
            drift_ci,
            drifted: drift_ci.0 > 0.0,
        })
    }

    fn sealed_reading(&self) -> anyhow::Result<Option<SealedReading>> {
        let mut readings = self.archive.sealed_readings()?.into_iter();
        Ok(readings.find(|reading| reading.night == self.number))
    }

    /// By how many nats per token a version predicts general text worse than the base model.
    pub(super) fn text_loss_rise(&self, version: &ModelVersion) -> anyhow::Result<f64> {
        let base = self.version(&self.base_id()?)?;
        Ok(self.text_loss(version)? - self.text_loss(&base)?)
    }

    /// A version's mean loss on general text, measured once.
    fn text_loss(&self, version: &ModelVersion) -> anyhow::Result<f64> {
        let text = general_text::id();
        if let Some(known) = self.archive.text_loss(&version.id, &text)? {
            return Ok(known.loss);
        }
        let adapters = self.policy_at(version)?.adapters;
        let (mut tokens, mut loss) = (0, 0.0_f64);
        let roles: &[Role] = match adapters.form() {
            Adapters::Shared => &[Role::Solver],
            Adapters::PerRole => &[Role::Solver, Role::Proposer],
        };
        for role in roles {
            let of_role;
            (tokens, of_role) = self.text_loss_with(adapters.of(*role))?;
            loss = loss.max(of_role);
        }
        let model_version = version.id.clone();
        self.archive.record_text_loss(&TextLoss { model_version, text, tokens, loss })?;
        Ok(loss)
    }

    /// How many tokens of general text are predicted, and at what mean loss.
    fn text_loss_with(&self, adapter: &Adapter) -> anyhow::Result<(u64, f64)> {
        let paragraphs = general_text::paragraphs()?;
        let mut examples: Vec<Example> = paragraphs
            .iter()
            .filter_map(|paragraph| {
                let tokens = self.outline.tokenizer.encode(&paragraph.text);
                let (first, rest) = tokens.get(..PARAGRAPH).unwrap_or(&tokens).split_first()?;
                let branch = Branch {
                    tokens: rest.to_vec(),
                    owned: vec![true; rest.len()],
                    sampled_logprobs: Vec::new(),
                    old_logprobs: Vec::new(),
                    advantage: 1.0,
                };
                Some(Example { prompt: vec![*first], branches: vec![branch] })
            })
            .collect();
        let mut all: Vec<&mut Example> = examples.iter_mut().collect();
        self.host.score_before_update(adapter, self.limits(), &mut all)?;
        let logprobs = examples.iter().flat_map(|example| &example.branches);
        let logprobs: Vec<f64> =
            logprobs.flat_map(|branch| &branch.old_logprobs).map(|one| f64::from(*one)).collect();
        let n = logprobs.len();
        Ok((n as u64, -logprobs.iter().sum::<f64>() / n.max(1) as f64))
    }

    /// What the guards saw tonight.
    pub(super) fn guard_report(&self, candidate: &ModelVersion) -> anyhow::Result<GuardReport> {
        let text_loss_base = self.text_loss(&self.version(&self.base_id()?)?)?;
        let demotions = self.archive.demotions()?.into_iter();
        Ok(GuardReport {
            text_loss_base,
            text_loss_candidate: self.text_loss(candidate)?,
            sealed: self.sealed_reading()?,
            demotions: demotions.filter(|demotion| demotion.night == self.number).collect(),
        })
    }

    /// The version of that id.
    pub(super) fn version(&self, id: &str) -> anyhow::Result<ModelVersion> {
        self.archive.model_version(id)?.with_context(|| format!("no model version {id}"))
    }
}
