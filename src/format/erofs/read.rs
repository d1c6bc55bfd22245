//! Looking into an EROFS image of any maker: names and single files.
//!
//! Directories are blocks of entries (12 bytes: inode (8), place of the name (2),
//! type), each block sorted, with its names behind. Untrusted input: every read
//! is bounded, directories are read once each. Left out: xattrs, chunks, several
//! devices, packed ends, compressors but LZ4.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::clusters::Map;
use super::inode::{Inode, Layout};
use super::superblock::{HEAD, Superblock};
use crate::format::field::{u16_at, u64_at};
use crate::tree::{components, display_path};

const ENTRY: usize = 12;
/// Bytes of one directory, and names of an image.
const MAX_DIRECTORY: u64 = 64 << 20;
const MAX_NAMES: usize = 1 << 21;
/// Bytes of a file or link that are read without being asked how many may be.
const MAX_TARGET: u64 = 4096;

/// One name of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path without leading slash; the root is empty.
    pub path: Vec<u8>,
    /// `st_mode`.
    pub mode: u16,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Bytes of a regular file.
    pub length: u64,
    /// Target of a link.
    pub target: Option<Vec<u8>>,
}

/// An image open for looking.
pub struct Reader {
    file: File,
    start: u64,
    length: u64,
    superblock: Superblock,
}

