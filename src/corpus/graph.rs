//! The knowledge graph: answer candidates on one side, the passages that mention them on the other.
//! Two passages are linked when they share a candidate.

use std::collections::HashMap;

use petgraph::graph::NodeIndex;
use petgraph::graph::UnGraph;
use rayon::prelude::*;

use crate::corpus::candidates::Candidate;
use crate::corpus::candidates::Miner;
use crate::task::AnswerKind;
use crate::task::Passage;

/// A candidate in more passages than this links nothing: "United States" says little about why two
/// passages belong together.
pub const LINK_PASSAGES_MAX: usize = 50;

/// A node: a passage, or a thing that passages mention.
#[derive(Debug)]
pub(super) enum Node {
    /// Index into the passages.
    Passage(usize),
    /// A candidate's key, and whether a mention of it is a name or a title.
    Candidate { key: String, is_name: bool },
}

/// A passage with its candidates.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) passage: Passage,
    pub(super) candidates: Vec<Candidate>,
    /// For each candidate its node.
    pub(super) nodes: Vec<NodeIndex>,
}

/// See the module's description. Immutable once built.
#[derive(Debug)]
pub struct KnowledgeGraph {
    pub(super) graph: UnGraph<Node, ()>,
    /// Sorted by passage id, so that nothing depends on the order of the input. The passage at
    /// `i` has the node index `i`.
    pub(super) entries: Vec<Entry>,
    by_id: HashMap<String, usize>,
    /// By node index, how many passages mention a candidate.
    mentions: Vec<usize>,
}

impl KnowledgeGraph {
    /// Mines the passages and links them. Passages with the same id count once.
    pub fn build(passages: &[Passage]) -> Self {
        let mut sorted: Vec<&Passage> = passages.iter().collect();
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        sorted.dedup_by(|a, b| a.id == b.id);
        let miner = Miner::new(sorted.iter().copied());
        let mined: Vec<Vec<Candidate>> =
            sorted.par_iter().map(|passage| miner.mine(passage)).collect();

        let mut graph = UnGraph::with_capacity(sorted.len() * 4, sorted.len() * 8);
        for index in 0..sorted.len() {
            graph.add_node(Node::Passage(index));
        }
        let mut node_of: HashMap<String, NodeIndex> = HashMap::new();
        let mut by_id = HashMap::with_capacity(sorted.len());
        let mut entries = Vec::with_capacity(sorted.len());
        for (index, (passage, candidates)) in sorted.into_iter().zip(mined).enumerate() {
            let mut nodes = Vec::with_capacity(candidates.len());
            for candidate in &candidates {
                let key = candidate.key();
                let named = matches!(candidate.kind, AnswerKind::Name | AnswerKind::Title);
                let node = *node_of.entry(key).or_insert_with_key(|key| {
                    graph.add_node(Node::Candidate { key: key.clone(), is_name: false })
                });
                if let Some(Node::Candidate { is_name, .. }) = graph.node_weight_mut(node) {
                    *is_name |= named;
                }
                if !nodes.contains(&node) {
                    graph.add_edge(NodeIndex::new(index), node, ());
                }
                nodes.push(node);
            }
            by_id.insert(passage.id.clone(), index);
            entries.push(Entry { passage: passage.clone(), candidates, nodes });
        }
        let mentions = graph.node_indices().map(|node| graph.edges(node).count()).collect();
        Self { graph, entries, by_id, mentions }
    }

    /// How many passages there are.
    pub fn passage_count(&self) -> usize {
        self.entries.len()
    }

    /// How many different candidates there are.
    pub fn candidate_count(&self) -> usize {
        self.graph.node_count() - self.entries.len()
    }

    /// The passage of that id.
    pub fn passage(&self, id: &str) -> Option<&Passage> {
        Some(&self.entries[self.index(id)?].passage)
    }

    /// The candidates of a passage, in text order; none when the passage is unknown.
    pub fn candidates(&self, passage_id: &str) -> &[Candidate] {
        match self.index(passage_id) {
            Some(index) => &self.entries[index].candidates,
            None => &[],
        }
    }

    /// Keys of the candidates that link two passages, sorted.
    pub fn links(&self, a: &str, b: &str) -> Vec<&str> {
        let (Some(a), Some(b)) = (self.index(a), self.index(b)) else { return Vec::new() };
        let shared = self.link_nodes(a).filter(|node| self.graph.contains_edge(*node, place(b)));
        let mut keys: Vec<&str> = shared.map(|node| self.key(node)).collect();
        keys.sort_unstable();
        keys
    }

    pub(super) fn index(&self, passage_id: &str) -> Option<usize> {
        self.by_id.get(passage_id).copied()
    }

    /// How many passages mention the candidate.
    pub(super) fn mentions(&self, node: NodeIndex) -> usize {
        self.mentions[node.index()]
    }

    pub(super) fn key(&self, node: NodeIndex) -> &str {
        match self.graph.node_weight(node) {
            Some(Node::Candidate { key, .. }) => key,
            _ => "",
        }
    }

    /// The candidates of a passage that link it to others: names and titles, since a shared year
    /// or number does not mean that two passages are about the same thing.
    pub(super) fn link_nodes(&self, passage: usize) -> impl Iterator<Item = NodeIndex> {
        self.graph.neighbors(place(passage)).filter(|node| {
            let named = matches!(&self.graph[*node], Node::Candidate { is_name: true, .. });
            named && (2..=LINK_PASSAGES_MAX).contains(&self.mentions(*node))
        })
    }

    /// The passages that mention a candidate.
    pub(super) fn passages_of(&self, node: NodeIndex) -> impl Iterator<Item = usize> {
        self.graph.neighbors(node).filter_map(|other| match self.graph[other] {
            Node::Passage(index) => Some(index),
            Node::Candidate { .. } => None,
        })
    }
}

/// The node of the passage at `index`.
fn place(index: usize) -> NodeIndex {
    NodeIndex::new(index)
}
