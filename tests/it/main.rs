//! Behaviour through public surfaces, in one binary so that it links once.

#![allow(clippy::unwrap_used)]

mod answer;
mod archive;
mod bad_input;
mod bundled_corpus;
mod checkpoint;
mod cli;
mod cloze;
mod corpus;
mod decoder;
mod durable;
mod fetch;
mod fetch_hub;
mod game;
mod ingest;
mod metrics;
mod night;
mod objective;
mod ops;
mod retrieval;
mod selection;
mod settings;
mod support;
mod tokenizer;
mod torch;
mod trainer;
