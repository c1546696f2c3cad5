//! The lossless row of a task: what an import needs to have it again.

use serde::Deserialize;
use serde::Serialize;

use super::feature::Columns;
use super::feature::Feature;
use crate::archive::Band;
use crate::archive::IMPORTED;
use crate::archive::Imported;
use crate::archive::PlacedPassage;
use crate::archive::Play;
use crate::archive::TaskRecord;
use crate::archive::TaskState;
use crate::task::AnswerKind;
use crate::task::Origin;
use crate::task::Rejection;
use crate::task::Split;

/// A passage that a task rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRow {
    /// The passage's id, a hash of title and text.
    pub id: String,
    /// Title of the passage.
    pub title: String,
    /// Its words.
    pub text: String,
    /// Its place in the document.
    pub ordinal: u32,
    /// The document it stands in.
    pub document_id: String,
    /// That document's title.
    pub document_title: String,
    /// The side that the archive put the document on.
    pub document_split: Split,
    /// The file that it came from.
    pub source: Option<String>,
}

/// What one check said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictRow {
    /// Name of the check.
    pub check: String,
    /// Why it said no; none where it passed.
    pub rejection: Option<Rejection>,
    /// Whether it decided, or was only recorded.
    pub required: bool,
    /// What it looked at, as JSON text: checks look at different things, columns have one type.
    pub evidence: String,
}

/// A task with its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskRow {
    /// Its id.
    pub id: String,
    /// Who wrote it.
    pub origin: Origin,
    /// The question.
    pub question: String,
    /// The accepted answer.
    pub answer: String,
    /// What sort of thing the answer is.
    pub kind: AnswerKind,
    /// How many passages it combines.
    pub hops: u32,
    /// The side of its documents in the archive.
    pub split: Split,
    /// The night that accepted it, in the archive that made it.
    pub night: Option<u32>,
    /// The document that its first passage stood in.
    pub document_id: String,
    /// That document's title.
    pub topic: String,
    /// The model version that wrote it; `code` or `person` for other hands.
    pub proposed_by: String,
    /// The version of its latest rollout.
    pub played_by: Option<String>,
    /// Whether it is still played.
    pub state: TaskState,
    /// Why it is not.
    pub state_reason: Option<String>,
    /// Rollouts made, in all archives that it came through.
    pub attempts: u64,
    /// Rollouts whose answer matched.
    pub solved: u64,
    /// How hard that makes it.
    pub band: Band,
    /// The same by model version.
    #[serde(default)]
    pub plays: Vec<Play>,
    /// The text that the model wrote when it proposed the question.
    pub transcript: Option<String>,
    /// Tasks that it was made from.
    pub parents: Vec<String>,
    /// What the gate said.
    pub verdicts: Vec<VerdictRow>,
    /// The passages that it rests on, first hop first.
    pub evidence: Vec<EvidenceRow>,
}

impl TaskRow {
    pub(super) fn of(record: &TaskRecord) -> Self {
        let stored = record.task.clone();
        let task = stored.task;
        let verdicts = record.verdicts.iter().map(|verdict| VerdictRow {
            check: verdict.check.clone(),
            rejection: verdict.rejection,
            required: verdict.required,
            evidence: verdict.evidence.to_string(),
        });
        let before = record.imported.as_ref();
        let (attempts, solved) = before.map_or((0, 0), |before| (before.attempts, before.solved));
        let (attempts, solved) = (attempts + stored.attempts, solved + stored.solved);
        let played_before = before.and_then(|before| before.played_by.clone());
        let parents = before.map_or(&record.parents, |before| &before.parents);
        Self {
            id: task.id,
            origin: task.origin,
            question: task.question,
            answer: task.answer,
            kind: task.kind,
            hops: u32::try_from(task.evidence.len()).unwrap_or(u32::MAX),
            split: task.split,
            night: task.night.or(before.and_then(|before| before.night)),
            document_id: stored.document_id,
            topic: stored.topic,
            proposed_by: stored.proposed_by,
            played_by: stored.played_by.or(played_before),
            state: stored.state,
            state_reason: stored.state_reason,
            attempts,
            solved,
            band: Band::of(attempts, solved),
            plays: plays(record),
            transcript: record.draft.transcript.clone(),
            parents: parents.clone(),
            verdicts: verdicts.collect(),
            evidence: (0..).zip(&record.evidence).map(|at| evidence_of(at, before)).collect(),
        }
    }

    pub(super) fn columns() -> Columns {
        use Feature::Integer;
        use Feature::Text;
        let verdict = vec![
            ("check", Text),
            ("rejection", Text),
            ("required", Feature::Boolean),
            ("evidence", Text),
        ];
        let play = vec![
            ("model_version", Text),
            ("content_hash", Text),
            ("attempts", Integer),
            ("solved", Integer),
        ];
        let evidence = vec![
            ("id", Text),
            ("title", Text),
            ("text", Text),
            ("ordinal", Integer),
            ("document_id", Text),
            ("document_title", Text),
            ("document_split", Text),
            ("source", Text),
        ];
        vec![
            ("id", Text),
            ("origin", Text),
            ("question", Text),
            ("answer", Text),
            ("kind", Text),
            ("hops", Integer),
            ("split", Text),
            ("night", Integer),
            ("document_id", Text),
            ("topic", Text),
            ("proposed_by", Text),
            ("played_by", Text),
            ("state", Text),
            ("state_reason", Text),
            ("attempts", Integer),
            ("solved", Integer),
            ("band", Text),
            ("plays", Feature::list(Feature::Struct(play))),
            ("transcript", Text),
            ("parents", Feature::list(Text)),
            ("verdicts", Feature::list(Feature::Struct(verdict))),
            ("evidence", Feature::list(Feature::Struct(evidence))),
        ]
    }
}

/// The counts of all archives; a version with the same name but other weights is another.
fn plays(record: &TaskRecord) -> Vec<Play> {
    let before = record.imported.as_ref().map(|before| before.plays.clone());
    let mut all = before.unwrap_or_default();
    for play in &record.plays {
        let same = |other: &&mut Play| {
            (&other.model_version, &other.content_hash) == (&play.model_version, &play.content_hash)
        };
        match all.iter_mut().find(same) {
            Some(known) => {
                known.attempts += play.attempts;
                known.solved += play.solved;
            }
            None => all.push(play.clone()),
        }
    }
    all
}

fn evidence_of((place, placed): (usize, &PlacedPassage), before: Option<&Imported>) -> EvidenceRow {
    let passage = placed.passage.clone();
    let document = placed.documents.first();
    let came = placed.source.as_ref().is_some_and(|path| path.starts_with(IMPORTED));
    let before = before.and_then(|before| before.sources.get(place)).filter(|_| came);
    EvidenceRow {
        id: passage.id,
        title: passage.title,
        text: passage.text,
        ordinal: passage.ordinal,
        document_id: passage.document_id,
        document_title: document.map(|document| document.title.clone()).unwrap_or_default(),
        document_split: document.map_or(Split::Train, |document| document.split),
        source: before.unwrap_or(&placed.source).clone(),
    }
}
