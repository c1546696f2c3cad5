//! Runners against the decoder: the same logits for every model family, however a sequence is cut
//! into steps, whoever shares the step, and with adapters.

use std::collections::BTreeMap;

use candle_core::DType;
use candle_core::Device;
use half::f16;
use nightschool::inference::TokenScore;
use nightschool::model::Model;
use nightschool::model::decoder::Decoder;
use nightschool::model::lora::Adapter;
use nightschool::model::lora::LoraShape;
use nightschool::model::lora::TargetSet;
use nightschool::model::runner::AdapterSlot;
use nightschool::model::runner::PAGE;
use nightschool::model::runner::PortableRunner;
use nightschool::model::runner::RunBatch;
use nightschool::model::runner::Runner;
use nightschool::model::runner::Wanted;
use nightschool::model::runner::cpu::CpuRunner;
use nightschool::model::runner::cpu::CpuSettings;
use nightschool::model::runner::cpu::MatmulUnit;
use nightschool::model::runner::cpu::WeightForm;
use nightschool::rng;
use rand::Rng as _;

use crate::families;
use crate::support;
use crate::torch;

/// A runner for a decoder with so many pages.
type Make = fn(&Decoder, usize) -> Box<dyn Runner>;

fn portable(decoder: &Decoder, pages: usize) -> Box<dyn Runner> {
    let decoder = decoder.to(&Device::Cpu, DType::F32).unwrap();
    Box::new(PortableRunner::new(decoder, pages).unwrap())
}

fn cpu(decoder: &Decoder, pages: usize) -> Box<dyn Runner> {
    on_unit(decoder, pages, MatmulUnit::best())
}

fn plain(decoder: &Decoder, pages: usize) -> Box<dyn Runner> {
    on_unit(decoder, pages, MatmulUnit::Plain)
}

fn on_unit(decoder: &Decoder, pages: usize, unit: MatmulUnit) -> Box<dyn Runner> {
    let kv_bytes = pages * CpuRunner::<f32>::page_bytes(decoder);
    Box::new(CpuRunner::<f32>::new(decoder, CpuSettings { kv_bytes, ..settings(unit) }).unwrap())
}

fn settings(unit: MatmulUnit) -> CpuSettings {
    CpuSettings { kv_bytes: 1 << 27, threads: 2, unit, weights: WeightForm::AsStored }
}

/// All runners there are; those of the CPU on every unit are compared below.
const RUNNERS: [(&str, Make); 3] = [("portable", portable), ("cpu", cpu), ("plain", plain)];

/// The largest difference relative to the largest value: 1e-5 was seen with f32 products, 1e-4 with
/// those of the tile unit.
const TOLERANCE: f32 = 1e-3;

/// An adapter that changes something.
pub(crate) fn adapter(decoder: &Decoder, seed: u64) -> Adapter {
    let shape = LoraShape { rank: 3, alpha: 6.0, dropout: 0.0, targets: TargetSet::ALL };
    let mut draws = rng::stream(seed, &["adapter"]);
    let adapter = Adapter::fresh(decoder.config(), shape, &mut draws).unwrap();
    for variable in adapter.variables().values() {
        let n = variable.as_tensor().elem_count();
        let values: Vec<f32> = (0..n).map(|_| draws.random_range(-0.1..0.1)).collect();
        let dims = variable.as_tensor().dims();
        variable.set(&candle_core::Tensor::from_vec(values, dims, &Device::Cpu).unwrap()).unwrap();
    }
    adapter
}

/// A sequence that is read in parts, with all its logits.
struct Reading<'a> {
    tokens: &'a [u32],
    pages: Vec<u32>,
    adapter: Option<AdapterSlot>,
    filled: usize,
    logits: Vec<Vec<f32>>,
}

/// Reads parts of several sequences in one step.
fn step(runner: &mut dyn Runner, parts: &mut [(&mut Reading<'_>, usize)]) {
    let mut batch = RunBatch::default();
    for (reading, length) in parts.iter() {
        let range = reading.filled..reading.filled + length;
        let tokens = &reading.tokens[range];
        batch.push(tokens, reading.filled, &reading.pages, reading.adapter, Wanted::All);
    }
    let rows = batch.tokens.len();
    let logits = runner.run(&batch).unwrap();
    let vocabulary = logits.len() / rows;
    let mut rows = logits.chunks_exact(vocabulary);
    for (reading, length) in parts {
        reading.logits.extend(rows.by_ref().take(*length).map(<[f32]>::to_vec));
        reading.filled += *length;
    }
}

fn reading<'a>(tokens: &'a [u32], pages: &[u32], adapter: Option<AdapterSlot>) -> Reading<'a> {
    Reading { tokens, pages: pages.to_vec(), adapter, filled: 0, logits: Vec::new() }
}

