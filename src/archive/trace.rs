//! Lineage as a graph: what a task was made from, and everything that was made of it.
//!
//! ```text
//! source file ─► document ─► passage ─► seed ─► draft ─► task ─► rollouts ─► training ─► version
//!                   corpus version, model version ─┘ └ checks ▲     └ by version   evaluation ◄┤
//!                                  passage ─► verification ───┘                     promotion ◄┘
//! ```

use petgraph::graph::DiGraph;
use petgraph::graph::NodeIndex;
use rusqlite::Transaction;
use rusqlite::params;
use serde::Serialize;
use serde_json::Value;
use serde_json::json;

use super::ArchiveReader;
use super::curation::Curation;
use super::error::ArchiveError;
use super::error::Failure;
use super::lineage;
use super::lineage::PassageDetail;
use super::lineage::TaskDetail;
use super::verification::Verification;

/// What a piece of lineage is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceKind {
    /// A file of the corpus.
    SourceFile,
    /// A document in it.
    Document,
    /// A passage that the task rests on.
    Passage,
    /// Which passages stood where when the draft was made.
    CorpusVersion,
    /// The answer and path that the question was written for.
    Seed,
    /// A set of weights.
    ModelVersion,
    /// What was put forward.
    Draft,
    /// What a check of the gate said.
    Verdict,
    /// A time that the task went through the gate again, against other passages.
    Verification,
    /// A task.
    Task,
    /// A group of attempts by one version in one round.
    Rollouts,
    /// Optimiser steps of one phase that learnt from it.
    Training,
    /// A suite on which a version was measured.
    Evaluation,
    /// A decision on what is live.
    Promotion,
    /// What a person decided.
    Curation,
}

impl TraceKind {
    /// The name used in JSON and in trees.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SourceFile => "source file",
            Self::Document => "document",
            Self::Passage => "passage",
            Self::CorpusVersion => "corpus version",
            Self::Seed => "seed",
            Self::ModelVersion => "model version",
            Self::Draft => "draft",
            Self::Verdict => "verdict",
            Self::Verification => "verification",
            Self::Task => "task",
            Self::Rollouts => "rollouts",
            Self::Training => "training",
            Self::Evaluation => "evaluation",
            Self::Promotion => "promotion",
            Self::Curation => "curation",
        }
    }
}

/// A piece of lineage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceNode {
    /// What it is.
    pub kind: TraceKind,
    /// Its id among those of its kind.
    pub id: String,
    /// What a person should know of it, in a line.
    pub about: String,
}

/// The lineage of one task. Edges lead from what something was made from to what was made of it.
#[derive(Debug, Clone)]
pub struct Trace {
    /// The graph; it has no cycle.
    pub graph: DiGraph<TraceNode, ()>,
    /// The task in it.
    pub task: NodeIndex,
}

impl Trace {
    /// Nodes, and edges as pairs of their places.
    pub fn to_json(&self) -> Value {
        let nodes: Vec<&TraceNode> = self.graph.node_weights().collect();
        let edges: Vec<[usize; 2]> = self
            .graph
            .edge_indices()
            .filter_map(|edge| self.graph.edge_endpoints(edge))
            .map(|(from, to)| [from.index(), to.index()])
            .collect();
        json!({ "task": self.task.index(), "nodes": nodes, "edges": edges })
    }
}

impl ArchiveReader {
    /// The lineage of the task whose id is, or begins with, `prefix`.
    ///
    /// # Errors
    /// [`ArchiveError::NotFound`] or [`ArchiveError::Ambiguous`].
    pub fn task_trace(&self, prefix: &str) -> Result<Trace, ArchiveError> {
        let detail = self.task_detail(prefix)?;
        let decisions = self.curations(&detail.task.task.id)?;
        self.read(|tx| {
            let mut tracer = Tracer::default();
            let task = tracer.origins(tx, &detail)?;
            tracer.plays(&detail, task);
            tracer.trainings(tx, &detail, task)?;
            tracer.curations(&decisions, task);
            Ok(Trace { graph: tracer.graph, task })
        })
    }
}

#[derive(Default)]
struct Tracer {
    graph: DiGraph<TraceNode, ()>,
}

impl Tracer {
    /// The node of this kind and id, which is added if it is not there, as made from `from`.
    fn node(&mut self, kind: TraceKind, id: &str, about: String, from: &[NodeIndex]) -> NodeIndex {
        let known = self.graph.node_indices().find(|index| {
            let node = &self.graph[*index];
            node.kind == kind && node.id == id
        });
        let node = known
            .unwrap_or_else(|| self.graph.add_node(TraceNode { kind, id: id.to_string(), about }));
        for from in from {
            self.graph.update_edge(*from, node, ());
        }
        node
    }

