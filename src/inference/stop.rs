//! When a continuation ends: end-of-text tokens and stop strings, as the text grows.

use crate::model::tokenizer::Tokenizer;
use crate::rollout::StopReason;

/// Follows one continuation, token by token, and says when its text ends.
///
/// After every token the text is what decoding all tokens at once gives, and a stop string is found
/// where a search through all of it finds one; but a token costs only as much as it adds. That is
/// so for byte-level vocabularies, whose texts are their tokens' bytes end to end: the text up to
/// the last whole character is final. (The tokenizers crate's own stream waits with the text for
/// the next whole character, for ever after a byte that belongs to none.) Other decoders can change
/// what they have said, so there every token decodes all.
#[derive(Debug, Clone)]
pub struct StopMatcher {
    stop: Vec<String>,
    stop_tokens: Vec<u32>,
    /// The text so far; unfinished bytes at its end are one U+FFFD.
    text: String,
    /// Bytes of it that no later token changes.
    settled: usize,
    /// First bytes of an unfinished character: at most three.
    unfinished: Vec<u8>,
    /// All tokens, where the decoder is not byte-level.
    tokens: Vec<u32>,
}

impl StopMatcher {
    /// A matcher for a continuation that ends with one of `stop` in its text, with one of
    /// `stop_tokens`, or with one of the model's own end-of-text tokens.
    pub fn new(stop: &[String], stop_tokens: &[u32]) -> Self {
        Self {
            stop: stop.to_vec(),
            stop_tokens: stop_tokens.to_vec(),
            text: String::new(),
            settled: 0,
            unfinished: Vec::new(),
            tokens: Vec::new(),
        }
    }

    /// Takes the next token; the reason where the continuation ends with it.
    ///
    /// A token that ends it is [`StopReason::EndOfText`] whether the model or the request named it,
    /// and is not part of the text, even where its spelling contains a stop string. Of several stop
    /// strings the one that begins first cuts the text.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Option<StopReason> {
        if tokenizer.is_end(token) || self.stop_tokens.contains(&token) {
            return Some(StopReason::EndOfText);
        }
        // Where nothing stopped before, a stop string ends in what is new.
        let known = match tokenizer.token_bytes(token) {
            Some(bytes) => self.append(&bytes),
            None => {
                self.tokens.push(token);
                self.text = tokenizer.decode(&self.tokens);
                0
            }
        };
        let first = |stop: &String| {
            let from = (known + 1).saturating_sub(stop.len()).min(known);
            let from = self.text.floor_char_boundary(from);
            self.text[from..].find(stop.as_str()).map(|at| from + at)
        };
        let cut = self.stop.iter().filter_map(first).min()?;
        self.text.truncate(cut);
        Some(StopReason::StopString)
    }

    /// The text so far, or up to and without what ended it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// As [`Self::text`].
    pub fn into_text(self) -> String {
        self.text
    }

    /// Adds bytes to the text; returns how many bytes of it were settled before.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let before = self.settled;
        self.text.truncate(before);
        self.unfinished.extend_from_slice(bytes);
        let bytes = std::mem::take(&mut self.unfinished);
        let mut left = bytes.len();
        for chunk in bytes.utf8_chunks() {
            let (valid, invalid) = (chunk.valid(), chunk.invalid());
            left -= valid.len() + invalid.len();
            self.text.push_str(valid);
            self.settled = self.text.len();
            let Err(error) = std::str::from_utf8(invalid) else { continue };
            self.text.push(char::REPLACEMENT_CHARACTER);
            // The end of all bytes came before the end of the character.
            match left == 0 && error.error_len().is_none() {
                true => self.unfinished = invalid.to_vec(),
                false => self.settled = self.text.len(),
            }
        }
        before
    }
}
