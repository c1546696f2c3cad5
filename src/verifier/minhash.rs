//! Questions that are nearly the same: the Jaccard similarity of their words and pairs of words,
//! and signatures by which similar ones are found among many.
//!
//! A signature is b-bit minwise hashing with b = 8 (Li and König 2010, doi
//! 10.1145/1772690.1772759): of each of 64 minimum hashes the lowest byte. Archives hold
//! signatures, so the hashes never change.

use crate::answer;
use crate::rng;

/// Hashes of a signature.
pub const HASHES: usize = 64;

/// How often bytes of two unrelated signatures agree.
const CHANCE: f64 = 1.0 / 256.0;

/// Standard deviations of the number of agreeing bytes by which a pair may fall short of what is
/// expected: one in a thousand pairs at the limit does so by more.
const SLACK: f64 = 3.0;

/// The words and pairs of neighbouring words of a question, as hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shingles(Vec<u64>);

impl Shingles {
    /// Those of a question, whatever its case and punctuation.
    pub fn of(question: &str) -> Self {
        let key = answer::question_key(question);
        let words: Vec<&str> = key.split(' ').filter(|word| !word.is_empty()).collect();
        let pairs = words.windows(2).map(|pair| rng::derive(0, pair));
        let mut all: Vec<u64> =
            words.iter().map(|word| rng::derive(0, &[word])).chain(pairs).collect();
        all.sort_unstable();
        all.dedup();
        Self(all)
    }

    /// Shared shingles among all of both, in [0, 1]; 0 where there are none.
    pub fn jaccard(&self, other: &Self) -> f64 {
        let (mut shared, mut rest) = (0, other.0.as_slice());
        for shingle in &self.0 {
            let at = rest.partition_point(|one| one < shingle);
            rest = &rest[at..];
            shared += usize::from(rest.first() == Some(shingle));
        }
        let all = self.0.len() + other.0.len() - shared;
        shared as f64 / all.max(1) as f64
    }

    /// What similar ones are found by.
    pub fn signature(&self) -> Signature {
        let mut bytes = [0; HASHES];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let salt = mixed(index as u64 + 1);
            let least = self.0.iter().map(|shingle| mixed(shingle ^ salt)).min();
            *byte = least.unwrap_or_default().to_le_bytes()[0];
        }
        Signature(bytes)
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014), a permutation of 64 bits.
fn mixed(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// 64 bytes that agree the more with those of another question the more similar the two are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; HASHES]);

impl From<[u8; HASHES]> for Signature {
    /// The signature that was stored as these bytes.
    fn from(bytes: [u8; HASHES]) -> Self {
        Self(bytes)
    }
}

impl Signature {
    /// To be stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes agree.
    pub fn matches(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).map(|(one, other)| usize::from(one == other)).sum()
    }

    /// An estimate of the questions' Jaccard similarity, without bias and with a standard
    /// deviation of at most 0.063.
    pub fn jaccard(&self, other: &Self) -> f64 {
        let agreeing = self.matches(other) as f64 / HASHES as f64;
        (agreeing - CHANCE) / (1.0 - CHANCE)
    }
}

/// Agreeing bytes from which two questions may have this similarity: nearly all that have it do.
pub fn matches_at(jaccard: f64) -> usize {
    let n = HASHES as f64;
    let agree = jaccard + (1.0 - jaccard) * CHANCE;
    (n * agree - SLACK * (n * agree * (1.0 - agree)).sqrt()).floor().max(0.0) as usize
}