    /// From the files to the task.
    fn origins(&mut self, tx: &Transaction<'_>, detail: &TaskDetail) -> Result<NodeIndex, Failure> {
        let draft = &detail.draft;
        let mut passages = Vec::new();
        for id in &draft.seed.path {
            passages.push(self.passage(tx, id)?);
        }
        let seed = format!(
            "{} ({}, {} hops)",
            draft.seed.answer,
            draft.seed.kind.as_str(),
            draft.seed.hops()
        );
        let mut made_from = vec![self.node(TraceKind::Seed, &draft.id, seed, &passages)];
        made_from.extend(self.versions(detail, &draft.model_version));
        let corpus: Option<(String, i64, i64)> = lineage::corpus_version_of(tx, &draft.id)?;
        if let Some((id, documents, passages)) = corpus {
            let about = format!("{documents} documents, {passages} passages");
            made_from.push(self.node(TraceKind::CorpusVersion, &id, about, &[]));
        }
        let question = draft.question.clone().unwrap_or_default();
        let written = self.node(TraceKind::Draft, &draft.id, question.clone(), &made_from);
        for (place, verdict) in detail.verdicts.iter().enumerate() {
            let outcome = verdict.rejection.map_or("passed", |reason| reason.as_str());
            let about = format!("{outcome}: {}", verdict.evidence);
            let id = format!("{place} {}", verdict.check);
            self.node(TraceKind::Verdict, &id, about, &[written]);
        }
        let mut parents = vec![written];
        for (place, verification) in detail.verifications.iter().enumerate() {
            parents.push(self.verification(tx, place, verification)?);
        }
        for parent in &detail.parents {
            parents.push(self.node(TraceKind::Task, parent, String::new(), &[]));
        }
        let task = &detail.task;
        let about = format!("{question} → {}", task.task.answer);
        let node = self.node(TraceKind::Task, &task.task.id, about, &parents);
        for child in &detail.children {
            self.node(TraceKind::Task, child, String::new(), &[node]);
        }
        Ok(node)
    }

    /// A passage with the document and the files that it stands or stood in.
    fn passage(&mut self, tx: &Transaction<'_>, id: &str) -> Result<NodeIndex, Failure> {
        if !tx.prepare_cached("SELECT 1 FROM passage WHERE id = ?1")?.exists([id])? {
            return Ok(self.node(TraceKind::Passage, id, "taken out of the corpus".into(), &[]));
        }
        let PassageDetail { passage, retired, sources } = lineage::passage_detail(tx, id)?;
        let files: Vec<NodeIndex> = sources
            .iter()
            .map(|path| self.node(TraceKind::SourceFile, path, String::new(), &[]))
            .collect();
        let document = self.node(TraceKind::Document, &passage.document_id, passage.title, &files);
        let gone = if retired { ", not in the corpus any more" } else { "" };
        let about = format!("{}{gone}", passage.text.chars().take(80).collect::<String>());
        Ok(self.node(TraceKind::Passage, id, about, &[document]))
    }

    fn verification(
        &mut self,
        tx: &Transaction<'_>,
        place: usize,
        verification: &Verification,
    ) -> Result<NodeIndex, Failure> {
        let mut from = Vec::new();
        for id in &verification.evidence {
            from.push(self.passage(tx, id)?);
        }
        let rejection = verification.verdicts.iter().filter(|verdict| verdict.required);
        let outcome = match rejection.filter_map(|verdict| verdict.rejection).next() {
            Some(reason) => format!("turned away: {}", reason.as_str()),
            None => "stands".to_string(),
        };
        let id = format!("{} in night {}", place + 1, verification.night);
        Ok(self.node(TraceKind::Verification, &id, outcome, &from))
    }

    /// A version with those that it came from; none where rules or a person wrote.
    fn versions(&mut self, detail: &TaskDetail, id: &str) -> Option<NodeIndex> {
        let version = detail.model_versions.iter().find(|version| version.id == id)?.clone();
        let parent = version.parent.as_ref().and_then(|parent| self.versions(detail, parent));
        let from: Vec<NodeIndex> = parent.into_iter().collect();
        Some(self.node(TraceKind::ModelVersion, id, version.note, &from))
    }

    /// The rollouts by night, round and version.
    fn plays(&mut self, detail: &TaskDetail, task: NodeIndex) {
        for stored in &detail.rollouts {
            let version = &stored.rollout.model_version;
            let group = detail.rollouts.iter().filter(|other| {
                (other.night, other.round) == (stored.night, stored.round)
                    && other.rollout.model_version == *version
            });
            let solved = group.clone().filter(|one| one.score.exact_match >= 0.5).count();
            let mut about = format!("{solved} of {} solved", group.count());
            let mut from = vec![task];
            from.extend(self.versions(detail, version));
            if let Some(start) = &stored.rollout.start {
                let (kind, depth) = (start.kind.as_str(), start.depth);
                about += &format!("; {kind} of rollout {}, depth {depth}", start.index);
                from.extend(self.rollouts_in(start.night, start.round));
            }
            let id = format!("night {} round {} by {version}", stored.night, stored.round);
            self.node(TraceKind::Rollouts, &id, about, &from);
        }
    }

