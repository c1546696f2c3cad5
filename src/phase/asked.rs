//! Questions as people write them into files.

use serde::Serialize;
use serde_json::Value;

/// A row of a file that says nothing, or not what was expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnreadableRow {
    /// Name of the file.
    pub file: String,
    /// Its place there, from 1.
    pub row: u64,
    /// What is wrong with it.
    pub why: String,
}

/// A question with its answers, as a person writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// Its id in the file.
    pub(super) id: Option<String>,
    pub(super) question: String,
    /// At least one.
    pub(super) answers: Vec<String>,
    /// Id, title or file of a document.
    pub(super) document: Option<String>,
    /// Id of a passage, or words of it.
    pub(super) evidence: Option<String>,
}

impl Asked {
    /// Reads a row.
    pub(super) fn read(row: &Value) -> Result<Self, String> {
        let text = |name: &str| -> Result<Option<String>, String> {
            match &row[name] {
                Value::Null => Ok(None),
                Value::String(text) => Ok(Some(text.trim().to_string()).filter(|t| !t.is_empty())),
                Value::Number(number) => Ok(Some(number.to_string())),
                _ => Err(format!("`{name}` is not a text")),
            }
        };
        if !row.is_object() {
            return Err("not an object".to_string());
        }
        let question = text("question")?.ok_or("it has no `question`")?;
        let mut answers = Vec::new();
        match &row["answers"] {
            Value::Array(all) => {
                let texts = all.iter().map(|one| match one {
                    Value::String(text) => Ok(text.trim().to_string()),
                    Value::Number(number) => Ok(number.to_string()),
                    _ => Err("`answers` holds something that is not a text".to_string()),
                });
                answers = texts.collect::<Result<_, _>>()?;
            }
            Value::String(text) => {
                answers.extend(text.split('|').map(|answer| answer.trim().to_string()));
            }
            Value::Null => {}
            _ => return Err("`answers` is not a list".to_string()),
        }
        answers.splice(0..0, text("answer")?);
        answers.retain(|answer| !answer.is_empty());
        if answers.is_empty() {
            return Err("it has neither `answer` nor `answers`".to_string());
        }
        let (id, document, evidence) = (text("id")?, text("document")?, text("evidence")?);
        Ok(Self { id, question, answers, document, evidence })
    }
}
