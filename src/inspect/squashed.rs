//! The squashfs inside an initramfs: our layout `squashed`, and dracut's 99squash.
//!
//! /init mounts it over what the kernel unpacked, so its files count as the
//! initramfs's own and hide those of the same name. Hard links are shown as files.

use std::io::Write;

use anyhow::{Context, Result};

use super::initramfs::Contents;
use crate::format::cpio::RawMember;
use crate::format::squashfs::{EntryKind, Reader};
use crate::tree::{Kind, display_path};

/// Where makers put it; dracut had both.
const PLACES: [&str; 3] = ["squash/root.sfs", "squash/root.img", "squashfs-root.img"];
const MAGIC: &[u8] = b"hsqs";
/// `st_mode` of a regular file, a directory and a symbolic link.
const FILE: u32 = 0o100000;
const DIRECTORY: u32 = 0o040000;
const LINK: u32 = 0o120000;

/// Whether this member is such an image.
pub(super) fn is_image(path: &str, data: &[u8]) -> bool {
    PLACES.contains(&path) && data.starts_with(MAGIC)
}

/// Adds what the image holds, `left` bytes at most.
///
/// # Errors
/// A damaged image, one that unpacks to more, a compressor we lack.
pub(super) fn add(image: &[u8], mut left: u64, contents: &mut Contents) -> Result<()> {
    let mut file = tempfile::tempfile().context("making a temporary file")?;
    file.write_all(image).context("writing a temporary file")?;
    let mut reader = Reader::of_file(file, 0, image.len() as u64)?;
    for entry in reader.entries()? {
        let (kind, data) = match &entry.kind {
            EntryKind::Directory => (DIRECTORY, Vec::new()),
            EntryKind::File(content) => {
                let path = || format!("reading /{}", display_path(&entry.path));
                (FILE, reader.content(content, left).with_context(path)?)
            }
            EntryKind::Other(Kind::Symlink(target)) => (LINK, target.to_vec()),
            EntryKind::Other(_) => continue,
        };
        left -= data.len() as u64;
        let mode = kind | u32::from(entry.mode);
        contents.add(&RawMember { name: &entry.path, mode, owner: entry.owner, data: &data });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::squashfs::{self, Options};
    use crate::inspect::initramfs::read;
    use crate::plan::Compression;
    use crate::tree::{Content, Meta, Tree};

    /// An archive with a module of its own, a list of two, and an image with the other module.
    fn archive(place: &str, damage: fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut inner = Tree::new();
        let origin = inner.add_origin("test");
        let add = |tree: &mut Tree, path: &str, bytes: &[u8]| {
            tree.add_file(path.as_bytes(), Content::bytes(bytes), Meta::mode(0o644), origin).unwrap();
        };
        add(&mut inner, "lib/modules/6.1.0/kernel/usb-storage.ko", b"usb");
        add(&mut inner, "lib/modules/6.1.0/modules.dep", b"kernel/usb-storage.ko: kernel/scsi_mod.ko\n");
        add(&mut inner, "etc/liveiso/medium", b"");
        let mut image = std::io::Cursor::new(Vec::new());
        squashfs::write(&inner, &Options::new(Compression::Gzip), &mut image).unwrap();
        let mut image = image.into_inner();
        damage(&mut image);
        let mut outer = Tree::new();
        let origin = outer.add_origin("test");
        let mut add = |path: &str, bytes: &[u8]| {
            outer.add_file(path.as_bytes(), Content::bytes(bytes), Meta::mode(0o644), origin).unwrap();
        };
        add("lib/modules/6.1.0/kernel/loop.ko", b"loop");
        add("lib/modules/6.1.0/modules.dep", b"kernel/loop.ko:\n");
        add(place, &image);
        let mut bytes = Vec::new();
        crate::format::cpio::write(&outer, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn files_of_the_image_are_the_initramfs_s() {
        for place in PLACES {
            let contents = read(&archive(place, |_| {})).unwrap();
            assert_eq!(Vec::from_iter(&contents.modules), ["loop", "usb_storage"], "{place}");
            assert_eq!(contents.depends["usb_storage"], ["scsi_mod"]);
            assert!(contents.files.contains_key("etc/liveiso/medium") && contents.files.contains_key(place));
        }
        let elsewhere = read(&archive("data/root.sfs", |_| {})).unwrap();
        assert_eq!(Vec::from_iter(&elsewhere.modules), ["loop"]);
    }

    #[test]
    fn a_damaged_image_is_named() {
        let error = read(&archive(PLACES[0], |image| image.truncate(120))).unwrap_err();
        assert!(format!("{error:#}").starts_with("squash/root.sfs in the initramfs: "), "{error:#}");
    }
}
