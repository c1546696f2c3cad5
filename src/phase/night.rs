//! One night, from ingest to the morning report.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;

use super::disk;
use super::disk::Stage;
use super::home::Home;
use super::ingest;
use super::metrics;
use super::open_model;
use super::open_model::ModelContext;
use super::open_model::OpenModel;
use super::page;
use super::remote;
use super::report::Report;
use super::retention;
use super::suite;
use super::suite::Suites;
use crate::archive;
use crate::archive::Archive;
use crate::archive::ModelVersion;
use crate::archive::Unit;
use crate::clock::Clock;
use crate::config;
use crate::config::Settings;
use crate::durable;
use crate::durable::HomeLock;
use crate::retrieval::LexicalIndex;
use crate::rng;
use crate::task::Passage;
use crate::task::Split;
use crate::trainer::checkpoint::Circumstances;

/// What a night needs from outside its home.
pub struct NightContext {
    /// How its model is opened, and stopped.
    pub model: ModelContext,
    /// Files and folders to add to the corpus first.
    pub sources: Vec<PathBuf>,
    /// Human questions to evaluate on, unless the settings name others.
    pub suite: Option<SuiteSource>,
    /// Time for what is stored with a date.
    pub clock: Arc<dyn Clock>,
}

/// A file of questions people wrote; once they are frozen under the name, it is not read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteSource {
    /// What to call the suite.
    pub name: String,
    /// JSONL: {id, question, answers[]}.
    pub questions: PathBuf,
}

/// A night under way.
pub struct Night<'a> {
    pub(super) open: OpenModel<'a>,
    pub(super) index: LexicalIndex,
    /// Active passages by id.
    pub(super) passages: HashMap<String, Passage>,
    /// Their ids, sorted.
    pub(super) passage_ids: Vec<String>,
    /// The side of each document.
    pub(super) splits: HashMap<String, Split>,
    pub(super) number: u32,
    /// What the night's training depends on beside its data.
    pub(super) circumstances: Circumstances,
}

impl<'a> Deref for Night<'a> {
    type Target = OpenModel<'a>;

    fn deref(&self) -> &OpenModel<'a> {
        &self.open
    }
}

/// Runs a night, or goes on with one that was cut off, and returns the morning report.
///
/// # Errors
/// When the home is in use, the corpus is empty, the model cannot be loaded, the disk is full, or
/// the user asked to stop; the home is then in a state from which the same call goes on.
pub fn run(home: &Home, settings: &Settings, context: &NightContext) -> anyhow::Result<Report> {
    let start = Instant::now();
    std::fs::create_dir_all(home.dir())
        .with_context(|| format!("cannot create the home {}", home.dir().display()))?;
    let _lock = HomeLock::acquire(home.dir())?;
    disk::ensure_floor(home, settings)?;
    let archive = Archive::open(&home.archive(), context.clock.clone())?;
    let unfinished = archive.current_unfinished_night()?;
    let settings = match &unfinished {
        Some(night) => {
            tracing::info!(night = night.number, "going on with the unfinished night");
            let stored = config::stored(&night.settings).with_context(|| {
                format!("night {} cannot be continued by this program", night.number)
            })?;
            // Where the model is is no part of what the night does, nor what stays free: these may
            // have changed.
            let (remote, worker, disk) = (settings.remote.clone(), settings.worker, settings.disk);
            Settings { remote, worker, disk, ..stored }
        }
        None => settings.clone(),
    };
    let heldout = &settings.heldout;
    let named = |key, path: &Option<PathBuf>| {
        path.as_deref().map(|path| suite::source(&archive, home, key, path)).transpose()
    };
    let suite = named("heldout.suite", &heldout.suite)?.or_else(|| context.suite.clone());
    let sealed = named("heldout.sealed_suite", &heldout.sealed_suite)?;
    if unfinished.is_none() {
        fill_corpus(&archive, &settings, context, suite.is_some())?;
    }
    // Before the night begins: one that cannot load its model, or finds no servers, must not stay
    // unfinished.
    let (found, base) = open_model::find(&archive, &settings, &context.model)?;
    let remote = remote::connect(&settings, &found.outline)?;
    let begun = unfinished.as_ref().map(|night| night.number);
    disk::ensure_night(home, &archive, &settings, &found.outline.config, begun)?;
    let open = OpenModel::new(home, &archive, settings, found, remote, &context.model)?;
    let settings = &open.settings;
    let number = match unfinished {
        Some(night) => night.number,
        None => archive.begin_night(settings.seed, &serde_json::to_value(settings)?)?.number,
    };
    tidy_up(|| retention::remove_noted(home, &archive));
    let night = Night::open(open, number, &base)?;
    let report = night.phases(suite.as_ref(), sealed.as_ref(), start)?;
    archive.finish_night(number, &serde_json::to_value(&report)?)?;
    write_page(home, &archive, number);
    tidy_up(|| retention::remove_noted(home, &archive));
    tidy_up(|| night.remove_old_checkpoints());
    tidy_up(|| retention::remove_old_pages(home, night.settings.retention.reports));
    Ok(report)
}

/// Writes the morning report as a page. A night is not lost because that failed: `run report`
/// writes it again.
fn write_page(home: &Home, archive: &Archive, number: u32) {
    let write = || -> anyhow::Result<()> {
        let nights = archive.nights()?;
        let night = nights.iter().find(|night| night.number == number);
        let page = page::render(archive, night.context("the night is gone")?)?;
        Ok(durable::write_file(&home.page(number), page.as_bytes())?)
    };
    if let Err(error) = write() {
        tracing::warn!("the morning report could not be written as a page: {error:#}");
    }
}

