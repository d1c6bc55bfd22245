//! The plan's part about the root tree and its image.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::DescriptionEntry;

/// How the root tree is made and written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Root {
    /// Whether maintainer scripts run.
    pub mode: RootMode,
    /// Path patterns (globs against `/path`) removed after the packages, before the overlays.
    pub exclude: Vec<String>,
    /// Files that gen_init_cpio's description lays over the overlays, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub description: Vec<DescriptionEntry>,
    /// Owner and mode by path, archiso's `file_permissions`.
    pub file_permissions: BTreeMap<String, FilePermission>,
    /// The image.
    pub image: RootImage,
    /// Paths (`/usr/bin/busybox`) whose content comes first in the image, in the
    /// order in which a boot reads them; those that do not exist do not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub boot_order: Vec<String>,
    /// Whether the image carries a hash tree, by which the kernel checks every block it reads.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verity: bool,
}

/// How packages become files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootMode {
    /// mmdebstrap in an unshared user namespace: maintainer scripts run.
    Configured,
    /// Packages are read straight into the tree; no script runs.
    Unpacked,
}

/// Owner and mode of one path; `recursive` for paths written with a trailing slash.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FilePermission {
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// The twelve permission bits.
    pub mode: u16,
    /// Applies to everything below as well.
    pub recursive: bool,
}

/// The root image's format.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RootImage {
    /// The file system.
    #[serde(default)]
    pub format: RootFormat,
    /// `gzip`, `xz`, `zstd`, `lz4`, `lzo`; of EROFS only `lz4`.
    pub compression: Compression,
    /// Compressor level; its meaning is the compressor's own.
    pub level: u32,
    /// Bytes per data block, of EROFS per compressed cluster; a power of two from 4 KiB to 1 MiB.
    pub block_size: u32,
}

/// File systems a root image may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootFormat {
    /// squashfs 4.0.
    #[default]
    Squashfs,
    /// EROFS with LZ4.
    Erofs,
}

impl RootFormat {
    /// The image's name on the medium, archiso's words; /init tells the file system by its ending.
    pub fn file_name(self) -> &'static str {
        match self {
            RootFormat::Squashfs => "airootfs.sfs",
            RootFormat::Erofs => "airootfs.erofs",
        }
    }
}

/// Compressors the kernels we ship can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// DEFLATE in a zlib wrapper.
    Gzip,
    /// LZMA2 in .xz.
    Xz,
    /// Zstandard.
    Zstd,
    /// LZ4 blocks.
    Lz4,
    /// LZO1X blocks.
    Lzo,
}
