//! An image as a file: checked superblock, metadata blocks and tables on demand.
//!
//! Nothing is believed: positions are checked against the file, and every
//! allocation is bounded by the format or charged to a budget.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};

use super::compress::uncompress;
use super::data::Fragment;
use super::layout::{
    DATA_RAW, Fields, METADATA_RAW, METADATA_SIZE, MetadataRef, NO_TABLE, SUPERBLOCK_SIZE, Superblock,
    compressor_from_id,
};
use crate::plan::Compression;

/// Uncompressed metadata blocks kept at hand: 2 MiB.
const KEPT_BLOCKS: usize = 256;
/// Memory a tree read from an image may take (bytes).
const BUDGET: u64 = 1 << 30;

/// An uncompressed block, and the position of the one behind it.
type MetadataBlock = (Rc<[u8]>, u64);

/// An open image.
pub(super) struct Image {
    file: File,
    /// Where the image begins in the file.
    start: u64,
    pub superblock: Superblock,
    compression: Compression,
    /// Metadata blocks by position.
    kept: RefCell<HashMap<u64, MetadataBlock>>,
    budget: Cell<u64>,
}

impl Image {
    /// Opens an image and checks its superblock.
    ///
    /// # Errors
    /// What is no squashfs 4.0 image, uses a compressor we lack, or is cut off.
    pub fn open(path: &Path) -> Result<Image> {
        let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
        let size = file.metadata().with_context(|| format!("reading {}", path.display()))?.len();
        Image::open_part(file, 0, size)
    }

