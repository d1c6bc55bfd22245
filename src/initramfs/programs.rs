//! Programs of the root in the initramfs, with the libraries they need: from its
//! packages, or files of its overlays.
//!
//! The needs are those of the dynamic section (System V gABI, chapter 5): each
//! DT_NEEDED is looked for where the dynamic loader would look, in the
//! DT_RUNPATH of the file that needs it, then in Debian's library directories,
//! always inside the root's tree and never on the host. A library that a
//! program loads by itself (dlopen) is not seen: name it among the programs.
//! Libraries go to /lib, where every glibc looks.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow, bail};

use crate::kmod::Elf;
use crate::plan::{Arch, Plan};
use crate::resolve::{Blame, Mistake, Mistakes};
use crate::tree::{Content, InodeId, Kind, Meta, Tree};

/// A program of the host's size is a mistake (bytes).
const MAX_PROGRAM: u64 = 64 << 20;

/// Adds the plan's programs and their libraries from `packages`, the unpacked tree of the root's packages
/// with its overlays.
///
/// # Errors
/// A [`Mistakes`] for programs the tree does not have, libraries that are missing by name, damaged files.
pub fn add_programs(plan: &Plan, packages: &Tree, tree: &mut Tree) -> Result<()> {
    let missing: Vec<Mistake> =
        plan.initramfs.programs.iter().filter_map(|path| mistake(packages, path)).collect();
    if !missing.is_empty() {
        return Err(Mistakes(missing).into());
    }
    let mut copy = Copy { plan, packages, tree, names: BTreeMap::new(), done: BTreeSet::new() };
    for path in &plan.initramfs.programs {
        let name = path.trim_start_matches('/').to_string();
        let id = packages.resolve(name.as_bytes()).map_err(|e| anyhow!("{path}: {e}"))?;
        copy.add(&name, id).with_context(|| format!("adding {path} to the initramfs"))?;
    }
    Ok(())
}

fn mistake(packages: &Tree, path: &str) -> Option<Mistake> {
    let found = packages.resolve(path.as_bytes()).ok();
    let is_file = found.is_some_and(|id| matches!(packages.inode(id).kind, Kind::File(_)));
    (!is_file).then(|| Mistake {
        blame: Blame::Program(path.to_string()),
        message: format!("neither a package of the root nor airootfs has the program `{path}`"),
        help: "add its package to `packages` or the file to airootfs, or correct the path".to_string(),
    })
}

struct Copy<'a> {
    plan: &'a Plan,
    packages: &'a Tree,
    tree: &'a mut Tree,
    /// Where an inode of the packages went.
    names: BTreeMap<InodeId, String>,
    /// Names of libraries that are in.
    done: BTreeSet<String>,
}

impl Copy<'_> {
    /// Puts a file at `name`, and what it needs beside it.
    fn add(&mut self, name: &str, id: InodeId) -> Result<()> {
        let origin = self.tree.add_origin(self.packages.origin(self.packages.inode(id).origin).to_string());
        if let Some(first) = self.names.get(&id) {
            if first != name {
                self.tree.add_hard_link(name.as_bytes(), first.clone().as_bytes(), origin)?;
            }
            return Ok(());
        }
        let inode = self.packages.inode(id);
        let Kind::File(content) = &inode.kind else { bail!("/{name} is a {}", inode.kind.word()) };
        let meta = Meta { mode: inode.mode & 0o755, uid: 0, gid: 0, mtime: self.plan.timestamp };
        self.tree.add_file(name.as_bytes(), content.clone(), meta, origin)?;
        self.names.insert(id, name.to_string());
        let needs = needs(content).with_context(|| format!("reading /{name}"))?;
        if let Some(interpreter) = &needs.interpreter {
            self.add_found(interpreter.trim_start_matches('/'), interpreter)?;
        }
        for library in needs.libraries {
            if self.done.insert(library.clone()) {
                let found = self.find(&library, &needs.directories);
                let found = found
                    .with_context(|| format!("/{name} needs {library}, which the root does not have"))?;
                self.add_found(&format!("lib/{library}"), &found)?;
            }
        }
        Ok(())
    }

    fn add_found(&mut self, name: &str, path: &str) -> Result<()> {
        let id = self.packages.resolve(path.as_bytes()).map_err(|e| anyhow!("{path}: {e}"))?;
        self.add(name, id)
    }

    fn find(&self, library: &str, directories: &[String]) -> Option<String> {
        let triplet = match self.plan.arch {
            Arch::I386 => "i386-linux-gnu",
            Arch::Amd64 => "x86_64-linux-gnu",
        };
        // The order of Debian's ld.so.conf, with what ld.so looks through by itself behind it.
        let standard = ["usr/local/lib", &format!("usr/local/lib/{triplet}"), &format!("usr/lib/{triplet}")]
            .into_iter()
            .chain(["usr/lib", "usr/lib64"])
            .map(str::to_string)
            .collect::<Vec<_>>();
        let mut places = directories.iter().chain(&standard).map(|dir| format!("{dir}/{library}"));
        places.find(|path| self.packages.resolve(path.as_bytes()).is_ok())
    }
}

/// What the dynamic loader would look for.
#[derive(Debug, Default)]
struct Needs {
    interpreter: Option<String>,
    libraries: Vec<String>,
    directories: Vec<String>,
}

