//! Rows as Parquet columns, and back.
//!
//! A nested value is written as leaf values with two numbers each (Melnik et al. 2010, Dremel): the
//! repetition level, at which list the value goes on, and the definition level, how far down its
//! path is there. Lists have the three levels of the format's specification, as pyarrow writes
//! them.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::basic::LogicalType;
use parquet::basic::Repetition;
use parquet::basic::Type as Physical;
use parquet::data_type::BoolType;
use parquet::data_type::ByteArray;
use parquet::data_type::ByteArrayType;
use parquet::data_type::DoubleType;
use parquet::data_type::Int64Type;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::writer::SerializedColumnWriter;
use parquet::file::writer::SerializedFileWriter;
use parquet::record::Field;
use parquet::schema::types::Type;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::feature;
use super::feature::Columns;
use super::feature::Feature;

/// Rows of one group: as many as `datasets` writes.
const GROUP_ROWS: usize = 1000;

/// A leaf column of the group being collected.
#[derive(Default)]
struct Leaf {
    definition: Vec<i16>,
    repetition: Vec<i16>,
    values: Vec<Value>,
}

/// Writes rows to a Parquet file, a group at a time.
pub(super) struct ParquetWriter {
    file: SerializedFileWriter<File>,
    row: Feature,
    leaves: Vec<Leaf>,
    rows: usize,
}

impl ParquetWriter {
    /// Starts a file with these columns.
    pub(super) fn create(path: &Path, columns: &Columns) -> Result<Self, ParquetError> {
        let fields = columns.iter().map(|(name, feature)| Ok(Arc::new(column(name, feature)?)));
        let fields = fields.collect::<Result<_, ParquetError>>()?;
        let schema = Type::group_type_builder("schema").with_fields(fields).build()?;
        let features = json!({ "info": { "features": feature::as_json(columns) } });
        let metadata = KeyValue::new("huggingface".to_string(), features.to_string());
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(format!("nightschool {}", env!("CARGO_PKG_VERSION")))
            .set_key_value_metadata(Some(vec![metadata]))
            .build();
        let file = File::create(path)?;
        let file = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties))?;
        let row = Feature::Struct(columns.clone());
        let leaves = (0..leaf_count(&row)).map(|_| Leaf::default()).collect();
        Ok(Self { file, row, leaves, rows: 0 })
    }

    /// Adds a row, an object.
    pub(super) fn push(&mut self, row: &Value) -> Result<(), ParquetError> {
        let Feature::Struct(columns) = &self.row else { return Ok(()) };
        let mut next = 0;
        for (name, feature) in columns {
            shred(feature, row.get(*name), Levels::default(), &mut self.leaves, &mut next);
        }
        self.rows += 1;
        if self.rows == GROUP_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.file.next_row_group()?;
        for leaf in &mut self.leaves {
            let leaf = std::mem::take(leaf);
            let Some(mut column) = group.next_column()? else { break };
            write_leaf(&mut column, &leaf)?;
            column.close()?;
        }
        group.close()?;
        self.rows = 0;
        Ok(())
    }

    /// Writes what is left and the file's end.
    pub(super) fn close(mut self) -> Result<(), ParquetError> {
        self.flush()?;
        self.file.close()?;
        Ok(())
    }
}

/// A column, or a part of one, as the schema has it.
fn column(name: &str, feature: &Feature) -> Result<Type, ParquetError> {
    let leaf = |physical| Type::primitive_type_builder(name, physical);
    match feature {
        Feature::Text => {
            let leaf = leaf(Physical::BYTE_ARRAY).with_logical_type(Some(LogicalType::String));
            leaf.with_repetition(Repetition::OPTIONAL).build()
        }
        Feature::Integer => leaf(Physical::INT64).with_repetition(Repetition::OPTIONAL).build(),
        Feature::Float => leaf(Physical::DOUBLE).with_repetition(Repetition::OPTIONAL).build(),
        Feature::Boolean => leaf(Physical::BOOLEAN).with_repetition(Repetition::OPTIONAL).build(),
        Feature::Struct(parts) => {
            let parts = parts.iter().map(|(name, part)| Ok(Arc::new(column(name, part)?)));
            let parts = parts.collect::<Result<_, ParquetError>>()?;
            let group = Type::group_type_builder(name).with_repetition(Repetition::OPTIONAL);
            group.with_fields(parts).build()
        }
        Feature::List(of) => {
            let repeated = Type::group_type_builder("list")
                .with_repetition(Repetition::REPEATED)
                .with_fields(vec![Arc::new(column("element", of)?)])
                .build()?;
            Type::group_type_builder(name)
                .with_repetition(Repetition::OPTIONAL)
                .with_logical_type(Some(LogicalType::List))
                .with_fields(vec![Arc::new(repeated)])
                .build()
        }
    }
}

