//! Requests that come and go at any step, of the base model and two adapters: each has the result
//! that it has alone.

use std::sync::Arc;

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use nightschool::inference::Engine;
use nightschool::inference::GenerateError;
use nightschool::inference::Generation;
use nightschool::inference::Generator as _;
use nightschool::inference::Policy;
use nightschool::inference::Request;
use nightschool::inference::Sampling;
use nightschool::inference::Ticket;
use nightschool::model::lora::Adapter;
use nightschool::model::runner::AdapterSlot;
use nightschool::model::runner::PortableRunner;
use nightschool::model::runner::RunBatch;
use nightschool::model::runner::Runner;
use nightschool::model::runner::cpu::CpuRunner;
use nightschool::model::runner::cpu::CpuSettings;
use nightschool::model::runner::cpu::MatmulUnit;
use nightschool::model::runner::cpu::WeightForm;
use nightschool::rng;
use nightschool::rng::Rng;
use nightschool::rollout::StopReason;
use parking_lot::Mutex;
use proptest::prelude::*;
use rand::Rng as _;

use super::SMALL;
use super::ledger::Ledger;
use super::start;
use super::tiny_model;
use super::tokens;
use crate::runner::adapter;

/// A request, with when it comes and goes.
#[derive(Debug, Clone)]
struct Visit {
    request: Request,
    /// 0 the base model, 1 and 2 the adapters.
    version: usize,
    arrives: u64,
    cancelled: Option<u64>,
}

fn visits(draws: &mut Rng, n: usize) -> Vec<Visit> {
    let visit = |index: usize| {
        // Few beginnings, so that there is something to share, cut anywhere.
        let stem = tokens(draws.random_range(0..3), 130);
        let mut prompt = stem[..draws.random_range(1..=130)].to_vec();
        prompt.extend(tokens(index as u32 + 10, draws.random_range(0..20)));
        let sampling = [Sampling::GREEDY, Sampling::at(1.0)][draws.random_range(0..2)];
        let request = Request {
            samples: draws.random_range(1..5),
            sampling,
            seed: draws.random_range(0..1000),
            ..Request::new(prompt, draws.random_range(1..40))
        };
        let arrives = draws.random_range(0..60);
        let cancelled = draws.random_bool(0.2).then(|| arrives + draws.random_range(0..20));
        Visit { request, version: draws.random_range(0..3), arrives, cancelled }
    };
    (0..n).map(visit).collect()
}

/// What the hook needs at every step.
struct Stage {
    visits: Vec<Visit>,
    /// None once all have arrived: requests keep their version loaded themselves.
    policies: Option<Vec<Policy>>,
    tickets: Vec<Option<Ticket>>,
}

impl Stage {
    fn at(&mut self, step: u64) {
        for (visit, ticket) in self.visits.iter().zip(&mut self.tickets) {
            if let (true, Some(policies)) = (visit.arrives <= step, &self.policies) {
                let submit = || policies[visit.version].submit(visit.request.clone()).unwrap();
                ticket.get_or_insert_with(submit);
            }
            if let (true, Some(ticket)) = (visit.cancelled.is_some_and(|at| at <= step), ticket) {
                ticket.cancel();
            }
        }
        if self.tickets.iter().all(Option::is_some) {
            self.policies = None;
        }
    }
}

/// A runner with something to do before each step.
struct Hooked<H> {
    inner: Box<dyn Runner>,
    hook: H,
    steps: u64,
}

impl<H: FnMut(u64) + Send> Runner for Hooked<H> {
    fn pages(&self) -> usize {
        self.inner.pages()
    }

    fn run(&mut self, batch: &RunBatch) -> Result<&mut [f32]> {
        self.steps += 1;
        (self.hook)(self.steps);
        self.inner.run(batch)
    }

    fn copy_page(&mut self, from: u32, to: u32, positions: usize) -> Result<()> {
        self.inner.copy_page(from, to, positions)
    }

