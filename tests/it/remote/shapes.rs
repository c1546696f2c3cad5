//! What comes back from each kind of server, and what it is worth.

use std::sync::Arc;
use std::time::Duration;

use nightschool::inference::Continuation;
use nightschool::inference::GenerateError;
use nightschool::inference::Generator;
use nightschool::inference::LogitMask;
use nightschool::inference::Request;
use nightschool::inference::Sampling;
use nightschool::rollout::StopReason;
use serde_json::Value;
use serde_json::json;

use super::ask;
use super::base;
use super::mock::Act;
use super::mock::Mock;
use super::mock::Shape;
use super::mock::VOCABULARY;
use super::pool;
use super::request;
use super::tokenizer;

#[test]
fn ids_and_logprobs_go_round() {
    let mock = Mock::start(Shape::Vllm);
    let pool = pool(&[&mock]);
    let engine = base(&pool).for_training();
    let groups = engine.generate(&[request(3), request(1)]).unwrap();
    assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1]);
    let tokenizer = tokenizer();
    for generation in groups.iter().flatten() {
        assert!(generation.text.starts_with(" blue "), "{}", generation.text);
        assert_eq!(generation.stop, StopReason::StopString);
        // The token that ended it is there, with its score.
        assert_eq!(generation.tokens, tokenizer.encode(&format!("{}\n", generation.text)));
        let expected: Vec<f32> =
            (0..generation.tokens.len()).map(|at| -(at as f32 + 1.0) / 8.0).collect();
        assert_eq!(generation.logprobs, expected);
        assert!(generation.scores.is_empty());
    }
    // Equal requests have equal samples; the samples of one request differ.
    assert_eq!(groups[0][0], groups[1][0]);
    assert!(groups[0][0] != groups[0][1] && groups[0][1] != groups[0][2]);

    let asked = mock.asked();
    assert_eq!(asked.len(), 4);
    assert_eq!(asked[0]["prompt"], json!(request(1).prompt));
    // Every parameter is sent: the server's defaults may be the model's own.
    for (key, value) in [
        ("model", json!("toy")),
        ("max_tokens", json!(24)),
        ("n", json!(1)),
        ("temperature", json!(1.0)),
        ("top_p", json!(1.0)),
        ("top_k", json!(VOCABULARY)),
        ("min_p", json!(0.0)),
        ("repetition_penalty", json!(1.0)),
        ("stop", json!(["\n"])),
        ("stop_token_ids", json!([900, 902])),
        ("skip_special_tokens", json!(false)),
        ("return_token_ids", json!(true)),
    ] {
        assert_eq!(asked[0][key], value, "{key}");
    }
}

#[test]
fn the_result_does_not_depend_on_the_servers() {
    let mocks = [Mock::start(Shape::Vllm), Mock::start(Shape::Vllm), Mock::start(Shape::Vllm)];
    // All are busy before one of them answers.
    mocks.iter().for_each(|mock| *mock.together.lock().unwrap() = 2);
    let many = base(&pool(&[&mocks[0], &mocks[1], &mocks[2]]));
    let alone = Mock::start(Shape::Vllm);
    let one = base(&pool(&[&alone]));
    let requests = [request(8), request(4)];
    assert_eq!(many.generate(&requests).unwrap(), one.generate(&requests).unwrap());
    assert!(mocks.iter().all(|mock| !mock.asked().is_empty()));
    assert_eq!(alone.asked().len(), 12);
}

