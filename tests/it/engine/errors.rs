//! What cannot be served, what is given up, and what breaks: nobody waits for ever, and others go
//! on.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use nightschool::inference::Continuation;
use nightschool::inference::Engine;
use nightschool::inference::EngineSettings;
use nightschool::inference::GenerateError;
use nightschool::inference::Generator as _;
use nightschool::inference::Request;
use nightschool::rollout::StopReason;
use parking_lot::Mutex;

use super::SMALL;
use super::ledger::Ledger;
use super::sampled;
use super::start;
use super::tiny_model;
use super::tokens;

/// Lets a test hold the engine before a step.
struct Gate {
    entered: mpsc::Receiver<u64>,
    go: mpsc::Sender<()>,
}

/// A ledger whose every step waits for the gate.
fn gated(pages: usize) -> (Ledger, Gate) {
    let (entering, entered) = mpsc::channel();
    let (go, going) = mpsc::channel();
    let going = Mutex::new(going);
    let ledger = Ledger::new(pages).endless().with_hook(move |step, _| {
        // Once the test has let the gate go, steps run freely.
        if entering.send(step).is_ok() {
            let _ = going.lock().recv();
        }
        Ok(())
    });
    (ledger, Gate { entered, go })
}

#[test]
fn what_can_never_be_served_is_refused_with_a_reason() {
    let engine = start(Ledger::new(4).endless(), SMALL);
    let policy = engine.policy("base", None).unwrap();
    let error = |request: Request| policy.submit(request).err().unwrap().to_string();
    assert_eq!(error(Request::new(vec![], 3)), "a prompt needs at least one token");
    let long = error(Request::new(vec![1; 200], 57));
    assert_eq!(long, "a prompt of 200 tokens and 57 new ones exceed the model's 256");
    let large = error(Request::new(vec![1; 120], 10));
    assert!(large.contains("129 positions exceed the memory for 128"), "{large}");
    assert!(large.contains("inference.kv_mb"), "{large}");
    let unknown = error(Request::new(vec![1, 96], 3));
    assert_eq!(unknown, "token 96 is not in the model's vocabulary of 96");
    let given = Continuation { prompt: vec![1], tokens: vec![2, 97] };
    assert!(matches!(policy.score(&[given]), Err(GenerateError::UnknownToken { token: 97, .. })));
    // One bad request among others: none is begun.
    let requests = [Request::new(vec![1], 3), Request::new(vec![], 3)];
    assert!(matches!(policy.generate(&requests), Err(GenerateError::EmptyPrompt)));
    // The whole memory is not too much: the last token is never read.
    assert_eq!(policy.generate(&[Request::new(vec![1; 120], 9)]).unwrap()[0].len(), 1);
    assert_eq!(engine.statistics().failed_steps, 0);
}

#[test]
fn nothing_is_an_answer_to_a_request_for_nothing() {
    let engine = start(Ledger::new(4).endless(), SMALL);
    let policy = engine.policy("base", None).unwrap();
    let none = Request { samples: 0, ..Request::new(vec![1], 3) };
    let empty = Request { samples: 2, ..Request::new(vec![1], 0) };
    let results = policy.generate(&[none, empty]).unwrap();
    assert!(results[0].is_empty());
    assert_eq!(results[1].len(), 2);
    assert_eq!((results[1][0].tokens.len(), results[1][0].stop), (0, StopReason::Length));
    let given = Continuation { prompt: vec![1], tokens: vec![] };
    assert_eq!(policy.score(&[given]).unwrap(), [vec![]]);
    assert!(policy.generate(&[]).unwrap().is_empty());
    assert_eq!(engine.statistics().steps, 0);
}

