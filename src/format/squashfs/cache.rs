//! Blocks compressed by earlier runs, found again by their content.
//!
//! ```text
//! <dir>/<digest>.pack   records: key (32) · size (4, as in the image) · CRC32 (4) · bytes
//! ```
//! The key is a digest of the raw block's digests and of everything that decides the
//! compressed bytes, the versions of the compressors among them, so a hit never
//! changes a byte of an image. A pack appears by one rename and is never
//! changed afterwards; any number of builds may use a cache at once. Every
//! record is checked when it is read: a damaged one is compressed anew and its
//! pack removed. Blocks that do not compress are remembered without their bytes.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

use super::block::Block;
use super::compress::Settings;
use super::layout::{BLOCK_SIZES, DATA_RAW};

/// Raised when the same block, settings and libraries lead to other bytes.
const FORMAT: u32 = 2;
/// Another version of any library makes other keys: a cache that is cold once too often is still correct.
const LIBRARIES: &str = include_str!("../../../Cargo.lock");
/// Packs beyond this number go, the least recently used first.
const MAX_PACKS: usize = 64;
const HEADER: usize = 40;

/// Digest of a raw block's digests and of how it is compressed.
pub(super) type Key = [u8; 32];

/// A directory of compressed blocks.
#[derive(Debug)]
pub struct BlockCache {
    dir: PathBuf,
    /// Where the new pack is written.
    scratch: PathBuf,
    max_size: u64,
    packs: Vec<Pack>,
    index: HashMap<Key, Record>,
    fresh: Mutex<Option<Fresh>>,
}

#[derive(Debug)]
struct Pack {
    path: PathBuf,
    file: File,
    is_used: AtomicBool,
    is_damaged: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    pack: usize,
    offset: u64,
    size: u32,
    crc: u32,
}

/// The pack this run adds.
#[derive(Debug)]
struct Fresh {
    file: BufWriter<NamedTempFile>,
    keys: HashSet<Key>,
    name: blake3::Hasher,
}

