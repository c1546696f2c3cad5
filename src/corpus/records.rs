//! JSON lines: one record, one document.

use serde_json::Map;
use serde_json::Value;

use crate::corpus::readers::Fault;
use crate::corpus::readers::Parsed;
use crate::corpus::readers::Piece;
use crate::corpus::reading::SkipReason;

/// Parses one record a line: `title` and `text` are needed, `id` (or `_id`) is kept, other fields
/// are passed over. A bad line is listed and the others are kept.
pub(super) fn parse(text: &str, _stem: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        match record(line) {
            Ok(piece) => parsed.pieces.push(piece),
            Err((reason, detail)) => {
                parsed.faults.push(Fault { line: Some(index as u64 + 1), reason, detail });
            }
        }
    }
    parsed
}

/// Reads one line.
///
/// # Errors
/// With the reason, and what is wrong with which field.
pub(super) fn record(line: &str) -> Result<Piece, (SkipReason, String)> {
    let value: Map<String, Value> = serde_json::from_str(line).map_err(|error| {
        // An error about another kind of value quotes it, and this goes into logs.
        let why = match error.is_data() {
            true => "it is another value".to_string(),
            false => error.to_string(),
        };
        (SkipReason::BrokenJson, format!("not a JSON object: {why}; correct the line"))
    })?;
    let string = |field: &str| match value.get(field) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err((SkipReason::MissingField, format!("the field \"{field}\" is not text"))),
        None => Err((SkipReason::MissingField, format!("the field \"{field}\" is missing"))),
    };
    let (title, text) = (string("title")?, string("text")?);
    if text.trim().is_empty() {
        return Err((SkipReason::NoText, "the field \"text\" is empty".to_string()));
    }
    let record_id = match value.get("id").or_else(|| value.get("_id")) {
        Some(Value::String(id)) => Some(id.clone()),
        Some(Value::Number(id)) => Some(id.to_string()),
        _ => None,
    };
    Ok(Piece { title, text, record_id })
}
