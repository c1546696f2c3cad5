//! How well and how fast retrieval works on judged queries.

use std::collections::HashMap;
use std::collections::HashSet;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use serde::Deserialize;
use serde::Serialize;

use crate::corpus::Document;
use crate::corpus::split;
use crate::retrieval::LexicalIndex;
use crate::retrieval::RetrievalError;
use crate::retrieval::Retriever;
use crate::retrieval::lexical::sorted;
use crate::rng::content_id;

/// Documents ranked per query, the depth at which such runs are usually judged.
const DEPTH: usize = 1000;

/// Passages asked for to get [`DEPTH`] documents.
const PASSAGES_DEPTH: usize = 4 * DEPTH;

/// Passages fetched in the timed searches, about what a solver reads.
const TIMED_K: usize = 10;

/// Where the judgements are.
#[derive(Debug, Clone)]
pub enum Judgements {
    /// Queries (id, text) and judgements (query id, 0, document id, grade), tab separated.
    Tsv {
        /// The queries.
        queries: PathBuf,
        /// The judgements; a line of three columns (query id, document id, grade) will do.
        qrels: PathBuf,
    },
    /// JSON lines with `question` and `supporting`, a list of document ids.
    Questions(PathBuf),
}

/// What was measured. A document is a record of the corpus file; its rank is that of its best
/// passage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Normalised discounted cumulative gain at 10 (Järvelin and Kekäläinen 2002,
    /// doi 10.1145/582415.582418), gain = grade; mean over queries, in [0, 1].
    pub ndcg10: f64,
    /// Mean average precision over the first 1,000 documents, in [0, 1].
    pub map: f64,
    /// Share of the relevant documents among the first 100; mean over queries, in [0, 1].
    pub recall100: f64,
    /// Searches a second on one thread, passages' texts included.
    pub queries_per_s: f64,
    /// Median time of one search, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile of the time of one search, in milliseconds.
    pub p99_ms: f64,
    /// Queries with at least one relevant document; the others are left out.
    pub queries: usize,
    /// Records of the corpus file.
    pub documents: usize,
    /// Passages they were split into.
    pub passages: usize,
    /// Time to split and index the corpus, in seconds.
    pub index_s: f64,
}

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A file could not be read.
    #[error("cannot read {}; check the path and its permissions", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A line of a file is not what it should be.
    #[error("{}, line {line}: {detail}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it and what it should be.
        detail: String,
    },
    /// There is nothing to measure.
    #[error(
        "no query of {} has a relevant document; check that the judgements are for these queries",
        path.display()
    )]
    NoQueries {
        /// The file with the queries.
        path: PathBuf,
    },
    /// The search failed.
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
}

#[derive(Deserialize)]
struct Record {
    #[serde(alias = "_id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

#[derive(Deserialize)]
struct Question {
    question: String,
    supporting: Vec<String>,
}

/// A query with the grades of its relevant documents.
struct Query {
    text: String,
    grades: HashMap<String, f64>,
}

/// Indexes the records of `corpus` as ingest would and measures retrieval on the judged queries.
///
/// # Errors
/// When a file cannot be read, a line is malformed, no query is judged, or the index fails.
pub fn run(corpus: &Path, judgements: &Judgements) -> Result<Report, BenchError> {
    let records: Vec<Record> = json_lines(corpus, "{\"id\", \"title\", \"text\"}")?;
    let (queries, path) = match judgements {
        Judgements::Tsv { queries, qrels } => (judged_queries(queries, qrels)?, queries),
        Judgements::Questions(path) => (questions(path)?, path),
    };
    if queries.is_empty() {
        return Err(BenchError::NoQueries { path: path.clone() });
    }
    let documents = records.len();
    let start = Instant::now();
    let mut passages = Vec::with_capacity(documents);
    for record in records {
        let document = Document {
            id: record.id,
            source: String::new(),
            record_id: None,
            title: record.title,
            text: record.text,
        };
        for mut passage in split(&document) {
            // Two records with the same words are two documents here.
            let ordinal = passage.ordinal.to_string();
            passage.id = content_id(&[&passage.document_id, &ordinal]);
            passages.push(passage);
        }
    }
    let passages = sorted(passages);
    let index = LexicalIndex::in_memory(passages.iter().cloned())?;
    let index_s = start.elapsed().as_secs_f64();

    let (mut ndcg10, mut map, mut recall100) = (0.0, 0.0, 0.0);
    for query in &queries {
        let mut seen = HashSet::new();
        let mut grades = Vec::new();
        for (_, place) in index.rank(&query.text, PASSAGES_DEPTH)? {
            let Some(passage) = passages.get(place) else { continue };
            if grades.len() < DEPTH && seen.insert(passage.document_id.as_str()) {
                grades.push(query.grades.get(&passage.document_id).copied().unwrap_or(0.0));
            }
        }
        let mut ideal: Vec<f64> = query.grades.values().copied().collect();
        ideal.sort_by(|a, b| b.total_cmp(a));
        ndcg10 += gain_at_10(&grades) / gain_at_10(&ideal);
        map += average_precision(&grades, ideal.len());
        recall100 += relevant(&grades, 100) / ideal.len() as f64;
    }
    let times = time_searches(&index, &queries)?;
    let total_s: f64 = times.iter().map(Duration::as_secs_f64).sum();
    let n = queries.len() as f64;
    Ok(Report {
        ndcg10: ndcg10 / n,
        map: map / n,
        recall100: recall100 / n,
        queries_per_s: n / total_s.max(f64::MIN_POSITIVE),
        p50_ms: percentile_ms(&times, 50),
        p99_ms: percentile_ms(&times, 99),
        queries: queries.len(),
        documents,
        passages: passages.len(),
        index_s,
    })
}

/// The time of each search, sorted, after one round that warms the caches.
fn time_searches(index: &LexicalIndex, queries: &[Query]) -> Result<Vec<Duration>, BenchError> {
    let mut times = Vec::with_capacity(queries.len());
    for round in 0..2 {
        for query in queries {
            let start = Instant::now();
            index.search(&query.text, TIMED_K)?;
            if round == 1 {
                times.push(start.elapsed());
            }
        }
    }
    times.sort();
    Ok(times)
}

/// Nearest-rank percentile of sorted times.
fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}

