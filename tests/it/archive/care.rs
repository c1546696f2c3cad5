//! What people do with an archive: decide about tasks, take documents out, go back to a version,
//! ask questions of their own; and what a change of the corpus does to tasks.

use nightschool::archive::Archive;
use nightschool::archive::ArchiveError;
use nightschool::archive::ArchiveReader;
use nightschool::archive::Decision;
use nightschool::archive::ModelVersion;
use nightschool::archive::QueryLimits;
use nightschool::archive::TaskFilter;
use nightschool::archive::TaskState;
use nightschool::archive::TraceKind;
use nightschool::archive::TrainItem;
use nightschool::archive::TrainPhase;
use nightschool::archive::TrainStep;
use nightschool::archive::Verified;
use nightschool::config::AdapterSlot;
use nightschool::config::ObjectiveName;
use nightschool::task::Origin;
use nightschool::task::Rejection;
use petgraph::Direction;
use serde_json::json;

use super::accepted;
use super::adapter;
use super::base;
use super::begin;
use super::document;
use super::file;
use super::open;
use super::passed;
use super::rejected;
use super::rollout;
use super::sampling;
use super::towers;
use super::unit;

/// Two tasks, one played by the base and by an adapter that was trained on it.
fn trained(archive: &Archive) {
    begin(archive);
    let mut child = accepted(Origin::Model, "b2");
    child.parents = vec!["a1".into()];
    let drafts = [accepted(Origin::Code, "a1"), child];
    archive.record_drafts(&unit("propose", "1"), &drafts).unwrap();
    let rollouts = [rollout("a1", 0, true), rollout("a1", 1, false)];
    archive.record_rollouts(&unit("solve/0", "1"), 0, &sampling(), &rollouts).unwrap();
    let step = |phase, step, item| TrainStep {
        phase,
        adapter: AdapterSlot::Shared,
        step,
        objective: ObjectiveName::PolicyGradient,
        model_version: "base".into(),
        metrics: json!({"loss": 1.0}),
        items: vec![item],
    };
    let (shown, played) = (
        TrainItem::Task { task_id: "a1".into() },
        TrainItem::Rollout { task_id: "a1".into(), round: 0, index: 1 },
    );
    let steps = [step(TrainPhase::WarmStart, 0, shown), step(TrainPhase::Policy, 0, played)];
    archive.record_train_steps(&unit("policy", "1"), &steps).unwrap();
    archive.put_model_version(&adapter(1)).unwrap();
    let (mut attempt, score) = rollout("a1", 0, true);
    attempt.model_version = adapter(1).id;
    archive.record_rollouts(&unit("solve/1", "1"), 1, &sampling(), &[(attempt, score)]).unwrap();
}

fn archive_in(home: &tempfile::TempDir) -> Archive {
    open(&home.path().join("archive.db"))
}

#[test]
fn lineage_leads_both_ways() {
    let home = tempfile::tempdir().unwrap();
    let archive = archive_in(&home);
    trained(&archive);
    let trace = archive.task_trace("a1").unwrap();
    assert!(!petgraph::algo::is_cyclic_directed(&trace.graph));
    let about = |kind: TraceKind| -> Vec<String> {
        let nodes = trace.graph.node_weights().filter(|node| node.kind == kind);
        nodes.map(|node| format!("{}: {}", node.id, node.about)).collect()
    };
    assert_eq!(about(TraceKind::SourceFile).len(), 1);
    assert_eq!(
        about(TraceKind::CorpusVersion)[0].split(": ").nth(1),
        Some("1 documents, 2 passages")
    );
    assert_eq!(
        about(TraceKind::Rollouts),
        ["night 1 round 0 by base: 1 of 2 solved", "night 1 round 1 by night-1: 1 of 1 solved"]
    );
    assert_eq!(about(TraceKind::Training).len(), 2);
    assert!(about(TraceKind::ModelVersion).iter().any(|node| node.starts_with("night-1: ")));
    // The task's child, and everything that it came from, is reached from it.
    let reached = |direction| -> Vec<TraceKind> {
        let mut kinds = Vec::new();
        let graph = petgraph::visit::Reversed(&trace.graph);
        match direction {
            Direction::Outgoing => {
                let mut walk = petgraph::visit::Bfs::new(&trace.graph, trace.task);
                while let Some(node) = walk.next(&trace.graph) {
                    kinds.push(trace.graph[node].kind);
                }
            }
            Direction::Incoming => {
                let mut walk = petgraph::visit::Bfs::new(graph, trace.task);
                while let Some(node) = walk.next(graph) {
                    kinds.push(trace.graph[node].kind);
                }
            }
        }
        kinds
    };
    assert!(reached(Direction::Incoming).contains(&TraceKind::SourceFile));
    assert!(reached(Direction::Outgoing).contains(&TraceKind::ModelVersion));
    let json = trace.to_json();
    assert_eq!(json["nodes"][json["task"].as_u64().unwrap() as usize]["id"], "a1");

    // And back from the version.
    let detail = archive.model_detail("night-1").unwrap();
    assert_eq!((detail.trained_on, detail.train_steps, detail.plays), (1, 2, [1, 1]));
    let into = TaskFilter { trained_into: Some("night-1".into()), ..TaskFilter::default() };
    let tasks = archive.tasks(&into).unwrap();
    assert_eq!(tasks.iter().map(|stored| stored.task.id.as_str()).collect::<Vec<_>>(), ["a1"]);
    let difference = archive.model_difference("base", "night-1").unwrap();
    assert_eq!((difference.trained_on_more, difference.trained_on_less), (1, 0));
    assert_eq!((difference.plays.tasks, difference.plays.better), (1, 1));
    assert_eq!(difference.plays.most_changed[0].before, [1, 2]);
    assert!(matches!(archive.model_detail("none"), Err(ArchiveError::NotFound { .. })));
}

