//! The medium's initramfs with drivers for network cards, taken from the root.
//!
//! Media are found without a network, so the initramfs on them has no such
//! drivers and unpacks in less RAM. Here those of `network.list` are added, with
//! what they need, and the indices of modprobe are made anew. Microcode in front
//! and the build's id behind stay byte for byte.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use crate::format::squashfs::Reader;
use crate::initramfs::{ModuleList, PartFormat, module_texts, pack, unpack};
use crate::kmod::{ModuleIndex, decompressed, kernel_versions, normalized_name};
use crate::plan::Compression;
use crate::tree::{Content, Meta, Tree, display_path};

/// A kernel module larger than this is none (bytes).
const MAX_MODULE: u64 = 64 << 20;
/// Of the last archive, which `id_archive` makes.
const ID_FILES: [&[u8]; 3] = [b".complete", b"etc/liveiso/id", b"etc/liveiso/image"];

/// The initramfs for a machine without a medium, and what a user should know.
pub(super) struct Exported {
    pub bytes: Vec<u8>,
    pub notes: Vec<String>,
}

/// Adds the drivers; `roots` are the images of the medium, one of which has the kernel's modules.
///
/// # Errors
/// An initramfs that the kernel would refuse, or without the build's id; damaged images.
pub(super) fn with_network(initrd: &[u8], roots: &mut [Reader]) -> Result<Exported> {
    let unchanged = |note: &str| Exported { bytes: initrd.to_vec(), notes: vec![note.to_string()] };
    let (mut tree, parts) = unpack(initrd)?;
    if roots.is_empty() {
        return Ok(Exported { bytes: initrd.to_vec(), notes: Vec::new() });
    }
    if tree.get(b"squash/root.sfs").is_some() {
        return Ok(unchanged(
            "the initramfs is of the layout `squashed`, to which nothing is added: name the network cards' modules \
             under initramfs.modules",
        ));
    }
    let versions = kernel_versions(&tree);
    let [version] = &versions[..] else {
        bail!("the initramfs has modules of {} kernels, not of one", versions.len());
    };
    let added = match roots.iter_mut().find_map(|root| drivers(root, version).transpose()) {
        Some(drivers) => add(&mut tree, version, drivers?)?,
        None => false,
    };
    if !added {
        let notes = if has_cards(&tree) { Vec::new() } else { vec![no_cards(version)] };
        return Ok(Exported { bytes: initrd.to_vec(), notes });
    }
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
    let mut bytes = initrd[..main.offset].to_vec();
    bytes.extend(pack(&tree, compression).context("packing the initramfs")?.bytes);
    bytes.extend(&initrd[id.offset..]);
    Ok(Exported { bytes, notes: Vec::new() })
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

/// The network cards' modules of an image with all they need; `None` if it has nothing of this kernel.
fn drivers(root: &mut Reader, version: &str) -> Result<Option<Modules>> {
    let found = ["usr/lib/modules", "lib/modules"].map(|dir| format!("{dir}/{version}"));
    for directory in found {
        let index = format!("{directory}/modules.dep");
        if let Some(text) = root.read_file(index.as_bytes(), MAX_MODULE)? {
            let text = String::from_utf8(text).with_context(|| format!("reading /{index}"))?;
            return closure(root, &directory, &text).map(Some);
        }
    }
    Ok(None)
}

fn closure(root: &mut Reader, directory: &str, dependencies: &str) -> Result<Modules> {
    let lines = dependencies.lines().filter_map(|line| line.split_once(':'));
    let lines: BTreeMap<String, (&str, &str)> =
        lines.map(|(path, needs)| (module_name(path), (path, needs))).collect();
    let list = ModuleList::parse(include_str!("network.list"))?;
    let mut paths = BTreeSet::new();
    for name in &list.optional {
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

fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    normalized_name(file.split(".ko").next().unwrap_or(file))
}

/// Puts the modules that are not there yet into the tree; whether there were any.
fn add(tree: &mut Tree, version: &str, modules: Modules) -> Result<bool> {
    let directory = format!("lib/modules/{version}");
    let known = tree.get(format!("{directory}/modules.dep").as_bytes());
    let known = known.with_context(|| format!("the initramfs has no /{directory}/modules.dep"))?;
    let meta = Meta { mtime: tree.inode(known).mtime, ..Meta::mode(0o644) };
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
