//! The layout `squashed`: a loader that fits anywhere, and an image.
//!
//! ```text
//! init bin/busybox bin/sh sbin/modprobe dev/   as in every layout
//! lib/modules/VERSION/   loop, squashfs, overlay and what they need
//! squash/loader.sh       mounts the rest over the directories they belong to
//! squash/root.sfs        everything else, squashfs
//! ```
//! After dracut's 99squash. The kernel unpacks the archive into page cache, so
//! files in the image cost their compressed size until the root takes over.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result};

use crate::format::squashfs;
use crate::plan::Compression;
use crate::tree::{Content, InodeId, Kind, Meta, Tree};

/// What the loader itself runs on, besides its modules.
const LOADER: [&str; 4] = ["bin/busybox", "bin/sh", "init", "sbin/modprobe"];
/// Directories that something else is mounted on, so that nothing below can come from an image.
const MOUNT_POINTS: [&str; 6] = ["dev", "newroot", "proc", "run", "sys", "tmp"];
/// Modules without which the image cannot be mounted.
const LOADER_MODULES: [&str; 3] = ["loop", "overlay", "squashfs"];
/// Blocks of the image, in bytes. Four of them are in memory while it is mounted.
const BLOCK_SIZE: u32 = 64 << 10;
/// The image in the loader's tree.
const IMAGE: &[u8] = b"squash/root.sfs";
/// More than this in an image is no initramfs for anybody (bytes).
const MAX_CONTENT: u64 = 1 << 30;

/// Splits a plain initramfs into loader and image, whose new files are of `timestamp`
/// (seconds since 1970). Returns the loader's tree, the image in it, and the image's
/// size in bytes.
///
/// # Errors
/// A tree without modules.dep; what squashfs cannot carry.
pub fn squash(plain: &Tree, compression: Compression, timestamp: i64) -> Result<(Tree, u64)> {
    let modules = loader_modules(plain)?;
    let is_loader = |path: &str| LOADER.contains(&path) || modules.files.contains(path);
    let stays = |path: &str| {
        let top = path.split('/').next().unwrap_or_default();
        !path.contains('/') || is_loader(path) || MOUNT_POINTS.contains(&top)
    };
    let mut loader = part(plain, stays)?;
    let image = part(plain, |path| !stays(path))?;
    let meta = |mode| Meta { mtime: timestamp, ..Meta::mode(mode) };
    let origin = loader.add_origin("layout squashed");
    // Mount points: every directory at the top, as the plain tree has it.
    for entry in
        plain.walk().filter(|e| !e.path.contains(&b'/') && matches!(e.inode.kind, Kind::Directory(_)))
    {
        let inode = entry.inode;
        let meta = Meta { uid: inode.uid, gid: inode.gid, mode: inode.mode, mtime: inode.mtime };
        loader.add_directory(&entry.path, meta, origin)?;
    }
    let dep = format!("{}/modules.dep", modules.directory);
    loader.add_file(dep.as_bytes(), Content::bytes(modules.dep), meta(0o644), origin)?;
    loader.add_directory(b"squash", meta(0o755), origin)?;
    let script = Content::bytes(&include_bytes!("loader.sh")[..]);
    loader.add_file(b"squash/loader.sh", script, meta(0o644), origin)?;
    let bytes = write_image(&image, compression, timestamp).context("writing the squashed initramfs")?;
    let size = bytes.len() as u64;
    loader.add_file(IMAGE, Content::bytes(bytes), meta(0o644), origin)?;
    Ok((loader, size))
}

/// Puts loader and image together again: the plain tree, or `None` if it is plain already.
/// `scratch` is a new file that must stay while the tree lives.
///
/// # Errors
/// A damaged image.
pub fn unsquash(loader: &Tree, scratch: &Path) -> Result<Option<Tree>> {
    let Some(id) = loader.get(IMAGE) else { return Ok(None) };
    let Kind::File(content) = &loader.inode(id).kind else {
        anyhow::bail!("/squash/root.sfs is not a file");
    };
    let file = scratch.with_extension("sfs");
    std::fs::write(&file, content.read_all()?).with_context(|| format!("writing {}", file.display()))?;
    let image = squashfs::read(&file, scratch, MAX_CONTENT).context("reading /squash/root.sfs")?;
    // The image has the whole modules.dep.
    let stays = |path: &str| !path.starts_with("squash/") && !path.ends_with("/modules.dep");
    let mut plain = part(loader, stays)?;
    merge(&image, |_| true, &mut plain)?;
    Ok(Some(plain))
}

