//! Where generation runs, as the settings say.

use std::sync::Arc;

use nightschool::config;
use nightschool::config::DeviceName;
use nightschool::config::Inference;
use nightschool::config::KvType;
use nightschool::inference::Engine;
use nightschool::model::device;

#[cfg(not(feature = "cuda"))]
use crate::engine::tiny_model;

fn settings() -> Inference {
    config::load(&[], &[]).unwrap().inference
}

#[test]
fn the_cpu_is_the_default() {
    assert_eq!(settings().device, DeviceName::Cpu);
    let chosen = device::choose(DeviceName::Cpu).unwrap();
    assert!(chosen.device.is_cpu());
    assert_eq!(chosen.why, "the CPU, as set");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn without_cuda_it_is_an_error_to_ask_for_it_and_auto_says_what_it_does() {
    let error = device::choose(DeviceName::Cuda).unwrap_err().to_string();
    assert!(error.contains("built without CUDA: build it with `--features cuda`"), "{error}");
    let chosen = device::choose(DeviceName::Auto).unwrap();
    assert!(chosen.device.is_cpu());
    assert!(chosen.why.starts_with("the CPU, because there is no other: "), "{}", chosen.why);
    let cuda = Inference { device: DeviceName::Cuda, ..settings() };
    let error = Engine::open(tiny_model(), &cuda, Arc::default()).err().unwrap().to_string();
    assert!(error.starts_with("`inference.device`: this program was built without"), "{error}");
}

#[test]
fn memory_without_room_for_a_page_is_refused_with_what_it_takes() {
    // 30 layers, keys and values of 32 positions, 3 heads of 64, as f32.
    let least = Inference { kv_mb: 1, kv: KvType::F32, ..settings() };
    let model = crate::support::default_model();
    let error = Engine::open(model, &least, Arc::default()).err().unwrap().to_string();
    assert!(error.contains("takes 1474560 bytes, so it must be at least 2"), "{error}");
}
