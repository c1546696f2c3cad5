//! The proposer of larger models: it searches for what sets the answer apart, thinks, and writes
//! the question in the end.

use super::Author;
use super::ProposeError;
use super::Proposer;
use super::Written;
use super::question_in;
use crate::config::ProposerMethod;
use crate::inference::concurrent::in_order;
use crate::protocol::blocks;
use crate::protocol::blocks::Conversation;
use crate::protocol::blocks::Goal;
use crate::protocol::blocks::Limits;
use crate::retrieval::Retriever;
use crate::rollout::Owner;
use crate::task::Passage;
use crate::task::Seed;

/// Holds a conversation with the model per seed.
pub struct Searching<'a> {
    /// The model.
    pub author: Author<'a>,
    /// Where it searches.
    pub retriever: &'a dyn Retriever,
    /// Passages per search.
    pub passages: usize,
    /// Searches at most.
    pub turns: usize,
}

impl Proposer for Searching<'_> {
    fn propose(&self, seeds: &[Seed]) -> Result<Vec<Written>, ProposeError> {
        in_order(seeds.len(), seeds.len(), |at| self.conversation(&seeds[at]))
    }

    fn sampling(&self) -> serde_json::Value {
        let mut sampling = self.author.sampling(ProposerMethod::AnswerSeeded, self.turns, None);
        sampling["passages"] = self.passages.into();
        sampling
    }
}

impl Searching<'_> {
    /// What it finds is not added to the seed's path.
    fn conversation(&self, seed: &Seed) -> Result<Written, ProposeError> {
        let Author { generator, tokenizer, sampling, max_tokens, .. } = self.author;
        let evidence = self.author.evidence(seed);
        let examples = self.author.examples_beside(&evidence);
        let opening = blocks::proposal(&seed.answer, &evidence, &examples, self.turns);
        let limits = Limits {
            goal: Goal::Question,
            // The last one is for the question.
            turns: self.turns + 1,
            turn_tokens: max_tokens,
            sampling,
            seed: self.author.draws_of(seed),
        };
        let search = |query: &str| -> Result<Vec<Passage>, ProposeError> {
            Ok(self.retriever.find(query, self.passages)?)
        };
        let begun = Conversation::with(tokenizer.encode(&opening));
        let talk = blocks::converse(generator, tokenizer, begun, &limits, search)?;
        let turns = talk.steps.iter().filter(|step| step.owner == Owner::Model);
        let turns: Vec<String> = turns.map(|step| tokenizer.decode(&step.tokens)).collect();
        let question = talk.end.and_then(|text| {
            // It may be written over several lines.
            question_in(&text.split_whitespace().collect::<Vec<_>>().join(" "))
        });
        let (read, transcript) = ((seed.clone(), question), turns.join("\n"));
        Ok(self.author.written(seed, read, Some(transcript), talk.steps, talk.stop))
    }
}
