//! Looking into an image without unpacking it: parameters, names, single files.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::data::FileData;
use super::image::Image;
use super::layout::{DATA_RAW, MetadataRef, SUPERBLOCK_SIZE, Superblock};
use super::read_inode::{FoundContent, FoundInode, read_inode, read_listing, read_xattrs};
use crate::cache::hex;
use crate::tree::{Kind, components, display_path};

/// What the superblock says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Parameters {
    /// Compressor's name, also of those we cannot read.
    pub compression: String,
    /// Bytes of a data block.
    pub block_size: u32,
    /// Inodes.
    pub inodes: u32,
    /// Fragment blocks.
    pub fragments: u32,
    /// Bytes of the image without padding.
    pub bytes_used: u64,
    /// When it was made, seconds since 1970-01-01 UTC.
    pub time: u32,
}

/// Reads the superblock of an image at `start` of a file.
///
/// # Errors
/// What is no squashfs 4.0 image.
pub fn parameters(path: &Path, start: u64) -> Result<Parameters> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut bytes = [0; SUPERBLOCK_SIZE];
    file.read_exact_at(&mut bytes, start).context("reading the superblock")?;
    let superblock = Superblock::decode(&bytes)?;
    let names = ["gzip", "lzma", "lzo", "xz", "lz4", "zstd"];
    let name = usize::from(superblock.compressor).checked_sub(1).and_then(|n| names.get(n));
    Ok(Parameters {
        compression: name.map_or_else(|| format!("number {}", superblock.compressor), |n| n.to_string()),
        block_size: superblock.block_size,
        inodes: superblock.inode_count,
        fragments: superblock.fragment_count,
        bytes_used: superblock.bytes_used,
        time: superblock.mkfs_time,
    })
}

/// One name of an image.
#[derive(Debug)]
pub struct Entry {
    /// Path without leading slash; the root is empty.
    pub path: Vec<u8>,
    /// Permission bits.
    pub mode: u16,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds since 1970-01-01 UTC.
    pub mtime: u32,
    /// Type; directories and files come without their content.
    pub kind: EntryKind,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an [`Entry`] is.
#[derive(Debug)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file; see [`Entry::length`] and [`Reader::sha256`].
    File(FileContent),
    /// Anything else, complete.
    Other(Kind),
}

/// Where a file's bytes are, for [`Reader::sha256`].
#[derive(Debug)]
pub struct FileContent(FileData);

impl Entry {
    /// Bytes of a regular file.
    pub fn length(&self) -> Option<u64> {
        match &self.kind {
            EntryKind::File(content) => Some(content.0.length),
            _ => None,
        }
    }
}

/// An image open for looking.
pub struct Reader {
    image: Image,
    /// The last fragment block used.
    fragment: Option<(u32, Vec<u8>)>,
}

