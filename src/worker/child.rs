//! The parent's side of a worker: it starts one, asks it, and starts another one when it fails.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use super::HostError;
use super::HostOptions;
use super::ModelHost;
use super::Step;
use super::parcel::AdapterParcel;
use super::parcel::OptimizerParcel;
use super::process::Overdue;
use super::process::Process;
use super::serve::lock;
use super::wire::Answer;
use super::wire::FromWorker;
use super::wire::PolicyId;
use super::wire::Question;
use super::wire::ToWorker;
use super::wire::Training;
use super::wire::TrainingStep;
use crate::config::Inference;
use crate::config::Worker as Watch;
use crate::inference::Continuation;
use crate::inference::GenerateError;
use crate::inference::Generation;
use crate::inference::Generator;
use crate::inference::Request;
use crate::inference::TokenScore;
use crate::machine;
use crate::model::fetch::ModelFiles;
use crate::model::lora::Adapter;
use crate::model::lora::AdapterError;
use crate::trainer::Limits;
use crate::trainer::StepMetrics;
use crate::trainer::batch::Example;
use crate::trainer::optimizer::AdamW;

/// How often whoever waits looks whether to go on waiting.
pub(super) const GLANCE: Duration = Duration::from_millis(100);

/// How long to wait before a worker is started again; four times longer with each further failure.
const BACKOFF: Duration = Duration::from_millis(250);

/// Failures beyond which the wait grows no more: 16 seconds.
const LONGEST_PAUSE: u32 = 3;

/// A model in a child process.
pub struct Child {
    command: Vec<OsString>,
    files: ModelFiles,
    watch: Watch,
    interrupt: Arc<AtomicBool>,
    state: Mutex<State>,
    policies: AtomicU64,
}

struct State {
    inference: Option<Inference>,
    process: Option<Arc<Process>>,
    /// Failures since a question was answered last.
    failures: u32,
    /// Whether it has been made smaller for want of memory.
    shrunk: bool,
    /// How often the system had ended a process of this group for want of memory.
    taken_before: u64,
}

impl Child {
    /// Starts a worker by its command line, and waits until it has the model.
    ///
    /// # Errors
    /// When it cannot be started, or cannot have the model.
    pub fn start(command: &[OsString], options: &HostOptions) -> Result<Self, HostError> {
        let child = Self {
            command: command.to_vec(),
            files: options.files.clone(),
            watch: options.watch,
            interrupt: options.interrupt.clone(),
            state: Mutex::new(State {
                inference: options.inference,
                process: None,
                failures: 0,
                shrunk: false,
                taken_before: machine::memory_kills().unwrap_or(0),
            }),
            policies: AtomicU64::new(0),
        };
        child.process()?;
        Ok(child)
    }

    /// The worker; started where there is none.
    fn process(&self) -> Result<Arc<Process>, HostError> {
        // Held until it is there: whoever else asks would start another one.
        let mut state = lock(&self.state);
        loop {
            if let Some(process) = &state.process {
                return Ok(process.clone());
            }
            self.pause(state.failures)?;
            let (inference, stop) = (state.inference, || self.check_interrupt());
            match Process::start(&self.command, &self.files, inference, &self.watch, &stop)? {
                Ok(process) => state.process = Some(Arc::new(process)),
                Err(how) => self.failed(&mut state, &how)?,
            }
        }
    }

    /// Waits before a new start after so many failures.
    fn pause(&self, failures: u32) -> Result<(), HostError> {
        let Some(before) = failures.checked_sub(1) else { return Ok(()) };
        let mut left = BACKOFF * 4_u32.pow(before.min(LONGEST_PAUSE));
        while left > Duration::ZERO {
            self.check_interrupt()?;
            let now = left.min(GLANCE);
            std::thread::sleep(now);
            left -= now;
        }
        Ok(())
    }

    /// Counts a failure. Fails when there were too many in a row.
    fn failed(&self, state: &mut State, how: &str) -> Result<(), HostError> {
        state.process = None;
        state.failures += 1;
        let taken = machine::memory_kills().unwrap_or(0);
        if taken > state.taken_before {
            state.taken_before = taken;
            self.shrink(state);
        }
        if state.failures >= self.watch.failures {
            return Err(GenerateError::Stopped(format!(
                "the worker failed {} times in a row; at last {how}",
                state.failures
            ))
            .into());
        }
        tracing::warn!(failures = state.failures, how, "the worker failed and is started again");
        Ok(())
    }

    /// Asks for less memory from now on, once.
    fn shrink(&self, state: &mut State) {
        if state.shrunk {
            return;
        }
        state.shrunk = true;
        if let Some(inference) = &mut state.inference {
            inference.rows = (inference.rows / 2).max(1);
            inference.kv_mb = (inference.kv_mb / 2).max(1);
        }
        tracing::warn!("the worker ran out of memory: it goes on with half the rows and batches");
    }

