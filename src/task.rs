//! What the game is about: seeds, drafts, verdicts and tasks, as plain data.

use serde::Deserialize;
use serde::Serialize;

/// Which hand wrote a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Made by rules from a sentence of the corpus.
    Code,
    /// Written by the language model in its proposer role.
    Model,
    /// Written or corrected by a person.
    Person,
}

impl Origin {
    /// All origins, in the order reports list them.
    pub const ALL: [Self; 3] = [Self::Code, Self::Model, Self::Person];

    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::Model => "model",
            Self::Person => "person",
        }
    }
}

/// What sort of thing an answer is; decides the question word of a code-made question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnswerKind {
    /// A calendar date, a year, a century.
    Date,
    /// A count, with or without a unit.
    Number,
    /// A capitalised name of a person, place, work or organisation.
    Name,
    /// The title of a document of the corpus.
    Title,
}

impl AnswerKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Date, Self::Number, Self::Name, Self::Title];

    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Date => "date",
            Self::Number => "number",
            Self::Name => "name",
            Self::Title => "title",
        }
    }
}

/// A paragraph-sized piece of a document; the unit of retrieval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// Hash of title and text: the same words have the same id on every machine.
    pub id: String,
    /// The document it was cut from.
    pub document_id: String,
    /// The document's title.
    pub title: String,
    /// The words, white space normalised.
    pub text: String,
    /// Position within the document, from 0.
    pub ordinal: u32,
}

/// Where a question starts: an answer and the passages that lead to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed {
    /// The answer the question must have.
    pub answer: String,
    /// What sort of thing the answer is.
    pub kind: AnswerKind,
    /// Passages from the first hop to the one that states the answer, which is last.
    pub path: Vec<String>,
}

impl Seed {
    /// How many passages must be combined; 1 for a question from a single passage.
    pub fn hops(&self) -> usize {
        self.path.len()
    }
}

/// A question that a proposer put forward, not yet believed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// Hash of origin, night, seed and attempt; stable across restarts.
    pub id: String,
    /// Who wrote it.
    pub origin: Origin,
    /// What it was written from.
    pub seed: Seed,
    /// The question; `None` when the model's text held no question.
    pub question: Option<String>,
    /// The text the model wrote; `None` for drafts made by code.
    pub transcript: Option<String>,
    /// The policy that wrote it (`"code"` for drafts made by rules).
    pub model_version: String,
}

/// Why the gate turned a draft away. Closed: stored, counted and shown by these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// No question could be read from the model's text.
    Malformed,
    /// Too short or too long to be a question.
    Length,
    /// The question gives its answer away.
    Leak,
    /// The evidence does not contain the answer.
    NoEvidence,
    /// The archive already has this question.
    Duplicate,
    /// The archive has nearly this question, with the same answer.
    NearDuplicate,
    /// The model knew the answer without any document.
    ClosedBook,
    /// With the evidence among noise passages the model did not find the answer.
    Unsolved,
    /// Without a passage of the evidence the model found the answer, too.
    EvidenceNotNeeded,
    /// Another passage supports another answer as well.
    Ambiguous,
    /// A check could not be carried out; the gate fails closed.
    CheckFailed,
}

impl Rejection {
    /// All reasons, in the order of the gate.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Length,
        Self::Leak,
        Self::NoEvidence,
        Self::Duplicate,
        Self::NearDuplicate,
        Self::ClosedBook,
        Self::Unsolved,
        Self::EvidenceNotNeeded,
        Self::Ambiguous,
        Self::CheckFailed,
    ];

    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Length => "length",
            Self::Leak => "leak",
            Self::NoEvidence => "no_evidence",
            Self::Duplicate => "duplicate",
            Self::NearDuplicate => "near_duplicate",
            Self::ClosedBook => "closed_book",
            Self::Unsolved => "unsolved",
            Self::EvidenceNotNeeded => "evidence_not_needed",
            Self::Ambiguous => "ambiguous",
            Self::CheckFailed => "check_failed",
        }
    }

    /// The reason of that name, if there is one.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }
}

/// What one check said about one draft, with what it saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Name of the check: one of those of the gate.
    pub check: String,
    /// `None` when the draft passed this check.
    pub rejection: Option<Rejection>,
    /// False when the outcome was only recorded (model checks on code-made drafts).
    pub required: bool,
    /// What the check looked at: passage ids, the model's answer, scores.
    pub evidence: serde_json::Value,
}

/// Which side of the document split a task's evidence lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// Played and trained on.
    Train,
    /// Kept for the model-made held-out suite; never trained on.
    Heldout,
}

impl Split {
    /// Both sides.
    pub const ALL: [Self; 2] = [Self::Train, Self::Heldout];

    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Heldout => "heldout",
        }
    }
}

/// A question that passed the gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Same as the id of the draft it came from.
    pub id: String,
    /// Who wrote it.
    pub origin: Origin,
    /// The question.
    pub question: String,
    /// The accepted answer.
    pub answer: String,
    /// What sort of thing the answer is.
    pub kind: AnswerKind,
    /// Passages that hold the evidence, first hop first.
    pub evidence: Vec<String>,
    /// Side of the document split.
    pub split: Split,
    /// The night that accepted it, from 1; none where a person did, or an import
    /// brought it.
    pub night: Option<u32>,
}

/// Whether the curriculum picks a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It does.
    Active,
    /// Not for now: nobody solved it.
    Parked,
    /// Only to see whether it is still solved.
    Resting,
}

impl Standing {
    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Parked => "parked",
            Self::Resting => "resting",
        }
    }
}

/// Why a task came to its standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StandingReason {
    /// Parked: not solved in so many attempts.
    Unsolved,
    /// Resting: solved in nearly all attempts.
    Solved,
    /// Active again: it was parked for so many nights.
    RetryDue,
    /// Active again: a model was promoted since it was parked.
    Promoted,
    /// Active again: at rest it was solved less than before.
    Forgotten,
    /// Active again: the settings do not park, or do not let rest, any more.
    RuleOff,
}

impl StandingReason {
    /// The name used in the archive, in JSON and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unsolved => "unsolved",
            Self::Solved => "solved",
            Self::RetryDue => "retry_due",
            Self::Promoted => "promoted",
            Self::Forgotten => "forgotten",
            Self::RuleOff => "rule_off",
        }
    }
}
