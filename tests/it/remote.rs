//! The remote engine, against servers that the tests play.

mod failures;
mod mock;
mod policies;
mod real;
mod shapes;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nightschool::inference::GenerateError;
use nightschool::inference::Generation;
use nightschool::inference::Generator;
use nightschool::inference::Remote;
use nightschool::inference::Request;
use nightschool::inference::Sampling;
use nightschool::inference::remote::Options;
use nightschool::inference::remote::Pool;

use self::mock::Mock;
use self::mock::options;
use self::mock::served;
use self::mock::tokenizer;

fn pool_with(options: Options) -> Arc<Pool> {
    let pool = Pool::new(options, served());
    pool.check().unwrap();
    Arc::new(pool)
}

fn pool(mocks: &[&Mock]) -> Arc<Pool> {
    pool_with(options(mocks))
}

fn base(pool: &Arc<Pool>) -> Remote {
    Remote::new(pool.clone(), None, "base", Arc::new(AtomicBool::new(false)))
}

/// Some samples of an answer in one line.
fn request(samples: usize) -> Request {
    Request {
        samples,
        sampling: Sampling::at(1.0),
        stop: vec!["\n".into()],
        seed: 7,
        ..Request::new(tokenizer().encode("Which colour?\nAnswer:"), 24)
    }
}

/// One sample of it.
fn ask(engine: &Remote) -> Result<Generation, GenerateError> {
    let mut all = engine.generate(&[request(1)])?;
    Ok(all.remove(0).remove(0))
}

/// What a call failed with.
fn error(engine: &Remote) -> String {
    ask(engine).expect_err("a failure").to_string()
}
