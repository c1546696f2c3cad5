//! Lists of tasks: filters, orders, pages and words, against going through all tasks.

use nightschool::archive::Archive;
use nightschool::archive::Band;
use nightschool::archive::GatedDraft;
use nightschool::archive::StoredTask;
use nightschool::archive::TaskFilter;
use nightschool::archive::TaskGrouping;
use nightschool::archive::TaskOrder;
use nightschool::archive::TaskState;
use nightschool::task::Origin;
use nightschool::task::Rejection;
use proptest::prelude::*;

use super::accepted;
use super::begin;
use super::open;
use super::rollout;
use super::sampling;
use super::turned_away;
use super::unit;

const WORDS: [&str; 5] = ["iron", "Zoë", "café", "lattice", "1889"];

/// A task that is easy to describe: who wrote it, its words, and how its attempts went.
fn task(index: usize, (by_model, words, attempts): (bool, Vec<usize>, Vec<bool>)) -> Made {
    let origin = if by_model { Origin::Model } else { Origin::Code };
    // In no order, and not that in which they come.
    let id = format!("{:04x}", (index * 40_503) % 65_536);
    let mut gated = accepted(origin, &id);
    let said: Vec<&str> = words.into_iter().map(|word| WORDS[word]).collect();
    let question = format!("What of {} number {index}?", said.join(" "));
    gated.draft.question = Some(question.clone());
    gated.task.as_mut().unwrap().question = question;
    Made { gated, attempts }
}

#[derive(Debug, Clone)]
struct Made {
    gated: GatedDraft,
    attempts: Vec<bool>,
}

fn made() -> impl Strategy<Value = Vec<Made>> {
    let one = (
        any::<bool>(),
        prop::collection::vec(0..WORDS.len(), 0..4),
        prop::collection::vec(any::<bool>(), 0..5),
    );
    prop::collection::vec(one, 1..25)
        .prop_map(|all| all.into_iter().enumerate().map(|(i, one)| task(i, one)).collect())
}

fn store(archive: &Archive, all: &[Made]) {
    begin(archive);
    for (index, made) in all.iter().enumerate() {
        let key = index.to_string();
        let other = format!("x{index}");
        let drafts = [made.gated.clone(), turned_away(Origin::Model, &other, Rejection::Leak)];
        archive.record_drafts(&unit("propose", &key), &drafts).unwrap();
        let id = &made.gated.draft.id;
        let rollouts: Vec<_> =
            made.attempts.iter().enumerate().map(|(i, won)| rollout(id, i as u32, *won)).collect();
        archive.record_rollouts(&unit("rollouts", &key), 0, &sampling(), &rollouts).unwrap();
        if index % 7 == 3 {
            archive.retire_task(id, "dull").unwrap();
        }
    }
}

fn ids(tasks: &[StoredTask]) -> Vec<&str> {
    tasks.iter().map(|stored| stored.task.id.as_str()).collect()
}

fn has_words(stored: &StoredTask, text: &str) -> bool {
    let folded = stored.task.question.to_lowercase().replace(['ë', 'é'], "e");
    let words: Vec<&str> = folded.split(|c: char| !c.is_alphanumeric()).collect();
    text.split(' ').all(|word| words.contains(&word))
}

