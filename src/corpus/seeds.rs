//! Where questions start: an answer and the passages that lead to it, drawn from the graph.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::HashMap;
use std::collections::HashSet;

use petgraph::graph::NodeIndex;
use rand::Rng as _;
use rand::seq::SliceRandom;

use crate::config::HOPS_MAX;
use crate::corpus::candidates::key_of;
use crate::corpus::graph::KnowledgeGraph;
use crate::corpus::graph::LINK_PASSAGES_MAX;
use crate::rng::Rng;
use crate::task::AnswerKind;
use crate::task::Seed;

/// How many passages are tried before an answer is given up as the end of a path.
const PATH_TRIES_MAX: usize = 200;

const KINDS: [AnswerKind; 4] =
    [AnswerKind::Date, AnswerKind::Number, AnswerKind::Name, AnswerKind::Title];

/// What was drawn so far: what was drawn less comes first.
#[derive(Debug, Clone, Default)]
pub struct Draws {
    kinds: HashMap<AnswerKind, u64>,
    documents: HashMap<String, u64>,
    answers: HashMap<String, u64>,
    /// (answer key, passage id) pairs, which are not drawn again.
    seen: HashSet<(String, String)>,
}

impl Draws {
    fn record(&mut self, seed: &Seed, document_id: &str) {
        let key = key_of(&seed.answer);
        *self.kinds.entry(seed.kind).or_default() += 1;
        *self.documents.entry(document_id.to_string()).or_default() += 1;
        *self.answers.entry(key.clone()).or_default() += 1;
        if let Some(last) = seed.path.last() {
            self.seen.insert((key, last.clone()));
        }
    }
}

/// The documents that have answers of one kind left, the least drawn first. Counts in it may be
/// stale; they are put right when an item is taken out.
type Queue = BinaryHeap<Reverse<(u64, u64, usize)>>;

/// One draw in progress: documents as indexes, with what is left in each.
struct Pool<'a> {
    documents: Vec<&'a str>,
    /// By kind and document: (passage, candidate) pairs.
    left: HashMap<(AnswerKind, usize), Vec<(usize, usize)>>,
    queues: Vec<(AnswerKind, Queue)>,
}

impl KnowledgeGraph {
    /// Draws `n` seeds of `hops` passages each (1 to [`HOPS_MAX`]; others give none), fewer when
    /// the corpus has no more. Answers are spread evenly over kinds, then over documents. The same
    /// graph and generator give the same seeds.
    ///
    /// With more than one hop, neighbours in the path share a name or title that is not the
    /// answer, come from different documents, and only the last one mentions the answer.
    pub fn seeds(&self, rng: &mut Rng, n: usize, hops: usize) -> Vec<Seed> {
        self.seeds_after(rng, n, hops, &mut Draws::default())
    }

