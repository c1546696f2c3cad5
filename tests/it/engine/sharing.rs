//! Prefixes are read once, counted by the engine's own statistics.

use std::sync::Arc;

use nightschool::inference::Engine;
use nightschool::inference::EngineSettings;
use nightschool::inference::Generator as _;
use nightschool::inference::Request;
use nightschool::inference::Ticket;
use parking_lot::Mutex;

use super::ledger::Ledger;
use super::sampled;
use super::start;
use super::tokens;

const WIDE: EngineSettings = EngineSettings { rows: 64, step_tokens: 512, queue: 1024 };

/// Prompt tokens read and shared since the last call.
struct Counter<'a> {
    engine: &'a Engine,
    before: (u64, u64),
}

impl<'a> Counter<'a> {
    fn new(engine: &'a Engine) -> Self {
        Self { engine, before: (0, 0) }
    }

    fn since(&mut self) -> (u64, u64) {
        let statistics = self.engine.statistics();
        let now = (statistics.prompt_tokens, statistics.shared_positions);
        let before = std::mem::replace(&mut self.before, now);
        (now.0 - before.0, now.1 - before.1)
    }
}

#[test]
fn samples_of_one_prompt_read_it_once() {
    let ledger = Ledger::new(64).endless();
    let log = ledger.log();
    let engine = start(ledger, WIDE);
    let policy = engine.policy("base", None).unwrap();
    let generations = policy.generate(&[sampled(tokens(1, 100), 8, 6, 3)]).unwrap().remove(0);
    assert_eq!(Counter::new(&engine).since(), (100, 700));
    // Four tokens on the last page: a copy for each that follows, none for the first.
    assert_eq!(log.lock().copies, 7);
    let distinct: std::collections::BTreeSet<_> = generations.iter().map(|g| &g.tokens).collect();
    assert!(distinct.len() > 4, "each draws its own tokens");
    // With more samples than rows they start as others end, and still read nothing.
    let few = start(Ledger::new(64).endless(), EngineSettings { rows: 3, ..WIDE });
    let policy = few.policy("base", None).unwrap();
    let again = policy.generate(&[sampled(tokens(1, 100), 8, 6, 3)]).unwrap().remove(0);
    assert_eq!(again, generations);
    assert_eq!(Counter::new(&few).since(), (100, 700));
}

#[test]
fn the_next_turn_reads_only_what_is_new_and_a_branch_only_what_differs() {
    let engine = start(Ledger::new(64).endless(), WIDE);
    let policy = engine.policy("base", None).unwrap();
    let mut counter = Counter::new(&engine);
    let prompt = tokens(1, 70);
    let first = policy.generate(&[Request::new(prompt.clone(), 30)]).unwrap().remove(0).remove(0);
    assert_eq!(counter.since(), (70, 0));
    let n = first.tokens.len() as u64;
    let turn = [prompt.clone(), first.tokens.clone(), tokens(5, 12)].concat();
    policy.generate(&[Request::new(turn.clone(), 10)]).unwrap();
    // The last token of a turn was drawn and never read.
    assert_eq!(counter.since(), (13, 70 + n - 1));
    for cut in [1, 31, 32, 33, 64, 69, 70, turn.len() - 1] {
        let branch = [&turn[..cut], &[94, 93, 92, 91, 90]].concat();
        policy.generate(&[Request::new(branch, 3)]).unwrap();
        assert_eq!(counter.since(), (5, cut as u64), "a branch behind {cut} tokens");
    }
    // All is there, but the last token's logits are not.
    policy.generate(&[Request::new(turn.clone(), 3)]).unwrap();
    assert_eq!(counter.since(), (1, turn.len() as u64 - 1));
}

#[test]
fn what_is_being_read_is_waited_for() {
    // Twenty prompts that begin with the same 200 tokens, submitted together.
    let engine = start(Ledger::new(256).endless(), WIDE);
    let policy = engine.policy("base", None).unwrap();
    let prompt = |i: u32| [tokens(1, 200), tokens(i + 2, 10)].concat();
    let requests: Vec<Request> = (0..20).map(|i| Request::new(prompt(i), 5)).collect();
    policy.generate(&requests).unwrap();
    assert_eq!(Counter::new(&engine).since(), (200 + 20 * 10, 19 * 200));
    assert!(engine.statistics().steps < 10, "and they run side by side");
}

