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

use super::block::Block;
use super::cache::BlockCache;
use super::compress::is_x86_code;
use super::layout::DATA_RAW;
use super::metadata::Output;
use super::workers::Workers;
use crate::tree::{CHUNK, ChunkDigest, Content, ContentReader, Sealed, ZEROS, chunk_digest, is_zero};

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
        if let (Content::Sealed(sealed), true) = (content, self.block_size.is_multiple_of(CHUNK)) {
            let key = (sealed.len(), combined(sealed.digests().iter().copied()));
            return self.once(may_repeat.then_some(key), |data| data.store_unread(sealed));
        }
        let mut source = Source::open(content)?;
        if !may_repeat {
            return self.store_read(source);
        }
        // What fits one block is read once, anything larger twice.
        let digest = match content.len() <= self.block_size as u64 {
            true => {
                source.fill_first(self.block_size)?;
                combined(source.first.chunks(CHUNK).map(chunk_digest))
            }
            false => digest(content)?,
        };
        self.once(Some((content.len(), digest)), |data| data.store_read(source))
    }

    /// Stores a content unless one with this key is there already.
    fn once(
        &mut self,
        key: Option<(u64, [u8; 32])>,
        store: impl FnOnce(&mut Self) -> Result<usize>,
    ) -> Result<usize> {
        if let Some(&known) = key.as_ref().and_then(|key| self.by_digest.get(key)) {
            self.duplicates += 1;
            return Ok(known);
        }
        let number = store(self)?;
        self.by_digest.extend(key.map(|key| (key, number)));
        Ok(number)
    }

    fn store_read(&mut self, mut source: Source<'_>) -> Result<usize> {
        let (file, length) = (self.files.len(), source.content.len());
        self.files.push(FileData { length, ..FileData::default() });
        let mut is_code = false;
        let mut left = length;
        while left > 0 {
            let mut block = self.workers.block();
            block.append_with(|raw| source.fill(raw, self.block_size))?;
            if left == length {
                is_code = self.filters_code && is_x86_code(block.raw());
            }
            left -= block.len() as u64;
            if is_zero(block.raw()) {
                let hole = source.skip_hole(self.block_size as u64)?;
                left -= hole;
                self.add_zeros(file, block.len() as u64 + hole);
                self.workers.recycle(block);
            } else if block.len() == self.block_size {
                block.is_x86_code = is_code;
                self.add_block(file, block)?;
            } else {
                let at = self.place_in_fragment(block.len())?;
                self.fragment.append(block.raw());
                self.files[file].tail = Some(at);
                self.workers.recycle(block);
            }
        }
        Ok(file)
    }

    /// The same without reading: digests stand for the bytes.
    fn store_unread(&mut self, content: &Sealed) -> Result<usize> {
        let file = self.files.len();
        self.files.push(FileData { length: content.len(), ..FileData::default() });
        // Only full blocks are filtered.
        let is_code = self.filters_code && content.len() >= self.block_size as u64 && {
            let mut head = Vec::new();
            let read = content.append_chunk(0, &mut head);
            read.with_context(|| format!("reading {}", Content::Sealed(content.clone())))?;
            is_x86_code(&head)
        };
        let a_block = self.block_size / CHUNK;
        for (n, digests) in content.digests().chunks(a_block).enumerate() {
            let chunks = n * a_block..n * a_block + digests.len();
            let length: usize = chunks.clone().map(|n| content.chunk_len(n)).sum();
            if digests.iter().all(|digest| *digest == ZEROS) {
                self.add_zeros(file, length as u64);
            } else if length == self.block_size {
                let mut block = self.workers.block();
                chunks.for_each(|n| block.append_unread(content, n));
                block.is_x86_code = is_code;
                self.add_block(file, block)?;
            } else {
                self.files[file].tail = Some(self.place_in_fragment(length)?);
                chunks.for_each(|n| self.fragment.append_unread(content, n));
            }
        }
        Ok(file)
    }

    /// Zeros of a file take no space.
    fn add_zeros(&mut self, file: usize, length: u64) {
        let data = &mut self.files[file];
        data.sparse += length;
        let blocks = length.div_ceil(self.block_size as u64) as usize;
        data.blocks.resize(data.blocks.len() + blocks, 0);
    }

    fn add_block(&mut self, file: usize, block: Block) -> Result<()> {
        let index = self.files[file].blocks.len();
        self.files[file].blocks.push(0);
        self.submit(Target::Data { file, index }, block)
    }

    /// Where the next tail, of this length, begins.
    fn place_in_fragment(&mut self, length: usize) -> Result<(u32, u32)> {
        if self.fragment.len() + length > self.block_size {
            self.flush_fragment()?;
        }
        Ok((self.fragments.len() as u32, self.fragment.len() as u32))
    }

    /// Tails that come later do not share a fragment block with those before.
    ///
    /// # Errors
    /// As [`DataWriter::store`].
    pub fn close_fragment(&mut self) -> Result<()> {
        if self.fragment.len() == 0 { Ok(()) } else { self.flush_fragment() }
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

/// One digest of a content from those of its chunks; it never leaves this process.
fn combined(digests: impl Iterator<Item = ChunkDigest>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for digest in digests {
        hasher.update(&digest);
    }
    *hasher.finalize().as_bytes()
}

/// The same of content that has no digests.
fn digest(content: &Content) -> Result<[u8; 32]> {
    if let Content::Sealed(sealed) = content {
        return Ok(combined(sealed.digests().iter().copied()));
    }
    let mut source = Source::open(content)?;
    let mut digests = Vec::new();
    let mut chunk = Vec::new();
    while source.left > 0 {
        chunk.clear();
        source.fill(&mut chunk, CHUNK)?;
        digests.push(chunk_digest(&chunk));
    }
    Ok(combined(digests.into_iter()))
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
