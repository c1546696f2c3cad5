//! Who waits for whom, counted in steps.

use std::sync::Arc;

use nightschool::inference::EngineSettings;
use nightschool::inference::Generator as _;
use nightschool::inference::Policy;
use nightschool::inference::Request;
use nightschool::inference::Ticket;
use nightschool::inference::engine::BYPASS;
use nightschool::inference::engine::budget;
use nightschool::model::runner::RunBatch;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::ledger::Ledger;
use super::start;
use super::tokens;

proptest! {
    #[test]
    fn a_budget_is_used_up_and_the_oldest_has_half(
        budget in 0_usize..600,
        left in prop::collection::vec(1_usize..900, 0..12),
    ) {
        let given = budget::share(budget, &left);
        prop_assert_eq!(given.len(), left.len());
        prop_assert!(given.iter().zip(&left).all(|(given, left)| given <= left));
        let total: usize = left.iter().sum();
        prop_assert_eq!(given.iter().sum::<usize>(), budget.min(total));
        if let Some(oldest) = left.first() {
            prop_assert!(given[0] >= budget.div_ceil(2).min(*oldest));
        }
        // Of the others, a shorter one is not left unfinished for a longer one.
        for (i, j) in (1..left.len()).flat_map(|i| (1..left.len()).map(move |j| (i, j))) {
            prop_assert!(left[i] >= left[j] || given[j] == 0 || given[i] == left[i]);
        }
    }
}

/// Requests submitted before each step, by what `next` gives for its number.
fn arriving(
    pages: usize,
    settings: EngineSettings,
    next: impl Fn(u64) -> Option<Request> + Send + 'static,
    first: Request,
) -> Vec<RunBatch> {
    let policy: Arc<Mutex<Option<Policy>>> = Arc::default();
    let tickets: Arc<Mutex<Vec<Ticket>>> = Arc::default();
    let (stage, arrived) = (policy.clone(), tickets.clone());
    let ledger = Ledger::new(pages).endless().with_hook(move |step, _| {
        if let (Some(policy), Some(request)) = (&*stage.lock(), next(step)) {
            arrived.lock().push(policy.submit(request).unwrap());
        }
        Ok(())
    });
    let log = ledger.log();
    let engine = start(ledger, settings);
    *policy.lock() = Some(engine.policy("base", None).unwrap());
    let own = policy.lock().clone().unwrap();
    own.generate(&[first]).unwrap();
    loop {
        let Some(ticket) = tickets.lock().pop() else { break };
        ticket.wait().unwrap();
    }
    policy.lock().take();
    let mut log = log.lock();
    std::mem::take(&mut log.steps)
}

/// The steps, from 1, that read something of the sequence which begins with `token`.
fn steps_of(steps: &[RunBatch], token: u32) -> Vec<usize> {
    // Its first page, until that belongs to another.
    let mut page = None;
    let mut found = Vec::new();
    for (index, batch) in steps.iter().enumerate() {
        for span in &batch.spans {
            let first = span.pages[0];
            match (span.past, batch.tokens[span.range.start] == token) {
                (0, true) => page = Some(first),
                (0, false) if page == Some(first) => page = None,
                _ => {}
            }
            if page == Some(first) {
                found.push(index + 1);
            }
        }
    }
    found
}

const SETTINGS: EngineSettings = EngineSettings { rows: 16, step_tokens: 64, queue: 1024 };

/// A prompt whose first token is its name.
fn named(name: u32, length: usize) -> Vec<u32> {
    [vec![name], tokens(name, length - 1)].concat()
}

#[test]
fn a_short_prompt_does_not_wait_for_long_ones() {
    // A long prompt arrives at every step from the first on, a short one in the third.
    let next = |step: u64| match step {
        3 => Some(Request::new(named(90, 8), 5)),
        1..=8 => Some(Request::new(named(step as u32, 200), 2)),
        _ => None,
    };
    let steps = arriving(200, SETTINGS, next, Request::new(named(80, 200), 30));
    // Read whole in the step after it came, and one token in every step from there on.
    assert_eq!(steps_of(&steps, 90), [4, 5, 6, 7, 8]);
}

#[test]
fn a_long_prompt_does_not_wait_for_short_ones() {
    // Short prompts arrive faster than they are read.
    let next = |step: u64| (step < 40).then(|| Request::new(named(1 + step as u32, 60), 2));
    let steps = arriving(200, SETTINGS, next, Request::new(named(90, 200), 3));
    let reading = steps_of(&steps, 90);
    // At least half of what the (at most 16) continued sequences leave: 24 tokens a step.
    assert!(reading.len() <= 200_usize.div_ceil(24) + 3, "{reading:?}");
    assert!(reading.windows(2).all(|pair| pair[1] == pair[0] + 1), "in every step: {reading:?}");
}

#[test]
fn what_is_being_written_goes_on_in_every_step() {
    let next = |step: u64| (step < 12).then(|| Request::new(named(1 + step as u32, 150), 1));
    let steps = arriving(200, SETTINGS, next, Request::new(named(90, 10), 25));
    let written = steps_of(&steps, 90);
    assert_eq!(written, (1..=written.len()).collect::<Vec<_>>(), "no step without it");
    assert!(steps.iter().all(|batch| batch.tokens.len() <= SETTINGS.step_tokens));
    assert!(steps.iter().all(|batch| batch.spans.len() <= SETTINGS.rows));
}

#[test]
fn a_large_request_is_passed_a_counted_number_of_times() {
    // Eight pages. One request holds three for long; a large one needs seven; small ones that take
    // two come at every step.
    let next = |step: u64| match step {
        1 => Some(Request::new(named(91, 180), 40)),
        2..=120 => Some(Request::new(named(step as u32 % 80, 33), 2)),
        _ => None,
    };
    let steps = arriving(8, SETTINGS, next, Request::new(named(90, 40), 50));
    let large = steps_of(&steps, 91)[0];
    let starts =
        steps[..large].iter().flat_map(|batch| &batch.spans).filter(|span| span.past == 0).count();
    // The first request, those that passed, and the large one itself.
    assert!(starts <= BYPASS + 2, "{starts} sequences started before it");
    assert!(starts > 4, "while it cannot start, others do: {starts}");
}
