//! Compressed files of an EROFS image (Linux, fs/erofs/zmap.c): which blocks
//! hold which bytes. LZ4 alone is unpacked.
//!
//! A file is cut into logical clusters of a block. Where a physical cluster's
//! content begins in one, its index is a *head*, with the place in the logical
//! cluster; the others, *non-heads*, say how far away the head is, the first one
//! behind a head perhaps how many blocks the physical cluster has. Compact
//! indexes stand in packs of two (4 bytes each) or sixteen (2 bytes each), which
//! end in the block that the pack's first head has, less one.

use anyhow::{Context, Result, bail, ensure};

use super::inode::{Inode, Layout};
use super::read::Reader;
use crate::format::field::{u16_at, u32_at};

const HEADER: u64 = 8;
/// Bits of `h_advise`.
const SHORT_INDEXES: u16 = 0x01;
const BIG_CLUSTERS: u16 = 0x02 | 0x04;
const INLINE_TAIL: u16 = 0x08;
const INTERLACED: u16 = 0x10;
const FRAGMENT: u16 = 0x20;
/// Kinds of index.
const PLAIN: u8 = 0;
const NON_HEAD: u8 = 2;
/// In a non-head's distance: it is a number of blocks instead.
const IS_BLOCKS: u32 = 1 << 11;
/// No physical cluster is larger, nor any content of one (bytes).
const MAX_CLUSTER: u64 = 1 << 20;
const MAX_EXTENT: u64 = 16 << 20;

/// One index, decoded.
#[derive(Clone, Copy, Debug)]
struct Index {
    kind: u8,
    /// Bytes from the start of the logical cluster, of a head.
    offset: u64,
    /// First block, of a head.
    block: u64,
    /// Blocks of the head before it, of the first non-head, if it says so.
    blocks: Option<u64>,
    /// Where the pack of indexes ends, bytes from the start of the image.
    end: u64,
}

/// The map of one compressed file.
pub(super) struct Map {
    advice: u16,
    algorithms: u8,
    /// Bytes of the tail that follows the indexes.
    tail: u64,
    bits: u32,
    count: u64,
    size: u64,
    /// Where the indexes begin, bytes from the start of the image.
    start: u64,
    layout: Layout,
}

impl Map {
    pub fn read(image: &Reader, inode: &Inode) -> Result<Map> {
        let at = inode.behind.next_multiple_of(8);
        let mut header = [0; HEADER as usize];
        image.bytes(at, &mut header)?;
        let (advice, bits) = (u16_at(&header, 4), image.block_bits() + u32::from(header[7] & 7));
        if header[7] & 0x80 != 0 || advice & FRAGMENT != 0 {
            bail!("its end is packed with those of others, which is not read");
        }
        ensure!(bits <= 14 || inode.layout == Layout::CompressedFull, "its clusters have 2^{bits} bytes");
        ensure!(bits < 32, "its clusters have 2^{bits} bytes");
        let tail = if advice & INLINE_TAIL != 0 { u16_at(&header, 2).into() } else { 0 };
        let count = inode.size.div_ceil(1 << bits);
        let start = match inode.layout {
            Layout::CompressedFull => at + 2 * HEADER,
            _ => at + HEADER,
        };
        Ok(Map {
            advice,
            algorithms: header[6],
            tail,
            bits,
            count,
            size: inode.size,
            start,
            layout: inode.layout,
        })
    }

    fn index(&self, image: &Reader, number: u64) -> Result<Index> {
        if self.layout == Layout::CompressedFull {
            self.full(image, number)
        } else {
            self.compact(image, number)
        }
    }

    fn full(&self, image: &Reader, number: u64) -> Result<Index> {
        let at = self.start + number * 8;
        let mut bytes = [0; 8];
        image.bytes(at, &mut bytes)?;
        let kind = (u16_at(&bytes, 0) & 3) as u8;
        let distance = u32::from(u16_at(&bytes, 4));
        let blocks =
            (kind == NON_HEAD && distance & IS_BLOCKS != 0).then_some(u64::from(distance & !IS_BLOCKS));
        let (offset, block) = (u16_at(&bytes, 2).into(), u32_at(&bytes, 4).into());
        Ok(Index { kind, offset, block, blocks, end: at + 8 })
    }

    /// Place of the index, and bytes of one in its pack.
    fn place(&self, number: u64) -> (u64, u64) {
        // Packs of sixteen begin at multiples of 32.
        let first = ((32 - self.start % 32) / 4) & 7;
        let short = match self.advice & SHORT_INDEXES != 0 && first < self.count {
            true => (self.count - first) / 16 * 16,
            false => 0,
        };
        match number {
            n if n < first => (self.start + 4 * n, 4),
            n if n < first + short => (self.start + 4 * first + 2 * (n - first), 2),
            n => (self.start + 4 * first + 2 * short + 4 * (n - first - short), 4),
        }
    }

