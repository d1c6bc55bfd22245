//! On-disk structures of squashfs 4.0; every integer is little-endian.
//!
//! ```text
//! superblock (96) · compressor options · data and fragment blocks · inode table · directory table
//! · fragment table · export table · id table · xattr table · padding to 4 KiB
//! ```
//! Tables lie in this order with nothing between them: the kernel checks that
//! each list of block positions ends where the next table begins. Reference:
//! the kernel's `fs/squashfs/squashfs_fs.h`.

use anyhow::{Result, ensure};

use crate::plan::Compression;

/// `hsqs`, the first four bytes.
pub(super) const MAGIC: u32 = 0x7371_7368;
/// Bytes of the superblock.
pub(super) const SUPERBLOCK_SIZE: usize = 96;
/// Uncompressed bytes of a metadata block.
pub(super) const METADATA_SIZE: usize = 8192;
/// In a metadata block's header: the block is stored uncompressed.
pub(super) const METADATA_RAW: u16 = 1 << 15;
/// In a data block's size: the block is stored uncompressed.
pub(super) const DATA_RAW: u32 = 1 << 24;
/// The position of a table that is not there.
pub(super) const NO_TABLE: u64 = u64::MAX;
/// An inode without fragment, and an inode without xattrs.
pub(super) const NONE: u32 = u32::MAX;
/// The image's size on disk is a multiple of this, for loop devices.
pub(super) const PADDING: u64 = 4096;
/// Entries one directory header can announce.
pub(super) const MAX_GROUP: usize = 256;
/// A listing's size in its inode counts `.` and `..` as three bytes.
pub(super) const LISTING_EXTRA: u32 = 3;
/// Smallest and largest data block.
pub(super) const BLOCK_SIZES: std::ops::RangeInclusive<u32> = 4096..=1 << 20;
/// Major device numbers take 12 bits, minor ones 20.
pub(super) const MAX_MAJOR: u32 = 0xfff;
/// See [`MAX_MAJOR`].
pub(super) const MAX_MINOR: u32 = 0xf_ffff;

/// Superblock flags.
pub(super) mod flag {
    /// Duplicate files are stored once.
    pub(in super::super) const DUPLICATES: u16 = 0x40;
    /// The export table is present.
    pub(in super::super) const EXPORTABLE: u16 = 0x80;
    /// There are no xattrs.
    pub(in super::super) const NO_XATTRS: u16 = 0x200;
    /// A block of compressor options follows the superblock.
    pub(in super::super) const COMPRESSOR_OPTIONS: u16 = 0x400;
}

/// Inode types; the extended form is the basic one plus [`inode_type::EXTENDED`].
pub(super) mod inode_type {
    /// Directory.
    pub(in super::super) const DIRECTORY: u16 = 1;
    /// Regular file.
    pub(in super::super) const FILE: u16 = 2;
    /// Symbolic link.
    pub(in super::super) const SYMLINK: u16 = 3;
    /// Block device.
    pub(in super::super) const BLOCK_DEVICE: u16 = 4;
    /// Character device.
    pub(in super::super) const CHAR_DEVICE: u16 = 5;
    /// Named pipe.
    pub(in super::super) const FIFO: u16 = 6;
    /// Unix socket.
    pub(in super::super) const SOCKET: u16 = 7;
    /// Distance from a basic type to its extended form.
    pub(in super::super) const EXTENDED: u16 = 7;
}

/// Prefixes of xattr names by their number on disk.
pub(super) const XATTR_PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
/// In an xattr's type: the value is a reference to where it really is.
pub(super) const XATTR_OUT_OF_LINE: u16 = 0x100;

/// A place in a table: start of a compressed metadata block, relative to the table, and offset once uncompressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MetadataRef {
    /// Byte position of the metadata block.
    pub start: u64,
    /// Byte offset inside the uncompressed block, below [`METADATA_SIZE`].
    pub offset: u16,
}

impl MetadataRef {
    /// 48 bits of position, 16 of offset.
    pub fn packed(self) -> u64 {
        self.start << 16 | u64::from(self.offset)
    }

    /// The inverse of [`MetadataRef::packed`].
    pub fn unpacked(word: u64) -> MetadataRef {
        MetadataRef { start: word >> 16, offset: word as u16 }
    }
}

/// The superblock's number for a compressor.
pub(super) fn compressor_id(compression: Compression) -> u16 {
    match compression {
        Compression::Gzip => 1,
        Compression::Lzo => 3,
        Compression::Xz => 4,
        Compression::Lz4 => 5,
        Compression::Zstd => 6,
    }
}

