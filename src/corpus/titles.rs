//! The titles of a corpus, and their mentions in sentences.

use std::collections::HashMap;
use std::ops::Range;

use regex::Regex;

use crate::corpus::names;
use crate::corpus::names::Token;

/// A title mentioned in small letters is a term only when it is long enough to be a particular one.
const TERM_LETTERS_MIN: usize = 6;

/// Shorter titles are not looked for: a letter is a title in some glossaries, and it is everywhere.
const TITLE_LETTERS_MIN: usize = 3;

/// Titles, ready to be looked up by their words.
#[derive(Debug)]
pub(super) struct Titles {
    /// A title's words, parted by single spaces, and whether this spelling is that of a term, with
    /// a small first letter.
    spellings: HashMap<String, bool>,
    /// By first word, in how many words titles come; longest first.
    lengths: HashMap<String, Vec<usize>>,
    brackets: Option<Regex>,
}

impl Titles {
    pub(super) fn new() -> Self {
        Self {
            spellings: HashMap::new(),
            lengths: HashMap::new(),
            brackets: Regex::new(r"\s*\([^)]*\)\s*$").ok(),
        }
    }

    /// Adds a title; "Mercury (planet)" is looked for as "Mercury".
    pub(super) fn add(&mut self, title: &str) {
        let plain = match &self.brackets {
            Some(brackets) => brackets.replace(title, "").into_owned(),
            None => title.to_string(),
        };
        let words: Vec<&str> =
            names::tokens(&plain).iter().map(|token| &plain[token.range.clone()]).collect();
        let letters = words.iter().flat_map(|word| word.chars()).count();
        let Some(first) = words.first() else { return };
        if letters < TITLE_LETTERS_MIN {
            return;
        }
        let joined = words.join(" ");
        let small: String = first.to_lowercase();
        if *first != small {
            self.insert(first, joined.clone(), words.len(), false);
        }
        if letters >= TERM_LETTERS_MIN && !first.starts_with(|c: char| c.is_ascii_digit()) {
            let term = format!("{small}{}", &joined[first.len()..]);
            self.insert(&small, term, words.len(), true);
        } else if *first == small && first.starts_with(|c: char| c.is_ascii_digit()) {
            self.insert(first, joined, words.len(), false);
        }
    }

    fn insert(&mut self, first: &str, spelling: String, words: usize, term: bool) {
        self.spellings.entry(spelling).and_modify(|known| *known &= term).or_insert(term);
        let lengths = self.lengths.entry(first.to_string()).or_default();
        if let Err(at) = lengths.binary_search_by(|length| words.cmp(length)) {
            lengths.insert(at, words);
        }
    }

    /// Mentions of titles, word for word, the longest first; they do not overlap. `is_wanted` is
    /// asked with the mention's words, the index of its first token, and whether it is a term.
    pub(super) fn mentions(
        &self,
        sentence: &str,
        tokens: &[Token],
        is_wanted: impl Fn(&[&str], usize, bool) -> bool,
    ) -> Vec<Range<usize>> {
        let words: Vec<&str> = tokens.iter().map(|token| &sentence[token.range.clone()]).collect();
        let mut found = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let lengths = self.lengths.get(words[at]).into_iter().flatten();
            let hit = lengths.copied().find(|length| {
                let Some(mention) = words.get(at..at + length) else { return false };
                let term = self.spellings.get(&mention.join(" "));
                term.is_some_and(|term| is_wanted(mention, at, *term))
            });
            if let Some(length) = hit {
                found.push(tokens[at].range.start..tokens[at + length - 1].range.end);
            }
            at += hit.unwrap_or(1);
        }
        found
    }
}
