//! A runner that keeps books instead of computing: it notes which token of which sequence lies
//! where, fails the test when the engine breaks the contract of a step, and gives logits that
//! follow from all tokens of a sequence and its adapter.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use candle_core::Result;
use nightschool::model::lora::Adapter;
use nightschool::model::lora::Target;
use nightschool::model::runner::AdapterSlot;
use nightschool::model::runner::PAGE;
use nightschool::model::runner::RunBatch;
use nightschool::model::runner::Runner;
use nightschool::model::runner::Wanted;
use parking_lot::Mutex;

pub(super) const VOCABULARY: usize = 96;
/// The token that ends a text.
const END: usize = 95;

/// Called before each step, with its number from 1.
pub(super) type Hook = Box<dyn FnMut(u64, &RunBatch) -> Result<()> + Send>;

/// A token in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    position: usize,
    token: u32,
    adapter: Option<AdapterSlot>,
}

/// What happened, for the test to look at.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) steps: Vec<RunBatch>,
    /// Adapters held.
    pub(super) adapters: BTreeMap<AdapterSlot, u64>,
    pub(super) copies: usize,
}

pub(super) struct Ledger {
    pages: Vec<[Option<Entry>; PAGE]>,
    next_slot: u32,
    hook: Hook,
    log: Arc<Mutex<Log>>,
    logits: Vec<f32>,
    endless: bool,
}

impl Ledger {
    pub(super) fn new(pages: usize) -> Self {
        let hook = Box::new(|_: u64, _: &RunBatch| Ok(()));
        let (log, logits) = (Arc::default(), Vec::new());
        let pages = vec![[None; PAGE]; pages];
        Self { pages, next_slot: 0, hook, log, logits, endless: false }
    }

    pub(super) fn with_hook(
        self,
        hook: impl FnMut(u64, &RunBatch) -> Result<()> + Send + 'static,
    ) -> Self {
        Self { hook: Box::new(hook), ..self }
    }

    /// No text ends by itself.
    pub(super) fn endless(self) -> Self {
        Self { endless: true, ..self }
    }

    pub(super) fn log(&self) -> Arc<Mutex<Log>> {
        self.log.clone()
    }

    /// The tokens before and in a span, as its pages have them.
    fn sequence(&self, pages: &[u32], length: usize, adapter: Option<AdapterSlot>) -> Vec<u32> {
        let of = |position: usize| {
            let page = pages[position / PAGE] as usize;
            let entry = self.pages[page][position % PAGE];
            let entry = entry.unwrap_or_else(|| panic!("position {position} was never written"));
            assert_eq!(entry.position, position, "page {page} holds another place's token");
            assert_eq!(entry.adapter, adapter, "page {page} was read by another version");
            entry.token
        };
        (0..length).map(of).collect()
    }
}

/// The contract of a step.
fn check(batch: &RunBatch) {
    assert!(!batch.tokens.is_empty());
    let mut end = 0;
    let mut written: BTreeSet<u32> = BTreeSet::new();
    for span in &batch.spans {
        assert_eq!(span.range.start, end, "spans follow each other");
        assert!(!span.range.is_empty());
        end = span.range.end;
        let reach = span.past + span.range.len();
        assert!(span.pages.len() * PAGE >= reach, "room for the span");
        for page in &span.pages[span.past / PAGE..reach.div_ceil(PAGE)] {
            assert!(written.insert(*page), "page {page} is written twice");
        }
    }
    assert_eq!(end, batch.tokens.len());
    for page in written {
        let holders = batch.spans.iter().filter(|span| span.pages.contains(&page)).count();
        assert_eq!(holders, 1, "page {page} is written and read by others");
    }
}

fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The logits behind a sequence.
pub(super) fn logits(tokens: &[u32], adapter: u64) -> Vec<f32> {
    let state = tokens.iter().fold(mixed(adapter + 1), |state, token| {
        mixed(state.wrapping_mul(31).wrapping_add(u64::from(*token) + 1))
    });
    let of = |token: u64| (mixed(state ^ (token << 32)) >> 40) as f32 / (1 << 24) as f32 * 6.0;
    (0..VOCABULARY as u64).map(of).collect()
}

impl Runner for Ledger {
    fn pages(&self) -> usize {
        self.pages.len()
    }

    fn run(&mut self, batch: &RunBatch) -> Result<&mut [f32]> {
        let number = self.log.lock().steps.len() as u64 + 1;
        check(batch);
        self.log.lock().steps.push(batch.clone());
        (self.hook)(number, batch)?;
        for span in &batch.spans {
            for (offset, token) in batch.tokens[span.range.clone()].iter().enumerate() {
                let position = span.past + offset;
                let page = span.pages[position / PAGE] as usize;
                let entry = Entry { position, token: *token, adapter: span.adapter };
                self.pages[page][position % PAGE] = Some(entry);
            }
        }
        self.logits = Vec::new();
        for span in &batch.spans {
            let adapters = &self.log.lock().adapters;
            let adapter = span.adapter.map_or(0, |slot| adapters[&slot]);
            let reach = span.past + span.range.len();
            let sequence = self.sequence(&span.pages, reach, span.adapter);
            let first = match span.wanted {
                Wanted::Nothing => reach,
                Wanted::Last => reach - 1,
                Wanted::All => span.past,
            };
            for position in first..reach {
                self.logits.extend(logits(&sequence[..=position], adapter));
            }
        }
        if self.endless {
            self.logits.chunks_exact_mut(VOCABULARY).for_each(|row| row[END] = -99.0);
        }
        Ok(&mut self.logits)
    }

    fn copy_page(&mut self, from: u32, to: u32, positions: usize) -> Result<()> {
        assert!(from != to && positions > 0 && positions <= PAGE);
        self.log.lock().copies += 1;
        let source = self.pages[from as usize];
        let target = &mut self.pages[to as usize];
        *target = [None; PAGE];
        target[..positions].copy_from_slice(&source[..positions]);
        Ok(())
    }

    fn add_adapter(&mut self, adapter: &Adapter) -> Result<AdapterSlot> {
        let slot = AdapterSlot(self.next_slot);
        self.next_slot += 1;
        let pair = adapter.pair(0, Target::Query).expect("an adapter of queries");
        let sum: f32 = pair.a.sum_all()?.to_scalar()?;
        self.log.lock().adapters.insert(slot, u64::from(sum.to_bits()));
        Ok(slot)
    }

    fn remove_adapter(&mut self, slot: AdapterSlot) {
        assert!(self.log.lock().adapters.remove(&slot).is_some(), "an adapter that is there");
    }

    fn take_times(&mut self) -> BTreeMap<&'static str, Duration> {
        BTreeMap::new()
    }
}
