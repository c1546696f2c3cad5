//! The books of the pages, checked from scratch.

use super::PAGE;
use super::PagePool;
use super::Parent;

impl PagePool {
    /// Whether the books are right; for tests.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let (mut cached, mut idle) = (0, 0);
        for (index, node) in self.nodes.iter().enumerate() {
            let page = index as u32;
            let Some(node) = node else {
                let free = self.free.iter().filter(|free| **free == page).count();
                ensure(free == 1, || format!("page {page} is lost, or free {free} times"))?;
                continue;
            };
            ensure(!self.free.contains(&page), || format!("page {page} is in use and free"))?;
            let listed = self.siblings(node.parent).iter().filter(|child| **child == page).count();
            ensure(listed == 1, || format!("page {page} is {listed} times under its parent"))?;
            let sized = node.filled <= node.tokens.len() && node.tokens.len() <= PAGE;
            ensure(sized, || format!("page {page} has more than it can"))?;
            let promised = node.users == 0 && node.filled < node.tokens.len();
            ensure(!promised, || format!("page {page} promises what nobody will read"))?;
            if let Parent::Page(parent) = node.parent {
                let before = self.node(parent).ok_or(format!("page {page} follows nothing"))?;
                let held = node.users == 0 || before.users >= node.users;
                ensure(held, || format!("page {page} is held and the one before it is not"))?;
                let full =
                    before.tokens.len() == PAGE && (before.filled == PAGE || node.filled == 0);
                ensure(full, || format!("page {page} follows one that is not full"))?;
            }
            let leaf = node.users == 0 && node.children.is_empty();
            let listed = self.idle.contains(&(node.used, page));
            ensure(leaf == listed, || format!("page {page} idle: {leaf}, listed: {listed}"))?;
            cached += usize::from(node.users == 0);
            idle += usize::from(leaf);
        }
        ensure(cached == self.cached && idle == self.idle.len(), || "counts are off".into())?;
        let had = self.free.len() + self.cached;
        ensure(self.reserved <= had, || format!("{} pages promised of {had}", self.reserved))
    }
}

fn ensure(right: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(wrong()) }
}
