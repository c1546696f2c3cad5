//! The corpus: files become documents, documents become passages, passages become a graph of
//! answer candidates from which questions start.
//!
//! ```text
//! files ─► readers ─► Document ─► passages ─► Passage ─► candidates ─► graph ─► Seed
//! ```

pub mod candidates;
pub mod graph;
mod html;
mod markdown;
mod names;
pub mod passages;
mod quantities;
pub mod readers;
mod reading;
mod records;
mod restructured;
mod seeds;
mod sentences;
mod titles;
mod words;

pub use crate::config::HOPS_MAX;
pub use candidates::Candidate;
pub use candidates::Miner;
pub use graph::KnowledgeGraph;
pub use passages::drop_duplicates;
pub use passages::passage_id;
pub use passages::split;
pub use readers::read_paths;
pub use reading::Document;
pub use reading::ReadError;
pub use reading::Reading;
pub use reading::SkipReason;
pub use reading::Skipped;
pub use reading::SourceFile;
pub use seeds::Draws;
pub use sentences::sentences;
