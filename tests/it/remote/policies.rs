//! Adapters on the servers.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nightschool::inference::Generator;
use nightschool::inference::Remote;
use nightschool::inference::Request;
use nightschool::inference::remote::Options;
use nightschool::inference::remote::Pool;
use nightschool::inference::remote::RemoteAdapter;
use nightschool::rollout::StopReason;

use super::ask;
use super::error;
use super::mock::Mock;
use super::mock::Shape;
use super::mock::options;
use super::pool;
use super::pool_with;
use super::request;

/// A folder with some weights.
fn folder(root: &Path, name: &str) -> PathBuf {
    let dir = root.join("home/adapters").join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("adapter_model.safetensors"), name).unwrap();
    dir
}

fn engine(pool: &Arc<Pool>, dir: &Path) -> (Remote, String) {
    let label = dir.file_name().unwrap().to_str().unwrap();
    let adapter = RemoteAdapter::open(dir, None, label).unwrap();
    let name = adapter.name().to_string();
    (Remote::new(pool.clone(), Some(adapter), label, Arc::default()), name)
}

#[test]
fn an_adapter_is_loaded_before_it_is_used_and_again_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let mock = Mock::start(Shape::Vllm);
    let pool = pool(&[&mock]);
    let (first, name) = engine(&pool, &folder(home.path(), "night1-warm"));
    assert!(name.starts_with("night1-warm-") && name.len() == "night1-warm-".len() + 12);
    assert_eq!(first.model_version(), "night1-warm");
    ask(&first).unwrap();
    ask(&first).unwrap();
    // It comes back without what it had.
    mock.adapters.lock().unwrap().clear();
    ask(&first).unwrap();
    // It dies, and comes back without.
    mock.dead.store(true, Ordering::SeqCst);
    mock.adapters.lock().unwrap().clear();
    let waiting = std::thread::spawn(move || ask(&first).map(|_| first));
    while pool.status()[0].healthy {
        std::thread::yield_now();
    }
    mock.dead.store(false, Ordering::SeqCst);
    let first = waiting.join().unwrap().unwrap();
    let (load, complete) = (format!("load {name}"), format!("complete {name}"));
    let expected = [&load, &complete, &complete, &load, &complete, &load, &complete];
    assert_eq!(mock.log.lock().unwrap().iter().collect::<Vec<_>>(), expected);
    // The server is left as it was found.
    drop((first, pool));
    // A thread that has just answered may hold the pool a moment longer.
    let unload = format!("unload {name}");
    let unloaded = || mock.log.lock().unwrap().last() == Some(&unload);
    for _ in 0..500 {
        if unloaded() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(unloaded(), "{:?}", mock.log.lock().unwrap());
}

#[test]
fn the_oldest_adapters_leave_when_there_are_many() {
    let home = tempfile::tempdir().unwrap();
    let mock = Mock::start(Shape::Vllm);
    let pool = pool(&[&mock]);
    let mut names = Vec::new();
    for version in 0..6 {
        let (engine, name) = engine(&pool, &folder(home.path(), &format!("v{version}")));
        ask(&engine).unwrap();
        names.push(name);
    }
    assert_eq!(*mock.adapters.lock().unwrap(), names[2..]);
    // Two equal folders are one adapter.
    let (again, name) = engine(&pool, &home.path().join("home/adapters/v5"));
    ask(&again).unwrap();
    assert_eq!(name, names[5]);
    let loads = mock.log.lock().unwrap().iter().filter(|line| line.starts_with("load")).count();
    assert_eq!(loads, 6);
}

#[test]
fn a_deadline_passes_while_another_request_loads_the_adapter() {
    let home = tempfile::tempdir().unwrap();
    let mock = Mock::start(Shape::Vllm);
    let pool = pool(&[&mock]);
    let (engine, _) = engine(&pool, &folder(home.path(), "v1"));
    mock.slow_adapters.store(true, Ordering::SeqCst);
    let patient = request(1);
    let hurried = Request { deadline: Some(Duration::from_millis(300)), ..request(2) };
    let all = std::thread::scope(|scope| {
        let patient = scope.spawn(|| engine.generate(&[patient]).unwrap());
        let hurried = engine.generate(&[hurried]).unwrap();
        mock.release();
        [hurried, patient.join().unwrap()].concat()
    });
    let stops: Vec<StopReason> = all.concat().iter().map(|one| one.stop).collect();
    assert_eq!(stops[..2], [StopReason::Deadline; 2]);
    assert_eq!(stops[2], StopReason::StopString);
}

#[test]
fn one_that_an_earlier_run_left_is_used() {
    let home = tempfile::tempdir().unwrap();
    let mock = Mock::start(Shape::Vllm);
    let pool = pool(&[&mock]);
    let (engine, name) = engine(&pool, &folder(home.path(), "v1"));
    mock.adapters.lock().unwrap().push(name);
    ask(&engine).unwrap();
}

#[test]
fn sglang_takes_the_adapter_behind_the_base() {
    let home = tempfile::tempdir().unwrap();
    let mock = Mock::start(Shape::Sglang);
    let (engine, name) = engine(&pool(&[&mock]), &folder(home.path(), "v1"));
    ask(&engine.for_training()).unwrap();
    assert_eq!(mock.asked()[0]["model"], format!("toy:{name}"));
}

#[test]
fn why_an_adapter_cannot_be_loaded_is_said() {
    let home = tempfile::tempdir().unwrap();
    let dir = folder(home.path(), "v1");
    let error_of = |shape, options: fn(Options) -> Options| {
        let mock = Mock::start(shape);
        error(&engine(&pool_with(options(super::options(&[&mock]))), &dir).0)
    };
    let message = error_of(Shape::LlamaCpp, |options| options);
    assert!(message.contains("takes adapters only when it starts"), "{message}");
    let message = error_of(Shape::LlamaCppPython, |options| options);
    assert!(message.contains("VLLM_ALLOW_RUNTIME_LORA_UPDATING"), "{message}");
    let message = error_of(Shape::Vllm, |options| Options { load_adapters: false, ..options });
    assert!(message.contains("load") && message.contains("under that name"), "{message}");
    let gone = RemoteAdapter::open(&home.path().join("none"), None, "v").unwrap_err().to_string();
    assert!(gone.contains("cannot read the adapter"), "{gone}");
}

#[test]
fn servers_may_see_the_adapters_elsewhere() {
    let home = tempfile::tempdir().unwrap();
    let dir = folder(home.path(), "v1/solver");
    let mock = Mock::start(Shape::Vllm);
    let pool = pool_with(options(&[&mock]));
    let elsewhere = RemoteAdapter::open(&dir, Some(Path::new("/nowhere/else")), "v1").unwrap();
    let error = error(&Remote::new(pool.clone(), Some(elsewhere), "v1", Arc::default()));
    assert!(error.contains("cannot load the adapter /nowhere/else/v1/solver"), "{error}");
    let seen = RemoteAdapter::open(&dir, Some(Path::new("/mnt/school")), "v1").unwrap();
    ask(&Remote::new(pool, Some(seen), "v1", Arc::default())).unwrap();
}