/// Whether a filter lets a task through.
type Fits = fn(&StoredTask) -> bool;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn filters_pages_and_words_are_those_of_going_through_all(all in made(), size in 1_u32..5) {
        let home = tempfile::tempdir().unwrap();
        let archive = open(&home.path().join("archive.db"));
        store(&archive, &all);
        let everything = archive.tasks(&TaskFilter::default()).unwrap();
        prop_assert_eq!(everything.len(), all.len());
        let none = TaskFilter::default;
        let filters: [(TaskFilter, Fits); 6] = [
            (none(), |_| true),
            (TaskFilter { origin: Some(Origin::Model), ..none() },
             |stored| stored.task.origin == Origin::Model),
            (TaskFilter { state: Some(TaskState::Retired), ..none() },
             |stored| stored.state == TaskState::Retired),
            (TaskFilter { band: Some(Band::Never), ..none() },
             |stored| stored.attempts > 0 && stored.solved == 0),
            (TaskFilter { text: Some("zoe".into()), ..none() }, |stored| has_words(stored, "zoe")),
            (TaskFilter { text: Some("CAFE, iron".into()), hops: Some(1), ..none() },
             |stored| has_words(stored, "cafe iron")),
        ];
        for (filter, fits) in filters {
            for order in [TaskOrder::Id, TaskOrder::Newest, TaskOrder::Oldest, TaskOrder::Hardest] {
                let filter = TaskFilter { order, ..filter.clone() };
                let whole = archive.tasks(&filter).unwrap();
                let mut expected: Vec<&StoredTask> =
                    everything.iter().filter(|stored| fits(stored)).collect();
                expected.sort_by(|a, b| a.task.id.cmp(&b.task.id));
                let mut found: Vec<&StoredTask> = whole.iter().collect();
                if order == TaskOrder::Hardest {
                    let failed = |stored: &StoredTask| match stored.attempts {
                        0 => -1.0,
                        attempts => 1.0 - stored.solved as f64 / attempts as f64,
                    };
                    prop_assert!(found.is_sorted_by(|a, b| failed(a) >= failed(b)));
                }
                found.sort_by(|a, b| a.task.id.cmp(&b.task.id));
                prop_assert_eq!(found, expected);

                let (mut paged, mut after) = (Vec::new(), None);
                loop {
                    let page = TaskFilter { limit: Some(size), after, ..filter.clone() };
                    let page = archive.task_page(&page).unwrap();
                    prop_assert!(page.tasks.len() <= size as usize);
                    paged.extend(page.tasks);
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
                prop_assert_eq!(ids(&paged), ids(&whole));
            }
        }
        // Every task is in one group, whatever they are grouped by.
        for by in [TaskGrouping::Origin, TaskGrouping::Band, TaskGrouping::Topic] {
            let groups = archive.task_stats(by).unwrap();
            let tasks: u64 = groups.iter().map(|group| group.active + group.retired).sum();
            prop_assert_eq!(tasks, all.len() as u64);
            let attempts: usize = all.iter().map(|made| made.attempts.len()).sum();
            prop_assert_eq!(groups.iter().map(|g| g.attempts).sum::<u64>(), attempts as u64);
        }
        prop_assert_eq!(archive.rejected_drafts(None, Some(1), None).unwrap().len(), all.len());
    }
}

#[test]
fn the_best_match_comes_first_and_query_syntax_is_only_text() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    let all = [vec![0], vec![0, 3, 3], vec![1], vec![2, 2, 2]];
    let all: Vec<Made> =
        all.into_iter().enumerate().map(|(i, words)| task(i, (false, words, vec![]))).collect();
    store(&archive, &all);
    let found = |text: &str| -> Vec<String> {
        let tasks = archive.search_tasks(text, 10).unwrap();
        tasks.into_iter().map(|stored| stored.task.question).collect()
    };
    assert_eq!(found("lattice"), ["What of iron lattice lattice number 1?"]);
    assert_eq!(found("iron").len(), 2);
    assert_eq!(found("zoe"), ["What of Zoë number 2?"]);
    assert_eq!(found("iron lattice").len(), 1);
    for text in ["", "?!", "\"", "iron\"", "NEAR(iron lattice)", "iron OR", "question:iron", "*"] {
        archive.search_tasks(text, 10).unwrap();
        let filter = TaskFilter { text: Some(text.into()), ..TaskFilter::default() };
        archive.tasks(&filter).unwrap();
    }
    assert!(found("iron OR zoe").is_empty());
    assert!(found("").is_empty());
}
