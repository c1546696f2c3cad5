//! Behaviour through public surfaces, in one binary so that it links once.

#![allow(clippy::unwrap_used)]

mod archive;
mod corpus;
mod durable;
mod retrieval;
