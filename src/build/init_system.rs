//! Which init the packages brought, and what of the built-in overlay is for
//! which. Ours is busybox's, when no package has one: its inittab would stop
//! sysvinit, whose file has the same name and another meaning.

use anyhow::Result;

use crate::plan::Overlay;
use crate::tree::{Content, Kind, Meta, Tree};

/// The program that is process 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitSystem {
    /// busybox init with the built-in inittab, where no package has an init.
    Busybox,
    /// systemd, from package systemd-sysv.
    Systemd,
    /// sysvinit with Debian's scripts, from sysvinit-core and initscripts.
    Sysvinit,
    /// Another: the root looks after itself.
    Other,
}

/// Files of the built-in overlay that serve one of them alone.
const FILES: [(&str, InitSystem); 7] = [
    ("etc/inittab", InitSystem::Busybox),
    ("etc/rc", InitSystem::Busybox),
    ("etc/rc.shutdown", InitSystem::Busybox),
    ("etc/init.d/halt", InitSystem::Sysvinit),
    ("etc/init.d/reboot", InitSystem::Sysvinit),
    ("usr/lib/systemd/system/liveiso-last.service", InitSystem::Systemd),
    ("usr/lib/systemd/system/shutdown.target.wants/liveiso-last.service", InitSystem::Systemd),
];

impl InitSystem {
    /// What is in a tree of packages, before any overlay.
    pub fn of(packages: &Tree) -> InitSystem {
        let init = packages.get(b"usr/sbin/init").map(|id| &packages.inode(id).kind);
        match init {
            None => InitSystem::Busybox,
            Some(Kind::Symlink(target)) if target.ends_with(b"/systemd") => InitSystem::Systemd,
            Some(_) if packages.get(b"etc/init.d/halt").is_some() => InitSystem::Sysvinit,
            Some(_) => InitSystem::Other,
        }
    }

    /// The built-in overlay without what is for the others.
    pub fn select(self, built_in: &Overlay) -> Overlay {
        let mut overlay = built_in.clone();
        overlay.files.retain(|path, _| FILES.iter().all(|(file, init)| file != path || *init == self));
        overlay
    }

    /// What the init misses in a root that is the same on every machine. An empty
    /// machine-id makes systemd invent one for this run (machine-id(5)); without
    /// the file it would ask questions first.
    ///
    /// # Errors
    /// A directory in the place of the file.
    pub fn complete(self, tree: &mut Tree) -> Result<()> {
        if self == InitSystem::Systemd && tree.get(b"etc/machine-id").is_none() {
            let origin = tree.add_origin("liveiso");
            tree.add_file(b"etc/machine-id", Content::bytes([]), Meta::mode(0o444), origin)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve;
    use crate::tree::parse_listing;

    #[test]
    fn each_init_is_known_by_what_its_packages_bring() {
        for (listing, expected) in [
            ("dir /usr/sbin 0755 0 0", InitSystem::Busybox),
            ("slink /usr/sbin/init 0777 0 0 /lib/systemd/systemd", InitSystem::Systemd),
            ("file /usr/sbin/init 0755 0 0\nfile /etc/init.d/halt 0755 0 0", InitSystem::Sysvinit),
            ("file /usr/sbin/init 0755 0 0", InitSystem::Other),
        ] {
            assert_eq!(InitSystem::of(&parse_listing(listing).unwrap()), expected, "{listing}");
        }
    }

    #[test]
    fn the_table_names_built_in_files() {
        for (path, _) in FILES {
            assert!(resolve::airootfs().iter().any(|file| file.path == path), "{path}");
        }
    }

    #[test]
    fn systemd_gets_an_empty_machine_id() {
        let mut tree = parse_listing("dir /etc 0755 0 0").unwrap();
        InitSystem::Busybox.complete(&mut tree).unwrap();
        assert!(tree.get(b"etc/machine-id").is_none());
        InitSystem::Systemd.complete(&mut tree).unwrap();
        let id = tree.get(b"etc/machine-id").unwrap();
        assert!(matches!(&tree.inode(id).kind, Kind::File(content) if content.is_empty()));
    }
}
