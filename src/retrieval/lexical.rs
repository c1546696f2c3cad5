//! Lexical retrieval: BM25 (Robertson and Zaragoza 2009, doi 10.1561/1500000019) over title and
//! text, on tantivy.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use tantivy::Index;
use tantivy::IndexReader;
use tantivy::IndexSettings;
use tantivy::IndexWriter;
use tantivy::Order;
use tantivy::ReloadPolicy;
use tantivy::Searcher;
use tantivy::TantivyDocument;
use tantivy::TantivyError;
use tantivy::Term;
use tantivy::collector::TopDocs;
use tantivy::collector::sort_key::SortBySimilarityScore;
use tantivy::collector::sort_key::SortByStaticFastValue;
use tantivy::merge_policy::NoMergePolicy;
use tantivy::query::BooleanQuery;
use tantivy::query::BoostQuery;
use tantivy::query::Occur;
use tantivy::query::Query;
use tantivy::query::TermQuery;
use tantivy::schema::FAST;
use tantivy::schema::Field;
use tantivy::schema::INDEXED;
use tantivy::schema::IndexRecordOption;
use tantivy::schema::STORED;
use tantivy::schema::STRING;
use tantivy::schema::Schema;
use tantivy::schema::TextFieldIndexing;
use tantivy::schema::TextOptions;
use tantivy::schema::Value;
use tantivy::tokenizer::AsciiFoldingFilter;
use tantivy::tokenizer::Language;
use tantivy::tokenizer::LowerCaser;
use tantivy::tokenizer::RemoveLongFilter;
use tantivy::tokenizer::SimpleTokenizer;
use tantivy::tokenizer::Stemmer;
use tantivy::tokenizer::StopWordFilter;
use tantivy::tokenizer::TextAnalyzer;

use crate::retrieval::Hit;
use crate::retrieval::RetrievalError;
use crate::retrieval::Retriever;
use crate::task::Passage;

/// Raised when the schema or the analyser changes: indexes of other formats are built again.
const FORMAT: u32 = 1;

/// Name of the analyser in the schema.
const ANALYSER: &str = "english";

/// Memory of the writer before it starts another segment: one segment for the corpora of one
/// machine, and the library asks for 15 MB at least.
const WRITER_BYTES: usize = 100_000_000;

/// Words that make a sentence a question and say nothing about its subject. Leaving them out of
/// queries lifts nDCG@10 on development questions of SQuAD from 0.85 to 0.86, and the share of
/// first passages that hold the answer from 0.76 to 0.78.
const QUESTION_WORDS: [&str; 18] = [
    "what", "which", "who", "whom", "whose", "when", "where", "why", "how", "did", "does", "do",
    "has", "have", "had", "been", "many", "much",
];

/// Longer runs of letters are hashes and addresses, not words.
const WORD_BYTES_MAX: usize = 60;

/// File beside the index that says what it was built from.
const STAMP: &str = "nightschool.stamp";

/// A search index over passages.
pub struct LexicalIndex {
    reader: IndexReader,
    analyser: TextAnalyzer,
    /// The same without question words.
    question_analyser: TextAnalyzer,
    fields: Fields,
}

#[derive(Clone, Copy)]
struct Fields {
    /// The title twice and the text, indexed and not stored.
    content: Field,
    /// Place of the passage among all, sorted by id; settles ties.
    position: Field,
    id: Field,
    document_id: Field,
    title: Field,
    text: Field,
    ordinal: Field,
}

impl std::fmt::Debug for LexicalIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LexicalIndex").field("passages", &self.len()).finish_non_exhaustive()
    }
}

impl LexicalIndex {
    /// Opens the index at `dir` if it was built for `corpus_version` and is whole. Else builds it
    /// from `passages`, which are not looked at otherwise: aside, then renamed, so that a crash
    /// leaves the old index, none, or the new one.
    ///
    /// # Errors
    /// When the folder beside `dir` cannot be written, or the index cannot be built.
    pub fn open_or_build(
        dir: &Path,
        passages: impl IntoIterator<Item = Passage>,
        corpus_version: &str,
    ) -> Result<Self, RetrievalError> {
        let stamp = format!("format {FORMAT}\ncorpus {corpus_version}\n");
        if let Some(index) = open_whole(dir, &stamp) {
            return Self::over(&index);
        }
        let parent = match dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        std::fs::create_dir_all(&parent).map_err(file_error("create the folder", &parent))?;
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let prefix = format!(".{name}-building-");
        remove_leftovers(&parent, &prefix);
        let aside = tempfile::Builder::new()
            .prefix(&prefix)
            .tempdir_in(&parent)
            .map_err(file_error("create a folder in", &parent))?;
        let fresh = aside.path().join("fresh");
        std::fs::create_dir(&fresh).map_err(file_error("create the folder", &fresh))?;
        let index = Index::builder()
            .schema(schema())
            .settings(IndexSettings::default())
            .create_in_dir(&fresh)
            .map_err(index_error("create the search index"))?;
        fill(&index, passages)?;
        drop(index);
        let stamp_file = fresh.join(STAMP);
        std::fs::write(&stamp_file, &stamp).map_err(file_error("write", &stamp_file))?;
        if dir.exists() {
            // The old index goes away with the temporary folder.
            std::fs::rename(dir, aside.path().join("old")).map_err(file_error("replace", dir))?;
        }
        std::fs::rename(&fresh, dir).map_err(file_error("put in place", dir))?;
        let index = Index::open_in_dir(dir).map_err(index_error("open the search index"))?;
        Self::over(&index)
    }

