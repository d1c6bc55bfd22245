//! Programs of the root's packages in the initramfs, with the libraries they need.
//!
//! The needs are those of the dynamic section (System V gABI, chapter 5): each
//! DT_NEEDED is looked for where the dynamic loader would look, in the
//! DT_RUNPATH of the file that needs it, then in Debian's library directories,
//! always inside the packages' tree and never on the host. A library that a
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

/// Adds the plan's programs and their libraries from `packages`, the unpacked tree of the root's packages.
///
/// # Errors
/// A [`Mistakes`] for programs the packages do not have, libraries that are missing by name, damaged files.
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
        message: format!("no package of the root has the program `{path}`"),
        help: "add its package to `packages`, or correct the path".to_string(),
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
                let found = found.with_context(|| format!("/{name} needs {library}, which no package has"))?;
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
        let standard = [format!("usr/lib/{triplet}"), "usr/lib".to_string(), "usr/lib64".to_string()];
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
