//! The conversation of larger models: think, search, information and answer blocks
//! (Search-R1, Jin et al. 2025; solver and proposer of Search Self-play).
//!
//! The model writes `<think>…</think>` and `<search>query</search>`; the program answers with
//! `<information>…</information>`, whose tokens belong to the program; the model ends with
//! `<answer>…</answer>`, or as a proposer with `<question>…</question>`. The conversation only ever
//! grows by tokens: nothing is encoded twice.

use std::collections::HashSet;

use crate::inference::GenerateError;
use crate::inference::Generator;
use crate::inference::Request;
use crate::inference::Sampling;
use crate::model::tokenizer::Tokenizer;
use crate::protocol::Example;
use crate::rollout::Owner;
use crate::rollout::Step;
use crate::rollout::StopReason;
use crate::task::Passage;

/// Tags a passage must not be able to forge.
const TAGS: [&str; 5] = ["think", "search", "information", "answer", "question"];

/// The block that a conversation is to end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The answer to a question.
    Answer,
    /// The question for an answer.
    Question,
}

impl Goal {
    fn tag(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Question => "question",
        }
    }

    /// What is said to a turn that is neither a search nor this.
    fn reminder(self) -> String {
        let tag = self.tag();
        let article = match self {
            Self::Answer => "an",
            Self::Question => "a",
        };
        format!(
            "\n\nThat was neither a search nor {article} {tag}. Write a query between <search> and \
             </search>, or the final {tag} between <{tag}> and </{tag}>.\n\n"
        )
    }
}

/// Bounds of one conversation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// What ends it.
    pub goal: Goal,
    /// Turns of the model at most.
    pub turns: usize,
    /// Tokens of one turn at most.
    pub turn_tokens: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Seed of the first turn; the others derive theirs.
    pub seed: u64,
}

/// How a conversation went.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// Tokens with their owners; the first step is the prompt.
    pub steps: Vec<Step>,
    /// Queries, in order; repeated ones once.
    pub queries: Vec<String>,
    /// Ids of the passages found, in order of first appearance.
    pub retrieved: Vec<String>,
    /// Content of the block that ended it; `None` when there was none.
    pub end: Option<String>,
    /// Why it ended: `Length` when turns or tokens ran out before that.
    pub stop: StopReason,
}

impl Conversation {
    /// One that begins with these tokens, which the model did not write.
    pub fn with(prompt: Vec<u32>) -> Self {
        Self {
            steps: vec![tool_step(prompt)],
            queries: Vec::new(),
            retrieved: Vec::new(),
            end: None,
            stop: StopReason::Length,
        }
    }
}

/// What a turn of the model asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Passages for a query.
    Search(String),
    /// The end, with the answer or question.
    End(String),
    /// Neither could be read.
    Malformed,
}

/// Reads the model's turn: its first complete block that searches or ends the conversation.
pub fn parse(text: &str, goal: Goal) -> Action {
    let block = |tag: &str| {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let end = text.find(&close)?;
        let start = text[..end].rfind(&open)? + open.len();
        Some((end, text[start..end].trim().to_string()))
    };
    match (block("search"), block(goal.tag())) {
        (Some((search_end, query)), Some((end, _))) if search_end < end => Action::Search(query),
        (Some((_, query)), None) => Action::Search(query),
        (_, Some((_, text))) => Action::End(text),
        (None, None) => Action::Malformed,
    }
}

/// How many of a solver's turns were malformed, and how many searched for what had been searched
/// for before.
pub fn faults(steps: &[Step], tokenizer: &Tokenizer) -> (u32, u32) {
    let mut asked = HashSet::new();
    let (mut malformed, mut repeated) = (0, 0);
    for step in steps.iter().filter(|step| step.owner == Owner::Model) {
        match parse(&tokenizer.decode(&step.tokens), Goal::Answer) {
            Action::Malformed => malformed += 1,
            Action::Search(query) if !asked.insert(query.to_lowercase()) => repeated += 1,
            Action::Search(_) | Action::End(_) => {}
        }
    }
    (malformed, repeated)
}

/// What a solver searched for in a step, if it did.
fn query_of(tokenizer: &Tokenizer, step: &Step) -> Option<String> {
    match parse(&tokenizer.decode(&step.tokens), Goal::Answer) {
        Action::Search(query) if step.owner == Owner::Model => Some(query),
        Action::Search(_) | Action::End(_) | Action::Malformed => None,
    }
}

/// Where a conversation can be cut, so that another goes on from there: numbers of steps from its
/// beginning that hold a search and end with what the program said.
pub fn cuts(tokenizer: &Tokenizer, steps: &[Step]) -> Vec<usize> {
    let turns = steps.iter().enumerate().skip(1);
    let searched = turns.clone().find(|(_, step)| query_of(tokenizer, step).is_some());
    let Some((first, _)) = searched else { return Vec::new() };
    let ends = turns.filter(|(at, step)| *at > first && step.owner == Owner::Tool);
    ends.map(|(at, _)| at + 1).collect()
}

/// Of a conversation's `queries` those that were asked in its first `kept` steps, or before it
/// began.
pub fn queries_until(
    tokenizer: &Tokenizer,
    steps: &[Step],
    kept: usize,
    mut queries: Vec<String>,
) -> Vec<String> {
    let (before, after) = steps.split_at(kept.min(steps.len()));
    let asked = |steps: &[Step]| -> Vec<String> {
        steps.iter().filter_map(|step| query_of(tokenizer, step)).collect()
    };
    let (before, after) = (asked(before), asked(after));
    queries.retain(|query| before.contains(query) || !after.contains(query));
    queries
}

