//! Which side of the split new documents are put on, and which of their words are known.

use std::collections::HashMap;
use std::collections::HashSet;

use crate::archive::Archive;
use crate::archive::ArchiveError;
use crate::archive::DocumentContent;
use crate::rng;
use crate::task::Split;

/// What the archive knew before this ingest.
pub(super) struct Before {
    /// Ids of all documents ever seen.
    documents: HashSet<String>,
    /// Document and side of every passage of the corpus, by passage id.
    passages: HashMap<String, (String, Split)>,
    /// Whether any document is held out.
    holds_out: bool,
}

impl Before {
    pub(super) fn load(archive: &Archive) -> Result<Self, ArchiveError> {
        let documents = archive.documents()?;
        let holds_out =
            documents.iter().any(|document| !document.retired && document.split == Split::Heldout);
        let sides: HashMap<String, Split> =
            documents.into_iter().map(|document| (document.id, document.split)).collect();
        let passages = archive.passages()?.into_iter().map(|passage| {
            let side = sides.get(&passage.document_id).copied().unwrap_or(Split::Train);
            (passage.id, (passage.document_id, side))
        });
        let passages = passages.collect();
        Ok(Self { passages, holds_out, documents: sides.into_keys().collect() })
    }
}

/// Puts each new document on a side. Words that are known keep their side, so that renaming a file
/// neither trains on held-out words nor tests on trained ones; chance decides the rest.
pub(super) fn choose_sides(
    documents: &mut [(String, DocumentContent)],
    before: &Before,
    heldout_share: f64,
    seed: u64,
) {
    // A number in [0, 1) with the 53 bits of a double.
    let draw = |id: &str| {
        (rng::derive(seed, &["heldout document", id]) >> 11) as f64 / (1u64 << 53) as f64
    };
    let mut free = Vec::new();
    let mut holds_out = before.holds_out;
    for (place, (_, document)) in documents.iter_mut().enumerate() {
        if before.documents.contains(&document.id) {
            continue;
        }
        let mut sides =
            document.passages.iter().filter_map(|p| before.passages.get(&p.id)).map(|(_, s)| *s);
        document.split = match sides.next() {
            Some(Split::Heldout) => Split::Heldout,
            Some(Split::Train) if sides.any(|side| side == Split::Heldout) => Split::Heldout,
            Some(Split::Train) => Split::Train,
            None if draw(&document.id) < heldout_share => Split::Heldout,
            None => {
                free.push((draw(&document.id), place));
                Split::Train
            }
        };
        holds_out |= document.split == Split::Heldout;
    }
    // A few documents may all fall on one side; without one held out nothing can be measured.
    free.sort_by(|a, b| a.0.total_cmp(&b.0));
    if let [(_, place), _, ..] = free[..]
        && !holds_out
        && heldout_share > 0.0
    {
        documents[place].1.split = Split::Heldout;
    }
}

/// Passages of the documents read now that stand in another document, or twice in one.
pub(super) fn count_duplicates(documents: &[(String, DocumentContent)], before: &Before) -> u64 {
    let read_now: HashSet<&str> = documents.iter().map(|(_, d)| d.id.as_str()).collect();
    let mut seen = HashSet::new();
    let passages = documents.iter().flat_map(|(_, document)| &document.passages);
    let duplicates = passages.filter(|passage| {
        let elsewhere = before
            .passages
            .get(&passage.id)
            .is_some_and(|(document, _)| !read_now.contains(document.as_str()));
        !seen.insert(passage.id.as_str()) || elsewhere
    });
    duplicates.count() as u64
}
