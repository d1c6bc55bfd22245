//! File content: data blocks, tails packed into fragments, duplicates once.
//!
//! A file is a run of full blocks and a tail. Blocks of zeros take no space.
//! Tails, and with them small files, are gathered into fragment blocks as large
//! as data blocks. A squashfs inode knows only where its first block is, so the
//! blocks of one file lie together and a single block cannot be shared, only a
//! whole file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};

use super::cache::BlockCache;
use super::compress::is_x86_code;
use super::layout::DATA_RAW;
use super::metadata::Output;
use super::workers::{Block, Workers};
use crate::tree::{Content, ContentReader};

/// Where a file's bytes are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FileData {
    /// Bytes of the file.
    pub length: u64,
    /// Position of the first block that takes space; 0 when none does.
    pub start: u64,
    /// Stored size of every block, [`DATA_RAW`] set for uncompressed ones, 0 for zeros.
    pub blocks: Vec<u32>,
    /// Fragment block and byte offset in it.
    pub tail: Option<(u32, u32)>,
    /// Bytes in blocks that take no space.
    pub sparse: u64,
}

/// Position and stored size of a fragment block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fragment {
    pub start: u64,
    pub size: u32,
}

/// What a block under way belongs to.
pub(super) enum Target {
    Data { file: usize, index: usize },
    Fragment(usize),
}

/// Writes file content in the order in which it is given.
pub(super) struct DataWriter<'c, W> {
    out: Output<W>,
    cache: Option<&'c BlockCache>,
    workers: Workers<Target>,
    block_size: usize,
    filters_code: bool,
    /// Every different content, by the number [`DataWriter::store`] returned.
    files: Vec<FileData>,
    fragments: Vec<Fragment>,
    fragment: Block,
    by_digest: HashMap<(u64, [u8; 32]), usize>,
    duplicates: u64,
    new_blocks: u64,
}

/// The result of writing all content.
pub(super) struct Stored<W> {
    pub out: Output<W>,
    pub files: Vec<FileData>,
    pub fragments: Vec<Fragment>,
    /// Files that were found to be there already.
    pub duplicates: u64,
    /// Blocks the cache did not have; all blocks without one.
    pub new_blocks: u64,
}

impl<'c, W: Write> DataWriter<'c, W> {
    pub fn new(
        out: Output<W>,
        mut workers: Workers<Target>,
        block_size: u32,
        filters_code: bool,
        cache: Option<&'c BlockCache>,
    ) -> Self {
        let fragment = workers.block();
        DataWriter {
            out,
            cache,
            workers,
            block_size: block_size as usize,
            filters_code,
            files: Vec::new(),
            fragments: Vec::new(),
            fragment,
            by_digest: HashMap::new(),
            duplicates: 0,
            new_blocks: 0,
        }
    }

    /// Stores one file. With `may_repeat` unset the caller knows that no other
    /// file has this length, which saves the digest. Returns the content's number.
    ///
    /// # Errors
    /// Unreadable content, a full disk.
    pub fn store(&mut self, content: &Content, may_repeat: bool) -> Result<usize> {
        let mut source = Source::open(content)?;
        if !may_repeat {
            return self.store_new(source);
        }
        // What fits one block is read once, anything larger twice.
        let digest = match content.len() <= self.block_size as u64 {
            true => {
                source.fill_first(self.block_size)?;
                *blake3::hash(&source.first).as_bytes()
            }
            false => digest(content)?,
        };
        let key = (content.len(), digest);
        if let Some(&known) = self.by_digest.get(&key) {
            self.duplicates += 1;
            return Ok(known);
        }
        let number = self.store_new(source)?;
        self.by_digest.insert(key, number);
        Ok(number)
    }

    fn store_new(&mut self, mut source: Source<'_>) -> Result<usize> {
        let (file, length) = (self.files.len(), source.content.len());
        self.files.push(FileData { length, ..FileData::default() });
        let mut is_code = false;
        let mut left = length;
        while left > 0 {
            let mut block = self.workers.block();
            source.fill(&mut block.raw, self.block_size)?;
            if left == length {
                is_code = self.filters_code && is_x86_code(&block.raw);
            }
            left -= block.raw.len() as u64;
            if is_zero(&block.raw) {
                let hole = source.skip_hole(self.block_size as u64)?;
                left -= hole;
                let zeros = block.raw.len() as u64 + hole;
                self.workers.recycle(block);
                let data = &mut self.files[file];
                data.sparse += zeros;
                let blocks = zeros.div_ceil(self.block_size as u64) as usize;
                data.blocks.resize(data.blocks.len() + blocks, 0);
            } else if block.raw.len() == self.block_size {
                let index = self.files[file].blocks.len();
                self.files[file].blocks.push(0);
                block.is_x86_code = is_code;
                self.submit(Target::Data { file, index }, block)?;
            } else {
                self.files[file].tail = Some(self.append_tail(&block.raw)?);
                self.workers.recycle(block);
            }
        }
        Ok(file)
    }

    fn append_tail(&mut self, tail: &[u8]) -> Result<(u32, u32)> {
        if self.fragment.raw.len() + tail.len() > self.block_size {
            self.flush_fragment()?;
        }
        let at = (self.fragments.len() as u32, self.fragment.raw.len() as u32);
        self.fragment.raw.extend_from_slice(tail);
        Ok(at)
    }

