//! Parking and resting: what the rules make of how a task fared.

use nightschool::curriculum::Change;
use nightschool::curriculum::Played;
use nightschool::curriculum::Since;
use nightschool::curriculum::change;
use nightschool::task::Standing;
use nightschool::task::StandingReason;

use super::curriculum;

const RULES: [&str; 5] = [
    "park_after=8",
    "retry_after=3",
    "retire_attempts=8",
    "retire_solved=0.75",
    "recent_versions=3",
];

/// Groups of four by (night, round), each by a version of its own, with so many solved.
fn played(groups: &[(u32, u32, u64)]) -> Vec<Played> {
    let group = |(night, round, solved): &(u32, u32, u64)| Played {
        night: *night,
        round: *round,
        model_version: format!("night{night}-round{round}"),
        attempts: 4,
        solved: *solved,
    };
    groups.iter().map(group).collect()
}

fn since(standing: Standing, night: u32, round: u32) -> Option<Since> {
    Some(Since { standing, night, round })
}

fn to(standing: Standing, reason: StandingReason, attempts: u64, solved: u64) -> Option<Change> {
    Some(Change { standing, reason, attempts, solved })
}

#[test]
fn tasks_that_nobody_solves_are_parked_and_come_back() {
    let rules = curriculum(&RULES);
    let change = |night, since, groups: &[_], promoted| {
        change(&rules, night, since, &played(groups), promoted)
    };
    assert_eq!(change(2, None, &[(1, 0, 0)], None), None, "four attempts are too few");
    let parked = to(Standing::Parked, StandingReason::Unsolved, 8, 0);
    assert_eq!(change(2, None, &[(1, 0, 0), (1, 1, 0)], None), parked);
    // What an older version solved does not count.
    let long_ago = [(1, 0, 4), (2, 0, 0), (2, 1, 0), (3, 0, 0)];
    assert_eq!(
        change(4, None, &long_ago, None),
        to(Standing::Parked, StandingReason::Unsolved, 12, 0)
    );
    assert_eq!(change(4, None, &long_ago[..3], None), None, "it is one of the latest three");

    let at = since(Standing::Parked, 2, 0);
    let groups = [(1, 0, 0), (1, 1, 0)];
    assert_eq!(change(4, at, &groups, Some(1)), None);
    assert_eq!(change(5, at, &groups, None), to(Standing::Active, StandingReason::RetryDue, 0, 0));
    assert_eq!(
        change(3, at, &groups, Some(2)),
        to(Standing::Active, StandingReason::Promoted, 0, 0)
    );
    // It begins anew: the attempts from before do not park it again.
    let back = since(Standing::Active, 5, 0);
    assert_eq!(change(5, back, &[(1, 0, 0), (1, 1, 0), (5, 0, 0)], None), None);
    assert_eq!(change(5, back, &[(1, 1, 0), (5, 0, 0), (5, 1, 0)], None), parked);
}

#[test]
fn tasks_that_everybody_solves_rest_until_they_are_forgotten() {
    let rules = curriculum(&RULES);
    let change = |since, groups: &[_]| change(&rules, 4, since, &played(groups), None);
    assert_eq!(change(None, &[(1, 0, 3), (1, 1, 2)]), None);
    let rests = to(Standing::Resting, StandingReason::Solved, 8, 6);
    assert_eq!(change(None, &[(1, 0, 3), (1, 1, 3)]), rests);
    let at = since(Standing::Resting, 2, 0);
    assert_eq!(change(at, &[(1, 0, 0), (1, 1, 3)]), None, "what was before does not matter");
    assert_eq!(change(at, &[(1, 1, 3), (2, 1, 3)]), None);
    let forgotten = to(Standing::Active, StandingReason::Forgotten, 4, 2);
    assert_eq!(change(at, &[(1, 1, 3), (2, 1, 2)]), forgotten);
}

#[test]
fn without_a_rule_nothing_is_held_by_it() {
    let off = curriculum(&[]);
    let change = |since, groups: &[_]| change(&off, 9, since, &played(groups), None);
    let many = [(1, 0, 0), (1, 1, 0), (1, 2, 0), (1, 3, 0)];
    assert_eq!(change(None, &many), None);
    for standing in [Standing::Parked, Standing::Resting] {
        let active = to(Standing::Active, StandingReason::RuleOff, 0, 0);
        assert_eq!(change(since(standing, 2, 0), &many), active);
    }
    assert_eq!(change(since(Standing::Active, 2, 0), &many), None);
}
