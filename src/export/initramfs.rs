//! The medium's initramfs with drivers for network cards, taken from the root or
//! the kernel's package.
//!
//! Media are found without a network, so the initramfs on them has no such
//! drivers and unpacks in less RAM. Here those of `network.list` are added, with
//! what they need and what the ways to the image need, and the indices of modprobe
//! are made anew. Microcode in front and the build's id behind stay byte for byte.
//! The layout stays too: one that is `squashed` is taken apart and squashed again.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use super::root::Root;
use crate::format::squashfs::Reader;
use crate::initramfs::{
    ModuleList, Part, PartFormat, add_nbd, add_nfs, module_texts, pack, squash, unpack, unsquash,
};
use crate::kmod::{Elf, ModuleIndex, decompressed, kernel_versions, normalized_name};
use crate::plan::{Arch, Compression};
use crate::scratch::Scratch;
use crate::tree::{Content, Kind, Meta, Tree, display_path};

/// A kernel module larger than this is none (bytes).
const MAX_MODULE: u64 = 64 << 20;
/// Of the last archive, which `id_archive` makes.
const ID_FILES: [&[u8]; 3] = [b".complete", b"etc/liveiso/id", b"etc/liveiso/image"];

/// The initramfs for a machine without a medium, and what a user should know.
pub(super) struct Exported {
    pub bytes: Vec<u8>,
    pub notes: Vec<String>,
}

/// Where drivers come from: packages of kernels, else the images of the medium.
pub(super) struct Sources<'s> {
    pub kernels: &'s [Tree],
    pub roots: Vec<Reader>,
}

/// Adds the drivers, and what the ways to the image need.
///
/// # Errors
/// An initramfs that the kernel would refuse, or without the build's id; damaged images;
/// modules that a way needs and that are nowhere.
pub(super) fn with_network(initrd: &[u8], sources: &mut Sources<'_>, ways: &[Root]) -> Result<Exported> {
    let (mut tree, parts) = unpack(initrd)?;
    let scratch = Scratch::new("initramfs")?;
    let unsquashed = unsquash(&tree, &scratch.path().join("files"))?;
    let is_squashed = unsquashed.is_some();
    if let Some(plain) = unsquashed {
        tree = plain;
    }
    let versions = kernel_versions(&tree);
    let [version] = &versions[..] else {
        bail!("the initramfs has modules of {} kernels, not of one", versions.len());
    };
    let directory = format!("lib/modules/{version}");
    let known = tree.get(format!("{directory}/modules.dep").as_bytes());
    let known = known.with_context(|| format!("the initramfs has no /{directory}/modules.dep"))?;
    let timestamp = tree.inode(known).mtime;

    let list = wanted(ways)?;
    let found = drivers(sources, version, &list)?.unwrap_or_default();
    let added = add(&mut tree, version, found, timestamp)?;
    check_required(&tree, version, &list)?;
    let parts_added = add_parts(&mut tree, ways, timestamp)?;
    let notes = if has_cards(&tree) { Vec::new() } else { vec![no_cards(version)] };
    if !added && !parts_added {
        return Ok(Exported { bytes: initrd.to_vec(), notes });
    }
    let bytes = packed(initrd, &parts, tree, is_squashed, timestamp)?;
    Ok(Exported { bytes, notes })
}

/// Cards, which may be missing, and what the ways to the image cannot do without.
fn wanted(ways: &[Root]) -> Result<ModuleList> {
    let mut list = ModuleList::parse(include_str!("network.list"))?;
    for way in ways {
        let needs: &[&str] = match way {
            Root::Http => &[],
            Root::Nbd { .. } => &["nbd"],
            Root::Nfs { .. } => &["nfs", "nfsv3", "nfsv4"],
        };
        list.required.extend(needs.iter().map(|name| name.to_string()));
    }
    Ok(list)
}

