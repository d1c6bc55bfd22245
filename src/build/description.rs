//! What a gen_init_cpio description adds; the file itself is read by [`crate::resolve`].

use anyhow::{Context, Result};

use crate::plan::{DescriptionEntry, DescriptionKind};
use crate::resolve::input_content;
use crate::tree::{Device, Kind, Meta, Tree};

/// Adds the entries to a tree, over what is there already; directories that are missing are made.
/// `origin` says whose they are: `root description`.
///
/// # Errors
/// Names that the tree has as something else, files that changed since the plan was made.
pub(super) fn add(
    entries: &[DescriptionEntry],
    origin: &'static str,
    timestamp: i64,
    tree: &mut Tree,
) -> Result<()> {
    let from = tree.add_origin(origin);
    for entry in entries {
        let DescriptionEntry { name, mode, uid, gid, kind } = entry;
        let meta = Meta { mode: *mode, uid: *uid, gid: *gid, mtime: timestamp };
        let device = |major, minor| Device { major, minor };
        let kind = match kind {
            DescriptionKind::Dir => Kind::Directory(Default::default()),
            DescriptionKind::File { content, .. } => Kind::File(input_content(content, &[], name)?),
            DescriptionKind::Nod { block: true, major, minor } => Kind::BlockDevice(device(*major, *minor)),
            DescriptionKind::Nod { block: false, major, minor } => Kind::CharDevice(device(*major, *minor)),
            DescriptionKind::Slink { target } => Kind::Symlink(target.as_bytes().to_vec()),
            DescriptionKind::Pipe => Kind::Fifo,
            DescriptionKind::Sock => Kind::Socket,
        };
        let described = || format!("adding `/{name}` of the {origin}");
        tree.insert(name.as_bytes(), kind, meta, from).with_context(described)?;
        if let DescriptionKind::File { links, .. } = &entry.kind {
            for link in links {
                tree.add_hard_link(link.as_bytes(), name.as_bytes(), from).with_context(described)?;
            }
        }
    }
    Ok(())
}