impl Reader {
    /// Opens the image that has `length` bytes at `start` of a file.
    ///
    /// # Errors
    /// What is no squashfs 4.0 image, uses a compressor we lack, or is cut off.
    pub fn open(path: &Path, start: u64, length: u64) -> Result<Reader> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        Reader::of_file(file, start, length)
    }

    /// The same for a file that need not have a name.
    ///
    /// # Errors
    /// As of [`Reader::open`].
    pub fn of_file(file: File, start: u64, length: u64) -> Result<Reader> {
        Ok(Reader { image: Image::open_part(file, start, length)?, fragment: None })
    }

    /// The content of a file, or `None` if there is no such regular file; links are not followed.
    ///
    /// # Errors
    /// Damage on the way, more than `max` bytes.
    pub fn read_file(&mut self, path: &[u8], max: u64) -> Result<Option<Vec<u8>>> {
        let shown = display_path(path);
        let Some(FoundInode { content: FoundContent::File(data), .. }) =
            self.find(path).with_context(|| format!("looking for /{shown}"))?
        else {
            return Ok(None);
        };
        let bytes = self.content(&FileContent(data), max).with_context(|| format!("reading /{shown}"))?;
        Ok(Some(bytes))
    }

    /// A file's bytes.
    ///
    /// # Errors
    /// Damaged blocks, more than `max` bytes.
    pub fn content(&mut self, content: &FileContent, max: u64) -> Result<Vec<u8>> {
        let data = &content.0;
        ensure!(data.length <= max, "it has {} bytes, more than {max}", data.length);
        let mut bytes = Vec::new();
        self.each_block(data, |block| bytes.extend_from_slice(block))?;
        Ok(bytes)
    }

    /// The names in a directory, or none if there is no such directory.
    ///
    /// # Errors
    /// Damage on the way.
    pub fn names(&self, path: &[u8]) -> Result<Vec<String>> {
        let Some(FoundInode { content: FoundContent::Directory(at, size), .. }) = self.find(path)? else {
            return Ok(Vec::new());
        };
        let entries = read_listing(&self.image, at, size)?;
        Ok(entries.iter().map(|entry| String::from_utf8_lossy(entry.name.as_bytes()).into_owned()).collect())
    }

    fn find(&self, path: &[u8]) -> Result<Option<FoundInode>> {
        let mut inode = read_inode(&self.image, self.image.superblock.root)?;
        for name in components(path)? {
            let FoundContent::Directory(at, size) = inode.content else {
                return Ok(None);
            };
            let entries = read_listing(&self.image, at, size)?;
            let Ok(n) = entries.binary_search_by(|entry| entry.name.cmp(&name)) else {
                return Ok(None);
            };
            inode = read_inode(&self.image, entries[n].inode)?;
        }
        Ok(Some(inode))
    }

    /// Every name, sorted by path.
    ///
    /// # Errors
    /// Damage, by path, and directories that lead in a circle.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let mut pending: Vec<(Vec<u8>, MetadataRef)> = vec![(Vec::new(), self.image.superblock.root)];
        while let Some((path, at)) = pending.pop() {
            let shown = display_path(&path);
            let entry = self.entry(path, at, &mut seen, &mut pending);
            found.push(entry.with_context(|| format!("reading /{shown}"))?);
        }
        found.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }

    fn entry(
        &self,
        path: Vec<u8>,
        at: MetadataRef,
        seen: &mut HashSet<u64>,
        pending: &mut Vec<(Vec<u8>, MetadataRef)>,
    ) -> Result<Entry> {
        let inode = read_inode(&self.image, at)?;
        let kind = match inode.content {
            FoundContent::Directory(listing, size) => {
                ensure!(seen.insert(at.packed()), "the directory has two names");
                for entry in read_listing(&self.image, listing, size)? {
                    let mut below = path.clone();
                    if !below.is_empty() {
                        below.push(b'/');
                    }
                    below.extend_from_slice(entry.name.as_bytes());
                    self.image.charge(256 + 2 * below.len())?;
                    pending.push((below, entry.inode));
                }
                EntryKind::Directory
            }
            FoundContent::File(data) => EntryKind::File(FileContent(data)),
            FoundContent::Other(kind) => EntryKind::Other(kind),
        };
        let xattrs = read_xattrs(&self.image, inode.xattrs)?;
        Ok(Entry { path, mode: inode.mode, owner: (inode.uid, inode.gid), mtime: inode.mtime, kind, xattrs })
    }

    /// SHA-256 of a file's bytes in lower-case hex.
    ///
    /// # Errors
    /// Damaged blocks.
    pub fn sha256(&mut self, content: &FileContent) -> Result<String> {
        let mut hasher = Sha256::new();
        self.each_block(&content.0, |block| hasher.update(block))?;
        Ok(hex(&hasher.finalize()))
    }

    /// Hands the bytes of a file to `take`, block by block.
    fn each_block(&mut self, data: &FileData, mut take: impl FnMut(&[u8])) -> Result<()> {
        let block_size = self.image.superblock.block_size as usize;
        let mut raw = vec![0; block_size];
        let (mut left, mut stored) = (data.length, data.start);
        for &size in &data.blocks {
            let length = left.min(block_size as u64) as usize;
            if size == 0 {
                raw[..length].fill(0);
            } else {
                let got = self.image.data_block(stored, size, &mut raw[..length])?;
                ensure!(got == length, "a data block has {got} bytes instead of {length}");
                stored += u64::from(size & !DATA_RAW);
            }
            take(&raw[..length]);
            left -= length as u64;
        }
        if let Some((number, offset)) = data.tail {
            let fragment = self.fragment(number)?;
            let end = (offset as usize).checked_add(left as usize);
            let tail = end.and_then(|end| fragment.get(offset as usize..end));
            take(tail.with_context(|| format!("the tail is outside fragment {number}"))?);
        }
        Ok(())
    }

    fn fragment(&mut self, number: u32) -> Result<&[u8]> {
        let kept = self.fragment.take().filter(|(kept, _)| *kept == number);
        let kept = match kept {
            Some(kept) => kept,
            None => {
                let fragment = self.image.fragment(number)?;
                let mut raw = vec![0; self.image.superblock.block_size as usize];
                let length = self.image.data_block(fragment.start, fragment.size, &mut raw)?;
                raw.truncate(length);
                (number, raw)
            }
        };
        Ok(&self.fragment.insert(kept).1)
    }
}
