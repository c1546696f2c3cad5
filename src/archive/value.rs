//! How values stand in columns: names of enums, JSON, clock times, packed numbers.

use std::io::Read;
use std::io::Write;

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::Type;
use serde::de::DeserializeOwned;
use serde_json::Value;

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

pub(super) fn unreadable(
    column: usize,
    kind: Type,
    error: impl Into<BoxedError>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, error.into())
}

/// Text where it stands, without a copy.
pub(super) fn text<'r>(row: &'r Row<'_>, column: usize) -> rusqlite::Result<&'r str> {
    Ok(row.get_ref(column)?.as_str()?)
}

/// An enum stored by the name that serde gives it.
pub(super) fn named<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let name: String = row.get(column)?;
    serde_json::from_value(Value::String(name)).map_err(|e| unreadable(column, Type::Text, e))
}

/// Like [`named`], for a column that may be NULL.
pub(super) fn named_or_none<T: DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>> {
    let name: Option<String> = row.get(column)?;
    name.map(|name| serde_json::from_value(Value::String(name)))
        .transpose()
        .map_err(|e| unreadable(column, Type::Text, e))
}

/// A value stored as JSON text.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text).map_err(|e| unreadable(column, Type::Text, e))
}

/// Like [`json`], for a column that may be NULL.
pub(super) fn json_or_none<T: DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| serde_json::from_str(&text))
        .transpose()
        .map_err(|e| unreadable(column, Type::Text, e))
}

/// A list of strings as JSON text.
pub(super) fn json_list(strings: &[String]) -> String {
    Value::from(strings).to_string()
}

/// A clock time stored as RFC 3339 text.
pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    let text: String = row.get(column)?;
    text.parse().map_err(|e: jiff::Error| unreadable(column, Type::Text, e))
}

/// Like [`time`], for a column that may be NULL.
pub(super) fn time_or_none(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| text.parse())
        .transpose()
        .map_err(|e: jiff::Error| unreadable(column, Type::Text, e))
}

/// Shorter bytes are not compressed: it would gain nothing, and take most of the time of storing a
/// rollout.
const COMPRESSED_BYTES: usize = 512;

/// Packs bytes; zlib (RFC 1950), because it carries a checksum that a damaged blob fails.
fn deflate(bytes: &[u8]) -> Vec<u8> {
    if let Some(length) = u16::try_from(bytes.len()).ok().filter(|_| bytes.len() < COMPRESSED_BYTES)
    {
        return stored(bytes, length);
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to a vector does not fail; if it did, the blob would not inflate and be reported.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// A zlib stream of one stored block.
fn stored(bytes: &[u8], length: u16) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01, 0x01];
    stream.extend(length.to_le_bytes());
    stream.extend((!length).to_le_bytes());
    stream.extend(bytes);
    stream.extend(adler2::adler32_slice(bytes).to_be_bytes());
    stream
}

/// Restores what [`deflate`] compressed.
pub(super) fn inflate(blob: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    ZlibDecoder::new(blob).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Token ids as a compressed blob.
pub(super) fn pack_tokens(tokens: &[u32]) -> Vec<u8> {
    deflate(&tokens.iter().flat_map(|token| token.to_le_bytes()).collect::<Vec<u8>>())
}

/// Log-probabilities as a compressed blob; bit for bit.
pub(super) fn pack_logprobs(logprobs: &[f32]) -> Vec<u8> {
    deflate(&logprobs.iter().flat_map(|logprob| logprob.to_le_bytes()).collect::<Vec<u8>>())
}

/// The words of four bytes in a compressed blob.
fn words(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<[u8; 4]>> {
    let blob: Vec<u8> = row.get(column)?;
    let bytes = inflate(&blob).map_err(|error| unreadable(column, Type::Blob, error))?;
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(unreadable(column, Type::Blob, "its length is not a multiple of 4"));
    }
    Ok(words.to_vec())
}

/// Token ids from their blob.
pub(super) fn tokens(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<u32>> {
    Ok(words(row, column)?.into_iter().map(u32::from_le_bytes).collect())
}

/// Log-probabilities from their blob.
pub(super) fn logprobs(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<f32>> {
    Ok(words(row, column)?.into_iter().map(f32::from_le_bytes).collect())
}
