//! What may enter a FAT image.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use crate::tree::{Kind, Tree, display_path};

/// Refuses what FAT cannot carry, by path and origin.
pub(super) fn check(tree: &Tree) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut folded: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in tree.walk().skip(1) {
        let from = || format!("`/{}` (from {})", display_path(&entry.path), tree.origin(entry.inode.origin));
        let what = match &entry.inode.kind {
            Kind::Symlink(_) => Some("the symlink"),
            Kind::CharDevice(_) | Kind::BlockDevice(_) => Some("the device node"),
            Kind::Fifo => Some("the named pipe"),
            Kind::Socket => Some("the socket"),
            Kind::File(_) if !seen.insert(entry.id) => Some("the hard link"),
            Kind::File(_) | Kind::Directory(_) => None,
        };
        if let Some(what) = what {
            bail!("FAT cannot hold {what} {}", from());
        }
        if !entry.inode.xattrs.is_empty() {
            bail!("FAT cannot hold the extended attributes of {}", from());
        }
        let last = entry.path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        if let Some(reason) = bad_name(last) {
            bail!("FAT cannot hold {}: its name {reason}", from());
        }
        let upper = String::from_utf8_lossy(&entry.path).to_uppercase();
        if let Some(other) = folded.insert(upper, entry.path.clone()) {
            bail!("FAT cannot hold {} beside `/{}`: it ignores case", from(), display_path(&other));
        }
    }
    Ok(())
}

/// Why FAT does not take this name (specification, page 29 on).
fn bad_name(name: &[u8]) -> Option<String> {
    let Ok(text) = std::str::from_utf8(name) else {
        return Some("is not UTF-8".to_string());
    };
    if text.ends_with(['.', ' ']) || text.starts_with(' ') {
        return Some("begins or ends with a blank or ends with a dot".to_string());
    }
    let illegal = |c: char| c.is_control() || "\"*/:<>?\\|".contains(c);
    text.chars().find(|&c| illegal(c)).map(|c| format!("contains `{}`", c.escape_default()))
}
