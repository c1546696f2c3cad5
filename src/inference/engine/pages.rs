//! Which page of key/value memory belongs to whom: an allocator and a trie of prefixes in one
//! (PagedAttention, Kwon et al. 2023; the trie of RadixAttention, Zheng et al. 2024, with a page
//! to a node).
//!
//! A node is a page with the tokens of its positions, under the page before it; the first pages of
//! a model version's sequences hang under the version. Full pages are shared by all sequences that
//! begin so. What a sequence is about to read is in the trie from the beginning, so that others
//! can wait for it. What a finished sequence leaves stays until its page is needed.

mod check;
mod trie;

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::model::runner::PAGE;

/// A model version, as the engine counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionId(pub u64);

/// What stands before a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parent {
    /// Nothing: it begins sequences of this version.
    Version(VersionId),
    /// This full page.
    Page(u32),
}

/// A page in the trie.
#[derive(Debug, Clone)]
struct Node {
    parent: Parent,
    /// Tokens of its positions, those not yet read included; at most [`PAGE`].
    tokens: Vec<u32>,
    /// How many of them were read.
    filled: usize,
    /// Sequences that hold it.
    users: usize,
    /// Pages that follow it; only behind a full page.
    children: Vec<u32>,
    /// When it was last held.
    used: u64,
}

/// The pages of a sequence.
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    version: VersionId,
    /// From its first position on.
    pages: Vec<u32>,
    /// How many of them, from the first, it only reads.
    shared: usize,
    /// Pages that it was promised and has not taken.
    reserved: usize,
}

impl Held {
    /// The pages, from the sequence's first position on.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Those of them that the sequence writes to.
    pub fn own(&self) -> &[u32] {
        &self.pages[self.shared..]
    }
}

/// Positions to be copied before a sequence is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCopy {
    /// The page that has them.
    pub from: u32,
    /// The page that needs them.
    pub to: u32,
    /// How many, from the page's first.
    pub positions: usize,
}

/// A sequence's place in memory.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// Its pages.
    pub held: Held,
    /// Positions that need not be computed.
    pub ready: usize,
    /// What must be copied for that to be true.
    pub copy: Option<PageCopy>,
}

/// How much of a prefix is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Full pages, from the first position on.
    full: Vec<u32>,
    /// A page that continues them, and how many of its positions fit.
    partial: Option<(u32, usize)>,
    /// Positions that are there or will be, once running sequences have read their prompts.
    pub planned: usize,
}

impl Found {
    /// Positions that are there.
    pub fn ready(&self) -> usize {
        self.full.len() * PAGE + self.partial.map_or(0, |(_, positions)| positions)
    }
}

/// All pages.
#[derive(Debug)]
pub struct PagePool {
    nodes: Vec<Option<Node>>,
    free: Vec<u32>,
    versions: BTreeMap<VersionId, Vec<u32>>,
    /// Pages that nobody holds and nothing follows, by last use.
    idle: BTreeSet<(u64, u32)>,
    /// Pages in the trie that nobody holds. Whoever holds a page holds those before it, so all of
    /// them can be had, leaf by leaf.
    cached: usize,
    /// Pages promised to sequences and not yet taken.
    reserved: usize,
    clock: u64,
}

impl PagePool {
    /// So many pages, all free.
    pub fn new(pages: usize) -> Self {
        Self {
            nodes: vec![None; pages],
            // The first pages first.
            free: (0..pages as u32).rev().collect(),
            versions: BTreeMap::new(),
            idle: BTreeSet::new(),
            cached: 0,
            reserved: 0,
            clock: 0,
        }
    }

    /// How many pages there are.
    pub fn pages(&self) -> usize {
        self.nodes.len()
    }

    /// Pages that sequences hold.
    pub fn in_use(&self) -> usize {
        self.nodes.len() - self.free.len() - self.cached
    }

    /// Pages that hold prefixes for later and that nobody holds.
    pub fn cached(&self) -> usize {
        self.cached
    }

    /// Pages promised to running sequences and not yet taken.
    pub fn reserved(&self) -> usize {
        self.reserved
    }

    fn node(&self, page: u32) -> Option<&Node> {
        self.nodes.get(page as usize)?.as_ref()
    }

    fn node_mut(&mut self, page: u32) -> Option<&mut Node> {
        self.nodes.get_mut(page as usize)?.as_mut()
    }

