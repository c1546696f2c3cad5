//! Documents become passages: whole sentences, about 100 words, none of them tiny.

use std::collections::HashSet;

use crate::corpus::reading::Document;
use crate::corpus::sentences::sentences;
use crate::corpus::words;
use crate::rng::content_id;
use crate::task::Passage;

/// The length aimed at: that of the passages of the open-domain benchmarks (Karpukhin et al. 2020,
/// arXiv 2004.04906), and four of them fit a small model's prompt.
pub const TARGET_WORDS: usize = 100;

/// A longer sentence is cut, since it would not fit beside its neighbours.
pub const SENTENCE_LIMIT_WORDS: usize = 200;

/// Longer runs of sentences are not considered as one passage; they would cost more than two.
const PASSAGE_LIMIT_WORDS: usize = 2 * SENTENCE_LIMIT_WORDS;

/// Cuts a document into passages at sentence ends. Every word of the document is in one passage, in
/// order. The cut is the one that minimises the summed squared distance from [`TARGET_WORDS`], so
/// 130 words stay together, 200 become two equal halves, and no tiny rest is left over.
pub fn split(document: &Document) -> Vec<Passage> {
    let title = words::normalise(&document.title);
    let text = words::normalise_paragraphs(&document.text);
    let pieces: Vec<String> = sentences(&text).into_iter().flat_map(shorten).collect();
    let ends = best_cuts(&pieces.iter().map(|piece| words::count(piece)).collect::<Vec<_>>());
    let mut start = 0;
    let mut passages = Vec::with_capacity(ends.len());
    for (ordinal, end) in ends.into_iter().enumerate() {
        let text = pieces[start..end].join(" ");
        passages.push(Passage {
            id: passage_id(&title, &text),
            document_id: document.id.clone(),
            title: title.clone(),
            text,
            ordinal: u32::try_from(ordinal).unwrap_or(u32::MAX),
        });
        start = end;
    }
    passages
}

/// The id of a passage: the same title and words have the same id on every machine.
pub fn passage_id(title: &str, text: &str) -> String {
    content_id(&[title, text])
}

/// Drops passages whose title and text were seen before, `known` ids included, and says how many.
/// The first of several is kept.
pub fn drop_duplicates(passages: &mut Vec<Passage>, known: &HashSet<String>) -> usize {
    let before = passages.len();
    let mut seen: HashSet<String> = HashSet::with_capacity(before);
    passages.retain(|passage| !known.contains(&passage.id) && seen.insert(passage.id.clone()));
    before - passages.len()
}

/// A sentence as it is, or in about equal parts when it is longer than the limit.
fn shorten(sentence: &str) -> Vec<String> {
    let words: Vec<&str> = sentence.split_whitespace().collect();
    if words.len() <= SENTENCE_LIMIT_WORDS {
        return vec![words.join(" ")];
    }
    let parts = words.len().div_ceil(TARGET_WORDS);
    words.chunks(words.len().div_ceil(parts)).map(|part| part.join(" ")).collect()
}

/// The ends of the best consecutive groups of pieces of these lengths, by dynamic programming.
fn best_cuts(lengths: &[usize]) -> Vec<usize> {
    // cost[end] is the least cost of grouping the pieces before `end`; from[end] where the last
    // group of that grouping starts.
    let mut cost = vec![0u64; lengths.len() + 1];
    let mut from = vec![0usize; lengths.len() + 1];
    for end in 1..=lengths.len() {
        let mut best: Option<(u64, usize)> = None;
        let mut words = 0;
        for start in (0..end).rev() {
            words += lengths[start];
            if words > PASSAGE_LIMIT_WORDS && start + 1 < end {
                break;
            }
            let distance = words.abs_diff(TARGET_WORDS) as u64;
            let total = cost[start] + distance * distance;
            if best.is_none_or(|(least, _)| total < least) {
                best = Some((total, start));
            }
        }
        (cost[end], from[end]) = best.unwrap_or((cost[end - 1], end - 1));
    }
    let mut ends = Vec::new();
    let mut end = lengths.len();
    while end > 0 {
        ends.push(end);
        end = from[end];
    }
    ends.reverse();
    ends
}