    /// The same for an image that has `size` bytes at `start` of a file.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_part(file: File, start: u64, size: u64) -> Result<Image> {
        let mut bytes = [0; SUPERBLOCK_SIZE];
        ensure!(size >= SUPERBLOCK_SIZE as u64, "not a squashfs image: it has only {size} bytes");
        file.read_exact_at(&mut bytes, start).context("reading the superblock")?;
        let superblock = Superblock::decode(&bytes)?;
        let number = superblock.compressor;
        let compression = compressor_from_id(number)
            .with_context(|| format!("compressor {number} is none of gzip, xz, zstd, lz4 and lzo"))?;
        let used = superblock.bytes_used;
        ensure!(used <= size, "the image is cut off: it should have {used} bytes and has {size}");
        ensure!(
            superblock.inode_table < superblock.directory_table && superblock.directory_table <= used,
            "the inode and directory tables are not where they can be"
        );
        Ok(Image {
            file,
            start,
            superblock,
            compression,
            kept: RefCell::default(),
            budget: Cell::new(BUDGET),
        })
    }

    /// Accounts for memory that the image asks for.
    ///
    /// # Errors
    /// When it asks for too much.
    pub fn charge(&self, bytes: usize) -> Result<()> {
        let left = self.budget.get().checked_sub(bytes as u64);
        self.budget.set(left.context("the image describes more files than can be held in memory")?);
        Ok(())
    }

    fn read_at(&self, position: u64, bytes: &mut [u8]) -> Result<()> {
        let end = position.checked_add(bytes.len() as u64);
        ensure!(end.is_some_and(|end| end <= self.superblock.bytes_used), "position {position} is outside");
        let place = self.start.checked_add(position).context("a position is outside any file")?;
        self.file.read_exact_at(bytes, place).with_context(|| format!("reading at {position}"))
    }

    /// The metadata block at `position`, uncompressed, and the position of the next.
    fn metadata_block(&self, position: u64) -> Result<MetadataBlock> {
        if let Some(kept) = self.kept.borrow().get(&position) {
            return Ok(kept.clone());
        }
        let mut header = [0; 2];
        self.read_at(position, &mut header)?;
        let header = u16::from_le_bytes(header);
        let size = usize::from(header & !METADATA_RAW);
        ensure!((1..=METADATA_SIZE).contains(&size), "the metadata block at {position} has {size} bytes");
        let mut bytes = vec![0; size];
        self.read_at(position + 2, &mut bytes)?;
        if header & METADATA_RAW == 0 {
            let mut raw = vec![0; METADATA_SIZE];
            let length = uncompress(self.compression, &bytes, &mut raw)
                .with_context(|| format!("in the metadata block at {position}"))?;
            raw.truncate(length);
            bytes = raw;
        }
        let block = (Rc::from(bytes), position + 2 + size as u64);
        let mut kept = self.kept.borrow_mut();
        if kept.len() >= KEPT_BLOCKS {
            kept.clear();
        }
        kept.insert(position, block.clone());
        Ok(block)
    }

    /// Reads metadata from a place relative to the start of a table.
    ///
    /// # Errors
    /// A place outside the image.
    pub fn cursor(&self, table: u64, at: MetadataRef) -> Result<Cursor<'_>> {
        let position = table.checked_add(at.start).context("a reference is outside the image")?;
        let (block, next) = self.metadata_block(position)?;
        ensure!(usize::from(at.offset) <= block.len(), "offset {} is outside its metadata block", at.offset);
        Ok(Cursor { image: self, block, next, offset: usize::from(at.offset) })
    }

    /// Entry `index` of a table whose list of block positions is at `list`.
    fn table_entry<const N: usize>(&self, list: u64, index: u32) -> Result<[u8; N]> {
        let byte = u64::from(index) * N as u64;
        let (block, offset) = (byte / METADATA_SIZE as u64, byte % METADATA_SIZE as u64);
        let mut position = [0; 8];
        self.read_at(list.checked_add(8 * block).context("a table is outside the image")?, &mut position)?;
        let at = MetadataRef { start: 0, offset: offset as u16 };
        self.cursor(u64::from_le_bytes(position), at)?.array()
    }

    /// An owner or group by its index.
    ///
    /// # Errors
    /// An index that is not in the table.
    pub fn id(&self, index: u16) -> Result<u32> {
        ensure!(index < self.superblock.id_count, "owner {index} is not in the id table");
        Ok(u32::from_le_bytes(self.table_entry(self.superblock.id_table, u32::from(index))?))
    }

    /// A fragment block by its index.
    ///
    /// # Errors
    /// An index that is not in the table.
    pub fn fragment(&self, index: u32) -> Result<Fragment> {
        ensure!(index < self.superblock.fragment_count, "fragment {index} is not in the fragment table");
        let entry = self.table_entry::<16>(self.superblock.fragment_table, index)?;
        let mut fields = Fields { rest: &entry };
        Ok(Fragment { start: fields.u64()?, size: fields.u32()? })
    }

    /// Set `index` of xattrs: where its pairs start, and how many there are.
    ///
    /// # Errors
    /// An index that is not in the table.
    pub fn xattrs(&self, index: u32) -> Result<(u64, MetadataRef, u32)> {
        let table = self.superblock.xattr_table;
        ensure!(table != NO_TABLE, "xattr set {index} is asked for, but there are no xattrs");
        let mut header = [0; 16];
        self.read_at(table, &mut header)?;
        let mut fields = Fields { rest: &header };
        let (pairs, count) = (fields.u64()?, fields.u32()?);
        ensure!(index < count, "xattr set {index} is not in the xattr table");
        let entry = self.table_entry::<16>(table + 16, index)?;
        let mut fields = Fields { rest: &entry };
        Ok((pairs, MetadataRef::unpacked(fields.u64()?), fields.u32()?))
    }

    /// A data or fragment block of at most `raw.len()` bytes; returns its length.
    ///
    /// # Errors
    /// A block outside the image, damaged or too large.
    pub fn data_block(&self, position: u64, size: u32, raw: &mut [u8]) -> Result<usize> {
        let length = (size & !DATA_RAW) as usize;
        ensure!(length <= raw.len(), "the data block at {position} is too large: {length} bytes");
        if size & DATA_RAW != 0 {
            self.read_at(position, &mut raw[..length])?;
            return Ok(length);
        }
        let mut packed = vec![0; length];
        self.read_at(position, &mut packed)?;
        uncompress(self.compression, &packed, raw).with_context(|| format!("in the data block at {position}"))
    }
}

/// A place in a stream of metadata blocks.
pub(super) struct Cursor<'i> {
    pub image: &'i Image,
    block: Rc<[u8]>,
    next: u64,
    offset: usize,
}

impl Cursor<'_> {
    fn read(&mut self, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            if self.offset == self.block.len() {
                (self.block, self.next) = self.image.metadata_block(self.next)?;
                self.offset = 0;
            }
            let n = out.len().min(self.block.len() - self.offset);
            let (now, later) = out.split_at_mut(n);
            now.copy_from_slice(&self.block[self.offset..self.offset + n]);
            self.offset += n;
            out = later;
        }
        Ok(())
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Bytes whose number the image states, charged before they are allocated.
    pub fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        self.image.charge(length)?;
        let mut bytes = vec![0; length];
        self.read(&mut bytes)?;
        Ok(bytes)
    }
}
