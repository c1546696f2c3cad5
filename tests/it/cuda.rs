//! Training on a CUDA device against the CPU: `scripts/check_cuda.sh` runs these where there is one.

use candle_core::DType;
use candle_core::Device;
use nightschool::model::decoder::Decoder;
use nightschool::model::device;
use nightschool::trainer::Trainer;
use nightschool::trainer::objective::Objective;
use nightschool::trainer::objective::PolicyGradient;
use nightschool::trainer::optimizer::AdamW;
use nightschool::trainer::optimizer::AdamWSettings;

use crate::support;
use crate::trainer;

/// Losses of twenty steps of the tiny model with its weights as `dtype` on `device`.
fn losses(device: &Device, dtype: DType, objective: &Objective) -> Vec<f32> {
    let decoder: Decoder = support::tiny_decoder().to(device, dtype).unwrap();
    let adapter = trainer::adapter(&decoder).to_device(decoder.config(), device).unwrap();
    let optimizer = AdamW::new(AdamWSettings::default());
    let examples = trainer::examples();
    let mut trainer = Trainer::new(&decoder, &adapter, optimizer, trainer::LIMITS);
    let mut step = || trainer.step(&examples, objective, 1e-2).unwrap().loss;
    (0..20).map(|_| step()).collect()
}

fn check(dtype: DType, tolerance: f32, objective: &Objective) {
    let expected = losses(&Device::Cpu, DType::F32, objective);
    let found = losses(&device::cuda().expect("a CUDA device"), dtype, objective);
    for (found, expected) in found.iter().zip(&expected) {
        let error = (found - expected).abs() / expected.abs().max(0.1);
        assert!(error < tolerance, "{found}, on the CPU {expected}");
    }
}

#[test]
fn f32_weights_follow_the_cpu() {
    check(DType::F32, 1e-3, &Objective::Likelihood);
    let settings = PolicyGradient { kl_coefficient: 0.1, ..PolicyGradient::default() };
    check(DType::F32, 1e-3, &Objective::PolicyGradient(settings));
}

#[test]
fn bf16_weights_with_f32_adapters_stay_near_the_cpu() {
    check(DType::BF16, 0.1, &Objective::Likelihood);
}
