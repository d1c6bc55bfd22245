//! What a gen_init_cpio description adds; the file itself is read by [`crate::resolve`].

use anyhow::{Context, Result};

use crate::plan::{DescriptionEntry, DescriptionKind, Plan};
use crate::resolve::input_content;
use crate::tree::{Device, Kind, Meta, Tree};

/// Adds the plan's description to a tree; directories that are missing are made.
///
/// # Errors
/// Names that the tree has as something else, files that changed since the plan was made.
pub fn add_description(plan: &Plan, tree: &mut Tree) -> Result<()> {
    let origin = tree.add_origin("initramfs description");
    for entry in &plan.initramfs.description {
        let DescriptionEntry { name, mode, uid, gid, kind } = entry;
        let meta = Meta { mode: *mode, uid: *uid, gid: *gid, mtime: plan.timestamp };
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
        let described = || format!("adding `/{name}` of the initramfs description");
        tree.insert(name.as_bytes(), kind, meta, origin).with_context(described)?;
        if let DescriptionKind::File { links, .. } = &entry.kind {
            for link in links {
                tree.add_hard_link(link.as_bytes(), name.as_bytes(), origin).with_context(described)?;
            }
        }
    }
    Ok(())
}
