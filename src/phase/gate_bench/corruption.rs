//! Ways in which a draft is made bad.

use std::collections::VecDeque;
use std::ops::Range;

use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use serde::Serialize;

use super::material::Drafted;
use super::material::Material;
use crate::answer;
use crate::corpus;
use crate::retrieval::Retriever as _;
use crate::rng::Rng;
use crate::task::AnswerKind;
use crate::task::Passage;

/// Passages looked at for one that resembles the evidence and does not state the answer.
const HITS: usize = 10;

/// How an answer comes into a question.
const LEAKS: [&str; 4] = [
    "{question}, {answer} or something else?",
    "Considering {answer}, {question}?",
    "{question}, as in the case of {answer}?",
    "Is it {answer}, or {question}?",
];

/// How a draft was made bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Corruption {
    /// Its answer is something else of the same kind from the same passage.
    AnswerSwapped,
    /// It rests on a passage that does not state the answer, or the sentence that does is cut out.
    EvidenceRemoved,
    /// Its question is that of another passage.
    QuestionOfAnotherPassage,
    /// Its question says the answer.
    Leak,
    /// The names in its question are pronouns.
    Ambiguous,
}

impl Corruption {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::AnswerSwapped,
        Self::EvidenceRemoved,
        Self::QuestionOfAnotherPassage,
        Self::Leak,
        Self::Ambiguous,
    ];

    /// The name used in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AnswerSwapped => "answer_swapped",
            Self::EvidenceRemoved => "evidence_removed",
            Self::QuestionOfAnotherPassage => "question_of_another_passage",
            Self::Leak => "leak",
            Self::Ambiguous => "ambiguous",
        }
    }

    /// The question made bad; none where it does not lend itself to this. A passage that it needs
    /// is added to those of the material, a question that it takes is taken from the `others`.
    pub(super) fn apply(
        self,
        drafted: &Drafted,
        material: &mut Material,
        others: &mut VecDeque<Drafted>,
        rng: &mut Rng,
    ) -> Option<Drafted> {
        let mut corrupted = drafted.clone();
        match self {
            Self::AnswerSwapped => {
                corrupted.seed.answer = other_answer(drafted, material, rng)?;
            }
            Self::EvidenceRemoved => {
                let last = corrupted.seed.path.last_mut()?;
                *last = match rng.random() {
                    true => unstating(drafted, material)?,
                    false => without_the_sentence(drafted, material)?,
                };
            }
            Self::QuestionOfAnotherPassage => {
                let differs = |other: &Drafted| {
                    let (own, its) = (&drafted.seed, &other.seed);
                    answer::f1(&own.answer, &its.answer) == 0.0
                        && own.path.iter().all(|id| !its.path.contains(id))
                        && !answer::contains(&other.question, &own.answer)
                };
                let at = others.iter().rposition(differs)?;
                corrupted.question = others.remove(at)?.question;
            }
            Self::Leak => {
                let stem = drafted.question.trim_end_matches(['?', ' ']);
                let template = LEAKS.choose(rng)?;
                corrupted.question =
                    template.replace("{question}", stem).replace("{answer}", &drafted.seed.answer);
            }
            Self::Ambiguous => corrupted.question = vague(&drafted.question, material)?,
        }
        Some(corrupted)
    }
}

/// Something else of the same kind that the last passage states and the question does not.
fn other_answer(drafted: &Drafted, material: &Material, rng: &mut Rng) -> Option<String> {
    let passage = material.passages.get(drafted.seed.path.last()?)?;
    let seed = &drafted.seed;
    let candidates = material.miner.mine(passage);
    let others: Vec<&str> = candidates
        .iter()
        .filter(|candidate| candidate.kind == seed.kind)
        .map(|candidate| candidate.text.as_str())
        .filter(|text| answer::f1(text, &seed.answer) == 0.0)
        .filter(|text| !answer::contains(&drafted.question, text))
        .collect();
    others.choose(rng).map(|text| (*text).to_string())
}

/// The best passage for the question that does not state the answer.
fn unstating(drafted: &Drafted, material: &Material) -> Option<String> {
    let seed = &drafted.seed;
    let hits = material.index.search(&drafted.question, HITS).ok()?;
    let other = hits.into_iter().map(|hit| hit.passage).find(|passage| {
        !seed.path.contains(&passage.id) && !answer::contains(&passage.text, &seed.answer)
    });
    other.map(|passage| passage.id)
}

/// The last passage without the first sentence that states the answer.
fn without_the_sentence(drafted: &Drafted, material: &mut Material) -> Option<String> {
    let passage = material.passages.get(drafted.seed.path.last()?)?;
    let mut sentences = corpus::sentences(&passage.text);
    let states = |sentence: &&str| answer::contains(sentence, &drafted.seed.answer);
    let at = sentences.iter().position(states)?;
    sentences.remove(at);
    let text = sentences.iter().map(|sentence| sentence.trim()).collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        return None;
    }
    let id = corpus::passage_id(&passage.title, &text);
    let cut = Passage { id: id.clone(), text, ..passage.clone() };
    material.passages.insert(id.clone(), cut);
    Some(id)
}

/// The question with pronouns for its names; none where it names nothing.
fn vague(question: &str, material: &Material) -> Option<String> {
    let asked = Passage {
        id: String::new(),
        document_id: String::new(),
        title: String::new(),
        text: question.to_string(),
        ordinal: 0,
    };
    let named = material.miner.mine(&asked).into_iter();
    let named = named.filter(|one| matches!(one.kind, AnswerKind::Name | AnswerKind::Title));
    let mut text = question.to_string();
    let mut any = false;
    // From the end, so that places before it stay.
    for one in named.collect::<Vec<_>>().into_iter().rev() {
        let (range, possessive) = widened(question, one.start..one.end);
        text.replace_range(range, if possessive { "its" } else { "it" });
        any = true;
    }
    any.then_some(text)
}

/// The place of a name with the article before it and the possessive behind it, and whether there
/// was one.
fn widened(question: &str, name: Range<usize>) -> (Range<usize>, bool) {
    let before = question[..name.start].to_lowercase();
    let article = ["the ", "a ", "an "].iter().find(|article| before.ends_with(**article));
    let start = name.start - article.map_or(0, |article| article.len());
    let behind = &question[name.end..];
    let possessive = ["'s", "’s"].iter().find(|suffix| behind.starts_with(**suffix));
    let end = name.end + possessive.map_or(0, |suffix| suffix.len());
    (start..end, possessive.is_some())
}
