//! Real documents, real search: the code-made tasks of a part of the bundled corpus. The home is
//! left for `scripts/check_exports.py`.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::path::Path;
use std::path::PathBuf;

use nightschool::archive::GatedDraft;
use nightschool::config;
use nightschool::corpus::KnowledgeGraph;
use nightschool::export::Format;
use nightschool::export::Side;
use nightschool::phase::ingest;
use nightschool::phase::known::ArchivedQuestions;
use nightschool::proposer::cloze;
use nightschool::retrieval::LexicalIndex;
use nightschool::retrieval::Retriever;
use nightschool::rng;
use nightschool::rollout::Rollout;
use nightschool::rollout::Score;
use nightschool::task::Passage;
use nightschool::task::Split;
use nightschool::task::Task;
use nightschool::verifier::Candidate;
use nightschool::verifier::Passages;
use nightschool::verifier::RuleChecks;

use super::SHAPES;
use super::School;
use super::options;
use super::rollout;

/// Arts and their tasks, each played twice with what search finds.
fn arts() -> School {
    let school = School::new();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/default/arts.md");
    ingest::ingest(&school.archive, &[file], 0.2, 1).unwrap();
    let corpus = school.archive.passages().unwrap();
    let documents = school.archive.documents().unwrap().into_iter();
    let splits: HashMap<String, Split> = documents.map(|d| (d.id, d.split)).collect();
    let passages: Passages = corpus.iter().map(|p| (p.id.clone(), p.clone())).collect();
    let graph = KnowledgeGraph::build(&corpus);
    let index = LexicalIndex::in_memory(corpus).unwrap();
    let verify = config::load(&[], &[]).unwrap().verify;
    let known = ArchivedQuestions::of(&school.archive);
    let mut rules = RuleChecks::new(&verify, &passages, &known);
    let (mut drafts, mut rollouts) = (Vec::new(), Vec::new());
    for seed in graph.seeds(&mut rng::stream(1, &["export"]), 400, 1) {
        let passage = &passages[&seed.path[0]];
        let mut candidate = Candidate::new(cloze::draft(&seed, passage, 1));
        rules.run(&mut candidate);
        let stands = candidate.stands();
        let task = stands.then(|| task_of(&candidate, splits[&passage.document_id]));
        rollouts.extend(task.iter().flat_map(|task| play(task, &index)));
        let Candidate { draft, verdicts, .. } = candidate;
        drafts.push(GatedDraft { draft, verdicts, task, parents: Vec::new() });
    }
    school.store(&drafts, &rollouts);
    school
}

fn task_of(candidate: &Candidate, split: Split) -> Task {
    let draft = &candidate.draft;
    Task {
        id: draft.id.clone(),
        origin: draft.origin,
        question: draft.question.clone().unwrap(),
        answer: draft.seed.answer.clone(),
        kind: draft.seed.kind,
        evidence: draft.seed.path.clone(),
        split,
        night: Some(1),
    }
}

/// A right answer and that of somebody who only reads titles.
fn play(task: &Task, index: &LexicalIndex) -> [(Rollout, Score); 2] {
    let hits = index.search(&task.question, 4).unwrap();
    let found: Vec<&Passage> = hits.iter().map(|hit| &hit.passage).collect();
    let answers = [(task.answer.as_str(), 1.0), (found[0].title.as_str(), 0.0)];
    let mut index = 0;
    answers.map(|(answer, reward)| {
        let (mut rollout, score) = rollout(&task.id, index, answer, reward, &[]);
        rollout.retrieved = found.iter().map(|passage| passage.id.clone()).collect();
        index += 1;
        (rollout, score)
    })
}

#[test]
fn code_made_tasks_of_the_bundled_corpus_are_divided_by_document() {
    let school = arts();
    let archive = &school.archive;
    let sides = options(SHAPES[0], Format::Jsonl).sides;
    let documents = archive.documents().unwrap();
    let side_of: HashMap<String, Side> =
        documents.into_iter().map(|d| (d.id.clone(), sides.of_document(&d))).collect();
    let passages = archive.passages().unwrap();
    for shape in SHAPES {
        let rows = school.rows(&options(shape, Format::Parquet), shape.as_str());
        let counts: BTreeMap<Side, usize> = rows.iter().map(|(s, rows)| (*s, rows.len())).collect();
        assert_eq!(counts.len(), 3, "{shape:?}: {counts:?}");
        assert!(counts.values().sum::<usize>() > 100, "{shape:?}: {counts:?}");
        let shown: BTreeMap<Side, String> = rows
            .iter()
            .map(|(side, rows)| (*side, rows.iter().map(ToString::to_string).collect()))
            .collect();
        for passage in &passages {
            let json = serde_json::Value::from(passage.text.as_str()).to_string();
            for (side, text) in &shown {
                if text.contains(json.trim_matches('"')) {
                    assert!(side_of[&passage.document_id] <= *side, "{shape:?}: {}", passage.id);
                }
            }
        }
    }
    let left = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("export-home");
    std::fs::create_dir_all(&left).unwrap();
    archive.copy_to(&left.join("archive.db")).unwrap();
}
