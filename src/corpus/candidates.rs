//! Answer candidates: dates, names, titles and numbers with the place where they stand.

use std::collections::HashMap;
use std::ops::Range;

use serde::Deserialize;
use serde::Serialize;

use crate::corpus::names;
use crate::corpus::names::Token;
use crate::corpus::quantities;
use crate::corpus::sentences::is_starter;
use crate::corpus::sentences::sentences;
use crate::corpus::titles::Titles;
use crate::task::AnswerKind;
use crate::task::Passage;

/// A word used more often than this, or in more than one of 500 passages, is everyday language
/// even when an article has it as its title: "system", "father", "second".
const TERM_USES_MAX: usize = 8;
const PASSAGES_PER_TERM_USE: usize = 500;

/// Something in a passage that could be the answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// The words as they stand in the passage.
    pub text: String,
    /// What sort of thing it is.
    pub kind: AnswerKind,
    /// The passage.
    pub passage_id: String,
    /// Where `text` begins in the passage's text, in bytes.
    pub start: usize,
    /// Where it ends, in bytes.
    pub end: usize,
    /// Which of the passage's [`sentences`] it is in, from 0.
    pub sentence: u32,
}

impl Candidate {
    /// What two mentions of the same thing have in common: the words in small letters, without
    /// an article before them.
    pub fn key(&self) -> String {
        key_of(&self.text)
    }
}

/// See [`Candidate::key`].
pub(super) fn key_of(text: &str) -> String {
    let lower = text.to_lowercase();
    match lower.strip_prefix("the ") {
        Some(rest) => rest.to_string(),
        None => lower,
    }
}

/// Finds candidates. It knows the corpus: which words are written small elsewhere, so are not names
/// just because they begin a sentence, and which titles there are to be mentioned.
#[derive(Debug)]
pub struct Miner {
    /// How often a word is written (small, with a capital inside a sentence).
    spellings: HashMap<String, (u32, u32)>,
    titles: Titles,
    /// How many passages the corpus has.
    passages: usize,
    patterns: quantities::Patterns,
}

