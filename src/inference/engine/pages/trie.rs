//! Holding, letting go and evicting single pages.

use super::PagePool;
use super::Parent;

impl PagePool {
    pub(super) fn hold(&mut self, page: u32) {
        let clock = self.clock;
        let Some(node) = self.node_mut(page) else { return };
        let (first, last_used) = (node.users == 0, node.used);
        node.users += 1;
        node.used = clock;
        if first {
            self.cached -= 1;
            self.idle.remove(&(last_used, page));
        }
    }

    /// One user less; `writer` if it was the one that writes.
    pub(super) fn let_go(&mut self, page: u32, writer: bool) {
        let clock = self.clock;
        let Some(node) = self.node_mut(page) else { return };
        node.users -= 1;
        node.used = clock;
        if writer {
            node.tokens.truncate(node.filled);
        }
        if node.users > 0 {
            return;
        }
        let (empty, leaf) = (node.filled == 0, node.children.is_empty());
        self.cached += 1;
        if empty || (leaf && self.is_repeated(page)) {
            self.evict(page);
        } else if leaf {
            self.idle.insert((clock, page));
        }
    }

    /// Whether a page beside this one holds all that it does.
    fn is_repeated(&self, page: u32) -> bool {
        let Some(node) = self.node(page) else { return false };
        self.siblings(node.parent).iter().filter(|other| **other != page).any(|other| {
            self.node(*other).is_some_and(|other| {
                other.filled >= node.filled && other.tokens.starts_with(&node.tokens)
            })
        })
    }

    pub(super) fn siblings(&self, parent: Parent) -> &[u32] {
        match parent {
            Parent::Version(version) => self.versions.get(&version).map_or(&[], Vec::as_slice),
            Parent::Page(page) => self.node(page).map_or(&[], |node| node.children.as_slice()),
        }
    }

    /// A page to write to: a free one, or that of the prefix longest out of use.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let (_, oldest) = *self.idle.first()?;
            self.evict(oldest);
        }
        self.free.pop()
    }

    /// Frees a page that nobody holds and nothing follows.
    pub(super) fn evict(&mut self, page: u32) {
        let Some(node) = self.nodes[page as usize].take() else { return };
        self.idle.remove(&(node.used, page));
        self.cached -= 1;
        self.free.push(page);
        match node.parent {
            Parent::Version(version) => {
                if let Some(children) = self.versions.get_mut(&version) {
                    children.retain(|child| *child != page);
                    if children.is_empty() {
                        self.versions.remove(&version);
                    }
                }
            }
            Parent::Page(parent) => {
                let Some(node) = self.node_mut(parent) else { return };
                node.children.retain(|child| *child != page);
                let entry = (node.used, parent);
                if node.users == 0 && node.children.is_empty() {
                    self.idle.insert(entry);
                }
            }
        }
    }
}
