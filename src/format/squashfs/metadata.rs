//! Metadata: streams of bytes in compressed 8 KiB blocks, and tables made of them.

use std::io::Write;

use anyhow::{Context, Result, ensure};

use super::compress::Codec;
use super::layout::{METADATA_RAW, METADATA_SIZE, MetadataRef};

/// A stream under construction; blocks are compressed as they fill.
pub(super) struct MetadataWriter {
    finished: Vec<u8>,
    current: Vec<u8>,
    scratch: Vec<u8>,
}

impl MetadataWriter {
    pub fn new() -> MetadataWriter {
        MetadataWriter {
            finished: Vec::new(),
            current: Vec::with_capacity(METADATA_SIZE),
            scratch: Vec::new(),
        }
    }

    /// Where the next byte will be.
    pub fn position(&self) -> MetadataRef {
        MetadataRef { start: self.finished.len() as u64, offset: self.current.len() as u16 }
    }

    /// Appends bytes, which may run over the end of a block.
    ///
    /// # Errors
    /// The compressor's.
    pub fn write(&mut self, codec: &mut Codec, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(METADATA_SIZE - self.current.len()));
            self.current.extend_from_slice(now);
            bytes = later;
            if self.current.len() == METADATA_SIZE {
                self.flush(codec)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, codec: &mut Codec) -> Result<()> {
        let is_compressed = codec.compress(&self.current, false, &mut self.scratch)?;
        let (header, bytes) = match is_compressed {
            true => (self.scratch.len() as u16, &self.scratch),
            false => (METADATA_RAW | self.current.len() as u16, &self.current),
        };
        self.finished.extend(header.to_le_bytes());
        self.finished.extend_from_slice(bytes);
        self.current.clear();
        Ok(())
    }

    /// The finished stream.
    ///
    /// # Errors
    /// The compressor's.
    pub fn finish(mut self, codec: &mut Codec) -> Result<Vec<u8>> {
        if !self.current.is_empty() {
            self.flush(codec)?;
        }
        Ok(self.finished)
    }
}

/// A writer that knows how far it is.
pub(super) struct Output<W> {
    inner: W,
    /// Bytes written so far.
    pub position: u64,
}

impl<W: Write> Output<W> {
    pub fn new(inner: W) -> Output<W> {
        Output { inner, position: 0 }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.inner.write_all(bytes).context("writing the squashfs image")?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// The writer underneath.
    pub fn into_inner(self) -> W {
        self.inner
    }

    /// Writes a table: its bytes in metadata blocks, then `header`, then the position of
    /// every block. Returns the position of what follows the blocks.
    ///
    /// # Errors
    /// The writer's and the compressor's.
    pub fn write_table(&mut self, codec: &mut Codec, bytes: &[u8], header: &[u8]) -> Result<u64> {
        let mut positions = Vec::new();
        for chunk in bytes.chunks(METADATA_SIZE) {
            positions.extend(self.position.to_le_bytes());
            let mut block = MetadataWriter::new();
            block.write(codec, chunk)?;
            self.write(&block.finish(codec)?)?;
        }
        let start = self.position;
        self.write(header)?;
        self.write(&positions)?;
        Ok(start)
    }
}

/// Numeric owners and groups, each stored once; inodes hold an index.
#[derive(Default)]
pub(super) struct IdTable {
    ids: Vec<u32>,
    index: std::collections::HashMap<u32, u16>,
}

impl IdTable {
    /// The index of `id`, which is added when new.
    ///
    /// # Errors
    /// When there are more different ids than the superblock can count.
    pub fn index(&mut self, id: u32) -> Result<u16> {
        if let Some(&index) = self.index.get(&id) {
            return Ok(index);
        }
        let index = self.ids.len() as u16;
        ensure!(index < u16::MAX, "squashfs holds at most {} different owners and groups", u16::MAX);
        self.ids.push(id);
        self.index.insert(id, index);
        Ok(index)
    }

    /// Number of ids.
    pub fn count(&self) -> u16 {
        self.ids.len() as u16
    }

    /// The table's bytes.
    pub fn encode(&self) -> Vec<u8> {
        self.ids.iter().flat_map(|id| id.to_le_bytes()).collect()
    }
}