    fn compact(&self, image: &Reader, number: u64) -> Result<Index> {
        let (at, width) = self.place(number);
        let per_pack: u64 = if width == 4 { 2 } else { 16 };
        ensure!(width == 4 || self.bits <= 12, "its indexes are too short for its clusters");
        let length = per_pack * width;
        let pack_start = at / length * length;
        // Bits are read four bytes at a time, so some behind the pack are looked at.
        let mut pack = [0; 36];
        image.bytes(pack_start, &mut pack[..length as usize])?;
        let low_bits = self.bits.max(12);
        let bits_each = (length - 4) * 8 / per_pack;
        let decode = |n: u64| {
            let bit = bits_each * n;
            let value = u32_at(&pack, (bit / 8) as usize) >> (bit % 8);
            ((value >> low_bits & 3) as u8, value & ((1 << low_bits) - 1))
        };
        let place = (at - pack_start) / width;
        let (kind, low) = decode(place);
        let end = pack_start + length;
        let index = Index { kind, offset: low.into(), block: 0, blocks: None, end };
        if kind == NON_HEAD {
            let blocks = (low & IS_BLOCKS != 0).then_some(u64::from(low & !IS_BLOCKS));
            return Ok(Index { blocks, ..index });
        }
        // The block of this head: that of the pack, and the blocks of the heads before it.
        let (mut n, mut before) = (place, 0);
        let is_big = self.advice & BIG_CLUSTERS != 0;
        while n > 0 {
            n -= 1;
            let (kind, low) = decode(n);
            if kind != NON_HEAD {
                before += 1;
            } else if is_big && low & IS_BLOCKS != 0 {
                before += u64::from(low & !IS_BLOCKS);
                // Its head is counted with it.
                n = n.saturating_sub(1);
            } else if is_big {
                ensure!(low > 1, "an index leads nowhere");
                n = n.saturating_sub(u64::from(low) - 2);
            } else {
                let head = n.checked_sub(low.into());
                before += u64::from(head.is_some());
                n = head.unwrap_or(0);
            }
        }
        let first = u64::from(u32_at(&pack, length as usize - 4));
        // Without large clusters the pack's block is that before its first head.
        let block = first + before + u64::from(!is_big);
        Ok(Index { block, ..index })
    }

    /// All bytes of the file.
    pub fn unpack(&self, image: &Reader) -> Result<Vec<u8>> {
        let mut unpacked = Vec::new();
        let mut head: Option<(Index, u64, u64)> = None;
        let mut end = 0;
        for number in 0..self.count {
            let index = self.index(image, number)?;
            end = index.end;
            if index.kind == NON_HEAD {
                if let (Some(blocks), Some((.., count))) = (index.blocks, &mut head) {
                    *count = blocks;
                }
                continue;
            }
            let from = (number << self.bits) + index.offset;
            // A head at the very end only says where the last one ends.
            if from == self.size {
                break;
            }
            if let Some(head) = head.replace((index, from, 1)) {
                self.extent(image, head, from, None, &mut unpacked)?;
            }
        }
        if let Some(head) = head {
            let tail = (self.tail > 0).then_some(end);
            self.extent(image, head, self.size, tail, &mut unpacked)?;
        }
        ensure!(
            unpacked.len() as u64 == self.size,
            "it has {} bytes instead of {}",
            unpacked.len(),
            self.size
        );
        Ok(unpacked)
    }

    /// The bytes from a head to `to`; the last ones may lie at `tail`, behind the indexes.
    fn extent(
        &self,
        image: &Reader,
        (head, from, blocks): (Index, u64, u64),
        to: u64,
        tail: Option<u64>,
        unpacked: &mut Vec<u8>,
    ) -> Result<()> {
        ensure!(from == unpacked.len() as u64, "its clusters do not follow each other");
        let length = to.checked_sub(from).filter(|&length| length <= MAX_EXTENT);
        let length = length.context("a cluster has an impossible length")? as usize;
        let stored = match tail {
            Some(_) => self.tail,
            None => blocks << image.block_bits(),
        };
        ensure!((1..=MAX_CLUSTER).contains(&stored), "a cluster has {stored} bytes");
        let mut packed = vec![0; stored as usize];
        image.bytes(tail.unwrap_or(head.block << image.block_bits()), &mut packed)?;
        if head.kind == PLAIN {
            if self.advice & INTERLACED != 0 && tail.is_none() {
                let block = 1_usize << image.block_bits();
                let places = (from as usize & (block - 1)) % packed.len();
                packed.rotate_left(places);
            }
            unpacked.extend_from_slice(packed.get(..length).context("a cluster is too short")?);
            return Ok(());
        }
        let algorithm = if head.kind == 1 { self.algorithms & 15 } else { self.algorithms >> 4 };
        ensure!(
            algorithm == 0,
            "it is compressed with {}, which is not read",
            super::superblock::compressor(algorithm.into())
        );
        // The padding is in front (feature `0padding`).
        let padding = packed.iter().position(|&b| b != 0).context("a cluster is empty")?;
        let start = unpacked.len();
        unpacked.resize(start + length, 0);
        let found = lz4::block::decompress_to_buffer(
            &packed[padding..],
            Some(i32::try_from(length)?),
            &mut unpacked[start..],
        )
        .context("a cluster is damaged")?;
        ensure!(found == length, "a cluster has {found} bytes instead of {length}");
        Ok(())
    }
}
