//! Reading rows from files: JSON lines, CSV, Parquet.

use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::Map;
use serde_json::Value;

use super::Format;
use super::columnar;
use super::sides::Side;
use super::sink::data_file;

/// The rows of a file, by its ending: `.jsonl`, `.csv` (whose first line names the columns) or
/// `.parquet`. A row that cannot be read is an error with its reason, and does not end the others.
///
/// # Errors
/// When the file cannot be opened or has another ending.
pub fn rows_of(path: &Path) -> anyhow::Result<Box<dyn Iterator<Item = anyhow::Result<Value>>>> {
    let shown = path.display().to_string();
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    let open = || File::open(path).with_context(|| format!("cannot read {shown}"));
    match ending.as_deref() {
        Some("jsonl" | "ndjson") => {
            let lines = BufReader::new(open()?).lines();
            Ok(Box::new(lines.filter_map(|line| match line {
                Ok(line) if line.trim().is_empty() => None,
                Ok(line) => Some(serde_json::from_str(&line).map_err(Into::into)),
                Err(error) => Some(Err(error.into())),
            })))
        }
        Some("csv") => {
            let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(open()?);
            let header = reader.headers().with_context(|| format!("cannot read {shown}"))?.clone();
            Ok(Box::new(reader.into_records().map(move |record| {
                let record = record?;
                let cells = header.iter().zip(record.iter()).filter(|(_, cell)| !cell.is_empty());
                let cells = cells.map(|(name, cell)| (name.trim().to_string(), cell.into()));
                Ok(Value::Object(cells.collect::<Map<_, _>>()))
            })))
        }
        Some("parquet") => {
            let rows = columnar::read(path).with_context(|| format!("cannot read {shown}"))?;
            Ok(Box::new(rows.map(|row| row.map_err(Into::into))))
        }
        _ => anyhow::bail!("cannot read {shown}: it must end in .jsonl, .csv or .parquet"),
    }
}

/// The data files of an exported folder in the order of their splits, or the file itself.
///
/// # Errors
/// When it is a folder without any, or not there.
pub fn files_of(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        path.metadata().with_context(|| format!("cannot read {}", path.display()))?;
        return Ok(vec![path.to_path_buf()]);
    }
    let sides = Side::ALL.into_iter();
    let names = sides.flat_map(|side| [Format::Jsonl, Format::Parquet].map(|f| data_file(side, f)));
    let files: Vec<PathBuf> = names.map(|name| path.join(name)).filter(|f| f.is_file()).collect();
    anyhow::ensure!(
        !files.is_empty(),
        "{} has no data/train.jsonl or other file of an export; name the file itself",
        path.display()
    );
    Ok(files)
}
