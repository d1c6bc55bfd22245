//! Hash trees of dm-verity, by which the kernel finds damage in an image while it
//! is read: every block is checked before anyone sees it, and one flipped bit is
//! an I/O error.
//!
//! Version 1 of the on-disk format, in the kernel's
//! Documentation/admin-guide/device-mapper/verity.rst and cryptsetup's
//! "DMVerity", as `veritysetup format` writes it behind the data:
//!
//! ```text
//! data        blocks of 4096 bytes
//! superblock  one block
//! tree        the level with one block first, the digests of the data last
//! ```
//! A digest is SHA-256 of salt and block; a block of the tree holds 128 of the
//! level below, zeros where there are none left. The root hash is the digest of
//! the first block of the tree. Salt and UUID are derived from the data, so the
//! same image has the same tree. Left out: other digests and block sizes, error
//! correction, signatures of the root hash.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Bytes of a block, of data and of the tree alike.
pub const BLOCK_SIZE: u64 = 4096;
const BLOCK: usize = BLOCK_SIZE as usize;
const DIGEST: usize = 32;

/// How an image with its tree is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verity {
    /// Blocks of data, in front.
    pub data_blocks: u64,
    /// What is checked against: of the topmost block.
    pub root_hash: [u8; DIGEST],
    /// In front of every block when its digest is taken.
    pub salt: [u8; DIGEST],
    /// In the superblock, for people and tools.
    pub uuid: [u8; 16],
}

impl Verity {
    /// The root hash in lower-case hex.
    pub fn root_hash_hex(&self) -> String {
        hex(&self.root_hash)
    }

    /// Number of the first block of the tree.
    pub fn hash_start(&self) -> u64 {
        self.data_blocks + 1
    }

    /// What stands in a table of the device mapper behind `verity 1 DATA HASHES`.
    pub fn table(&self) -> String {
        let (blocks, start) = (self.data_blocks, self.hash_start());
        format!("4096 4096 {blocks} {start} sha256 {} {}", self.root_hash_hex(), hex(&self.salt))
    }

    /// The superblock's block (all numbers little-endian).
    fn superblock(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"verity\0\0");
        put(8, &1_u32.to_le_bytes()); // version of the superblock
        put(12, &1_u32.to_le_bytes()); // version of the tree; 0 is Chrome OS's
        put(16, &self.uuid);
        put(32, b"sha256");
        put(64, &(BLOCK_SIZE as u32).to_le_bytes());
        put(68, &(BLOCK_SIZE as u32).to_le_bytes());
        put(72, &self.data_blocks.to_le_bytes());
        put(80, &(DIGEST as u16).to_le_bytes());
        put(88, &self.salt);
        block
    }
}

/// Appends superblock and tree to an image. Takes 32 bytes of memory for 4 KiB of it.
///
/// # Errors
/// Files that cannot be read or written, an image that is empty or no multiple of [`BLOCK_SIZE`].
pub fn append(image: &mut (impl Read + Write + Seek)) -> Result<Verity> {
    let size = image.seek(SeekFrom::End(0)).context("measuring the image")?;
    ensure!(
        size > 0 && size.is_multiple_of(BLOCK_SIZE),
        "an image of {size} bytes cannot have a hash tree; it must be blocks of {BLOCK_SIZE} bytes"
    );
    let data_blocks = size / BLOCK_SIZE;
    let salt = digest_of(image, data_blocks)?;
    let mut levels = vec![data_digests(image, data_blocks, &salt)?];
    while let Some(below) = levels.last().filter(|level| level.len() > DIGEST) {
        let blocks = below.chunks(BLOCK).map(|part| salted(&salt, &padded(part)));
        levels.push(blocks.flatten().collect());
    }
    let root_hash = levels.pop().and_then(|top| top.try_into().ok());
    let root_hash = root_hash.context("counting the levels of the hash tree")?;
    let verity = Verity { data_blocks, root_hash, salt, uuid: uuid(&salt) };
    image.seek(SeekFrom::End(0)).context("finding the end of the image")?;
    let mut put = |bytes: &[u8]| image.write_all(bytes).context("writing the hash tree");
    put(&verity.superblock())?;
    for level in levels.iter().rev() {
        for part in level.chunks(BLOCK) {
            put(&padded(part))?;
        }
    }
    Ok(verity)
}

/// A hash tree that was found behind an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Found {
    /// Blocks of data it covers.
    pub data_blocks: u64,
    /// What it leads to, lower-case hex; whether the data fit it was not checked.
    pub root_hash: String,
}

/// Looks for a hash tree like ours, of any maker, behind the image at `start` of a file, of which
/// its own superblock says that `length` bytes are used.
///
/// # Errors
/// Files that cannot be read.
pub fn find(file: &File, start: u64, length: u64) -> Result<Option<Found>> {
    let blocks = length.div_ceil(BLOCK_SIZE);
    let block = |number: u64| -> Result<Option<[u8; BLOCK]>> {
        let mut bytes = [0; BLOCK];
        let at = number.checked_mul(BLOCK_SIZE).and_then(|at| at.checked_add(start));
        match at.map(|at| file.read_exact_at(&mut bytes, at)) {
            Some(Ok(())) => Ok(Some(bytes)),
            Some(Err(error)) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
                Err(error).context("reading the hash tree")
            }
            _ => Ok(None),
        }
    };
    let Some(superblock) = block(blocks)? else { return Ok(None) };
    let salt_size = usize::from(u16::from_le_bytes([superblock[80], superblock[81]]));
    let (Some(salt), true) = (superblock[88..344].get(..salt_size), superblock.starts_with(b"verity\0\0"))
    else {
        return Ok(None);
    };
    let expected = Verity { data_blocks: blocks, root_hash: [0; DIGEST], salt: [0; DIGEST], uuid: [0; 16] };
    // All that decides how a digest is taken: versions, digest, block sizes, number of blocks.
    let same = |range: std::ops::Range<usize>| superblock[range.clone()] == expected.superblock()[range];
    if !same(8..16) || !same(32..80) {
        return Ok(None);
    }
    let top = block(if blocks == 1 { 0 } else { blocks + 1 })?;
    Ok(top.map(|top| Found { data_blocks: blocks, root_hash: hex(&salted(salt, &top)) }))
}

