//! Behaviour through public surfaces, in one binary so that it links once.

#![allow(clippy::unwrap_used)]

mod archive;
mod bundled_corpus;
mod corpus;
mod durable;
mod fetch;
mod fetch_hub;
mod retrieval;
mod tokenizer;
