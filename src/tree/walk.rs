//! Visiting every name of a tree in one fixed order.

use super::{Inode, InodeId, Tree};

/// One name met on a walk.
#[derive(Clone, Debug)]
pub struct Entry<'t> {
    /// Path without leading slash; the root is empty.
    pub path: Vec<u8>,
    /// The inode the name leads to.
    pub id: InodeId,
    /// The same inode, looked up.
    pub inode: &'t Inode,
}

impl Tree {
    /// Every name, parents before children, siblings in byte order; the root
    /// comes first with an empty path. Hard-linked inodes are met once per name.
    pub fn walk(&self) -> impl Iterator<Item = Entry<'_>> {
        let mut pending = vec![(Vec::new(), Tree::ROOT)];
        std::iter::from_fn(move || {
            let (path, id) = pending.pop()?;
            if let Some(entries) = self.entries(id) {
                for (name, &child) in entries.iter().rev() {
                    let mut below: Vec<u8> = Vec::with_capacity(path.len() + 1 + name.as_bytes().len());
                    below.extend_from_slice(&path);
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(name.as_bytes());
                    pending.push((below, child));
                }
            }
            Some(Entry { path, id, inode: self.inode(id) })
        })
    }
}
