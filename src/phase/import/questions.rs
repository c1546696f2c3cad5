//! A person's questions, and the passages that hold their answers.

use std::collections::HashMap;

use super::Evidence;
use crate::answer;
use crate::archive::Archive;
use crate::archive::ArchiveError;
use crate::corpus::Miner;
use crate::phase::asked::Asked;
use crate::phase::curate::PERSON;
use crate::retrieval::LexicalIndex;
use crate::retrieval::Retriever;
use crate::rng::content_id;
use crate::task::AnswerKind;
use crate::task::Draft;
use crate::task::Origin;
use crate::task::Passage;
use crate::task::Seed;
use crate::verifier::Passages;

/// Passages looked at for an answer, the best first.
const HITS: usize = 100;

impl Asked {
    /// The draft on this evidence; without, one that the gate turns away.
    pub(super) fn draft(self, evidence: Evidence<'_>) -> Draft {
        let (answer, kind, path) = match evidence {
            Some((passage, answer)) => {
                let kind = kind_of(passage, &answer);
                (answer, kind, vec![passage.id.clone()])
            }
            None => {
                let answer = self.answers.into_iter().next().unwrap_or_default();
                let kind = kind_by_form(&answer);
                (answer, kind, Vec::new())
            }
        };
        // With the evidence, so that a question is tried again when its document has come.
        let mut parts = vec!["draft", "person", &self.question, &answer];
        parts.extend(path.iter().map(String::as_str));
        Draft {
            id: content_id(&parts),
            origin: Origin::Person,
            seed: Seed { answer, kind, path },
            question: Some(self.question),
            transcript: None,
            model_version: PERSON.to_string(),
        }
    }
}

/// What sort of thing an answer is, as the corpus' own rules see it where they do.
pub(in crate::phase) fn kind_of(passage: &Passage, answer: &str) -> AnswerKind {
    let same = |text: &str| answer::normalise(text) == answer::normalise(answer);
    let candidates = Miner::new([passage]).mine(passage);
    let mined = candidates.iter().find(|candidate| same(&candidate.text));
    match mined {
        Some(candidate) => candidate.kind,
        None if same(&passage.title) => AnswerKind::Title,
        None => kind_by_form(answer),
    }
}

fn kind_by_form(answer: &str) -> AnswerKind {
    let number = answer.chars().any(|c| c.is_ascii_digit());
    if number { AnswerKind::Number } else { AnswerKind::Name }
}

/// Finds the passages of the present corpus that questions rest on.
pub(super) struct Matcher<'a> {
    archive: &'a Archive,
    index: &'a LexicalIndex,
    /// By document and place.
    corpus: &'a [Passage],
    passages: &'a Passages,
    /// The file of each document; found out when a question names one.
    sources: Option<HashMap<String, String>>,
}

impl<'a> Matcher<'a> {
    pub(super) fn new(
        archive: &'a Archive,
        index: &'a LexicalIndex,
        corpus: &'a [Passage],
        passages: &'a Passages,
    ) -> Self {
        Self { archive, index, corpus, passages, sources: None }
    }

    /// The draft of a question on the best passage that holds one of its answers.
    pub(super) fn draft(&mut self, asked: Asked) -> anyhow::Result<Draft> {
        let evidence = self.evidence(&asked)?;
        Ok(asked.draft(evidence))
    }

    fn evidence(&mut self, asked: &Asked) -> anyhow::Result<Evidence<'a>> {
        let holds = |passage: &'a Passage| -> Evidence<'a> {
            let answer = asked.answers.iter().find(|a| answer::contains(&passage.text, a))?;
            Some((passage, answer.clone()))
        };
        if let Some(passage) = asked.evidence.as_ref().and_then(|id| self.passages.get(id)) {
            return Ok(holds(passage));
        }
        let documents = asked.document.as_ref().map(|name| self.documents(name)).transpose()?;
        let right = |passage: &&'a Passage| {
            let in_document = |all: &Vec<String>| all.contains(&passage.document_id);
            let says = |words: &String| answer::contains(&passage.text, words);
            documents.as_ref().is_none_or(in_document) && asked.evidence.as_ref().is_none_or(says)
        };
        let query = asked.evidence.as_ref().unwrap_or(&asked.question);
        let hits = self.index.search(query, HITS)?;
        let hits = hits.iter().filter_map(|hit| self.passages.get(&hit.passage.id));
        // All of a document that was named, however little of the question it says.
        let rest = self.corpus.iter().filter(|_| documents.is_some());
        Ok(hits.chain(rest).filter(right).find_map(holds))
    }

    /// The documents of this id, title or file.
    fn documents(&mut self, name: &str) -> Result<Vec<String>, ArchiveError> {
        let mut found: Vec<String> = Vec::new();
        for passage in self.corpus {
            if (passage.document_id == name || passage.title == name)
                && found.last() != Some(&passage.document_id)
            {
                found.push(passage.document_id.clone());
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let below = format!("/{name}");
        let sources = self.sources()?.iter();
        let of_file = sources.filter(|(_, path)| *path == name || path.ends_with(&below));
        Ok(of_file.map(|(document, _)| document.clone()).collect())
    }

    fn sources(&mut self) -> Result<&HashMap<String, String>, ArchiveError> {
        let sources = match self.sources.take() {
            Some(sources) => sources,
            None => {
                let firsts = self.corpus.chunk_by(|a, b| a.document_id == b.document_id);
                let firsts: Vec<String> =
                    firsts.filter_map(|all| all.first()).map(|first| first.id.clone()).collect();
                let placed = self.archive.placed_passages(&firsts)?;
                let source =
                    placed.into_iter().filter_map(|p| Some((p.passage.document_id, p.source?)));
                source.collect()
            }
        };
        Ok(self.sources.insert(sources))
    }
}
