//! The integration tests.

mod bundled_corpus;
mod fetch;
mod fetch_hub;
mod tokenizer;