fn assert_close(what: &str, found: &[Vec<f32>], expected: &[Vec<f32>]) {
    let worst = torch::distance(found, expected);
    assert!(worst < TOLERANCE, "{what}: off by {worst} of the largest");
}

/// All logits of a sequence that is read in parts of these lengths, then token by token.
pub(crate) fn logits_in_parts(
    runner: &mut dyn Runner,
    tokens: &[u32],
    adapter: Option<AdapterSlot>,
    parts: &[usize],
) -> Vec<Vec<f32>> {
    let mut whole = reading(tokens, &scattered(1, tokens.len().div_ceil(PAGE)), adapter);
    for length in parts {
        step(runner, &mut [(&mut whole, *length)]);
    }
    while whole.filled < tokens.len() {
        step(runner, &mut [(&mut whole, 1)]);
    }
    whole.logits
}

/// Pages out of order, so that a place is not a position.
fn scattered(first: u32, pages: usize) -> Vec<u32> {
    let mut all: Vec<u32> = (first..first + pages as u32).collect();
    all.reverse();
    all.swap(0, pages / 2);
    all
}

#[test]
fn chunks_and_single_steps_give_the_decoders_logits_for_every_family() {
    let values = families::values();
    for name in values.models.keys() {
        let model = torch::load(&families::fixture(name));
        let expected = torch::logits(&model, None, &values.tokens);
        for (kind, make) in RUNNERS {
            let pages = values.tokens.len().div_ceil(PAGE);
            let mut runner = make(&model.decoder, pages + 1);
            let parts = [1, 40, 1, 1, 90, 31];
            let found = logits_in_parts(&mut *runner, &values.tokens, None, &parts);
            assert_close(&format!("{name}, {kind}"), &found, &expected);
        }
    }
}

fn sequences(model: &Model, n: u32) -> Vec<Vec<u32>> {
    let vocabulary = model.decoder.config().vocabulary as u32;
    let sequence = |i: u32| (0..40 + 13 * i).map(move |j| (j * (7 + 2 * i) + 5 * i) % vocabulary);
    (0..n).map(|i| sequence(i).collect()).collect()
}

