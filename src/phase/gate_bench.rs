//! How well the gate tells good drafts from bad ones: questions that people wrote are the good
//! ones, and others of them, corrupted in known ways, the bad ones. They go through the gate of a
//! night.

mod corruption;
mod material;
mod report;

use std::cell::RefCell;
use std::fs::File;
use std::io::BufWriter;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::json;

pub use self::corruption::Corruption;
pub use self::material::Half;
pub use self::report::CheckReport;
pub use self::report::GateReport;
pub use self::report::KindReport;

use self::material::Material;
use super::gate::Gate;
use super::gate::Models;
use super::propose::MODEL_UNIT;
use crate::answer;
use crate::config::Settings;
use crate::inference::Engine;
use crate::inference::GenerateError;
use crate::model::Model;
use crate::model::fetch;
use crate::model::fetch::ModelSpec;
use crate::model::lora::Adapter;
use crate::progress::Progress;
use crate::protocol::Prompts;
use crate::verifier::Candidate;
use crate::verifier::KnownQuestion;
use crate::verifier::KnownQuestions;
use crate::verifier::minhash::Shingles;
use crate::verifier::minhash::Signature;
use crate::verifier::model_checks::Costs;

/// What is put to the gate, and to whose.
#[derive(Debug, Clone)]
pub struct GateBench {
    /// JSON lines {id, title, text}.
    pub corpus: PathBuf,
    /// JSON lines {id, question, answers, supporting: [record ids]}.
    pub questions: PathBuf,
    /// Drafts; half of them are corrupted.
    pub drafts: usize,
    /// Which half of the questions they are drawn from; none for all.
    pub half: Option<Half>,
    /// Seed of all draws.
    pub seed: u64,
    /// A PEFT folder; none for the base model.
    pub adapter: Option<PathBuf>,
    /// Whether a draft that a check of the model turned away comes to the later ones, too.
    pub every_check: bool,
    /// A file for every draft with its verdicts, as JSON lines.
    pub details: Option<PathBuf>,
    /// The model, the checks and how versions are asked.
    pub settings: Settings,
    /// Folder of prompts beside those built in, or in their place.
    pub prompts: Option<PathBuf>,
    /// Where models are kept.
    pub cache: PathBuf,
    /// Set to stop at the next opportunity.
    pub interrupt: Arc<AtomicBool>,
}

/// A draft that is put to the gate, and what was done to it.
struct Posed {
    candidate: Candidate,
    /// None for a good one.
    corruption: Option<Corruption>,
}

impl Posed {
    fn is_accepted(&self) -> bool {
        self.candidate.verdicts.iter().all(|verdict| verdict.rejection.is_none())
    }
}

/// What the gate accepted so far, as an archive knows it.
#[derive(Default)]
struct Accepted(RefCell<Vec<(Signature, KnownQuestion)>>);

impl Accepted {
    fn add(&self, posed: &Posed) {
        let draft = &posed.candidate.draft;
        let question = draft.question.clone().unwrap_or_default();
        let (id, answer) = (draft.id.clone(), draft.seed.answer.clone());
        let signature = Shingles::of(&question).signature();
        self.0
            .borrow_mut()
            .push((signature, KnownQuestion { id, question, answer, heldout: false }));
    }
}

impl KnownQuestions for Accepted {
    fn contains(&self, question: &str) -> anyhow::Result<bool> {
        let key = answer::question_key(question);
        Ok(self.0.borrow().iter().any(|(_, known)| answer::question_key(&known.question) == key))
    }

    fn alike(&self, signature: &Signature, matches: usize) -> anyhow::Result<Vec<KnownQuestion>> {
        let known = self.0.borrow();
        let alike = known.iter().filter(|(other, _)| other.matches(signature) >= matches);
        Ok(alike.map(|(_, known)| known.clone()).collect())
    }
}

/// Measures the gate.
///
/// # Errors
/// When a file cannot be read or written, too few questions can be used, the model cannot be
/// loaded, or the user stops it.
pub fn run(bench: &GateBench) -> anyhow::Result<GateReport> {
    let mut material = Material::read(bench)?;
    let mut posed = material.draw(bench)?;
    let spec: ModelSpec = bench.settings.model.parse()?;
    let model = Arc::new(Model::load(&fetch::resolve(&spec, &bench.cache)?)?);
    let config = model.decoder.config();
    let adapter = bench.adapter.as_deref().map(|dir| Adapter::load(dir, config)).transpose()?;
    let engine = Engine::open(model.clone(), &bench.settings.inference, bench.interrupt.clone())?;
    let base = engine.policy("base", None)?;
    let reader = match &adapter {
        Some(adapter) => engine.policy("adapter", Some(adapter))?,
        None => base.clone(),
    };
    let prompts = match &bench.prompts {
        Some(folder) => Prompts::with_folder(folder)?,
        None => Prompts::built_in()?,
    };
    let gate = Gate {
        verify: &bench.settings.verify,
        evaluate: &bench.settings.evaluate,
        passages: &material.passages,
        passage_ids: &material.ids,
        retriever: &material.index,
        prompts: &prompts,
        tokenizer: &model.tokenizer,
        seed: bench.seed,
    };
    let start = Instant::now();
    let known = Accepted::default();
    let mut costs = Costs::new();
    let progress = Progress::start("drafts through the gate", posed.len() as u64);
    for batch in posed.chunks_mut(MODEL_UNIT) {
        if bench.interrupt.load(Ordering::Relaxed) {
            return Err(GenerateError::Interrupted.into());
        }
        let mut candidates: Vec<Candidate> =
            batch.iter().map(|posed| posed.candidate.clone()).collect();
        let models = Models { with_documents: &reader, from_memory: &base };
        for (check, cost) in gate.run(&mut candidates, &known, Some(models))? {
            costs.entry(check).or_default().add(&cost);
        }
        for (posed, candidate) in batch.iter_mut().zip(candidates) {
            posed.candidate = candidate;
            if posed.is_accepted() {
                known.add(posed);
            }
        }
        progress.advance(batch.len() as u64);
    }
    if let Some(path) = &bench.details {
        write_details(path, &posed)?;
    }
    Ok(GateReport::new(bench, &model.name, &posed, &costs, start.elapsed().as_secs_f64()))
}

fn write_details(path: &Path, all: &[Posed]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for posed in all {
            let Candidate { draft, verdicts, .. } = &posed.candidate;
            let row = json!({
                "id": draft.id,
                "corruption": posed.corruption,
                "question": draft.question,
                "answer": draft.seed.answer,
                "path": draft.seed.path,
                "accepted": posed.is_accepted(),
                "verdicts": verdicts,
            });
            writeln!(file, "{row}")?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