#[test]
fn an_end_of_text_and_a_full_length_are_told_apart() {
    let mock = Mock::start(Shape::Vllm);
    let engine = base(&pool(&[&mock])).for_training();
    *mock.speech.lock().unwrap() = |_| " green<|im_end|>".into();
    let ended = ask(&engine).unwrap();
    assert_eq!((ended.text.as_str(), ended.stop), (" green", StopReason::EndOfText));
    assert_eq!(ended.tokens.last(), Some(&902));

    *mock.speech.lock().unwrap() = |_| "one two three four five six seven eight nine".repeat(3);
    let cut = ask(&engine).unwrap();
    assert_eq!((cut.tokens.len(), cut.stop), (24, StopReason::Length));
    assert_eq!(cut.text, tokenizer().decode(&cut.tokens));

    // Special tokens that end nothing are text, as in the engine of this process.
    *mock.speech.lock().unwrap() = |_| "<|im_start|>a\nb".into();
    assert_eq!(ask(&engine).unwrap().text, "<|im_start|>a");
    // An end that only the server knows was sampled all the same.
    *mock.speech.lock().unwrap() = |_| "abc<|im_start|>".into();
    mock.push(Act::Change(|answer| answer["choices"][0]["finish_reason"] = "stop".into()));
    let ended = ask(&engine).unwrap();
    assert_eq!((ended.text.as_str(), ended.stop), ("abc", StopReason::EndOfText));
    assert_eq!(ended.tokens.len(), ended.logprobs.len());
}

#[test]
fn ids_in_the_place_of_texts_do() {
    let mock = Mock::start(Shape::OldVllm);
    let generation = ask(&base(&pool(&[&mock])).for_training()).unwrap();
    assert_eq!(generation.tokens, tokenizer().encode(&format!("{}\n", generation.text)));
    assert_eq!(generation.tokens.len(), generation.logprobs.len());
}

#[test]
fn llama_cpp_writes_on_where_ids_matter_and_is_cut_here() {
    let mock = Mock::start(Shape::LlamaCpp);
    let pool = pool(&[&mock]);
    let generation = ask(&base(&pool).for_training()).unwrap();
    assert_eq!(generation.stop, StopReason::StopString);
    assert_eq!(generation.tokens, tokenizer().encode(&format!("{}\n", generation.text)));
    assert_eq!(generation.tokens.len(), generation.logprobs.len());
    assert_eq!(mock.asked()[0].get("stop"), None);
    // To be read only, it stops by itself, and the text is all there is.
    let read = ask(&base(&pool)).unwrap();
    assert_eq!((read.text.as_str(), read.stop), (generation.text.as_str(), StopReason::StopString));
    assert_eq!((read.tokens, read.logprobs), (generation.tokens, Vec::new()));
    assert_eq!(mock.asked()[1]["stop"], json!(["\n"]));
    assert_eq!(mock.asked()[1].get("logprobs"), None);
    assert_eq!(mock.asked()[1]["repeat_penalty"], 1.0);

    // Without the ids of all tokens nothing is left that could be trained on.
    mock.push(Act::Change(|answer| {
        answer["choices"][0]["logprobs"]["content"].as_array_mut().unwrap().pop();
    }));
    let left_out = ask(&base(&pool).for_training()).unwrap();
    assert_eq!((left_out.tokens.len(), left_out.stop), (0, StopReason::Cancelled));
}

#[test]
fn text_alone_is_read_but_not_trained_on() {
    let mock = Mock::start(Shape::LlamaCppPython);
    let pool = pool(&[&mock]);
    let read = ask(&base(&pool)).unwrap();
    assert!(read.text.starts_with(" blue ") && !read.text.contains('\n'), "{read:?}");
    assert_eq!((read.stop, read.logprobs.len()), (StopReason::StopString, 0));
    assert_eq!(read.tokens, tokenizer().encode(&format!("{}\n", read.text)));
    assert_eq!(mock.asked()[0]["prompt"], "Which colour?\nAnswer:");

    // Which of several strings ended it would be lost, so the text is cut here.
    let two = Request { stop: vec!["red".into(), "\n".into()], ..request(1) };
    let read = base(&pool).generate(&[two]).unwrap().remove(0).remove(0);
    assert_eq!(read.stop, StopReason::StopString);
    assert!(tokenizer().decode(&read.tokens).ends_with('\n') && !read.text.contains('\n'));

    let error = ask(&base(&pool).for_training()).unwrap_err();
    assert!(matches!(error, GenerateError::Unsupported(_)), "{error}");
    assert!(error.to_string().contains("takes prompts as text only"), "{error}");
    assert!(pool.check_trainable(&request(1)).is_err());
    assert!(pool.status()[0].untrainable.is_some() && pool.status()[0].healthy);

    // Tokens that are no text's own: "bl" and "ue" are encoded as one.
    let apart: Vec<u32> = ["b", "l", "u", "e"].iter().flat_map(|c| tokenizer().encode(c)).collect();
    assert_ne!(tokenizer().encode("blue"), apart);
    let error = base(&pool).generate(&[Request::new(apart, 4)]).unwrap_err().to_string();
    assert!(error.contains("would read this one as other tokens"), "{error}");
}