    /// An index that lives as long as this value.
    ///
    /// # Errors
    /// When the index cannot be built.
    pub fn in_memory(passages: impl IntoIterator<Item = Passage>) -> Result<Self, RetrievalError> {
        let index = Index::create_in_ram(schema());
        fill(&index, passages)?;
        Self::over(&index)
    }

    fn over(index: &Index) -> Result<Self, RetrievalError> {
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .try_into()
            .map_err(index_error("read the search index"))?;
        let fields = fields(&index.schema()).map_err(index_error("read the index's schema"))?;
        Ok(Self {
            reader,
            analyser: analyser(&[]),
            question_analyser: analyser(&QUESTION_WORDS),
            fields,
        })
    }

    /// How many passages are indexed.
    pub fn len(&self) -> usize {
        usize::try_from(self.reader.searcher().num_docs()).unwrap_or(usize::MAX)
    }

    /// Whether there is nothing to find.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The terms of a query with how often each occurs in it, as BM25 weighs them. A query of
    /// question words alone ("The Who") keeps them.
    fn terms(&self, query: &str) -> BTreeMap<String, f32> {
        let telling = terms_by(&self.question_analyser, query);
        if telling.is_empty() { terms_by(&self.analyser, query) } else { telling }
    }

    /// Scores and places (see [`sorted`]) of the `k` best passages.
    pub(super) fn rank(&self, query: &str, k: usize) -> Result<Vec<(f32, usize)>, RetrievalError> {
        let ranked = self.ranked(&self.reader.searcher(), query, k)?;
        Ok(ranked.into_iter().map(|(score, position, _)| (score, position)).collect())
    }

    fn ranked(
        &self,
        searcher: &Searcher,
        query: &str,
        k: usize,
    ) -> Result<Vec<(f32, usize, tantivy::DocAddress)>, RetrievalError> {
        let k = k.min(self.len());
        let clauses: Vec<(Occur, Box<dyn Query>)> = self
            .terms(query)
            .into_iter()
            .map(|(text, count)| {
                let term = Term::from_field_text(self.fields.content, &text);
                let query = Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs));
                (Occur::Should, Box::new(BoostQuery::new(query, count)) as Box<dyn Query>)
            })
            .collect();
        if k == 0 || clauses.is_empty() {
            return Ok(Vec::new());
        }
        let by_id = (SortByStaticFastValue::<u64>::for_field("position"), Order::Asc);
        let order = ((SortBySimilarityScore, Order::Desc), by_id);
        let found = searcher
            .search(&BooleanQuery::new(clauses), &TopDocs::with_limit(k).order_by(order))
            .map_err(index_error("search the index"))?;
        let place = |position: Option<u64>| {
            position.and_then(|position| usize::try_from(position).ok()).unwrap_or(usize::MAX)
        };
        Ok(found
            .into_iter()
            .map(|((score, position), address)| (score, place(position), address))
            .collect())
    }
}

impl Retriever for LexicalIndex {
    fn search(&self, query: &str, k: usize) -> Result<Vec<Hit>, RetrievalError> {
        let searcher = self.reader.searcher();
        let ranked = self.ranked(&searcher, query, k)?;
        let mut hits = Vec::with_capacity(ranked.len());
        for (index, (score, _, address)) in ranked.into_iter().enumerate() {
            let stored: TantivyDocument =
                searcher.doc(address).map_err(index_error("read a passage from the index"))?;
            let text = |field: Field| {
                stored.get_first(field).and_then(|value| value.as_str()).unwrap_or_default()
            };
            let ordinal = stored.get_first(self.fields.ordinal).and_then(|value| value.as_u64());
            let passage = Passage {
                id: text(self.fields.id).to_string(),
                document_id: text(self.fields.document_id).to_string(),
                title: text(self.fields.title).to_string(),
                text: text(self.fields.text).to_string(),
                ordinal: ordinal.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            };
            hits.push(Hit { passage, score, rank: index + 1 });
        }
        Ok(hits)
    }
}

fn terms_by(analyser: &TextAnalyzer, query: &str) -> BTreeMap<String, f32> {
    let mut analyser = analyser.clone();
    let mut terms = BTreeMap::new();
    let mut stream = analyser.token_stream(query);
    while let Some(token) = stream.next() {
        *terms.entry(token.text.clone()).or_insert(0.0) += 1.0;
    }
    terms
}

