//! The one batch shape of the decoder: token spans laid end to end, without padding.
//!
//! A span attends to everything in its *past* and causally to itself. The past is another span of
//! the same batch, so that answers to one prompt share the prompt's tokens, and a group of rollouts
//! costs one prompt in training. (Generation's past lies in pages: [`super::runner`].)

use std::ops::Range;

/// What a span attends to before itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Past {
    /// Nothing: the span starts a sequence.
    None,
    /// All tokens of an earlier span of the same batch, which itself has no past.
    Span(usize),
}

/// A run of consecutive tokens of one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where its tokens lie in the batch.
    pub range: Range<usize>,
    /// What comes before them in their sequence.
    pub past: Past,
}

/// Token spans of several sequences, end to end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packed {
    /// Token ids, N of them.
    pub tokens: Vec<u32>,
    /// Position of each token in its own sequence (N).
    pub positions: Vec<u32>,
    /// The spans, in order; they cover the tokens exactly.
    pub spans: Vec<Span>,
}

impl Packed {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a span and returns its index.
    ///
    /// # Panics
    /// If `past` names a span that is not in the batch or has a past of its own: a caller's bug.
    pub fn push(&mut self, tokens: &[u32], past: Past) -> usize {
        let offset = match past {
            Past::None => 0,
            Past::Span(index) => {
                let parent = &self.spans[index];
                assert_eq!(parent.past, Past::None, "a shared prefix must start its sequence");
                parent.range.len()
            }
        };
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((0..tokens.len()).map(|i| (offset + i) as u32));
        self.spans.push(Span { range: start..start + tokens.len(), past });
        self.spans.len() - 1
    }

    /// Number of tokens N.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}
