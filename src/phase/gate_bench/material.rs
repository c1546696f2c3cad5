//! Questions of people with the passages that they rest on, and the drafts that are made of them.

use std::collections::HashMap;
use std::collections::HashSet;
use std::collections::VecDeque;
use std::path::Path;

use anyhow::Context as _;
use rand::seq::SliceRandom;
use serde::Deserialize;

use super::Corruption;
use super::GateBench;
use super::Posed;
use crate::answer;
use crate::corpus;
use crate::corpus::Miner;
use crate::phase::import::questions::kind_of;
use crate::retrieval::LexicalIndex;
use crate::rng;
use crate::rng::content_id;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Passage;
use crate::task::Seed;
use crate::verifier::Candidate;
use crate::verifier::Passages;

/// One half of the questions, by a hash of their ids: settings are chosen on one and measured on
/// the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The one.
    First,
    /// The other.
    Second,
}

impl Half {
    fn has(self, id: &str) -> bool {
        let first = rng::derive(0, &["half", id]).is_multiple_of(2);
        first == (self == Self::First)
    }
}

#[derive(Deserialize)]
struct Line {
    id: String,
    question: String,
    answers: Vec<String>,
    supporting: Vec<String>,
}

/// A question as it is drafted.
#[derive(Debug, Clone)]
pub(super) struct Drafted {
    pub(super) id: String,
    pub(super) question: String,
    pub(super) seed: Seed,
}

/// What drafts are made from.
pub(super) struct Material {
    pub(super) passages: Passages,
    /// Of the corpus' own passages, sorted.
    pub(super) ids: Vec<String>,
    pub(super) index: LexicalIndex,
    pub(super) miner: Miner,
    /// In an order drawn at random.
    pub(super) questions: Vec<Drafted>,
}

impl Material {
    pub(super) fn read(bench: &GateBench) -> anyhow::Result<Self> {
        let reading =
            corpus::read_paths(std::slice::from_ref(&bench.corpus), &HashMap::new(), &|_, _| {})?;
        for skipped in &reading.skipped {
            tracing::warn!(path = skipped.path, detail = skipped.detail, "left out of the corpus");
        }
        let mut passages: Vec<Passage> = Vec::new();
        let mut by_record: HashMap<String, Vec<Passage>> = HashMap::new();
        for document in &reading.documents {
            let own = corpus::split(document);
            passages.extend(own.iter().cloned());
            if let Some(record) = &document.record_id {
                by_record.insert(record.clone(), own);
            }
        }
        corpus::drop_duplicates(&mut passages, &HashSet::new());
        if passages.is_empty() {
            anyhow::bail!("{} holds no readable text", bench.corpus.display());
        }
        let mut questions = questions(&bench.questions, bench.half, &by_record)?;
        questions.shuffle(&mut rng::stream(bench.seed, &["questions"]));
        let mut ids: Vec<String> = passages.iter().map(|passage| passage.id.clone()).collect();
        ids.sort_unstable();
        Ok(Self {
            miner: Miner::new(&passages),
            index: LexicalIndex::in_memory(passages.iter().cloned())?,
            passages: passages.into_iter().map(|p| (p.id.clone(), p)).collect(),
            ids,
            questions,
        })
    }

