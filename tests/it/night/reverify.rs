//! Documents that change between two nights: what was made of their old words is verified again.

use std::fs;
use std::process::Command;

use nightschool::archive::TaskFilter;
use nightschool::archive::TaskState;
use nightschool::task::Origin;
use nightschool::task::Rejection;

use super::school::School;

/// A night that makes no code tasks of its own, so that what changes are the old ones.
const QUIET: [&str; 4] =
    ["propose.code_drafts=0", "propose.model_drafts=0", "verify.min_words=1", "verify.min_chars=3"];

/// A school that played a night, and whose document then changed: of the mill every number is
/// gone, the tavern is told as it was, the rest in other words.
fn changed_school() -> School {
    let school = School::asking();
    school.finish_with(&["propose.model_drafts=60", "verify.min_words=1", "verify.min_chars=3"]);
    let path = school.path("documents/articles.md");
    let before = fs::read_to_string(&path).unwrap();
    let sections = before.split("\n## ").map(|section| match section {
        mill if mill.starts_with("Mill") => mill.replace('7', "many"),
        tavern if tavern.starts_with("Tavern") => tavern.to_string(),
        other => other.replace(" old ", " very old wooden "),
    });
    fs::write(&path, sections.collect::<Vec<_>>().join("\n## ")).unwrap();
    school.add_documents();
    school
}

/// Ids of the tasks in a state, with whether the model wrote them.
fn in_state(school: &School, state: TaskState) -> Vec<(String, bool)> {
    let filter = TaskFilter { state: Some(state), ..TaskFilter::default() };
    let tasks = school.archive().tasks(&filter).unwrap();
    tasks.into_iter().map(|t| (t.task.id.clone(), t.task.origin == Origin::Model)).collect()
}

#[test]
fn changed_documents_send_their_tasks_through_the_gate_again() {
    let school = changed_school();
    let stale = in_state(&school, TaskState::Stale);
    assert!(stale.len() >= 4, "{stale:?}");
    assert!(stale.iter().any(|(_, by_model)| *by_model), "{stale:?}");
    // Cut off when it has begun, and continued.
    super::kill_at(school.night_with(&QUIET), "started: tasks whose evidence changed");
    school.finish_with(&QUIET);
    assert_eq!(in_state(&school, TaskState::Stale), []);
    let archive = school.archive();
    let (mut stands, mut by_model) = (0, 0);
    for (id, model_made) in &stale {
        let detail = archive.task_detail(id).unwrap();
        let [again] = &detail.verifications[..] else { panic!("{:?}", detail.verifications) };
        assert_eq!(again.night, 2);
        let mill = detail.draft.question.as_ref().unwrap().contains("mill");
        let reason = again.verdicts.iter().filter(|v| v.required).find_map(|v| v.rejection);
        assert_eq!(again.accepted, reason.is_none());
        if mill {
            assert_eq!(reason, Some(Rejection::NoEvidence), "{detail:?}");
        }
        // The model's checks decide about what the model wrote, and are recorded of the rest.
        let checked = again.verdicts.iter().find(|verdict| verdict.check == "rag");
        assert_eq!(checked.is_some(), reason != Some(Rejection::NoEvidence));
        assert!(checked.is_none_or(|verdict| verdict.required == *model_made));
        by_model += usize::from(*model_made && checked.is_some());
        let task = &detail.task;
        if again.accepted {
            stands += 1;
            assert_eq!(task.state, TaskState::Active);
            assert_eq!(task.task.evidence, again.evidence);
            assert_ne!(task.task.evidence, detail.draft.seed.path);
            assert!(detail.passages.iter().all(|passage| !passage.retired));
            let lineage = school.command(&["task", "lineage", id]).output().unwrap();
            let lineage = String::from_utf8_lossy(&lineage.stdout).into_owned();
            assert!(lineage.contains("verification 1 in night 2: stands"), "{lineage}");
        } else {
            assert_eq!(task.state, TaskState::Retired);
            assert_eq!(task.state_reason.as_deref(), Some("unverified"));
        }
    }
    assert!(stands > 0 && by_model > 0, "{stands} stand, {by_model} by the model");
    archive.check().unwrap();
}

#[test]
fn a_night_killed_while_it_verifies_again_ends_the_same() {
    let school = changed_school();
    let (home, before) = (school.home(), school.path("before"));
    fs::rename(&home, &before).unwrap();
    let begin_again = || {
        let _ = fs::remove_dir_all(&home);
        let copied = Command::new("cp").arg("-a").args([&before, &home]).status();
        assert!(copied.unwrap().success());
    };
    begin_again();
    school.finish_with(&QUIET);
    let straight = (school.digest(), school.adapters());
    begin_again();
    super::kill_at(school.night_with(&QUIET), "started: tasks whose evidence changed");
    super::kill_at(school.night_with(&QUIET), "started: evaluation");
    school.finish_with(&QUIET);
    assert_eq!((school.digest(), school.adapters()), straight);
}
