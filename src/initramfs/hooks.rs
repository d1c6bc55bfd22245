//! The profile's own steps of /init, and the parts of /init only they need.
//!
//! ```text
//! lib/liveiso/hooks/STAGE/NN-NAME   the scripts, numbered in their order
//! lib/liveiso/hook.sh               what they may call
//! lib/liveiso/nbd.sh, luks.sh       where the programs are there
//! lib/liveiso/nfs.sh                where the module is there
//! ```

use anyhow::{Context, Result};

use super::{HOOK, LUKS, NBD, NFS};
use crate::plan::Plan;
use crate::resolve::input_content;
use crate::tree::{Content, Meta, Tree};

/// Adds the plan's hooks; the plan's programs must be there already.
///
/// # Errors
/// Files that changed since the plan was made, and names that are taken.
pub fn add_hooks(plan: &Plan, tree: &mut Tree) -> Result<()> {
    let hooks = &plan.initramfs.hooks;
    let has = |name: &str| ["bin", "sbin", "usr/bin", "usr/sbin"].iter().any(|dir| has_file(tree, dir, name));
    let (nbd, luks) = (has("nbd-client"), has("cryptsetup"));
    let nfs = tree.walk().any(|entry| entry.path.ends_with(b"/fs/nfs/nfs.ko"));
    let parts = [(NFS, nfs), (HOOK, nbd || luks || !hooks.is_empty()), (NBD, nbd), (LUKS, luks)];
    let meta = Meta { mtime: plan.timestamp, ..Meta::mode(0o644) };
    let origin = tree.add_origin("initramfs");
    for ((path, text), _) in parts.iter().filter(|(_, wanted)| *wanted) {
        tree.add_file(path.as_bytes(), Content::bytes(*text), meta, origin)?;
    }
    let origin = tree.add_origin("initramfs hooks");
    for (number, hook) in hooks.iter().enumerate() {
        let path = format!("lib/liveiso/hooks/{}/{number:02}-{}", hook.stage.name(), hook.name);
        let content = input_content(&hook.content, &[], &hook.name)?;
        let adding = || format!("adding the hook {}", hook.name);
        tree.add_file(path.as_bytes(), content, meta, origin).with_context(adding)?;
    }
    Ok(())
}

fn has_file(tree: &Tree, dir: &str, name: &str) -> bool {
    tree.get(format!("{dir}/{name}").as_bytes()).is_some()
}
