//! The integration tests.

mod bundled_corpus;
mod fetch;
mod tokenizer;
