//! Courses of training: optimiser steps in stretches, each a unit of work with a checkpoint at its
//! end. A course that was cut off goes on from the last checkpoint that is whole.

use std::path::PathBuf;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::metrics;
use super::night::Night;
use super::policy::Policy;
use crate::archive::TrainItem;
use crate::archive::TrainPhase;
use crate::archive::TrainStep;
use crate::config::AdapterSlot;
use crate::config::ObjectiveName;
use crate::config::Role;
use crate::progress::Progress;
use crate::trainer::Limits;
use crate::trainer::StepMetrics;
use crate::trainer::batch::Example;
use crate::trainer::checkpoint;
use crate::trainer::checkpoint::Cursor;
use crate::trainer::objective::Objective;
use crate::trainer::optimizer::AdamW;
use crate::trainer::optimizer::AdamWSettings;
use crate::trainer::tripwire::Stop;
use crate::trainer::tripwire::Watch;
use crate::worker::Step;

/// An optimiser step to take.
pub(super) struct PlannedStep {
    /// Which training it belongs to; the same for all steps of a stretch.
    pub(super) phase: TrainPhase,
    /// The key of the unit that begins with it.
    pub(super) key: String,
    /// Its number within night, phase and adapter.
    pub(super) number: usize,
    /// Learning rate.
    pub(super) rate: f32,
    /// What is learnt; at least one example with a target.
    pub(super) examples: Vec<Example>,
    /// What the examples are made of.
    pub(super) items: Vec<TrainItem>,
}

/// Steps that train one adapter, from a fresh optimiser on.
pub(super) struct Course<'a> {
    /// What to call it while it runs.
    pub(super) title: String,
    /// The role whose adapter is trained.
    pub(super) role: Role,
    pub(super) steps: Vec<PlannedStep>,
    /// Steps per stretch.
    pub(super) stretch: usize,
    /// What all steps but demonstrations minimise; those are learnt by likelihood.
    pub(super) objective: &'a Objective,
    pub(super) named: ObjectiveName,
    /// What else is recorded with each of these steps.
    pub(super) about: Map<String, Value>,
}

impl<'a> Course<'a> {
    /// What a step minimises, and what that is called.
    fn objective(&self, step: &PlannedStep) -> (&'a Objective, ObjectiveName) {
        match step.phase {
            TrainPhase::WarmStart => (&Objective::Likelihood, ObjectiveName::Likelihood),
            TrainPhase::Policy | TrainPhase::Proposer => (self.objective, self.named),
        }
    }

    /// Metrics of a step as JSON, without those that were not taken. What is not finite is null:
    /// JSON has no other way to say it.
    fn recorded(&self, step: &PlannedStep, metrics: &StepMetrics) -> Value {
        let mut value = json!(metrics);
        if !metrics.loss.is_finite() || !metrics.grad_norm.is_finite() {
            value["skipped"] = json!(true);
        }
        // Nobody sampled a demonstration, and it is of no round's rollouts.
        let (of_rollouts, about): (&[&str], _) = match step.phase {
            TrainPhase::WarmStart => (&["ratio", "ratio_max", "sampler_gap"], Map::new()),
            TrainPhase::Policy | TrainPhase::Proposer => (&[], self.about.clone()),
        };
        if let Some(members) = value.as_object_mut() {
            for name in self.objective(step).0.unmeasured().iter().chain(of_rollouts) {
                members.shift_remove(*name);
            }
            members.extend(about);
        }
        value
    }

    /// A step as it is taken.
    fn step<'s>(&self, step: &'s PlannedStep) -> Step<'s> {
        let (examples, rate) = (&*step.examples, step.rate);
        Step { examples, objective: *self.objective(step).0, rate }
    }

    /// A step as it is recorded.
    fn row(
        &self,
        step: &PlannedStep,
        metrics: &StepMetrics,
        adapter: AdapterSlot,
        version: &str,
    ) -> TrainStep {
        TrainStep {
            phase: step.phase,
            adapter,
            step: step.number as u32,
            objective: self.objective(step).1,
            model_version: version.to_string(),
            metrics: self.recorded(step, metrics),
            items: step.items.clone(),
        }
    }
}

