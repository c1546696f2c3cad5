//! Retrieval: a question in, ranked passages out.

pub mod bench;
pub mod lexical;

use std::path::PathBuf;

pub use lexical::LexicalIndex;

use crate::task::Passage;

/// A passage found for a query.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The passage.
    pub passage: Passage,
    /// The retriever's score; only comparable within one search.
    pub score: f32,
    /// Place in the result, from 1.
    pub rank: usize,
}

/// Finds passages for a query.
pub trait Retriever: Send + Sync {
    /// The `k` best passages, best first; fewer when fewer match. The query is plain words: nothing
    /// in it has a special meaning. The same corpus and query always give the same hits in the
    /// same order.
    ///
    /// # Errors
    /// When the index cannot be read.
    fn search(&self, query: &str, k: usize) -> Result<Vec<Hit>, RetrievalError>;

    /// What [`Self::search`] finds, without its scores.
    ///
    /// # Errors
    /// As [`Self::search`].
    fn find(&self, query: &str, k: usize) -> Result<Vec<Passage>, RetrievalError> {
        Ok(self.search(query, k)?.into_iter().map(|hit| hit.passage).collect())
    }
}

/// Why a search or the making of an index failed.
#[derive(Debug, thiserror::Error)]
pub enum RetrievalError {
    /// The operating system refused a file or folder of the index.
    #[error(
        "cannot {operation} {}; check its permissions and the free space on its disk",
        path.display()
    )]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The index itself failed.
    #[error("cannot {operation}; remove the index folder, it is built again from the corpus")]
    Index {
        /// What was tried.
        operation: &'static str,
        /// What the search library said.
        source: tantivy::TantivyError,
    },
}
