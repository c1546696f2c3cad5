//! Behaviour through public surfaces, in one binary so that it links once.

#![allow(clippy::unwrap_used)]

mod corpus;
mod retrieval;