/// Passages in the order of their places: by id, each once.
pub(super) fn sorted(passages: impl IntoIterator<Item = Passage>) -> Vec<Passage> {
    let mut passages: Vec<Passage> = passages.into_iter().collect();
    passages.sort_by(|a, b| a.id.cmp(&b.id));
    passages.dedup_by(|a, b| a.id == b.id);
    passages
}

/// Removes what builds that were killed left in `parent`. Only one process builds an index there:
/// the caller holds the lock of the home it is in. What cannot be removed does no harm.
fn remove_leftovers(parent: &Path, prefix: &str) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            tracing::debug!(path = %entry.path().display(), %error, "leftover stays");
        }
    }
}

/// The index at `dir`, if it carries this stamp and every file's checksum is right.
fn open_whole(dir: &Path, stamp: &str) -> Option<Index> {
    if std::fs::read_to_string(dir.join(STAMP)).ok()? != stamp {
        return None;
    }
    let damaged = |why: String| {
        tracing::warn!(dir = %dir.display(), why, "the search index is damaged; building it again");
    };
    let index = Index::open_in_dir(dir).map_err(|error| damaged(error.to_string())).ok()?;
    index.tokenizers().register(ANALYSER, analyser(&[]));
    match index.validate_checksum() {
        Ok(files) if files.is_empty() => {}
        Ok(files) => {
            damaged(format!("{} files differ from their checksums", files.len()));
            return None;
        }
        Err(error) => {
            damaged(error.to_string());
            return None;
        }
    }
    index.reader().map_err(|error| damaged(error.to_string())).ok()?;
    Some(index)
}

fn schema() -> Schema {
    let mut schema = Schema::builder();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(ANALYSER)
        .set_index_option(IndexRecordOption::WithFreqs);
    schema.add_text_field("content", TextOptions::default().set_indexing_options(indexing));
    schema.add_u64_field("position", FAST);
    schema.add_text_field("id", STRING | STORED);
    for stored in ["document_id", "title", "text"] {
        schema.add_text_field(stored, STORED);
    }
    schema.add_u64_field("ordinal", STORED | INDEXED);
    schema.build()
}

fn fields(schema: &Schema) -> Result<Fields, TantivyError> {
    Ok(Fields {
        content: schema.get_field("content")?,
        position: schema.get_field("position")?,
        id: schema.get_field("id")?,
        document_id: schema.get_field("document_id")?,
        title: schema.get_field("title")?,
        text: schema.get_field("text")?,
        ordinal: schema.get_field("ordinal")?,
    })
}

/// Letters and digits, small, without accents and stop words (and `more` of them), stemmed.
fn analyser(more: &[&str]) -> TextAnalyzer {
    let tokens = TextAnalyzer::builder(SimpleTokenizer::default())
        .filter(RemoveLongFilter::limit(WORD_BYTES_MAX))
        .filter(LowerCaser)
        .filter(AsciiFoldingFilter)
        // The tokenizer cuts "Newton's" in two; what is left of the possessive says nothing.
        .filter(StopWordFilter::remove(["s"].iter().chain(more).map(|word| word.to_string())));
    match StopWordFilter::new(Language::English) {
        Some(stop_words) => {
            tokens.filter(stop_words).filter(Stemmer::new(Language::English)).build()
        }
        None => tokens.filter(Stemmer::new(Language::English)).build(),
    }
}

fn fill(index: &Index, passages: impl IntoIterator<Item = Passage>) -> Result<(), RetrievalError> {
    index.tokenizers().register(ANALYSER, analyser(&[]));
    let fields = fields(&index.schema()).map_err(index_error("read the index's schema"))?;
    // One thread: the same passages make the same index.
    let mut writer: IndexWriter = index
        .writer_with_num_threads(1, WRITER_BYTES)
        .map_err(index_error("open the search index for writing"))?;
    writer.set_merge_policy(Box::new(NoMergePolicy));
    for (position, passage) in sorted(passages).into_iter().enumerate() {
        let mut document = TantivyDocument::new();
        // Counted twice: a word of the title says more about the passage than one of its text.
        let content = format!("{0}\n{0}\n{1}", passage.title, passage.text);
        document.add_text(fields.content, content);
        document.add_u64(fields.position, position as u64);
        document.add_text(fields.id, passage.id);
        document.add_text(fields.document_id, passage.document_id);
        document.add_text(fields.title, passage.title);
        document.add_text(fields.text, passage.text);
        document.add_u64(fields.ordinal, u64::from(passage.ordinal));
        writer.add_document(document).map_err(index_error("add a passage to the index"))?;
    }
    writer.commit().map_err(index_error("write the search index"))?;
    writer.wait_merging_threads().map_err(index_error("finish the search index"))
}

fn index_error(operation: &'static str) -> impl Fn(TantivyError) -> RetrievalError {
    move |source| RetrievalError::Index { operation, source }
}

fn file_error(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> RetrievalError {
    let path = path.to_path_buf();
    move |source| RetrievalError::File { operation, path, source }
}
