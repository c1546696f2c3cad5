//! nightschool teaches a small open-weight language model from a folder of documents, overnight,
//! without labels.
//!
//! One way through, and the modules in that order:
//!
//! ```text
//! corpus ─► retrieval ─► proposer ─► verifier ─► archive ─► curriculum ─► solver ─► reward
//!                                                                                     │
//!                               cli ◄─ phase ◄─ worker ◄─ evaluation ◄─ trainer ◄──┘
//! ```
//!
//! A module imports only from modules above it in this list; `tests/tidy.rs` holds it to that.

// The base: used by every stage.
pub mod answer;
pub mod clock;
pub mod durable;
pub mod machine;
pub mod progress;
pub mod rng;
pub mod rollout;
pub mod task;

pub mod config;
pub mod model;

pub mod schedule;

pub mod inference;

pub mod protocol;

// The pipeline, in the order data flows.
pub mod corpus;

pub mod retrieval;

pub mod proposer;

pub mod verifier;

pub mod archive;

pub mod export;

pub mod curriculum;

pub mod solver;

pub mod reward;

pub mod trainer;

pub mod evaluation;

pub mod worker;

// The glue, and the edge to the world.
pub mod phase;

pub mod daemon;

pub mod http;

pub mod cli;