/// Programs and parts of /init; whether there were any to add.
fn add_parts(tree: &mut Tree, ways: &[Root], timestamp: i64) -> Result<bool> {
    let before = tree.walk().count();
    for way in ways {
        match way {
            Root::Http => {}
            Root::Nbd { .. } => add_nbd(tree, programs_arch(tree)?, timestamp)?,
            Root::Nfs { .. } => add_nfs(tree, timestamp)?,
        }
    }
    Ok(tree.walk().count() > before)
}

/// The processors whose code the initramfs' programs are, whatever its kernel is.
fn programs_arch(tree: &Tree) -> Result<Arch> {
    let busybox = tree.get(b"bin/busybox").context("the initramfs has no /bin/busybox")?;
    let Kind::File(content) = &tree.inode(busybox).kind else { bail!("/bin/busybox is not a file") };
    let bytes = content.read_all()?;
    match Elf::parse(&bytes).map_err(|e| anyhow::anyhow!("/bin/busybox {e}"))?.machine() {
        3 => Ok(Arch::I386),
        62 => Ok(Arch::Amd64),
        machine => bail!("/bin/busybox is for ELF machine {machine}"),
    }
}

/// The tree in place of the initramfs' compressed archive.
fn packed(
    initrd: &[u8],
    parts: &[Part],
    mut tree: Tree,
    is_squashed: bool,
    timestamp: i64,
) -> Result<Vec<u8>> {
    let (Some(main), Some(id)) = (parts.iter().find(|part| part.format != PartFormat::Plain), parts.last())
    else {
        bail!("the initramfs has no compressed archive");
    };
    ensure!(
        id.format == PartFormat::Plain && id.offset > main.offset,
        "the build's id is not its last archive"
    );
    for path in ID_FILES {
        ensure!(tree.remove(path), "the initramfs has no /{}", display_path(path));
    }
    tree.remove(b"kernel");
    let compression = match main.format {
        PartFormat::Zstd { .. } => Compression::Zstd,
        _ => Compression::Xz,
    };
    if is_squashed {
        tree = squash(&tree, compression, timestamp)?.0;
    }
    let mut bytes = initrd[..main.offset].to_vec();
    bytes.extend(pack(&tree, compression).context("packing the initramfs")?.bytes);
    bytes.extend(&initrd[id.offset..]);
    Ok(bytes)
}

fn no_cards(version: &str) -> String {
    format!("neither the initramfs nor a root image has a driver of kernel {version} for a network card")
}

fn has_cards(tree: &Tree) -> bool {
    let paths = tree.walk().map(|entry| String::from_utf8_lossy(&entry.path).into_owned());
    let mut paths = paths.filter(|path| path.contains("/kernel/drivers/net/") && path.contains(".ko"));
    paths.next().is_some()
}

/// Plain modules by path below the kernel's directory.
type Modules = BTreeMap<String, Vec<u8>>;

/// The wanted modules with all they need; `None` if nothing of this kernel is at hand.
fn drivers(sources: &mut Sources<'_>, version: &str, list: &ModuleList) -> Result<Option<Modules>> {
    for kernel in sources.kernels {
        if kernel_versions(kernel).iter().any(|found| found == version) {
            return of_package(kernel, version, list).map(Some);
        }
    }
    for root in &mut sources.roots {
        for directory in ["usr/lib/modules", "lib/modules"].map(|dir| format!("{dir}/{version}")) {
            let index = format!("{directory}/modules.dep");
            if let Some(text) = root.read_file(index.as_bytes(), MAX_MODULE)? {
                let text = String::from_utf8(text).with_context(|| format!("reading /{index}"))?;
                return of_root(root, &directory, &text, list).map(Some);
            }
        }
    }
    Ok(None)
}

/// All names of a list as wishes: what is missing is found out later, by what the tree has then.
fn names(list: &ModuleList) -> impl Iterator<Item = &String> {
    list.optional.iter().chain(&list.required)
}

