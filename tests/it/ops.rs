//! The decoder's own operations against compositions of plain candle operations: values and
//! gradients. Candle's autograd is the independent reference, for both implementations.

use candle_core::D;
use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use candle_core::Var;
use nightschool::model::config::Rope;
use nightschool::model::ops::Cpu;
use nightschool::model::ops::Dropout;
use nightschool::model::ops::HeadShape;
use nightschool::model::ops::Linear;
use nightschool::model::ops::LoraPair;
use nightschool::model::ops::Operations;
use nightschool::model::ops::Portable;
use nightschool::model::ops::RopeTable;
use nightschool::model::ops::Rotation;
use nightschool::model::packed::Packed;
use nightschool::model::packed::Past;

/// The kernels, and what every other device runs.
const BOTH: [&dyn Operations; 2] = [&Cpu, &Portable];

fn random(shape: (usize, usize)) -> Var {
    Var::randn(0.0_f32, 1.0, shape, &Device::Cpu).unwrap()
}

/// Largest difference, relative to the largest value.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let scale = b.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap().max(1e-6);
    let difference = (a - b).unwrap().abs().unwrap().max_all().unwrap();
    difference.to_scalar::<f32>().unwrap() / scale
}

/// Products may be made of bf16 parts, whose error is 2⁻¹⁷ a term.
fn same(what: &str, ours: &Tensor, reference: &Tensor) {
    let distance = distance(ours, reference);
    assert!(distance < 5e-5, "{what} differs by {distance}");
}

/// Random gradients of a result, and by candle's autograd those of the variables it is made of.
fn reference_gradients(result: &Tensor, variables: &[&Var]) -> (Tensor, Vec<Tensor>) {
    let upstream = Tensor::randn(0.0_f32, 1.0, result.shape(), &Device::Cpu).unwrap();
    let store = (result * &upstream).unwrap().sum_all().unwrap().backward().unwrap();
    (upstream, variables.iter().map(|v| store.get(v).expect("a gradient").clone()).collect())
}

#[test]
fn rms_norm() -> Result<()> {
    let x = random((37, 24));
    let weight = Tensor::randn(1.0_f32, 0.1, 24, &Device::Cpu)?;
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    let reference = x.broadcast_div(&(mean + 1e-5)?.sqrt()?)?.broadcast_mul(&weight)?;
    let (g, expected) = reference_gradients(&reference, &[&x]);
    let onto = random((37, 24));
    for ops in BOTH {
        same("the value", &ops.rms_norm(&x, &weight, 1e-5)?, &reference);
        same("dx", &ops.rms_norm_backward(&x, &weight, 1e-5, &g, None)?, &expected[0]);
        let added = ops.rms_norm_backward(&x, &weight, 1e-5, &g, Some(&onto))?;
        same("the sum with dx", &added, &(&expected[0] + onto.as_tensor())?);
    }
    Ok(())
}

#[test]
fn swiglu() -> Result<()> {
    let (gate, up) = (random((19, 48)), random((19, 48)));
    let reference = (gate.silu()? * up.as_tensor())?;
    let (g, expected) = reference_gradients(&reference, &[&gate, &up]);
    for ops in BOTH {
        same("the value", &ops.swiglu(&gate, &up)?, &reference);
        let found = ops.swiglu_backward(&gate, &up, &g)?;
        found.iter().zip(&expected).for_each(|(found, expected)| same("d", found, expected));
    }
    Ok(())
}

/// Two maps of one input, of different widths, against candle; `dropout` is the first one's.
fn check_linears(tokens: usize, rank: usize, dropout: Option<Dropout>) -> Result<()> {
    const INNER: usize = 48;
    let x = random((tokens, INNER));
    let weights = [40, 33].map(|out| Tensor::randn(0.0_f32, 1.0, (out, INNER), &Device::Cpu));
    let [first, second] = weights;
    let (first, second) = (first?, second?);
    let [a1, a2] = [(); 2].map(|()| random((rank, INNER)));
    let [b1, b2] = [40, 33].map(|out| random((out, rank)));
    let bias = Tensor::randn(0.0_f32, 1.0, 40, &Device::Cpu)?;
    let mask = match dropout {
        Some(dropout) => Tensor::from_vec(dropout.mask(tokens * INNER), x.shape(), &Device::Cpu)?,
        None => x.ones_like()?,
    };
    let low = |x: &Tensor, a: &Var, b: &Var| x.matmul(&a.t()?)?.matmul(&b.t()?)? * 0.5;
    let dropped = (x.as_tensor() * &mask)?;
    let expected_first = (x.matmul(&first.t()?)?.broadcast_add(&bias)? + low(&dropped, &a1, &b1)?)?;
    let expected_second = (x.matmul(&second.t()?)? + low(&x, &a2, &b2)?)?;
    let both = Tensor::cat(&[&expected_first, &expected_second], 1)?;
    let (g, expected) = reference_gradients(&both, &[&x, &a1, &b1, &a2, &b2]);
    let (g1, g2) = (g.narrow(1, 0, 40)?.contiguous()?, g.narrow(1, 40, 33)?.contiguous()?);

    let pair = |a: &Var, b: &Var| LoraPair {
        a: a.as_tensor().clone(),
        b: b.as_tensor().clone(),
        scale: 0.5,
    };
    let (pair1, pair2) = (pair(&a1, &b1), pair(&a2, &b2));
    let maps = [
        Linear { weight: &first, bias: Some(&bias), lora: Some(&pair1), dropout },
        Linear { lora: Some(&pair2), ..Linear::plain(&second) },
    ];
    for ops in BOTH {
        let mapped = ops.linears(&x, &maps)?;
        same("the first value", &mapped[0].y, &expected_first);
        same("the second value", &mapped[1].y, &expected_second);
        let downs: Vec<Option<Tensor>> = mapped.into_iter().map(|mapped| mapped.down).collect();
        let (dx, lora) = ops.linears_backward(&x, &maps, &downs, &[&g1, &g2])?;
        same("dx", &dx, &expected[0]);
        for (index, lora) in lora.into_iter().enumerate() {
            let lora = lora.expect("a gradient");
            same("dA", &lora.a, &expected[1 + 2 * index]);
            same("dB", &lora.b, &expected[2 + 2 * index]);
        }
        for (map, expected) in maps.iter().zip([&expected_first, &expected_second]) {
            let residual = random((tokens, expected.dim(1)?));
            let onto = ops.linear_onto(&x, map, &residual)?.y;
            same("the sum", &onto, &(residual.as_tensor() + expected)?);
        }
        let plain = &ops.linears(&x, &[Linear::plain(&first)])?[0];
        same("without adapter", &plain.y, &x.matmul(&first.t()?)?);
        assert!(plain.down.is_none());
    }
    Ok(())
}