#[test]
fn rows_of_base_and_adapters_in_one_step_equal_each_alone() {
    for name in ["llama3", "qwen2", "qwen3-untied"] {
        let model = torch::load(&families::fixture(name));
        let (a, b) = (adapter(&model.decoder, 1), adapter(&model.decoder, 2));
        let sequences = sequences(&model, 6);
        for (kind, make) in RUNNERS {
            let mut runner = make(&model.decoder, 64);
            let (slot_a, slot_b) =
                (runner.add_adapter(&a).unwrap(), runner.add_adapter(&b).unwrap());
            let of = [None, Some(slot_a), Some(slot_b), None, Some(slot_a), Some(slot_b)];
            let mut readings: Vec<Reading<'_>> = Vec::new();
            for (i, (tokens, slot)) in sequences.iter().zip(of).enumerate() {
                readings.push(reading(tokens, &scattered(i as u32 * 8, 8), slot));
            }
            // Short and long parts, and single tokens, side by side; each sequence at its own pace.
            let mut draws = rng::stream(3, &["parts"]);
            while readings.iter().any(|r| r.filled < r.tokens.len()) {
                let mut parts: Vec<(&mut Reading<'_>, usize)> = Vec::new();
                for reading in &mut readings {
                    let left = reading.tokens.len() - reading.filled;
                    let length = [1, 1, 3, 17, 45][draws.random_range(0..5)].min(left);
                    if length > 0 && draws.random_range(0..4) > 0 {
                        parts.push((reading, length));
                    }
                }
                if !parts.is_empty() {
                    step(&mut *runner, &mut parts);
                }
            }
            for (i, reading) in readings.iter().enumerate() {
                let adapter = [None, Some(&a), Some(&b)][i % 3];
                let expected = torch::logits(&model, adapter, reading.tokens);
                assert_close(&format!("{name}, {kind}, {i}"), &reading.logits, &expected);
            }
        }
    }
}

#[test]
fn a_fork_with_a_copied_page_goes_its_own_way() {
    let model = torch::load(&families::fixture("qwen3"));
    let prompt: Vec<u32> = (0..70).map(|i| i * 11 % 90).collect();
    let tails: [Vec<u32>; 3] = [vec![1, 2, 3, 4, 5], vec![9; 40], vec![17]];
    let sequences = tails.map(|tail| [prompt.clone(), tail].concat());
    for (kind, make) in RUNNERS {
        let mut runner = make(&model.decoder, 20);
        let mut leader = reading(&sequences[0], &[4, 9, 2], None);
        step(&mut *runner, &mut [(&mut leader, prompt.len())]);
        // Two full pages are shared; six positions of the third are copied.
        let mut followers = [
            reading(&sequences[1], &[4, 9, 11, 12], None),
            reading(&sequences[2], &[4, 9, 7], None),
        ];
        runner.copy_page(2, 11, prompt.len() % PAGE).unwrap();
        runner.copy_page(2, 7, prompt.len() % PAGE).unwrap();
        let [one, two] = &mut followers;
        one.filled = prompt.len();
        two.filled = prompt.len();
        step(&mut *runner, &mut [(&mut leader, 5), (one, 40), (two, 1)]);
        for (index, (found, tokens)) in [&leader, one, two].iter().zip(&sequences).enumerate() {
            let expected = torch::logits(&model, None, tokens);
            let skipped = if index == 0 { 0 } else { prompt.len() };
            assert_close(kind, &found.logits, &expected[skipped..]);
        }
    }
}

#[test]
fn only_the_logits_that_are_wanted_come_back() {
    let decoder = support::tiny_decoder();
    for (kind, make) in RUNNERS {
        let mut runner = make(&decoder, 4);
        let mut batch = RunBatch::default();
        batch.push(&[1, 2, 3], 0, &[0], None, Wanted::Nothing);
        assert!(runner.run(&batch).unwrap().is_empty(), "{kind}");
        batch = RunBatch::default();
        batch.push(&[4, 5], 3, &[0], None, Wanted::Last);
        batch.push(&[6, 7, 8], 0, &[1], None, Wanted::All);
        assert_eq!(runner.run(&batch).unwrap().len(), 4 * 96, "{kind}");
    }
}

#[test]
fn what_does_not_exist_costs_the_step_and_not_the_runner() {
    let decoder = support::tiny_decoder();
    let unknown = Some(AdapterSlot(77));
    /// What there is not, tokens, past, pages, adapter.
    type Wrong = (&'static str, &'static [u32], usize, &'static [u32], Option<AdapterSlot>);
    let wrong: [Wrong; 6] = [
        ("a token", &[96], 0, &[0], None),
        ("a page", &[1], 0, &[4], None),
        ("room", &[1, 2], 31, &[0], None),
        ("a position", &[1], 256, &[0, 1, 2, 3, 0, 1, 2, 3, 0], None),
        ("an adapter", &[1], 0, &[0], unknown),
        ("tokens", &[], 0, &[0], None),
    ];
    for (kind, make) in RUNNERS {
        let mut runner = make(&decoder, 4);
        assert_eq!(runner.pages(), 4);
        for (what, tokens, past, pages, slot) in wrong {
            let mut batch = RunBatch::default();
            batch.push(tokens, past, pages, slot, Wanted::Last);
            assert!(runner.run(&batch).is_err(), "{kind}: without {what}");
        }
        assert!(runner.copy_page(0, 4, 1).is_err() && runner.copy_page(0, 1, 33).is_err());
        let slot = runner.add_adapter(&adapter(&decoder, 1)).unwrap();
        let mut batch = RunBatch::default();
        batch.push(&[1], 0, &[0], Some(slot), Wanted::Last);
        assert!(runner.run(&batch).is_ok(), "{kind}");
        runner.remove_adapter(slot);
        assert!(runner.run(&batch).is_err(), "{kind}: it was removed");
    }
}

#[test]
fn times_are_told_by_kind() {
    let decoder = support::tiny_decoder();
    for (kind, make) in RUNNERS {
        let mut runner = make(&decoder, 4);
        let mut batch = RunBatch::default();
        batch.push(&[1, 2, 3], 0, &[0], None, Wanted::Last);
        runner.run(&batch).unwrap();
        let times: BTreeMap<_, _> = runner.take_times();
        let kinds: Vec<_> = times.keys().copied().collect();
        assert_eq!(kinds, ["attention", "head", "linear", "other"], "{kind}");
        assert!(runner.take_times().is_empty(), "{kind}");
    }
}

#[test]
fn weights_of_sixteen_bits_stay_near_those_of_thirty_two() {
    let model = torch::load(&families::fixture("qwen3"));
    let tokens: Vec<u32> = (0..50).map(|i| i * 11 % 90).collect();
    let expected = torch::logits(&model, None, &tokens);
    for dtype in [DType::BF16, DType::F16] {
        let decoder = model.decoder.to(&Device::Cpu, dtype).unwrap();
        let mut runner = PortableRunner::new(decoder, 3).unwrap();
        let found = logits_in_parts(&mut runner, &tokens, None, &[30, 1, 19]);
        let worst = torch::distance(&found, &expected);
        assert!(worst < 0.05, "{dtype:?}: off by {worst} of the largest");
    }
}

#[test]
fn every_unit_of_the_processor_gives_the_decoders_logits() {
    let values = families::values();
    for name in values.models.keys() {
        let model = torch::load(&families::fixture(name));
        let tokens = &values.tokens[..75];
        let adapter = adapter(&model.decoder, 1);
        for unit in MatmulUnit::available() {
            let mut runner = on_unit(&model.decoder, 8, unit);
            let slot = runner.add_adapter(&adapter).unwrap();
            for (slot, adapter) in [(None, None), (Some(slot), Some(&adapter))] {
                let expected = torch::logits(&model, adapter, tokens);
                let mut bits = Vec::new();
                for parts in [vec![75], vec![40, 1, 1, 33], vec![1; 75]] {
                    let mut whole = reading(tokens, &[5, 2, 7], slot);
                    for length in parts {
                        step(&mut *runner, &mut [(&mut whole, length)]);
                    }
                    assert_close(&format!("{name}, {unit:?}"), &whole.logits, &expected);
                    bits.push(
                        whole.logits.concat().iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                    );
                }
                assert!(bits[0] == bits[1] && bits[1] == bits[2], "{name}, {unit:?}: parts matter");
            }
        }
    }
}

#[test]
fn weights_stay_as_their_file_has_them() {
    let forms = |name: &str| {
        let decoder = torch::load(&families::fixture(name)).decoder;
        let runner = CpuRunner::<f32>::new(&decoder, settings(MatmulUnit::Plain)).unwrap();
        let weights = runner.description().weights;
        weights.keys().copied().collect::<Vec<_>>()
    };
    assert_eq!(forms("qwen3-bf16.gguf"), ["bf16"]);
    assert_eq!(forms("qwen2-f16.gguf"), ["f16"]);
    assert_eq!(forms("llama3-f32.gguf"), ["f32"]);
    assert_eq!(forms("qwen3-q8_0.gguf"), ["8 bits"]);
    for name in ["llama3-q4_1.gguf", "qwen2-q4_0.gguf", "qwen3-q4_k_m.gguf"] {
        assert_eq!(forms(name)[0], "4 bits", "{name}");
    }
}

/// Rows of all lengths, with and without an adapter, give the same bits alone, token by token, as
/// they give together.
#[test]
fn a_rows_logits_do_not_depend_on_its_neighbours() {
    let model = support::default_model();
    let adapter = adapter(&model.decoder, 2);
    let lengths = [40, 3, 33, 1, 12];
    let tokens = sequences(&model, lengths.len() as u32);
    for unit in MatmulUnit::available().into_iter().filter(|unit| *unit > MatmulUnit::Plain) {
        let mut runner = CpuRunner::<f16>::new(&model.decoder, settings(unit)).unwrap();
        let slot = runner.add_adapter(&adapter).unwrap();
        let start = || {
            let mut rows = Vec::new();
            for (index, (tokens, length)) in tokens.iter().zip(lengths).enumerate() {
                let (first, slot) = (2 * index as u32, (index % 2 == 1).then_some(slot));
                rows.push(reading(&tokens[..length], &[first, first + 1], slot));
            }
            rows
        };
        let mut alone = start();
        for row in &mut alone {
            for _ in 0..row.tokens.len() {
                step(&mut runner, &mut [(row, 1)]);
            }
        }
        let mut together = start();
        let mut parts: Vec<_> = together.iter_mut().zip(lengths).collect();
        step(&mut runner, &mut parts);
        for (alone, together) in alone.iter().zip(&together) {
            assert_eq!(alone.logits, together.logits, "{unit:?}");
        }
    }
}

/// Half-precision keys and values move log-probabilities by less than what is allowed: 0.01 on
/// average, 0.05 at the 99th percentile.
#[test]
fn half_precision_pages_keep_log_probabilities() {
    let model = support::default_model();
    let tokens = model.tokenizer.encode(include_str!("../fixtures/corpus_small.md"));
    let tokens = &tokens[..tokens.len().min(400)];
    let expected = torch::logits(&model, None, tokens);
    let mut runner = CpuRunner::<f16>::new(&model.decoder, settings(MatmulUnit::best())).unwrap();
    let pages: Vec<u32> = (0..tokens.len().div_ceil(PAGE) as u32).collect();
    let mut whole = reading(tokens, &pages, None);
    step(&mut runner, &mut [(&mut whole, tokens.len())]);
    let rows = whole.logits.iter().zip(&expected).zip(&tokens[1..]);
    let logprob = |logits: &[f32], token: u32| TokenScore::of(logits, token).logprob;
    let errors = rows.map(|((a, b), token)| (logprob(a, *token) - logprob(b, *token)).abs());
    let mut errors: Vec<f32> = errors.collect();
    errors.sort_by(f32::total_cmp);
    let mean = errors.iter().sum::<f32>() / errors.len() as f32;
    let p99 = errors[errors.len() * 99 / 100];
    assert!(mean < 2e-3 && p99 < 1e-2, "mean {mean}, p99 {p99}");
}
