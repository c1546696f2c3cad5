//! Rows in the shapes that trainers read: TRL's conversations, preferences and prompts, verl's
//! prompts with a rule's ground truth.

use std::cell::OnceCell;

use serde_json::Value;
use serde_json::json;

use super::ExportError;
use super::ExportOptions;
use super::Shape;
use super::Shown;
use super::Target;
use super::Texts;
use super::Turns;
use super::feature::Columns;
use super::feature::Feature;
use super::sides::Side;
use super::task_row::TaskRow;
use crate::archive::ArchiveReader;
use crate::archive::Attempt;
use crate::archive::TaskRecord;
use crate::model::tokenizer::Tokenizer;
use crate::rollout::Owner;
use crate::task::Passage;

/// Sources whose rewards verl computes by itself: Search-R1's, which look for answer tags.
const SEARCH_R1: &str = "searchR1_";
/// What such a prompt asks for.
const TAGGED: &str = "Write the answer between <answer> and </answer>.\n\n";

/// What became of a task.
pub(super) enum Made {
    Row {
        side: Side,
        value: Value,
        /// Versions whose answers the row shows.
        answered_by: Vec<String>,
    },
    /// Why it gives no row.
    Nothing(&'static str),
}

/// Makes rows of one shape.
pub(super) struct RowMaker<'a> {
    pub(super) archive: &'a ArchiveReader,
    pub(super) texts: &'a Texts<'a>,
    pub(super) options: &'a ExportOptions,
    /// Opened when the first conversation is shown.
    pub(super) tokenizer: OnceCell<Tokenizer>,
}

/// The columns that the options ask for.
pub(super) fn columns(options: &ExportOptions) -> Columns {
    use Feature::Float;
    use Feature::Text;
    let conversation = Feature::conversation;
    let about = || {
        vec![
            ("task_id", Text),
            ("question", Text),
            ("answer", Text),
            ("kind", Text),
            ("origin", Text),
            ("documents", Feature::list(Text)),
        ]
    };
    match options.shape {
        Shape::Tasks => TaskRow::columns(),
        Shape::Sft => {
            let first = vec![("messages", conversation())];
            [first, about(), vec![("model_version", Text), ("reward", Float)]].concat()
        }
        Shape::Preference => {
            let first = ["prompt", "chosen", "rejected"].map(|name| (name, conversation()));
            let last = vec![
                ("score_chosen", Float),
                ("score_rejected", Float),
                ("model_chosen", Text),
                ("model_rejected", Text),
            ];
            [first.to_vec(), about(), last].concat()
        }
        Shape::RlTrl => [vec![("prompt", conversation())], about()].concat(),
        Shape::RlVerl => {
            let truth = match options.data_source.starts_with(SEARCH_R1) {
                true => Feature::Struct(vec![("target", Feature::list(Text))]),
                false => Text,
            };
            let extra = [vec![("split", Text), ("index", Feature::Integer)], about()].concat();
            vec![
                ("data_source", Text),
                ("prompt", conversation()),
                ("ability", Text),
                ("reward_model", Feature::Struct(vec![("style", Text), ("ground_truth", truth)])),
                ("extra_info", Feature::Struct(extra)),
            ]
        }
    }
}

