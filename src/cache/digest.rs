//! SHA-256 of bytes and files, in the form plans and manifests use, and BLAKE3,
//! by which the cache knows its own files again in a fraction of the time.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Size and digest of one output file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Bytes.
    pub size: u64,
    /// Lower-case hex SHA-256.
    pub sha256: String,
}

/// Size and BLAKE3 digest of a file that is only compared, never named by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Bytes.
    pub size: u64,
    /// Lower-case hex BLAKE3.
    pub blake3: String,
}

impl Fingerprint {
    /// Of bytes in memory.
    pub fn of(bytes: &[u8]) -> Fingerprint {
        Fingerprint { size: bytes.len() as u64, blake3: blake3::hash(bytes).to_hex().to_string() }
    }
}

/// Fingerprint of a file on disk.
///
/// # Errors
/// When it cannot be read.
pub fn fingerprint_file(path: &Path) -> Result<Fingerprint> {
    let mut hasher = blake3::Hasher::new();
    let size = each_chunk(path, |chunk| {
        hasher.update(chunk);
    })?;
    Ok(Fingerprint { size, blake3: hasher.finalize().to_hex().to_string() })
}

/// Both digests of a file on disk, read once.
pub(super) fn digests_of_file(path: &Path) -> Result<(FileDigest, Fingerprint)> {
    let (mut sha256, mut blake3) = (Sha256::new(), blake3::Hasher::new());
    let size = each_chunk(path, |chunk| {
        sha256.update(chunk);
        blake3.update(chunk);
    })?;
    let digest = FileDigest { size, sha256: hex(&sha256.finalize()) };
    Ok((digest, Fingerprint { size, blake3: blake3.finalize().to_hex().to_string() }))
}

/// Returns the size.
fn each_chunk(path: &Path, mut visit: impl FnMut(&[u8])) -> Result<u64> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    // Stays in the processor's cache between reading and hashing.
    let mut buffer = vec![0; 128 << 10];
    let mut size = 0;
    loop {
        match file.read(&mut buffer).with_context(|| format!("reading {}", path.display()))? {
            0 => return Ok(size),
            n => {
                visit(&buffer[..n]);
                size += n as u64;
            }
        }
    }
}

/// SHA-256 in lower-case hex.
pub fn hex_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 and size of a file on disk.
///
/// # Errors
/// When it cannot be read.
pub fn digest_file(path: &Path) -> Result<FileDigest> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    digest_reader(&mut file).with_context(|| format!("reading {}", path.display()))
}

/// SHA-256 and size of everything a reader has left.
///
/// # Errors
/// The reader's.
pub fn digest_reader(reader: &mut impl Read) -> io::Result<FileDigest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(FileDigest { size, sha256: hex(&hasher.finalize()) }),
            n => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
        }
    }
}
