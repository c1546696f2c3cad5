//! The language model.

pub mod chat;
pub mod fetch;
pub mod gguf;
mod special_ids;
pub mod tokenizer;
