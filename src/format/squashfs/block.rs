//! A block on its way into an image: raw bytes, or the promise of them.
//!
//! Content with known digests is not read until its compressed block turns out
//! to be unknown; until then its chunks stand for it.

use anyhow::{Context, Result};

use super::cache::Key;
use super::compress::Codec;
use crate::tree::{CHUNK, ChunkDigest, Content, Sealed, chunk_digest};

/// A block to compress, then the block as it will be stored.
#[derive(Default)]
pub(super) struct Block {
    /// The parts that are read, one after the other.
    raw: Vec<u8>,
    parts: Vec<Part>,
    length: usize,
    /// For xz's branch filter.
    pub is_x86_code: bool,
    pub(super) packed: Vec<u8>,
    /// Whether [`Block::stored`] is compressed.
    pub is_compressed: bool,
    /// Set for a block the cache should learn.
    pub unknown: Option<Key>,
}

enum Part {
    /// So many bytes of `raw`.
    Read(usize),
    /// A chunk by its number.
    Unread(Sealed, usize),
}

impl Block {
    /// Empties it for other bytes.
    pub fn clear(&mut self) {
        self.raw.clear();
        self.parts.clear();
        (self.length, self.unknown) = (0, None);
    }

    /// Uncompressed bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Adds bytes.
    pub fn append(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        self.add(Part::Read(bytes.len()), bytes.len());
    }

    /// Adds what `fill` appends to the bytes, and returns its length.
    ///
    /// # Errors
    /// Those of `fill`.
    pub fn append_with(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<usize> {
        let start = self.raw.len();
        fill(&mut self.raw)?;
        let length = self.raw.len() - start;
        self.add(Part::Read(length), length);
        Ok(length)
    }

    /// Adds a chunk, by number, unread.
    pub fn append_unread(&mut self, content: &Sealed, n: usize) {
        self.add(Part::Unread(content.clone(), n), content.chunk_len(n));
    }

    fn add(&mut self, part: Part, length: usize) {
        self.parts.push(part);
        self.length += length;
    }

    /// What is read of it; all, unless something was added unread.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Length and digest of each chunk of each part.
    pub fn digests(&self) -> impl Iterator<Item = (usize, ChunkDigest)> {
        let mut rest = &self.raw[..];
        self.parts.iter().flat_map(move |part| match part {
            Part::Read(length) => {
                let (bytes, more) = rest.split_at(*length);
                rest = more;
                bytes.chunks(CHUNK).map(|chunk| (chunk.len(), chunk_digest(chunk))).collect::<Vec<_>>()
            }
            Part::Unread(content, n) => vec![(content.chunk_len(*n), content.digests()[*n])],
        })
    }

    /// Reads what is unread, each chunk compared with its digest.
    ///
    /// # Errors
    /// Unreadable or damaged content.
    pub fn load(&mut self) -> Result<()> {
        if self.raw.len() == self.length {
            return Ok(());
        }
        let mut raw = Vec::with_capacity(self.length);
        let mut rest = &self.raw[..];
        for part in &self.parts {
            match part {
                Part::Read(length) => {
                    let (bytes, more) = rest.split_at(*length);
                    raw.extend_from_slice(bytes);
                    rest = more;
                }
                Part::Unread(content, n) => content
                    .append_chunk(*n, &mut raw)
                    .with_context(|| format!("reading {}", Content::Sealed(content.clone())))?,
            }
        }
        self.parts = vec![Part::Read(raw.len())];
        self.raw = raw;
        Ok(())
    }

    /// Loads and compresses it.
    ///
    /// # Errors
    /// As [`Block::load`], and the compressor's.
    pub fn compress(&mut self, codec: &mut Codec) -> Result<()> {
        self.load()?;
        self.is_compressed = codec.compress(&self.raw, self.is_x86_code, &mut self.packed)?;
        Ok(())
    }

    /// What goes into the image, once it is loaded or compressed.
    pub fn stored(&self) -> &[u8] {
        if self.is_compressed { &self.packed } else { &self.raw }
    }
}
