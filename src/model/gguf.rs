//! Typed reading of the metadata of a GGUF file, with errors that name the key.

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value;

/// A metadata entry that is missing or not of the kind expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// No entry of that name.
    #[error("the GGUF file has no metadata entry `{0}`; the file may be damaged or incomplete")]
    Missing(String),
    /// The entry is there but holds something else.
    #[error("the GGUF metadata entry `{key}` is not {expected}")]
    Kind {
        /// Name of the entry.
        key: String,
        /// What it should have been.
        expected: &'static str,
    },
}

/// The key-value part of a GGUF file, as candle reads it.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a>(pub &'a HashMap<String, Value>);

impl<'a> Metadata<'a> {
    fn required<T>(key: &str, found: Option<T>) -> Result<T, MetadataError> {
        found.ok_or_else(|| MetadataError::Missing(key.to_string()))
    }

    fn read<T>(
        self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, MetadataError> {
        let Some(value) = self.0.get(key) else {
            return Ok(None);
        };
        let kind = || MetadataError::Kind { key: key.to_string(), expected };
        convert(value).ok_or_else(kind).map(Some)
    }

    /// A string; `None` when there is no such entry.
    pub fn optional_string(self, key: &str) -> Result<Option<&'a str>, MetadataError> {
        self.read(key, "a string", as_str)
    }

    /// A string.
    pub fn string(self, key: &str) -> Result<&'a str, MetadataError> {
        Self::required(key, self.optional_string(key)?)
    }

    /// A whole number that fits `u32`, however wide it is stored; `None` when there is no entry.
    pub fn optional_u32(self, key: &str) -> Result<Option<u32>, MetadataError> {
        self.read(key, "a whole number from 0 to 4294967295", as_u32)
    }

    /// A truth value; `None` when there is no such entry.
    pub fn optional_bool(self, key: &str) -> Result<Option<bool>, MetadataError> {
        self.read(key, "a truth value", |value| match value {
            Value::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// A list of strings.
    pub fn strings(self, key: &str) -> Result<Vec<&'a str>, MetadataError> {
        let list = self.read(key, "a list of strings", |value| match value {
            Value::Array(values) => values.iter().map(as_str).collect(),
            _ => None,
        })?;
        Self::required(key, list)
    }

    /// A list of whole numbers; `None` when there is no such entry.
    pub fn optional_u32s(self, key: &str) -> Result<Option<Vec<u32>>, MetadataError> {
        self.read(key, "a list of whole numbers", |value| match value {
            Value::Array(values) => values.iter().map(as_u32).collect(),
            _ => None,
        })
    }
}

fn as_str(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn as_u32(value: &Value) -> Option<u32> {
    match value {
        Value::U8(number) => Some(u32::from(*number)),
        Value::U16(number) => Some(u32::from(*number)),
        Value::U32(number) => Some(*number),
        Value::U64(number) => u32::try_from(*number).ok(),
        Value::I8(number) => u32::try_from(*number).ok(),
        Value::I16(number) => u32::try_from(*number).ok(),
        Value::I32(number) => u32::try_from(*number).ok(),
        Value::I64(number) => u32::try_from(*number).ok(),
        _ => None,
    }
}
