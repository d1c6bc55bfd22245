//! Content whose digests are known before it is read, chunk by chunk: what
//! nobody reads needs no verification, and what is read is verified on the way.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::cache::CachedFile;

/// Bytes that one digest covers; the last chunk of a content may have fewer.
pub const CHUNK: usize = 128 << 10;

/// BLAKE3 of a chunk; all zeros for a chunk of zeros, so that holes are known unread.
pub type ChunkDigest = [u8; 32];

/// The digest of a chunk of all zeros, of any length.
pub const ZEROS: ChunkDigest = [0; 32];

/// The digest of one chunk.
pub fn chunk_digest(bytes: &[u8]) -> ChunkDigest {
    if is_zero(bytes) { ZEROS } else { *blake3::hash(bytes).as_bytes() }
}

/// Whether every byte is zero; real data says no at its first bytes.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<16>();
    chunks.iter().all(|c| u128::from_ne_bytes(*c) == 0) && rest.iter().all(|&b| b == 0)
}

/// Part of a file of the cache, with the digest of every chunk.
#[derive(Clone, Debug)]
pub struct Sealed {
    file: Arc<CachedFile>,
    offset: u64,
    length: u64,
    digests: Arc<[ChunkDigest]>,
}

impl Sealed {
    /// `length` bytes at `offset`; `digests` has one for each chunk.
    ///
    /// # Errors
    /// Another number of digests, an end beyond any file.
    pub fn new(
        file: Arc<CachedFile>,
        offset: u64,
        length: u64,
        digests: Arc<[ChunkDigest]>,
    ) -> Result<Sealed> {
        offset.checked_add(length).context("a content ends beyond any file")?;
        let right = digests.len() as u64 == length.div_ceil(CHUNK as u64);
        anyhow::ensure!(right, "{length} bytes have {} digests", digests.len());
        Ok(Sealed { file, offset, length, digests })
    }

    /// The same for bytes that are known to be right: reads them once.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn seal(file: Arc<CachedFile>, offset: u64, length: u64) -> Result<Sealed> {
        let backing = open(&file).with_context(|| format!("opening {}", file.path().display()))?;
        let mut digests = Vec::with_capacity(length.div_ceil(CHUNK as u64) as usize);
        let mut chunk = Vec::new();
        let mut done = 0;
        while done < length {
            chunk.resize((length - done).min(CHUNK as u64) as usize, 0);
            let read = backing.read_exact_at(&mut chunk, offset + done);
            read.with_context(|| format!("reading {}", file.path().display()))?;
            digests.push(chunk_digest(&chunk));
            done += chunk.len() as u64;
        }
        Sealed::new(file, offset, length, digests.into())
    }

    /// The file that holds the bytes.
    pub fn file(&self) -> &Arc<CachedFile> {
        &self.file
    }

    /// First byte in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Size in bytes.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether the size is zero.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The digest of every chunk.
    pub fn digests(&self) -> &[ChunkDigest] {
        &self.digests
    }

    /// Size of chunk `n` in bytes.
    pub fn chunk_len(&self, n: usize) -> usize {
        (self.length - (n * CHUNK) as u64).min(CHUNK as u64) as usize
    }

    /// Appends chunk `n` to `out` after comparing it with its digest.
    ///
    /// # Errors
    /// When the file cannot be read, or is damaged: then its cache entry is gone.
    pub fn append_chunk(&self, n: usize, out: &mut Vec<u8>) -> io::Result<()> {
        self.append_from(&open(&self.file)?, n, out)
    }

    fn append_from(&self, file: &File, n: usize, out: &mut Vec<u8>) -> io::Result<()> {
        let start = out.len();
        out.resize(start + self.chunk_len(n), 0);
        match file.read_exact_at(&mut out[start..], self.offset + (n * CHUNK) as u64) {
            Ok(()) if chunk_digest(&out[start..]) == self.digests[n] => Ok(()),
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => Err(e),
            _ => Err(io::Error::other(self.file.damaged())),
        }
    }
}

/// One that is gone counts as damaged: it has to be made anew.
fn open(file: &CachedFile) -> io::Result<File> {
    File::open(file.path()).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => io::Error::other(file.damaged()),
        _ => e,
    })
}

/// Sequential reader over a [`Sealed`].
#[derive(Debug)]
pub struct SealedReader {
    content: Sealed,
    file: File,
    /// The next chunk to read.
    next: usize,
    chunk: Vec<u8>,
    /// Position in `chunk`.
    position: usize,
}

impl SealedReader {
    /// A reader at the first byte.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(content: &Sealed) -> io::Result<SealedReader> {
        let file = open(&content.file)?;
        Ok(SealedReader { content: content.clone(), file, next: 0, chunk: Vec::new(), position: 0 })
    }
}

impl io::Read for SealedReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.position == self.chunk.len() && self.next < self.content.digests.len() {
            self.chunk.clear();
            self.position = 0;
            self.content.append_from(&self.file, self.next, &mut self.chunk)?;
            self.next += 1;
        }
        let n = buf.len().min(self.chunk.len() - self.position);
        buf[..n].copy_from_slice(&self.chunk[self.position..self.position + n]);
        self.position += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::cache::{Cache, is_damaged};

    #[test]
    fn bytes_are_read_only_as_they_were_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let whole: Vec<u8> = (0..3 * CHUNK + 100).map(|n| (n / CHUNK) as u8).collect();
        let make = || cache.stage("s", &1, |dir| Ok(std::fs::write(dir.join("f"), &whole)?)).unwrap();
        let sealed = Sealed::seal(make().file("f"), 50, 3 * CHUNK as u64).unwrap();
        let lengths = [0, 1, 2].map(|n| sealed.chunk_len(n));
        assert_eq!((sealed.digests().len(), lengths), (3, [CHUNK; 3]));
        let read = || {
            let mut all = Vec::new();
            SealedReader::open(&sealed)?.read_to_end(&mut all).map(|_| all)
        };
        assert!(read().unwrap() == whole[50..50 + 3 * CHUNK]);
        for at in [50, 50 + CHUNK, 49 + 3 * CHUNK] {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(sealed.file().path(), damaged).unwrap();
            let error = anyhow::Error::new(read().unwrap_err()).context("reading");
            assert!(is_damaged(&error), "{at}: {error:#}");
            assert!(!sealed.file().path().exists(), "{at}");
            assert!(is_damaged(&read().unwrap_err().into()), "its entry is gone");
            make();
        }
        std::fs::write(sealed.file().path(), &whole[..1000]).unwrap();
        assert!(is_damaged(&read().unwrap_err().into()), "cut short");
    }

    #[test]
    fn zeros_have_one_digest() {
        for length in [1, 15, 16, 17, CHUNK] {
            let mut bytes = vec![0; length];
            assert_eq!(chunk_digest(&bytes), ZEROS);
            bytes[length - 1] = 1;
            assert_eq!(chunk_digest(&bytes), *blake3::hash(&bytes).as_bytes());
        }
    }
}
