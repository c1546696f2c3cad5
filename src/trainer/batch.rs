//! Training sequences as trees, and their packing into one batch.

use std::ops::Range;

use serde::Deserialize;
use serde::Serialize;

use crate::model::packed::Packed;
use crate::model::packed::Past;
use crate::rollout::Owner;
use crate::rollout::Step;

/// One continuation of a shared prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Branch {
    /// Its tokens, model's and others'.
    pub tokens: Vec<u32>,
    /// Which of them the model wrote: only these are trained on. Same length as `tokens`.
    pub owned: Vec<bool>,
    /// Log-probability of each token when it was sampled (0 where not owned); empty for
    /// demonstrations, which nobody sampled.
    pub sampled_logprobs: Vec<f32>,
    /// Log-probability of each token under the trainer's own forward pass before the update;
    /// empty where it was not computed.
    pub old_logprobs: Vec<f32>,
    /// How much better than its group this continuation was; 1 for demonstrations.
    pub advantage: f32,
}

/// A prompt and its continuations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Prompt tokens, never trained on; at least one.
    pub prompt: Vec<u32>,
    /// Continuations; each sees the prompt and itself.
    pub branches: Vec<Branch>,
}

impl Example {
    /// Tokens of prompt and branches.
    pub fn token_count(&self) -> usize {
        self.prompt.len() + self.branches.iter().map(|b| b.tokens.len()).sum::<usize>()
    }
}

impl Branch {
    /// What was sampled and inserted behind a prompt, in these steps.
    pub fn of_steps(steps: &[Step], advantage: f32) -> Self {
        let mut branch = Self {
            tokens: Vec::new(),
            owned: Vec::new(),
            sampled_logprobs: Vec::new(),
            old_logprobs: Vec::new(),
            advantage,
        };
        for step in steps {
            let owned = step.owner == Owner::Model;
            branch.tokens.extend_from_slice(&step.tokens);
            branch.owned.extend(step.tokens.iter().map(|_| owned));
            match owned {
                true => branch.sampled_logprobs.extend_from_slice(&step.logprobs),
                false => branch.sampled_logprobs.extend(step.tokens.iter().map(|_| 0.0)),
            }
        }
        branch
    }

    /// Tokens that carry a training signal.
    pub fn target_count(&self) -> usize {
        self.owned.iter().filter(|owned| **owned).count()
    }
}

/// A token to be predicted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Batch row whose hidden state predicts it.
    pub row: u32,
    /// Its id.
    pub token: u32,
    /// Log-probability when sampled; `None` for demonstrations.
    pub sampled_logprob: Option<f32>,
    /// Log-probability under the trainer's forward pass before the update, where computed.
    pub old_logprob: Option<f32>,
    /// Its continuation's advantage.
    pub advantage: f32,
    /// Its weight in the step's loss.
    pub weight: f32,
    /// Its continuation's number within the batch.
    pub sequence: u32,
}

/// What a whole optimiser step is averaged over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Target tokens.
    pub targets: usize,
    /// Continuations that have any.
    pub sequences: usize,
}

impl Totals {
    /// Those of `examples`.
    pub fn of(examples: &[Example]) -> Self {
        let branches = || examples.iter().flat_map(|example| &example.branches);
        Self {
            targets: branches().map(Branch::target_count).sum(),
            sequences: branches().filter(|branch| branch.target_count() > 0).count(),
        }
    }
}

/// Packed examples and the tokens to predict.
#[derive(Debug, Clone, Default)]
pub struct TrainingBatch {
    /// All tokens.
    pub packed: Packed,
    /// What to predict, in batch order.
    pub targets: Vec<Target>,
}

impl TrainingBatch {
    /// The batch rows whose hidden states predict the targets.
    pub fn rows(&self) -> Vec<u32> {
        self.targets.iter().map(|target| target.row).collect()
    }

    /// The tokens to be predicted.
    pub fn tokens(&self) -> Vec<u32> {
        self.targets.iter().map(|target| target.token).collect()
    }
}

/// Lays examples end to end. Nothing is padded. `weigh` gives the weight of each target of a
/// continuation from how many it has.
pub fn pack(examples: &[Example], weigh: impl Fn(usize) -> f32) -> TrainingBatch {
    let mut batch = TrainingBatch::default();
    let mut sequence = 0;
    for example in examples {
        let prompt = batch.packed.push(&example.prompt, Past::None);
        let prompt_end = batch.packed.spans[prompt].range.end;
        for branch in &example.branches {
            let span = batch.packed.push(&branch.tokens, Past::Span(prompt));
            let Range { start, .. } = batch.packed.spans[span].range;
            let weight = weigh(branch.target_count());
            for (i, (&token, _)) in
                branch.tokens.iter().zip(&branch.owned).enumerate().filter(|(_, (_, o))| **o)
            {
                // A branch's first token is predicted by the prompt's last.
                let row = if i == 0 { prompt_end } else { start + i } - 1;
                batch.targets.push(Target {
                    row: row as u32,
                    token,
                    sampled_logprob: branch.sampled_logprobs.get(i).copied(),
                    old_logprob: branch.old_logprobs.get(i).copied(),
                    advantage: branch.advantage,
                    weight,
                    sequence,
                });
            }
            sequence += 1;
        }
    }
    batch
}

/// Cuts `examples` into consecutive runs of at most `limit` tokens, or of one example.
pub fn micro_batches(examples: &[Example], limit: usize) -> Vec<&[Example]> {
    let mut chunks = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (index, example) in examples.iter().enumerate() {
        let more = example.token_count();
        if index > start && tokens + more > limit {
            chunks.push(&examples[start..index]);
            (start, tokens) = (index, 0);
        }
        tokens += more;
    }
    if start < examples.len() {
        chunks.push(&examples[start..]);
    }
    chunks
}
