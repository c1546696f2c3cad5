//! Queries of a person's own, and what they can be about.

use std::time::Duration;

use clap::Args;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::super::Global;
use super::super::Json;
use super::super::Output;
use super::super::listing::Listing;
use super::super::listing::ListingArgs;
use super::super::places;
use crate::archive::ArchiveReader;
use crate::archive::QueryLimits;

#[derive(Debug, Args)]
#[command(
    before_help = "\
Examples:
  nightschool archive sql \"SELECT band, count(*) AS tasks FROM task_view GROUP BY band\"
  nightschool archive sql --output tsv \"SELECT id, question FROM task_view WHERE night = 3\"",
    after_help = "\
`task_view` has the tasks with their words; `nightschool archive schema` shows all tables."
)]
pub(in crate::cli) struct SqlArgs {
    /// One statement that only reads
    statement: String,
    /// Rows at most
    #[arg(long, default_value_t = 1000, value_name = "N")]
    rows: usize,
    /// Longest time, in seconds
    #[arg(long, default_value_t = 10, value_name = "S",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    #[command(flatten)]
    listing: ListingArgs,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool archive schema
  nightschool archive schema --json")]
pub(in crate::cli) struct SchemaArgs {
    #[command(flatten)]
    json: Json,
}

pub(super) fn sql(global: &Global, args: &SqlArgs) -> anyhow::Result<()> {
    let archive = ArchiveReader::open(&places::home(global)?.archive())?;
    let limits = QueryLimits { rows: args.rows, time: Duration::from_secs(args.seconds) };
    let found = archive.query(&args.statement, limits)?;
    let columns: Vec<&str> = found.columns.iter().map(String::as_str).collect();
    let object = |row: &Vec<Value>| {
        let members = columns.iter().map(|name| (*name).to_string()).zip(row.iter().cloned());
        Value::Object(members.collect())
    };
    let mut beside = Map::new();
    beside.insert("truncated".into(), found.truncated.into());
    args.listing.show(Listing {
        name: "rows",
        rows: found.rows.iter().map(object).collect(),
        beside,
        columns: &columns,
        shown: &columns,
        note: found.truncated.then(|| format!("Only the first {}: --rows N", args.rows)),
    })
}

pub(super) fn schema(global: &Global, args: &SchemaArgs) -> anyhow::Result<()> {
    let objects = ArchiveReader::open(&places::home(global)?.archive())?.schema()?;
    Output::new(args.json.json).show(&json!({ "objects": objects }), || {
        objects.iter().map(|object| format!("{};", object.sql)).collect::<Vec<_>>().join("\n\n")
    })
}
