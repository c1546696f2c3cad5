//! `nightschool eval`: a model, a corpus and a file of questions, without a home.

use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::Context as _;
use serde::Deserialize;
use serde::Serialize;

use super::Metrics;
use super::Question;
use super::answer_all;
use super::metrics;
use crate::config;
use crate::config::Inference;
use crate::corpus;
use crate::inference::Engine;
use crate::inference::GenerateError;
use crate::inference::Generator;
use crate::inference::Remote;
use crate::inference::remote;
use crate::inference::remote::ServedModel;
use crate::model::Model;
use crate::model::fetch;
use crate::model::fetch::ModelSpec;
use crate::model::lora::Adapter;
use crate::progress::Progress;
use crate::protocol::Prompts;
use crate::protocol::Reader;
use crate::retrieval::LexicalIndex;
use crate::retrieval::Retriever;
use crate::task::Passage;

/// Questions per batch of the engine.
const BATCH: usize = 20;
/// Resamples of the intervals.
const RESAMPLES: usize = 10_000;

/// Where answers are looked for.
#[derive(Debug, Clone)]
pub enum EvalCorpus {
    /// Nowhere: the model answers from memory.
    Nothing,
    /// In these files and folders.
    Paths(Vec<PathBuf>),
    /// In these passages.
    Passages(Vec<Passage>),
}

/// What to evaluate, and on what.
#[derive(Debug, Clone)]
pub struct EvalArgs {
    /// The base model.
    pub model: String,
    /// Where models are kept.
    pub cache: PathBuf,
    /// Where to search.
    pub corpus: EvalCorpus,
    /// The suite that the questions are, if they are one.
    pub suite: Option<String>,
    /// The questions.
    pub questions: Vec<Question>,
    /// A PEFT folder; none for the base model.
    pub adapter: Option<PathBuf>,
    /// Name of the prompt.
    pub prompt: String,
    /// Folder of prompts beside those built in, or in their place.
    pub prompts: Option<PathBuf>,
    /// Passages per question.
    pub passages: usize,
    /// Longest answer, in tokens.
    pub max_tokens: usize,
    /// How text is generated.
    pub inference: Inference,
    /// Servers that generate in the place of this process.
    pub remote: config::Remote,
    /// Set to stop at the next opportunity.
    pub interrupt: Arc<AtomicBool>,
}

/// The result, and how it was obtained.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvalReport {
    /// Version of this shape.
    pub schema_version: u32,
    /// Means and intervals.
    #[serde(flatten)]
    pub metrics: Metrics,
    /// The suite, if the questions are one of the home's.
    pub suite: Option<String>,
    /// Name of the prompt.
    pub prompt: String,
    /// The adapter's folder, if there was one.
    pub adapter: Option<PathBuf>,
}

impl EvalReport {
    /// The report for people.
    pub fn render(&self) -> String {
        let m = &self.metrics;
        format!(
            "{} questions, prompt `{}`\nEM {:.1} ({:.1}–{:.1})   F1 {:.1} ({:.1}–{:.1})   95 % \
             intervals\nright answer among the passages: {:.1} %\n{} tokens, {:.0} s\n",
            m.n,
            self.prompt,
            m.em * 100.0,
            m.em_ci.0 * 100.0,
            m.em_ci.1 * 100.0,
            m.f1 * 100.0,
            m.f1_ci.0 * 100.0,
            m.f1_ci.1 * 100.0,
            m.answer_in_retrieved * 100.0,
            m.tokens,
            m.seconds,
        )
    }
}

/// Evaluates.
///
/// # Errors
/// When the corpus, the model or the adapter cannot be read, or the user stops it.
pub fn run(args: &EvalArgs) -> anyhow::Result<EvalReport> {
    let mut questions = args.questions.clone();
    let index = match &args.corpus {
        EvalCorpus::Nothing => None,
        EvalCorpus::Paths(paths) => Some(index(paths, &mut questions)?),
        EvalCorpus::Passages(passages) => Some(LexicalIndex::in_memory(passages.clone())?),
    };
    let spec: ModelSpec = args.model.parse()?;
    let model = Arc::new(Model::load(&fetch::resolve(&spec, &args.cache)?)?);
    let (_engine, generator) = engine(args, &model)?;
    let prompts = match &args.prompts {
        Some(folder) => Prompts::with_folder(folder)?,
        None => Prompts::built_in()?,
    };
    let reader = Reader {
        prompts: &prompts,
        prompt: &args.prompt,
        tokenizer: &model.tokenizer,
        max_tokens: args.max_tokens,
    };
    let start = Instant::now();
    let progress = Progress::start("evaluation", questions.len() as u64);
    let mut answered = Vec::with_capacity(questions.len());
    for chunk in questions.chunks(BATCH) {
        if args.interrupt.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(GenerateError::Interrupted.into());
        }
        let retriever = index.as_ref().map(|index| index as &dyn Retriever);
        answered.extend(answer_all(chunk, &*generator, retriever, &reader, args.passages)?);
        progress.advance(chunk.len() as u64);
    }
    let metrics = metrics(&answered, RESAMPLES, 0, start.elapsed().as_secs_f64());
    let (prompt, adapter, suite) = (args.prompt.clone(), args.adapter.clone(), args.suite.clone());
    Ok(EvalReport { schema_version: 1, metrics, suite, prompt, adapter })
}