impl Night<'_> {
    /// Trains the policy along a course, unless a tripwire has stopped the night's training, until
    /// its end or until one does.
    pub(super) fn train(&self, policy: &mut Policy, course: &Course<'_>) -> anyhow::Result<()> {
        let mut watch = self.watch()?;
        if watch.stop().is_some() {
            return Ok(());
        }
        let stretches: Vec<&[PlannedStep]> = course.steps.chunks(course.stretch).collect();
        let (done, mut optimizer) = self.resume(policy, course, &stretches)?;
        let progress = Progress::start(&course.title, course.steps.len() as u64);
        progress.advance(stretches[..done].iter().map(|steps| steps.len() as u64).sum());
        for steps in &stretches[done..] {
            optimizer =
                self.train_stretch(policy, course, steps, optimizer, &mut watch, &progress)?;
            if watch.stop().is_some() {
                break;
            }
        }
        Ok(())
    }

    /// Whether a course behind the one at `place` has trained the same adapter already.
    pub(super) fn has_begun_after(
        &self,
        courses: &[Course<'_>],
        place: usize,
    ) -> anyhow::Result<bool> {
        let slot = self.slot(courses[place].role);
        for later in courses[place + 1..].iter().filter(|course| self.slot(course.role) == slot) {
            let first = later.steps.first();
            let begun = first.map(|step| self.done(step.phase.as_str(), &step.key)).transpose()?;
            if begun == Some(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// How many stretches are done, and the optimiser behind them; the policy's adapter becomes
    /// what it was there. A checkpoint that is lost or damaged costs time, not the night: its
    /// steps are trained again, to the same end.
    fn resume(
        &self,
        policy: &mut Policy,
        course: &Course<'_>,
        stretches: &[&[PlannedStep]],
    ) -> anyhow::Result<(usize, AdamW)> {
        let settings = self.optimizer_settings();
        let config = &self.outline.config;
        for (index, steps) in stretches.iter().enumerate().rev() {
            let Some(cursor) = self.cursor(course, steps) else { continue };
            if !self.done(cursor.phase.as_str(), &cursor.stretch)? {
                continue;
            }
            let dir = self.checkpoint_dir(&cursor);
            match checkpoint::load(&dir, config, settings, &cursor, &self.circumstances) {
                Ok((adapter, optimizer)) => {
                    policy.adapters.replace(course.role, adapter);
                    return Ok((index + 1, optimizer));
                }
                Err(error) if error.is_foreign() => return Err(error.into()),
                Err(error) => tracing::warn!("training some steps again: {error}"),
            }
        }
        Ok((0, AdamW::new(settings)))
    }

    /// Takes the steps of one stretch, or as many as the watch lets pass, and stores them.
    fn train_stretch(
        &self,
        policy: &Policy,
        course: &Course<'_>,
        steps: &[PlannedStep],
        optimizer: AdamW,
        watch: &mut Watch<'_>,
        progress: &Progress,
    ) -> anyhow::Result<AdamW> {
        let Some(cursor) = self.cursor(course, steps) else { return Ok(optimizer) };
        // Done, and its checkpoint lost: the archive and the watch have seen its steps.
        let again = self.done(cursor.phase.as_str(), &cursor.stretch)?;
        let adapter = policy.adapter(course.role);
        let (mut rows, mut taken) = (Vec::with_capacity(steps.len()), 0);
        let mut seen = |index: usize, metrics: StepMetrics| {
            progress.note(&format!("loss {:.3}, KL {:.3}", metrics.loss, metrics.kl));
            progress.advance(1);
            taken = index + 1;
            if !again {
                let row = course.row(&steps[index], &metrics, cursor.adapter, &policy.version.id);
                watch.see(&row);
                metrics::count_step(&row);
                self.write_metrics(watch.stop());
                rows.push(row);
            }
            watch.stop().is_none() && !self.is_interrupted()
        };
        self.check_interrupt()?;
        let planned: Vec<Step<'_>> = steps.iter().map(|step| course.step(step)).collect();
        let optimizer = self.host.train(adapter, optimizer, self.limits(), &planned, &mut seen)?;
        if taken < steps.len() && watch.stop().is_none() {
            self.check_interrupt()?;
        }
        let dir = self.checkpoint_dir(&cursor);
        checkpoint::save(&dir, adapter, &optimizer, &cursor, &self.circumstances)?;
        let unit = self.unit(cursor.phase.as_str(), &cursor.stretch);
        self.archive.record_train_steps(&unit, &rows)?;
        self.remove_superseded_checkpoints(&cursor)?;
        Ok(optimizer)
    }

    /// A watch that has seen the steps that this night has taken.
    fn watch(&self) -> anyhow::Result<Watch<'_>> {
        Ok(Watch::over(&self.settings.tripwires, &self.archive.train_steps(self.number)?))
    }

    /// Where and why this night's training stopped, if it did. Read from the archive, so that a
    /// night that is gone through again stops where it stopped.
    pub(super) fn stop(&self) -> anyhow::Result<Option<Stop>> {
        Ok(self.watch()?.stop())
    }

    /// What bounds the trainer's memory, and tonight's seed.
    pub(super) fn limits(&self) -> Limits {
        let train = &self.settings.train;
        Limits {
            micro_batch_tokens: train.micro_batch_tokens,
            activation_bytes: train.activation_mb << 20,
            seed: self.seed(),
        }
    }

    fn optimizer_settings(&self) -> AdamWSettings {
        let train = &self.settings.train;
        let (clip_norm, weight_decay) = (train.clip_norm, train.weight_decay);
        AdamWSettings { clip_norm, weight_decay, ..AdamWSettings::default() }
    }

    /// The adapter of the version in the making that plays `role`.
    pub(super) fn slot(&self, role: Role) -> AdapterSlot {
        self.settings.train.adapters.slot(role)
    }

    /// What tells the units of one adapter's training from another's.
    pub(super) fn key_prefix(&self, role: Role) -> String {
        match self.slot(role) {
            AdapterSlot::Shared => String::new(),
            slot => format!("{}/", slot.as_str()),
        }
    }

    /// The end of a stretch; none for one without steps.
    fn cursor(&self, course: &Course<'_>, steps: &[PlannedStep]) -> Option<Cursor> {
        let first = steps.first()?;
        Some(Cursor {
            night: self.number,
            phase: first.phase,
            adapter: self.slot(course.role),
            stretch: first.key.clone(),
            next_step: steps.last()?.number + 1,
        })
    }

    fn checkpoint_dir(&self, cursor: &Cursor) -> PathBuf {
        self.home.checkpoints().join(super::retention::checkpoint_name(cursor))
    }
}