impl Miner {
    /// A miner for these passages.
    pub fn new<'a>(passages: impl IntoIterator<Item = &'a Passage>) -> Self {
        let mut miner = Self {
            spellings: HashMap::new(),
            titles: Titles::new(),
            passages: 0,
            patterns: quantities::Patterns::new(),
        };
        let mut last_title = "";
        for passage in passages {
            miner.passages += 1;
            miner.count_spellings(&passage.text);
            if passage.title != last_title {
                miner.titles.add(&passage.title);
                last_title = &passage.title;
            }
        }
        miner
    }

    fn count_spellings(&mut self, text: &str) {
        for sentence in sentences(text) {
            for (index, token) in names::tokens(sentence).iter().enumerate() {
                let word = &sentence[token.range.clone()];
                let Some(first) = word.chars().next() else { continue };
                if first.is_lowercase() {
                    self.spellings.entry(word.to_string()).or_default().0 += 1;
                } else if first.is_uppercase() && index > 0 && !token.opened {
                    self.spellings.entry(word.to_lowercase()).or_default().1 += 1;
                }
            }
        }
    }

    /// Whether a word that begins a sentence is there for its own sake and not part of a name.
    fn is_common(&self, word: &str) -> bool {
        let lower = word.to_lowercase();
        let (small, capital) = self.spellings.get(&lower).copied().unwrap_or_default();
        is_starter(&lower) || small > capital
    }

    /// Whether a title written small is used as an everyday word.
    fn is_everyday(&self, words: &[&str]) -> bool {
        let uses = |word: &str| self.spellings.get(word).map_or(0, |(small, _)| *small);
        let limit = TERM_USES_MAX.max(self.passages / PASSAGES_PER_TERM_USE);
        words.len() == 1 && uses(words[0]) as usize > limit
    }

    /// The candidates of one passage, in text order; no two of them overlap.
    pub fn mine(&self, passage: &Passage) -> Vec<Candidate> {
        let mut found = Vec::new();
        let base = passage.text.as_ptr() as usize;
        for (index, sentence) in sentences(&passage.text).into_iter().enumerate() {
            let offset = sentence.as_ptr() as usize - base;
            for (range, kind) in self.mine_sentence(sentence, &passage.title) {
                found.push(Candidate {
                    text: sentence[range.clone()].to_string(),
                    kind,
                    passage_id: passage.id.clone(),
                    start: offset + range.start,
                    end: offset + range.end,
                    sentence: u32::try_from(index).unwrap_or(u32::MAX),
                });
            }
        }
        found
    }

    /// What sort of thing an answer is that was written: what all of it reads as, or else a name.
    pub fn kind_of(&self, answer: &str) -> AnswerKind {
        let mut mined = self.mine_sentence(answer, "").into_iter();
        let whole = mined.find(|(range, _)| *range == (0..answer.len()));
        whole.map_or(AnswerKind::Name, |(_, kind)| kind)
    }

    fn mine_sentence(&self, sentence: &str, own_title: &str) -> Vec<(Range<usize>, AnswerKind)> {
        let mut taken: Vec<(Range<usize>, AnswerKind)> = Vec::new();
        let tokens = names::tokens(sentence);
        let titles = self.titles_in(sentence, &tokens, own_title);
        // "2001: A Space Odyssey" is not a date, though its first word alone would be.
        for range in &titles {
            let text = &sentence[range.clone()];
            if text.contains(' ') && text.bytes().any(|byte| byte.is_ascii_digit()) {
                taken.push((range.clone(), AnswerKind::Title));
            }
        }
        for range in self.patterns.dates(sentence) {
            if !overlaps(&taken, &range) {
                taken.push((range, AnswerKind::Date));
            }
        }
        let quoted = names::quoted(sentence);
        let mut runs = names::runs(sentence, &tokens, |range| overlaps(&taken, range));
        for run in &mut runs {
            self.trim_start(sentence, &tokens, run);
        }
        runs.retain(|run| names::is_name(sentence, &tokens, run));
        let titles = titles.into_iter().filter(|title| {
            let name = sentence[title.clone()].chars().next().is_some_and(char::is_uppercase);
            if name && names::is_adjective(sentence, &tokens, title) {
                return false;
            }
            let reaches_out = |run: &Range<usize>| {
                run.start < title.end
                    && title.start < run.end
                    && (run.start < title.start || run.end > title.end)
            };
            !runs.iter().any(reaches_out)
        });
        // What comes first takes the place: a title before a quotation before a plain name.
        let claims = titles
            .map(|range| (range, AnswerKind::Title))
            .chain(quoted.into_iter().map(|range| (range, AnswerKind::Name)))
            .chain(runs.iter().cloned().map(|range| (range, AnswerKind::Name)))
            .chain(self.patterns.numbers(sentence).into_iter().map(|r| (r, AnswerKind::Number)))
            .collect::<Vec<_>>();
        for (range, kind) in claims {
            if !overlaps(&taken, &range) {
                taken.push((range, kind));
            }
        }
        taken.sort_by_key(|(range, _)| range.start);
        taken
    }

    /// Cuts a common word and the connectors after it from a run at the start of its sentence.
    fn trim_start(&self, sentence: &str, tokens: &[Token], run: &mut Range<usize>) {
        let inside = |token: &&Token| run.contains(&token.range.start);
        let words: Vec<&Token> = tokens.iter().filter(inside).collect();
        let at_start = tokens.first().is_some_and(|first| first.range.start == run.start);
        let Some(first) = words.first() else { return };
        if !at_start || !self.is_common(&sentence[first.range.clone()]) {
            return;
        }
        let capital = |token: &&&Token| {
            sentence[token.range.clone()].chars().next().is_some_and(char::is_uppercase)
        };
        run.start = words[1..].iter().find(capital).map_or(run.end, |token| token.range.start);
    }

    fn titles_in(&self, sentence: &str, tokens: &[Token], own_title: &str) -> Vec<Range<usize>> {
        let own = own_title.to_lowercase();
        self.titles.mentions(sentence, tokens, |words, at, term| {
            // A single common word with the sentence's capital is no mention of a title.
            let only_a_start = at == 0 && words.len() == 1 && self.is_common(words[0]);
            let everyday = term && self.is_everyday(words) && words.join(" ") != own;
            !only_a_start && !everyday
        })
    }
}

fn overlaps(taken: &[(Range<usize>, AnswerKind)], range: &Range<usize>) -> bool {
    taken.iter().any(|(other, _)| other.start < range.end && range.start < other.end)
}