/// From one token to more than fill any tile, with ranks that do and do not.
#[test]
fn linear_maps_with_adapters() -> Result<()> {
    for (tokens, rank) in [(1, 4), (21, 4), (33, 4), (70, 16), (300, 24)] {
        check_linears(tokens, rank, None)?;
    }
    Ok(())
}

#[test]
fn linear_maps_with_dropout() -> Result<()> {
    let dropout = Dropout { rate: 0.25, seed: 3 };
    check_linears(21, 4, Some(dropout))?;
    check_linears(70, 16, Some(dropout))
}

#[test]
fn dropout_keeps_the_mean_and_follows_its_seed() {
    let dropout = Dropout { rate: 0.25, seed: 3 };
    let mask = dropout.mask(100_000);
    let zeros = mask.iter().filter(|value| **value == 0.0).count();
    assert!((24_000..26_000).contains(&zeros), "{zeros} of 100,000 dropped");
    assert!(mask.iter().all(|value| *value == 0.0 || (value - 4.0 / 3.0).abs() < 1e-6));
    assert_eq!(mask, dropout.mask(100_000));
    assert_ne!(mask, dropout.derived(&["0", "q_proj"]).mask(100_000));
}

#[test]
fn rope() -> Result<()> {
    let (heads, dim) = (3, 8);
    let x = random((5, heads * dim));
    // Across two blocks of the table, and not in order.
    let positions = vec![0_u32, 1, 511, 700, 512];
    let frequencies = Rope::plain(10_000.0).inverse_frequencies(dim).unwrap();
    let table = RopeTable::new(frequencies, 1024);
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
    let (g, expected) = reference_gradients(&reference, &[&x]);
    for ops in BOTH {
        same("the value", &ops.rope(&x, &table, &positions, Rotation::Forward)?, &reference);
        same("dx", &ops.rope(&g, &table, &positions, Rotation::Backward)?, &expected[0]);
        assert!(ops.rope(&x, &table, &[0, 1, 2, 1024, 3], Rotation::Forward).is_err());
    }
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
    let reference = masked_attention(&q, &k, &v, &batch, shape)?;
    let (g, expected) = reference_gradients(&reference, &[&q, &k, &v]);
    for ops in BOTH {
        same("the value", &ops.attention(&q, &k, &v, &batch.spans, shape)?, &reference);
        let found = ops.attention_backward(&q, &k, &v, &batch.spans, shape, &g)?;
        found.iter().zip(&expected).for_each(|(found, expected)| same("d", found, expected));
    }
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
    let ids = Tensor::new(targets.clone(), &Device::Cpu)?.unsqueeze(1)?;
    let entropies = (logprobs.exp()? * &logprobs)?.sum_keepdim(1)?.neg()?;
    let reference = Tensor::cat(&[logprobs.gather(&ids, 1)?, entropies], 1)?;
    let (g, expected) = reference_gradients(&reference, &[&hidden]);
    // With a gradient for the log-probabilities alone, as most objectives have it.
    let alone = Tensor::cat(&[g.narrow(1, 0, 1)?, g.narrow(1, 1, 1)?.zeros_like()?], 1)?;
    let of_logprobs = (&reference * &alone)?.sum_all()?.backward()?;
    let of_logprobs = of_logprobs.get(&hidden).expect("a gradient");
    for ops in BOTH {
        for learns in [true, false] {
            let scored = ops.token_scores(&hidden, &weight, &targets, learns)?;
            same("the scores", &scored.tokens.scores, &reference);
            let back = |g| ops.token_scores_backward(&hidden, &weight, &targets, &scored, g);
            same("d hidden", &back(&g)?, &expected[0]);
            same("d hidden of the log-probabilities", &back(&alone)?, of_logprobs);
        }
        assert!(ops.token_scores(&hidden, &weight, &targets[1..], false).is_err());
    }
    Ok(())
}

/// Weights of another type are read as what they are worth.
#[test]
fn weights_of_another_type() -> Result<()> {
    let x = random((9, 16));
    let weight = Tensor::randn(0.0_f32, 1.0, (24, 16), &Device::Cpu)?.to_dtype(DType::BF16)?;
    let expected = x.matmul(&weight.to_dtype(DType::F32)?.t()?)?;
    let found = &Portable.linears(&x, &[Linear::plain(&weight)])?[0].y;
    assert_eq!(found.dtype(), DType::F32);
    let distance = distance(found, &expected);
    assert!(distance < 1e-2, "bf16 keeps 8 bits; the product differs by {distance}");
    Ok(())
}
