//! What goes to standard output: tables for people, JSON for programs.

use std::io::Write;

use comfy_table::ContentArrangement;
use comfy_table::Table;
use comfy_table::presets;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use super::errors::OutputError;
use super::pager;

/// Version of the JSON shapes: new members may appear under the same version, a member that
/// changes its meaning or goes away raises it.
pub(super) const SCHEMA_VERSION: u32 = 1;

/// Standard output in the form that was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    /// Output as JSON or as text.
    pub(super) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Prints `value`, an object, as JSON or as the text that `render` makes.
    pub(super) fn show(
        self,
        value: &impl Serialize,
        render: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        if self.json {
            let text = serde_json::to_string_pretty(&versioned(serde_json::to_value(value)?))?;
            return print(&text);
        }
        page(render().trim_end())
    }
}

/// The object with `schema_version` as its first member, unless it brings its own.
fn versioned(value: Value) -> Value {
    match value {
        Value::Object(members) if !members.contains_key("schema_version") => {
            let mut all = Map::new();
            all.insert("schema_version".to_string(), SCHEMA_VERSION.into());
            all.extend(members);
            Value::Object(all)
        }
        other => other,
    }
}

/// Writes a text and a line end.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(OutputError)?;
    Ok(())
}

/// Shows people a text: through a pager where it is longer than the screen.
pub(super) fn page(text: &str) -> anyhow::Result<()> {
    if pager::show(text)? { Ok(()) } else { print(text) }
}

/// A table without lines, as wide as the terminal or, into a pipe, as wide as its content.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !header.is_empty() {
        table.set_header(header.iter().map(|name| name.to_uppercase()));
    }
    for row in rows {
        table.add_row(row.into_iter().map(|cell| printable(&cell)));
    }
    // The style pads each cell by a blank: the first column's is taken off again.
    let lines = table.lines().map(|line| match line.strip_prefix(' ') {
        Some(line) => line.trim_end().to_string(),
        None => line.trim_end().to_string(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The text without control characters: documents and models may write terminal commands.
pub(super) fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    text.chars().map(clean).collect()
}

/// The beginning of a text, at most `limit` characters, on one line.
pub(super) fn shortened(text: &str, limit: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= limit {
        return line;
    }
    let kept: String = line.chars().take(limit.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// What to show where there is nothing.
pub(super) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "–".to_string(), |value| value.to_string())
}