fn leaf_count(feature: &Feature) -> usize {
    match feature {
        Feature::List(of) => leaf_count(of),
        Feature::Struct(parts) => parts.iter().map(|(_, part)| leaf_count(part)).sum(),
        _ => 1,
    }
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, Default)]
struct Levels {
    /// Its repetition level.
    repetition: i16,
    /// How much of its path is there.
    definition: i16,
    /// How many lists it lies in.
    lists: i16,
}

/// Adds a value's leaves to the columns from `next` on, and moves `next` past them.
fn shred(
    feature: &Feature,
    value: Option<&Value>,
    at: Levels,
    leaves: &mut [Leaf],
    next: &mut usize,
) {
    let below = Levels { definition: at.definition + 1, ..at };
    match (feature, value) {
        (_, None | Some(Value::Null)) => absent(feature, at, leaves, next),
        (Feature::Struct(parts), Some(value)) => {
            for (name, part) in parts {
                shred(part, value.get(*name), below, leaves, next);
            }
        }
        (Feature::List(of), Some(value)) => {
            let first = *next;
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            for (index, item) in items.iter().enumerate() {
                let lists = at.lists + 1;
                let repetition = if index == 0 { at.repetition } else { lists };
                let inner = Levels { repetition, definition: at.definition + 2, lists };
                *next = first;
                shred(of, Some(item), inner, leaves, next);
            }
            if items.is_empty() {
                absent(feature, below, leaves, next);
            }
        }
        (_, Some(value)) => {
            let leaf = &mut leaves[*next];
            leaf.definition.push(below.definition);
            leaf.repetition.push(at.repetition);
            leaf.values.push(value.clone());
            *next += 1;
        }
    }
}

/// Notes at all leaves of a feature that nothing is there from a level on.
fn absent(feature: &Feature, at: Levels, leaves: &mut [Leaf], next: &mut usize) {
    for leaf in &mut leaves[*next..*next + leaf_count(feature)] {
        leaf.definition.push(at.definition);
        leaf.repetition.push(at.repetition);
    }
    *next += leaf_count(feature);
}

fn write_leaf(column: &mut SerializedColumnWriter<'_>, leaf: &Leaf) -> Result<(), ParquetError> {
    use parquet::column::writer::ColumnWriter;

    let (definition, repetition) = (Some(&leaf.definition[..]), Some(&leaf.repetition[..]));
    let values = leaf.values.iter();
    match column.untyped() {
        ColumnWriter::ByteArrayColumnWriter(_) => {
            let text = |value: &Value| ByteArray::from(value.as_str().unwrap_or_default());
            let values: Vec<ByteArray> = values.map(text).collect();
            column.typed::<ByteArrayType>().write_batch(&values, definition, repetition)?;
        }
        ColumnWriter::Int64ColumnWriter(_) => {
            let values: Vec<i64> = values.map(|v| v.as_i64().unwrap_or_default()).collect();
            column.typed::<Int64Type>().write_batch(&values, definition, repetition)?;
        }
        ColumnWriter::DoubleColumnWriter(_) => {
            let values: Vec<f64> = values.map(|v| v.as_f64().unwrap_or_default()).collect();
            column.typed::<DoubleType>().write_batch(&values, definition, repetition)?;
        }
        _ => {
            let values: Vec<bool> = values.map(|v| v.as_bool().unwrap_or_default()).collect();
            column.typed::<BoolType>().write_batch(&values, definition, repetition)?;
        }
    }
    Ok(())
}

/// Reads the rows of a Parquet file, each as an object.
pub(super) fn read(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Value, ParquetError>> + use<>, ParquetError> {
    let reader: Box<dyn FileReader> = Box::new(SerializedFileReader::new(File::open(path)?)?);
    let rows = parquet::record::reader::RowIter::from_file_into(reader);
    Ok(rows.map(|row| Ok(object(row?.into_columns()))))
}

fn object(parts: Vec<(String, Field)>) -> Value {
    let parts = parts.into_iter().map(|(name, field)| (name, plain(field)));
    Value::Object(parts.collect::<Map<_, _>>())
}

/// A value as JSON; what JSON has no form for as its text.
fn plain(field: Field) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float(value) => value.into(),
        Field::Double(value) => value.into(),
        Field::Str(value) => value.into(),
        Field::Group(row) => object(row.into_columns()),
        Field::ListInternal(list) => {
            list.elements().iter().cloned().map(plain).collect::<Vec<_>>().into()
        }
        other => other.to_string().into(),
    }
}