fn write_image(image: &Tree, compression: Compression, timestamp: i64) -> Result<Vec<u8>> {
    let options =
        squashfs::Options { block_size: BLOCK_SIZE, timestamp, ..squashfs::Options::new(compression) };
    let mut bytes = Cursor::new(Vec::new());
    squashfs::write(image, &options, &mut bytes)?;
    Ok(bytes.into_inner())
}

struct LoaderModules {
    /// `lib/modules/VERSION`
    directory: String,
    /// Paths of modules and of modules.builtin.
    files: BTreeSet<String>,
    /// modules.dep for these alone.
    dep: String,
}

/// The lines of modules.dep for the loader's modules: each names all it needs.
/// What is compiled into the kernel has no line and needs none.
fn loader_modules(tree: &Tree) -> Result<LoaderModules> {
    let is_dep = |path: &[u8]| path.starts_with(b"lib/modules/") && path.ends_with(b"/modules.dep");
    let found = tree.walk().find(|entry| is_dep(&entry.path)).context("the initramfs has no modules.dep")?;
    let Kind::File(content) = &found.inode.kind else { anyhow::bail!("modules.dep is not a file") };
    let text = String::from_utf8(content.read_all()?).context("reading modules.dep")?;
    let path = String::from_utf8_lossy(&found.path).into_owned();
    let directory = path.trim_end_matches("/modules.dep").to_string();
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    for line in text.lines() {
        let (module, needs) = line.split_once(':').unwrap_or((line, ""));
        let name = module.rsplit('/').next().unwrap_or_default().trim_end_matches(".ko");
        if LOADER_MODULES.contains(&name) {
            wanted.insert(module);
            wanted.extend(needs.split_whitespace());
        }
    }
    let module = |line: &&str| wanted.contains(line.split(':').next().unwrap_or_default());
    let dep = text.lines().filter(module).map(|line| format!("{line}\n")).collect();
    let mut files: BTreeSet<String> = wanted.iter().map(|module| format!("{directory}/{module}")).collect();
    files.insert(format!("{directory}/modules.builtin"));
    Ok(LoaderModules { directory, files, dep })
}

/// The files and empty directories a predicate takes, with their directories and hard links.
fn part(tree: &Tree, takes: impl Fn(&str) -> bool) -> Result<Tree> {
    let mut part = Tree::new();
    merge(tree, takes, &mut part)?;
    Ok(part)
}

/// Adds such a part to a tree.
fn merge(tree: &Tree, takes: impl Fn(&str) -> bool, part: &mut Tree) -> Result<()> {
    let mut first_names: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let taken = |path: &[u8], kind: &Kind| {
        let is_leaf = !matches!(kind, Kind::Directory(entries) if !entries.is_empty() || path.is_empty());
        is_leaf && std::str::from_utf8(path).is_ok_and(&takes)
    };
    let paths: Vec<Vec<u8>> = tree.walk().filter(|e| taken(&e.path, &e.inode.kind)).map(|e| e.path).collect();
    let mut parents: BTreeSet<&[u8]> = BTreeSet::from([&b""[..]]);
    for path in &paths {
        parents.extend(path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| &path[..at]));
    }
    for path in parents.into_iter().chain(paths.iter().map(Vec::as_slice)) {
        let id = tree.get(path).context("walking the initramfs tree")?;
        match first_names.get(&id.index()) {
            Some(first) => {
                let origin = part.add_origin("initramfs");
                part.add_hard_link(path, first, origin)?;
            }
            None => {
                copy(tree, id, path, part)?;
                first_names.insert(id.index(), path.to_vec());
            }
        }
    }
    Ok(())
}