impl RowMaker<'_> {
    /// The row of a task; `index` says how many rows a split has so far.
    pub(super) fn make(
        &self,
        record: &TaskRecord,
        index: impl Fn(Side) -> u64,
    ) -> Result<Made, ExportError> {
        let options = self.options;
        let side = options.sides.of_task(record.task.task.split, &record.evidence);
        let row = |value, answered_by| Made::Row { side, value, answered_by };
        Ok(match options.shape {
            Shape::Tasks => {
                let value = serde_json::to_value(TaskRow::of(record)).unwrap_or_default();
                row(value, Vec::new())
            }
            Shape::Sft => match self.target(record) {
                Err(why) => Made::Nothing(why),
                Ok((_, Some(attempt))) if self.tells_all_of(attempt) && attempt.tokens_removed => {
                    Made::Nothing("whose conversation was removed (retention.rollout_nights)")
                }
                Ok((answer, attempt)) => {
                    let Some(messages) = self.messages(record, answer, attempt, side)? else {
                        return Ok(Made::Nothing(
                            "whose conversation shows what this split must not",
                        ));
                    };
                    let value = json!({
                        "messages": messages,
                        "model_version": attempt.map(|attempt| &attempt.model_version),
                        "reward": attempt.map(|attempt| decimal(attempt.score.reward)),
                    });
                    let by = attempt.map(|attempt| attempt.model_version.clone());
                    row(with_about(value, record), by.into_iter().collect())
                }
            },
            Shape::Preference => match pair(record, options.margin) {
                None => Made::Nothing("without two answers far enough apart"),
                Some((chosen, rejected)) => {
                    let assistant =
                        |attempt: &Attempt| [message("assistant", answer_text(attempt))];
                    let value = json!({
                        "prompt": self.prompt(record, Some(chosen), side)?,
                        "chosen": assistant(chosen),
                        "rejected": assistant(rejected),
                        "score_chosen": decimal(chosen.score.reward),
                        "score_rejected": decimal(rejected.score.reward),
                        "model_chosen": chosen.model_version,
                        "model_rejected": rejected.model_version,
                    });
                    let mut by = vec![chosen.model_version.clone()];
                    if rejected.model_version != chosen.model_version {
                        by.push(rejected.model_version.clone());
                    }
                    row(with_about(value, record), by)
                }
            },
            Shape::RlTrl => {
                let prompt = self.prompt(record, record.attempts.last(), side)?;
                row(with_about(json!({ "prompt": prompt }), record), Vec::new())
            }
            Shape::RlVerl => row(self.verl(record, side, index(side))?, Vec::new()),
        })
    }

    fn verl(&self, record: &TaskRecord, side: Side, index: u64) -> Result<Value, ExportError> {
        let answer = &record.task.task.answer;
        let truth = match self.options.data_source.starts_with(SEARCH_R1) {
            true => json!({ "target": [answer] }),
            false => json!(answer),
        };
        Ok(json!({
            "data_source": self.options.data_source,
            "prompt": self.prompt(record, record.attempts.last(), side)?,
            "ability": "qa",
            "reward_model": { "style": "rule", "ground_truth": truth },
            "extra_info": with_about(json!({ "split": side.as_str(), "index": index }), record),
        }))
    }

    /// The answer that a conversation ends with and the rollout that it is from, or why there is
    /// none.
    fn target<'r>(
        &self,
        record: &'r TaskRecord,
    ) -> Result<(&'r str, Option<&'r Attempt>), &'static str> {
        match self.options.target {
            Target::Reference => Ok((&record.task.task.answer, None)),
            Target::Rollout => match best(record) {
                None => Err("without an answer by a model"),
                Some(best) if best.score.reward < self.options.min_reward => {
                    Err("without a good enough answer")
                }
                Some(best) => Ok((answer_text(best), Some(best))),
            },
        }
    }

    /// Whether a rollout is told turn by turn.
    fn tells_all_of(&self, attempt: &Attempt) -> bool {
        attempt.turns > 1 && self.options.turns == Turns::All
    }

    /// The conversation that ends with an answer; none where it shows what the split must not.
    fn messages(
        &self,
        record: &TaskRecord,
        answer: &str,
        attempt: Option<&Attempt>,
        side: Side,
    ) -> Result<Option<Vec<Value>>, ExportError> {
        match attempt {
            Some(attempt) if self.tells_all_of(attempt) => self.conversation(record, attempt, side),
            _ => {
                let best = attempt.or_else(|| best(record));
                let mut messages = self.prompt(record, best, side)?;
                messages.push(message("assistant", answer));
                Ok(Some(messages))
            }
        }
    }

    /// A rollout as it was: what the model wrote is the assistant's, what it was given the user's.
    /// None where a passage stands in a document of a stricter split, or was taken out since.
    fn conversation(
        &self,
        record: &TaskRecord,
        attempt: &Attempt,
        side: Side,
    ) -> Result<Option<Vec<Value>>, ExportError> {
        let found = self.archive.placed_passages(&attempt.retrieved)?;
        let may = found.iter().filter(|passage| self.options.sides.of_passage(passage) <= side);
        if may.count() < attempt.retrieved.len() {
            return Ok(None);
        }
        let tokenizer = self.tokenizer()?;
        let place = (attempt.night, attempt.round, attempt.index);
        let rollouts = self.archive.rollouts_of(&record.task.task.id)?.into_iter();
        let mut same = rollouts.filter(|it| (it.night, it.round, it.rollout.index) == place);
        let steps = same.next().map(|stored| stored.rollout.steps).unwrap_or_default();
        let messages = steps.chunk_by(|a, b| a.owner == b.owner).map(|run| {
            let tokens: Vec<u32> = run.iter().flat_map(|step| step.tokens.clone()).collect();
            let role = match run.first().map(|step| step.owner) {
                Some(Owner::Model) => "assistant",
                _ => "user",
            };
            message(role, tokenizer.decode_without_specials(&tokens).trim())
        });
        Ok(Some(messages.collect()))
    }

    fn tokenizer(&self) -> Result<&Tokenizer, ExportError> {
        if let Some(tokenizer) = self.tokenizer.get() {
            return Ok(tokenizer);
        }
        let opened = (self.texts.tokenizer)();
        let opened =
            opened.map_err(|error| ExportError::Tokenizer { why: format!("{error:#}") })?;
        Ok(self.tokenizer.get_or_init(|| opened))
    }

    /// The user's turn: passages and question, as search in the game puts them to the model.
    fn prompt(
        &self,
        record: &TaskRecord,
        attempt: Option<&Attempt>,
        side: Side,
    ) -> Result<Vec<Value>, ExportError> {
        let shown = self.shown(record, attempt, side)?;
        let passages: Vec<&Passage> = shown.iter().collect();
        let question = &record.task.task.question;
        let (context, query) =
            self.texts.prompts.text(&self.options.prompt, &passages, question, "")?;
        let verl = self.options.shape == Shape::RlVerl;
        let tagged = verl && self.options.data_source.starts_with(SEARCH_R1);
        let ask = if tagged { TAGGED } else { "" };
        Ok(vec![message("user", &format!("{ask}{context}{query}"))])
    }

    /// The passages to show: never one that stands in a document of a stricter split.
    fn shown(
        &self,
        record: &TaskRecord,
        attempt: Option<&Attempt>,
        side: Side,
    ) -> Result<Vec<Passage>, ExportError> {
        let evidence = || record.evidence.iter().map(|placed| placed.passage.clone()).collect();
        match (self.options.shown, attempt) {
            (Shown::Nothing, _) => Ok(Vec::new()),
            (Shown::Evidence, _) | (Shown::Retrieved, None) => Ok(evidence()),
            (Shown::Retrieved, Some(attempt)) => {
                let found = self.archive.placed_passages(&attempt.retrieved)?;
                let may = found.into_iter().filter(|p| self.options.sides.of_passage(p) <= side);
                let passages: Vec<Passage> = may.map(|placed| placed.passage).collect();
                Ok(if passages.is_empty() { evidence() } else { passages })
            }
        }
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

/// Adds what every row says of its task, where it is not there yet.
fn with_about(mut row: Value, record: &TaskRecord) -> Value {
    let task = &record.task.task;
    let mut documents: Vec<&str> = Vec::new();
    for placed in &record.evidence {
        if !documents.contains(&placed.passage.document_id.as_str()) {
            documents.push(&placed.passage.document_id);
        }
    }
    row["task_id"] = json!(task.id);
    row["question"] = json!(task.question);
    row["answer"] = json!(task.answer);
    row["kind"] = json!(task.kind);
    row["origin"] = json!(task.origin);
    row["documents"] = json!(documents);
    row
}

/// A number as it is written, not as the nearest double to its 32 bits.
fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or_else(|_| f64::from(number))
}

