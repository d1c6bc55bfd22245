//! The bytes of regular files: held in memory, or a slice of a file on disk.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::digest_reader;
use anyhow::{Context, Result};

/// What a regular file contains.
#[derive(Clone, Debug)]
pub enum Content {
    /// Small or generated content.
    Bytes(Arc<[u8]>),
    /// `length` bytes at `offset` of a file on the host; a package's payload is
    /// never unpacked only to be read again.
    Slice {
        /// The file that holds the bytes.
        file: Arc<PathBuf>,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
}

impl Content {
    /// Content held in memory.
    pub fn bytes(bytes: impl Into<Vec<u8>>) -> Content {
        Content::Bytes(bytes.into().into())
    }

    /// The first `length` bytes of a host file.
    pub fn file(path: &Path, length: u64) -> Content {
        Content::Slice { file: Arc::new(path.to_path_buf()), offset: 0, length }
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Slice { length, .. } => *length,
        }
    }

    /// Whether the size is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Opens the content for sequential reading.
    ///
    /// # Errors
    /// When the backing file cannot be opened.
    pub fn open(&self) -> Result<ContentReader> {
        Ok(match self {
            Content::Bytes(bytes) => ContentReader::Bytes { bytes: bytes.clone(), position: 0 },
            Content::Slice { file, offset, length } => {
                let opened =
                    File::open(file.as_path()).with_context(|| format!("opening {}", file.display()))?;
                ContentReader::Slice { file: opened, position: *offset, end: *offset + *length }
            }
        })
    }

    /// Everything at once; for small files such as scripts, modules and configurations.
    ///
    /// # Errors
    /// When the backing file cannot be read or is shorter than the slice.
    pub fn read_all(&self) -> Result<Vec<u8>> {
        if let Content::Bytes(bytes) = self {
            return Ok(bytes.to_vec());
        }
        let mut all = Vec::with_capacity(self.len() as usize);
        self.open()?.read_to_end(&mut all).with_context(|| format!("reading {self}"))?;
        Ok(all)
    }

    /// SHA-256 of the bytes, in lower-case hex.
    ///
    /// # Errors
    /// As [`Content::read_all`].
    pub fn sha256(&self) -> Result<String> {
        let digest = digest_reader(&mut self.open()?).with_context(|| format!("reading {self}"))?;
        Ok(digest.sha256)
    }
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::Bytes(bytes) => write!(f, "{} bytes in memory", bytes.len()),
            Content::Slice { file, offset, length } => {
                write!(f, "{length} bytes at {offset} of {}", file.display())
            }
        }
    }
}

/// Sequential reader over a [`Content`]; a slice that ends early is an error, never silent.
#[derive(Debug)]
pub enum ContentReader {
    /// Over memory.
    Bytes {
        /// All bytes.
        bytes: Arc<[u8]>,
        /// Next byte to return.
        position: usize,
    },
    /// Over a file, by position, so that one file serves many readers.
    Slice {
        /// The opened backing file.
        file: File,
        /// Next byte to return.
        position: u64,
        /// One past the last byte.
        end: u64,
    },
}

impl Read for ContentReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            ContentReader::Bytes { bytes, position } => {
                let n = buf.len().min(bytes.len() - *position);
                buf[..n].copy_from_slice(&bytes[*position..*position + n]);
                *position += n;
                Ok(n)
            }
            ContentReader::Slice { file, position, end } => {
                let want = buf.len().min(usize::try_from(*end - *position).unwrap_or(usize::MAX));
                if want == 0 {
                    return Ok(0);
                }
                let n = file.read_at(&mut buf[..want], *position)?;
                if n == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "file changed or is shorter than expected",
                    ));
                }
                *position += n as u64;
                Ok(n)
            }
        }
    }
}
