//! The decoder's own operations against compositions of plain candle operations: values and
//! gradients. Candle's autograd is the independent reference.

use std::sync::Arc;

use candle_core::D;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use candle_core::Var;
use nightschool::model::config::Rope;
use nightschool::model::ops;
use nightschool::model::ops::HeadShape;
use nightschool::model::ops::LoraPair;
use nightschool::model::ops::RopeTable;
use nightschool::model::packed::Packed;
use nightschool::model::packed::Past;

fn random(shape: (usize, usize)) -> Var {
    Var::randn(0.0_f32, 1.0, shape, &Device::Cpu).unwrap()
}

/// Largest difference, relative to the largest value.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let scale = b.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap().max(1e-6);
    let difference = (a - b).unwrap().abs().unwrap().max_all().unwrap();
    difference.to_scalar::<f32>().unwrap() / scale
}

/// Compares values and the gradients of Σ out ∘ weights for every variable.
fn same(ours: &Tensor, reference: &Tensor, variables: &[&Var]) {
    assert!(distance(ours, reference) < 1e-5, "values differ by {}", distance(ours, reference));
    let weights = Tensor::randn(0.0_f32, 1.0, ours.shape(), &Device::Cpu).unwrap();
    let gradients = |out: &Tensor| (out * &weights).unwrap().sum_all().unwrap().backward().unwrap();
    let (a, b) = (gradients(ours), gradients(reference));
    for (index, variable) in variables.iter().enumerate() {
        let (a, b) = (a.get(variable).expect("a gradient"), b.get(variable).expect("a gradient"));
        assert!(distance(a, b) < 1e-4, "gradient {index} differs by {}", distance(a, b));
    }
}

#[test]
fn rms_norm() -> Result<()> {
    let x = random((37, 24));
    let weight = Tensor::randn(1.0_f32, 0.1, 24, &Device::Cpu)?;
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    let reference = x.broadcast_div(&(mean + 1e-5)?.sqrt()?)?.broadcast_mul(&weight)?;
    same(&ops::rms_norm(&x, &weight, 1e-5)?, &reference, &[&x]);
    Ok(())
}

#[test]
fn swiglu() -> Result<()> {
    let (gate, up) = (random((19, 48)), random((19, 48)));
    let reference = (gate.silu()? * up.as_tensor())?;
    same(&ops::swiglu(&gate, &up)?, &reference, &[&gate, &up]);
    Ok(())
}

#[test]
fn linear_with_an_adapter() -> Result<()> {
    let (x, a, b) = (random((21, 16)), random((4, 16)), random((24, 4)));
    let weight = Tensor::randn(0.0_f32, 1.0, (24, 16), &Device::Cpu)?;
    let low_rank = x.matmul(&a.t()?)?.matmul(&b.t()?)?;
    let reference = (x.matmul(&weight.t()?)? + (low_rank * 0.5)?)?;
    let pair = LoraPair { a: a.as_tensor().clone(), b: b.as_tensor().clone(), scale: 0.5 };
    same(&ops::linear(&x, &weight, Some(&pair))?, &reference, &[&x, &a, &b]);
    same(&ops::linear(&x, &weight, None)?, &x.matmul(&weight.t()?)?, &[&x]);
    Ok(())
}

#[test]
fn bias() -> Result<()> {
    let x = random((37, 24));
    let bias = Tensor::randn(0.0_f32, 1.0, 24, &Device::Cpu)?;
    same(&ops::add_bias(&x, &bias)?, &x.broadcast_add(&bias)?, &[&x]);
    assert!(ops::add_bias(&x, &bias.narrow(0, 0, 12)?).is_err(), "it must not be repeated");
    Ok(())
}