/// From a kernel's package, whose modules say themselves what they need.
fn of_package(kernel: &Tree, version: &str, list: &ModuleList) -> Result<Modules> {
    let index = ModuleIndex::read(kernel, version)?;
    let wishes = ModuleList { required: Vec::new(), optional: names(list).cloned().collect() };
    // Nothing is required, so nothing can be missing but what a module says it needs.
    let closure = index.closure(&wishes.requests())?;
    let plain = |id| Ok((index.get(id).plain_path().to_string(), index.plain_module(kernel, id)?));
    closure.modules.into_iter().map(plain).collect()
}

/// From an image, whose modules.dep says what each module needs.
fn of_root(root: &mut Reader, directory: &str, dependencies: &str, list: &ModuleList) -> Result<Modules> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let lines: BTreeMap<String, (&str, &str)> =
        lines.map(|(path, needs)| (module_name(path), (path, needs))).collect();
    let mut paths = BTreeSet::new();
    for name in names(list) {
        if let Some((path, needs)) = lines.get(&normalized_name(name)) {
            paths.insert(*path);
            paths.extend(needs.split_ascii_whitespace());
        }
    }
    let mut modules = Modules::new();
    for path in paths {
        let file = format!("{directory}/{path}");
        let bytes = root.read_file(file.as_bytes(), MAX_MODULE)?;
        let bytes =
            bytes.with_context(|| format!("/{directory}/modules.dep names /{file}, which is not there"))?;
        let plain = path.find(".ko").map_or(path, |at| &path[..at + 3]);
        modules.insert(plain.to_string(), decompressed(bytes).with_context(|| format!("reading /{file}"))?);
    }
    Ok(modules)
}

/// What the ways to the image need must be there now, or compiled into the kernel.
fn check_required(tree: &Tree, version: &str, list: &ModuleList) -> Result<()> {
    let index = ModuleIndex::read(tree, version)?;
    let missing: Vec<&str> = list
        .required
        .iter()
        .map(String::as_str)
        .filter(|name| index.find(name).is_none() && !index.is_builtin(name))
        .collect();
    ensure!(
        missing.is_empty(),
        "neither the initramfs nor a root image has, for kernel {version}, the modules {}; name them under \
         initramfs.modules, or export the profile, whose kernel package has them",
        missing.join(", ")
    );
    Ok(())
}

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    normalized_name(file.split(".ko").next().unwrap_or(file))
}

/// Puts the modules that are not there yet into the tree; whether there were any.
fn add(tree: &mut Tree, version: &str, modules: Modules, timestamp: i64) -> Result<bool> {
    let directory = format!("lib/modules/{version}");
    let meta = Meta { mtime: timestamp, ..Meta::mode(0o644) };
    let origin = tree.add_origin(format!("network drivers of kernel {version}"));
    let mut added = false;
    for (path, bytes) in modules {
        let path = format!("{directory}/{path}");
        if tree.get(path.as_bytes()).is_none() {
            tree.add_file(path.as_bytes(), Content::bytes(bytes), meta, origin)?;
            added = true;
        }
    }
    if !added {
        return Ok(false);
    }
    let index = ModuleIndex::read(tree, version)?;
    let all: Vec<_> = index.modules().map(|(id, _)| id).collect();
    for (name, text) in module_texts(&index, &all)? {
        let path = format!("{directory}/{name}");
        tree.remove(path.as_bytes());
        tree.add_file(path.as_bytes(), Content::bytes(text), meta, origin)?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_each_card_once_and_requires_none() {
        let list = ModuleList::parse(include_str!("network.list")).unwrap();
        let names: BTreeSet<&String> = list.optional.iter().collect();
        assert_eq!((names.len(), list.required), (list.optional.len(), Vec::new()));
        assert!(names.len() > 50);
    }

    #[test]
    fn names_of_modules() {
        for (path, name) in
            [("kernel/drivers/net/virtio_net.ko", "virtio_net"), ("a/ne2k-pci.ko.xz", "ne2k_pci")]
        {
            assert_eq!(module_name(path), name);
        }
    }
}