    /// What bounds a training's memory; less once the worker ran out of it.
    fn fitting(&self, limits: Limits) -> Limits {
        if !lock(&self.state).shrunk {
            return limits;
        }
        let micro_batch_tokens = (limits.micro_batch_tokens / 2).max(1);
        Limits { micro_batch_tokens, activation_bytes: limits.activation_bytes / 2, ..limits }
    }

    /// Whether the device had too little memory, and might have enough for less.
    fn could_fit(&self, answer: &Answer) -> bool {
        let failure = match answer {
            Answer::Generated(Err(error)) | Answer::Scored(Err(error)) => error.to_string(),
            Answer::ScoredBeforeUpdate(Err(error)) | Answer::Trained(Err(error)) => error.clone(),
            _ => return false,
        };
        let failure = failure.to_lowercase();
        let short = failure.contains("out of memory") || failure.contains("out_of_memory");
        short && !lock(&self.state).shrunk
    }

    /// A process has ended, or must: whoever notices first does what there is to do.
    fn lost(&self, process: &Arc<Process>, why: Option<Overdue>) -> Result<(), HostError> {
        let mut state = lock(&self.state);
        let known = state.process.as_ref().is_some_and(|known| Arc::ptr_eq(known, process));
        if !known {
            return Ok(());
        }
        process.kill();
        let how = match why {
            None => process.end(),
            Some(Overdue::Silent) => "it gave no sign of life".to_string(),
            Some(Overdue::Still) => "its work did not get on".to_string(),
            Some(Overdue::Memory) => {
                "it had more memory than there is for it (worker.memory_mb)".to_string()
            }
        };
        if why == Some(Overdue::Memory) {
            self.shrink(&mut state);
        }
        self.failed(&mut state, &how)
    }

    fn check_interrupt(&self) -> Result<(), HostError> {
        match self.interrupt.load(Ordering::Relaxed) {
            true => Err(GenerateError::Interrupted.into()),
            false => Ok(()),
        }
    }

    /// Asks until there is an answer; `stepped` hears of the steps of a training, and says whether
    /// it goes on. A worker that is asked again takes the same steps again.
    fn ask(
        &self,
        policy: Option<&Policy<'_>>,
        question: &dyn Fn() -> Question,
        stepped: &mut dyn FnMut(usize, StepMetrics) -> bool,
    ) -> Result<Answer, HostError> {
        loop {
            let process = self.process()?;
            let (id, news) = process.expect();
            if let Some(why) = process.overdue(&self.watch) {
                self.lost(&process, Some(why))?;
                continue;
            }
            let sent = policy
                .map_or(Ok(()), |policy| policy.introduce(&process))
                .and_then(|()| process.send(&ToWorker::Ask { id, question: question() }));
            let why = match sent {
                Ok(()) => loop {
                    match news.recv_timeout(GLANCE) {
                        Ok(FromWorker::Answered { answer, .. }) if self.could_fit(&answer) => {
                            break Some(Overdue::Memory);
                        }
                        Ok(FromWorker::Answered { answer, .. }) => {
                            lock(&self.state).failures = 0;
                            return Ok(answer);
                        }
                        Ok(FromWorker::Stepped { index, metrics, .. }) => {
                            let go_on = stepped(index, metrics);
                            // Where it has ended the channel is closed.
                            let _ = process.send(&ToWorker::GoOn { id, go_on });
                        }
                        Ok(_) => {}
                        Err(mpsc::RecvTimeoutError::Disconnected) => break None,
                        Err(mpsc::RecvTimeoutError::Timeout) => {
                            if let Err(error) = self.check_interrupt() {
                                process.forget(id);
                                return Err(error);
                            }
                            if let Some(why) = process.overdue(&self.watch) {
                                break Some(why);
                            }
                        }
                    }
                },
                Err(_) => None,
            };
            self.lost(&process, why)?;
        }
    }
}

/// A policy of the worker.
struct Policy<'a> {
    child: &'a Child,
    id: PolicyId,
    version: String,
    adapter: Option<AdapterParcel>,
}

impl Policy<'_> {
    /// Sees to it that a process knows it.
    fn introduce(&self, process: &Process) -> std::io::Result<()> {
        let mut loaded = lock(&process.loaded);
        if loaded.contains(&self.id) {
            return Ok(());
        }
        let (version, adapter) = (self.version.clone(), self.adapter.clone());
        process.send(&ToWorker::Load { policy: self.id, version, adapter })?;
        loaded.insert(self.id);
        Ok(())
    }

    fn ask(&self, question: &dyn Fn() -> Question) -> Result<Answer, GenerateError> {
        self.child.ask(Some(self), question, &mut |_, _| false).map_err(|error| match error {
            HostError::Generate(error) => error,
            other => GenerateError::Stopped(other.to_string()),
        })
    }
}

