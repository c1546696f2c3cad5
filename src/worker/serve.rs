//! The worker's side: it has the model, and answers what its parent asks over a pipe.

use std::collections::HashMap;
use std::io::BufReader;
use std::io::BufWriter;
use std::io::Read;
use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;

use super::HostError;
use super::ModelHost as _;
use super::Step;
use super::local::Local;
use super::parcel::AdapterParcel;
use super::parcel::OptimizerParcel;
use super::wire;
use super::wire::Answer;
use super::wire::FromWorker;
use super::wire::Id;
use super::wire::PolicyId;
use super::wire::Question;
use super::wire::ToWorker;
use super::wire::Training;
use crate::inference::GenerateError;
use crate::inference::Generator as _;
use crate::inference::Policy;
use crate::machine;
use crate::trainer::batch::Example;

/// How often the worker says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Answers until `input` ends: then the parent is gone, or needs nothing more, and the process
/// ends, whatever is under way in it.
///
/// # Errors
/// When nothing was asked by then, or the model cannot be opened and the parent does not read.
pub fn serve(input: impl Read, output: impl Write + Send) -> anyhow::Result<()> {
    let (mut input, output) = (BufReader::new(input), Output(Mutex::new(BufWriter::new(output))));
    let Some(ToWorker::Open { files, inference }) = wire::read(&mut input)? else {
        anyhow::bail!("a worker is started by a night, not by hand");
    };
    let opened = Local::open(&files, inference, Arc::new(AtomicBool::new(false)));
    let local = match opened {
        Ok(local) => {
            // Before anything is asked the parent knows how much memory the model takes.
            output.send(&alive(&local))?;
            output.send(&FromWorker::Opened(Ok(())))?;
            local
        }
        Err(error) => return output.send(&FromWorker::Opened(Err(error.to_string()))),
    };
    let server = Server {
        local: &local,
        output: &output,
        policies: Mutex::default(),
        trainings: Mutex::default(),
    };
    std::thread::scope(|scope| {
        scope.spawn(|| server.beat());
        loop {
            match wire::read(&mut input) {
                Ok(Some(ToWorker::Ask { id, question })) => {
                    let waits = server.expect_training(id, &question);
                    let server = &server;
                    scope.spawn(move || server.answer(id, question, waits));
                }
                Ok(Some(message)) => server.take(message),
                Ok(None) => std::process::exit(0),
                Err(error) => {
                    tracing::error!(%error, "the worker does not understand its parent");
                    std::process::exit(1)
                }
            }
        }
    })
}

/// When the system runs out of memory, it is better that this process goes than any other: it has
/// nothing that is not elsewhere too.
pub fn prefer_to_be_killed() {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "500") {
        tracing::debug!(%error, "the worker cannot put itself forward");
    }
}

/// A sign of life.
fn alive(local: &Local) -> FromWorker {
    let resident = machine::resident_memory().unwrap_or(0);
    FromWorker::Alive { progress: local.progress(), resident }
}

/// The pipe to the parent, whole messages at a time.
struct Output<W: Write>(Mutex<BufWriter<W>>);

impl<W: Write> Output<W> {
    fn send(&self, message: &FromWorker) -> anyhow::Result<()> {
        wire::write(&mut *lock(&self.0), message).context("the parent does not read")
    }
}

struct Server<'a, W: Write + Send> {
    local: &'a Local,
    output: &'a Output<W>,
    policies: Mutex<HashMap<PolicyId, Result<Policy, GenerateError>>>,
    /// Where trainings under way wait to be told whether they go on.
    trainings: Mutex<HashMap<Id, mpsc::Sender<bool>>>,
}

