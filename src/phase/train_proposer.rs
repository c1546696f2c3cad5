//! Training the proposer: what its drafts were worth, and the steps that learn from that.

use serde_json::Map;
use serde_json::Value;

use super::night::Night;
use super::train::Course;
use super::train::PlannedStep;
use super::warm_start::demonstrated;
use crate::archive::PlayedProposal;
use crate::archive::ProposalScore;
use crate::archive::TrainItem;
use crate::archive::TrainPhase;
use crate::config::ObjectiveName;
use crate::config::ProposerMethod;
use crate::config::ProposerObjective;
use crate::config::Role;
use crate::proposer::document;
use crate::rollout::Step;
use crate::task::Passage;
use crate::trainer::batch::Branch;
use crate::trainer::batch::Example;
use crate::trainer::objective::Objective;
use crate::trainer::objective::advantage::Baselines;
use crate::trainer::objective::pool;
use crate::trainer::objective::pool::RewardGroup;

/// The steps that train the proposer after a round.
pub(super) struct ProposerSteps {
    /// The steps.
    pub(super) steps: Vec<PlannedStep>,
    /// What is recorded of the drafts with each.
    about: Map<String, Value>,
}

/// A draft as a training example.
struct Taught {
    example: Example,
    item: TrainItem,
}

impl Night<'_> {
    /// Decides what the drafts of a round were worth, once their tasks have been played, and stores
    /// it. A task that there was no place to play has no worth yet.
    pub(super) fn score_proposals(&self, round: u32) -> anyhow::Result<()> {
        let key = format!("{round:04}");
        let settings = &self.settings.train_proposer;
        let proposals = self.archive.proposals(self.number, round..=round)?;
        let known = proposals.into_iter().filter(|one| one.rejection.is_some() || one.attempts > 0);
        let scores: Vec<ProposalScore> = known
            .map(|one| ProposalScore {
                reward: settings.reward.of(
                    one.solved,
                    one.attempts,
                    settings.zero_when_never_solved,
                ),
                draft_id: one.draft_id,
                attempts: one.attempts,
                solved: one.solved,
            })
            .collect();
        self.archive.record_proposal_scores(&self.unit("score_proposals", &key), &scores)?;
        Ok(())
    }

    /// The steps that train the proposer after a round; none when it is not trained then, or
    /// nothing that it wrote teaches anything. `baselines` are the moving averages of rewards.
    pub(super) fn proposer_steps(
        &self,
        round: u32,
        baselines: &mut Baselines,
    ) -> anyhow::Result<Option<ProposerSteps>> {
        let settings = &self.settings.train_proposer;
        let every = settings.every as u32;
        if settings.objective == ProposerObjective::None || !(round + 1).is_multiple_of(every) {
            return Ok(None);
        }
        let mut proposals = self.archive.proposals(self.number, (round + 1 - every)..=round)?;
        proposals.retain(|one| one.reward.is_some());
        let about = measures(&proposals);
        let taught = match settings.objective {
            ProposerObjective::None => Vec::new(),
            ProposerObjective::PolicyGradient => self.by_advantage(proposals, baselines)?,
            ProposerObjective::Likelihood => self.sufficient(&proposals)?,
        };
        let prefix = self.key_prefix(Role::Proposer);
        let steps_per_round = self.proposer_steps_per_round();
        let steps = taught.chunks(settings.drafts).enumerate().map(|(index, chunk)| PlannedStep {
            phase: TrainPhase::Proposer,
            key: format!("{prefix}{round:02}/{index:04}"),
            number: round as usize / settings.every * steps_per_round + index,
            rate: settings.learning_rate,
            examples: chunk.iter().map(|one| one.example.clone()).collect(),
            items: chunk.iter().map(|one| one.item.clone()).collect(),
        });
        let steps: Vec<PlannedStep> = steps.collect();
        Ok((!steps.is_empty()).then_some(ProposerSteps { steps, about }))
    }

    /// Steps of the proposer at most, in a round in which it is trained.
    pub(super) fn proposer_steps_per_round(&self) -> usize {
        let settings = &self.settings.train_proposer;
        let rounds = self.settings.solve.rounds.max(1);
        let per_round = self.settings.propose.model_drafts.div_ceil(rounds);
        (per_round * settings.every).div_ceil(settings.drafts)
    }

    /// The course that takes these steps.
    pub(super) fn proposer_course<'a>(
        &self,
        round: u32,
        ProposerSteps { steps, about }: ProposerSteps,
        objective: &'a Objective,
    ) -> Course<'a> {
        let named = match self.settings.train_proposer.objective {
            ProposerObjective::Likelihood => ObjectiveName::Likelihood,
            ProposerObjective::PolicyGradient | ProposerObjective::None => {
                ObjectiveName::PolicyGradient
            }
        };
        Course {
            title: format!("training the proposer, round {}", round + 1),
            role: Role::Proposer,
            steps,
            stretch: 1,
            objective,
            named,
            about,
        }
    }

    /// What training the proposer minimises.
    pub(super) fn proposer_objective(&self) -> Objective {
        match self.settings.train_proposer.objective {
            ProposerObjective::Likelihood => Objective::Likelihood,
            ProposerObjective::PolicyGradient | ProposerObjective::None => {
                let longest = self.settings.propose.max_tokens * (self.settings.propose.turns + 1);
                Objective::PolicyGradient(self.policy_gradient(longest))
            }
        }
    }

    /// The drafts that the proposer in training wrote itself, with their advantages.
    fn by_advantage(
        &self,
        mut proposals: Vec<PlayedProposal>,
        baselines: &mut Baselines,
    ) -> anyhow::Result<Vec<Taught>> {
        let base = self.base_id()?;
        proposals.retain(|one| one.model_version != base && !one.steps.is_empty());
        let groups: Vec<RewardGroup> = proposals
            .iter()
            .map(|one| RewardGroup { rewards: one.reward.into_iter().collect(), hops: one.hops })
            .collect();
        let settings = &self.settings.train_proposer;
        let advantages = pool::advantages(
            settings.advantage,
            settings.group_key,
            Role::Proposer,
            &groups,
            baselines,
        );
        let taught = proposals.into_iter().zip(advantages).filter_map(|(one, advantage)| {
            let advantage = *advantage?.first()?;
            let example = learnt(&one.steps, advantage)?;
            Some(Taught { example, item: TrainItem::Draft { draft_id: one.draft_id } })
        });
        Ok(taught.collect())
    }

    /// The drafts whose reward suffices, as demonstrations: whoever wrote them, an adapter learns
    /// them under its own prompt.
    fn sufficient(&self, proposals: &[PlayedProposal]) -> anyhow::Result<Vec<Taught>> {
        let least = self.settings.train_proposer.likelihood_min_reward;
        let enough = |one: &&PlayedProposal| {
            one.rejection.is_none() && one.reward.is_some_and(|reward| reward >= least)
        };
        let mut taught = Vec::new();
        for one in proposals.iter().filter(enough) {
            let example = match self.settings.propose.turns {
                0 => {
                    let (draft, _) = self.archive.draft(&one.draft_id)?;
                    let path = &draft.seed.path;
                    let evidence: Vec<&Passage> =
                        path.iter().filter_map(|id| self.passages.get(id)).collect();
                    let question = draft.question.unwrap_or_default();
                    let (prompt, branch) =
                        self.proposal_shown(&evidence, &question, &draft.seed.answer)?;
                    Example { prompt, branches: vec![branch] }
                }
                // A conversation is opened alike for all, and learnt as it went.
                _ => match learnt(&one.steps, 1.0) {
                    Some(example) => example,
                    None => continue,
                },
            };
            let item = TrainItem::Draft { draft_id: one.draft_id.clone() };
            taught.push(Taught { example, item });
        }
        Ok(taught)
    }

    /// A question for an answer as the proposer's adapter is shown it: passages, and behind them
    /// its prompt's query and what it is to write.
    pub(super) fn proposal_shown(
        &self,
        passages: &[&Passage],
        question: &str,
        answer: &str,
    ) -> anyhow::Result<(Vec<u32>, Branch)> {
        let settings = &self.settings.propose;
        let (name, tokenizer) = (settings.prompt(true), &self.outline.tokenizer);
        let given = match settings.method {
            ProposerMethod::AnswerSeeded => answer,
            ProposerMethod::DocumentSeeded => "",
        };
        let prompt = self.prompts.render(name, tokenizer, passages, "", given)?;
        let text = match settings.method {
            ProposerMethod::AnswerSeeded => question.to_string(),
            ProposerMethod::DocumentSeeded => {
                document::demonstrated(&tokenizer.decode(&prompt.query), question, answer)
            }
        };
        let branch = demonstrated(&prompt, self.reader(name, 0).demonstration(&text));
        Ok((prompt.context, branch))
    }
}

/// What a proposer wrote, with all that it was shown in between, to be trained on.
fn learnt(steps: &[Step], advantage: f32) -> Option<Example> {
    let (prompt, written) = steps.split_first()?;
    let branches = vec![Branch::of_steps(written, advantage)];
    Some(Example { prompt: prompt.tokens.clone(), branches })
}

/// What is recorded of the drafts with every step that learns from them.
fn measures(proposals: &[PlayedProposal]) -> Map<String, Value> {
    let n = proposals.len().max(1) as f64;
    let accepted = proposals.iter().filter(|one| one.rejection.is_none()).count();
    let rewards = proposals.iter().filter_map(|one| one.reward).map(f64::from);
    [
        ("drafts", proposals.len() as f64),
        ("accepted_rate", accepted as f64 / n),
        ("proposal_reward_mean", rewards.sum::<f64>() / n),
    ]
    .map(|(name, value)| (name.to_string(), value.into()))
    .into_iter()
    .collect()
}