    fn add_adapter(&mut self, adapter: &Adapter) -> Result<AdapterSlot> {
        self.inner.add_adapter(adapter)
    }

    fn remove_adapter(&mut self, slot: AdapterSlot) {
        self.inner.remove_adapter(slot);
    }

    fn take_times(&mut self) -> std::collections::BTreeMap<&'static str, std::time::Duration> {
        self.inner.take_times()
    }
}

fn portable(pages: usize) -> Box<dyn Runner> {
    let decoder = tiny_model().decoder.to(&Device::Cpu, DType::F32).unwrap();
    Box::new(PortableRunner::new(decoder, pages).unwrap())
}

fn cpu(pages: usize) -> Box<dyn Runner> {
    let decoder = &tiny_model().decoder;
    let kv_bytes = pages * CpuRunner::<f32>::page_bytes(decoder);
    let (unit, weights) = (MatmulUnit::best(), WeightForm::AsStored);
    let settings = CpuSettings { kv_bytes, threads: 2, unit, weights };
    Box::new(CpuRunner::<f32>::new(decoder, settings).unwrap())
}

fn adapters() -> [Adapter; 2] {
    [1, 2].map(|seed| adapter(&tiny_model().decoder, seed))
}

/// The policies of base and adapters.
fn policies(engine: &Engine) -> Vec<Policy> {
    let [a, b] = adapters();
    let of = |name, adapter| engine.policy(name, adapter).unwrap();
    vec![of("base", None), of("a", Some(&a)), of("b", Some(&b))]
}

type Results = Vec<std::result::Result<Vec<Generation>, GenerateError>>;

/// All visits to one engine; and whether it gave all memory back.
fn together(visits: &[Visit], start: impl FnOnce(Arc<Mutex<Option<Stage>>>) -> Engine) -> Results {
    let stage: Arc<Mutex<Option<Stage>>> = Arc::default();
    let engine = start(stage.clone());
    let policies = policies(&engine);
    // Somebody is there from the first step to the last arrival.
    let clock = Request::new(tokens(9, 5), 80);
    let tickets = visits.iter().map(|_| None).collect();
    let base = policies[0].clone();
    *stage.lock() = Some(Stage { visits: visits.to_vec(), policies: Some(policies), tickets });
    base.generate(&[clock]).unwrap();
    drop(base);
    // The clock may have ended early.
    let mut guard = stage.lock();
    guard.as_mut().unwrap().at(u64::MAX - 1);
    let tickets: Vec<Ticket> =
        guard.as_mut().unwrap().tickets.drain(..).map(Option::unwrap).collect();
    drop(guard);
    let results = tickets.into_iter().map(Ticket::wait).collect();
    // A request behind the last `Forget`, so that the numbers are those after it.
    engine.policy("last", None).unwrap();
    let statistics = engine.statistics();
    assert_eq!((statistics.rows, statistics.waiting), (0, 0));
    assert_eq!((statistics.pages_in_use, statistics.pages_cached), (0, 0));
    results
}

/// Each visit alone, nobody's pages in memory.
fn alone(visits: &[Visit], engine: &Engine) -> Vec<Vec<Generation>> {
    let all = visits.iter().map(|visit| {
        let policy = policies(engine).swap_remove(visit.version);
        policy.generate(std::slice::from_ref(&visit.request)).unwrap().remove(0)
    });
    all.collect()
}

