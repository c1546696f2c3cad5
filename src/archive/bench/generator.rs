//! A made-up archive with the shape of a real one: words by Zipf's law, nights, a gate that turns
//! some drafts away, groups of rollouts.

use std::time::Duration;
use std::time::Instant;

use rand::Rng as _;
use serde_json::json;

use super::ArchiveBench;
use crate::archive::Archive;
use crate::archive::ArchiveError;
use crate::archive::DocumentContent;
use crate::archive::GatedDraft;
use crate::archive::ModelKind;
use crate::archive::ModelVersion;
use crate::archive::SourceFileContent;
use crate::archive::Unit;
use crate::config::Adapters;
use crate::proposer::night_id;
use crate::rng;
use crate::rng::Rng;
use crate::rollout::Owner;
use crate::rollout::Rollout;
use crate::rollout::Score;
use crate::rollout::Step;
use crate::rollout::StopReason;
use crate::task::AnswerKind;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Passage;
use crate::task::Rejection;
use crate::task::Seed;
use crate::task::Split;
use crate::task::Task;
use crate::task::Verdict;

/// Tasks whose drafts, or whose rollouts, are one transaction.
const UNIT: u32 = 100;
/// Of so many drafts one is turned away.
const REJECTED: u32 = 5;
/// Tasks that rest on one passage, on average.
const TASKS_PER_PASSAGE: u32 = 10;
/// Passages of a document.
const PASSAGES: u32 = 8;
/// Different words.
const WORDS: f64 = 60_000.0;
/// Tokens that a rollout begins with, and that the model writes.
const TOKENS: [usize; 2] = [320, 12];

/// Units of tasks.
pub(super) fn units(settings: &ArchiveBench) -> u32 {
    settings.tasks.div_ceil(UNIT)
}

/// Makes units in turn.
pub(super) struct Generator {
    settings: ArchiveBench,
    passages: Vec<String>,
    next: u32,
    night: u32,
}

/// Some drafts and the rollouts of those that became tasks.
pub(super) struct MadeUnit {
    pub(super) first_task: u32,
    pub(super) drafts: Vec<GatedDraft>,
    rollouts: Vec<(Rollout, Score)>,
    night: u32,
    begins_night: bool,
}

/// A word: the commonest in every tenth place, like those of a language.
fn word(rng: &mut Rng) -> String {
    const SYLLABLES: [&str; 16] = [
        "an", "be", "co", "du", "el", "fi", "go", "ha", "in", "ju", "ka", "lo", "mi", "no", "or",
        "pe",
    ];
    const COMMON: [&str; 6] = ["the", "of", "in", "was", "which", "what"];
    // Uniform in the logarithm of the rank: Zipf's law.
    let rank = WORDS.powf(rng.random::<f64>()) as usize - 1;
    if let Some(common) = COMMON.get(rank) {
        return (*common).to_string();
    }
    let (mut rest, mut word) = (rank, String::new());
    while rest > 0 {
        word += SYLLABLES[rest % SYLLABLES.len()];
        rest /= SYLLABLES.len();
    }
    word
}

fn words(rng: &mut Rng, n: usize) -> String {
    (0..n).map(|_| word(rng)).collect::<Vec<_>>().join(" ")
}

impl Generator {
    pub(super) fn new(settings: &ArchiveBench) -> Self {
        Self { settings: *settings, passages: Vec::new(), next: 0, night: 0 }
    }

    /// Stores the corpus and the base model.
    pub(super) fn begin(&mut self, archive: &Archive) -> Result<(), ArchiveError> {
        let mut rng = rng::stream(self.settings.seed, &["corpus"]);
        let passages = (self.settings.tasks / TASKS_PER_PASSAGE).max(2 * PASSAGES);
        let documents = (0..passages / PASSAGES).map(|number| {
            let id = rng::content_id(&["document", &number.to_string()]);
            let title = words(&mut rng, 3);
            let passage = |ordinal| {
                let text = words(&mut rng, 60);
                let id = rng::content_id(&[&id, &text]);
                self.passages.push(id.clone());
                Passage {
                    id,
                    document_id: document_id(number),
                    title: title.clone(),
                    text,
                    ordinal,
                }
            };
            let passages = (0..PASSAGES).map(passage).collect();
            let split = if number % 10 == 9 { Split::Heldout } else { Split::Train };
            DocumentContent { id, title: title.clone(), split, passages }
        });
        let file = SourceFileContent {
            path: "generated.jsonl".into(),
            content_hash: "0".into(),
            skipped: None,
            documents: documents.collect(),
        };
        archive.sync_corpus(&[file], &[])?;
        archive.put_model_version(&version(0))?;
        archive.set_live_model(&version(0).id, "the first")
    }

    /// The next unit; none when all tasks are made.
    pub(super) fn next_unit(&mut self) -> Option<MadeUnit> {
        let first_task = self.next;
        if first_task >= self.settings.tasks {
            return None;
        }
        let night = first_task / super::NIGHT + 1;
        let begins_night = night != self.night;
        self.night = night;
        let tasks = UNIT.min(self.settings.tasks - first_task);
        self.next += tasks;
        let mut rng = rng::stream(self.settings.seed, &["unit", &first_task.to_string()]);
        let mut drafts = Vec::new();
        let mut rollouts = Vec::new();
        for number in first_task..first_task + tasks {
            if number % REJECTED == 0 {
                drafts.push(self.draft(&mut rng, night, &format!("rejected {number}"), false));
            }
            let accepted = self.draft(&mut rng, night, &format!("accepted {number}"), true);
            let chance = rng.random::<f64>();
            let prompt = tokens(&mut rng, TOKENS[0]);
            let id = accepted.draft.id.as_str();
            rollouts.extend(
                (0..self.settings.rollouts)
                    .map(|index| rollout(&mut rng, id, index, night, &prompt, chance)),
            );
            drafts.push(accepted);
        }
        Some(MadeUnit { first_task, drafts, rollouts, night, begins_night })
    }

