//! What mkfs.erofs and fakeroot, or Linux reading the image, cannot carry: refused
//! by path, origin and remedy before a byte is written.

use anyhow::{Result, bail};

use crate::tree::{Device, Inode, Kind, Tree, display_path};

/// mkfs.erofs 1.5 cuts longer names off.
const MAX_NAME: usize = 254;
/// Linux follows no longer link (`PATH_MAX` less the NUL).
const MAX_TARGET: usize = 4095;
/// Device numbers as the kernel reads them from the image: 12 and 20 bits.
const MAX_DEVICE: Device = Device { major: (1 << 12) - 1, minor: (1 << 20) - 1 };
/// An attribute's name, a NUL and its value in fakeroot's messages; also all names of a file.
const MAX_XATTR: usize = 1024;
/// Names the image has numbers for.
const XATTR_NAMES: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
const XATTR_PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Checks every file of the tree.
///
/// # Errors
/// The first file in tree order that cannot be carried.
pub(super) fn check(tree: &Tree) -> Result<()> {
    for entry in tree.walk() {
        if let Some(reason) = refusal(&entry.path, entry.inode) {
            let origin = tree.origin(entry.inode.origin);
            bail!(
                "mkfs.erofs cannot hold `/{}` (from {origin}): {reason}, or take `format = \"squashfs\"`",
                display_path(&entry.path)
            );
        }
    }
    Ok(())
}

/// Why a file cannot be carried and what to do, as the first half of a sentence.
fn refusal(path: &[u8], inode: &Inode) -> Option<String> {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    if name.len() > MAX_NAME {
        return Some(format!("its name has {} bytes, more than {MAX_NAME}; shorten it", name.len()));
    }
    if [inode.uid, inode.gid].contains(&u32::MAX) {
        return Some(format!("{} is no owner or group to Linux; choose another", u32::MAX));
    }
    match &inode.kind {
        Kind::Symlink(target) if target.is_empty() || target.len() > MAX_TARGET => {
            return Some(format!("its target has {} bytes, not 1 to {MAX_TARGET}; change it", target.len()));
        }
        Kind::CharDevice(d) | Kind::BlockDevice(d)
            if d.major > MAX_DEVICE.major || d.minor > MAX_DEVICE.minor =>
        {
            let Device { major, minor } = MAX_DEVICE;
            return Some(format!(
                "device number {}:{} is above {major}:{minor}; change it",
                d.major, d.minor
            ));
        }
        _ => {}
    }
    let names: usize = inode.xattrs.keys().map(|name| name.len() + 1).sum();
    if names > MAX_XATTR {
        return Some(format!(
            "the names of its xattrs have {names} bytes, more than {MAX_XATTR}; remove some"
        ));
    }
    inode.xattrs.iter().find_map(|(name, value)| xattr_refusal(name, value))
}

fn xattr_refusal(name: &[u8], value: &[u8]) -> Option<String> {
    let shown = display_path(name);
    let is_known = XATTR_NAMES.contains(&name)
        || XATTR_PREFIXES.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
    if !is_known || name.contains(&0) {
        let allowed = "`user.`, `trusted.`, `security.` and POSIX ACLs can be stored";
        return Some(format!("xattr `{shown}`: only {allowed}; remove it"));
    }
    let size = name.len() + 1 + value.len();
    (size > MAX_XATTR).then(|| {
        format!("xattr `{shown}` has {size} bytes with its name, more than fakeroot's {MAX_XATTR}; remove it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::parse_listing;

    #[test]
    fn refusals_name_path_origin_reason_and_remedy() {
        let long = "n".repeat(255);
        let many: String = (0..103).map(|n| format!(" xattr.user.n{n:03}=")).collect();
        for (line, reason) in [
            (format!("file /{long} 0644 0 0"), "its name has 255 bytes, more than 254; shorten it"),
            (
                "file /f 0644 0 4294967295".to_string(),
                "4294967295 is no owner or group to Linux; choose another",
            ),
            (
                format!("slink /f 0777 0 0 {}", "t".repeat(4096)),
                "its target has 4096 bytes, not 1 to 4095; change it",
            ),
            ("nod /f 0600 0 0 c 4096 1".to_string(), "device number 4096:1 is above 4095:1048575; change it"),
            (
                format!("file /f 0644 0 0{many}"),
                "the names of its xattrs have 1030 bytes, more than 1024; remove some",
            ),
            (
                "file /f 0644 0 0 xattr.system.nfs4_acl=00".to_string(),
                "xattr `system.nfs4_acl`: only `user.`, `trusted.`, `security.` and POSIX ACLs can be stored; remove it",
            ),
            (
                format!("file /f 0644 0 0 xattr.user.a={}", "00".repeat(1018)),
                "xattr `user.a` has 1025 bytes with its name, more than fakeroot's 1024; remove it",
            ),
        ] {
            let name = if line.contains(&long) { &long } else { "f" };
            let error = check(&parse_listing(&line).unwrap()).unwrap_err().to_string();
            let expected = format!(
                "mkfs.erofs cannot hold `/{name}` (from listing): {reason}, or take `format = \"squashfs\"`"
            );
            assert_eq!(error, expected);
        }
        let fits = format!(
            "nod /d 0600 0 0 b 4095 1048575\nfile /f 0644 0 0 xattr.user.a={}\nfile /{} 0644 0 0 \
             xattr.system.posix_acl_access=02",
            "00".repeat(1017),
            "n".repeat(254)
        );
        check(&parse_listing(&fits).unwrap()).unwrap();
    }
}
