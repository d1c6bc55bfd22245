//! The strict reader: an image becomes a tree.
//!
//! File content is uncompressed into one scratch file, of which the tree's
//! files are slices, so memory does not grow with content. Every structure is
//! checked; the first thing that is wrong is the error.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::data::FileData;
use super::image::Image;
use super::inode::basic_type;
use super::layout::MetadataRef;
use super::read_inode::{FoundContent, FoundInode, read_inode, read_listing, read_xattrs};
use crate::tree::{Content, InodeId, Kind, Meta, OriginId, Tree, display_path};

/// What a name and its inode cost in memory at least (bytes).
const NAME_COST: usize = 256;
/// Deeper paths than this are refused (bytes).
const MAX_PATH: usize = 32 << 10;

/// Reads an image into a tree. File content, at most `max_content` bytes of
/// it, goes into the new file `scratch`, which must stay while the tree lives.
///
/// # Errors
/// Anything in the image that the format does not allow, by path where there is
/// one; more content than allowed; trouble with the files.
pub fn read(image: &Path, scratch: &Path, max_content: u64) -> Result<Tree> {
    read_image(image, scratch, max_content).with_context(|| format!("reading {}", image.display()))
}

fn read_image(path: &Path, scratch: &Path, max_content: u64) -> Result<Tree> {
    let image = Image::open(path)?;
    let file = File::create_new(scratch).with_context(|| format!("creating {}", scratch.display()))?;
    let mut tree = Tree::new();
    let origin = tree.add_origin(path.display().to_string());
    let mut reading = Reading {
        content: ContentWriter::new(&image, file, scratch, max_content),
        image: &image,
        tree,
        origin,
        directories: HashSet::new(),
        others: HashMap::new(),
        pending: Vec::new(),
    };
    let root = read_inode(&image, image.superblock.root).context("reading the root directory")?;
    ensure!(matches!(root.content, FoundContent::Directory(..)), "the root is not a directory");
    reading.add(Vec::new(), root, image.superblock.root)?;
    while let Some(name) = reading.pending.pop() {
        let shown = display_path(&name.path);
        reading.name(name).with_context(|| format!("reading /{shown}"))?;
    }
    Ok(reading.tree)
}

struct PendingName {
    path: Vec<u8>,
    inode: MetadataRef,
    number: u32,
    inode_type: u16,
}

struct Reading<'i> {
    image: &'i Image,
    content: ContentWriter<'i>,
    tree: Tree,
    origin: OriginId,
    /// References of all directories met: a second time would be a loop.
    directories: HashSet<u64>,
    /// First path of every other inode.
    others: HashMap<u64, Vec<u8>>,
    pending: Vec<PendingName>,
}

impl Reading<'_> {
    fn name(&mut self, name: PendingName) -> Result<()> {
        if let Some(first) = self.others.get(&name.inode.packed()) {
            self.tree.add_hard_link(&name.path, first, self.origin)?;
            return Ok(());
        }
        let inode = read_inode(self.image, name.inode)?;
        ensure!(
            (inode.number, inode.inode_type) == (name.number, name.inode_type),
            "the directory says inode {} of type {}, the inode is {} of type {}",
            name.number,
            name.inode_type,
            inode.number,
            inode.inode_type
        );
        self.add(name.path, inode, name.inode)
    }

    fn add(&mut self, path: Vec<u8>, inode: FoundInode, at: MetadataRef) -> Result<()> {
        let meta = Meta { mode: inode.mode, uid: inode.uid, gid: inode.gid, mtime: i64::from(inode.mtime) };
        let xattrs = read_xattrs(self.image, inode.xattrs)?;
        let (kind, listing) = match inode.content {
            FoundContent::Directory(listing, size) => {
                ensure!(self.directories.insert(at.packed()), "the directory has two names");
                (Kind::Directory(Default::default()), Some((listing, size)))
            }
            FoundContent::File(data) => (Kind::File(self.content.write(&data)?), None),
            FoundContent::Other(kind) => (kind, None),
        };
        debug_assert_eq!(basic_type(&kind), inode.inode_type);
        let id: InodeId = self.tree.insert(&path, kind, meta, self.origin)?;
        self.tree.inode_mut(id).xattrs = xattrs;
        match listing {
            Some((listing, size)) => self.list(&path, listing, size),
            None => {
                self.others.insert(at.packed(), path);
                Ok(())
            }
        }
    }

    fn list(&mut self, path: &[u8], at: MetadataRef, size: u32) -> Result<()> {
        for entry in read_listing(self.image, at, size)?.into_iter().rev() {
            let mut below = path.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(entry.name.as_bytes());
            ensure!(below.len() <= MAX_PATH, "paths of more than {MAX_PATH} bytes are not read");
            self.image.charge(NAME_COST + 2 * below.len())?;
            let (inode, number, inode_type) = (entry.inode, entry.number, entry.inode_type);
            self.pending.push(PendingName { path: below, inode, number, inode_type });
        }
        Ok(())
    }
}

/// Uncompressed file content, one file after the other in the scratch file.
struct ContentWriter<'i> {
    image: &'i Image,
    file: File,
    path: Arc<PathBuf>,
    position: u64,
    max_size: u64,
    block: Vec<u8>,
    /// The last fragment block used, and its number.
    fragment: (Option<u32>, Vec<u8>),
}

impl<'i> ContentWriter<'i> {
    fn new(image: &'i Image, file: File, path: &Path, max_size: u64) -> ContentWriter<'i> {
        ContentWriter {
            image,
            file,
            path: Arc::new(path.to_path_buf()),
            position: 0,
            max_size,
            block: vec![0; image.superblock.block_size as usize],
            fragment: (None, Vec::new()),
        }
    }

    fn write(&mut self, data: &FileData) -> Result<Content> {
        let start = self.position;
        let end = start.checked_add(data.length).filter(|&end| end <= self.max_size);
        let end = end.with_context(|| format!("the files hold more than {} bytes", self.max_size))?;
        let mut stored = data.start;
        for &size in &data.blocks {
            let length = (end - self.position).min(self.block.len() as u64) as usize;
            if size != 0 {
                let got = self.image.data_block(stored, size, &mut self.block[..length])?;
                ensure!(got == length, "a data block has {got} bytes instead of {length}");
                self.file.write_all_at(&self.block[..length], self.position).context("writing content")?;
                stored += u64::from(size & !super::layout::DATA_RAW);
            }
            self.position += length as u64;
        }
        if let Some((number, offset)) = data.tail {
            let length = (end - self.position) as usize;
            self.load_fragment(number)?;
            let tail =
                (offset as usize).checked_add(length).and_then(|e| self.fragment.1.get(offset as usize..e));
            let tail = tail.with_context(|| format!("the tail is outside fragment {number}"))?;
            self.file.write_all_at(tail, self.position).context("writing content")?;
            self.position = end;
        }
        // Zeros at the end are not written, but they must be readable.
        self.file.set_len(end).context("writing content")?;
        Ok(Content::Slice { file: self.path.clone(), offset: start, length: data.length })
    }

    fn load_fragment(&mut self, number: u32) -> Result<()> {
        if self.fragment.0 != Some(number) {
            let fragment = self.image.fragment(number)?;
            let mut raw = std::mem::take(&mut self.fragment.1);
            raw.resize(self.image.superblock.block_size as usize, 0);
            let length = self.image.data_block(fragment.start, fragment.size, &mut raw)?;
            raw.truncate(length);
            self.fragment = (Some(number), raw);
        }
        Ok(())
    }
}
