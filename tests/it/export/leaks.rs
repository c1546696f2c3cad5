//! Whatever stands where, no split shows words of a stricter one.

use std::collections::BTreeMap;

use nightschool::archive::Document;
use nightschool::export::ExportOptions;
use nightschool::export::Format;
use nightschool::export::Shape;
use nightschool::export::Side;
use nightschool::task::Split;
use proptest::prelude::*;
use serde_json::Value;

use super::SHAPES;
use super::School;
use super::accepted;
use super::document;
use super::options;
use super::rollout;
use super::text;

/// Different passages that there are.
const TEXTS: usize = 12;

/// Which passages a document has, and whether it is held out.
type Doc = (bool, Vec<usize>);
/// Which passages a task rests on, and which ones search showed.
type Work = (Vec<usize>, Vec<usize>);

fn world() -> impl Strategy<Value = (Vec<Doc>, Vec<Work>)> {
    let documents = prop::collection::vec(
        (prop::bool::weighted(0.25), prop::collection::vec(0..TEXTS, 1..4)),
        2..10,
    );
    let picks = |most| prop::collection::vec(any::<prop::sample::Index>(), 1..most);
    let work = prop::collection::vec((picks(4), picks(6)), 1..12);
    (documents, work).prop_map(|(documents, work)| {
        let mut there: Vec<usize> = documents.iter().flat_map(|(_, all)| all.clone()).collect();
        there.sort_unstable();
        there.dedup();
        let pick = |all: Vec<prop::sample::Index>| {
            let mut all: Vec<usize> = all.iter().map(|index| *index.get(&there)).collect();
            let mut seen = Vec::new();
            all.retain(|text| {
                !seen.contains(text) && {
                    seen.push(*text);
                    true
                }
            });
            all
        };
        let work = work.into_iter().map(|(evidence, shown)| (pick(evidence), pick(shown)));
        (documents, work.collect())
    })
}

fn school_of(documents: &[Doc], work: &[Work], texts: &[String]) -> School {
    let school = School::new();
    let split = |heldout: bool| if heldout { Split::Heldout } else { Split::Train };
    let one = |(n, (heldout, all)): (usize, &Doc)| {
        let texts: Vec<String> = all.iter().map(|text| texts[*text].clone()).collect();
        document(&format!("d{n}"), split(*heldout), &texts)
    };
    school.add(documents.iter().enumerate().map(one).collect());
    let (mut drafts, mut rollouts) = (Vec::new(), Vec::new());
    for (n, (evidence, shown)) in work.iter().enumerate() {
        let of = |all: &[usize]| all.iter().map(|text| &texts[*text]).collect::<Vec<_>>();
        let id = format!("t{n}");
        // The archive's own side is that of a night: held out if any document is.
        let heldout = documents
            .iter()
            .any(|(heldout, all)| *heldout && all.iter().any(|text| evidence.contains(text)));
        drafts.push(accepted(&id, "1700", &of(evidence), split(heldout)));
        rollouts.push(rollout(&id, 0, "1700", 1.0, &of(shown)));
        rollouts.push(rollout(&id, 1, "1600", 0.0, &of(shown)));
    }
    school.store(&drafts, &rollouts);
    school
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn no_split_shows_words_of_a_stricter_one((documents, work) in world()) {
        let texts: Vec<String> = (0..TEXTS).map(text).collect();
        let school = school_of(&documents, &work, &texts);
        let sides = options(Shape::Sft, Format::Jsonl).sides;
        let side_of = |n: usize, heldout: bool| sides.of_document(&Document {
            id: format!("d{n}"),
            title: String::new(),
            split: if heldout { Split::Heldout } else { Split::Train },
            retired: false,
        });
        // The strictest split of the documents that a text stands in.
        let mut strictest: BTreeMap<usize, Side> = BTreeMap::new();
        for (n, (heldout, all)) in documents.iter().enumerate() {
            for text in all {
                let side = strictest.entry(*text).or_insert(Side::Train);
                *side = side_of(n, *heldout).max(*side);
            }
        }
        for shape in SHAPES {
            let options = ExportOptions { ..options(shape, Format::Jsonl) };
            let rows = school.rows(&options, shape.as_str());
            let mut seen = 0;
            for (side, rows) in &rows {
                for row in rows {
                    seen += 1;
                    // Texts hold quotation marks, which JSON escapes: compared as JSON has them.
                    let shown = row.to_string();
                    for (text, strict) in &strictest {
                        let json = Value::from(texts[*text].as_str()).to_string();
                        if shown.contains(json.trim_matches('"')) {
                            prop_assert!(strict <= side, "{shape:?}: {side:?} shows {text}");
                        }
                    }
                    let id = ["task_id", "id"].iter().find_map(|name| row[*name].as_str());
                    let id = id.or(row["extra_info"]["task_id"].as_str()).unwrap();
                    let (evidence, _) = &work[id[1..].parse::<usize>().unwrap()];
                    let own = evidence.iter().map(|text| strictest[text]).max();
                    prop_assert_eq!(own, Some(*side));
                }
            }
            prop_assert_eq!(seen, work.len());
        }
    }
}
