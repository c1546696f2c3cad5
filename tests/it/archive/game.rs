//! Corpus, drafts, tasks, rollouts and their lineage.

use nightschool::archive::ArchiveError;
use nightschool::archive::Band;
use nightschool::archive::CorpusSummary;
use nightschool::archive::FileState;
use nightschool::archive::SourceFileContent;
use nightschool::archive::TaskFilter;
use nightschool::archive::TaskGrouping;
use nightschool::archive::TaskOrder;
use nightschool::archive::TaskState;
use nightschool::rollout::Owner;
use nightschool::task::Origin;
use nightschool::task::Rejection;
use nightschool::task::Split;
use serde_json::json;

use super::*;

#[test]
fn corpus_changes_are_incremental_and_idempotent() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    let bridges = file("bridges.txt", vec![document("bridges", &["It spans the bay."])]);
    let broken = SourceFileContent {
        path: "broken.jsonl".into(),
        content_hash: "ff".into(),
        skipped: Some("line 3 is not JSON".into()),
        documents: Vec::new(),
    };
    let files = [towers(), bridges, broken];
    let first = archive.sync_corpus(&files, &[]).unwrap();
    assert_eq!((first.documents_added, first.passages_added), (2, 3));
    let digest = archive.content_digest().unwrap();
    assert_eq!(archive.sync_corpus(&files, &[]).unwrap(), CorpusSummary::default());
    assert_eq!(archive.content_digest().unwrap(), digest);
    let states: Vec<FileState> =
        archive.source_files().unwrap().into_iter().map(|file| file.state).collect();
    assert_eq!(states, [FileState::Read, FileState::Skipped, FileState::Read]);

    // One passage of one document changes; the other file is not mentioned and stays.
    let mut changed =
        document("towers", &["The tower was built in 1887.", "It is 330 metres high."]);
    changed.split = Split::Heldout;
    let second = archive.sync_corpus(&[file("towers.md", vec![changed])], &[]).unwrap();
    assert_eq!((second.passages_added, second.passages_retired), (1, 1));
    assert_eq!(second.documents_added + second.documents_retired, 0);
    let texts: Vec<String> =
        archive.passages().unwrap().into_iter().map(|passage| passage.text).collect();
    assert_eq!(
        texts,
        ["It spans the bay.", "The tower was built in 1887.", "It is 330 metres high."]
    );
    // A document keeps the side it was first put on.
    assert!(archive.documents().unwrap().iter().all(|document| document.split == Split::Train));

    let third = archive.sync_corpus(&[], &["bridges.txt".into()]).unwrap();
    assert_eq!((third.documents_retired, third.passages_retired), (1, 1));
    assert_eq!(archive.passages().unwrap().len(), 2);
}

#[test]
fn a_document_in_two_files_stays_until_both_are_gone() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    let copy = SourceFileContent { path: "copy.md".into(), ..towers() };
    archive.sync_corpus(&[towers(), copy], &[]).unwrap();
    assert_eq!(archive.passages().unwrap().len(), 2);
    let summary = archive.sync_corpus(&[], &["towers.md".into()]).unwrap();
    assert_eq!(summary, CorpusSummary::default());
    let summary = archive.sync_corpus(&[], &["copy.md".into()]).unwrap();
    assert_eq!((summary.documents_retired, summary.passages_retired), (1, 2));
}

#[test]
fn a_passage_shared_with_a_held_out_document_counts_as_held_out() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    let train = document("a", &["Same words."]);
    let mut heldout = document("b", &[]);
    heldout.split = Split::Heldout;
    heldout.passages = train.passages.clone();
    heldout.passages[0].document_id = "b".into();
    archive.sync_corpus(&[file("x", vec![train, heldout])], &[]).unwrap();
    let passages = archive.passages().unwrap();
    assert_eq!(passages.len(), 1);
    assert_eq!(passages[0].document_id, "b");
}

#[test]
fn a_passage_id_never_stands_for_other_words() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    archive.sync_corpus(&[towers()], &[]).unwrap();
    let mut forged = towers();
    forged.documents[0].passages[0].text = "Other words.".into();
    let error = archive.sync_corpus(&[forged], &[]).unwrap_err();
    assert!(matches!(error, ArchiveError::Inconsistent { .. }), "{error}");
    assert_eq!(archive.passages().unwrap().len(), 2);
}

#[test]
fn evidence_outlives_the_corpus_and_returns_to_play_with_it() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    begin(&archive);
    archive.record_drafts(&unit("propose", "a"), &[accepted(Origin::Code, "t1")]).unwrap();
    let summary = archive.sync_corpus(&[], &["towers.md".into()]).unwrap();
    assert_eq!(summary.tasks_retired, 1);
    let detail = archive.task_detail("t1").unwrap();
    assert_eq!(detail.task.state_reason.as_deref(), Some("evidence"));
    assert_eq!(detail.passages[0].passage.text, "The tower was built in 1889.");
    assert!(detail.passages[0].retired);
    assert_eq!(detail.passages[0].sources, ["towers.md"]);
    let summary = archive.sync_corpus(&[towers()], &[]).unwrap();
    assert_eq!((summary.tasks_restored, summary.passages_restored), (1, 2));
    // A task retired for another reason stays so.
    assert!(archive.retire_task("t1", "wrong answer").unwrap());
    assert!(!archive.retire_task("t1", "again").unwrap());
    archive.sync_corpus(&[], &["towers.md".into()]).unwrap();
    assert_eq!(archive.sync_corpus(&[towers()], &[]).unwrap().tasks_restored, 0);
    assert!(matches!(archive.retire_task("zz", "x"), Err(ArchiveError::NotFound { .. })));
}

