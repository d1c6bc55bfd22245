//! Inodes of an EROFS image (Linux, fs/erofs/erofs_fs.h).
//!
//! ```text
//! compact (32 bytes)                       extended (64 bytes)
//!  0 format: bit 0 extended, 1-3 layout     0 the same
//!  2 shared and inline xattrs               2 the same
//!  4 mode (2)                               4 mode (2)
//!  8 size (4)                               8 size (8)
//! 16 block of the data, device, chunks     16 the same
//! 24 owner (2)      26 group (2)           24 owner (4)      28 group (4)
//! ```

use anyhow::{Context, Result, bail};

use super::read::Reader;
use crate::format::field::{u16_at, u32_at, u64_at};

/// Inodes begin at multiples of this (bytes).
const SLOT: u64 = 32;
const EXTENDED: usize = 64;
const XATTR_HEADER: u64 = 12;

/// How a file's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// From a block on.
    Plain,
    /// The same, but for the last piece, which follows the inode.
    Inline,
    /// Compressed, with one index of 8 bytes a logical cluster.
    CompressedFull,
    /// Compressed, with indexes of 2 and 4 bytes.
    CompressedCompact,
}

/// One inode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inode {
    /// `st_mode`.
    pub mode: u16,
    pub size: u64,
    pub owner: (u32, u32),
    pub layout: Layout,
    /// First block of plain data.
    pub block: u32,
    /// Bytes from the start of the image to what follows inode and xattrs.
    pub behind: u64,
}

impl Inode {
    /// Reads inode number `nid`.
    ///
    /// # Errors
    /// A place outside the image, a layout we do not read.
    pub fn read(image: &Reader, nid: u64) -> Result<Inode> {
        let at = nid.checked_mul(SLOT).and_then(|at| at.checked_add(image.inodes()));
        let at = at.context("an inode lies beyond any image")?;
        let mut bytes = [0; EXTENDED];
        image.bytes(at, &mut bytes[..SLOT as usize])?;
        let format = u16_at(&bytes, 0);
        let is_extended = format & 1 == 1;
        if is_extended {
            image.bytes(at, &mut bytes)?;
        }
        let layout = match format >> 1 & 7 {
            0 => Layout::Plain,
            1 => Layout::CompressedFull,
            2 => Layout::Inline,
            3 => Layout::CompressedCompact,
            4 => bail!("its data is in chunks, which are not read"),
            other => bail!("its data has layout {other}, which is not known"),
        };
        let xattrs = match u64::from(u16_at(&bytes, 2)) {
            0 => 0,
            count => XATTR_HEADER + (count - 1) * 4,
        };
        let length = if is_extended { EXTENDED as u64 } else { SLOT };
        let (size, owner) = match is_extended {
            true => (u64_at(&bytes, 8), (u32_at(&bytes, 24), u32_at(&bytes, 28))),
            false => (u32_at(&bytes, 8).into(), (u16_at(&bytes, 24).into(), u16_at(&bytes, 26).into())),
        };
        let (mode, block) = (u16_at(&bytes, 4), u32_at(&bytes, 16));
        Ok(Inode { mode, size, owner, layout, block, behind: at + length + xattrs })
    }

    pub fn is_directory(&self) -> bool {
        self.mode & 0o170000 == 0o040000
    }

    pub fn is_file(&self) -> bool {
        self.mode & 0o170000 == 0o100000
    }
}
