//! What a task was made from, and what was made of it: as a tree, for Graphviz, or as JSON.

use clap::Args;
use clap::ValueEnum;
use petgraph::Direction;
use petgraph::dot::Config;
use petgraph::dot::Dot;
use petgraph::graph::NodeIndex;

use super::super::output::Output;
use super::super::output::page;
use super::super::output::print;
use super::super::output::printable;
use super::super::output::shortened;
use crate::archive::ArchiveReader;
use crate::archive::Trace;

/// Longest line of a tree behind its branches, in characters.
const LINE_CHARS: usize = 140;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Two trees: where it came from, and what it led to
    Tree,
    /// A graph for Graphviz
    Dot,
    /// Nodes and edges
    Json,
}

#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  nightschool task lineage 3fa9
  nightschool task lineage 3fa9 --format dot | dot -Tsvg > lineage.svg")]
pub(in crate::cli) struct LineageArgs {
    /// The task's id, or the beginning of it
    id: String,
    /// In which form
    #[arg(long, default_value = "tree", conflicts_with = "json")]
    format: Form,
    /// The same as --format json
    #[arg(long)]
    json: bool,
}

pub(super) fn run(archive: &ArchiveReader, args: &LineageArgs) -> anyhow::Result<()> {
    let trace = archive.task_trace(&args.id)?;
    match if args.json { Form::Json } else { args.format } {
        Form::Json => Output::new(true).show(&trace.to_json(), String::new),
        Form::Dot => print(&as_dot(&trace)),
        Form::Tree => page(&as_trees(&trace)),
    }
}

fn line(trace: &Trace, node: NodeIndex) -> String {
    let node = &trace.graph[node];
    let text = match node.about.as_str() {
        "" => format!("{} {}", node.kind.as_str(), node.id),
        about => format!("{} {}: {about}", node.kind.as_str(), node.id),
    };
    printable(&shortened(&text, LINE_CHARS))
}

fn as_trees(trace: &Trace) -> String {
    let mut text = format!("{}\n\nmade from\n", line(trace, trace.task));
    add_branches(trace, trace.task, Direction::Incoming, "", &mut text);
    text += "\nled to\n";
    let before = text.len();
    add_branches(trace, trace.task, Direction::Outgoing, "", &mut text);
    if text.len() == before {
        text += "└─ nothing yet\n";
    }
    text.trim_end().to_string()
}

/// Adds what a node was made from, or what was made of it, and so on. The graph has no cycle, and
/// a version that stands at two places is told at both.
fn add_branches(
    trace: &Trace,
    node: NodeIndex,
    direction: Direction,
    indent: &str,
    text: &mut String,
) {
    let mut next: Vec<NodeIndex> = trace.graph.neighbors_directed(node, direction).collect();
    // In the order in which they were added: that of the pipeline.
    next.sort();
    for (place, one) in next.iter().enumerate() {
        let last = place + 1 == next.len();
        let (branch, below) = if last { ("└─", "   ") } else { ("├─", "│  ") };
        *text += &format!("{indent}{branch} {}\n", line(trace, *one));
        add_branches(trace, *one, direction, &format!("{indent}{below}"), text);
    }
}

fn as_dot(trace: &Trace) -> String {
    let label = |_, (node, _): (NodeIndex, _)| {
        let text = line(trace, node).replace('\\', "\\\\").replace('"', "\\\"");
        format!("label=\"{text}\" shape=box")
    };
    let config = [Config::NodeNoLabel, Config::EdgeNoLabel];
    let dot = Dot::with_attr_getters(&trace.graph, &config, &|_, _| String::new(), &label);
    format!("{dot:?}").trim_end().to_string()
}