impl Reader {
    /// Opens the image that has `length` bytes at `start` of a file.
    ///
    /// # Errors
    /// What is no EROFS image, or cut off.
    pub fn open(path: &Path, start: u64, length: u64) -> Result<Reader> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let mut head = vec![0; HEAD.min(usize::try_from(length)?)];
        file.read_exact_at(&mut head, start).context("reading the superblock")?;
        Ok(Reader { superblock: Superblock::decode(&head)?, file, start, length })
    }

    pub(super) fn bytes(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let end = at.checked_add(out.len() as u64).filter(|&end| end <= self.length);
        ensure!(end.is_some(), "its byte {at} lies outside the image");
        self.file
            .read_exact_at(out, self.start + at)
            .with_context(|| format!("reading byte {at} of the image"))
    }

    /// Where the inodes are counted from (bytes).
    pub(super) fn inodes(&self) -> u64 {
        u64::from(self.superblock.meta_block) << self.superblock.block_bits
    }

    pub(super) fn block_bits(&self) -> u32 {
        self.superblock.block_bits
    }

    fn content(&self, inode: &Inode, max: u64) -> Result<Vec<u8>> {
        ensure!(inode.size <= max, "it has {} bytes, more than {max}", inode.size);
        if matches!(inode.layout, Layout::CompressedFull | Layout::CompressedCompact) {
            ensure!(self.superblock.zero_padding, "it is compressed as before Linux 5.4, which is not read");
            return Map::read(self, inode)?.unpack(self);
        }
        // A file cannot be longer than the image unless it is compressed.
        ensure!(inode.size <= self.length, "it is longer than the image");
        let mut bytes = vec![0; inode.size as usize];
        let block = 1_u64 << self.block_bits();
        let (blocks, tail) = match inode.layout {
            Layout::Inline if inode.size > 0 => {
                bytes.split_at_mut(((inode.size - 1) / block * block) as usize)
            }
            _ => bytes.split_at_mut(inode.size as usize),
        };
        if !blocks.is_empty() {
            self.bytes(u64::from(inode.block) << self.block_bits(), blocks)?;
        }
        if !tail.is_empty() {
            self.bytes(inode.behind, tail)?;
        }
        Ok(bytes)
    }

    /// Names and inode numbers of a directory, without `.` and `..`.
    fn directory(&self, inode: &Inode) -> Result<Vec<(Vec<u8>, u64)>> {
        let bytes = self.content(inode, MAX_DIRECTORY)?;
        let mut found = Vec::new();
        for block in bytes.chunks(1 << self.block_bits()) {
            ensure!(block.len() >= ENTRY, "a block of the directory is too short");
            let first = usize::from(u16_at(block, 8));
            ensure!(
                first >= ENTRY && first.is_multiple_of(ENTRY) && first <= block.len(),
                "the directory is damaged"
            );
            let place = |n: usize| usize::from(u16_at(block, n * ENTRY + 8));
            let count = first / ENTRY;
            for n in 0..count {
                let end = if n + 1 < count { place(n + 1) } else { block.len() };
                let name = block.get(place(n)..end).context("a name of the directory is damaged")?;
                let name = name.split(|&b| b == 0).next().unwrap_or_default();
                ensure!(!name.is_empty() && !name.contains(&b'/'), "a name of the directory is damaged");
                if name != b"." && name != b".." {
                    found.push((name.to_vec(), u64_at(block, n * ENTRY)));
                }
            }
        }
        Ok(found)
    }

    fn find(&self, path: &[u8]) -> Result<Option<Inode>> {
        let mut inode = Inode::read(self, self.superblock.root)?;
        ensure!(inode.is_directory(), "its root is no directory");
        for name in components(path)? {
            if !inode.is_directory() {
                return Ok(None);
            }
            let below = self.directory(&inode)?;
            let Some((_, nid)) = below.iter().find(|(found, _)| found == name.as_bytes()) else {
                return Ok(None);
            };
            inode = Inode::read(self, *nid)?;
        }
        Ok(Some(inode))
    }

    /// The content of a file, or `None` if there is no such regular file; links are not followed.
    ///
    /// # Errors
    /// Damage on the way, more than `max` bytes, a compressor or layout that is not read.
    pub fn read_file(&self, path: &[u8], max: u64) -> Result<Option<Vec<u8>>> {
        let shown = display_path(path);
        let found = self.find(path).with_context(|| format!("looking for /{shown}"))?;
        let Some(inode) = found.filter(Inode::is_file) else { return Ok(None) };
        self.content(&inode, max).map(Some).with_context(|| format!("reading /{shown}"))
    }

    /// The names in a directory, or none if there is no such directory.
    ///
    /// # Errors
    /// Damage on the way.
    pub fn names(&self, path: &[u8]) -> Result<Vec<String>> {
        let Some(inode) = self.find(path)?.filter(Inode::is_directory) else { return Ok(Vec::new()) };
        let names = self.directory(&inode)?;
        Ok(names.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// Every name, sorted by path.
    ///
    /// # Errors
    /// Damage, by path, directories that lead in a circle, more names than any image has.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let (mut seen, mut found) = (HashSet::new(), Vec::new());
        let mut pending = vec![(Vec::new(), self.superblock.root)];
        while let Some((path, nid)) = pending.pop() {
            let shown = display_path(&path);
            let entry = self.entry(path, nid, &mut seen, &mut pending);
            found.push(entry.with_context(|| format!("reading /{shown}"))?);
            ensure!(found.len() + pending.len() <= MAX_NAMES, "it has more than {MAX_NAMES} names");
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }

    fn entry(
        &self,
        path: Vec<u8>,
        nid: u64,
        seen: &mut HashSet<u64>,
        pending: &mut Vec<(Vec<u8>, u64)>,
    ) -> Result<Entry> {
        let inode = Inode::read(self, nid)?;
        let mut target = None;
        if inode.is_directory() {
            if !seen.insert(nid) {
                bail!("the directory has two names");
            }
            for (name, below) in self.directory(&inode)? {
                let parts: &[&[u8]] = if path.is_empty() { &[&name] } else { &[&path, &name] };
                pending.push((parts.join(&b'/'), below));
            }
        } else if inode.mode & 0o170000 == 0o120000 {
            target = Some(self.content(&inode, MAX_TARGET)?);
        }
        let length = if inode.is_file() { inode.size } else { 0 };
        Ok(Entry { path, mode: inode.mode, owner: inode.owner, length, target })
    }
}