#[test]
fn when_the_one_who_reads_is_cancelled_another_goes_on() {
    let tickets: Arc<Mutex<Vec<Option<Ticket>>>> = Arc::default();
    let stage = tickets.clone();
    let ledger = Ledger::new(64).endless().with_hook(move |step, _| {
        // In the fourth step the first has read three times 32 tokens.
        if step == 4 {
            drop(stage.lock()[0].take());
        }
        Ok(())
    });
    let settings = EngineSettings { rows: 8, step_tokens: 32, queue: 8 };
    let engine = start(ledger, settings);
    let policy = engine.policy("base", None).unwrap();
    let mut guard = tickets.lock();
    for i in 0..4 {
        let prompt = [tokens(1, 200), tokens(i + 2, 3)].concat();
        guard.push(Some(policy.submit(Request::new(prompt, 4)).unwrap()));
    }
    let waiting: Vec<Ticket> = guard[1..].iter_mut().map(|t| t.take().unwrap()).collect();
    drop(guard);
    for ticket in waiting {
        assert_eq!(ticket.wait().unwrap()[0].tokens.len(), 4);
    }
    let (read, shared) = Counter::new(&engine).since();
    // 200 tokens, four tails less the one that was cancelled, and at most what is not worth
    // waiting for.
    assert!((209..209 + 3 * 16).contains(&read), "{read} tokens were read");
    assert!(shared > 450, "{shared} positions were shared");
}

#[test]
fn versions_share_no_prefix() {
    let engine = start(Ledger::new(64).endless(), WIDE);
    let adapter = crate::runner::adapter(&super::tiny_model().decoder, 1);
    let base = engine.policy("base", None).unwrap();
    let adapted = engine.policy("a", Some(&adapter)).unwrap();
    let mut counter = Counter::new(&engine);
    let request = Request::new(tokens(1, 90), 5);
    for policy in [&base, &adapted] {
        policy.generate(std::slice::from_ref(&request)).unwrap();
        assert_eq!(counter.since(), (90, 0));
        policy.generate(std::slice::from_ref(&request)).unwrap();
        assert_eq!(counter.since(), (1, 89));
    }
    // Loaded again under the same name it may have other weights.
    let again = engine.policy("a", Some(&adapter)).unwrap();
    again.generate(std::slice::from_ref(&request)).unwrap();
    assert_eq!(counter.since(), (90, 0));
    drop((adapted, again));
    engine.policy("last", None).unwrap();
    let pages = engine.statistics().pages_cached;
    assert!((3..=4).contains(&pages), "only the base model's are kept: {pages}");
}

#[test]
fn memory_goes_to_what_is_needed_and_what_is_longest_out_of_use_goes_first() {
    // Ten pages; a request of 70 + 20 tokens takes three.
    let engine = start(Ledger::new(10).endless(), WIDE);
    let policy = engine.policy("base", None).unwrap();
    let mut counter = Counter::new(&engine);
    let mut ask = |seed| {
        policy.generate(&[Request::new(tokens(seed, 70), 20)]).unwrap();
        counter.since()
    };
    for seed in 1..=3 {
        assert_eq!(ask(seed), (70, 0));
    }
    // The first is used again, so the second is what gives way.
    assert_eq!(ask(1), (1, 69));
    assert_eq!(ask(4), (70, 0));
    assert_eq!(ask(1), (1, 69));
    assert_eq!(ask(3), (1, 69));
    let (read, shared) = ask(2);
    assert!(read > 35 && shared < 35, "{read} read, {shared} shared");
    let statistics = engine.statistics();
    assert_eq!((statistics.pages, statistics.pages_in_use), (10, 0));
    assert!(statistics.pages_cached >= 9);
}
