//! Evaluation phases and the decision.

use std::time::Instant;

use super::night::Night;
use super::suite::questions;
use crate::archive::EvaluationItem;
use crate::archive::EvaluationName;
use crate::archive::ModelVersion;
use crate::archive::Promotion;
use crate::archive::Suite;
use crate::evaluation;
use crate::evaluation::Answered;
use crate::progress::Progress;
use crate::retrieval::Retriever;
use crate::rng;

/// Questions per unit of work: one batch of the engine.
const UNIT: usize = 20;

impl Night<'_> {
    /// What identifies the evaluation of a version on a suite: asked again under the same
    /// circumstances it need not be done again, not even on a later night.
    pub(super) fn evaluation_name(&self, suite: &Suite, version: &ModelVersion) -> EvaluationName {
        let prompt = self.prompt_of(version).to_string();
        let passages = self.settings.retrieval.passages.to_string();
        let mut parts = vec!["evaluation", &suite.id, &version.id, &prompt, &passages];
        parts.extend(self.passage_ids.iter().map(String::as_str));
        // Other arithmetic, other answers now and then: the two are not compared.
        let served = self.settings.remote.model.as_deref().filter(|_| self.remote.is_some());
        parts.extend(served.map(|_| "remote").into_iter().chain(served));
        EvaluationName {
            id: rng::content_id(&parts),
            suite_id: suite.id.clone(),
            model_version: version.id.clone(),
            prompt,
        }
    }

    /// Answers the suite with a version, in units, and stores answers and metrics.
    pub(super) fn evaluate(&self, suite: &Suite, version: &ModelVersion) -> anyhow::Result<()> {
        let name = self.evaluation_name(suite, version);
        if self.archive.evaluation(&name.id)?.is_some_and(|known| known.metrics.is_some()) {
            return Ok(());
        }
        let phase = format!("evaluate/{}", name.id);
        let generator = self.solver(version)?;
        let reader = self.reader(&name.prompt, self.settings.evaluate.max_tokens);
        let start = Instant::now();
        let progress =
            Progress::start(&format!("evaluation of {}", version.id), suite.items.len() as u64);
        for (index, chunk) in questions(suite).chunks(UNIT).enumerate() {
            let key = format!("{index:04}");
            if !self.done(&phase, &key)? {
                self.check_interrupt()?;
                let passages = self.settings.retrieval.passages;
                let index = Some(&self.index as &dyn Retriever);
                let answered = evaluation::answer_all(chunk, &generator, index, &reader, passages)?;
                let items: Vec<EvaluationItem> = answered.into_iter().map(item).collect();
                self.archive.record_evaluation_items(&self.unit(&phase, &key), &name, &items)?;
            }
            progress.advance(chunk.len() as u64);
        }
        let answered = self.answered(suite, version)?;
        let resamples = self.settings.evaluate.resamples;
        let seconds = start.elapsed().as_secs_f64();
        let metrics = evaluation::metrics(&answered, resamples, self.settings.seed, seconds);
        let metrics = serde_json::to_value(metrics)?;
        self.archive.record_evaluation(&self.unit(&phase, "metrics"), &name, &metrics)?;
        Ok(())
    }

    /// The stored answers of an evaluation, in the suite's order.
    pub(super) fn answered(
        &self,
        suite: &Suite,
        version: &ModelVersion,
    ) -> anyhow::Result<Vec<Answered>> {
        let name = self.evaluation_name(suite, version);
        let mut stored: std::collections::HashMap<String, EvaluationItem> = self
            .archive
            .evaluation_items(&name.id)?
            .into_iter()
            .map(|item| (item.question_id.clone(), item))
            .collect();
        let answered = suite.items.iter().filter_map(|question| {
            let item = stored.remove(&question.question_id)?;
            Some(Answered {
                id: item.question_id,
                source_document: question.source_document.clone(),
                answer: item.answer.unwrap_or_default(),
                exact_match: item.exact_match,
                f1: item.f1,
                answer_in_retrieved: item.answer_in_retrieved,
                tokens: item.tokens,
            })
        });
        Ok(answered.collect())
    }

    /// Promotes the candidate if the suite shows it to be better; otherwise keeps the incumbent.
    pub(super) fn decide(
        &self,
        suite: &Suite,
        incumbent: &ModelVersion,
        candidate: &ModelVersion,
    ) -> anyhow::Result<()> {
        let unit = self.unit("promote", "decision");
        if self.archive.unit_done(&unit)? {
            return Ok(());
        }
        let promotion = if incumbent.id == candidate.id {
            let reason = match self.stop()? {
                Some(_) => "training was stopped before a version was stored",
                None => "nothing was trained tonight",
            };
            Promotion {
                night: self.number,
                candidate: candidate.id.clone(),
                incumbent: incumbent.id.clone(),
                promoted: false,
                reason: reason.into(),
                delta: None,
                ci: None,
            }
        } else {
            let (rise, most) =
                (self.text_loss_rise(candidate)?, self.settings.evaluate.text_loss_rise_max);
            let comparison = evaluation::compare(
                &self.answered(suite, incumbent)?,
                &self.answered(suite, candidate)?,
                self.settings.evaluate.resamples,
                self.settings.seed,
            )
            .unless_forgot(rise, most);
            Promotion {
                night: self.number,
                candidate: candidate.id.clone(),
                incumbent: incumbent.id.clone(),
                promoted: comparison.promoted,
                reason: comparison.reason,
                delta: Some(comparison.delta),
                ci: Some(comparison.ci),
            }
        };
        self.archive.record_promotion(&unit, &promotion)?;
        Ok(())
    }
}

fn item(answered: Answered) -> EvaluationItem {
    EvaluationItem {
        question_id: answered.id,
        answer: Some(answered.answer).filter(|answer| !answer.is_empty()),
        exact_match: answered.exact_match,
        f1: answered.f1,
        answer_in_retrieved: answered.answer_in_retrieved,
        tokens: answered.tokens,
    }
}