    /// Half of the drafts as people wrote them, the other half of other questions and corrupted,
    /// in equal shares of each kind; in an order drawn at random.
    pub(super) fn draw(&mut self, bench: &GateBench) -> anyhow::Result<Vec<Posed>> {
        let kinds = Corruption::ALL.len();
        let each = (bench.drafts / 2).div_ceil(kinds).max(1);
        let mut left = VecDeque::from(std::mem::take(&mut self.questions));
        let clean = left.drain(..left.len().min(each * kinds));
        let mut posed: Vec<Posed> = clean.map(|drafted| posed(drafted, None, bench)).collect();
        let mut missing: Vec<(Corruption, usize)> =
            Corruption::ALL.map(|kind| (kind, each)).to_vec();
        while let Some(drafted) = left.pop_front().filter(|_| !missing.is_empty()) {
            // The kinds take turns; one that this question does not lend itself to waits.
            missing.rotate_left(1);
            let mut rng = rng::stream(bench.seed, &["corruption", &drafted.id]);
            let corrupted = missing.iter_mut().find_map(|(kind, n)| {
                let corrupted = kind.apply(&drafted, self, &mut left, &mut rng)?;
                *n -= 1;
                Some((corrupted, *kind))
            });
            if let Some((corrupted, kind)) = corrupted {
                posed.push(self::posed(corrupted, Some(kind), bench));
            }
            missing.retain(|(_, n)| *n > 0);
        }
        if !missing.is_empty() {
            anyhow::bail!(
                "{} holds too few questions for {} drafts: {} could be made",
                bench.questions.display(),
                2 * each * kinds,
                posed.len()
            );
        }
        posed.shuffle(&mut rng::stream(bench.seed, &["order"]));
        Ok(posed)
    }
}

fn posed(drafted: Drafted, corruption: Option<Corruption>, bench: &GateBench) -> Posed {
    let kind = corruption.map_or("clean", Corruption::as_str);
    let draft = Draft {
        id: content_id(&["bench", &drafted.id, kind]),
        origin: Origin::Model,
        seed: drafted.seed,
        transcript: Some(drafted.question.clone()),
        question: Some(drafted.question),
        model_version: "bench".to_string(),
    };
    let candidate = Candidate { model_decides: !bench.every_check, ..Candidate::new(draft) };
    Posed { candidate, corruption }
}

/// The questions of a file that a passage answers; the others, such as those with yes or no, are
/// left out.
fn questions(
    path: &Path,
    half: Option<Half>,
    by_record: &HashMap<String, Vec<Passage>>,
) -> anyhow::Result<Vec<Drafted>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the questions {}", path.display()))?;
    let mut all = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line: Line = serde_json::from_str(line).with_context(|| {
            format!(
                "{}, line {}: expected {{\"id\", \"question\", \"answers\": [...], \
                 \"supporting\": [record ids]}}",
                path.display(),
                index + 1
            )
        })?;
        if half.is_none_or(|half| half.has(&line.id)) {
            all.extend(drafted(line, by_record));
        }
    }
    if all.is_empty() {
        anyhow::bail!("no question of {} is answered by its passages", path.display());
    }
    Ok(all)
}

/// The question with its evidence: of each supporting record a passage, last the one that states
/// the answer.
fn drafted(line: Line, by_record: &HashMap<String, Vec<Passage>>) -> Option<Drafted> {
    let records: Vec<&Vec<Passage>> =
        line.supporting.iter().map(|record| by_record.get(record)).collect::<Option<_>>()?;
    let words = answer::question_key(&line.question);
    let words: Vec<&str> = words.split(' ').collect();
    let told = |passage: &&Passage| {
        words.iter().filter(|word| answer::contains(&passage.text, word)).count()
    };
    let stated = line.answers.iter().find_map(|answer| {
        let yes_or_no = ["yes", "no"].contains(&answer::normalise(answer).as_str());
        let states = |passage: &&Passage| answer::contains(&passage.text, answer);
        let holds = |(place, record): (usize, &&Vec<Passage>)| {
            Some((place, record.iter().filter(states).max_by_key(told)?.clone()))
        };
        let found = records.iter().enumerate().rev().find_map(holds).filter(|_| !yes_or_no);
        found.map(|(place, passage)| (place, passage, answer.clone()))
    });
    let (place, last, answer) = stated?;
    let others = records.iter().enumerate().filter(|(other, _)| *other != place);
    let mut path: Vec<String> = others
        .filter_map(|(_, record)| record.iter().max_by_key(told))
        .map(|passage| passage.id.clone())
        .collect();
    path.push(last.id.clone());
    let seed = Seed { kind: kind_of(&last, &answer), answer, path };
    Some(Drafted { id: line.id, question: line.question, seed })
}