/// Passages as an information block. Tags in their text are defused, so that a document cannot
/// end the block or pose as the model.
pub fn information<'a>(passages: impl IntoIterator<Item = &'a Passage>) -> String {
    let mut text = String::from("\n\n<information>");
    for (index, passage) in passages.into_iter().enumerate() {
        let entry = format!("Doc {} (Title: {}) {}\n", index + 1, passage.title, passage.text);
        text.push_str(&defuse(&entry));
    }
    text.push_str("</information>\n\n");
    text
}

fn defuse(text: &str) -> String {
    let mut safe = text.to_string();
    for tag in TAGS {
        for form in [format!("<{tag}>"), format!("</{tag}>")] {
            safe = safe.replace(&form, &form.replace('<', "‹").replace('>', "›"));
        }
    }
    safe
}

const REPEATED: &str = "\n\n<information>This query was already searched.</information>\n\n";

/// The instruction that opens a solver's conversation, before the question.
pub fn instruction(question: &str) -> String {
    format!(
        "Answer the question. Think between <think> and </think> whenever you learn something \
         new. To look something up, write a query between <search> and </search>; what is found \
         comes back between <information> and </information>. Search as often as you need. When \
         you know the answer, write it in a few words between <answer> and </answer>, for example \
         <answer>Lisbon</answer>.\nQuestion: {}\n",
        defuse(question)
    )
}

/// The instruction that opens a proposer's conversation: what it may do, questions as examples, and
/// last the evidence and the answer, in which alone seeds differ.
pub fn proposal(
    answer: &str,
    evidence: &[&Passage],
    examples: &[&Example],
    searches: usize,
) -> String {
    let mut text = format!(
        "Write a question for a given answer. The answer stands in the last of the documents given \
         with it. The question must need all of these documents, be understood without them, have \
         no other answer, and not say its answer. Think between <think> and </think>. To look \
         something up, write a query between <search> and </search>, at most {searches} times; \
         what is found comes back between <information> and </information>. When you have found \
         what sets the answer apart, write the question between <question> and </question>, for \
         example <question>Which city did an earthquake destroy in 1755?</question>.\n"
    );
    for example in examples {
        text.push_str(&defuse(&format!("A good question: {}\n", example.question)));
    }
    text.push_str(&information(evidence.iter().copied()));
    text.push_str(&defuse(&format!("Answer: {answer}\n")));
    text
}

/// Runs one conversation from where it has `begun`, looking queries up with `search`; those that it
/// knows are not searched again.
///
/// # Errors
/// When generation or a search fails; a malformed or cut-off turn is an outcome, not an error.
pub fn converse<E: From<GenerateError>>(
    generator: &dyn Generator,
    tokenizer: &Tokenizer,
    begun: Conversation,
    limits: &Limits,
    mut search: impl FnMut(&str) -> Result<Vec<Passage>, E>,
) -> Result<Conversation, E> {
    let mut talk = begun;
    let mut asked: HashSet<String> = talk.queries.iter().map(|q| q.to_lowercase()).collect();
    for turn in 0..limits.turns {
        let so_far = talk.steps.iter().flat_map(|step| step.tokens.iter().copied()).collect();
        let request = Request {
            sampling: limits.sampling,
            stop: vec!["</search>".into(), format!("</{}>", limits.goal.tag())],
            seed: crate::rng::derive(limits.seed, &["turn", &turn.to_string()]),
            ..Request::new(so_far, limits.turn_tokens)
        };
        let generations = match generator.generate(&[request]) {
            // It has outgrown the model: cut off, like a turn that is too long.
            Err(GenerateError::TooLong { .. } | GenerateError::NoMemory { .. })
                if turn > 0 || !talk.queries.is_empty() =>
            {
                break;
            }
            other => other?,
        };
        let Some(generation) = generations.into_iter().flatten().next() else { break };
        let text = tokenizer.decode(&generation.tokens);
        talk.stop = generation.stop;
        talk.steps.push(Step {
            owner: Owner::Model,
            tokens: generation.tokens,
            logprobs: generation.logprobs,
        });
        if generation.stop.is_cut() {
            return Ok(talk);
        }
        let reply = match parse(&text, limits.goal) {
            Action::End(text) => {
                talk.end = Some(text).filter(|text| !text.is_empty());
                return Ok(talk);
            }
            Action::Malformed => limits.goal.reminder(),
            Action::Search(query) if !asked.insert(query.to_lowercase()) => REPEATED.to_string(),
            Action::Search(query) => {
                let passages = search(&query)?;
                talk.queries.push(query);
                for passage in &passages {
                    if !talk.retrieved.contains(&passage.id) {
                        talk.retrieved.push(passage.id.clone());
                    }
                }
                information(&passages)
            }
        };
        talk.steps.push(tool_step(tokenizer.encode(&reply)));
    }
    talk.stop = StopReason::Length;
    Ok(talk)
}

fn tool_step(tokens: Vec<u32>) -> Step {
    Step { owner: Owner::Tool, tokens, logprobs: Vec::new() }
}
