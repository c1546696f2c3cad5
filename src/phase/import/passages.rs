//! The passages that exported tasks bring.

use std::collections::BTreeMap;
use std::collections::HashSet;

use crate::archive::Archive;
use crate::archive::ArchiveError;
use crate::archive::CorpusSummary;
use crate::archive::DocumentContent;
use crate::archive::DocumentStanding;
use crate::archive::IMPORTED;
use crate::archive::SourceFileContent;
use crate::corpus;
use crate::export::EvidenceRow;
use crate::export::TaskRow;
use crate::rng::content_id;
use crate::task::Passage;

/// The id that the row's words have: a file that was edited must not give them another's.
pub(super) fn id_of(row: &EvidenceRow) -> String {
    corpus::passage_id(&row.title, &row.text)
}

/// Passages that the corpus lacks, by document.
#[derive(Default)]
pub(super) struct Brought {
    looked_at: HashSet<String>,
    documents: BTreeMap<String, DocumentContent>,
}

impl Brought {
    /// Keeps what the corpus lacks of a task's evidence.
    pub(super) fn note(&mut self, archive: &Archive, row: &TaskRow) -> Result<(), ArchiveError> {
        for evidence in &row.evidence {
            let id = id_of(evidence);
            if !self.looked_at.insert(id.clone())
                || archive.lacking_passages(std::slice::from_ref(&id))?.is_empty()
            {
                continue;
            }
            let document =
                self.documents.entry(evidence.document_id.clone()).or_insert_with(|| {
                    DocumentContent {
                        id: evidence.document_id.clone(),
                        title: evidence.document_title.clone(),
                        split: evidence.document_split,
                        passages: Vec::new(),
                    }
                });
            document.passages.push(Passage {
                id,
                document_id: document.id.clone(),
                title: evidence.title.clone(),
                text: evidence.text.clone(),
                ordinal: evidence.ordinal,
            });
        }
        Ok(())
    }

    /// Takes them into the corpus as a source file of its own, named after the export and what it
    /// brings, so that a later export of the same name takes nothing away.
    pub(super) fn store(
        self,
        archive: &Archive,
        name: &str,
    ) -> Result<CorpusSummary, ArchiveError> {
        if self.documents.is_empty() {
            return Ok(CorpusSummary::default());
        }
        let documents = self.documents.into_values().map(|document| placed(archive, document));
        let documents = documents.collect::<Result<Vec<_>, _>>()?;
        let ids = documents.iter().flat_map(|document| {
            let passages = document.passages.iter().map(|passage| passage.id.as_str());
            std::iter::once(document.id.as_str()).chain(passages)
        });
        let content_hash = content_id(&ids.collect::<Vec<_>>());
        let path = format!("{IMPORTED}{name}#{}", &content_hash[..8]);
        let file = SourceFileContent { path, content_hash, skipped: None, documents };
        archive.sync_corpus(&[file], &[])
    }
}

/// The document under an id at which it takes nothing from what is there, with all that imports
/// brought of it.
fn placed(
    archive: &Archive,
    mut document: DocumentContent,
) -> Result<DocumentContent, ArchiveError> {
    let mut standing = archive.document_standing(&document.id)?;
    if standing == DocumentStanding::OfFiles {
        // Files say what is in it; what this export saw of it are words that they lack now.
        document.id = content_id(&["imported document", &document.id]);
        standing = archive.document_standing(&document.id)?;
    }
    if let DocumentStanding::Imported(passages) = standing {
        let new: HashSet<&str> = document.passages.iter().map(|p| p.id.as_str()).collect();
        let old: Vec<Passage> =
            passages.into_iter().filter(|p| !new.contains(p.id.as_str())).collect();
        document.passages.extend(old);
    }
    document.passages.sort_by(|a, b| (a.ordinal, &a.id).cmp(&(b.ordinal, &b.id)));
    for passage in &mut document.passages {
        passage.document_id.clone_from(&document.id);
    }
    Ok(document)
}