/// Of all the data, with words in front that make it ours.
fn digest_of(image: &mut (impl Read + Seek), blocks: u64) -> Result<[u8; DIGEST]> {
    let mut hasher = Sha256::new_with_prefix("liveiso verity salt");
    each_block(image, blocks, |block| hasher.update(block))?;
    Ok(hasher.finalize().into())
}

fn data_digests(image: &mut (impl Read + Seek), blocks: u64, salt: &[u8]) -> Result<Vec<u8>> {
    let mut digests = Vec::new();
    each_block(image, blocks, |block| digests.extend(salted(salt, block)))?;
    Ok(digests)
}

fn each_block(image: &mut (impl Read + Seek), blocks: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
    image.seek(SeekFrom::Start(0)).context("reading the image")?;
    let mut reader = std::io::BufReader::with_capacity(1 << 20, image);
    let mut block = [0; BLOCK];
    for _ in 0..blocks {
        reader.read_exact(&mut block).context("reading the image")?;
        take(&block);
    }
    Ok(())
}

fn salted(salt: &[u8], block: &[u8]) -> [u8; DIGEST] {
    Sha256::new_with_prefix(salt).chain_update(block).finalize().into()
}

fn padded(part: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..part.len()].copy_from_slice(part);
    block
}

/// RFC 9562, version 8: bits of our own choice.
fn uuid(salt: &[u8; DIGEST]) -> [u8; 16] {
    let digest = Sha256::new_with_prefix("liveiso verity uuid").chain_update(salt).finalize();
    let mut uuid: [u8; 16] = std::array::from_fn(|at| digest[at]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn with_tree(data: &[u8]) -> (Vec<u8>, Verity) {
        let mut image = Cursor::new(data.to_vec());
        let verity = append(&mut image).unwrap();
        (image.into_inner(), verity)
    }

    #[test]
    fn the_tree_is_behind_the_data_top_first() {
        // 129 digests of data need two blocks, so there is one above them.
        for (blocks, tree) in [(1, 0), (2, 1), (128, 1), (129, 3), (128 * 128 + 1, 132)] {
            let data: Vec<u8> = (0..blocks * BLOCK).map(|at| (at / BLOCK) as u8).collect();
            let (image, verity) = with_tree(&data);
            assert_eq!(image.len(), (blocks + 1 + tree) * BLOCK, "{blocks}");
            assert_eq!(image[..data.len()], data);
            let top = if tree == 0 { 0 } else { (blocks + 1) * BLOCK };
            assert_eq!(verity.root_hash, salted(&verity.salt, &image[top..top + BLOCK]), "{blocks}");
            assert_eq!(with_tree(&data), (image, verity));
        }
    }

    #[test]
    fn the_data_decides_salt_uuid_and_root_hash() {
        let one = with_tree(&[1; BLOCK]).1;
        let two = with_tree(&[2; BLOCK]).1;
        assert_ne!((one.salt, one.uuid, one.root_hash), (two.salt, two.uuid, two.root_hash));
        assert_eq!((one.uuid[6] >> 4, one.uuid[8] >> 6), (8, 2));
        let words: Vec<&str> = "4096 4096 1 2 sha256".split(' ').collect();
        assert_eq!(one.table().split(' ').take(5).collect::<Vec<_>>(), words);
    }

    #[test]
    fn a_tree_is_found_behind_an_image() {
        for blocks in [1, 2, 129] {
            let (image, verity) = with_tree(&vec![7; blocks * BLOCK]);
            let found = |bytes: &[u8], length: u64| {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&[&[1; 2048], bytes].concat()).unwrap();
                find(&file, 2048, length).unwrap()
            };
            let length = (blocks * BLOCK) as u64;
            let expected = Found { data_blocks: blocks as u64, root_hash: verity.root_hash_hex() };
            assert_eq!(found(&image, length), Some(expected.clone()));
            assert_eq!(found(&image, length - 4000), Some(expected));
            let mut other = image.clone();
            // The number of data blocks.
            other[blocks * BLOCK + 72] ^= 1;
            for (bytes, length) in [
                (&image[..blocks * BLOCK], length),
                (&image[..], length + BLOCK_SIZE),
                (&image[..], u64::MAX),
                (&other[..], length),
            ] {
                assert_eq!(found(bytes, length), None);
            }
        }
    }

    #[test]
    fn what_has_no_whole_blocks_is_refused() {
        for (length, shown) in [(0, "0"), (4097, "4097")] {
            let error = append(&mut Cursor::new(vec![0; length])).unwrap_err().to_string();
            let expected = "bytes cannot have a hash tree; it must be blocks of 4096 bytes";
            assert_eq!(error, format!("an image of {shown} {expected}"));
        }
    }
}
