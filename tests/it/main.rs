//! Behaviour through public surfaces, in one binary so that it links once.

#![allow(clippy::unwrap_used)]

mod answer;
mod archive;
mod backup;
mod bad_input;
mod bundled_corpus;
mod chat;
mod checkpoint;
mod cli;
mod cloze;
mod corpus;
#[cfg(feature = "cuda")]
mod cuda;
mod curriculum;
mod daemon;
mod decoder;
mod default_model;
mod device;
mod durable;
mod engine;
mod export;
mod families;
mod fetch;
mod fetch_hub;
mod game;
mod gate;
mod http;
mod ingest;
mod journal;
mod metrics;
mod night;
mod notify;
mod objective;
mod ops;
mod proposer;
mod remote;
mod retrieval;
mod runner;
mod sampler;
mod schedule;
mod selection;
mod settings;
mod stop;
mod stored;
mod support;
mod tokenizer;
mod torch;
mod trainer;
mod worker;