    /// Of a parent's children, the one of which most positions begin `tokens`, by `positions`.
    fn best<'a>(
        &'a self,
        children: &'a [u32],
        tokens: &[u32],
        positions: impl Fn(&Node, usize) -> usize,
    ) -> Option<(u32, &'a Node, usize)> {
        let of_child = |page: &u32| {
            let node = self.node(*page)?;
            let common = node.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
            Some((*page, node, positions(node, common)))
        };
        let found = children.iter().filter_map(of_child).filter(|(_, _, n)| *n > 0);
        // The first of equals: `max_by_key` would give the last.
        found.reduce(|best, next| if next.2 > best.2 { next } else { best })
    }

    /// Looks a prefix up.
    pub fn find(&self, version: VersionId, prefix: &[u32]) -> Found {
        let mut found = Found::default();
        let mut children: &[u32] = self.versions.get(&version).map_or(&[], Vec::as_slice);
        let filled = |node: &Node, common: usize| common.min(node.filled);
        while let Some((page, node, positions)) =
            self.best(children, &prefix[found.full.len() * PAGE..], filled)
        {
            if positions < PAGE {
                found.partial = Some((page, positions));
                break;
            }
            found.full.push(page);
            children = &node.children;
        }
        found.planned = found.full.len() * PAGE;
        while let Some((_, node, positions)) =
            self.best(children, &prefix[found.planned..], |_, common| common)
        {
            found.planned += positions;
            if positions < PAGE {
                break;
            }
            children = &node.children;
        }
        found
    }

    /// Makes room for a sequence that begins with `prompt` and needs `total` pages: shares what
    /// `found` says is there, and promises the rest. None when there is no room.
    pub fn admit(
        &mut self,
        version: VersionId,
        prompt: &[u32],
        found: &Found,
        total: usize,
    ) -> Option<Place> {
        let unheld = |page: &u32| self.node(*page).is_some_and(|node| node.users == 0);
        let pinned = found.full.iter().filter(|page| unheld(page)).count();
        let needed = total.saturating_sub(found.full.len());
        let available = self.free.len() + self.cached - pinned;
        let spare = available.checked_sub(self.reserved + needed)?;
        let continued = found.partial.filter(|(page, positions)| self.can_adopt(*page, *positions));
        // The page that is copied must not be evicted for its copy.
        let copied = found.partial.filter(|(page, _)| spare > 0 || !unheld(page));
        self.clock += 1;
        for page in &found.full {
            self.hold(*page);
        }
        self.reserved += needed;
        let shared = found.full.len();
        let mut held = Held { version, pages: found.full.clone(), shared, reserved: needed };
        let mut ready = shared * PAGE;
        let mut copy = None;
        if let Some((page, positions)) = continued {
            self.adopt(page, &mut held, prompt);
            ready += positions;
        } else if let Some((from, positions)) = copied {
            self.hold(from);
            let to = self.plan_next(&mut held, prompt, positions);
            self.let_go(from, false);
            copy = to.map(|to| PageCopy { from, to, positions });
            ready += positions;
        }
        while held.pages.len() * PAGE < prompt.len() {
            self.plan_next(&mut held, prompt, 0)?;
        }
        Some(Place { held, ready, copy })
    }

    /// Whether a sequence that begins with all of a page can go on writing to it.
    fn can_adopt(&self, page: u32, positions: usize) -> bool {
        self.node(page).is_some_and(|node| {
            node.users == 0 && node.tokens.len() == positions && node.children.is_empty()
        })
    }

    fn adopt(&mut self, page: u32, held: &mut Held, prompt: &[u32]) {
        self.hold(page);
        let start = held.pages.len() * PAGE;
        if let Some(node) = self.node_mut(page) {
            node.tokens = prompt[start..prompt.len().min(start + PAGE)].to_vec();
        }
        held.pages.push(page);
        held.reserved -= 1;
        self.reserved -= 1;
    }

    /// Takes the next page of a sequence, for those of its tokens that fall on it; the first
    /// `filled` positions count as read.
    fn plan_next(&mut self, held: &mut Held, tokens: &[u32], filled: usize) -> Option<u32> {
        let start = held.pages.len() * PAGE;
        let parent = match held.pages.last() {
            Some(page) => Parent::Page(*page),
            None => Parent::Version(held.version),
        };
        held.reserved = held.reserved.checked_sub(1)?;
        self.reserved -= 1;
        let page = self.take()?;
        let end = tokens.len().min(start + PAGE);
        let tokens = tokens.get(start..end).unwrap_or_default().to_vec();
        let (users, used) = (1, self.clock);
        let children = Vec::new();
        self.nodes[page as usize] = Some(Node { parent, tokens, filled, users, children, used });
        match parent {
            Parent::Version(version) => self.versions.entry(version).or_default().push(page),
            Parent::Page(parent) => {
                if let Some(node) = self.node_mut(parent) {
                    node.children.push(page);
                }
            }
        }
        held.pages.push(page);
        Some(page)
    }

    /// Takes one of the pages that the sequence was promised. None when all are taken: a bug.
    pub fn extend(&mut self, held: &mut Held) -> Option<u32> {
        self.plan_next(held, &[], 0)
    }

    /// Notes that positions `from..to` of a sequence of these tokens were read.
    pub fn commit(&mut self, held: &Held, tokens: &[u32], from: usize, to: usize) {
        for (position, token) in tokens.iter().enumerate().take(to).skip(from) {
            let Some(page) = held.pages.get(position / PAGE) else { return };
            let Some(node) = self.node_mut(*page) else { return };
            let offset = position % PAGE;
            if node.tokens.len() == offset {
                node.tokens.push(*token);
            }
            node.filled = offset + 1;
        }
    }

    /// Takes a sequence's pages back: what was read stays for others to find.
    pub fn release(&mut self, held: Held) {
        self.clock += 1;
        self.reserved -= held.reserved;
        for (index, page) in held.pages.iter().enumerate().rev() {
            self.let_go(*page, index >= held.shared);
        }
    }

    /// Takes the pages back of a sequence whose copy failed: nothing of its own is there.
    pub fn discard(&mut self, held: Held) {
        for page in held.own() {
            if let Some(node) = self.node_mut(*page) {
                node.filled = 0;
            }
        }
        self.release(held);
    }

    /// Forgets all that was read with a version and that nobody holds.
    pub fn forget(&mut self, version: VersionId) {
        let mut pages = self.versions.get(&version).cloned().unwrap_or_default();
        let mut index = 0;
        while index < pages.len() {
            if let Some(node) = self.node(pages[index]) {
                pages.extend_from_slice(&node.children);
            }
            index += 1;
        }
        for page in pages.into_iter().rev() {
            let free = |node: &Node| node.users == 0 && node.children.is_empty();
            if self.node(page).is_some_and(free) {
                self.evict(page);
            }
        }
    }
}