    fn draft(&self, rng: &mut Rng, night: u32, name: &str, accepted: bool) -> GatedDraft {
        const KINDS: [AnswerKind; 4] = AnswerKind::ALL;
        const CHECKS: [&str; 6] = ["format", "length", "leak", "evidence", "duplicate", "rag"];
        // Fewer and fewer are made by code.
        let origin = match rng.random_range(0..night + 1) {
            0 => Origin::Code,
            _ => Origin::Model,
        };
        let hops = rng.random_range(1..=3_usize);
        let path: Vec<String> = (0..hops)
            .map(|_| self.passages[rng.random_range(0..self.passages.len())].clone())
            .collect();
        let seed = Seed {
            answer: words(rng, 2),
            kind: KINDS[rng.random_range(0..KINDS.len())],
            path: path.clone(),
        };
        let proposed_by = version(night - 1).id;
        let draft = Draft {
            id: night_id(night, &["draft", name]),
            origin,
            question: Some(format!("{}?", words(rng, 11))),
            transcript: (origin == Origin::Model).then(|| words(rng, 12)),
            model_version: if origin == Origin::Code { "code".into() } else { proposed_by },
            seed,
        };
        let rejection = Rejection::ALL[rng.random_range(0..Rejection::ALL.len())];
        let checks = if accepted { CHECKS.len() } else { 3 };
        let verdicts = (0..checks).map(|place| Verdict {
            check: CHECKS[place].into(),
            rejection: (!accepted && place + 1 == checks).then_some(rejection),
            required: true,
            evidence: json!({"score": rng.random_range(0..1000), "passages": hops}),
        });
        let verdicts = verdicts.collect();
        let task = accepted.then(|| Task {
            id: draft.id.clone(),
            origin,
            question: draft.question.clone().unwrap_or_default(),
            answer: draft.seed.answer.clone(),
            kind: draft.seed.kind,
            evidence: path,
            split: if rng.random_range(0..10) == 0 { Split::Heldout } else { Split::Train },
            night: Some(night),
        });
        GatedDraft { draft, verdicts, task, parents: Vec::new() }
    }
}

fn document_id(number: u32) -> String {
    rng::content_id(&["document", &number.to_string()])
}

/// The version that a night ends with; the base before the first.
fn version(night: u32) -> ModelVersion {
    let base = night == 0;
    ModelVersion {
        id: if base { "base".into() } else { format!("night{night}") },
        parent: match night {
            0 => None,
            1 => Some("base".into()),
            _ => Some(format!("night{}", night - 1)),
        },
        kind: if base { ModelKind::Base } else { ModelKind::Adapter },
        adapters: (!base).then_some(Adapters::Shared),
        path: format!("adapters/{night}"),
        content_hash: "0".into(),
        night: (!base).then_some(night),
        note: "generated".into(),
    }
}

fn tokens(rng: &mut Rng, n: usize) -> Vec<u32> {
    (0..n).map(|_| (49_152_f64.powf(rng.random::<f64>())) as u32).collect()
}

fn rollout(
    rng: &mut Rng,
    task_id: &str,
    index: u32,
    night: u32,
    prompt: &[u32],
    chance: f64,
) -> (Rollout, Score) {
    let solved = rng.random_bool(chance);
    let written = tokens(rng, TOKENS[1]);
    let rollout = Rollout {
        task_id: task_id.to_string(),
        index,
        model_version: version(night - 1).id,
        steps: vec![
            Step { owner: Owner::Tool, tokens: prompt.to_vec(), logprobs: Vec::new() },
            Step {
                owner: Owner::Model,
                logprobs: written.iter().map(|_| -rng.random::<f32>()).collect(),
                tokens: written,
            },
        ],
        queries: vec![words(rng, 8)],
        retrieved: (0..5).map(|place| rng::content_id(&[task_id, &place.to_string()])).collect(),
        answer: Some(words(rng, 2)),
        stop: StopReason::StopString,
        start: None,
    };
    let grade = f32::from(u8::from(solved));
    (rollout, Score { exact_match: grade, f1: grade, reward: grade })
}

impl MadeUnit {
    /// Writes it in two transactions, whose times it returns; the night is begun and the one before
    /// ended where it is the first of one.
    pub(super) fn write(&self, archive: &Archive) -> Result<[Duration; 2], ArchiveError> {
        if self.begins_night {
            if self.night > 1 {
                archive.put_model_version(&version(self.night - 1))?;
                archive.finish_night(self.night - 1, &json!({}))?;
            }
            archive.begin_night(u64::from(self.night), &json!({"generated": true}))?;
        }
        let key = self.first_task.to_string();
        let unit = |phase| Unit { night: self.night, phase, key: &key };
        let start = Instant::now();
        archive.record_drafts(&unit("propose"), &self.drafts)?;
        let drafts = start.elapsed();
        let start = Instant::now();
        let sampling = json!({"protocol": "scripted_search", "temperature": 1.0});
        archive.record_rollouts(&unit("solve/0"), 0, &sampling, &self.rollouts)?;
        Ok([drafts, start.elapsed()])
    }
}