fn answer_text(attempt: &Attempt) -> &str {
    attempt.answer.as_deref().unwrap_or_default()
}

/// Whether the rollout came to an answer.
fn is_answer(attempt: &&Attempt) -> bool {
    !answer_text(attempt).is_empty() && !attempt.stop.is_cut()
}

/// The rollout with the highest reward, the latest of equal ones.
fn best(record: &TaskRecord) -> Option<&Attempt> {
    let answers = record.attempts.iter().filter(is_answer);
    answers.max_by(|a, b| a.score.reward.total_cmp(&b.score.reward))
}

/// The two rollouts of one group that were shown the same passages and are furthest apart; the
/// latest group of equal ones.
fn pair(record: &TaskRecord, margin: f32) -> Option<(&Attempt, &Attempt)> {
    let answers: Vec<&Attempt> = record.attempts.iter().filter(is_answer).collect();
    let gap = |(a, b): &(&Attempt, &Attempt)| a.score.reward - b.score.reward;
    let groups = answers
        .chunk_by(|a, b| (a.night, a.round, &a.retrieved) == (b.night, b.round, &b.retrieved));
    let pairs = groups.filter_map(|group| {
        let by_reward = |a: &&&Attempt, b: &&&Attempt| a.score.reward.total_cmp(&b.score.reward);
        Some((*group.iter().max_by(by_reward)?, *group.iter().min_by(by_reward)?))
    });
    let far = pairs.filter(|pair| gap(pair) > 0.0 && gap(pair) >= margin);
    let distinct = far.filter(|(a, b)| answer_text(a) != answer_text(b));
    distinct.max_by(|a, b| gap(a).total_cmp(&gap(b)))
}