    /// The groups of rollouts of one round.
    fn rollouts_in(&self, night: u32, round: u32) -> Vec<NodeIndex> {
        let begins = format!("night {night} round {round} by ");
        let of_round = |node: &NodeIndex| {
            let node = &self.graph[*node];
            node.kind == TraceKind::Rollouts && node.id.starts_with(&begins)
        };
        self.graph.node_indices().filter(of_round).collect()
    }

    /// The training that learnt from the task, the versions that it made, and their fate.
    fn trainings(
        &mut self,
        tx: &Transaction<'_>,
        detail: &TaskDetail,
        task: NodeIndex,
    ) -> Result<(), Failure> {
        let mut statement = tx.prepare_cached(
            "SELECT i.night, i.phase, i.adapter, i.round, s.model_version, count(*),
                    min(i.step), max(i.step)
             FROM train_item i JOIN train_step s ON s.night = i.night AND s.phase = i.phase
                 AND s.adapter = i.adapter AND s.step = i.step
             WHERE i.task_id = ?1 GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2 = 'policy', 4, 3",
        )?;
        let mut rows = statement.query([&detail.task.task.id])?;
        while let Some(row) = rows.next()? {
            let (night, phase, adapter): (u32, String, String) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            let (round, from, n): (Option<u32>, String, u32) =
                (row.get(3)?, row.get(4)?, row.get(5)?);
            let (first, last): (u32, u32) = (row.get(6)?, row.get(7)?);
            let about = format!("used {n} times in steps {first} to {last}, from {from}");
            let id = format!("night {night} {phase} {adapter}");
            let mut learnt_from: Vec<NodeIndex> = Vec::new();
            if let Some(round) = round {
                learnt_from = self.rollouts_in(night, round);
            }
            if learnt_from.is_empty() {
                learnt_from.push(task);
            }
            let id = round.map_or(id.clone(), |round| format!("{id} round {round}"));
            let training = self.node(TraceKind::Training, &id, about, &learnt_from);
            self.made(tx, night, &from, training)?;
        }
        Ok(())
    }

    /// The versions that a night made from another, how they were measured, and what was decided.
    fn made(
        &mut self,
        tx: &Transaction<'_>,
        night: u32,
        parent: &str,
        training: NodeIndex,
    ) -> Result<(), Failure> {
        let mut versions = tx.prepare_cached(
            "SELECT id, note FROM model_version WHERE night = ?1 AND parent = ?2 ORDER BY id",
        )?;
        let made: Vec<(String, String)> = versions
            .query_map(params![night, parent], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        for (id, note) in made {
            let version = self.node(TraceKind::ModelVersion, &id, note, &[training]);
            let mut evaluations = tx.prepare_cached(
                "SELECT e.id, s.name, e.metrics_json FROM evaluation e
                 JOIN suite s ON s.id = e.suite_id WHERE e.model_version = ?1 ORDER BY e.id",
            )?;
            let mut rows = evaluations.query([&id])?;
            while let Some(row) = rows.next()? {
                let (id, name): (String, String) = (row.get(0)?, row.get(1)?);
                let metrics: Option<String> = row.get(2)?;
                let about = format!("{name}: {}", metrics.as_deref().map_or("not ended", short));
                self.node(TraceKind::Evaluation, &id, about, &[version]);
            }
            let mut promotions = tx.prepare_cached(
                "SELECT night, promoted, reason FROM promotion WHERE candidate = ?1",
            )?;
            let mut rows = promotions.query([&id])?;
            while let Some(row) = rows.next()? {
                let (night, promoted): (u32, bool) = (row.get(0)?, row.get(1)?);
                let outcome = if promoted { "promoted" } else { "not promoted" };
                let about = format!("{outcome}: {}", row.get::<_, String>(2)?);
                self.node(TraceKind::Promotion, &format!("night {night}"), about, &[version]);
            }
            // A round's version is where the next began, and so on to the night's candidate.
            self.made(tx, night, &id, version)?;
        }
        Ok(())
    }

    fn curations(&mut self, decisions: &[Curation], task: NodeIndex) {
        for (place, Curation { action, note, .. }) in decisions.iter().enumerate() {
            let about = if note.is_empty() { action.clone() } else { format!("{action}: {note}") };
            self.node(TraceKind::Curation, &format!("{}", place + 1), about, &[task]);
        }
    }
}

/// The beginning of a long text.
fn short(text: &str) -> &str {
    text.char_indices().nth(160).map_or(text, |(end, _)| &text[..end])
}