impl BlockCache {
    /// Opens (and makes) a cache. After each image the least recently used
    /// packs are removed until it has at most `max_size` bytes.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(dir: &Path, max_size: u64) -> Result<BlockCache> {
        let context = || format!("opening the block cache {}", dir.display());
        fs::create_dir_all(dir).with_context(context)?;
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir).with_context(context)? {
            let path = entry.with_context(context)?.path();
            if path.extension().is_some_and(|e| e == "pack") {
                paths.push(path);
            }
        }
        paths.sort();
        let mut cache = BlockCache {
            dir: dir.to_path_buf(),
            scratch: dir.to_path_buf(),
            max_size,
            packs: Vec::new(),
            index: HashMap::new(),
            fresh: Mutex::new(None),
        };
        for path in paths {
            // Another build may have removed it since.
            if let Ok(file) = File::open(&path) {
                cache.add_pack(path, file);
            }
        }
        Ok(cache)
    }

    /// Writes new packs in this directory, on the same file system, until they are
    /// complete: one that is swept should this process be killed.
    pub fn with_scratch(self, dir: &Path) -> BlockCache {
        BlockCache { scratch: dir.to_path_buf(), ..self }
    }

    fn add_pack(&mut self, path: PathBuf, file: File) {
        let (pack, mut offset, mut header) = (self.packs.len(), 0, [0; HEADER]);
        let mut intact = true;
        while intact && file.read_exact_at(&mut header, offset).is_ok() {
            let key: Key = header[..32].try_into().expect("the header has 40 bytes");
            let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| header[at + i]));
            let (size, crc) = (word(32), word(36));
            offset += HEADER as u64;
            intact = size <= *BLOCK_SIZES.end() || size == DATA_RAW;
            self.index.insert(key, Record { pack, offset, size, crc });
            offset += u64::from(size & !DATA_RAW);
        }
        let is_damaged = AtomicBool::new(!intact || file.metadata().map_or(true, |m| m.len() != offset));
        self.packs.push(Pack { path, file, is_used: AtomicBool::new(false), is_damaged });
    }

    /// Finds a block. `Some(true)`: `packed` holds its compressed bytes;
    /// `Some(false)`: it does not compress; `None`: it is not known, or damaged.
    pub(super) fn get(&self, key: &Key, packed: &mut Vec<u8>) -> Option<bool> {
        let record = self.index.get(key)?;
        let pack = &self.packs[record.pack];
        packed.resize((record.size & !DATA_RAW) as usize, 0);
        let is_read = pack.file.read_exact_at(packed, record.offset).is_ok();
        if !is_read || crc(key, record.size, packed) != record.crc {
            pack.is_damaged.store(true, Relaxed);
            return None;
        }
        pack.is_used.store(true, Relaxed);
        Some(record.size & DATA_RAW == 0)
    }

    /// Remembers a block that was compressed in this run.
    pub(super) fn put(&self, key: &Key, packed: Option<&[u8]>) -> Result<()> {
        let mut fresh = self.fresh.lock().expect("nothing panics with this lock held");
        if fresh.is_none() {
            let file = tempfile::Builder::new().prefix("new-").tempfile_in(&self.scratch);
            let file = BufWriter::new(file.context("adding to the block cache")?);
            *fresh = Some(Fresh { file, keys: HashSet::new(), name: blake3::Hasher::new() });
        }
        match fresh.as_mut() {
            Some(fresh) => fresh.put(key, packed).context("adding to the block cache"),
            None => Ok(()),
        }
    }

    /// Publishes what was added and removes what is damaged or too much.
    pub(super) fn commit(&self) -> Result<()> {
        let fresh = self.fresh.lock().expect("nothing panics with this lock held").take();
        if let Some(Fresh { file, name, .. }) = fresh {
            let path = self.dir.join(format!("{}.pack", &name.finalize().to_hex()[..32]));
            let file = file.into_inner().context("adding to the block cache")?;
            file.persist(&path).with_context(|| format!("creating {}", path.display()))?;
        }
        for pack in &self.packs {
            if pack.is_damaged.load(Relaxed) {
                remove(&pack.path)?;
            } else if pack.is_used.load(Relaxed) {
                let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
                let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
                // Only the order of removal depends on it.
                let _ = rustix::fs::futimens(&pack.file, &times);
            }
        }
        self.shrink()
    }

    fn shrink(&self) -> Result<()> {
        let mut packs = Vec::new();
        for entry in fs::read_dir(&self.dir).context("reading the block cache")? {
            let path = entry.context("reading the block cache")?.path();
            if let (Some("pack"), Ok(metadata)) = (path.extension().and_then(|e| e.to_str()), path.metadata())
            {
                packs.push((metadata.modified().context("reading the block cache")?, metadata.len(), path));
            }
        }
        packs.sort();
        let mut size = 0;
        for (n, (_, length, path)) in packs.iter().rev().enumerate() {
            size += length;
            if n >= MAX_PACKS || size > self.max_size {
                remove(path)?;
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl Fresh {
    fn put(&mut self, key: &Key, packed: Option<&[u8]>) -> std::io::Result<()> {
        if !self.keys.insert(*key) {
            return Ok(());
        }
        let bytes = packed.unwrap_or_default();
        let size = if packed.is_some() { bytes.len() as u32 } else { DATA_RAW };
        let crc = crc(key, size, bytes);
        self.name.update(key);
        self.file.write_all(key)?;
        self.file.write_all(&size.to_le_bytes())?;
        self.file.write_all(&crc.to_le_bytes())?;
        self.file.write_all(bytes)
    }
}

fn crc(key: &Key, size: u32, bytes: &[u8]) -> u32 {
    let mut crc = libdeflater::Crc::new();
    crc.update(key);
    crc.update(&size.to_le_bytes());
    crc.update(bytes);
    crc.sum()
}

/// Makes keys for blocks compressed with certain settings.
pub(super) struct Keys {
    plain: blake3::Hasher,
    x86: blake3::Hasher,
}

impl Keys {
    pub fn new(settings: Settings) -> Keys {
        let hasher = |is_x86_code: bool| {
            let inputs = format!("{FORMAT} {settings:?} {is_x86_code}\n{LIBRARIES}");
            blake3::Hasher::new_keyed(blake3::hash(inputs.as_bytes()).as_bytes())
        };
        Keys { plain: hasher(false), x86: hasher(true) }
    }

    /// The key of a block, which need not be read for it.
    pub fn key(&self, block: &Block) -> Key {
        let mut hasher = if block.is_x86_code { self.x86.clone() } else { self.plain.clone() };
        for (length, digest) in block.digests() {
            hasher.update(&(length as u64).to_le_bytes()).update(&digest);
        }
        *hasher.finalize().as_bytes()
    }
}
