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
mod records;
mod restructured;
mod seeds;
mod sentences;
mod words;

pub use candidates::Candidate;
pub use candidates::Miner;
pub use graph::KnowledgeGraph;
pub use passages::split;
pub use readers::Document;
pub use readers::read_paths;
pub use seeds::Draws;
pub use sentences::sentences;
