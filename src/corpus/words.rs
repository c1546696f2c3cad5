//! White space and words: the one place that says what a word is when lengths are counted.

use unicode_normalization::UnicodeNormalization;

/// NFC, with every run of white space and control characters as one space.
pub(super) fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.nfc() {
        // Zero-width characters would make two words that look the same differ.
        if matches!(c, '\u{200b}' | '\u{feff}' | '\u{ad}') {
            continue;
        }
        if c.is_whitespace() || c.is_control() {
            if !out.is_empty() && !out.ends_with(' ') {
                out.push(' ');
            }
        } else {
            out.push(c);
        }
    }
    if out.ends_with(' ') {
        out.pop();
    }
    out
}

/// Like [`normalise`] within paragraphs, which blank lines part; the result has one a line.
pub(super) fn normalise_paragraphs(text: &str) -> String {
    let mut paragraphs: Vec<String> = Vec::new();
    let mut open: Vec<&str> = Vec::new();
    for line in text.lines().chain([""]) {
        if !line.trim().is_empty() {
            open.push(line);
            continue;
        }
        let paragraph = normalise(&open.join("\n"));
        if !paragraph.is_empty() {
            paragraphs.push(paragraph);
        }
        open.clear();
    }
    paragraphs.join("\n")
}

/// How many words `text` has: runs between white space. In scripts without spaces two characters
/// count as a word, so that such texts are cut into passages too.
pub(super) fn count(text: &str) -> usize {
    let unspaced = |c: &char| matches!(*c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}');
    text.split_whitespace().map(|word| (word.chars().filter(unspaced).count() / 2).max(1)).sum()
}
