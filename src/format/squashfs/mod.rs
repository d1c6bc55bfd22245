//! squashfs 4.0, the format of the live root.
//!
//! The format is the one of the kernel's `fs/squashfs/squashfs_fs.h`; see
//! `layout` for the order of the tables. Written are all file types, hard
//! links, xattrs (`user.`, `trusted.`, `security.`), fragments, sparse blocks,
//! directory indexes and the export table; compressors gzip, xz,
//! zstd, lz4 and lzo. Left out: versions before 4.0, lzma, and POSIX ACLs, for
//! which the format has no place: the kernel's `fs/squashfs/xattr.c` has handlers
//! for those three prefixes only and its superblock never sets `SB_POSIXACL`, and
//! mksquashfs leaves `system.posix_acl_*` out with a warning.

mod block;
mod browse;
mod cache;
mod check;
mod compress;
mod data;
mod directory;
mod image;
mod inode;
mod layout;
mod locate;
mod metadata;
mod read;
mod read_inode;
mod workers;
mod write;
mod xattr;

use std::num::NonZeroUsize;

pub use browse::{Entry, EntryKind, Parameters, Reader, parameters};
pub use cache::BlockCache;
pub use compress::{default_level, levels};
pub use locate::{Located, locate};
pub use read::read;
pub use write::write;

use crate::plan::Compression;
use crate::tree::InodeId;

/// How an image is written.
#[derive(Clone, Copy, Debug)]
pub struct Options<'c> {
    /// Compressor of data and metadata.
    pub compression: Compression,
    /// The compressor's own level, within [`levels`].
    pub level: u32,
    /// Bytes of a data block, a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
    /// Compressing threads; no influence on the result.
    pub jobs: NonZeroUsize,
    /// The superblock's time, seconds since 1970-01-01 UTC, clamped to 32 bits.
    pub timestamp: i64,
    /// Blocks compressed before; no influence on the result.
    pub block_cache: Option<&'c BlockCache>,
    /// Files whose content comes before all other, in this order; a file named
    /// twice counts once, what is no regular file does not count.
    pub first: &'c [InodeId],
}

impl Options<'_> {
    /// 128 KiB blocks at the compressor's default level on every core, time 0.
    pub fn new(compression: Compression) -> Options<'static> {
        Options {
            compression,
            level: default_level(compression),
            block_size: 128 << 10,
            jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            timestamp: 0,
            block_cache: None,
            first: &[],
        }
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    /// Bytes of the image with its padding.
    pub image_size: u64,
    /// Bytes of all different file contents.
    pub content_size: u64,
    /// Inodes.
    pub inodes: u32,
    /// Fragment blocks.
    pub fragments: u32,
    /// Files whose content was already there.
    pub duplicates: u64,
    /// Blocks that had to be compressed; the block cache had the others.
    pub new_blocks: u64,
}