#[test]
fn rope() -> Result<()> {
    let (heads, dim) = (3, 8);
    let x = random((5, heads * dim));
    // Across two blocks of the table, and not in order.
    let positions = vec![0_u32, 1, 511, 700, 512];
    let frequencies = Rope::plain(10_000.0).inverse_frequencies(dim).unwrap();
    let table = Arc::new(RopeTable::new(frequencies, 1024));
    // The textbook form: x ∘ cos + rotate_half(x) ∘ sin, head by head.
    let angles: Vec<f32> = positions
        .iter()
        .flat_map(|p| {
            (0..dim).map(move |i| {
                let pair = (i % (dim / 2)) as f64;
                *p as f32 * 10_000_f64.powf(-2.0 * pair / dim as f64) as f32
            })
        })
        .collect();
    let angles = Tensor::from_vec(angles, (5, 1, dim), &Device::Cpu)?;
    let split = x.reshape((5, heads, dim))?;
    let (low, high) = (split.narrow(2, 0, dim / 2)?, split.narrow(2, dim / 2, dim / 2)?);
    let rotated = Tensor::cat(&[high.neg()?, low], 2)?;
    let reference = (split.broadcast_mul(&angles.cos()?)?
        + rotated.broadcast_mul(&angles.sin()?)?)?
    .reshape((5, heads * dim))?;
    same(&ops::rope(&x, &table, &Arc::new(positions))?, &reference, &[&x]);
    Ok(())
}

/// Plain attention over all tokens with a mask made from the spans.
fn masked_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    batch: &Packed,
    shape: HeadShape,
) -> Result<Tensor> {
    let n = batch.len();
    let span_of = |token: usize| batch.spans.iter().position(|s| s.range.contains(&token)).unwrap();
    let sees = |i: usize, j: usize| {
        let (a, b) = (span_of(i), span_of(j));
        (a == b && j <= i) || batch.spans[a].past == Past::Span(b)
    };
    let mask = (0..n * n).map(|at| if sees(at / n, at % n) { 0.0 } else { f32::NEG_INFINITY });
    let mask = Tensor::from_vec(mask.collect::<Vec<f32>>(), (n, n), &Device::Cpu)?;
    let group = shape.heads / shape.kv_heads;
    let head = |x: &Tensor, h: usize| x.narrow(1, h * shape.head_dim, shape.head_dim)?.contiguous();
    let mut outs = Vec::new();
    for h in 0..shape.heads {
        let (q, k, v) = (head(q, h)?, head(k, h / group)?, head(v, h / group)?);
        let scores = (q.matmul(&k.t()?.contiguous()?)? / (shape.head_dim as f64).sqrt())?;
        let scores = scores.broadcast_add(&mask)?;
        let shifted = scores.broadcast_sub(&scores.max_keepdim(1)?.detach())?.exp()?;
        outs.push(shifted.broadcast_div(&shifted.sum_keepdim(1)?)?.matmul(&v)?);
    }
    Tensor::cat(&outs, 1)
}

#[test]
fn attention_of_trees_and_sequences() -> Result<()> {
    let shape = HeadShape { heads: 6, kv_heads: 2, head_dim: 8 };
    let mut batch = Packed::new();
    // Longer than one block of queries, with branches of different lengths, and a second tree.
    let prompt = batch.push(&[1; 70], Past::None);
    batch.push(&[1; 5], Past::Span(prompt));
    batch.push(&[1; 66], Past::Span(prompt));
    batch.push(&[1; 1], Past::Span(prompt));
    let other = batch.push(&[1; 9], Past::None);
    batch.push(&[1; 4], Past::Span(other));
    let n = batch.len();
    let (q, k, v) = (random((n, 48)), random((n, 16)), random((n, 16)));
    let spans = Arc::new(batch.spans.clone());
    let ours = ops::attention(&q, &k, &v, &spans, shape)?;
    same(&ours, &masked_attention(&q, &k, &v, &batch, shape)?, &[&q, &k, &v]);
    Ok(())
}

#[test]
fn token_scores() -> Result<()> {
    let hidden = random((130, 12));
    let weight = Tensor::randn(0.0_f32, 1.0, (50, 12), &Device::Cpu)?;
    let targets: Vec<u32> = (0..130).map(|i| i * 7 % 50).collect();
    let logits = hidden.matmul(&weight.t()?)?;
    let logprobs = {
        let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
        shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?
    };
    let picked = logprobs.gather(&Tensor::new(targets.clone(), &Device::Cpu)?.unsqueeze(1)?, 1)?;
    let ours = ops::token_scores(&hidden, &weight, targets)?;
    same(&ours.logprobs()?, &picked.squeeze(1)?, &[&hidden]);
    let entropy = (logprobs.exp()? * &logprobs)?.sum(1)?.neg()?.mean_all()?.to_scalar::<f32>()?;
    assert!((ours.mean_entropy()? - entropy).abs() < 1e-4);
    Ok(())
}
