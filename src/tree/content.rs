//! The bytes of regular files: held in memory, a slice of a file on disk, or one
//! of those whose digest is known and compared while it is read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::sealed::{Sealed, SealedReader};
use crate::cache::{digest_reader, hex};

/// Bytes of the largest file that is held in memory as a whole. What is read so
/// (kernels, modules, loaders, texts) stays far below; what users bring may not.
pub const LARGEST_AT_ONCE: u64 = 64 << 20;

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
    /// The first `length` bytes of a file that someone may edit meanwhile: a
    /// reader that reaches the end fails unless they have this digest.
    Pinned {
        /// The file that holds the bytes.
        file: Arc<PathBuf>,
        /// Number of bytes.
        length: u64,
        /// Lower-case hex SHA-256.
        sha256: Arc<str>,
    },
    /// Part of a file in the cache, with digests.
    Sealed(Sealed),
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

    /// The first `length` bytes of a host file, which must have this SHA-256 (lower-case hex).
    pub fn pinned(path: &Path, length: u64, sha256: &str) -> Content {
        Content::Pinned { file: Arc::new(path.to_path_buf()), length, sha256: sha256.into() }
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Slice { length, .. } | Content::Pinned { length, .. } => *length,
            Content::Sealed(sealed) => sealed.len(),
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
                let end = offset.checked_add(*length).context("a slice ends beyond any file")?;
                ContentReader::Slice { file: open(file)?, position: *offset, end }
            }
            Content::Pinned { file, length, sha256 } => ContentReader::Pinned {
                file: open(file)?,
                position: 0,
                end: *length,
                hasher: Box::new(Sha256::new()),
                sha256: sha256.clone(),
            },
            Content::Sealed(sealed) => {
                ContentReader::Sealed(SealedReader::open(sealed).with_context(|| format!("opening {self}"))?)
            }
        })
    }

    /// Everything at once; for small files such as scripts, modules and configurations.
    ///
    /// # Errors
    /// When the backing file cannot be read or is shorter than the slice, and when
    /// it is larger than 64 MiB.
    pub fn read_all(&self) -> Result<Vec<u8>> {
        if let Content::Bytes(bytes) = self {
            return Ok(bytes.to_vec());
        }
        ensure!(
            self.len() <= LARGEST_AT_ONCE,
            "{self} has {} bytes, more than the {LARGEST_AT_ONCE} such a file may have",
            self.len()
        );
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

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

impl std::fmt::Display for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Content::Bytes(bytes) => write!(f, "{} bytes in memory", bytes.len()),
            Content::Slice { file, offset, length } => {
                write!(f, "{length} bytes at {offset} of {}", file.display())
            }
            Content::Pinned { file, .. } => file.display().fmt(f),
            Content::Sealed(sealed) => {
                let path = sealed.file().path().display();
                write!(f, "{} bytes at {} of {path}", sealed.len(), sealed.offset())
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
    /// Over a whole file, hashed on the way.
    Pinned {
        /// The opened file.
        file: File,
        /// Next byte to return.
        position: u64,
        /// One past the last byte.
        end: u64,
        /// Over the bytes returned so far.
        hasher: Box<Sha256>,
        /// What it must come to at the end.
        sha256: Arc<str>,
    },
    /// Chunk by chunk, each compared with its digest.
    Sealed(SealedReader),
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
            ContentReader::Slice { file, position, end } => read_part(file, position, *end, buf),
            ContentReader::Sealed(reader) => reader.read(buf),
            ContentReader::Pinned { file, position, end, hasher, sha256 } => {
                let n = read_part(file, position, *end, buf)?;
                hasher.update(&buf[..n]);
                if n > 0 && position == end && hex(&hasher.finalize_reset()) != **sha256 {
                    return Err(io::Error::other("it changed while it was being built; run the build again"));
                }
                Ok(n)
            }
        }
    }
}

/// Reads at `position`, which moves on, but not beyond `end`.
fn read_part(file: &File, position: &mut u64, end: u64, buf: &mut [u8]) -> io::Result<usize> {
    let want = buf.len().min(usize::try_from(end - *position).unwrap_or(usize::MAX));
    if want == 0 {
        return Ok(0);
    }
    let n = file.read_at(&mut buf[..want], *position)?;
    if n == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "file changed or is shorter than expected"));
    }
    *position += n as u64;
    Ok(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::hex_sha256;

    #[test]
    fn a_pinned_file_is_read_only_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let pinned = Content::pinned(&path, 6, &hex_sha256(b"before"));
        for (now, expected) in [
            ("before", "before"),
            ("before and more", "before"),
            ("beforE", "it changed while it was being built; run the build again"),
            ("befor", "file changed or is shorter than expected"),
            ("", "file changed or is shorter than expected"),
        ] {
            std::fs::write(&path, now).unwrap();
            let found = pinned.read_all().map(|bytes| String::from_utf8(bytes).unwrap());
            let found = found.unwrap_or_else(|error| error.root_cause().to_string());
            assert_eq!(found, expected, "{now}");
        }
    }
}
