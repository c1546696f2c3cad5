//! Against real servers, started by the test.

use std::net::TcpListener;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nightschool::inference::GenerateError;
use nightschool::inference::Generator as _;
use nightschool::inference::Remote;
use nightschool::inference::Request;
use nightschool::inference::Sampling;
use nightschool::inference::remote::Options;
use nightschool::inference::remote::Pool;
use nightschool::inference::remote::ServedModel;
use nightschool::rollout::StopReason;

use crate::support;

/// A server that ends with the test.
struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// llama-cpp-python's server for the default model, or the file that `NIGHTSCHOOL_LLAMA_MODEL`
/// names, on a free port of this machine alone.
fn llama_cpp_python() -> Server {
    let python = std::env::var("NIGHTSCHOOL_LLAMA_SERVER_PYTHON").expect("the variable");
    support::default_model();
    let default = support::cache().join("models/smollm2-135m/model.gguf");
    let model = std::env::var_os("NIGHTSCHOOL_LLAMA_MODEL").unwrap_or(default.into());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(python)
        .args(["-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--model_alias", "smol", "--n_ctx", "2048", "--model"])
        .arg(model)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Server { child, address: format!("http://127.0.0.1:{port}") }
}

/// Waits until it is well.
fn pool(server: &mut Server) -> Arc<Pool> {
    let model = support::default_model();
    let options = Options {
        endpoints: vec![server.address.clone()],
        model: "smol".into(),
        secret: None,
        concurrency: 4,
        timeout: Duration::from_secs(60),
        retries: 2,
        backoff: Duration::from_millis(100),
        load_adapters: false,
    };
    for _ in 0..120 {
        let pool = Pool::new(options.clone(), ServedModel::of(&model));
        if pool.check().is_ok() {
            return Arc::new(pool);
        }
        assert!(server.child.try_wait().unwrap().is_none(), "the server has ended");
        std::thread::sleep(Duration::from_millis(500));
    }
    panic!("the server does not answer");
}

/// `NIGHTSCHOOL_LLAMA_SERVER_PYTHON=PYTHON cargo test --release --locked -- --ignored llama_cpp_python`
#[test]
#[ignore = "needs a Python with llama-cpp-python[server], named by NIGHTSCHOOL_LLAMA_SERVER_PYTHON"]
fn llama_cpp_python_writes_what_this_engine_writes() {
    let model = support::default_model();
    let mut server = llama_cpp_python();
    let pool = pool(&mut server);
    let remote = || Remote::new(pool.clone(), None, "base", Arc::new(AtomicBool::new(false)));
    let encode = |text: &str| model.tokenizer.encode(text);
    let prompts = [
        "Question: What is the capital of France?\nAnswer: Paris\n\n\
         Question: What is the capital of Italy?\nAnswer:",
        "The four seasons of the year are spring, summer,",
    ];
    let greedy = prompts
        .map(|prompt| Request { stop: vec!["\n".into()], ..Request::new(encode(prompt), 16) });
    let ours = support::engine(model.clone());
    let ours = ours.policy("base", None).unwrap().generate(&greedy).unwrap();
    let theirs = remote().generate(&greedy).unwrap();
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!((&ours[0].text, ours[0].stop), (&theirs[0].text, theirs[0].stop));
    }
    assert_eq!(theirs[0][0].stop, StopReason::StopString);

    // Samples have seeds of their own, and are the same again.
    let sampled = Request {
        samples: 4,
        sampling: Sampling { top_k: 50, ..Sampling::at(1.0) },
        seed: 3,
        ..Request::new(encode("Once upon a time"), 12)
    };
    let draw = || -> Vec<String> {
        let groups = remote().generate(std::slice::from_ref(&sampled)).unwrap();
        groups[0].iter().map(|generation| generation.text.clone()).collect()
    };
    let first = draw();
    assert_eq!(first, draw());
    assert!(first.iter().any(|text| *text != first[0]), "{first:?}");

    // It gives text only: nothing to train on.
    let error = remote().for_training().generate(&greedy).unwrap_err();
    assert!(matches!(error, GenerateError::Unsupported(_)), "{error}");
}
