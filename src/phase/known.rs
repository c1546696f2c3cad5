//! The questions of the archive, as the gate asks for them.

use std::cell::RefCell;

use crate::archive::ArchiveReader;
use crate::verifier::KnownQuestion;
use crate::verifier::KnownQuestions;
use crate::verifier::minhash::Signature;

/// All questions that the archive has. Their signatures stay in memory for as long as this lives,
/// 72 bytes a task; those of tasks that come meanwhile are read when they are needed.
#[derive(Debug)]
pub struct ArchivedQuestions<'a> {
    archive: &'a ArchiveReader,
    /// By number.
    signatures: RefCell<Vec<(i64, Signature)>>,
}

impl<'a> ArchivedQuestions<'a> {
    /// Those of this archive.
    pub fn of(archive: &'a ArchiveReader) -> Self {
        Self { archive, signatures: RefCell::default() }
    }
}

impl KnownQuestions for ArchivedQuestions<'_> {
    fn contains(&self, question: &str) -> anyhow::Result<bool> {
        Ok(self.archive.has_question(question)?)
    }

    fn alike(&self, signature: &Signature, matches: usize) -> anyhow::Result<Vec<KnownQuestion>> {
        let mut signatures = self.signatures.borrow_mut();
        let last = signatures.last().map_or(0, |(number, _)| *number);
        signatures.extend(self.archive.signatures_after(last)?);
        let alike = signatures.iter().filter(|(_, other)| other.matches(signature) >= matches);
        let numbers: Vec<i64> = alike.map(|(number, _)| *number).collect();
        Ok(self.archive.asked(&numbers)?)
    }
}