fn gain_at_10(grades: &[f64]) -> f64 {
    let discounted = |(index, grade): (usize, &f64)| grade / (index as f64 + 2.0).log2();
    grades.iter().take(10).enumerate().map(discounted).sum()
}

fn relevant(grades: &[f64], depth: usize) -> f64 {
    grades.iter().take(depth).filter(|grade| **grade > 0.0).count() as f64
}

fn average_precision(grades: &[f64], relevant: usize) -> f64 {
    let mut found = 0.0;
    let mut sum = 0.0;
    for (index, grade) in grades.iter().enumerate() {
        if *grade > 0.0 {
            found += 1.0;
            sum += found / (index as f64 + 1.0);
        }
    }
    sum / relevant as f64
}

fn read(path: &Path) -> Result<String, BenchError> {
    std::fs::read_to_string(path)
        .map_err(|source| BenchError::Read { path: path.to_path_buf(), source })
}

/// The non-empty lines of a file with their numbers.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line)).filter(|(_, line)| !line.is_empty())
}

fn json_lines<T: serde::de::DeserializeOwned>(
    path: &Path,
    shape: &str,
) -> Result<Vec<T>, BenchError> {
    let text = read(path)?;
    let parse = |(line, json): (usize, &str)| {
        serde_json::from_str(json).map_err(|error| BenchError::Line {
            path: path.to_path_buf(),
            line,
            detail: format!("{error}; a line should be {shape}"),
        })
    };
    lines(&text).map(parse).collect()
}

fn questions(path: &Path) -> Result<Vec<Query>, BenchError> {
    let questions: Vec<Question> = json_lines(path, "{\"question\", \"supporting\": [ids]}")?;
    let queries = questions.into_iter().map(|question| Query {
        text: question.question,
        grades: question.supporting.into_iter().map(|id| (id, 1.0)).collect(),
    });
    Ok(queries.filter(|query| !query.grades.is_empty()).collect())
}

fn judged_queries(queries: &Path, qrels: &Path) -> Result<Vec<Query>, BenchError> {
    let wrong = |path: &Path, line: usize, shape: &str| BenchError::Line {
        path: path.to_path_buf(),
        line,
        detail: format!("a line should be {shape}, parted by tabs"),
    };
    let mut grades: HashMap<String, HashMap<String, f64>> = HashMap::new();
    for (line, row) in lines(&read(qrels)?) {
        let columns: Vec<&str> = row.split('\t').map(str::trim).collect();
        let (query, document, grade) = match columns[..] {
            [query, _, document, grade] | [query, document, grade] => (query, document, grade),
            _ => return Err(wrong(qrels, line, "query id, 0, document id, grade")),
        };
        let Ok(grade) = grade.parse::<f64>() else {
            // Some collections name the columns in the first line.
            if line == 1 {
                continue;
            }
            return Err(wrong(qrels, line, "query id, 0, document id, grade (a number)"));
        };
        if grade > 0.0 {
            grades.entry(query.to_string()).or_default().insert(document.to_string(), grade);
        }
    }
    let mut judged = Vec::new();
    for (line, row) in lines(&read(queries)?) {
        let (id, text) =
            row.split_once('\t').ok_or_else(|| wrong(queries, line, "query id, text"))?;
        if let Some(grades) = grades.remove(id.trim()) {
            judged.push(Query { text: text.to_string(), grades });
        }
    }
    Ok(judged)
}
