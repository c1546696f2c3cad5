//! Tokens of old rollouts go, and nothing else does.

use nightschool::archive::ArchiveError;
use nightschool::archive::FindingKind;
use nightschool::archive::StoredRollout;
use nightschool::archive::TaskFilter;
use nightschool::task::Origin;
use rusqlite::Connection;

use super::*;

/// More than a transaction empties.
const MANY: u32 = 1100;

/// Tokens that the model writes in a rollout of the first night: more than a page of the file.
const WRITTEN: u32 = 1500;

/// A rollout that takes some room.
fn long(index: u32) -> (Rollout, Score) {
    let (mut rollout, score) = rollout("t1", index, index.is_multiple_of(2));
    let written = &mut rollout.steps[1];
    written.tokens =
        (0..WRITTEN).map(|n| (n + 1).wrapping_mul(index + 7).wrapping_mul(2_654_435_761)).collect();
    written.logprobs = written.tokens.iter().map(|token| -(*token as f32).sqrt()).collect();
    (rollout, score)
}

/// Two nights that played the same task; the second is under way.
fn two_nights(path: &Path) -> Archive {
    let archive = open(path);
    begin(&archive);
    archive.record_drafts(&unit("propose", "0"), &[accepted(Origin::Code, "t1")]).unwrap();
    let many: Vec<_> = (0..MANY).map(long).collect();
    archive.record_rollouts(&unit("rollouts", "0"), 0, &sampling(), &many).unwrap();
    archive.finish_night(1, &json!({})).unwrap();
    archive.begin_night(2, &json!({})).unwrap();
    let second = Unit { night: 2, phase: "rollouts", key: "0" };
    archive.record_rollouts(&second, 0, &sampling(), &[rollout("t1", 0, true)]).unwrap();
    archive
}

fn removal(night: u32) -> Unit<'static> {
    Unit { night, phase: "retention", key: "tokens" }
}

fn sizes(path: &Path) -> (i64, i64, i64) {
    let connection = Connection::open(path).unwrap();
    let sql = "SELECT sum(length(tokens)), sum(length(logprobs)), (SELECT count(*) FROM prompt)
               FROM rollout WHERE night = 1";
    connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap()
}

#[test]
fn old_rollouts_lose_their_tokens_and_keep_what_they_were_worth() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    let archive = two_nights(&path);
    let before = archive.rollouts_in(1, 0).unwrap();
    let told = archive.tasks(&TaskFilter::default()).unwrap();
    assert!(archive.record_token_removal(&removal(2), 1).unwrap());
    assert!(!archive.record_token_removal(&removal(2), 1).unwrap(), "once");

    // Noted is gone, also while the blobs are there: a crash changes nothing of what is read.
    let noted = archive.rollouts_in(1, 0).unwrap();
    assert!(sizes(&path).0 > 0);
    archive.check().unwrap();
    assert_eq!(archive.remove_noted_tokens().unwrap(), u64::from(MANY));
    assert_eq!(archive.rollouts_in(1, 0).unwrap(), noted);
    assert_eq!(sizes(&path), (0, 0, 1), "the prompt of the second night stays");
    let emptied = before.into_iter().map(|mut stored| {
        stored.rollout.steps.clear();
        StoredRollout { tokens_removed_night: Some(2), ..stored }
    });
    assert_eq!(noted, emptied.collect::<Vec<_>>());
    assert_eq!(noted[0].model_tokens, WRITTEN as usize);
    assert_eq!(archive.tasks(&TaskFilter::default()).unwrap(), told);
    assert_eq!(archive.rollouts_in(2, 0).unwrap()[0].rollout, rollout("t1", 0, true).0);
    archive.check().unwrap();

    let digest = archive.content_digest().unwrap();
    assert_eq!(archive.remove_noted_tokens().unwrap(), 0);
    assert_eq!(archive.content_digest().unwrap(), digest);
    assert!(archive.unused_bytes().unwrap() > 0);
    drop(archive);
    let [before, after] = open(&path).vacuum().unwrap();
    assert!(after < before / 2, "{before} {after}");
    assert_eq!(open(&path).content_digest().unwrap(), digest);
}

#[test]
fn what_was_half_removed_is_removed_by_the_next_call() {
    let home = tempfile::tempdir().unwrap();
    let [whole, cut] = ["whole", "cut"].map(|name| {
        let path = home.path().join(name);
        let archive = two_nights(&path);
        archive.record_token_removal(&removal(2), 1).unwrap();
        (path, archive)
    });
    whole.1.remove_noted_tokens().unwrap();
    // A process that died after a few rows.
    let connection = Connection::open(&cut.0).unwrap();
    let sql = "UPDATE rollout SET tokens = x'', logprobs = x'', prompt_id = NULL
               WHERE night = 1 AND ordinal < 7";
    assert_eq!(connection.execute(sql, []).unwrap(), 7);
    cut.1.check().unwrap();
    assert_eq!(cut.1.remove_noted_tokens().unwrap(), u64::from(MANY) - 7);
    assert_eq!(cut.1.content_digest().unwrap(), whole.1.content_digest().unwrap());
}

#[test]
fn a_night_keeps_its_own_tokens_and_lost_ones_are_damage() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("archive.db");
    let archive = two_nights(&path);
    let error = archive.record_token_removal(&removal(2), 2).unwrap_err();
    assert!(matches!(error, ArchiveError::Inconsistent { .. }), "{error}");
    let connection = Connection::open(&path).unwrap();
    connection.execute("UPDATE rollout SET tokens = x'' WHERE night = 2", []).unwrap();
    let findings = archive.findings().unwrap();
    assert_eq!(findings.iter().map(|one| one.kind).collect::<Vec<_>>(), [FindingKind::Value]);
}