impl<W: Write + Send> Server<'_, W> {
    /// Says once a second how far the work is.
    fn beat(&self) {
        loop {
            std::thread::sleep(HEARTBEAT);
            if self.output.send(&alive(self.local)).is_err() {
                std::process::exit(1);
            }
        }
    }

    /// Does what takes no time.
    fn take(&self, message: ToWorker) {
        match message {
            ToWorker::Load { policy, version, adapter } => {
                let loaded = self.load(&version, adapter.as_ref());
                lock(&self.policies).insert(policy, loaded);
            }
            ToWorker::Forget { policy } => drop(lock(&self.policies).remove(&policy)),
            ToWorker::GoOn { id, go_on } => {
                // One that has failed waits no more.
                let _ = lock(&self.trainings).get(&id).map(|waits| waits.send(go_on));
            }
            ToWorker::Open { .. } | ToWorker::Ask { .. } => {}
        }
    }

    fn load(
        &self,
        version: &str,
        adapter: Option<&AdapterParcel>,
    ) -> Result<Policy, GenerateError> {
        let adapter = adapter
            .map(|parcel| parcel.unpack(self.local.config()))
            .transpose()
            .map_err(|error| GenerateError::Adapter(error.to_string()))?;
        self.local.engine_policy(version, adapter.as_ref())
    }

    /// Before a training begins, so that nothing said about it is missed.
    fn expect_training(&self, id: Id, question: &Question) -> Option<mpsc::Receiver<bool>> {
        let Question::Train(_) = question else { return None };
        let (sender, receiver) = mpsc::channel();
        lock(&self.trainings).insert(id, sender);
        Some(receiver)
    }

    /// Answers, or ends the process where that panics: another one is asked then.
    fn answer(&self, id: Id, question: Question, waits: Option<mpsc::Receiver<bool>>) {
        let work = || self.find_answer(id, question, waits.as_ref());
        let Ok(answer) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) else {
            std::process::exit(101)
        };
        lock(&self.trainings).remove(&id);
        if self.output.send(&FromWorker::Answered { id, answer }).is_err() {
            std::process::exit(1);
        }
    }

    fn find_answer(
        &self,
        id: Id,
        question: Question,
        waits: Option<&mpsc::Receiver<bool>>,
    ) -> Answer {
        match question {
            Question::Generate { policy, requests } => Answer::Generated(
                self.with_policy(policy).and_then(|policy| policy.generate(&requests)),
            ),
            Question::Score { policy, given } => {
                Answer::Scored(self.with_policy(policy).and_then(|policy| policy.score(&given)))
            }
            Question::ScoreBeforeUpdate { adapter, limits, mut examples } => {
                let scored = adapter.unpack(self.local.config()).map_err(|e| e.to_string());
                let scored = scored.and_then(|adapter| {
                    let mut all: Vec<&mut Example> = examples.iter_mut().collect();
                    self.local
                        .score_before_update(&adapter, limits, &mut all)
                        .map_err(|error| error.to_string())
                });
                Answer::ScoredBeforeUpdate(scored.map(|()| examples))
            }
            Question::Train(training) => {
                let trained = self.train(id, &training, waits);
                Answer::Trained(trained.map_err(|error| format!("{error:#}")))
            }
        }
    }

    fn with_policy(&self, id: PolicyId) -> Result<Policy, GenerateError> {
        match lock(&self.policies).get(&id) {
            Some(Ok(policy)) => Ok(policy.clone()),
            Some(Err(error)) => Err(GenerateError::Adapter(error.to_string())),
            None => Err(GenerateError::Stopped(format!("there is no policy {id}"))),
        }
    }

    fn train(
        &self,
        id: Id,
        training: &Training,
        waits: Option<&mpsc::Receiver<bool>>,
    ) -> anyhow::Result<(AdapterParcel, OptimizerParcel)> {
        let adapter = training.adapter.unpack(self.local.config())?;
        let optimizer = training.optimizer.unpack()?;
        let steps: Vec<Step<'_>> = training
            .steps
            .iter()
            .map(|step| {
                let (examples, objective, rate) = (&*step.examples, step.objective, step.rate);
                Step { examples, objective, rate }
            })
            .collect();
        let mut seen = |index, metrics| {
            let told = self.output.send(&FromWorker::Stepped { id, index, metrics });
            told.is_ok() && waits.is_some_and(|waits| waits.recv().unwrap_or(false))
        };
        let trained = self.local.train(&adapter, optimizer, training.limits, &steps, &mut seen);
        let optimizer = trained.map_err(|error: HostError| anyhow::anyhow!("{error}"))?;
        Ok((AdapterParcel::pack(&adapter)?, OptimizerParcel::pack(&optimizer)?))
    }
}

/// Locks; what a thread that panicked has left is whole, since only single calls change it.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
