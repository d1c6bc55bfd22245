//! The layout `resident`: the root itself as an initramfs, for machines that
//! load kernel and initramfs over the network and have no disk.
//!
//! The tree is the finished root's, with `resident.sh` as /init. cpio has no
//! place for extended attributes, so file capabilities are lost; the caller is
//! told which.

use anyhow::{Context, Result, ensure};

use crate::plan::Plan;
use crate::tree::{Content, Device, Meta, Tree, display_path};

/// Mount points, and what the id goes into.
const DIRECTORIES: [(&str, u16); 6] = [
    ("dev", 0o755),
    ("etc/liveiso", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
];

/// Makes a root an initramfs. Returns the paths that lost their extended attributes.
///
/// # Errors
/// A root without shell, init or mount, or with an /init of its own.
pub fn make_resident(plan: &Plan, root: &mut Tree) -> Result<Vec<String>> {
    for program in ["bin/sh", "sbin/init"] {
        root.resolve(program.as_bytes())
            .ok()
            .with_context(|| format!("the root has no /{program}, which the layout resident needs"))?;
    }
    let can_mount =
        ["bin/mount", "sbin/mount", "bin/busybox"].iter().any(|p| root.resolve(p.as_bytes()).is_ok());
    ensure!(can_mount, "the root has neither mount nor busybox, which the layout resident needs");
    ensure!(root.get(b"init").is_none(), "the root has a file /init, where the layout resident puts its own");
    let origin = root.add_origin("layout resident");
    let meta = |mode| Meta { mtime: plan.timestamp, ..Meta::mode(mode) };
    for (path, mode) in DIRECTORIES {
        if root.resolve(path.as_bytes()).is_err() {
            root.add_directory(path.as_bytes(), meta(mode), origin)?;
        }
    }
    if root.get(b"dev/console").is_none() {
        root.add_char_device(b"dev/console", Device { major: 5, minor: 1 }, meta(0o600), origin)?;
    }
    let script = Content::bytes(&include_bytes!("resident.sh")[..]);
    root.add_file(b"init", script, meta(0o755), origin)?;
    Ok(drop_attributes(root))
}

fn drop_attributes(root: &mut Tree) -> Vec<String> {
    let with: Vec<_> =
        root.walk().filter(|e| !e.inode.xattrs.is_empty()).map(|e| (e.id, display_path(&e.path))).collect();
    for (id, _) in &with {
        root.inode_mut(*id).xattrs.clear();
    }
    with.into_iter().map(|(_, path)| format!("/{path}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initramfs::base::tests::plan;
    use crate::tree::{listing, parse_listing};

    #[test]
    fn a_root_becomes_an_initramfs() {
        let root = "dir /bin 0755 0 0 mtime=5\nfile /bin/busybox 0755 0 0 mtime=5 text=x\n\
                    slink /bin/sh 0777 0 0 busybox mtime=5\nslink /sbin/init 0777 0 0 ../bin/busybox mtime=5\n\
                    dir /run 0700 0 0 mtime=5\n";
        let mut tree = parse_listing(root).unwrap();
        let id = tree.resolve(b"bin/busybox").unwrap();
        tree.inode_mut(id).xattrs.insert(b"security.capability".to_vec(), b"x".to_vec());
        assert_eq!(make_resident(&plan("i386", &[]), &mut tree).unwrap(), ["/bin/busybox"]);
        let shown = listing(&tree).unwrap();
        let names: Vec<&str> = shown.lines().map(|l| l.split(" sha256").next().unwrap()).collect();
        let size = include_bytes!("resident.sh").len();
        assert_eq!(
            names,
            [
                "dir / 0755 0 0 mtime=0",
                "dir /bin 0755 0 0 mtime=5",
                "file /bin/busybox 0755 0 0 mtime=5 size=1",
                "slink /bin/sh 0777 0 0 busybox mtime=5",
                "dir /dev 0755 0 0 mtime=1000",
                "nod /dev/console 0600 0 0 c 5 1 mtime=1000",
                "dir /etc 0755 0 0 mtime=1000",
                "dir /etc/liveiso 0755 0 0 mtime=1000",
                &format!("file /init 0755 0 0 mtime=1000 size={size}"),
                "dir /proc 0555 0 0 mtime=1000",
                "dir /run 0700 0 0 mtime=5",
                "dir /sbin 0755 0 0 mtime=5",
                "slink /sbin/init 0777 0 0 ../bin/busybox mtime=5",
                "dir /sys 0555 0 0 mtime=1000",
                "dir /tmp 1777 0 0 mtime=1000",
            ]
        );
        let again = make_resident(&plan("i386", &[]), &mut tree).unwrap_err().to_string();
        assert_eq!(again, "the root has a file /init, where the layout resident puts its own");
        let mut empty = Tree::new();
        let missing = make_resident(&plan("i386", &[]), &mut empty).unwrap_err().to_string();
        assert_eq!(missing, "the root has no /bin/sh, which the layout resident needs");
    }
}