    /// Tails that come later do not share a fragment block with those before.
    ///
    /// # Errors
    /// As [`DataWriter::store`].
    pub fn close_fragment(&mut self) -> Result<()> {
        if self.fragment.raw.is_empty() { Ok(()) } else { self.flush_fragment() }
    }

    fn flush_fragment(&mut self) -> Result<()> {
        let fragment = self.fragments.len();
        self.fragments.push(Fragment::default());
        let mut full = self.workers.block();
        std::mem::swap(&mut full, &mut self.fragment);
        full.is_x86_code = false;
        self.submit(Target::Fragment(fragment), full)
    }

    fn submit(&mut self, target: Target, block: Block) -> Result<()> {
        while self.workers.is_full() {
            self.write_next()?;
        }
        self.workers.submit(target, block)
    }

    /// Waits for the oldest block and writes it; `false` when there was none.
    fn write_next(&mut self) -> Result<bool> {
        let Some((target, block)) = self.workers.next()? else {
            return Ok(false);
        };
        let start = self.out.position;
        let size = block.stored().len() as u32 | if block.is_compressed { 0 } else { DATA_RAW };
        self.out.write(block.stored())?;
        match (self.cache, &block.unknown) {
            (Some(cache), Some(key)) => {
                cache.put(key, block.is_compressed.then(|| block.stored()))?;
                self.new_blocks += 1;
            }
            (None, _) => self.new_blocks += 1,
            _ => {}
        }
        self.workers.recycle(block);
        match target {
            Target::Fragment(number) => self.fragments[number] = Fragment { start, size },
            Target::Data { file, index } => {
                let data = &mut self.files[file];
                data.blocks[index] = size;
                if data.start == 0 {
                    data.start = start;
                }
            }
        }
        Ok(true)
    }

    /// Writes what is still under way.
    ///
    /// # Errors
    /// As [`DataWriter::store`].
    pub fn finish(mut self) -> Result<Stored<W>> {
        self.close_fragment()?;
        while self.write_next()? {}
        let DataWriter { out, files, fragments, duplicates, new_blocks, .. } = self;
        Ok(Stored { out, files, fragments, duplicates, new_blocks })
    }
}

/// BLAKE3, which costs a tenth of SHA-256 without hardware help; it never leaves this process.
fn digest(content: &Content) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let mut source = Source::open(content)?;
    let mut chunk = Vec::new();
    while source.left > 0 {
        chunk.clear();
        source.fill(&mut chunk, 128 << 10)?;
        hasher.update(&chunk);
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Whether every byte is zero; real data says no at its first bytes.
fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<16>();
    chunks.iter().all(|c| u128::from_ne_bytes(*c) == 0) && rest.iter().all(|&b| b == 0)
}

/// Content read block by block, able to jump over holes of the host's file.
struct Source<'c> {
    content: &'c Content,
    reader: ContentReader,
    /// Bytes not yet read.
    left: u64,
    /// Bytes read ahead of the first block.
    first: Vec<u8>,
}

impl<'c> Source<'c> {
    fn open(content: &'c Content) -> Result<Source<'c>> {
        Ok(Source { content, reader: content.open()?, left: content.len(), first: Vec::new() })
    }

    /// Reads the first block already; the next [`Source::fill`] returns it.
    fn fill_first(&mut self, size: usize) -> Result<()> {
        let mut first = Vec::new();
        self.fill(&mut first, size)?;
        self.first = first;
        Ok(())
    }

    /// Appends the next `size` bytes, or all that are left.
    fn fill(&mut self, block: &mut Vec<u8>, size: usize) -> Result<()> {
        if !self.first.is_empty() {
            block.append(&mut self.first);
            return Ok(());
        }
        let want = self.left.min(size as u64);
        block.reserve_exact(want as usize);
        let got = (&mut self.reader)
            .take(want)
            .read_to_end(block)
            .with_context(|| format!("reading {}", self.content))?;
        ensure!(got as u64 == want, "reading {}: it ended early", self.content);
        self.left -= want;
        Ok(())
    }

    /// After a block of zeros: skips whole further blocks that the host's file
    /// system knows to be a hole, and returns their bytes. The last, partial
    /// block counts when the hole reaches the end.
    fn skip_hole(&mut self, block_size: u64) -> Result<u64> {
        let ContentReader::Slice { file, position, end } = &mut self.reader else {
            return Ok(0);
        };
        let data = next_data(file, *position).unwrap_or(*position).clamp(*position, *end);
        let mut skip = data - *position;
        if data < *end {
            skip -= skip % block_size;
        }
        *position += skip;
        self.left -= skip;
        Ok(skip)
    }
}

/// Where data follows at or after `position`; `None` when the file system cannot tell.
fn next_data(file: &File, position: u64) -> Option<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(position)) {
        Ok(data) => Some(data),
        // No data up to the end of the file, which may be nearer than it should be.
        Err(rustix::io::Errno::NXIO) => file.metadata().ok().map(|m| m.len()),
        Err(_) => None,
    }
}