#[test]
fn a_person_decides_and_is_remembered() {
    let home = tempfile::tempdir().unwrap();
    let archive = archive_in(&home);
    trained(&archive);
    assert!(!archive.is_curated("a1").unwrap());
    let state = |decision| archive.curate("a1", decision, "because").unwrap().state;
    assert_eq!(state(Decision::Reject), TaskState::Retired);
    assert_eq!(state(Decision::Restore), TaskState::Active);
    assert_eq!(state(Decision::Retire), TaskState::Retired);
    let decisions: Vec<String> =
        archive.curations("a1").unwrap().into_iter().map(|one| one.action).collect();
    assert_eq!(decisions, ["reject", "restore", "retire"]);
    assert!(archive.is_curated("a1").unwrap());
    assert!(matches!(
        archive.curate("zz", Decision::Accept, ""),
        Err(ArchiveError::NotFound { .. })
    ));

    let mut edited = accepted(Origin::Person, "e1");
    edited.parents = vec!["b2".into()];
    edited.task.as_mut().unwrap().night = None;
    assert!(archive.replace_task("b2", &edited, "clearer").unwrap());
    let old = archive.task_detail("b2").unwrap();
    assert_eq!(old.task.state_reason.as_deref(), Some("edited"));
    assert_eq!(archive.curations("b2").unwrap()[0].replaced_by.as_deref(), Some("e1"));
    assert_eq!(archive.task_detail("e1").unwrap().parents, ["b2"]);

    // Not while its evidence is out of the corpus.
    archive.sync_corpus(&[], &["towers.md".into()]).unwrap();
    let error = archive.curate("a1", Decision::Restore, "").unwrap_err();
    assert!(error.to_string().contains("is not in the corpus"), "{error}");
}

#[test]
fn changed_evidence_is_stale_until_it_is_verified_again() {
    let home = tempfile::tempdir().unwrap();
    let archive = archive_in(&home);
    trained(&archive);
    let state = |id: &str| {
        let task = archive.task_detail(id).unwrap().task;
        (task.state, task.state_reason)
    };
    // The same document with other words.
    let id = towers().documents[0].id.clone();
    let changed = file("towers.md", vec![document(&id, &["It was built in 1889, they say."])]);
    let summary = archive.sync_corpus(std::slice::from_ref(&changed), &[]).unwrap();
    assert_eq!((summary.tasks_stale, summary.tasks_retired), (2, 0));
    assert_eq!(state("a1"), (TaskState::Stale, Some("evidence".into())));
    // Back to the old words, and changed again.
    assert_eq!(archive.sync_corpus(&[towers()], &[]).unwrap().tasks_restored, 2);
    archive.sync_corpus(std::slice::from_ref(&changed), &[]).unwrap();
    let now = changed.documents[0].passages[0].id.clone();
    let verified = [
        Verified {
            task_id: "a1".into(),
            evidence: vec![now.clone()],
            verdicts: vec![passed("evidence")],
        },
        Verified {
            task_id: "b2".into(),
            evidence: vec![now.clone()],
            verdicts: vec![rejected("evidence", Rejection::NoEvidence)],
        },
    ];
    assert!(archive.record_verifications(&unit("verify_stale", "a1"), &verified).unwrap());
    assert!(!archive.record_verifications(&unit("verify_stale", "a1"), &verified).unwrap());
    assert_eq!(state("a1"), (TaskState::Active, None));
    assert_eq!(archive.task_detail("a1").unwrap().passages[0].passage.id, now);
    // What it was made from is still known.
    assert_ne!(archive.task_detail("a1").unwrap().draft.seed.path, [now]);
    assert_eq!(state("b2"), (TaskState::Retired, Some("unverified".into())));
    // A document that goes away takes its tasks with it; one that is back may bring other words.
    archive.sync_corpus(&[], &["towers.md".into()]).unwrap();
    assert_eq!(state("a1"), (TaskState::Retired, Some("evidence".into())));
    archive.sync_corpus(&[towers()], &[]).unwrap();
    assert_eq!(state("a1").0, TaskState::Stale);
    assert_eq!(state("b2"), (TaskState::Retired, Some("unverified".into())));
    archive.check().unwrap();
}

