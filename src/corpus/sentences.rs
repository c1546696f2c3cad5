//! Sentence bounds: the Unicode rules (UAX 29), mended for abbreviations and initials.

use unicode_segmentation::UnicodeSegmentation;

/// After these a capital letter continues the sentence.
const ALWAYS: [&str; 51] = [
    "adm", "approx", "arch", "art", "b", "ca", "capt", "cf", "ch", "cmdr", "col", "d", "dr", "drs",
    "e.g", "ed", "eds", "eq", "esp", "fig", "figs", "fl", "fr", "gen", "gov", "hon", "i.e", "lt",
    "messrs", "mr", "mrs", "ms", "mt", "nos", "op", "p", "pp", "pres", "prof", "r", "rev", "sec",
    "sen", "sgt", "st", "ste", "v", "viz", "vol", "vs", "ft",
];

/// After these a capital letter may continue the sentence or begin another.
const PERHAPS: [&str; 31] = [
    "al", "aug", "ave", "bros", "c", "co", "corp", "dec", "dept", "est", "etc", "feb", "inc",
    "jan", "jr", "jul", "jun", "ltd", "mar", "no", "nov", "oct", "sep", "sept", "sr", "univ",
    "apr", "blvd", "rd", "a.m", "p.m",
];

/// Words that begin sentences far more often than they continue a name.
const STARTERS: [&str; 61] = [
    "a",
    "after",
    "all",
    "although",
    "an",
    "and",
    "another",
    "as",
    "at",
    "because",
    "before",
    "both",
    "but",
    "by",
    "during",
    "each",
    "early",
    "following",
    "for",
    "from",
    "he",
    "her",
    "his",
    "however",
    "i",
    "if",
    "in",
    "it",
    "its",
    "later",
    "many",
    "modern",
    "most",
    "much",
    "of",
    "on",
    "one",
    "other",
    "our",
    "several",
    "she",
    "since",
    "some",
    "such",
    "that",
    "the",
    "their",
    "there",
    "these",
    "they",
    "this",
    "those",
    "though",
    "through",
    "today",
    "under",
    "we",
    "when",
    "while",
    "with",
    "you",
];

/// Whether a word, in small letters, often begins a sentence.
pub(super) fn is_starter(word: &str) -> bool {
    STARTERS.contains(&word)
}

/// The sentences of `text`, in order, without the white space around them. A line break ends a
/// sentence: text comes here with one paragraph a line.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    for line in text.lines() {
        let mut start = 0;
        let mut end = 0;
        for piece in line.split_sentence_bounds() {
            let next = end + piece.len();
            if end > start && !continues(&line[start..end], piece) {
                found.push(&line[start..end]);
                start = end;
            }
            end = next;
        }
        found.push(&line[start..end]);
    }
    found.iter().map(|sentence| sentence.trim()).filter(|sentence| !sentence.is_empty()).collect()
}

/// Whether `next` goes on with the sentence that `before` seems to end.
fn continues(before: &str, next: &str) -> bool {
    let touching = !before.ends_with(char::is_whitespace);
    let before = before.trim_end();
    // Only ideographic stops end a sentence with no space after them.
    if touching && !before.ends_with(['。', '！', '？']) {
        return true;
    }
    let next = next.trim_start();
    let Some(first) = next.chars().next() else { return true };
    // A closing bracket or quotation mark alone, or a clause in small letters.
    if first.is_lowercase() || matches!(first, ',' | ';' | ')' | ']' | '”' | '’') {
        return true;
    }
    // A bracket opened in this sentence is still open, and not for long.
    if open_brackets(before) > 0 && open_brackets(next) < 0 {
        return true;
    }
    let Some(stem) = before.strip_suffix('.') else { return false };
    let word = stem.rsplit(|c: char| c.is_whitespace() || "([\"“‘—–/".contains(c)).next();
    let word = word.unwrap_or_default();
    let lower = word.to_lowercase();
    if ALWAYS.contains(&lower.as_str()) && !(word.len() == 1 && word == word.to_uppercase()) {
        return true;
    }
    let next_word: String = next.chars().take_while(|c| c.is_alphanumeric()).collect();
    let starts_anew = is_starter(&next_word.to_lowercase());
    if starts_anew {
        return false;
    }
    is_initial(word) || PERHAPS.contains(&lower.as_str())
}

/// `J` in "J. Smith", `U.S` in "U.S. Army", but not the `II` of "World War II."
fn is_initial(word: &str) -> bool {
    !word.is_empty()
        && word.split(['.', '-']).all(|part| {
            let mut letters = part.chars();
            letters.next().is_some_and(char::is_uppercase) && letters.next().is_none()
        })
}

fn open_brackets(text: &str) -> i32 {
    text.chars().fold(0, |open, c| match c {
        '(' | '[' => open + 1,
        ')' | ']' => open - 1,
        _ => open,
    })
}
