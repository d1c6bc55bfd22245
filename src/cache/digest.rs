//! SHA-256 of bytes and files, in the form the cache, plans and manifests use.

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