/// Whether any file of the archive holds these bytes.
fn holds(home: &tempfile::TempDir, text: &str) -> bool {
    let files = std::fs::read_dir(home.path()).unwrap();
    let found = |path: std::path::PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    files.into_iter().any(|entry| found(entry.unwrap().path()))
}

#[test]
fn a_document_is_taken_out_with_all_that_was_made_of_it() {
    let home = tempfile::tempdir().unwrap();
    let archive = archive_in(&home);
    trained(&archive);
    let other = file("other.md", vec![document("other", &["Nothing about that here."])]);
    archive.sync_corpus(&[other], &[]).unwrap();
    let of = towers().documents[0].clone();
    let words = of.passages[0].text.clone();
    let question = "When was tower a1 built?";
    assert!(holds(&home, &words) && holds(&home, question));
    let removal = archive.remove_document(&of.id, true).unwrap();
    assert_eq!((removal.passages, removal.drafts, removal.tasks), (2, 2, 2));
    assert_eq!((removal.rollouts, removal.versions.clone()), (3, vec!["night-1".to_string()]));
    assert!(archive.tasks(&TaskFilter::default()).unwrap().is_empty());
    assert!(archive.search_tasks("tower", 5).unwrap().is_empty());
    assert_eq!(archive.passages().unwrap().len(), 1);
    archive.check().unwrap();
    assert!(!holds(&home, &words) && !holds(&home, question), "words are left in the file");
    // Its file does not bring it back.
    archive.sync_corpus(&[towers()], &[]).unwrap();
    assert_eq!(archive.passages().unwrap().len(), 1);
    assert!(matches!(archive.remove_document(&of.id, true), Err(ArchiveError::NotFound { .. })));
}

#[test]
fn a_document_alone_leaves_its_tasks_out_of_play() {
    let home = tempfile::tempdir().unwrap();
    let archive = archive_in(&home);
    trained(&archive);
    let of = towers().documents[0].clone();
    let removal = archive.remove_document(&of.id, false).unwrap();
    assert_eq!((removal.drafts, removal.tasks_retired), (0, 2));
    assert_eq!(removal.versions, ["night-1"]);
    assert!(!holds(&home, &of.passages[0].text));
    let task = archive.task_detail("a1").unwrap();
    assert_eq!(task.task.state_reason.as_deref(), Some("removed"));
    assert_eq!(task.passages[0].passage.text, "");
    archive.check().unwrap();
}

#[test]
fn going_back_goes_one_further_each_time() {
    let home = tempfile::tempdir().unwrap();
    let archive = archive_in(&home);
    begin(&archive);
    let second = ModelVersion { id: "night-1b".into(), ..adapter(1) };
    archive.put_model_version(&adapter(1)).unwrap();
    archive.put_model_version(&second).unwrap();
    archive.set_live_model(&adapter(1).id, "by hand").unwrap();
    archive.set_live_model(&second.id, "by hand").unwrap();
    assert_eq!(archive.roll_back("worse").unwrap(), adapter(1).id);
    assert_eq!(archive.roll_back("worse still").unwrap(), base().id);
    let error = archive.roll_back("and more").unwrap_err().to_string();
    assert!(error.contains("behind the first live version"), "{error}");
    archive.set_live_model(&second.id, "after all").unwrap();
    assert_eq!(archive.roll_back("no").unwrap(), base().id);
}

#[test]
fn queries_only_read_and_are_bounded() {
    let home = tempfile::tempdir().unwrap();
    let archive = archive_in(&home);
    trained(&archive);
    let reader = ArchiveReader::open(archive.path()).unwrap();
    let limits = QueryLimits { rows: 1, time: std::time::Duration::from_millis(300) };
    let sql = "SELECT id, attempts, difficulty, NULL AS empty, x'00ff' AS bytes
               FROM task_view ORDER BY id";
    let found = reader.query(sql, limits).unwrap();
    assert_eq!(found.columns, ["id", "attempts", "difficulty", "empty", "bytes"]);
    assert_eq!(
        found.rows,
        [[json!("a1"), json!(3), json!(1.0 - 2.0 / 3.0), json!(null), json!("00ff")]]
            .map(|row| row.to_vec())
    );
    assert!(found.truncated);
    let forever = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
                   SELECT count(*) FROM n";
    for (sql, why) in [
        ("DELETE FROM task", "only reads"),
        ("SELECT 1; DELETE FROM task", "Multiple statements"),
        ("ATTACH '/tmp/x.db' AS x", "only reads"),
        ("SELEC", "syntax error"),
        ("SELECT mood FROM task", "no such column: mood"),
        ("SELECT ?1", "parameters"),
        ("", "only reads"),
        (forever, "took longer than 0.3 s"),
    ] {
        let error = reader.query(sql, limits).unwrap_err().to_string();
        assert!(error.contains(why), "{sql}: {error}");
    }
    assert_eq!(archive.tasks(&TaskFilter::default()).unwrap().len(), 2);
    let schema = reader.schema().unwrap();
    assert!(schema.iter().any(|object| object.name == "task_view" && object.kind == "view"));
    assert!(schema.iter().all(|object| !object.name.contains("_data")));
}
