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

use super::Answered;
use super::Gains;
use super::Metrics;
use super::Question;
use super::answer_all;
use super::answers;
use super::answers::About;
use super::answers::AnswerFile;
use super::bootstrap::Interval;
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
use crate::model::lora::WEIGHTS_FILE;
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
    /// Where each answer is kept, and gone on from.
    pub answers: Option<PathBuf>,
    /// Answers of an earlier evaluation to compare with.
    pub against: Option<PathBuf>,
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
    /// How it differs from the earlier evaluation that it was to be compared with.
    pub against: Option<Differences>,
}

/// Paired differences from an earlier evaluation, this one less that one, with 95 % intervals
/// resampled by document; fractions of 1.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Differences {
    /// Questions that both answered.
    pub n: usize,
    /// In exact match.
    pub em: f64,
    /// Its interval.
    pub em_ci: Interval,
    /// In F1.
    pub f1: f64,
    /// Its interval.
    pub f1_ci: Interval,
}

impl Differences {
    /// Those of `later` from what `path` holds.
    fn from(path: &Path, later: &[Answered]) -> anyhow::Result<Self> {
        let earlier = answers::read(path)?;
        let earlier: HashMap<&str, &Answered> =
            earlier.iter().map(|one| (one.id.as_str(), one)).collect();
        let both = later.iter().filter_map(|one| Some((*earlier.get(one.id.as_str())?, one)));
        let (earlier, later): (Vec<Answered>, Vec<Answered>) =
            both.map(|(earlier, later)| (earlier.clone(), later.clone())).unzip();
        if later.is_empty() {
            anyhow::bail!("{} has no answer to any of these questions", path.display());
        }
        let em = Gains::of_exact_match(&earlier, &later);
        let f1 = Gains::of(&earlier, &later);
        Ok(Self {
            n: later.len(),
            em: em.mean(),
            em_ci: em.interval(RESAMPLES, 0),
            f1: f1.mean(),
            f1_ci: f1.interval(RESAMPLES, 0),
        })
    }

    fn render(&self) -> String {
        let percent =
            |(low, high): Interval| format!("{:+.1} to {:+.1}", low * 100.0, high * 100.0);
        format!(
            "against the earlier evaluation, {} questions: EM {:+.1} ({})   F1 {:+.1} ({})\n",
            self.n,
            self.em * 100.0,
            percent(self.em_ci),
            self.f1 * 100.0,
            percent(self.f1_ci)
        )
    }
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
        ) + &self.against.as_ref().map(Differences::render).unwrap_or_default()
    }
}

/// Evaluates.
///
/// # Errors
/// When the corpus, the model or the adapter cannot be read, or the user stops it.
pub fn run(args: &EvalArgs) -> anyhow::Result<EvalReport> {
    let mut questions = args.questions.clone();
    let passages = match &args.corpus {
        EvalCorpus::Nothing => None,
        EvalCorpus::Paths(paths) => Some(read_corpus(paths, &mut questions)?),
        EvalCorpus::Passages(passages) => Some(passages.clone()),
    };
    let about = about(args, passages.as_deref())?;
    let index = passages.map(LexicalIndex::in_memory).transpose()?;
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
    let retriever = index.as_ref().map(|index| index as &dyn Retriever);
    let mut kept = match &args.answers {
        Some(path) => Some(AnswerFile::open(path, &about)?),
        None => None,
    };
    for chunk in questions.chunks(BATCH) {
        if args.interrupt.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(GenerateError::Interrupted.into());
        }
        let known = |question: &Question| kept.as_ref()?.known(&question.id).cloned();
        let (mut done, mut open) = (HashMap::new(), Vec::new());
        for question in chunk {
            match known(question) {
                Some(known) => drop(done.insert(&question.id, known)),
                None => open.push(question.clone()),
            }
        }
        let new = answer_all(&open, &*generator, retriever, &reader, args.passages)?;
        kept.as_mut().map(|kept| kept.add(&new)).transpose()?;
        let mut new = new.into_iter();
        answered.extend(chunk.iter().filter_map(|one| done.remove(&one.id).or_else(|| new.next())));
        progress.advance(chunk.len() as u64);
    }
    let metrics = metrics(&answered, RESAMPLES, 0, start.elapsed().as_secs_f64());
    let (prompt, adapter, suite) = (args.prompt.clone(), args.adapter.clone(), args.suite.clone());
    let against =
        args.against.as_deref().map(|path| Differences::from(path, &answered)).transpose()?;
    Ok(EvalReport { schema_version: 1, metrics, suite, prompt, adapter, against })
}

/// What tells this evaluation from others.
fn about(args: &EvalArgs, passages: Option<&[Passage]>) -> anyhow::Result<About> {
    let weights = args.adapter.as_ref().map(|dir| dir.join(WEIGHTS_FILE));
    let hash = |path: PathBuf| -> anyhow::Result<String> {
        let bytes =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(blake3::hash(&bytes).to_hex().to_string())
    };
    let corpus = passages.map(|passages| {
        let mut ids: Vec<&str> = passages.iter().map(|passage| passage.id.as_str()).collect();
        ids.sort_unstable();
        blake3::hash(ids.join("\n").as_bytes()).to_hex().to_string()
    });
    Ok(About {
        schema_version: 1,
        model: args.model.clone(),
        adapter: weights.map(hash).transpose()?,
        prompt: args.prompt.clone(),
        passages: if corpus.is_some() { args.passages } else { 0 },
        max_tokens: args.max_tokens,
        corpus: corpus.unwrap_or_default(),
    })
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

/// Reads the corpus. Questions that name their supporting records get the records'
/// titles as their documents, so that intervals are resampled by article.
fn read_corpus(paths: &[PathBuf], questions: &mut [Question]) -> anyhow::Result<Vec<Passage>> {
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
    Ok(passages)
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
