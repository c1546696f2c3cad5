//! The engine: whoever shares a step, memory or a prefix with a request, its result is the same.

mod errors;
mod fairness;
mod ledger;
mod mixture;
mod pages;
mod real;
mod sharing;

use std::sync::Arc;
use std::sync::OnceLock;

use nightschool::inference::Engine;
use nightschool::inference::EngineSettings;
use nightschool::inference::Request;
use nightschool::inference::Sampling;
use nightschool::model::Model;
use nightschool::model::runner::Runner;

use crate::families;
use crate::support;
use crate::torch;

/// The tiny decoder with a tokenizer of one character a token; token 95 ends a text.
pub(crate) fn tiny_model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let load = || {
        let other = torch::load(&families::fixture("qwen3"));
        Arc::new(Model { name: "tiny".into(), decoder: support::tiny_decoder(), ..other })
    };
    MODEL.get_or_init(load).clone()
}

fn start(runner: impl Runner + 'static, settings: EngineSettings) -> Engine {
    Engine::start(tiny_model(), Box::new(runner), settings, Arc::default()).unwrap()
}

/// Small, so that everything happens: rows run out, and prompts take several steps.
const SMALL: EngineSettings = EngineSettings { rows: 6, step_tokens: 48, queue: 1024 };

/// `n` tokens that follow from `seed`, none of which ends a text.
fn tokens(seed: u32, n: usize) -> Vec<u32> {
    (0..n as u32).map(|i| (i * (2 * seed + 7) + i * i / 3 + 31 * seed) % 95).collect()
}

/// A request for `samples` continuations at temperature 1.
fn sampled(prompt: Vec<u32>, samples: usize, max_tokens: usize, seed: u64) -> Request {
    let sampling = Sampling::at(1.0);
    Request { samples, sampling, seed, ..Request::new(prompt, max_tokens) }
}
