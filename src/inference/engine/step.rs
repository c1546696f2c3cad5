//! One step: what it reads, and what is made of its logits.

use std::time::Duration;
use std::time::Instant;

use rayon::prelude::*;

use super::budget;
use super::plain;
use super::scheduler::Scheduler;
use super::sequence::Chunk;
use super::sequence::Sequence;
use crate::inference::GenerateError;
use crate::model::runner::PAGE;
use crate::model::runner::RunBatch;
use crate::rollout::StopReason;

/// Values of logits for scores in one step at most, beside one row for each sequence.
const SCORE_VALUES: usize = 1 << 23;

impl Scheduler {
    /// Runs one step; returns how long the runner and the sampling took.
    pub(super) fn step(&mut self) -> (Duration, Duration) {
        if self.sequences.is_empty() {
            self.nothing_runs();
        }
        self.draw_due();
        self.hand_out();
        let chunks = self.plan();
        let batch = self.batch(&chunks);
        if batch.spans.is_empty() {
            return (Duration::ZERO, Duration::ZERO);
        }
        let start = Instant::now();
        let logits = match self.runner.run(&batch) {
            Ok(logits) => logits,
            Err(error) => {
                self.lose(&chunks, &plain(&error));
                return (start.elapsed(), Duration::ZERO);
            }
        };
        let run = start.elapsed();
        let start = Instant::now();
        let rows: usize = chunks.iter().flatten().map(Chunk::logits).sum();
        if rows > 0 && (logits.is_empty() || logits.len() % rows != 0) {
            let reason = format!("{} logits for {rows} rows", logits.len());
            self.lose(&chunks, &reason);
            return (run, start.elapsed());
        }
        let vocabulary = logits.len().checked_div(rows).unwrap_or_default();
        let mut left = logits;
        let mut work = Vec::with_capacity(self.sequences.len());
        for (sequence, chunk) in self.sequences.iter_mut().zip(&chunks) {
            let Some(chunk) = chunk else { continue };
            let (from, to) = (chunk.range.start, chunk.range.end);
            let prompt = sequence.unread_prompt().min(to - from);
            self.statistics.prompt_tokens += prompt as u64;
            self.statistics.sampled_tokens += (to - from - prompt) as u64;
            self.pages.commit(&sequence.held, &sequence.tokens, from, to);
            sequence.filled = to;
            let rows = chunk.logits();
            if rows > 0 {
                let (own, others) = left.split_at_mut(rows * vocabulary);
                left = others;
                work.push((sequence, own, rows));
            }
        }
        let model = &self.model;
        work.into_par_iter().for_each(|(sequence, own, rows)| sequence.advance(own, rows, model));
        self.statistics.steps += 1;
        self.keep_logits();
        self.hand_out();
        (run, start.elapsed())
    }

    /// What each sequence reads in the next step.
    fn plan(&self) -> Vec<Option<Chunk>> {
        let unread: Vec<usize> = self.sequences.iter().map(Sequence::unread_prompt).collect();
        let reading: Vec<usize> = (0..unread.len()).filter(|row| unread[*row] > 0).collect();
        let continued = unread.len() - reading.len();
        let left: Vec<usize> = reading.iter().map(|row| unread[*row]).collect();
        let mut tokens = vec![1; unread.len()];
        let shares = budget::share(self.limits.step_tokens.saturating_sub(continued), &left);
        for (row, share) in reading.into_iter().zip(shares) {
            tokens[row] = share;
        }
        let vocabulary = self.model.decoder.config().vocabulary;
        let mut logits = (SCORE_VALUES / vocabulary).max(1);
        let chunk = |(sequence, tokens): (&Sequence, usize)| {
            let chunk = sequence.chunk(tokens, logits)?;
            if chunk.logits() > 1 {
                logits -= chunk.logits();
            }
            Some(chunk)
        };
        self.sequences.iter().zip(tokens).map(chunk).collect()
    }

    fn batch(&mut self, chunks: &[Option<Chunk>]) -> RunBatch {
        let mut batch = RunBatch::default();
        for (sequence, chunk) in self.sequences.iter_mut().zip(chunks) {
            let Some(chunk) = chunk else { continue };
            let pages = chunk.range.end.div_ceil(PAGE);
            while sequence.held.pages().len() < pages {
                // Promised when it was admitted.
                assert!(self.pages.extend(&mut sequence.held).is_some(), "a promised page");
            }
            batch.push(
                &sequence.tokens[chunk.range.clone()],
                chunk.range.start,
                &sequence.held.pages()[..pages],
                sequence.adapter,
                chunk.wanted,
            );
        }
        batch
    }

    /// Draws the first tokens of sequences that begin with the logits of another's prompt.
    fn draw_due(&mut self) {
        let (active, model) = (&self.active, &self.model);
        self.sequences.par_iter_mut().filter(|sequence| sequence.is_due()).for_each(|sequence| {
            let logits = active.get(&sequence.job).and_then(|active| active.logits.as_ref());
            if let Some(logits) = logits {
                sequence.advance(&mut logits.clone(), 1, model);
            }
        });
        for active in self.active.values_mut().filter(|active| active.left() == 0) {
            active.logits = None;
        }
    }

    /// Puts the logits behind prompts where the other samples find them.
    fn keep_logits(&mut self) {
        for sequence in &mut self.sequences {
            let Some(kept) = sequence.kept.take() else { continue };
            sequence.leads = false;
            if let Some(active) = self.active.get_mut(&sequence.job) {
                active.logits = Some(kept);
                active.reading = false;
            }
        }
    }

    /// Takes out sequences that have ended, and answers requests that are complete.
    fn hand_out(&mut self) {
        let (ended, rest): (Vec<Sequence>, Vec<Sequence>) =
            std::mem::take(&mut self.sequences).into_iter().partition(Sequence::has_ended);
        self.sequences = rest;
        for sequence in ended {
            let job = sequence.job;
            let (held, outcome) = sequence.end(StopReason::Length);
            self.pages.release(held);
            let Some(active) = self.active.get_mut(&job) else { continue };
            active.store(outcome);
            if !active.is_complete() {
                continue;
            }
            if let Some(active) = self.active.remove(&job) {
                self.outbox.push((active, Ok(StopReason::Length)));
            }
        }
    }

    /// Fails the requests of a step that failed.
    fn lose(&mut self, chunks: &[Option<Chunk>], reason: &str) {
        tracing::warn!("a step of the generation engine failed: {reason}");
        let rows = self.sequences.iter().zip(chunks).filter(|(_, chunk)| chunk.is_some());
        let lost: Vec<u64> = rows.map(|(sequence, _)| sequence.job).collect();
        for id in lost {
            self.fail(id, GenerateError::Step(reason.to_string()));
        }
        self.statistics.failed_steps += 1;
    }

    /// A request that does not start although nothing runs would wait for ever. It is a bug if it
    /// happens, and costs the request, not the engine.
    fn nothing_runs(&mut self) {
        if let Some(&id) = self.queue.front() {
            let reason = "the request could not be started although nothing runs";
            let begun = self.fail(id, GenerateError::Step(reason.into()));
            self.inbox.begun(begun);
        }
    }
}
