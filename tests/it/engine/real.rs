//! The engine on the portable runner: scores against the decoder, and threads on the default model.

use std::sync::Arc;

use candle_core::DType;
use candle_core::Device;
use nightschool::inference::Continuation;
use nightschool::inference::EngineSettings;
use nightschool::inference::Generator as _;
use nightschool::inference::LogitMask;
use nightschool::inference::Request;
use nightschool::inference::Sampling;
use nightschool::model::lora::Adapter;
use nightschool::model::runner::PortableRunner;
use nightschool::rollout::StopReason;

use super::SMALL;
use super::sampled;
use super::start;
use super::tiny_model;
use super::tokens;
use crate::runner::adapter;
use crate::support;
use crate::torch;

fn portable(pages: usize) -> PortableRunner {
    let decoder = tiny_model().decoder.to(&Device::Cpu, DType::F32).unwrap();
    PortableRunner::new(decoder, pages).unwrap()
}

/// Log-probabilities, normalisers and means of the decoder's own logits.
fn expected(given: &Continuation, adapter: Option<&Adapter>) -> Vec<[f32; 3]> {
    let all = [given.prompt.clone(), given.tokens.clone()].concat();
    let logits = torch::logits(&tiny_model(), adapter, &all);
    let first = given.prompt.len() - 1;
    let of = |(logits, token): (&Vec<f32>, &u32)| {
        let normaliser = logits.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln() as f32;
        let mean = logits.iter().sum::<f32>() / logits.len() as f32;
        [logits[*token as usize] - normaliser, normaliser, mean]
    };
    logits[first..].iter().zip(&given.tokens).map(of).collect()
}

#[test]
fn scores_are_those_of_the_decoders_logits_and_share_the_prompt() {
    let engine = start(portable(60), EngineSettings { step_tokens: 64, ..SMALL });
    let own = adapter(&tiny_model().decoder, 1);
    for adapter in [None, Some(&own)] {
        let policy = engine.policy("scored", adapter).unwrap();
        let before = engine.statistics();
        let given: Vec<Continuation> = (0..5)
            .map(|i| Continuation {
                prompt: tokens(1, 90),
                tokens: tokens(i + 2, 1 + 20 * i as usize),
            })
            .chain([Continuation { prompt: vec![3], tokens: tokens(8, 3) }])
            .collect();
        let scores = policy.score(&given).unwrap();
        for (given, scores) in given.iter().zip(&scores) {
            let expected = expected(given, adapter);
            assert_eq!(scores.len(), given.tokens.len());
            for (score, expected) in scores.iter().zip(expected) {
                let found = [score.logprob, score.log_normaliser, score.mean_logit];
                let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
                assert!(off.fold(0.0, f32::max) < 1e-3, "{found:?}, expected {expected:?}");
            }
        }
        let read = engine.statistics().prompt_tokens - before.prompt_tokens;
        // 89 tokens of the prompt once; its last one and all but the last given one, each time.
        let own: usize = given[..5].iter().map(|given| given.tokens.len()).sum();
        assert_eq!(read, 89 + own as u64 + 3);
    }
}

#[test]
fn a_sampled_token_has_the_score_that_scoring_gives_it() {
    let engine = start(portable(60), SMALL);
    let policy = engine.policy("base", None).unwrap();
    let prompt = tokens(1, 40);
    let request = sampled(prompt.clone(), 3, 30, 7);
    for generation in policy.generate(&[request]).unwrap().remove(0) {
        let given = Continuation { prompt: prompt.clone(), tokens: generation.tokens.clone() };
        let scores = policy.score(&[given]).unwrap().remove(0);
        assert_eq!(scores.len(), generation.scores.len());
        for (a, b) in generation.scores.iter().zip(&scores) {
            assert!((a.logprob - b.logprob).abs() < 1e-4, "{a:?}, scored {b:?}");
        }
        // At temperature 1 nothing is tempered.
        for (a, b) in generation.scores.iter().zip(&generation.logprobs) {
            assert!((a.logprob - b).abs() < 1e-4);
        }
    }
}

