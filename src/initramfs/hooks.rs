//! The profile's own steps of /init, and the parts of /init only they need.
//!
//! ```text
//! lib/liveiso/hooks/STAGE/NN-NAME   the scripts, numbered in their order
//! lib/liveiso/hook.sh               what they may call
//! lib/liveiso/nbd.sh, luks.sh       where the programs are there
//! lib/liveiso/nfs.sh                where the module is there
//! lib/liveiso/nbd-connect.sh        for an export over the network: does without nbd-client
//! ```

use anyhow::{Context, Result};

use super::{HOOK, LUKS, NBD, NBD_CONNECT, NFS, netlink_program};
use crate::plan::{Arch, Plan};
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

/// Adds what an initramfs for the processors of `arch` takes an image from a network block
/// device with, but for the modules. What is there already stays.
///
/// # Errors
/// A directory where a file belongs.
pub fn add_nbd(tree: &mut Tree, arch: Arch, timestamp: i64) -> Result<()> {
    let program = netlink_program(arch);
    add_missing(tree, &[(("bin/netlink", &program), 0o755)], timestamp)?;
    add_missing(tree, &[HOOK, NBD, NBD_CONNECT].map(|file| (file, 0o644)), timestamp)
}

/// The same for the medium's files on an NFS server.
///
/// # Errors
/// A directory where a file belongs.
pub fn add_nfs(tree: &mut Tree, timestamp: i64) -> Result<()> {
    add_missing(tree, &[(NFS, 0o644)], timestamp)
}

fn add_missing(tree: &mut Tree, files: &[((&str, &[u8]), u16)], timestamp: i64) -> Result<()> {
    let origin = tree.add_origin("initramfs");
    for ((path, bytes), mode) in files {
        if tree.get(path.as_bytes()).is_none() {
            let meta = Meta { mtime: timestamp, ..Meta::mode(*mode) };
            tree.add_file(path.as_bytes(), Content::bytes(*bytes), meta, origin)?;
        }
    }
    Ok(())
}

fn has_file(tree: &Tree, dir: &str, name: &str) -> bool {
    tree.get(format!("{dir}/{name}").as_bytes()).is_some()
}