/// What answers: servers, where the settings name some; else the engine that is to be kept while it
/// does.
fn engine(
    args: &EvalArgs,
    model: &Arc<Model>,
) -> anyhow::Result<(Option<Engine>, Box<dyn Generator>)> {
    let interrupt = args.interrupt.clone();
    if let Some(pool) = remote::connect(&args.remote, || ServedModel::of(model))? {
        let label = |dir: &Path| dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let served = |dir: &PathBuf| remote::adapter(&args.remote, dir, &label(dir));
        let adapter = args.adapter.as_ref().map(served).transpose()?;
        return Ok((None, Box::new(Remote::new(pool, adapter, "eval", interrupt))));
    }
    let config = model.decoder.config();
    let adapter = args.adapter.as_ref().map(|dir| Adapter::load(dir, config)).transpose()?;
    let engine = Engine::open(model.clone(), &args.inference, interrupt)?;
    let policy = engine.policy("eval", adapter.as_ref())?;
    Ok((Some(engine), Box::new(policy)))
}

/// Reads and indexes the corpus. Questions that name their supporting records get the records'
/// titles as their documents, so that intervals are resampled by article.
fn index(paths: &[PathBuf], questions: &mut [Question]) -> anyhow::Result<LexicalIndex> {
    let reading = corpus::read_paths(paths, &HashMap::new(), &|_, _| {})?;
    for skipped in &reading.skipped {
        tracing::warn!(path = skipped.path, detail = skipped.detail, "left out of the corpus");
    }
    let titles: HashMap<&str, &str> = reading
        .documents
        .iter()
        .filter_map(|d| Some((d.record_id.as_deref()?, d.title.as_str())))
        .collect();
    for question in questions {
        if let Some(title) = titles.get(question.source_document.as_str()) {
            question.source_document = (*title).to_string();
        }
    }
    let mut passages: Vec<Passage> = reading.documents.iter().flat_map(corpus::split).collect();
    corpus::passages::drop_duplicates(&mut passages, &HashSet::new());
    if passages.is_empty() {
        anyhow::bail!("the corpus is empty: none of the files given holds readable text");
    }
    Ok(LexicalIndex::in_memory(passages)?)
}

#[derive(Deserialize)]
struct Line {
    id: String,
    question: String,
    answers: Vec<String>,
    title: Option<String>,
    #[serde(default)]
    supporting: Vec<String>,
}

/// Reads a JSONL file of questions, {id, question, answers[]} a line; a `title` or the first of
/// `supporting`, if there, tells which document a question is about.
///
/// # Errors
/// When the file cannot be read, a line is not such an object, an answer is missing, or an id
/// occurs twice; the file and line are named.
pub fn read_questions(path: &Path) -> anyhow::Result<Vec<Question>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the questions {}", path.display()))?;
    let mut questions = Vec::new();
    let mut seen = HashSet::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = || format!("{}, line {}", path.display(), index + 1);
        let line: Line = serde_json::from_str(line).with_context(|| {
            format!("{}: expected {{\"id\", \"question\", \"answers\": [...]}}", place())
        })?;
        if line.question.trim().is_empty() || line.answers.iter().all(|a| a.trim().is_empty()) {
            anyhow::bail!("{}: a question needs text and at least one answer", place());
        }
        if !seen.insert(line.id.clone()) {
            anyhow::bail!("{}: the id `{}` occurs twice", place(), line.id);
        }
        let source_document = line
            .title
            .or_else(|| line.supporting.into_iter().next())
            .unwrap_or_else(|| line.id.clone());
        questions.push(Question {
            id: line.id,
            question: line.question,
            answers: line.answers,
            source_document,
        });
    }
    if questions.is_empty() {
        anyhow::bail!("{} holds no question", path.display());
    }
    Ok(questions)
}
