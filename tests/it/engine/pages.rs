//! The pages and their trie, under random use.

use nightschool::inference::engine::pages::Held;
use nightschool::inference::engine::pages::PagePool;
use nightschool::inference::engine::pages::VersionId;
use nightschool::model::runner::PAGE;
use nightschool::rng;
use proptest::prelude::*;
use rand::Rng as _;

use super::tokens;

/// A sequence that is read and written.
struct Sequence {
    tokens: Vec<u32>,
    held: Held,
    filled: usize,
    positions: usize,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Sequences come, read in chunks, write, and go, also in the middle; versions are forgotten.
    /// The pool's own books are right after every event, nobody is without a promised page, and
    /// in the end all pages are back.
    #[test]
    fn every_page_has_one_owner_and_comes_back(seed in any::<u64>(), pages in 4_usize..24) {
        let mut draws = rng::stream(seed, &["pages"]);
        let mut pool = PagePool::new(pages);
        let mut running: Vec<Sequence> = Vec::new();
        for _ in 0..300 {
            let version = VersionId(draws.random_range(0..3));
            match draws.random_range(0..10) {
                0..=2 => {
                    let stem = tokens(draws.random_range(0..2), 90);
                    let mut prompt = stem[..draws.random_range(1..90)].to_vec();
                    prompt.extend(tokens(draws.random_range(5..9), draws.random_range(0..5)));
                    let positions = prompt.len() + draws.random_range(0..40);
                    let total = positions.div_ceil(PAGE);
                    let known = draws.random_range(0..=prompt.len());
                    let found = pool.find(version, &prompt[..known]);
                    prop_assert!(found.ready() <= found.planned && found.planned <= known);
                    let Some(place) = pool.admit(version, &prompt, &found, total) else { continue };
                    prop_assert!(place.ready <= found.ready());
                    let (held, filled) = (place.held, place.ready);
                    running.push(Sequence { tokens: prompt, held, filled, positions });
                }
                3..=7 if !running.is_empty() => {
                    let index = draws.random_range(0..running.len());
                    let sequence = &mut running[index];
                    if sequence.filled == sequence.positions {
                        continue;
                    }
                    if sequence.filled >= sequence.tokens.len() {
                        sequence.tokens.push(draws.random_range(0..95));
                    }
                    let end = draws.random_range(sequence.filled + 1..=sequence.tokens.len());
                    let end = end.min(sequence.positions);
                    while sequence.held.pages().len() * PAGE < end {
                        prop_assert!(pool.extend(&mut sequence.held).is_some(), "a promised page");
                    }
                    pool.commit(&sequence.held, &sequence.tokens, sequence.filled, end);
                    sequence.filled = end;
                }
                8 if !running.is_empty() => {
                    let index = draws.random_range(0..running.len());
                    pool.release(running.swap_remove(index).held);
                }
                9 => pool.forget(version),
                _ => {}
            }
            pool.check().map_err(TestCaseError::fail)?;
            let own = running.iter().flat_map(|s| s.held.own());
            let mut owned: Vec<u32> = own.copied().collect();
            let n = owned.len();
            owned.sort_unstable();
            owned.dedup();
            prop_assert_eq!(owned.len(), n, "a page that two sequences write to");
            // What a sequence has read, another finds.
            for sequence in &running {
                let pages = sequence.held.pages();
                prop_assert!(pages.len() * PAGE >= sequence.filled);
            }
        }
        for sequence in running.drain(..) {
            pool.release(sequence.held);
        }
        prop_assert_eq!((pool.in_use(), pool.reserved()), (0, 0));
        for version in 0..3 {
            pool.forget(VersionId(version));
        }
        pool.check().map_err(TestCaseError::fail)?;
        prop_assert_eq!((pool.in_use(), pool.cached()), (0, 0));
    }
}

#[test]
fn a_prefix_is_found_up_to_where_it_was_read() {
    let version = VersionId(0);
    let mut pool = PagePool::new(8);
    let prompt = tokens(1, 80);
    let found = pool.find(version, &prompt);
    let place = pool.admit(version, &prompt, &found, 3).unwrap();
    assert_eq!((place.ready, place.copy), (0, None));
    let ready = |pool: &PagePool| {
        let found = pool.find(version, &prompt[..79]);
        (found.ready(), found.planned)
    };
    assert_eq!(ready(&pool), (0, 79), "nothing is there, but it will be");
    pool.commit(&place.held, &prompt, 0, 50);
    assert_eq!(ready(&pool), (50, 79));
    pool.release(place.held);
    assert_eq!(ready(&pool), (50, 50), "what was not read is not promised any more");
    assert_eq!(pool.find(VersionId(1), &prompt).planned, 0, "another version has read nothing");
    // The same prompt again goes on where the first one ended, on its pages.
    let found = pool.find(version, &prompt);
    let place = pool.admit(version, &prompt, &found, 3).unwrap();
    assert_eq!((place.ready, place.copy), (50, None));
    pool.commit(&place.held, &prompt, 50, 80);
    // A branch has a page of its own, with the positions before it copied.
    let branch = [&prompt[..40], &[94, 93]].concat();
    let found = pool.find(version, &branch);
    let other = pool.admit(version, &branch, &found, 2).unwrap();
    let copy = other.copy.unwrap();
    assert_eq!((other.ready, copy.positions), (40, 8));
    assert_eq!((copy.from, copy.to), (place.held.pages()[1], other.held.own()[0]));
    pool.check().unwrap();
}