fn needs(content: &Content) -> Result<Needs> {
    if content.len() > MAX_PROGRAM {
        bail!("it has {} bytes, which no initramfs should carry", content.len());
    }
    let bytes = content.read_all()?;
    if !bytes.starts_with(b"\x7fELF") {
        return Ok(Needs::default());
    }
    let elf = Elf::parse(&bytes).map_err(|e| anyhow!("the file {e}"))?;
    let dynamic = elf.dynamic().map_err(|e| anyhow!("the file {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).context("a name in the dynamic section");
    let mut needs = Needs { interpreter: elf.interpreter().map(text).transpose()?, ..Needs::default() };
    for library in dynamic.needed {
        let library = text(library)?;
        if library.is_empty() || library.contains('/') {
            bail!("it needs the library `{library}` by a path");
        }
        needs.libraries.push(library);
    }
    let runpath = dynamic.runpath.map(text).transpose()?.unwrap_or_default();
    needs.directories = runpath.split(':').filter(|dir| dir.starts_with('/')).map(str::to_string).collect();
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initramfs::base::tests::plan;
    use crate::kmod::testing::{Bits, program};
    use crate::tree::listing;

    /// A merged root: the program needs a library beside it, which needs one in a directory of its own.
    fn packages() -> Tree {
        let mut tree = Tree::new();
        let origin = tree.add_origin("package p");
        let mut file = |path: &str, bytes: Vec<u8>, mode| {
            tree.add_file(path.as_bytes(), Content::bytes(bytes), Meta::mode(mode), origin).unwrap();
        };
        let (bits, ld) = (Bits::Elf32, "/lib/ld.so.2");
        file("usr/sbin/tool", program(bits, ld, &["liba.so.1", "libc.so.6"], None), 0o4755);
        file(
            "usr/lib/i386-linux-gnu/liba.so.1.0",
            program(bits, ld, &["libp.so", "libc.so.6"], Some("/usr/lib/p:$ORIGIN")),
            0o644,
        );
        file("usr/lib/p/libp.so", program(bits, ld, &[], None), 0o644);
        file("usr/lib/i386-linux-gnu/libc.so.6", program(bits, ld, &[], None), 0o755);
        file("usr/lib/i386-linux-gnu/ld-2.so", program(bits, ld, &[], None), 0o755);
        file("usr/bin/lost", program(bits, ld, &["libz.so.1"], None), 0o755);
        file("etc/tool.conf", b"plain".to_vec(), 0o600);
        for (name, target) in [
            ("lib", "usr/lib"),
            ("sbin", "usr/sbin"),
            ("usr/sbin/alias", "tool"),
            ("usr/lib/ld.so.2", "i386-linux-gnu/ld-2.so"),
            ("usr/lib/i386-linux-gnu/liba.so.1", "liba.so.1.0"),
        ] {
            tree.add_symlink(name.as_bytes(), target.as_bytes(), Meta::default(), origin).unwrap();
        }
        tree
    }

    fn added(programs: &[&str]) -> Result<Tree> {
        let mut plan = plan("i386", &[]);
        plan.initramfs.programs = programs.iter().map(|path| path.to_string()).collect();
        let mut tree = Tree::new();
        add_programs(&plan, &packages(), &mut tree)?;
        Ok(tree)
    }

    #[test]
    fn programs_come_with_their_libraries() {
        let tree = added(&["/sbin/tool", "/usr/sbin/alias", "/etc/tool.conf"]).unwrap();
        let listing = listing(&tree).unwrap();
        let shown: String =
            listing.lines().map(|line| format!("{}\n", line.split(" mtime").next().unwrap())).collect();
        let expected = "\
dir / 0755 0 0
dir /etc 0755 0 0
file /etc/tool.conf 0600 0 0
dir /lib 0755 0 0
file /lib/ld.so.2 0755 0 0
file /lib/liba.so.1 0644 0 0
file /lib/libc.so.6 0755 0 0
file /lib/libp.so 0644 0 0
dir /sbin 0755 0 0
file /sbin/tool 0755 0 0
dir /usr 0755 0 0
dir /usr/sbin 0755 0 0
link /usr/sbin/alias /sbin/tool
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |programs| format!("{:#}", added(programs).unwrap_err());
        assert_eq!(
            error(&["/usr/bin/none", "/etc"]),
            "neither a package of the root nor airootfs has the program `/usr/bin/none`; add its package to \
             `packages` or the file to airootfs, or correct the path\n\
             neither a package of the root nor airootfs has the program `/etc`; add its package to `packages` or \
             the file to airootfs, or correct the path"
        );
        assert_eq!(
            error(&["/usr/bin/lost"]),
            "adding /usr/bin/lost to the initramfs: /usr/bin/lost needs libz.so.1, which the root does not have"
        );
    }

    /// 64-bit ones too; a name outside the string table is an error.
    #[test]
    fn needs_are_read_from_the_dynamic_section() {
        for bits in [Bits::Elf32, Bits::Elf64] {
            let bytes = program(bits, "/lib64/ld.so", &["a.so", "b.so"], Some("/x::/y"));
            let found = needs(&Content::bytes(bytes.clone())).unwrap();
            assert_eq!(found.interpreter.as_deref(), Some("/lib64/ld.so"));
            assert_eq!(
                (found.libraries, found.directories),
                (vec!["a.so".into(), "b.so".into()], vec!["/x".into(), "/y".into()])
            );
            for at in 0..bytes.len() {
                let mut damaged = bytes.clone();
                damaged[at] ^= 0xff;
                // Any answer will do, but one.
                let _ = needs(&Content::bytes(damaged));
                let _ = needs(&Content::bytes(bytes[..at].to_vec()));
            }
        }
    }
}
