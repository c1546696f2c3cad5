//! The data files: one for each split that has rows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use super::ExportError;
use super::ExportOptions;
use super::Format;
use super::columnar::ParquetWriter;
use super::feature::Columns;
use super::rows;
use super::sides::Side;

/// Where a split's file lies in the folder of the export.
pub(super) fn data_file(side: Side, format: Format) -> String {
    format!("data/{}.{}", side.as_str(), format.as_str())
}

enum Writer {
    Lines(BufWriter<File>),
    Columns(Box<ParquetWriter>),
}

/// What was written, by split.
pub(super) struct Written {
    pub(super) rows: BTreeMap<Side, u64>,
    pub(super) bytes: BTreeMap<Side, u64>,
}

/// Writes rows to the files of their splits.
pub(super) struct Sink {
    dir: PathBuf,
    format: Format,
    columns: Columns,
    open: BTreeMap<Side, (Writer, u64)>,
}

impl Sink {
    pub(super) fn new(dir: &Path, options: &ExportOptions) -> Self {
        let columns = rows::columns(options);
        let dir = dir.to_path_buf();
        Self { dir, format: options.format, columns, open: BTreeMap::new() }
    }

    /// Rows of a split so far.
    pub(super) fn count(&self, side: Side) -> u64 {
        self.open.get(&side).map_or(0, |(_, rows)| *rows)
    }

    pub(super) fn push(&mut self, side: Side, row: &Value) -> Result<(), ExportError> {
        let path = self.dir.join(data_file(side, self.format));
        let failed = |source| ExportError::Write { path: path.clone(), source };
        if !self.open.contains_key(&side) {
            std::fs::create_dir_all(self.dir.join("data")).map_err(failed)?;
            let writer = match self.format {
                Format::Jsonl => {
                    Writer::Lines(BufWriter::new(File::create(&path).map_err(failed)?))
                }
                Format::Parquet => {
                    let writer = ParquetWriter::create(&path, &self.columns);
                    Writer::Columns(Box::new(writer.map_err(io::Error::other).map_err(failed)?))
                }
            };
            self.open.insert(side, (writer, 0));
        }
        let Some((writer, rows)) = self.open.get_mut(&side) else { return Ok(()) };
        match writer {
            Writer::Lines(out) => writeln!(out, "{row}"),
            Writer::Columns(out) => out.push(row).map_err(io::Error::other),
        }
        .map_err(failed)?;
        *rows += 1;
        Ok(())
    }

    /// Ends the files and says how many rows and bytes each has.
    pub(super) fn close(self) -> Result<Written, ExportError> {
        let (mut all, mut bytes) = (BTreeMap::new(), BTreeMap::new());
        for (side, (writer, rows)) in self.open {
            let path = self.dir.join(data_file(side, self.format));
            match writer {
                Writer::Lines(mut out) => out.flush(),
                Writer::Columns(out) => out.close().map_err(io::Error::other),
            }
            .and_then(|()| path.metadata())
            .map(|file| bytes.insert(side, file.len()))
            .map_err(|source| ExportError::Write { path, source })?;
            all.insert(side, rows);
        }
        Ok(Written { rows: all, bytes })
    }
}
