//! The integration tests, one binary.
#![allow(clippy::unwrap_used)]

mod archive;
mod durable;