#[test]
fn logprobs_are_known_only_for_the_distribution_that_was_sampled_from() {
    let at = |temperature, top_p| Request {
        sampling: Sampling { temperature, top_p, ..Sampling::at(1.0) },
        ..request(1)
    };
    let (warm, cold, greedy) = (at(1.0, 1.0), at(0.7, 1.0), at(0.0, 1.0));
    let nucleus = at(1.0, 0.9);
    for (shape, known) in
        [(Shape::Vllm, [true, false, true, false]), (Shape::Sglang, [true, true, true, false])]
    {
        let mock = Mock::start(shape);
        let pool = pool(&[&mock]);
        let all = [&warm, &cold, &greedy, &nucleus].map(Clone::clone);
        let groups = base(&pool).generate(&all).unwrap();
        let found: Vec<bool> = groups.iter().map(|group| !group[0].logprobs.is_empty()).collect();
        assert_eq!(found, known, "{shape:?}");
        assert!(groups.iter().all(|group| !group[0].tokens.is_empty()));
        assert_eq!(pool.check_trainable(&cold).is_ok(), known[1], "{shape:?}");
    }
    let mock = Mock::start(Shape::Vllm);
    let error = pool(&[&mock]).check_trainable(&cold).unwrap_err().to_string();
    assert!(error.contains("--logprobs-mode processed_logprobs"), "{error}");
}

#[test]
fn every_sampling_setting_reaches_the_server_and_a_truncated_one_trains_nothing() {
    let whole = Sampling::at(1.0);
    let truncated = [
        (Sampling { top_k: 40, ..whole }, "top_k", json!(40)),
        (Sampling { min_p: 0.25, ..whole }, "min_p", json!(0.25)),
        (Sampling { top_p: 0.5, ..whole }, "top_p", json!(0.5)),
        (Sampling { repetition_penalty: 1.25, ..whole }, "repetition_penalty", json!(1.25)),
    ];
    for (shape, trains) in
        [(Shape::Vllm, false), (Shape::Sglang, false), (Shape::ProcessedVllm, true)]
    {
        let mock = Mock::start(shape);
        let pool = pool(&[&mock]);
        for (at, (sampling, key, value)) in truncated.iter().enumerate() {
            let request = Request { sampling: *sampling, ..request(1) };
            let read =
                base(&pool).generate(std::slice::from_ref(&request)).unwrap().remove(0).remove(0);
            assert_eq!(mock.asked()[at][key], *value, "{shape:?}");
            assert!(!read.tokens.is_empty());
            assert_eq!(!read.logprobs.is_empty(), trains, "{shape:?} {key}");
            assert_eq!(pool.check_trainable(&request).is_ok(), trains, "{shape:?} {key}");
        }
        let request = Request { sampling: truncated[0].0, ..request(1) };
        let outcome = base(&pool).for_training().generate(&[request]);
        assert_eq!(outcome.is_ok(), trains, "{shape:?}");
        // Those who are refused ask for nothing.
        assert_eq!(mock.asked().len(), truncated.len() + usize::from(trains));
    }
    let mock = Mock::start(Shape::LlamaCpp);
    let request = Request { sampling: truncated[3].0, ..request(1) };
    base(&pool(&[&mock])).generate(&[request]).unwrap();
    assert_eq!(mock.asked()[0]["repeat_penalty"], 1.25);
}

