//! What squashfs, or Linux reading it, cannot carry: refused by path and origin
//! before a byte is written. Dropping anything is the caller's explicit choice.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::layout::{MAX_MAJOR, MAX_MINOR, XATTR_PREFIXES};
use crate::tree::{Inode, Kind, Tree, display_path};

/// Linux follows no longer link (`PATH_MAX` less the NUL).
const MAX_TARGET: usize = 4095;
/// Linux's `XATTR_NAME_MAX` and `XATTR_SIZE_MAX`.
const MAX_XATTR_NAME: usize = 255;
const MAX_XATTR_VALUE: usize = 65536;
/// A file's block list is held in memory and in the inode: 512 MiB of it are enough.
const MAX_BLOCKS: u64 = 1 << 27;

/// Checks every file of the tree.
///
/// # Errors
/// The first file in tree order that cannot be carried.
pub(super) fn check(tree: &Tree, block_size: u32) -> Result<()> {
    for entry in tree.walk() {
        if let Some(reason) = refusal(entry.inode, block_size) {
            let origin = tree.origin(entry.inode.origin);
            bail!("squashfs cannot hold `/{}` (from {origin}): {reason}", display_path(&entry.path));
        }
    }
    Ok(())
}

fn refusal(inode: &Inode, block_size: u32) -> Option<String> {
    if [inode.uid, inode.gid].contains(&u32::MAX) {
        return Some(format!("{} is no owner or group to Linux", u32::MAX));
    }
    kind_refusal(&inode.kind, block_size).or_else(|| xattr_refusal(&inode.xattrs))
}

fn kind_refusal(kind: &Kind, block_size: u32) -> Option<String> {
    match kind {
        Kind::Symlink(target) if target.is_empty() => Some("the link has an empty target".to_string()),
        Kind::Symlink(target) if target.len() > MAX_TARGET => {
            Some(format!("its target has {} bytes, more than the {MAX_TARGET} Linux follows", target.len()))
        }
        Kind::CharDevice(d) | Kind::BlockDevice(d) if d.major > MAX_MAJOR || d.minor > MAX_MINOR => {
            Some(format!("device number {}:{} is above {MAX_MAJOR}:{MAX_MINOR}", d.major, d.minor))
        }
        Kind::File(content) if content.len().div_ceil(u64::from(block_size)) > MAX_BLOCKS => Some(format!(
            "{} bytes are more than {MAX_BLOCKS} blocks of {block_size} bytes; use larger blocks",
            content.len()
        )),
        _ => None,
    }
}

fn xattr_refusal(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Option<String> {
    xattrs.iter().find_map(|(name, value)| {
        let shown = display_path(name);
        if !XATTR_PREFIXES.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix)) {
            let hint = match name.starts_with(b"system.posix_acl_") {
                true => "it has no POSIX ACLs; remove the ACL or express it by owner, group and mode",
                false => "only `user.`, `trusted.` and `security.` names can be stored; remove the attribute",
            };
            return Some(format!("xattr `{shown}`: {hint}"));
        }
        if name.len() > MAX_XATTR_NAME || name.contains(&0) {
            return Some(format!("xattr `{shown}`: the name is not one Linux takes"));
        }
        (value.len() > MAX_XATTR_VALUE)
            .then(|| format!("xattr `{shown}` has {} bytes, more than {MAX_XATTR_VALUE}", value.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::parse_listing;

    #[test]
    fn refusals_name_path_origin_and_reason() {
        let long = "x".repeat(4096);
        for (line, expected) in [
            (
                "nod /dev/a\\x0ab 0600 0 0 c 4096 0",
                "squashfs cannot hold `/dev/a\\nb` (from listing): device number 4096:0 is above 4095:1048575"
                    .to_string(),
            ),
            (
                "pipe /p 0600 0 4294967295",
                "squashfs cannot hold `/p` (from listing): 4294967295 is no owner or group to Linux".to_string(),
            ),
            (
                &format!("slink /l 0777 0 0 {long}"),
                "squashfs cannot hold `/l` (from listing): its target has 4096 bytes, more than the 4095 Linux follows"
                    .to_string(),
            ),
            (
                "file /f 0644 0 0 xattr.system.posix_acl_access=02",
                "squashfs cannot hold `/f` (from listing): xattr `system.posix_acl_access`: it has no POSIX ACLs; \
                 remove the ACL or express it by owner, group and mode"
                    .to_string(),
            ),
            (
                "file /f 0644 0 0 xattr.user.=02",
                "squashfs cannot hold `/f` (from listing): xattr `user.`: only `user.`, `trusted.` and `security.` \
                 names can be stored; remove the attribute"
                    .to_string(),
            ),
            (
                &format!("file /f 0644 0 0 xattr.user.{}=02", "n".repeat(251)),
                format!(
                    "squashfs cannot hold `/f` (from listing): xattr `user.{}`: the name is not one Linux takes",
                    "n".repeat(251)
                ),
            ),
            (
                &format!("file /f 0644 0 0 xattr.user.big={}", "00".repeat(65537)),
                "squashfs cannot hold `/f` (from listing): xattr `user.big` has 65537 bytes, more than 65536"
                    .to_string(),
            ),
        ] {
            let tree = parse_listing(line).unwrap();
            assert_eq!(check(&tree, 4096).unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn the_largest_of_everything_is_accepted() {
        let text = format!(
            "nod /dev/a 0600 0 0 b 4095 1048575\nslink /l 0777 0 0 {}\nfile /f 0644 0 0 xattr.user.{}={}\nfile /{} 0644 0 0",
            "x".repeat(4095),
            "n".repeat(250),
            "00".repeat(65536),
            "m".repeat(255),
        );
        check(&parse_listing(&text).unwrap(), 4096).unwrap();
    }
}
