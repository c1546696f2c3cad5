//! Named random streams: every draw is a function of the seed and of what it is for.
//!
//! A stream is named by its purpose, so adding a draw in one place never shifts the draws of
//! another, and a unit of work that is done again after a crash draws the same numbers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// The generator behind every stream. ChaCha output is fixed across versions and machines.
pub type Rng = ChaCha8Rng;

/// The stream for `parts` (for example `["night 3", "draft", id]`) under the home's seed.
pub fn stream(seed: u64, parts: &[&str]) -> Rng {
    Rng::from_seed(*digest(seed, parts).as_bytes())
}

/// A 64-bit seed for one request, derived like [`stream`].
pub fn derive(seed: u64, parts: &[&str]) -> u64 {
    let bytes = digest(seed, parts);
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes.as_bytes()[..8]);
    u64::from_le_bytes(word)
}

/// A short stable id for `parts`: 16 hexadecimal digits.
pub fn content_id(parts: &[&str]) -> String {
    digest(0, parts).to_hex()[..16].to_string()
}

fn digest(seed: u64, parts: &[&str]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for part in parts {
        // Lengths keep ["ab", "c"] and ["a", "bc"] apart.
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize()
}