/// Removes files that nothing needs. That they cannot be removed is no reason to lose a night: the
/// next one tries again.
fn tidy_up(remove: impl FnOnce() -> anyhow::Result<()>) {
    if let Err(error) = remove() {
        tracing::warn!("old files stay for now: {error:#}");
    }
}

/// Reads what is new in the corpus.
fn fill_corpus(
    archive: &Archive,
    settings: &Settings,
    context: &NightContext,
    human: bool,
) -> anyhow::Result<()> {
    let share = if human { 0.0 } else { settings.heldout.documents };
    ingest::ingest(archive, &context.sources, share, settings.seed)?;
    if archive.passages()?.is_empty() {
        anyhow::bail!("the corpus is empty: add documents with `nightschool corpus add PATH`");
    }
    Ok(())
}

impl<'a> Night<'a> {
    fn open(open: OpenModel<'a>, number: u32, base: &ModelVersion) -> anyhow::Result<Self> {
        let mut described = serde_json::to_value(&open.settings)?;
        // Training does not depend on where its rollouts were made or where it is done, nor on what
        // stays free.
        for apart in ["remote", "worker", "disk"] {
            described.as_object_mut().map(|settings| settings.remove(apart));
        }
        let circumstances = Circumstances {
            settings: described,
            base: open.outline.name.clone(),
            base_hash: base.content_hash.clone(),
            seed: night_seed(&open.settings, number),
        };
        let (home, archive) = (open.home, open.archive);
        let passages: HashMap<String, Passage> =
            archive.passages()?.into_iter().map(|p| (p.id.clone(), p)).collect();
        let mut passage_ids: Vec<String> = passages.keys().cloned().collect();
        passage_ids.sort_unstable();
        let splits = archive.documents()?.into_iter().map(|d| (d.id, d.split)).collect();
        Ok(Self {
            open,
            index: ingest::open_index(home, archive)?,
            passages,
            passage_ids,
            splits,
            number,
            circumstances,
        })
    }

    fn phases(
        &self,
        human: Option<&SuiteSource>,
        sealed: Option<&SuiteSource>,
        start: Instant,
    ) -> anyhow::Result<Report> {
        if !self.settings.verify.enforce {
            tracing::warn!("verify.enforce = false: the gate does not decide about the drafts");
        }
        // First: no draft may repeat a question of them.
        let human = human.map(|source| self.human_suite(source)).transpose()?;
        let sealed = sealed.map(|source| self.human_suite(source)).transpose()?;
        self.ensure_space(Stage::Drafts)?;
        self.verify_stale()?;
        self.propose_by_code()?;
        let mut suites = match human {
            Some(open) => Suites { open, sealed: None },
            None => self.model_made_suites()?,
        };
        suites.sealed = sealed.or(suites.sealed);
        let suite = &suites.open;
        let live = self.live()?;
        self.evaluate(suite, &live)?;
        let incumbent = self.demote_if_worse(suite, live)?;
        let mut policy = self.policy_at(&incumbent)?;
        self.ensure_space(Stage::WarmStart)?;
        self.warm_start(&incumbent, &mut policy)?;
        for round in 0..self.settings.solve.rounds as u32 {
            self.ensure_space(Stage::Round(round))?;
            if !self.affords(round)? || !self.play_round(round, &mut policy)? {
                break;
            }
        }
        let candidate = policy.version.clone();
        if candidate.id != incumbent.id {
            self.evaluate(suite, &candidate)?;
        }
        self.decide(suite, &incumbent, &candidate)?;
        self.read_sealed(&suites)?;
        self.retain()?;
        let report = self.report(suite, start.elapsed())?;
        metrics::show_guards(&report.guards);
        self.write_metrics(self.stop()?);
        Ok(report)
    }

    /// The version that was live when the night began.
    fn live(&self) -> anyhow::Result<ModelVersion> {
        // A promotion already decided tonight must not make the candidate its own incumbent.
        let decided =
            self.archive.promotions()?.into_iter().find(|promotion| promotion.night == self.number);
        let id = match decided {
            Some(promotion) => promotion.incumbent,
            None => self.archive.live_model()?.context("no live model")?.id,
        };
        self.archive.model_version(&id)?.with_context(|| format!("no model version {id}"))
    }

    /// The seed of everything drawn in this night.
    pub(super) fn seed(&self) -> u64 {
        night_seed(&self.settings, self.number)
    }

    pub(super) fn unit<'u>(&self, phase: &'u str, key: &'u str) -> Unit<'u> {
        Unit { night: self.number, phase, key }
    }

    pub(super) fn done(&self, phase: &str, key: &str) -> anyhow::Result<bool> {
        Ok(self.archive.unit_done(&self.unit(phase, key))?)
    }

    /// Tasks accepted up to and in this night that may be trained on, by id: none that a suite
    /// asks, too.
    pub(super) fn training_tasks(&self) -> anyhow::Result<BTreeMap<String, archive::StoredTask>> {
        let filter = archive::TaskFilter {
            split: Some(Split::Train),
            state: Some(archive::TaskState::Active),
            ..archive::TaskFilter::default()
        };
        let measured = self.archive.tasks_of_suites()?;
        let tasks = self.archive.tasks(&filter)?.into_iter();
        let tasks = tasks.filter(|stored| !measured.contains(&stored.task.id));
        Ok(tasks.map(|stored| (stored.task.id.clone(), stored)).collect())
    }

    /// The side of a passage's document.
    pub(super) fn split_of(&self, passage_id: &str) -> Split {
        let document = self.passages.get(passage_id).map(|passage| &passage.document_id);
        document.and_then(|id| self.splits.get(id)).copied().unwrap_or(Split::Train)
    }
}

/// What everything drawn in a night follows from.
fn night_seed(settings: &Settings, number: u32) -> u64 {
    rng::derive(settings.seed, &["night", &number.to_string()])
}
