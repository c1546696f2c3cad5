//! Training and generation on a CUDA device against the CPU: `scripts/check_cuda.sh` runs these where there is one.

use candle_core::DType;
use candle_core::Device;
use nightschool::config::DeviceName;
use nightschool::inference::Engine;
use nightschool::inference::EngineSettings;
use nightschool::inference::Generator as _;
use nightschool::inference::Request;
use nightschool::model::decoder::Decoder;
use nightschool::model::device;
use nightschool::model::runner::PortableRunner;
use nightschool::model::runner::Runner as _;
use nightschool::trainer::Trainer;
use nightschool::trainer::objective::Objective;
use nightschool::trainer::objective::PolicyGradient;
use nightschool::trainer::optimizer::AdamW;
use nightschool::trainer::optimizer::AdamWSettings;

use crate::engine::tiny_model;
use crate::families;
use crate::runner;
use crate::support;
use crate::torch;
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

#[test]
fn cuda_is_chosen_where_it_is() {
    for wanted in [DeviceName::Cuda, DeviceName::Auto] {
        assert!(device::choose(wanted).unwrap().device.is_cuda());
    }
}

/// Chunks and single steps, with and without an adapter, against the decoder on the CPU.
#[test]
fn the_runner_gives_the_decoders_logits() {
    let device = device::cuda().expect("a CUDA device");
    for (dtype, tolerance) in [(DType::F32, 1e-3), (DType::BF16, 0.05)] {
        for name in ["llama3", "qwen2", "qwen3"] {
            let model = torch::load(&families::fixture(name));
            let adapter = runner::adapter(&model.decoder, 1);
            let decoder = model.decoder.to(&device, dtype).unwrap();
            let mut cuda = PortableRunner::new(decoder, 20).unwrap();
            let slot = cuda.add_adapter(&adapter).unwrap();
            let tokens: Vec<u32> = (0..200).map(|i| i * 11 % 90).collect();
            for (adapter, slot) in [(None, None), (Some(&adapter), Some(slot))] {
                let parts = [1, 60, 1, 90];
                let found = runner::logits_in_parts(&mut cuda, &tokens, slot, &parts);
                let expected = torch::logits(&model, adapter, &tokens);
                let worst = torch::distance(&found, &expected);
                assert!(worst < tolerance, "{name}, {dtype:?}: off by {worst} of the largest");
            }
        }
    }
}

/// The whole engine: prompts that share a beginning, base and adapter side by side.
#[test]
fn the_engine_writes_what_it_writes_on_the_cpu() {
    let model = tiny_model();
    let adapter = runner::adapter(&model.decoder, 1);
    let write = |device: &Device| {
        let decoder = model.decoder.to(device, DType::F32).unwrap();
        let runner = Box::new(PortableRunner::new(decoder, 40).unwrap());
        let settings = EngineSettings { rows: 6, step_tokens: 48, queue: 64 };
        let engine = Engine::start(model.clone(), runner, settings, Default::default()).unwrap();
        let policies = [None, Some(&adapter)].map(|a| engine.policy("p", a).unwrap());
        let requests: Vec<Request> = (0..8)
            .map(|i| Request { samples: 2, ..Request::new((0..40 + i).collect(), 20) })
            .collect();
        policies.map(|policy| policy.generate(&requests).unwrap())
    };
    let (found, expected) = (write(&device::cuda().unwrap()), write(&Device::Cpu));
    for (found, expected) in
        found.iter().flatten().flatten().zip(expected.iter().flatten().flatten())
    {
        assert_eq!(found.tokens, expected.tokens);
    }
}