    /// The counts for seeds that were drawn before, on earlier nights for example.
    pub fn draws<'a>(&self, past: impl IntoIterator<Item = &'a Seed>) -> Draws {
        let mut draws = Draws::default();
        for seed in past {
            let last = seed.path.last().and_then(|id| self.passage(id));
            draws.record(seed, last.map_or("", |passage| &passage.document_id));
        }
        draws
    }

    /// Like [`Self::seeds`], going on after `draws`: no answer is drawn from the same passage
    /// again, and what was drawn less comes first. The new seeds are counted in `draws`.
    pub fn seeds_after(
        &self,
        rng: &mut Rng,
        n: usize,
        hops: usize,
        draws: &mut Draws,
    ) -> Vec<Seed> {
        let mut seeds = Vec::new();
        if n == 0 || !(1..=HOPS_MAX).contains(&hops) {
            return seeds;
        }
        let mut pool = self.pool(rng, draws);
        while seeds.len() < n {
            let Some((kind, passage, candidate)) = pool.take(rng, draws, self) else { break };
            let entry = &self.entries[passage];
            let answer = entry.candidates[candidate].text.clone();
            let Some(path) = self.path_to(rng, &answer, passage, hops) else { continue };
            let path = path.into_iter().map(|at| self.entries[at].passage.id.clone()).collect();
            let seed = Seed { answer, kind, path };
            draws.record(&seed, &entry.passage.document_id);
            seeds.push(seed);
        }
        seeds
    }

    /// Draws `counts[h - 1]` seeds of h passages for each h, like [`Self::seeds_after`], the
    /// longest paths first. Where the corpus has too few paths of a length, the next shorter ones
    /// that are asked for make up for them.
    pub fn seeds_of_lengths(
        &self,
        rng: &mut Rng,
        counts: &[usize],
        draws: &mut Draws,
    ) -> Vec<Seed> {
        let mut seeds = Vec::new();
        let mut missing = 0;
        for (at, count) in counts.iter().enumerate().rev().filter(|(_, count)| **count > 0) {
            let wanted = count + missing;
            let drawn = self.seeds_after(rng, wanted, at + 1, draws);
            missing = wanted - drawn.len();
            seeds.extend(drawn);
        }
        seeds
    }

    /// All that can be drawn. A term in small letters that half the corpus uses is no answer.
    fn pool(&self, rng: &mut Rng, draws: &Draws) -> Pool<'_> {
        let mut documents = Vec::new();
        let mut index_of: HashMap<&str, usize> = HashMap::new();
        let mut left: HashMap<(AnswerKind, usize), Vec<(usize, usize)>> = HashMap::new();
        for (at, entry) in self.entries.iter().enumerate() {
            let id = entry.passage.document_id.as_str();
            let document = *index_of.entry(id).or_insert_with(|| {
                documents.push(id);
                documents.len() - 1
            });
            let mut keys = HashSet::new();
            for (which, candidate) in entry.candidates.iter().enumerate() {
                let node = entry.nodes[which];
                let term = candidate.text.chars().next().is_some_and(char::is_lowercase);
                let vague = candidate.kind == AnswerKind::Title
                    && term
                    && self.mentions(node) > LINK_PASSAGES_MAX;
                let pair = (candidate.key(), entry.passage.id.clone());
                if !vague && keys.insert(node) && !draws.seen.contains(&pair) {
                    left.entry((candidate.kind, document)).or_default().push((at, which));
                }
            }
        }
        let queues = KINDS.map(|kind| {
            let mut queue = Queue::new();
            for (document, id) in documents.iter().enumerate() {
                if left.contains_key(&(kind, document)) {
                    let count = draws.documents.get(*id).copied().unwrap_or(0);
                    queue.push(Reverse((count, rng.random(), document)));
                }
            }
            (kind, queue)
        });
        Pool { documents, left, queues: queues.into() }
    }

    /// A path of `hops` passages that ends at `end`, or none. The earlier passages do not mention
    /// the answer.
    fn path_to(&self, rng: &mut Rng, answer: &str, end: usize, hops: usize) -> Option<Vec<usize>> {
        let key = key_of(answer);
        let mut path = vec![end];
        let mut tries = PATH_TRIES_MAX;
        self.extend(rng, &key, &mut path, hops, &mut tries).then(|| {
            path.reverse();
            path
        })
    }

    /// Depth-first search from the last passage backwards.
    fn extend(
        &self,
        rng: &mut Rng,
        key: &str,
        path: &mut Vec<usize>,
        hops: usize,
        tries: &mut usize,
    ) -> bool {
        if path.len() == hops {
            return true;
        }
        let here = path[path.len() - 1];
        let mut links: Vec<NodeIndex> = self
            .link_nodes(here)
            .filter(|node| !contains_words(self.key(*node), key))
            .filter(|node| !contains_words(key, self.key(*node)))
            .collect();
        links.shuffle(rng);
        for link in links {
            let mut next: Vec<usize> = self.passages_of(link).collect();
            next.shuffle(rng);
            for passage in next {
                if *tries == 0 {
                    return false;
                }
                *tries -= 1;
                let entry = &self.entries[passage].passage;
                let same_document = path
                    .iter()
                    .any(|at| self.entries[*at].passage.document_id == entry.document_id);
                if same_document
                    || contains_words(&entry.text.to_lowercase(), key)
                    || contains_words(&entry.title.to_lowercase(), key)
                {
                    continue;
                }
                path.push(passage);
                if self.extend(rng, key, path, hops, tries) {
                    return true;
                }
                path.pop();
            }
        }
        false
    }
}

impl Pool<'_> {
    /// Takes the next answer out of the pool: the least drawn kind, in it the least drawn document,
    /// in it the least drawn answer; equal ones by chance.
    fn take(
        &mut self,
        rng: &mut Rng,
        draws: &Draws,
        graph: &KnowledgeGraph,
    ) -> Option<(AnswerKind, usize, usize)> {
        loop {
            self.queues.retain(|(_, queue)| !queue.is_empty());
            let drawn = |kind: &AnswerKind| draws.kinds.get(kind).copied().unwrap_or(0);
            let least = self.queues.iter().map(|(kind, _)| drawn(kind)).min()?;
            let mut kinds: Vec<usize> =
                (0..self.queues.len()).filter(|at| drawn(&self.queues[*at].0) == least).collect();
            kinds.shuffle(rng);
            let (kind, queue) = &mut self.queues[kinds[0]];
            let kind = *kind;
            let Some(Reverse((count, chance, document))) = queue.pop() else { continue };
            let current = draws.documents.get(self.documents[document]).copied().unwrap_or(0);
            if current != count {
                queue.push(Reverse((current, chance, document)));
                continue;
            }
            let Some(left) = self.left.get_mut(&(kind, document)) else { continue };
            left.shuffle(rng);
            let drawn = |(passage, candidate): &(usize, usize)| {
                let key = graph.entries[*passage].candidates[*candidate].key();
                draws.answers.get(&key).copied().unwrap_or(0)
            };
            let best = (0..left.len()).min_by_key(|at| drawn(&left[*at]));
            let Some(best) = best else { continue };
            let (passage, candidate) = left.swap_remove(best);
            if !left.is_empty() {
                queue.push(Reverse((current, rng.random(), document)));
            }
            return Some((kind, passage, candidate));
        }
    }
}

/// Whether `words` stands in `text` with no letter or digit touching it. Both in small letters.
fn contains_words(text: &str, words: &str) -> bool {
    !words.is_empty()
        && text.match_indices(words).any(|(at, found)| {
            let before = text[..at].chars().next_back();
            let after = text[at + found.len()..].chars().next();
            !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
        })
}