#[test]
fn a_cancelled_request_has_what_was_written_by_then() {
    let (ledger, gate) = gated(30);
    let engine = start(ledger, SMALL);
    let policy = engine.policy("base", None).unwrap();
    let ticket = policy.submit(sampled(tokens(1, 20), 2, 50, 1)).unwrap();
    let other = policy.submit(sampled(tokens(2, 20), 1, 5, 1)).unwrap();
    for _ in 0..3 {
        gate.entered.recv().unwrap();
        gate.go.send(()).unwrap();
    }
    gate.entered.recv().unwrap();
    ticket.cancel();
    drop(gate);
    let cancelled = ticket.wait().unwrap();
    for generation in &cancelled {
        assert_eq!(generation.stop, StopReason::Cancelled);
        assert!((2..=5).contains(&generation.tokens.len()), "{}", generation.tokens.len());
        assert_eq!(generation.text.chars().count(), generation.tokens.len());
    }
    assert_eq!(other.wait().unwrap()[0].tokens.len(), 5);
    // Dropping a ticket is giving up, too.
    drop(policy.submit(sampled(tokens(3, 20), 2, 50, 1)).unwrap());
    policy.generate(&[Request::new(tokens(4, 5), 2)]).unwrap();
    assert_eq!((engine.statistics().pages_in_use, engine.statistics().rows), (0, 0));
}

#[test]
fn a_deadline_ends_a_request_whether_it_has_begun_or_not() {
    let engine = start(Ledger::new(30).endless(), SMALL);
    let policy = engine.policy("base", None).unwrap();
    let within = |deadline| Request { deadline: Some(deadline), ..sampled(vec![1, 2], 3, 4, 1) };
    let results = policy.generate(&[within(Duration::ZERO), within(Duration::MAX)]).unwrap();
    assert_eq!(results[0].len(), 3);
    for generation in &results[0] {
        assert_eq!((generation.tokens.len(), generation.stop), (0, StopReason::Deadline));
    }
    assert!(results[1].iter().all(|generation| generation.stop != StopReason::Deadline));
}

#[test]
fn the_queue_is_bounded_and_generate_waits_for_room() {
    let (ledger, gate) = gated(30);
    let engine = start(ledger, EngineSettings { rows: 1, step_tokens: 32, queue: 2 });
    let policy = engine.policy("base", None).unwrap();
    let request = |seed| Request::new(tokens(seed, 5), 3);
    let running = policy.submit(request(1)).unwrap();
    gate.entered.recv().unwrap();
    // It has begun, so it does not wait any more.
    let waiting = [policy.submit(request(2)).unwrap(), policy.submit(request(3)).unwrap()];
    let error = policy.submit(request(4)).err().unwrap();
    assert!(matches!(error, GenerateError::QueueFull { waiting: 2 }), "{error}");
    assert!(error.to_string().contains("inference.queue"), "{error}");
    assert_eq!(engine.statistics().waiting, 2);
    std::thread::scope(|scope| {
        let many: Vec<Request> = (5..12).map(request).collect();
        let policy = &policy;
        let generated = scope.spawn(move || policy.generate(&many).unwrap().len());
        drop(gate);
        assert_eq!(generated.join().unwrap(), 7);
    });
    for ticket in waiting.into_iter().chain([running]) {
        assert_eq!(ticket.wait().unwrap().len(), 1);
    }
}

#[test]
fn an_interrupt_fails_everything_while_it_is_set() {
    let interrupt = Arc::new(AtomicBool::new(false));
    let flag = interrupt.clone();
    let ledger = Ledger::new(30).endless().with_hook(move |step, _| {
        flag.store(step == 3, Ordering::Relaxed);
        Ok(())
    });
    let engine = Engine::start(tiny_model(), Box::new(ledger), SMALL, interrupt.clone()).unwrap();
    let policy = engine.policy("base", None).unwrap();
    let requests: Vec<Request> = (0..10).map(|i| Request::new(tokens(i, 30), 20)).collect();
    assert!(matches!(policy.generate(&requests), Err(GenerateError::Interrupted)));
    assert!(matches!(policy.generate(&requests), Err(GenerateError::Interrupted)));
    interrupt.store(false, Ordering::Relaxed);
    assert_eq!(policy.generate(&requests).unwrap().len(), 10);
}

