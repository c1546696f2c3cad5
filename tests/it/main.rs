//! Integration tests.
mod corpus;
mod retrieval;
