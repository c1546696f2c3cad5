//! Runners of generation against the decoder that training uses.

use std::sync::Arc;

use half::f16;
use nightschool::inference::TokenScore;
use nightschool::model::Model;
use nightschool::model::decoder::Decoder;
use nightschool::model::lora::Adapter;
use nightschool::model::lora::LoraShape;
use nightschool::model::lora::TargetSet;
use nightschool::model::packed::Packed;
use nightschool::model::packed::Past;
use nightschool::model::runner::AdapterSlot;
use nightschool::model::runner::PAGE;
use nightschool::model::runner::RunBatch;
use nightschool::model::runner::Runner;
use nightschool::model::runner::Wanted;
use nightschool::model::runner::cpu::CpuRunner;
use nightschool::model::runner::cpu::CpuSettings;
use nightschool::model::runner::cpu::MatmulUnit;
use nightschool::model::runner::cpu::WeightForm;
use nightschool::rng;
use rand::Rng as _;

use crate::families::FIXTURES;
use crate::families::fixture;
use crate::support;
use crate::torch::load;

fn tokens(n: usize, vocabulary: usize, label: &str) -> Vec<u32> {
    let mut draws = rng::stream(3, &["runner", label]);
    (0..n).map(|_| draws.random_range(0..vocabulary as u32)).collect()
}

fn expected(decoder: &Decoder, adapter: Option<&Adapter>, tokens: &[u32]) -> Vec<f32> {
    let mut batch = Packed::new();
    batch.push(tokens, Past::None);
    let hidden = decoder.forward(&batch, adapter, None).unwrap();
    let all: Vec<u32> = (0..tokens.len() as u32).collect();
    decoder.logits(&hidden, &all).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// An adapter that changes a lot.
fn adapter(decoder: &Decoder, rank: usize, seed: u64) -> Adapter {
    let shape = LoraShape { rank, alpha: 8.0, dropout: 0.0, targets: TargetSet::ALL };
    let mut draws = rng::stream(seed, &["adapter"]);
    let adapter = Adapter::fresh(decoder.config(), shape, &mut draws).unwrap();
    for (name, variable) in adapter.variables() {
        if name.contains(".lora_B.") {
            let n = variable.elem_count();
            let values: Vec<f32> = (0..n).map(|_| draws.random_range(-0.1..0.1)).collect();
            let shape = variable.shape().clone();
            let values =
                candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap();
            variable.set(&values).unwrap();
        }
    }
    adapter
}

/// Largest difference, relative to the largest value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().map(|x| x.abs()).fold(0.0, f32::max);
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max) / largest
}

/// Logits of all tokens, read in parts of the given sizes.
fn in_parts(
    runner: &mut dyn Runner,
    tokens: &[u32],
    parts: &[usize],
    pages: &[u32],
    adapter: Option<AdapterSlot>,
) -> Vec<f32> {
    let (mut past, mut logits) = (0, Vec::new());
    for part in parts {
        let mut batch = RunBatch::default();
        batch.push(&tokens[past..past + part], past, pages, adapter, Wanted::All);
        logits.extend_from_slice(runner.run(&batch).unwrap());
        past += part;
    }
    assert_eq!(past, tokens.len());
    logits
}

fn settings(unit: MatmulUnit, threads: usize) -> CpuSettings {
    CpuSettings { kv_bytes: 1 << 27, threads, unit, weights: WeightForm::AsStored }
}

#[test]
fn logits_of_every_family_equal_the_decoders_on_every_unit() {
    for name in FIXTURES {
        let model = load(&fixture(name));
        let decoder = model.decoder;
        let tokens = tokens(75, decoder.config().vocabulary, name);
        let adapter = adapter(&decoder, 4, 1);
        let expected =
            [None, Some(&adapter)].map(|adapter| expected(&decoder, adapter, &tokens));
        for unit in MatmulUnit::available() {
            let mut runner = CpuRunner::<f32>::new(&decoder, settings(unit, 2)).unwrap();
            let slot = runner.add_adapter(&adapter).unwrap();
            for (slot, expected) in [None, Some(slot)].into_iter().zip(&expected) {
                for parts in [vec![75], vec![40, 1, 1, 33], vec![1; 75]] {
                    let found = in_parts(&mut runner, &tokens, &parts, &[5, 2, 7], slot);
                    let difference = difference(&found, expected);
                    assert!(difference < 1e-3, "{name}, {unit:?}, {parts:?}: {difference}");
                }
            }
        }
    }
}

