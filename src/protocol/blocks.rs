//! The conversation of larger models: think, search, information and answer blocks
//! (Search-R1, Jin et al. 2025; the solver of Search Self-play).
//!
//! The model writes `<think>…</think>` and `<search>query</search>`; the program answers with
//! `<information>…</information>`, whose tokens belong to the program; the model ends with
//! `<answer>…</answer>`. The conversation only ever grows by tokens: nothing is encoded twice.

use std::collections::HashSet;

use crate::inference::GenerateError;
use crate::inference::Generator;
use crate::inference::Request;
use crate::inference::Sampling;
use crate::model::tokenizer::Tokenizer;
use crate::rollout::Owner;
use crate::rollout::Step;
use crate::rollout::StopReason;
use crate::task::Passage;

/// Tags a passage must not be able to forge.
const TAGS: [&str; 4] = ["think", "search", "information", "answer"];

/// Bounds of one conversation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
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
    /// Content of the answer block; `None` when there was none.
    pub answer: Option<String>,
    /// Why it ended: `Length` when turns or tokens ran out before an answer.
    pub stop: StopReason,
}

impl Conversation {
    /// One that begins with these tokens, which the model did not write.
    pub fn with(prompt: Vec<u32>) -> Self {
        Self {
            steps: vec![tool_step(prompt)],
            queries: Vec::new(),
            retrieved: Vec::new(),
            answer: None,
            stop: StopReason::Length,
        }
    }
}

/// What a turn of the model asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Passages for a query.
    Search(String),
    /// The end, with an answer.
    Answer(String),
    /// Neither could be read.
    Malformed,
}

/// Reads the model's turn: its first complete search or answer block.
pub fn parse(text: &str) -> Action {
    let block = |tag: &str| {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let end = text.find(&close)?;
        let start = text[..end].rfind(&open)? + open.len();
        Some((end, text[start..end].trim().to_string()))
    };
    match (block("search"), block("answer")) {
        (Some((search_end, query)), Some((answer_end, _))) if search_end < answer_end => {
            Action::Search(query)
        }
        (Some((_, query)), None) => Action::Search(query),
        (_, Some((_, answer))) => Action::Answer(answer),
        (None, None) => Action::Malformed,
    }
}

/// How many of the model's turns were malformed, and how many searched for what had been searched
/// for before.
pub fn faults(steps: &[Step], tokenizer: &Tokenizer) -> (u32, u32) {
    let mut asked = HashSet::new();
    let (mut malformed, mut repeated) = (0, 0);
    for step in steps.iter().filter(|step| step.owner == Owner::Model) {
        match parse(&tokenizer.decode(&step.tokens)) {
            Action::Malformed => malformed += 1,
            Action::Search(query) if !asked.insert(query.to_lowercase()) => repeated += 1,
            Action::Search(_) | Action::Answer(_) => {}
        }
    }
    (malformed, repeated)
}

/// What the model searched for in a step, if it did.
fn query_of(tokenizer: &Tokenizer, step: &Step) -> Option<String> {
    match parse(&tokenizer.decode(&step.tokens)) {
        Action::Search(query) if step.owner == Owner::Model => Some(query),
        Action::Search(_) | Action::Answer(_) | Action::Malformed => None,
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
pub fn information(passages: &[Passage]) -> String {
    let mut text = String::from("\n\n<information>");
    for (index, passage) in passages.iter().enumerate() {
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

const MALFORMED: &str = "\n\nThat was neither a search nor an answer. Write a query between \
<search> and </search>, or the final answer between <answer> and </answer>.\n\n";
const REPEATED: &str = "\n\n<information>This query was already searched.</information>\n\n";

/// The instruction that opens the conversation, before the question.
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
            stop: vec!["</search>".into(), "</answer>".into()],
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
        let reply = match parse(&text) {
            Action::Answer(answer) => {
                talk.answer = Some(answer).filter(|answer| !answer.is_empty());
                return Ok(talk);
            }
            Action::Malformed => MALFORMED.to_string(),
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