#[test]
fn drafts_are_counted_by_origin_and_first_required_rejection() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    begin(&archive);
    let mut recorded_only = accepted(Origin::Code, "c2");
    let closed_book = Verdict { required: false, ..rejected("rag", Rejection::Unsolved) };
    recorded_only.verdicts.push(closed_book);
    let mut twice = turned_away(Origin::Model, "m3", Rejection::Length);
    twice.verdicts.push(rejected("evidence", Rejection::NoEvidence));
    let drafts = [
        accepted(Origin::Code, "c1"),
        recorded_only,
        accepted(Origin::Model, "m1"),
        turned_away(Origin::Model, "m2", Rejection::Leak),
        twice,
    ];
    assert!(archive.record_drafts(&unit("propose", "1"), &drafts).unwrap());
    let digest = archive.content_digest().unwrap();
    assert!(!archive.record_drafts(&unit("propose", "1"), &drafts).unwrap());
    assert_eq!(archive.content_digest().unwrap(), digest);
    insta::assert_json_snapshot!(archive.gate_counts(Some(1)).unwrap(), @r#"
    {
      "code": {
        "drafts": 2,
        "accepted": 2,
        "rejections": {}
      },
      "model": {
        "drafts": 3,
        "accepted": 1,
        "rejections": {
          "length": 1,
          "leak": 1
        }
      },
      "person": {
        "drafts": 0,
        "accepted": 0,
        "rejections": {}
      }
    }
    "#);
    assert_eq!(archive.gate_counts(None).unwrap(), archive.gate_counts(Some(1)).unwrap());
    assert_eq!(archive.gate_counts(Some(2)).unwrap()[&Origin::Code].drafts, 0);
    assert!(archive.has_question("when was TOWER c1 — built").unwrap());
    assert!(!archive.has_question("When was tower m2 built?").unwrap());
    assert_eq!(archive.questions().unwrap().len(), 3);
    let (stored, verdicts) = archive.draft("m3").unwrap();
    assert_eq!((stored, verdicts), (drafts[4].draft.clone(), drafts[4].verdicts.clone()));
}

#[test]
fn contradictions_are_refused_whole() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    begin(&archive);
    let digest = archive.content_digest().unwrap();
    let mut let_through = accepted(Origin::Model, "bad");
    let_through.verdicts.push(rejected("rag", Rejection::Unsolved));
    let mut lost = turned_away(Origin::Model, "bad", Rejection::Leak);
    lost.verdicts.clear();
    let mut nowhere = accepted(Origin::Model, "bad");
    nowhere.draft.seed.path = vec!["no such passage".into()];
    let mut other_night = accepted(Origin::Model, "bad");
    other_night.task.as_mut().unwrap().night = Some(2);
    for bad in [let_through, lost, nowhere, other_night] {
        let drafts = [accepted(Origin::Code, "good"), bad];
        let error = archive.record_drafts(&unit("propose", "1"), &drafts).unwrap_err();
        assert!(matches!(error, ArchiveError::Inconsistent { .. }), "{error}");
        assert_eq!(archive.content_digest().unwrap(), digest);
    }
    let later = Unit { night: 2, phase: "propose", key: "1" };
    let error = archive.record_drafts(&later, &[]).unwrap_err();
    assert!(matches!(error, ArchiveError::NotFound { kind: "night", .. }), "{error}");
}

