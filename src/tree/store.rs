//! A tree as bytes, for the cache: everything but the content of its packages,
//! which stays in their archives and is referred to by place and digest.
//!
//! postcard's encoding of `Stored`. The bytes are our own and verified by
//! whoever keeps them; nothing is promised for others.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::sealed::ChunkDigest;
use super::{Content, Device, Inode, InodeId, Kind, Name, OriginId, Sealed, Tree};
use crate::cache::CachedFile;

#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    origins: Vec<&'a str>,
    #[serde(borrow)]
    inodes: Vec<StoredInode<'a>>,
}

#[derive(Serialize, Deserialize)]
struct StoredInode<'a> {
    mode: u16,
    uid: u32,
    gid: u32,
    mtime: i64,
    links: u32,
    origin: u32,
    xattrs: Vec<(&'a [u8], &'a [u8])>,
    #[serde(borrow)]
    kind: StoredKind<'a>,
}

#[derive(Serialize, Deserialize)]
enum StoredKind<'a> {
    Directory(Vec<(&'a [u8], u32)>),
    Bytes(&'a [u8]),
    /// Number of the archive.
    Sealed {
        file: u32,
        offset: u64,
        length: u64,
        digests: Vec<ChunkDigest>,
    },
    Symlink(&'a [u8]),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
    Socket,
}

/// Replaces every content that lies in one of the files by the same with
/// digests; the files must have been verified a moment ago.
///
/// # Errors
/// Content that lies elsewhere on disk, unreadable files.
pub fn seal(tree: &mut Tree, files: &[Arc<CachedFile>]) -> Result<()> {
    let by_path: HashMap<&Path, &Arc<CachedFile>> = files.iter().map(|f| (f.path(), f)).collect();
    for inode in tree.inodes.iter_mut().filter(|inode| inode.links > 0) {
        let Kind::File(content) = &mut inode.kind else { continue };
        match &*content {
            Content::Bytes(_) | Content::Sealed(_) => {}
            Content::Slice { file, offset, length } => {
                let file = by_path.get(file.as_path()).with_context(|| format!("finding {content}"))?;
                let sealed = Sealed::seal(Arc::clone(file), *offset, *length)?;
                *content = Content::Sealed(sealed);
            }
            Content::Pinned { .. } => bail!("{content} is no part of a package"),
        }
    }
    Ok(())
}

/// A sealed tree as bytes; equal trees with equal files give equal bytes.
///
/// # Errors
/// Content that is not sealed.
pub fn save(tree: &Tree, files: &[Arc<CachedFile>]) -> Result<Vec<u8>> {
    let numbers: HashMap<&Path, u32> = files.iter().map(|f| f.path()).zip(0..).collect();
    let inodes = tree.inodes.iter().map(|inode| stored(inode, &numbers)).collect::<Result<_>>()?;
    let stored = Stored { origins: tree.origins.iter().map(String::as_str).collect(), inodes };
    postcard::to_allocvec(&stored).context("serialising a tree")
}

fn stored<'t>(inode: &'t Inode, numbers: &HashMap<&Path, u32>) -> Result<StoredInode<'t>> {
    let kind = match &inode.kind {
        // Removed; kept because inodes are known by their position.
        _ if inode.links == 0 => StoredKind::Fifo,
        Kind::Directory(entries) => {
            StoredKind::Directory(entries.iter().map(|(name, id)| (name.as_bytes(), id.0)).collect())
        }
        Kind::File(Content::Bytes(bytes)) => StoredKind::Bytes(bytes),
        Kind::File(Content::Sealed(sealed)) => StoredKind::Sealed {
            file: *numbers.get(sealed.file().path()).context("a file's archive is not listed")?,
            offset: sealed.offset(),
            length: sealed.len(),
            digests: sealed.digests().to_vec(),
        },
        Kind::File(content) => bail!("{content} has no digests"),
        Kind::Symlink(target) => StoredKind::Symlink(target),
        Kind::CharDevice(device) => StoredKind::CharDevice(device.major, device.minor),
        Kind::BlockDevice(device) => StoredKind::BlockDevice(device.major, device.minor),
        Kind::Fifo => StoredKind::Fifo,
        Kind::Socket => StoredKind::Socket,
    };
    let &Inode { mode, uid, gid, mtime, links, origin: OriginId(origin), .. } = inode;
    let xattrs = inode.xattrs.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    Ok(StoredInode { mode, uid, gid, mtime, links, origin, xattrs, kind })
}

/// The tree that was saved, over the same files in the same order.
///
/// # Errors
/// Bytes that [`save`] did not write, or for other files.
pub fn load(bytes: &[u8], files: &[Arc<CachedFile>]) -> Result<Tree> {
    let stored: Stored = postcard::from_bytes(bytes).context("reading a stored tree")?;
    let (inodes, origins) = (stored.inodes.len() as u32, stored.origins.len() as u32);
    let mut tree = Tree { inodes: Vec::with_capacity(stored.inodes.len()), origins: Vec::new() };
    tree.origins.extend(stored.origins.into_iter().map(str::to_string));
    for StoredInode { mode, uid, gid, mtime, links, origin, xattrs, kind } in stored.inodes {
        ensure!(origin < origins, "a stored tree has no origin {origin}");
        let xattrs = xattrs.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let kind = loaded(kind, inodes, files)?;
        tree.inodes.push(Inode { mode, uid, gid, mtime, links, origin: OriginId(origin), xattrs, kind });
    }
    ensure!(tree.inodes.first().is_some_and(|i| i.links > 0), "a stored tree is empty");
    Ok(tree)
}

fn loaded(kind: StoredKind<'_>, inodes: u32, files: &[Arc<CachedFile>]) -> Result<Kind> {
    let device = |major, minor| Device { major, minor };
    Ok(match kind {
        StoredKind::Directory(entries) => {
            let mut loaded = BTreeMap::new();
            for (name, id) in entries {
                ensure!(id < inodes, "a stored tree has no inode {id}");
                loaded.insert(Name::new(name)?, InodeId(id));
            }
            Kind::Directory(loaded)
        }
        StoredKind::Bytes(bytes) => Kind::File(Content::bytes(bytes)),
        StoredKind::Sealed { file, offset, length, digests } => {
            let file = files.get(file as usize).context("a stored tree has more archives")?;
            Kind::File(Content::Sealed(Sealed::new(file.clone(), offset, length, digests.into())?))
        }
        StoredKind::Symlink(target) => Kind::Symlink(target.to_vec()),
        StoredKind::CharDevice(major, minor) => Kind::CharDevice(device(major, minor)),
        StoredKind::BlockDevice(major, minor) => Kind::BlockDevice(device(major, minor)),
        StoredKind::Fifo => Kind::Fifo,
        StoredKind::Socket => Kind::Socket,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Meta, listing, parse_listing};
    use super::*;
    use crate::cache::Cache;

    #[test]
    fn a_stored_tree_is_the_same_tree() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let output =
            cache.stage("s", &1, |dir| Ok(std::fs::write(dir.join("f"), vec![7; 300_000])?)).unwrap();
        let files = [output.file("f")];
        let mut tree = parse_listing(
            "dir /a\\x20b 0750 1 2 mtime=-5\nfile /a\\x20b/c 4755 0 0 text=hello xattr.user.x=0001\n\
             link /d /a\\x20b/c\nslink /e 0777 0 0 a\nnod /f 0600 0 0 c 5 1\nnod /g 0600 0 0 b 8 0\n\
             pipe /h 0600 0 0\nsock /i 0600 0 0\nfile /gone 0644 0 0 size=9\n",
        )
        .unwrap();
        tree.remove(b"gone");
        let origin = tree.add_origin("package x");
        let slice =
            Content::Slice { file: Arc::new(files[0].path().to_path_buf()), offset: 1000, length: 200_000 };
        tree.add_file(b"big", slice, Meta::default(), origin).unwrap();
        let expected = listing(&tree).unwrap();
        assert!(save(&tree, &files).is_err(), "not sealed yet");
        seal(&mut tree, &files).unwrap();
        let bytes = save(&tree, &files).unwrap();
        let again = load(&bytes, &files).unwrap();
        assert_eq!(listing(&again).unwrap(), expected);
        assert_eq!(again.origin(again.inode(again.get(b"big").unwrap()).origin), "package x");
        assert_eq!(save(&again, &files).unwrap(), bytes);
        assert!(load(&bytes, &[]).is_err());
        for cut in (0..bytes.len()).step_by(11) {
            assert!(load(&bytes[..cut], &files).is_err(), "{cut}");
        }
    }
}
