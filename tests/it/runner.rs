//! Runners of generation against the decoder that training uses.

use std::sync::Arc;

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

#[test]
fn logits_of_every_family_equal_the_decoders() {
    for name in FIXTURES {
        let model = load(&fixture(name));
        let decoder = Arc::new(model.decoder);
        let tokens = tokens(75, decoder.config().vocabulary, name);
        let mut runner = CpuRunner::<f32>::new(decoder.clone(), 1 << 22, 2).unwrap();
        let adapter = adapter(&decoder, 4, 1);
        let slot = runner.add_adapter(&adapter).unwrap();
        for (slot, adapter) in [(None, None), (Some(slot), Some(&adapter))] {
            let expected = expected(&decoder, adapter, &tokens);
            for parts in [vec![75], vec![40, 1, 1, 33], vec![1; 75]] {
                let found = in_parts(&mut runner, &tokens, &parts, &[5, 2, 7], slot);
                let difference = difference(&found, &expected);
                println!("{name} {:?}: {difference}", runner.description().weights);
                assert!(difference < 1e-3, "{name}, {parts:?}: {difference}");
            }
        }
    }
}

#[test]
fn a_rows_logits_do_not_depend_on_its_neighbours() {
    let model: Arc<Model> = support::default_model();
    let decoder =
        Arc::new(model.decoder.to(&candle_core::Device::Cpu, model.decoder.dtype()).unwrap());
    let mut runner = CpuRunner::<half::f16>::new(decoder.clone(), 1 << 27, 2).unwrap();
    let slot = runner.add_adapter(&adapter(&decoder, 16, 2)).unwrap();
    let vocabulary = decoder.config().vocabulary;
    let lengths = [70, 3, 33, 64, 1, 40, 100, 12];
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
    assert_eq!(different.count(), 0, "of {}", alone.len());
}

#[test]
#[ignore = "scratch"]
fn scratch_speed() {
    let model: Arc<Model> = support::default_model();
    let decoder = Arc::new(
        model
            .decoder
            .to(&candle_core::Device::Cpu, model.decoder.dtype())
            .unwrap()
            .with_stored(model.decoder.stored().clone()),
    );
    let mut runner = CpuRunner::<half::f16>::new(decoder.clone(), 1 << 30, 2).unwrap();
    println!("{:?}", runner.description());
    let with = std::env::var("LORA").is_ok();
    let slot = runner.add_adapter(&adapter(&decoder, 16, 2)).unwrap();
    let slot = with.then_some(slot);
    for batch in std::env::var("B")
        .unwrap_or("1,8,32,64".into())
        .split(",")
        .map(|b| b.parse::<usize>().unwrap())
    {
        let per = 12;
        let rows: Vec<Vec<u32>> =
            (0..batch).map(|i| ((i * per) as u32..((i + 1) * per) as u32).collect()).collect();
        let toks = tokens(256, 49152, "speed");
        runner.take_times();
        let start = std::time::Instant::now();
        for chunk in rows.chunks(2) {
            let mut b = RunBatch::default();
            for pages in chunk {
                b.push(&toks, 0, pages, slot, Wanted::Last);
            }
            runner.run(&b).unwrap();
        }
        let prefill = start.elapsed().as_secs_f64();
        let times = runner.take_times();
        println!("batch {batch}: prefill {:.0} tok/s {times:?}", (batch * 256) as f64 / prefill);
        let start = std::time::Instant::now();
        let n = 64;
        for step in 0..n {
            let mut b = RunBatch::default();
            for pages in &rows {
                b.push(&toks[..1], 256 + step, pages, slot, Wanted::Last);
            }
            runner.run(&b).unwrap();
        }
        let decode = start.elapsed().as_secs_f64();
        let times = runner.take_times();
        println!(
            "batch {batch}: decode {:.0} tok/s, {:.2} ms/step {times:?}",
            (batch * n) as f64 / decode,
            decode / n as f64 * 1e3
        );
    }
}