impl Generator for Policy<'_> {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Generation>>, GenerateError> {
        let (policy, requests) = (self.id, requests.to_vec());
        let question = || Question::Generate { policy, requests: requests.clone() };
        match self.ask(&question)? {
            Answer::Generated(generated) => generated,
            other => Err(GenerateError::Stopped(misplaced(&other))),
        }
    }

    fn score(&self, given: &[Continuation]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        let policy = self.id;
        let question = || Question::Score { policy, given: given.to_vec() };
        match self.ask(&question)? {
            Answer::Scored(scored) => scored,
            other => Err(GenerateError::Stopped(misplaced(&other))),
        }
    }

    fn model_version(&self) -> &str {
        &self.version
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        let Some(process) = lock(&self.child.state).process.clone() else { return };
        if lock(&process.loaded).remove(&self.id) {
            // One that has ended has forgotten it.
            let _ = process.send(&ToWorker::Forget { policy: self.id });
        }
    }
}

impl ModelHost for Child {
    fn policy(
        &self,
        version: &str,
        adapter: Option<&Adapter>,
    ) -> Result<Box<dyn Generator + '_>, HostError> {
        let adapter = adapter.map(AdapterParcel::pack).transpose().map_err(unpackable)?;
        let id = self.policies.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(Policy { child: self, id, version: version.to_string(), adapter }))
    }

    fn train(
        &self,
        adapter: &Adapter,
        optimizer: AdamW,
        limits: Limits,
        steps: &[Step<'_>],
        seen: &mut dyn FnMut(usize, StepMetrics) -> bool,
    ) -> Result<AdamW, HostError> {
        let packed = AdapterParcel::pack(adapter).map_err(unpackable)?;
        let optimizer = OptimizerParcel::pack(&optimizer).map_err(unpackable)?;
        let steps: Vec<TrainingStep> = steps.iter().map(TrainingStep::from).collect();
        let question = || {
            let (adapter, optimizer) = (packed.clone(), optimizer.clone());
            let (limits, steps) = (self.fitting(limits), steps.clone());
            Question::Train(Box::new(Training { adapter, optimizer, limits, steps }))
        };
        let (mut told, mut go_on) = (0, true);
        let mut stepped = |index, metrics| {
            // What another worker had taken before it failed is known already.
            if index >= told {
                told = index + 1;
                go_on = seen(index, metrics);
            }
            index + 1 < told || go_on
        };
        match self.ask(None, &question, &mut stepped)? {
            Answer::Trained(Ok((trained, optimizer))) => {
                trained.unpack_into(adapter).map_err(unpackable)?;
                optimizer.unpack().map_err(unpackable)
            }
            Answer::Trained(Err(why)) => Err(HostError::Failed(why)),
            other => Err(GenerateError::Stopped(misplaced(&other)).into()),
        }
    }

    fn score_before_update(
        &self,
        adapter: &Adapter,
        limits: Limits,
        examples: &mut [&mut Example],
    ) -> Result<(), HostError> {
        let packed = AdapterParcel::pack(adapter).map_err(unpackable)?;
        let all: Vec<Example> = examples.iter().map(|example| (**example).clone()).collect();
        let question = || {
            let (adapter, examples) = (packed.clone(), all.clone());
            Question::ScoreBeforeUpdate { adapter, limits: self.fitting(limits), examples }
        };
        match self.ask(None, &question, &mut |_, _| false)? {
            Answer::ScoredBeforeUpdate(Ok(scored)) => {
                for (example, scored) in examples.iter_mut().zip(scored) {
                    **example = scored;
                }
                Ok(())
            }
            Answer::ScoredBeforeUpdate(Err(why)) => Err(HostError::Failed(why)),
            other => Err(GenerateError::Stopped(misplaced(&other)).into()),
        }
    }
}

impl From<&Step<'_>> for TrainingStep {
    fn from(step: &Step<'_>) -> Self {
        let (examples, objective, rate) = (step.examples.to_vec(), step.objective, step.rate);
        Self { examples, objective, rate }
    }
}

fn unpackable(error: AdapterError) -> HostError {
    HostError::Failed(error.to_string())
}

/// What to say of an answer to another question.
fn misplaced(answer: &Answer) -> String {
    let of = match answer {
        Answer::Generated(_) => "generated text",
        Answer::Scored(_) => "scores",
        Answer::ScoredBeforeUpdate(_) => "scored examples",
        Answer::Trained(_) => "training",
    };
    format!("the worker answered with {of} to another question")
}