#[test]
fn a_logprob_that_json_cannot_hold_is_not_known() {
    let mock = Mock::start(Shape::Sglang);
    let pool = pool(&[&mock]);
    let null: fn(&mut Value) = |answer| {
        let logprobs = &mut answer["choices"][0]["logprobs"];
        logprobs["token_logprobs"][1] = Value::Null;
        let top = logprobs["top_logprobs"][1].as_object_mut().unwrap();
        top.values_mut().for_each(|value| *value = Value::Null);
    };
    mock.push(Act::Change(null));
    let read = ask(&base(&pool)).unwrap();
    assert!(read.text.starts_with(" blue ") && read.logprobs.is_empty(), "{read:?}");
    mock.push(Act::Change(null));
    let left_out = ask(&base(&pool).for_training()).unwrap();
    assert_eq!((left_out.tokens.len(), left_out.stop), (0, StopReason::Cancelled));

    let mock = Mock::start(Shape::LlamaCpp);
    mock.push(Act::Change(|answer| {
        let entry = &mut answer["choices"][0]["logprobs"]["content"][0];
        (entry["logprob"], entry["top_logprobs"]) = (Value::Null, Value::Null);
    }));
    let left_out = ask(&base(&self::pool(&[&mock])).for_training()).unwrap();
    assert_eq!((left_out.tokens.len(), left_out.stop), (0, StopReason::Cancelled));
}

#[test]
fn given_tokens_are_scored_where_the_server_can() {
    let mock = Mock::start(Shape::Vllm);
    let tokenizer = tokenizer();
    let given =
        Continuation { prompt: tokenizer.encode("Say:"), tokens: tokenizer.encode(" blue") };
    let first = given.prompt.len();
    let nothing = Continuation { tokens: Vec::new(), ..given.clone() };
    let scores = base(&pool(&[&mock])).score(&[given.clone(), nothing]).unwrap();
    let logprobs: Vec<f32> = scores[0].iter().map(|score| score.logprob).collect();
    let expected: Vec<f32> =
        (first..first + given.tokens.len()).map(|at| -(at as f32) / 4.0).collect();
    assert_eq!((logprobs, scores[1].len()), (expected, 0));
    assert!(scores[0][0].log_normaliser.is_nan());

    let mock = Mock::start(Shape::Sglang);
    let error = base(&pool(&[&mock])).score(&[given]).unwrap_err();
    assert!(matches!(error, GenerateError::Unsupported(_)), "{error}");
    assert!(error.to_string().contains("SGLang does not score"), "{error}");
}

#[test]
fn a_mask_goes_to_vllm_only() {
    let mask = Some(Arc::new(LogitMask::allow(VOCABULARY, &[3, 5]).unwrap()));
    let masked = Request { mask, ..request(1) };
    let mock = Mock::start(Shape::Vllm);
    base(&pool(&[&mock])).generate(std::slice::from_ref(&masked)).unwrap();
    assert_eq!(mock.asked()[0]["allowed_token_ids"], json!([3, 5]));
    let mock = Mock::start(Shape::LlamaCpp);
    let error = base(&pool(&[&mock])).generate(&[masked]).unwrap_err().to_string();
    assert!(error.contains("cannot be told which tokens"), "{error}");
}

#[test]
fn what_does_not_fit_is_not_sent() {
    let mock = Mock::start(Shape::Vllm);
    let engine = base(&pool(&[&mock]));
    let error = engine.generate(&[Request::new(Vec::new(), 1)]).unwrap_err();
    assert!(matches!(error, GenerateError::EmptyPrompt));
    // The server has a shorter context than the model.
    let error = engine.generate(&[Request::new(vec![1; 250], 7)]).unwrap_err();
    assert!(matches!(error, GenerateError::TooLong { limit: 256, .. }), "{error}");
    assert!(engine.generate(&[]).unwrap().is_empty());
    assert_eq!(engine.generate(&[request(0)]).unwrap(), [[]]);
    assert!(mock.asked().is_empty());
}

#[test]
fn a_deadline_is_an_outcome() {
    let mock = Mock::start(Shape::Vllm);
    let pool = pool(&[&mock]);
    mock.push(Act::Hang);
    let soon = Request { deadline: Some(Duration::from_millis(50)), ..request(1) };
    let generation = base(&pool).generate(&[soon]).unwrap().remove(0).remove(0);
    assert_eq!((generation.tokens.len(), generation.stop), (0, StopReason::Deadline));
    mock.release();
    // The server was in no fault.
    assert!(pool.status()[0].healthy);
}
