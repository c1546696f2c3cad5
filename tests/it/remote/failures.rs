//! Servers that are full, slow, broken, dead, or others than the settings mean.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use nightschool::inference::GenerateError;
use nightschool::inference::Generator;
use nightschool::inference::Remote;
use nightschool::inference::RemoteError;
use nightschool::inference::remote::Options;
use nightschool::inference::remote::Pool;
use nightschool::inference::remote::Secret;
use nightschool::inference::remote::ServedModel;
use nightschool::model::tokenizer::Tokenizer;
use serde_json::Value;

use super::ask;
use super::base;
use super::error;
use super::mock::Act;
use super::mock::Mock;
use super::mock::Shape;
use super::mock::VOCABULARY;
use super::mock::options;
use super::mock::served;
use super::pool;
use super::pool_with;
use super::request;
use crate::support::http;
use crate::support::http::Reply;

#[test]
fn a_full_server_is_asked_again_when_it_says() {
    let mock = Mock::start(Shape::Vllm);
    let pool = pool(&[&mock]);
    let mut full = Reply::new(429, r#"{"error": {"message": "too many"}}"#);
    full.headers.push(("retry-after", "0.01".into()));
    mock.push(Act::Say(full.clone()));
    mock.push(Act::Say(Reply { status: 503, ..full }));
    assert!(ask(&base(&pool)).unwrap().text.starts_with(" blue"));
    assert_eq!(mock.asked().len(), 3);
    // It was never taken for dead: a survey would have cleared nothing, and there was none.
    assert_eq!(pool.status()[0].last_error.as_deref(), Some("status 503: too many"));
    assert!(pool.status()[0].healthy);
}

#[test]
fn of_two_waits_that_a_server_asks_for_the_longer_counts() {
    let mock = Mock::start(Shape::Vllm);
    let pool = pool(&[&mock]);
    *mock.together.lock().unwrap() = 2;
    for wait in ["0.5", "0.01"] {
        let mut full = Reply::new(429, "");
        full.headers.push(("retry-after", wait.into()));
        mock.push(Act::Say(full));
    }
    let start = Instant::now();
    let all = base(&pool).generate(&[request(2)]).unwrap();
    assert_eq!((all[0].len(), mock.asked().len()), (2, 4));
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
}

#[test]
fn a_request_that_runs_out_of_time_at_its_first_try_says_why() {
    let mock = Mock::start(Shape::Vllm);
    let timeout = Duration::from_millis(700);
    let pool = pool_with(Options { timeout, retries: 0, ..options(&[&mock]) });
    mock.push(Act::Hang);
    let error = error(&base(&pool));
    assert!(error.contains("no answer within 0.7 s") && error.contains(&mock.address), "{error}");
    mock.release();
}

#[test]
fn a_slow_server_loses_its_work_to_another() {
    let (slow, well) = (Mock::start(Shape::Vllm), Mock::start(Shape::Vllm));
    // Long enough for a survey on a busy machine; the slow one hangs for good.
    let timeout = Duration::from_millis(1500);
    let pool = pool_with(Options { timeout, ..options(&[&slow, &well]) });
    slow.push(Act::Hang);
    assert!(ask(&base(&pool)).unwrap().text.starts_with(" blue"));
    assert_eq!((slow.asked().len(), well.asked().len()), (1, 1));
    let why = pool.status()[0].last_error.clone().unwrap();
    assert_eq!(why, "no answer within 1.5 s");
    slow.release();
}

#[test]
fn half_an_answer_and_nonsense_are_tried_again() {
    for act in [
        Act::Cut(30),
        Act::Say(Reply { dead: true, ..Reply::new(200, "") }),
        Act::Say(Reply::new(200, "<html>bad gateway</html>")),
        Act::Say(Reply::new(200, r#"{"choices": []}"#)),
        Act::Say(Reply::new(200, r#"{"choices": [{"text": 3}]}"#)),
        Act::Say(Reply::new(502, "")),
        Act::Change(|answer| answer["choices"][0]["finish_reason"] = "abort".into()),
    ] {
        let mock = Mock::start(Shape::Vllm);
        let pool = pool(&[&mock]);
        mock.push(act);
        assert!(ask(&base(&pool)).unwrap().text.starts_with(" blue"));
        assert_eq!(mock.asked().len(), 2);
    }
}

#[test]
fn nonsense_without_end_is_given_up() {
    let mock = Mock::start(Shape::Vllm);
    let pool = pool(&[&mock]);
    (0..9).for_each(|_| mock.push(Act::Say(Reply::new(200, "{\"choices\": "))));
    let error = error(&base(&pool));
    assert!(error.contains("failed 4 times") && error.contains(&mock.address), "{error}");
    assert!(error.contains("an answer that is not JSON"), "{error}");
    assert_eq!(mock.asked().len(), 4);
}

/// An error that no other try would change.
fn refused(change: fn(&mut Value)) -> String {
    let (mock, other) = (Mock::start(Shape::Vllm), Mock::start(Shape::Vllm));
    let pool = pool(&[&mock, &other]);
    mock.push(Act::Change(change));
    let error = error(&base(&pool));
    assert_eq!((mock.asked().len(), other.asked().len()), (1, 0));
    error
}

#[test]
fn answers_that_contradict_the_model_are_not_believed() {
    let error = refused(|answer| answer["choices"][0]["token_ids"][0] = VOCABULARY.into());
    assert!(error.contains("token 920, and the model has 920"), "{error}");
    let error = refused(|answer| {
        let logprobs = &mut answer["choices"][0]["logprobs"]["token_logprobs"];
        logprobs.as_array_mut().unwrap().pop();
    });
    assert!(error.contains("log-probabilities for"), "{error}");
    let error = refused(|answer| {
        answer["choices"][0]["logprobs"]["token_logprobs"][0] = 0.5.into();
    });
    assert!(error.contains("the log-probability 0.5"), "{error}");
    // A begin token before the prompt.
    let error = refused(|answer| {
        let prompt = &mut answer["choices"][0]["prompt_token_ids"];
        prompt.as_array_mut().unwrap().insert(0, 901.into());
    });
    assert!(error.contains("it read other tokens than the prompt's"), "{error}");
    let error = refused(|answer| answer["usage"]["prompt_tokens"] = 3.into());
    assert!(error.contains("it counts 3 tokens in a prompt of"), "{error}");
    let error = refused(|answer| {
        answer["choices"][0]["token_ids"] = vec![1; 30].into();
        answer["choices"][0]["logprobs"]["token_logprobs"] = vec![-1.0; 30].into();
    });
    assert!(error.contains("it wrote 30 tokens, of 24 allowed"), "{error}");
    let error = refused(|answer| answer["padding"] = "x".repeat(2 << 20).into());
    assert!(error.contains("an answer of more than"), "{error}");
}

#[test]
fn a_refusal_is_shown_and_not_repeated() {
    let mock = Mock::start(Shape::Vllm);
    let pool = pool(&[&mock]);
    let message = format!("max_tokens\u{1b}[31m is\n too large {}", "z".repeat(1000));
    let body = serde_json::json!({"error": {"message": message}}).to_string();
    mock.push(Act::Say(Reply::new(400, body)));
    let error = error(&base(&pool));
    assert!(error.contains("status 400: max_tokens [31m is too large zzz"), "{error}");
    assert!(error.len() < 450 && !error.contains(char::is_control), "{error}");
    assert_eq!(mock.asked().len(), 1);
    assert!(pool.status()[0].healthy);

    let mut elsewhere = Reply::new(307, "");
    elsewhere.headers.push(("location", http::nobody()));
    mock.push(Act::Say(elsewhere));
    let error = ask(&base(&pool)).unwrap_err().to_string();
    assert!(error.contains("give the address it redirects to"), "{error}");
}

#[test]
fn all_servers_dead_are_all_named() {
    let dead = Mock::start(Shape::Vllm);
    dead.dead.store(true, Ordering::SeqCst);
    let nobody = http::nobody();
    let mut settings = options(&[&dead]);
    settings.endpoints.push(nobody.clone());
    let error = Pool::new(settings, served()).check().unwrap_err();
    assert!(matches!(error, RemoteError::AllDown(_)), "{error}");
    let error = error.to_string();
    assert!(error.contains(&dead.address) && error.contains(&nobody), "{error}");
    assert!(error.to_lowercase().contains("refused"), "{error}");

    // The same in the middle of the work: the time of the request bounds the wait.
    let mock = Mock::start(Shape::Vllm);
    let timeout = Duration::from_millis(700);
    let pool = pool_with(Options { timeout, retries: 1, ..options(&[&mock]) });
    mock.dead.store(true, Ordering::SeqCst);
    let error = super::error(&base(&pool));
    assert!(error.contains(&mock.address), "{error}");
}

#[test]
fn no_server_gets_more_than_its_share() {
    let mocks = [Mock::start(Shape::Vllm), Mock::start(Shape::Vllm)];
    mocks.iter().for_each(|mock| *mock.together.lock().unwrap() = 2);
    let pool = pool_with(Options { concurrency: 2, ..options(&[&mocks[0], &mocks[1]]) });
    base(&pool).generate(&[request(24)]).unwrap();
    assert_eq!(mocks.each_ref().map(|mock| mock.most()), [2, 2]);
    assert_eq!(mocks.iter().map(|mock| mock.asked().len()).sum::<usize>(), 24);
    assert!(pool.status().iter().all(|status| status.in_flight == 0 && status.healthy));
}

#[test]
fn a_server_that_died_gets_work_again_when_it_is_back() {
    let (first, second) = (Mock::start(Shape::Vllm), Mock::start(Shape::Vllm));
    let pool = pool_with(Options { retries: 8, ..options(&[&first, &second]) });
    let engine = base(&pool);
    first.dead.store(true, Ordering::SeqCst);
    engine.generate(&[request(6)]).unwrap();
    assert_eq!((first.asked().len(), second.asked().len()), (0, 6));
    assert!(!pool.status()[0].healthy && pool.status()[1].healthy);
    first.dead.store(false, Ordering::SeqCst);
    second.dead.store(true, Ordering::SeqCst);
    engine.generate(&[request(6)]).unwrap();
    assert_eq!((first.asked().len(), second.asked().len()), (6, 6));
    assert!(pool.status()[0].healthy);
}

#[test]
fn another_model_is_refused() {
    let mock = Mock::start(Shape::Vllm);
    let check = |options: Options, model: ServedModel| {
        let error = Pool::new(options, model).check().unwrap_err();
        assert!(matches!(error, RemoteError::Refused { .. }), "{error}");
        error.to_string()
    };
    let error = check(Options { model: "tay".into(), ..options(&[&mock]) }, served());
    assert!(error.contains("it does not serve `tay` but toy"), "{error}");

    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let other = Tokenizer::from_file(&fixtures.join("chat/llama3/tokenizer.json")).unwrap();
    let error = check(options(&[&mock]), ServedModel::new(other.clone(), VOCABULARY, 512));
    assert!(error.contains("its tokenizer is not the model's"), "{error}");
    let text_only = Mock::start(Shape::LlamaCppPython);
    let error = check(options(&[&text_only]), ServedModel::new(other, VOCABULARY, 512));
    assert!(error.contains("its tokenizer is not the model's"), "{error}");
    // Text, and no way to know what becomes of it.
    let bare = Mock::start(Shape::Bare);
    let error = check(options(&[&bare]), served());
    assert!(error.contains("no way to see its tokens"), "{error}");
}

#[test]
fn the_key_is_sent_and_never_shown() {
    const KEY: &str = "sk-very-secret-123";
    let mock = Mock::start(Shape::Vllm);
    *mock.key.lock().unwrap() = Some(KEY.into());
    let secret = Some(Secret::new(KEY, "SCHOOL_KEY").unwrap());
    let with = Options { secret: secret.clone(), ..options(&[&mock]) };
    assert!(!format!("{with:?}").contains("secret-123"));
    let pool = pool_with(with);
    ask(&base(&pool)).unwrap();

    // A server that repeats what it was sent.
    *mock.key.lock().unwrap() = Some("another".into());
    let error = error(&base(&pool));
    assert!(error.contains("status 401: bad key: Bearer [key]!!!"), "{error}");
    assert!(error.contains("remote.api_key_env") && !error.contains("secret-123"), "{error}");
    assert!(!format!("{:?}", pool.status()).contains("secret-123"));

    // Wherever in an answer it repeats it, and however much else it says.
    *mock.key.lock().unwrap() = None;
    mock.push(Act::Change(|answer| {
        let long = format!("{KEY}\n\u{1b}[31m{}", "!".repeat(5000));
        answer["choices"][0]["finish_reason"] = long.into();
    }));
    let with = Options { secret: secret.clone(), retries: 0, ..options(&[&mock]) };
    let ended = self::error(&base(&pool_with(with)));
    *mock.other_model.lock().unwrap() = Some(format!("{KEY} and \u{7}"));
    let with = Options { secret, ..options(&[&mock]) };
    let listed = Pool::new(with, served()).check().unwrap_err().to_string();
    for error in [ended, listed] {
        assert!(error.contains("[key]") && !error.contains("secret-123"), "{error}");
        assert!(!error.contains(char::is_control) && error.chars().count() < 1200, "{error}");
    }

    for (text, reason) in [(" \n", "neither such an"), ("a b", "plain ASCII"), ("ключ", "plain")]
    {
        let error = Secret::new(text, "SCHOOL_KEY").unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("SCHOOL_KEY"), "{error}");
        assert!(!error.contains("ключ"), "{error}");
    }
    assert!(matches!(Secret::find("NIGHTSCHOOL_NO_SUCH_KEY"), Err(RemoteError::NoKey(_))));
}

#[test]
fn an_interruption_does_not_wait_for_the_servers() {
    let mock = Mock::start(Shape::Vllm);
    let interrupt = Arc::new(AtomicBool::new(false));
    let engine = Remote::new(pool(&[&mock]), None, "base", interrupt.clone());
    (0..4).for_each(|_| mock.push(Act::Hang));
    // Asked to stop when the first request is under way, which is never answered.
    *mock.watch.lock().unwrap() = Some(Box::new(move || interrupt.store(true, Ordering::SeqCst)));
    let error = engine.generate(&[request(8)]).unwrap_err();
    assert!(matches!(error, GenerateError::Interrupted), "{error}");
    mock.release();
}