#[test]
fn many_threads_have_what_one_has() {
    let model = support::default_model();
    let engine = support::engine(model.clone());
    let policy = engine.policy("base", None).unwrap();
    let encode = |text: &str| model.tokenizer.encode(text);
    let context = "Title: Tides\nThe Moon pulls at the sea, and the sea rises towards it.\n\n";
    let questions = ["What pulls at the sea?", "What rises?", "Towards what does the sea rise?"];
    let request = |question: &str| {
        let query = encode(&format!("Question: {question}\nAnswer:"));
        Request {
            samples: 2,
            sampling: Sampling::at(1.0),
            stop: vec!["\n".into()],
            ..Request::new([encode(context), query].concat(), 12)
        }
    };
    let requests: Vec<Request> = questions.iter().map(|question| request(question)).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let policy = &policy;
        let threads: Vec<_> = requests
            .iter()
            .map(|request| scope.spawn(move || policy.generate(std::slice::from_ref(request))))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap().remove(0)).collect()
    });
    let alone = support::engine(model.clone());
    for (request, found) in requests.iter().zip(together) {
        // A version of its own each time: nothing is shared.
        let policy = alone.policy("alone", None).unwrap();
        let expected = policy.generate(std::slice::from_ref(request)).unwrap().remove(0);
        assert_eq!(found.len(), 2);
        for (found, expected) in found.iter().zip(&expected) {
            // To the last bit, whoever else was in its steps.
            assert_eq!(found, expected);
        }
    }
    assert!(engine.statistics().shared_positions > 0);
}

#[test]
fn a_request_s_sampling_mask_and_stop_tokens_are_obeyed() {
    let model = support::default_model();
    let engine = support::engine(model.clone());
    let policy = engine.policy("base", None).unwrap();
    let vocabulary = model.decoder.config().vocabulary;
    let prompt = model.tokenizer.encode("The Moon pulls at the sea, and");
    let plain = Request {
        samples: 4,
        sampling: Sampling { repetition_penalty: 1e6, ..Sampling::at(1.0) },
        ..Request::new(prompt.clone(), 12)
    };
    for generation in &policy.generate(std::slice::from_ref(&plain)).unwrap()[0] {
        let mut seen = prompt.clone();
        for token in &generation.tokens {
            assert!(!seen.contains(token), "a penalty this high forbids what was there");
            seen.push(*token);
        }
    }
    let two = [model.tokenizer.encode(" yes")[0], model.tokenizer.encode(" no")[0]];
    let mask = Some(Arc::new(LogitMask::allow(vocabulary, &two).unwrap()));
    let masked = Request { mask, sampling: Sampling::at(1.0), ..plain.clone() };
    let written = policy.generate(std::slice::from_ref(&masked)).unwrap();
    assert!(written[0].iter().flat_map(|g| &g.tokens).all(|token| two.contains(token)));
    assert!(written[0].iter().all(|g| g.stop == StopReason::Length));
    let stopped = Request { stop_tokens: two.to_vec(), ..masked };
    for generation in &policy.generate(std::slice::from_ref(&stopped)).unwrap()[0] {
        assert_eq!((generation.tokens.len(), generation.stop), (1, StopReason::EndOfText));
        assert_eq!(generation.text, "");
    }
    let wrong = Request { sampling: Sampling { top_p: 0.0, ..Sampling::at(1.0) }, ..plain.clone() };
    let error = policy.generate(&[wrong]).unwrap_err().to_string();
    assert!(error.contains("top_p is 0"), "{error}");
    let mask = Some(Arc::new(LogitMask::allow(10, &[1]).unwrap()));
    let error = policy.generate(&[Request { mask, ..plain }]).unwrap_err().to_string();
    assert!(error.contains("a mask is about 10 tokens"), "{error}");
}

#[test]
fn given_tokens_score_as_they_did_when_they_were_sampled() {
    let model = support::default_model();
    let engine = support::engine(model.clone());
    let adapter = crate::runner::adapter(&model.decoder, 5);
    for adapter in [None, Some(&adapter)] {
        let policy = engine.policy("scored", adapter).unwrap();
        let prompt = model.tokenizer.encode("Tides rise and fall because");
        let sampling = Sampling { top_k: 40, ..Sampling::at(0.8) };
        let request = Request { samples: 3, sampling, seed: 9, ..Request::new(prompt.clone(), 20) };
        let sampled = policy.generate(&[request]).unwrap().remove(0);
        let given: Vec<Continuation> = sampled
            .iter()
            .map(|g| Continuation { prompt: prompt.clone(), tokens: g.tokens.clone() })
            .collect();
        for (scores, sampled) in policy.score(&given).unwrap().iter().zip(&sampled) {
            // To the last bit: a row's logits are the same in whichever step they are computed.
            assert_eq!(scores, &sampled.scores);
        }
    }
}
