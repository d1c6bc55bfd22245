//! The superblock of an EROFS image, for looking into images of any maker.
//!
//! It stands at byte 1024 (Linux, fs/erofs/erofs_fs.h), little-endian:
//! ```text
//!   0 magic          4 checksum       8 compatible features   12 log2 of a block
//!  13 extra slots of 16 bytes        16 inodes (8)            24 time (8)
//!  14 root inode (2)                 36 blocks               40 block of the inodes
//!  48 UUID (16)     80 incompatible features                 84 compressors, one a bit
//! 128 extra slots, then for each compressor: length (2) and settings,
//!     of LZ4: distance (2), blocks of the largest cluster (2)
//! ```

use anyhow::{Context, Result, ensure};

/// `EROFS_SUPER_MAGIC_V1`
const MAGIC: u32 = 0xe0f5_e1e2;
/// Where the superblock begins (bytes).
const START: usize = 1024;
/// Without the extra slots (bytes).
const SIZE: usize = 128;
/// Incompatible features that tell how files are compressed.
const ZERO_PADDING: u32 = 1;
const COMPRESSOR_SETTINGS: u32 = 2;
const COMPRESSORS: [&str; 4] = ["lz4", "lzma", "deflate", "zstd"];

/// As many bytes from the start of an image as [`parameters`] ever reads.
pub const HEAD: usize = START + SIZE + 255 * 16 + 16;

/// What the superblock says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Parameters {
    /// Names of the compressors; empty when nothing is compressed.
    pub compression: Vec<String>,
    /// Bytes of a block.
    pub block_size: u32,
    /// Bytes of the largest compressed cluster LZ4 files have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Inodes.
    pub inodes: u64,
    /// Bytes of the image without padding.
    pub bytes_used: u64,
    /// When it was made, seconds since 1970-01-01 UTC.
    pub time: u64,
}

/// Where files are found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Superblock {
    /// log2 of a block's bytes.
    pub block_bits: u32,
    /// Number of the root's inode.
    pub root: u64,
    /// Whether compressed clusters are padded in front, not behind.
    pub zero_padding: bool,
    /// Block from which inodes are counted.
    pub meta_block: u32,
}

impl Superblock {
    pub fn decode(head: &[u8]) -> Result<Superblock> {
        let parameters = parameters(head)?;
        let at = |offset, length| number(head, START + offset, length).context("the superblock is cut off");
        Ok(Superblock {
            block_bits: parameters.block_size.ilog2(),
            root: at(14, 2)?,
            zero_padding: at(80, 4)? as u32 & ZERO_PADDING != 0,
            meta_block: at(40, 4)? as u32,
        })
    }
}

/// The name of a compressor by its number.
pub(super) fn compressor(number: usize) -> String {
    COMPRESSORS.get(number).map_or_else(|| format!("number {number}"), |name| name.to_string())
}

/// Whether an image begins like this.
pub fn is_erofs(head: &[u8]) -> bool {
    number(head, START, 4) == Some(u64::from(MAGIC))
}

/// Reads the superblock from the first [`HEAD`] bytes of an image.
///
/// # Errors
/// What is no EROFS image, or cut off.
pub fn parameters(head: &[u8]) -> Result<Parameters> {
    ensure!(is_erofs(head), "this is no EROFS image");
    let at = |offset, length| number(head, START + offset, length).context("the superblock is cut off");
    let (bits, extra) = (at(12, 1)?, at(13, 1)?);
    ensure!((9..=16).contains(&bits), "blocks of 2^{bits} bytes are no EROFS blocks");
    let block_size = 1_u32 << bits;
    let features = at(80, 4)? as u32;
    let present = if features & COMPRESSOR_SETTINGS != 0 { at(84, 2)? } else { 0 };
    let mut compression: Vec<String> =
        (0..16).filter(|bit| present >> bit & 1 == 1).map(compressor).collect();
    let mut cluster_size = None;
    if present & 1 == 1 {
        // LZ4's settings are the first.
        let blocks = at(SIZE + 16 * extra as usize + 4, 2)?;
        cluster_size = Some(blocks.max(1) * u64::from(block_size));
    } else if features & (ZERO_PADDING | COMPRESSOR_SETTINGS) == ZERO_PADDING {
        compression.push("lz4".to_string());
        cluster_size = Some(u64::from(block_size));
    }
    Ok(Parameters {
        compression,
        block_size,
        cluster_size,
        inodes: at(16, 8)?,
        bytes_used: at(36, 4)? * u64::from(block_size),
        time: at(24, 8)?,
    })
}

fn number(bytes: &[u8], start: usize, length: usize) -> Option<u64> {
    let field = bytes.get(start..start.checked_add(length)?)?;
    Some(field.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut head = vec![0; HEAD];
        head[START..START + 4].copy_from_slice(&MAGIC.to_le_bytes());
        head[START + 12] = 12;
        head[START + 16] = 7;
        head[START + 24..START + 28].copy_from_slice(&1_700_000_000_u32.to_le_bytes());
        head[START + 37] = 1;
        change(&mut head[START..]);
        head
    }

    #[test]
    fn every_kind_of_compression_is_named() {
        let plain = Parameters {
            compression: Vec::new(),
            block_size: 4096,
            cluster_size: None,
            inodes: 7,
            bytes_used: 256 * 4096,
            time: 1_700_000_000,
        };
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        assert_eq!(parameters(&head(|_| ())).unwrap(), plain);
        let lz4 = Parameters { compression: names(&["lz4"]), cluster_size: Some(4096), ..plain.clone() };
        assert_eq!(parameters(&head(|s| s[80] = 0x11)).unwrap(), lz4);
        let several = |s: &mut [u8]| {
            (s[13], s[80], s[84], s[85]) = (2, 3, 0b1001, 0x80);
            s[128 + 32 + 4] = 16;
        };
        let mixed = Parameters {
            compression: names(&["lz4", "zstd", "number 15"]),
            cluster_size: Some(65536),
            ..plain.clone()
        };
        assert_eq!(parameters(&head(several)).unwrap(), mixed);
        let lzma = Parameters { compression: names(&["lzma"]), ..plain };
        assert_eq!(parameters(&head(|s| (s[80], s[84]) = (3, 2))).unwrap(), lzma);
    }

    #[test]
    fn damage_is_an_error() {
        let error = |bytes: &[u8]| parameters(bytes).unwrap_err().to_string();
        assert_eq!(error(&[0; 2000]), "this is no EROFS image");
        assert_eq!(error(&head(|s| s[12] = 64)), "blocks of 2^64 bytes are no EROFS blocks");
        let whole = head(|s| (s[13], s[80], s[84]) = (255, 3, 0xff));
        parameters(&whole).unwrap();
        for length in START + 4..START + SIZE {
            // What is not reached for may be missing.
            let _ = parameters(&whole[..length]);
        }
        assert_eq!(error(&whole[..START + 80]), "the superblock is cut off");
        assert_eq!(error(&whole[..START + SIZE]), "the superblock is cut off");
        parameters(&head(|s| s[16..44].fill(0xff))).unwrap();
    }
}
