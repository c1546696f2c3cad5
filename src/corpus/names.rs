//! Capitalised names in a sentence, found by their spelling alone.

use std::ops::Range;

/// Small words that stand inside names: "Treaty of the Pyrenees", "Ludwig van Beethoven".
const CONNECTORS: [&str; 21] = [
    "of", "the", "de", "van", "von", "der", "den", "la", "le", "du", "da", "di", "del", "della",
    "al", "bin", "ibn", "y", "dos", "des", "ten",
];

/// Capitalised words that are not names by themselves.
const NOT_NAMES: [&str; 24] = [
    "I",
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
    "BC",
    "BCE",
    "AD",
    "CE",
];

/// Words of nationality or belief that no ending gives away.
const ADJECTIVES: [&str; 16] = [
    "French",
    "Dutch",
    "Greek",
    "Swiss",
    "Czech",
    "Welsh",
    "Thai",
    "Roman",
    "Arab",
    "German",
    "Argentine",
    "Conservative",
    "Protestant",
    "Allied",
    "Labour",
    "Muslim",
];

/// Directions are part of a name, not one.
const DIRECTIONS: [&str; 9] =
    ["North", "South", "East", "West", "Northern", "Southern", "Eastern", "Western", "Central"];

/// Words whose possessive begins a name: "People's Republic", "King's College".
const OWNERS: [&str; 8] =
    ["People", "Women", "Men", "Children", "King", "Queen", "Valentine", "Lincoln"];

/// A longer quotation is a sentence, not the name of a work.
const QUOTED_WORDS_MAX: usize = 8;

/// A word of a sentence.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// Its place in the sentence, punctuation around it and a possessive ending left out.
    pub(super) range: Range<usize>,
    /// Punctuation stands before it.
    pub(super) opened: bool,
    /// Punctuation, a possessive ending or a dash stands after it.
    pub(super) closed: bool,
}

/// The words of a sentence; dashes and slashes part words, hyphens do not.
pub(super) fn tokens(sentence: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let is_break = |c: char| c.is_whitespace() || matches!(c, '–' | '—' | '/');
    let mut start = 0;
    for (at, c) in sentence.char_indices().chain([(sentence.len(), ' ')]) {
        if !is_break(c) {
            continue;
        }
        if let Some(token) = token(sentence, start..at, !c.is_whitespace()) {
            found.push(token);
        }
        start = at + c.len_utf8();
    }
    found
}

fn token(sentence: &str, range: Range<usize>, dash_after: bool) -> Option<Token> {
    let piece = &sentence[range.clone()];
    let core = piece.trim_start_matches(|c: char| !c.is_alphanumeric());
    let start = range.start + piece.len() - core.len();
    let mut word = core.trim_end_matches(|c: char| !c.is_alphanumeric());
    for possessive in ["'s", "’s"] {
        word = word.strip_suffix(possessive).unwrap_or(word);
    }
    if word.is_empty() {
        return None;
    }
    let mut after = &core[word.len()..];
    let possessive = after.strip_prefix("'s").or_else(|| after.strip_prefix("’s"));
    if let Some(rest) = possessive
        && OWNERS.contains(&word)
    {
        after = rest;
    }
    // The stop of an initial or a short title belongs to the name: "J. S. Bach", "St. Vincent".
    let abbreviates = after == "."
        && (word.chars().count() == 1 || matches!(word, "St" | "Mt" | "Dr" | "Jr" | "Ft" | "Sr"));
    let closed = dash_after || (!after.is_empty() && !abbreviates);
    Some(Token { range: start..start + word.len(), opened: start > range.start, closed })
}

/// Runs of capitalised words, with connectors and numbers inside. Words for which `is_taken` holds
/// end a run.
pub(super) fn runs(
    sentence: &str,
    tokens: &[Token],
    is_taken: impl Fn(&Range<usize>) -> bool,
) -> Vec<Range<usize>> {
    let word = |at: usize| &sentence[tokens[at].range.clone()];
    let free = |at: usize| at < tokens.len() && !is_taken(&tokens[at].range);
    let joined = |at: usize| free(at) && !tokens[at - 1].closed && !tokens[at].opened;
    let capital = |at: usize| word(at).chars().next().is_some_and(char::is_uppercase);
    let digits = |at: usize| word(at).len() <= 4 && word(at).bytes().all(|b| b.is_ascii_digit());
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if !free(at) || !capital(at) || NOT_NAMES.contains(&word(at)) {
            at += 1;
            continue;
        }
        let first = at;
        let mut last = at;
        loop {
            let mut next = last + 1;
            while next <= last + 2 && joined(next) && CONNECTORS.contains(&word(next)) {
                next += 1;
            }
            let continues = joined(next)
                && (capital(next) || (next == last + 1 && digits(next)))
                && !NOT_NAMES.contains(&word(next));
            if !continues {
                break;
            }
            last = next;
        }
        found.push(tokens[first].range.start..tokens[last].range.end);
        at = last + 1;
    }
    found
}

/// Whether a run, after trimming, is worth being an answer.
pub(super) fn is_name(sentence: &str, tokens: &[Token], run: &Range<usize>) -> bool {
    let text = &sentence[run.clone()];
    if !text.chars().next().is_some_and(char::is_uppercase) || text.chars().count() < 2 {
        return false;
    }
    let letters = text.chars().filter(|c| c.is_alphabetic()).count();
    let all_capitals = text.chars().all(|c| !c.is_lowercase());
    if letters < 3 && !(all_capitals && letters == 2) {
        return false;
    }
    if DIRECTIONS.contains(&text) {
        return false;
    }
    !is_adjective(sentence, tokens, run)
}

/// "French" in "French composer": words of nationality or belief before a noun in small letters.
pub(super) fn is_adjective(sentence: &str, tokens: &[Token], run: &Range<usize>) -> bool {
    let endings = ["ish", "ese", "ean", "ian", "ican", "ic", "an", "ist", "ous", "cal"];
    let describes = sentence[run.clone()].split(' ').all(|word| {
        ADJECTIVES.contains(&word) || endings.iter().any(|ending| word.ends_with(ending))
    });
    let position = tokens.iter().position(|token| token.range.end == run.end);
    let next = position.and_then(|at| Some((&tokens[at], tokens.get(at + 1)?)));
    let Some((last, next)) = next else { return false };
    let word = &sentence[next.range.clone()];
    let is_function = ["is", "was", "and", "or", "in", "as", "by", "for", "to", "are", "were"]
        .contains(&word)
        || CONNECTORS.contains(&word);
    describes
        && !last.closed
        && !next.opened
        && !is_function
        && word.chars().next().is_some_and(char::is_lowercase)
}

/// Short quotations that begin with a capital: names of works and sayings.
pub(super) fn quoted(sentence: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut open: Option<usize> = None;
    for (at, c) in sentence.char_indices() {
        match (c, open) {
            ('"', None) | ('“', _) => open = Some(at + c.len_utf8()),
            ('"' | '”', Some(start)) => {
                let inner = &sentence[start..at];
                let inner = inner.trim_end_matches([',', '.', '!', '?', ';']);
                let words = inner.split_whitespace().count();
                let capital = inner.chars().next().is_some_and(char::is_uppercase);
                if capital && (2..=QUOTED_WORDS_MAX).contains(&words) {
                    found.push(start..start + inner.len());
                }
                open = None;
            }
            _ => {}
        }
    }
    found
}