fn compare(visits: &[Visit], found: Results, expected: Vec<Vec<Generation>>, tolerance: f32) {
    for ((visit, found), expected) in visits.iter().zip(found).zip(expected) {
        let found = found.unwrap();
        assert_eq!(found.len(), visit.request.samples);
        for (found, expected) in found.iter().zip(&expected) {
            let n = found.tokens.len();
            if found.stop == StopReason::Cancelled {
                assert!(visit.cancelled.is_some());
            } else {
                assert_eq!((n, found.stop), (expected.tokens.len(), expected.stop), "{visit:?}");
                assert_eq!(found.text, expected.text);
            }
            assert_eq!(found.tokens, expected.tokens[..n], "{visit:?}");
            assert_eq!((found.logprobs.len(), found.scores.len()), (n, n));
            for (a, b) in found.logprobs.iter().zip(&expected.logprobs) {
                assert!((a - b).abs() <= tolerance, "{a} and {b} of {visit:?}");
            }
            for (a, b) in found.scores.iter().zip(&expected.scores) {
                assert!((a.logprob - b.logprob).abs() <= tolerance, "{a:?} and {b:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// Exactly, by the books. With 14 pages the longest request has its whole memory and others
    /// wait; with 40 there is room for what is shared.
    #[test]
    fn whoever_comes_and_goes_has_what_it_has_alone(
        seed in any::<u64>(),
        n in 1_usize..14,
        pages in prop::sample::select(vec![6_usize, 14, 40]),
    ) {
        let visits = visits(&mut rng::stream(seed, &["visits"]), n);
        let found = together(&visits, |stage| {
            let hook = move |step, _: &RunBatch| {
                if let Some(stage) = stage.lock().as_mut() {
                    stage.at(step);
                }
                Ok(())
            };
            start(Ledger::new(pages).with_hook(hook), SMALL)
        });
        let expected = alone(&visits, &start(Ledger::new(6), SMALL));
        compare(&visits, found, expected, 0.0);
    }
}

/// The same with a model, on a runner that `make` makes.
fn check_model(seeds: std::ops::Range<u64>, make: fn(usize) -> Box<dyn Runner>, tolerance: f32) {
    for seed in seeds {
        let visits = visits(&mut rng::stream(seed, &["visits"]), 10);
        let hooked = |stage: Arc<Mutex<Option<Stage>>>| {
            let hook = move |step| {
                if let Some(stage) = stage.lock().as_mut() {
                    stage.at(step);
                }
            };
            Hooked { inner: make(20), hook, steps: 0 }
        };
        let found = together(&visits, |stage| start(hooked(stage), SMALL));
        let expected = alone(&visits, &start(hooked(Arc::default()), SMALL));
        compare(&visits, found, expected, tolerance);
    }
}

/// Bit for bit.
#[test]
fn the_cpu_writes_the_same_whoever_shares_its_steps() {
    check_model(0..20, cpu, 0.0);
}

/// Candle's rows may differ in the last bits with what shares the step, so the mixtures are always
/// the same ones: none of them comes near a draw that this could turn.
#[test]
fn candle_writes_the_same_whoever_shares_its_steps() {
    check_model(0..6, portable, 1e-4);
}

/// Adapters that are loaded and dropped while requests of theirs and others run.
#[test]
fn versions_come_and_go_between_steps() {
    let ledger = Ledger::new(40);
    let log = ledger.log();
    let engine = start(ledger, SMALL);
    let request = |seed| super::sampled(tokens(1, 60), 2, 30, seed);
    let mut tickets = Vec::new();
    for round in 0..5 {
        for policy in policies(&engine) {
            tickets.push(policy.submit(request(round)).unwrap());
            // The only handle goes; the request keeps the version.
        }
    }
    let results: Vec<_> = tickets.into_iter().map(|ticket| ticket.wait().unwrap()).collect();
    let engine_alone = start(Ledger::new(6), SMALL);
    for (index, found) in results.iter().enumerate() {
        let policy = policies(&engine_alone).swap_remove(index % 3);
        let expected = policy.generate(&[request(index as u64 / 3)]).unwrap();
        assert_eq!(found, &expected[0]);
    }
    assert_ne!(results[0], results[1], "the adapters are not the base model");
    engine.policy("last", None).unwrap();
    assert!(log.lock().adapters.is_empty(), "all adapters were removed");
    assert_eq!(engine.statistics().pages_cached, 0, "and what they had read");
}
