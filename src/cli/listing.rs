//! Lists on standard output: a table for people, JSON, JSON lines or TSV for programs.

use clap::Args;
use clap::ValueEnum;
use serde_json::Map;
use serde_json::Value;

use super::errors::UsageError;
use super::output::Output;
use super::output::page;
use super::output::print;
use super::output::printable;
use super::output::shortened;
use super::output::table;

/// Longest text in a cell of a table, in characters.
const CELL_CHARS: usize = 100;

/// The form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Columns for people, as wide as the terminal
    Table,
    /// One document with all of it
    Json,
    /// An object on each line
    Jsonl,
    /// A header, then the columns with tabs between them
    Tsv,
}

/// How a list is printed.
#[derive(Debug, Clone, Args)]
pub(super) struct ListingArgs {
    /// Print JSON; its shapes are described in docs/cli-json.md
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// In which form [default: table]
    #[arg(long, value_name = "FORM")]
    output: Option<Form>,
    /// Which columns of a table or TSV, in this order
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    columns: Vec<String>,
}

/// What is listed.
pub(super) struct Listing<'a> {
    /// The member of the JSON document that holds the rows.
    pub(super) name: &'a str,
    /// One object for each.
    pub(super) rows: Vec<Value>,
    /// Other members of the JSON document.
    pub(super) beside: Map<String, Value>,
    /// The columns that there are; all rows have these members.
    pub(super) columns: &'a [&'a str],
    /// Those that are shown unless others are asked for.
    pub(super) shown: &'a [&'a str],
    /// What stands below a table.
    pub(super) note: Option<String>,
}

impl ListingArgs {
    /// Prints a list as was asked.
    pub(super) fn show(&self, listing: Listing<'_>) -> anyhow::Result<()> {
        let columns = self.chosen(&listing)?;
        let form = if self.json { Form::Json } else { self.output.unwrap_or(Form::Table) };
        match form {
            Form::Json => {
                let mut document = listing.beside;
                document.insert(listing.name.to_string(), listing.rows.into());
                Output::new(true).show(&Value::Object(document), String::new)
            }
            Form::Jsonl => lines(listing.rows.iter().map(Value::to_string)),
            Form::Tsv => {
                let row = |row: &Value| {
                    columns.iter().map(|name| escaped(&row[*name])).collect::<Vec<_>>().join("\t")
                };
                lines(std::iter::once(columns.join("\t")).chain(listing.rows.iter().map(row)))
            }
            Form::Table => page(&as_table(&listing, &columns)),
        }
    }

    fn chosen<'a>(&'a self, listing: &Listing<'a>) -> Result<Vec<&'a str>, UsageError> {
        if self.columns.is_empty() {
            return Ok(listing.shown.to_vec());
        }
        let known = |name: &&String| !listing.columns.contains(&name.as_str());
        if let Some(unknown) = self.columns.iter().find(known) {
            let all = listing.columns.join(", ");
            return Err(UsageError(format!("--columns: there is no `{unknown}`, but {all}")));
        }
        Ok(self.columns.iter().map(String::as_str).collect())
    }
}

fn as_table(listing: &Listing<'_>, columns: &[&str]) -> String {
    if listing.rows.is_empty() {
        return format!("No such {}.", listing.name);
    }
    let cells = |row: &Value| {
        columns.iter().map(|name| shortened(&plain(&row[*name], "–"), CELL_CHARS)).collect()
    };
    let header: Vec<String> = columns.iter().map(|name| name.replace('_', " ")).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let text = table(&header, listing.rows.iter().map(cells));
    match &listing.note {
        Some(note) => format!("{text}\n\n{note}"),
        None => text,
    }
}

/// A member without JSON's quotes; `none` for null.
fn plain(value: &Value, none: &str) -> String {
    match value {
        Value::Null => none.to_string(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => {
            format!("{:.3}", number.as_f64().unwrap_or(f64::NAN))
        }
        Value::Array(items) => {
            items.iter().map(|item| plain(item, none)).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

/// The same in a TSV, where tabs and line ends separate.
fn escaped(value: &Value) -> String {
    let exact = match value {
        Value::Number(number) => number.to_string(),
        other => plain(other, ""),
    };
    let text = exact.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n");
    printable(&text.replace('\r', "\\r"))
}

fn lines(lines: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let all: Vec<String> = lines.collect();
    if all.is_empty() { Ok(()) } else { print(&all.join("\n")) }
}