/// The compressor with this number, if we have it.
pub(super) fn compressor_from_id(id: u16) -> Option<Compression> {
    use Compression::{Gzip, Lz4, Lzo, Xz, Zstd};
    [Gzip, Lzo, Xz, Lz4, Zstd].into_iter().find(|&c| compressor_id(c) == id)
}

/// The first 96 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub inode_count: u32,
    /// Seconds since 1970-01-01 UTC.
    pub mkfs_time: u32,
    pub block_size: u32,
    pub fragment_count: u32,
    pub compressor: u16,
    pub flags: u16,
    pub id_count: u16,
    pub root: MetadataRef,
    /// Bytes of the image without padding.
    pub bytes_used: u64,
    pub id_table: u64,
    pub xattr_table: u64,
    pub inode_table: u64,
    pub directory_table: u64,
    pub fragment_table: u64,
    pub export_table: u64,
}

impl Superblock {
    /// The bytes on disk.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SUPERBLOCK_SIZE);
        for word in [MAGIC, self.inode_count, self.mkfs_time, self.block_size, self.fragment_count] {
            out.extend(word.to_le_bytes());
        }
        let block_log = self.block_size.trailing_zeros() as u16;
        for half in [self.compressor, block_log, self.flags, self.id_count, 4, 0] {
            out.extend(half.to_le_bytes());
        }
        for long in [
            self.root.packed(),
            self.bytes_used,
            self.id_table,
            self.xattr_table,
            self.inode_table,
            self.directory_table,
            self.fragment_table,
            self.export_table,
        ] {
            out.extend(long.to_le_bytes());
        }
        out
    }

    /// Reads and checks what can be checked without the rest of the image.
    ///
    /// # Errors
    /// Another format or version, a block size that is none.
    pub fn decode(bytes: &[u8; SUPERBLOCK_SIZE]) -> Result<Superblock> {
        let mut fields = Fields { rest: bytes };
        ensure!(fields.u32()? == MAGIC, "not a squashfs image: the magic number is wrong");
        let (inode_count, mkfs_time) = (fields.u32()?, fields.u32()?);
        let (block_size, fragment_count) = (fields.u32()?, fields.u32()?);
        let (compressor, block_log) = (fields.u16()?, fields.u16()?);
        let (flags, id_count) = (fields.u16()?, fields.u16()?);
        let (major, minor) = (fields.u16()?, fields.u16()?);
        ensure!((major, minor) == (4, 0), "squashfs version {major}.{minor}; only 4.0 is supported");
        ensure!(
            BLOCK_SIZES.contains(&block_size)
                && block_size.is_power_of_two()
                && block_size.trailing_zeros() == u32::from(block_log),
            "block size {block_size} (2^{block_log}) is not valid"
        );
        Ok(Superblock {
            inode_count,
            mkfs_time,
            block_size,
            fragment_count,
            compressor,
            flags,
            id_count,
            root: MetadataRef::unpacked(fields.u64()?),
            bytes_used: fields.u64()?,
            id_table: fields.u64()?,
            xattr_table: fields.u64()?,
            inode_table: fields.u64()?,
            directory_table: fields.u64()?,
            fragment_table: fields.u64()?,
            export_table: fields.u64()?,
        })
    }
}

/// Little-endian fields off the front of a slice.
pub(super) struct Fields<'b> {
    /// What has not been read.
    pub rest: &'b [u8],
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, tail) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| anyhow::anyhow!("a structure is cut off: {N} more bytes are needed"))?;
        self.rest = tail;
        Ok(*head)
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.take()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_survives_the_round_trip() {
        let superblock = Superblock {
            inode_count: 1,
            mkfs_time: 2,
            block_size: 1 << 17,
            fragment_count: 3,
            compressor: 6,
            flags: flag::EXPORTABLE,
            id_count: 4,
            root: MetadataRef { start: 5, offset: 6 },
            bytes_used: 7,
            id_table: 8,
            xattr_table: NO_TABLE,
            inode_table: 9,
            directory_table: 10,
            fragment_table: 11,
            export_table: 12,
        };
        let bytes: [u8; SUPERBLOCK_SIZE] = superblock.encode().try_into().unwrap();
        assert_eq!(Superblock::decode(&bytes).unwrap(), superblock);
        for (at, value, reason) in [
            (0, 0, "not a squashfs image: the magic number is wrong"),
            (12, 1, "block size 131073 (2^17) is not valid"),
            (28, 3, "squashfs version 3.0; only 4.0 is supported"),
        ] {
            let mut damaged = bytes;
            damaged[at] = value;
            assert_eq!(Superblock::decode(&damaged).unwrap_err().to_string(), reason);
        }
    }
}