fn copy(tree: &Tree, id: InodeId, path: &[u8], part: &mut Tree) -> Result<()> {
    let inode = tree.inode(id);
    let meta = Meta { uid: inode.uid, gid: inode.gid, mtime: inode.mtime, ..Meta::mode(inode.mode) };
    let kind = match &inode.kind {
        Kind::Directory(_) => Kind::Directory(Default::default()),
        other => other.clone(),
    };
    let origin = part.add_origin(tree.origin(inode.origin));
    part.insert(path, kind, meta, origin)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initramfs::base::tests::small_base;
    use crate::tree::listing;

    fn names(tree: &Tree) -> Vec<String> {
        tree.walk().map(|e| String::from_utf8(e.path).unwrap()).collect()
    }

    #[test]
    fn loader_and_image_are_the_plain_tree() {
        let mut plain = small_base();
        let origin = plain.add_origin("test");
        let text = |t: &str| Content::bytes(t.as_bytes());
        let dep =
            "kernel/a/loop.ko:\nkernel/a/squashfs.ko: kernel/a/zip.ko\nkernel/a/zip.ko:\nkernel/b/vfat.ko:\n";
        for name in ["a/loop", "a/squashfs", "a/zip", "b/vfat"] {
            let path = format!("lib/modules/6.1.0-t/kernel/{name}.ko");
            plain.add_file(path.as_bytes(), text(name), Meta::mode(0o644), origin).unwrap();
        }
        plain.add_file(b"lib/modules/6.1.0-t/modules.dep", text(dep), Meta::mode(0o644), origin).unwrap();
        plain.add_file(b"bin/tool", text("tool"), Meta::mode(0o755), origin).unwrap();
        plain.add_hard_link(b"opt/tool", b"bin/tool", origin).unwrap();
        let (loader, size) = squash(&plain, Compression::Zstd, 1000).unwrap();
        let again = squash(&plain, Compression::Zstd, 1000).unwrap().0;
        assert_eq!(listing(&again).unwrap(), listing(&loader).unwrap());
        let expected = [
            "",
            "bin",
            "bin/busybox",
            "bin/sh",
            "dev",
            "dev/console",
            "etc",
            "init",
            "lib",
            "lib/modules",
            "lib/modules/6.1.0-t",
            "lib/modules/6.1.0-t/kernel",
            "lib/modules/6.1.0-t/kernel/a",
            "lib/modules/6.1.0-t/kernel/a/loop.ko",
            "lib/modules/6.1.0-t/kernel/a/squashfs.ko",
            "lib/modules/6.1.0-t/kernel/a/zip.ko",
            "lib/modules/6.1.0-t/modules.builtin",
            "lib/modules/6.1.0-t/modules.dep",
            "newroot",
            "opt",
            "proc",
            "run",
            "sbin",
            "sbin/modprobe",
            "squash",
            "squash/loader.sh",
            "squash/root.sfs",
            "sys",
            "tmp",
        ];
        assert_eq!(names(&loader), expected);
        let content = |tree: &Tree, path: &str| match &tree.inode(tree.get(path.as_bytes()).unwrap()).kind {
            Kind::File(content) => content.read_all().unwrap(),
            _ => panic!("{path}"),
        };
        let loader_dep = "kernel/a/loop.ko:\nkernel/a/squashfs.ko: kernel/a/zip.ko\nkernel/a/zip.ko:\n";
        assert_eq!(content(&loader, "lib/modules/6.1.0-t/modules.dep"), loader_dep.as_bytes());

        let bytes = content(&loader, "squash/root.sfs");
        assert_eq!(bytes.len() as u64, size);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("image"), bytes).unwrap();
        let image = squashfs::read(&dir.path().join("image"), &dir.path().join("scratch"), 1 << 20).unwrap();
        // Loader and image together are the plain tree, and what the loader adds.
        let mut whole: BTreeSet<String> = listing(&loader).unwrap().lines().map(str::to_string).collect();
        whole.extend(listing(&image).unwrap().lines().map(str::to_string));
        whole.retain(|line| {
            !line.contains(" /squash") && !line.contains(&format!("size={} ", loader_dep.len()))
        });
        let plain_listing = listing(&plain).unwrap();
        let plain: BTreeSet<String> = plain_listing.lines().map(str::to_string).collect();
        assert_eq!(whole, plain);
        assert!(image.get(b"lib/modules/6.1.0-t/kernel/a/loop.ko").is_none());
        let together = unsquash(&loader, &dir.path().join("again")).unwrap().unwrap();
        assert_eq!(listing(&together).unwrap(), plain_listing);
        assert!(unsquash(&together, &dir.path().join("third")).unwrap().is_none());
    }
}