#[test]
fn a_step_that_fails_costs_the_requests_in_it_and_no_others() {
    let (submitted, all) = mpsc::channel();
    let all = Mutex::new(all);
    let ledger = Ledger::new(30).endless().with_hook(move |step, _| match step {
        1 => all.lock().recv().map_err(candle_core::Error::wrap),
        4 => candle_core::bail!("out of luck"),
        _ => Ok(()),
    });
    let engine = start(ledger, EngineSettings { rows: 2, step_tokens: 48, queue: 16 });
    let policy = engine.policy("base", None).unwrap();
    let requests: Vec<Request> = (0..4).map(|i| sampled(tokens(i, 40), 1, 20, 1)).collect();
    let tickets: Vec<_> = requests.iter().map(|r| policy.submit(r.clone()).unwrap()).collect();
    submitted.send(()).unwrap();
    let results: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait()).collect();
    let failed: Vec<bool> = results.iter().map(Result::is_err).collect();
    assert_eq!(failed, [true, true, false, false], "two ran, two waited");
    let error = results[0].as_ref().unwrap_err().to_string();
    assert_eq!(error, "a step of the generation engine failed: out of luck; other requests go on");
    // What was read before the failure is right, and so is what comes now.
    let expected = start(Ledger::new(30).endless(), SMALL);
    let expected = expected.policy("base", None).unwrap().generate(&requests).unwrap();
    assert_eq!(policy.generate(&requests).unwrap(), expected);
    let statistics = engine.statistics();
    assert_eq!((statistics.failed_steps, statistics.pages_in_use), (1, 0));
}

#[test]
fn a_panic_ends_the_engine_with_an_error_for_everyone() {
    let ledger = Ledger::new(30).endless().with_hook(|step, _| match step {
        3 => panic!("the runner is broken"),
        _ => Ok(()),
    });
    let engine = start(ledger, EngineSettings { rows: 1, step_tokens: 48, queue: 3 });
    let policy = engine.policy("base", None).unwrap();
    let ticket = policy.submit(sampled(tokens(1, 40), 3, 20, 1)).unwrap();
    std::thread::scope(|scope| {
        // Some wait in the queue, some for room in it.
        let waiting: Vec<_> = (0..8)
            .map(|i| {
                scope.spawn({
                    let policy = policy.clone();
                    move || policy.generate(&[sampled(tokens(i, 9), 1, 20, 1)])
                })
            })
            .collect();
        for thread in waiting {
            let error = thread.join().unwrap().unwrap_err().to_string();
            assert!(error.contains("it panicked: the runner is broken"), "{error}");
        }
    });
    assert!(matches!(ticket.wait(), Err(GenerateError::Stopped(_))));
    assert!(matches!(policy.submit(Request::new(vec![1], 1)), Err(GenerateError::Stopped(_))));
    assert!(matches!(engine.policy("late", None), Err(GenerateError::Stopped(_))));
}

#[test]
fn dropping_the_engine_fails_what_is_under_way() {
    let (ledger, gate) = gated(30);
    let engine = start(ledger, SMALL);
    let policy = engine.policy("base", None).unwrap();
    let tickets = [1, 2].map(|seed| policy.submit(sampled(tokens(seed, 5), 1, 200, 1)).unwrap());
    gate.entered.recv().unwrap();
    let ending = std::thread::spawn(move || drop(engine));
    // Whether the engine is told before or after this step, it ends behind one.
    drop(gate);
    for ticket in tickets {
        match ticket.wait() {
            Err(GenerateError::Stopped(reason)) => assert_eq!(reason, "it was shut down"),
            // The text may have ended before.
            Ok(generations) => assert_eq!(generations.len(), 1),
            Err(error) => panic!("{error}"),
        }
    }
    ending.join().unwrap();
    let error = policy.generate(&[Request::new(vec![1], 1)]).unwrap_err();
    assert_eq!(error.to_string(), "the generation engine has ended: it was shut down");
}