#[test]
fn rollouts_come_back_bit_for_bit_and_count_once() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    begin(&archive);
    archive.record_drafts(&unit("propose", "1"), &[accepted(Origin::Code, "t1")]).unwrap();
    let rollouts = [rollout("t1", 0, true), rollout("t1", 1, false)];
    assert!(archive.record_rollouts(&unit("rollouts", "t1"), 3, &sampling(), &rollouts).unwrap());
    assert!(!archive.record_rollouts(&unit("rollouts", "t1"), 3, &sampling(), &rollouts).unwrap());
    let stored = archive.rollouts_of("t1").unwrap();
    assert_eq!(stored, archive.rollouts_in(1, 3).unwrap());
    let back: Vec<_> = stored.into_iter().map(|stored| (stored.rollout, stored.score)).collect();
    assert_eq!(back, rollouts);
    let bits = |rollout: &Rollout| {
        rollout.steps[1].logprobs.iter().map(|p| p.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(bits(&back[0].0), bits(&rollouts[0].0));
    let task = &archive.tasks(&TaskFilter::default()).unwrap()[0];
    assert_eq!((task.attempts, task.solved), (2, 1));

    let (mut unstamped, score) = rollout("t1", 2, true);
    unstamped.model_version = "unheard of".into();
    let error =
        archive.record_rollouts(&unit("rollouts", "x"), 0, &sampling(), &[(unstamped, score)]);
    assert!(matches!(error, Err(ArchiveError::Inconsistent { .. })));
    let (mut bare, score) = rollout("t1", 2, true);
    assert_eq!(bare.steps[1].owner, Owner::Model);
    bare.steps[1].logprobs.clear();
    let error = archive.record_rollouts(&unit("rollouts", "x"), 0, &sampling(), &[(bare, score)]);
    assert!(matches!(error, Err(ArchiveError::Inconsistent { .. })));
    assert_eq!(archive.rollouts_of("t1").unwrap().len(), 2);
}

#[test]
fn tasks_are_filtered_ordered_and_totalled() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    begin(&archive);
    let drafts = [
        accepted(Origin::Code, "easy"),
        accepted(Origin::Code, "hard"),
        accepted(Origin::Model, "half"),
        accepted(Origin::Model, "new"),
    ];
    archive.record_drafts(&unit("propose", "1"), &drafts).unwrap();
    let rollouts = [
        rollout("easy", 0, true),
        rollout("hard", 0, false),
        rollout("half", 0, true),
        rollout("half", 1, false),
    ];
    archive.record_rollouts(&unit("rollouts", "1"), 0, &sampling(), &rollouts).unwrap();
    archive.retire_task("easy", "too easy").unwrap();
    let ids = |filter: TaskFilter| -> Vec<String> {
        archive.tasks(&filter).unwrap().into_iter().map(|stored| stored.task.id).collect()
    };
    let all = TaskFilter::default;
    let order = |order| ids(TaskFilter { order, ..all() });
    assert_eq!(order(TaskOrder::Hardest), ["hard", "half", "easy", "new"]);
    assert_eq!(order(TaskOrder::Newest), ["new", "half", "hard", "easy"]);
    assert_eq!(order(TaskOrder::Oldest), ["easy", "hard", "half", "new"]);
    assert_eq!(ids(TaskFilter { limit: Some(1), ..all() }), ["easy"]);
    assert_eq!(ids(TaskFilter { origin: Some(Origin::Code), ..all() }), ["easy", "hard"]);
    assert_eq!(ids(TaskFilter { state: Some(TaskState::Retired), ..all() }), ["easy"]);
    assert_eq!(ids(TaskFilter { band: Some(Band::Never), ..all() }), ["hard"]);
    assert!(ids(TaskFilter { split: Some(Split::Heldout), ..all() }).is_empty());
    assert!(ids(TaskFilter { night: Some(2), ..all() }).is_empty());
    let stats = archive.task_stats(TaskGrouping::Origin).unwrap();
    assert_eq!(stats.len(), 2);
    assert_eq!((stats[0].active, stats[0].retired), (1, 1));
    assert_eq!((stats[0].never_solved, stats[0].always_solved), (1, 1));
    assert_eq!((stats[1].untried, stats[1].sometimes_solved), (1, 1));
    assert_eq!((stats[1].attempts, stats[1].solved), (2, 1));
}

#[test]
fn lineage_tells_the_whole_story() {
    let home = tempfile::tempdir().unwrap();
    let archive = open(&home.path().join("archive.db"));
    begin(&archive);
    archive.put_model_version(&adapter(1)).unwrap();
    let mut child = accepted(Origin::Model, "abd2");
    child.parents = vec!["abc1".into()];
    let drafts = [accepted(Origin::Code, "abc1"), child.clone()];
    archive.record_drafts(&unit("propose", "1"), &drafts).unwrap();
    let (mut attempt, score) = rollout("abd2", 0, true);
    attempt.model_version = "night-1".into();
    archive
        .record_rollouts(&unit("rollouts", "1"), 0, &sampling(), &[(attempt.clone(), score)])
        .unwrap();

    let detail = archive.task_detail("abd").unwrap();
    assert_eq!(detail.draft, child.draft);
    assert_eq!(detail.verdicts, child.verdicts);
    assert_eq!(Some(&detail.task.task), child.task.as_ref());
    assert_eq!(detail.parents, ["abc1"]);
    assert_eq!(detail.passages[0].passage, towers().documents[0].passages[0]);
    assert_eq!(detail.rollouts[0].rollout, attempt);
    assert_eq!(detail.model_versions, [base(), adapter(1)]);
    assert_eq!(archive.task_detail("abc1").unwrap().children, ["abd2"]);
    let json = serde_json::to_value(&detail).unwrap();
    assert_eq!(json["id"], json!("abd2"));

    let error = archive.task_detail("ab").unwrap_err();
    assert!(matches!(error, ArchiveError::Ambiguous { matches: 2, .. }), "{error}");
    let error = archive.task_detail("zz").unwrap_err();
    insta::assert_snapshot!(error, @r#"the archive has no task "zz""#);
}
