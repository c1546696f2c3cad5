//! Which tokens may be chosen.

use serde::Deserialize;
use serde::Serialize;

use super::SamplingError;
use super::row::BLOCK;

/// The tokens that may be chosen, as a set of bits; at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogitMask {
    vocabulary: usize,
    /// Bit i of word w: token 64 w + i. None beyond the vocabulary is set.
    words: Vec<u64>,
}

// A word of the mask covers a block of a row.
const _: () = assert!(BLOCK == u64::BITS as usize);

/// A shared mask on its way to another process.
pub(in crate::inference) mod shared_mask {
    use std::sync::Arc;

    use serde::Deserialize as _;
    use serde::Deserializer;
    use serde::Serialize as _;
    use serde::Serializer;

    use super::LogitMask;

    pub(crate) fn serialize<S: Serializer>(
        mask: &Option<Arc<LogitMask>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        mask.as_deref().serialize(to)
    }

    pub(crate) fn deserialize<'d, D: Deserializer<'d>>(
        from: D,
    ) -> Result<Option<Arc<LogitMask>>, D::Error> {
        Ok(Option::<LogitMask>::deserialize(from)?.map(Arc::new))
    }
}

impl LogitMask {
    /// Allows `tokens` of a vocabulary of the given size and no others. Ids outside the vocabulary
    /// mean nothing.
    ///
    /// # Errors
    /// When none is allowed.
    pub fn allow(vocabulary: usize, tokens: &[u32]) -> Result<Self, SamplingError> {
        let mut words = vec![0_u64; vocabulary.div_ceil(BLOCK)];
        for id in tokens.iter().map(|token| *token as usize).filter(|id| *id < vocabulary) {
            words[id / BLOCK] |= 1 << (id % BLOCK);
        }
        Self::of_words(vocabulary, words)
    }

    /// Allows all tokens of a vocabulary of the given size but `tokens`.
    ///
    /// # Errors
    /// When none is left.
    pub fn forbid(vocabulary: usize, tokens: &[u32]) -> Result<Self, SamplingError> {
        let mut words = vec![u64::MAX; vocabulary.div_ceil(BLOCK)];
        if let (Some(last), used @ 1..) = (words.last_mut(), vocabulary % BLOCK) {
            *last >>= BLOCK - used;
        }
        for id in tokens.iter().map(|token| *token as usize).filter(|id| *id < vocabulary) {
            words[id / BLOCK] &= !(1 << (id % BLOCK));
        }
        Self::of_words(vocabulary, words)
    }

    fn of_words(vocabulary: usize, words: Vec<u64>) -> Result<Self, SamplingError> {
        if words.iter().all(|word| *word == 0) {
            return Err(SamplingError::NothingAllowed { vocabulary });
        }
        Ok(Self { vocabulary, words })
    }

    /// Whether `token` may be chosen.
    pub fn allows(&self, token: u32) -> bool {
        let id = token as usize;
        self.words.get(id / BLOCK).is_some_and(|word| word >> (id % BLOCK) & 1 == 1)
    }

    /// Tokens of the vocabulary it is about.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// That it is about a vocabulary of the given size.
    ///
    /// # Errors
    /// When it is about another.
    pub fn check(&self, vocabulary: usize) -> Result<(), SamplingError> {
        if self.vocabulary == vocabulary {
            return Ok(());
        }
        Err(SamplingError::MaskSize { mask: self.vocabulary, vocabulary })
    }

    /// Sets the logits of all other tokens to −∞.
    pub(super) fn apply(&self, row: &mut [f32]) {
        let words = self.words.iter().copied().chain(std::iter::repeat(0));
        for (block, word) in row.chunks_mut(BLOCK).zip(words) {
            match word {
                u64::MAX => {}
                0 => block.fill(f32::NEG_INFINITY),
                _ => {
                    let bits = (0..block.len()).map(|bit| word >> bit & 1);
                    for (x, _) in block.iter_mut().zip(bits).filter(|(_, bit)| *bit == 0) {
                        *x = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }

    /// Whether it allows any of the first `vocabulary` tokens.
    pub(super) fn allows_any(&self, vocabulary: usize) -> bool {
        let places = self.words.iter().enumerate().filter(|(_, word)| **word != 0);
        let first = places.map(|(at, word)| at * BLOCK + word.trailing_zeros() as usize).next();
        first.is_some_and(|id| id < vocabulary)
    }
}