#[test]
fn weights_stay_as_their_file_has_them() {
    let forms = |name: &str| {
        let decoder = load(&fixture(name)).decoder;
        let runner = CpuRunner::<f32>::new(&decoder, settings(MatmulUnit::Plain, 1)).unwrap();
        let weights = runner.description().weights;
        weights.keys().copied().collect::<Vec<_>>()
    };
    assert_eq!(forms("qwen3-bf16.gguf"), ["bf16"]);
    assert_eq!(forms("qwen2-f16.gguf"), ["f16"]);
    assert_eq!(forms("llama3-f32.gguf"), ["f32"]);
    assert_eq!(forms("qwen3-q8_0.gguf"), ["8 bits"]);
    assert_eq!(forms("llama3-q4_1.gguf"), ["4 bits", "8 bits"]);
    assert_eq!(forms("qwen2-q4_0.gguf"), ["4 bits", "8 bits"]);
    assert_eq!(forms("qwen3-q4_k_m.gguf"), ["4 bits", "8 bits"]);
}

/// Rows of all lengths, with and without an adapter, give the same bits alone, token by token, as
/// they give together.
#[test]
fn a_rows_logits_do_not_depend_on_its_neighbours() {
    let model: Arc<Model> = support::default_model();
    let adapter = adapter(&model.decoder, 16, 2);
    let vocabulary = model.decoder.config().vocabulary;
    for unit in MatmulUnit::available().into_iter().filter(|unit| *unit > MatmulUnit::Plain) {
        let mut runner = CpuRunner::<f16>::new(&model.decoder, settings(unit, 2)).unwrap();
        let slot = runner.add_adapter(&adapter).unwrap();
        let lengths = [40, 3, 33, 1, 12];
        let mut next_page = 0;
        let mut rows = Vec::new();
        for (index, length) in lengths.iter().enumerate() {
            let pages: Vec<u32> = (next_page..).take(length / PAGE + 1).collect();
            next_page += pages.len() as u32;
            let slot = (index % 2 == 1).then_some(slot);
            rows.push((tokens(*length, vocabulary, &index.to_string()), pages, slot));
        }
        let mut alone = Vec::new();
        for (tokens, pages, slot) in &rows {
            alone.push(in_parts(&mut runner, tokens, &vec![1; tokens.len()], pages, *slot));
        }
        let mut batch = RunBatch::default();
        for (tokens, pages, slot) in &rows {
            batch.push(tokens, 0, pages, *slot, Wanted::All);
        }
        let together = runner.run(&batch).unwrap();
        let alone = alone.concat();
        assert_eq!(together.len(), alone.len());
        let different = together.iter().zip(&alone).filter(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(different.count(), 0, "{unit:?}: of {}", alone.len());
    }
}

/// Half-precision keys and values move log-probabilities by less than what is allowed: 0.01 on
/// average, 0.05 at the 99th percentile.
#[test]
fn half_precision_pages_keep_log_probabilities() {
    let model: Arc<Model> = support::default_model();
    let tokens = model.tokenizer.encode(include_str!("../fixtures/corpus_small.md"));
    let tokens = &tokens[..tokens.len().min(400)];
    let expected = expected(&model.decoder, None, tokens);
    let mut runner =
        CpuRunner::<f16>::new(&model.decoder, settings(MatmulUnit::best(), 2)).unwrap();
    let pages: Vec<u32> = (0..tokens.len().div_ceil(PAGE) as u32).collect();
    let found = in_parts(&mut runner, tokens, &[tokens.len()], &pages, None);
    let vocabulary = model.decoder.config().vocabulary;
    let logprobs = |logits: &[f32]| -> Vec<f32> {
        let rows = logits.chunks_exact(vocabulary).zip(&tokens[1..]);
        rows.map(|(row, next)| TokenScore::of(row, *next).logprob).collect()
    };
    let (found, expected) = (logprobs(&found), logprobs(&expected));
    let mut errors: Vec<f32> = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).collect();
    errors.sort_by(f32::total_cmp);
    let mean = errors.iter().sum::<f32>() / errors.len() as f32;
    let p99 = errors[errors.len() * 99 / 100];
    println!("mean {mean}, p99 {p99}");
    assert!(mean < 1e-3 && p99 < 5e-3, "mean {mean}, p99 {p99}");
}

#[test]
fn a_step_that_names_what_is_not_there_fails() {
    let decoder = support::tiny_decoder();
    let mut runner = CpuRunner::<f32>::new(&decoder, settings(MatmulUnit::best(), 1)).unwrap();
    let mut fails = |tokens: &[u32], past: usize, pages: &[u32], slot: Option<AdapterSlot>| {
        let mut batch = RunBatch::default();
        batch.push(tokens, past, pages, slot, Wanted::Last);
        runner.run(&batch).unwrap_err().to_string()
    };
    assert!(fails(&[96], 0, &[0], None).contains("token 96"));
    assert!(fails(&[1; 33], 0, &[0], None).contains("33 positions in 1 pages"));
    assert!(fails(&[1], 0, &[u32::MAX], None).contains("positions in 1 pages"));
    assert!(fails(&[1], 256, &(0..9).collect::<Vec<u32>>(), None).contains("position 257"));
    assert!(fails(&[1], 0, &[0], Some(AdapterSlot(7))).contains("not loaded"));
}
