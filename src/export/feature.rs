//! The columns of an export, and how `datasets` names their types.

use std::fmt::Write;

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

/// The type of a column or of a part of one. Every value may be null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Feature {
    /// UTF-8 text.
    Text,
    /// 64-bit integer.
    Integer,
    /// 64-bit float.
    Float,
    /// True or false.
    Boolean,
    /// Any number of one type.
    List(Box<Feature>),
    /// Named parts.
    Struct(Columns),
}

/// Columns, or the parts of a struct, in order.
pub(super) type Columns = Vec<(&'static str, Feature)>;

impl Feature {
    pub(super) fn list(of: Self) -> Self {
        Self::List(Box::new(of))
    }

    /// A conversation: messages with role and content.
    pub(super) fn conversation() -> Self {
        Self::list(Self::Struct(vec![("role", Self::Text), ("content", Self::Text)]))
    }

    fn dtype(&self) -> Option<&'static str> {
        match self {
            Self::Text => Some("string"),
            Self::Integer => Some("int64"),
            Self::Float => Some("float64"),
            Self::Boolean => Some("bool"),
            Self::List(_) | Self::Struct(_) => None,
        }
    }

    /// As in the `huggingface` metadata of a Parquet file.
    fn as_json(&self) -> Value {
        match self {
            Self::Struct(parts) => as_json(parts),
            // A list in brackets is read by every release of `datasets`; the name `List` only by
            // those since 4.0.
            Self::List(of) => json!([of.as_json()]),
            _ => json!({ "dtype": self.dtype(), "_type": "Value" }),
        }
    }

    /// As in a card's front matter, behind a name.
    fn write_yaml(&self, text: &mut String, indent: usize) {
        let pad = " ".repeat(indent);
        // Writing to a string does not fail.
        let _ = match self {
            Self::Struct(parts) => {
                let _ = writeln!(text, "{pad}struct:");
                write_yaml(parts, text, indent);
                Ok(())
            }
            Self::List(of) => match of.as_ref() {
                Self::Struct(parts) => {
                    let _ = writeln!(text, "{pad}list:");
                    write_yaml(parts, text, indent);
                    Ok(())
                }
                plain => match plain.dtype() {
                    Some(dtype) => writeln!(text, "{pad}list: {dtype}"),
                    None => {
                        let _ = writeln!(text, "{pad}list:");
                        plain.write_yaml(text, indent + 2);
                        Ok(())
                    }
                },
            },
            _ => writeln!(text, "{pad}dtype: {}", self.dtype().unwrap_or_default()),
        };
    }
}

/// The columns as in the `huggingface` metadata of a Parquet file.
pub(super) fn as_json(columns: &Columns) -> Value {
    let members = columns.iter().map(|(name, feature)| (name.to_string(), feature.as_json()));
    Value::Object(members.collect::<Map<_, _>>())
}

/// The columns as in a card's front matter.
pub(super) fn write_yaml(columns: &Columns, text: &mut String, indent: usize) {
    let pad = " ".repeat(indent);
    for (name, feature) in columns {
        let _ = writeln!(text, "{pad}- name: {name}");
        feature.write_yaml(text, indent + 2);
    }
}
