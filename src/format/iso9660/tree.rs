//! The files of a volume as a [`Tree`] whose contents are slices of the ISO.
//!
//! ECMA-119 §9 (directory records) with the names, modes, owners and links of
//! Rock Ridge 1.12 (`NM`, `PX`, `SL`, `CL`, `RE`, over SUSP 1.12's `CE`) where
//! there are any. Untrusted input, also of other makers: directories are read
//! once each and within bounds. Times are the records' own (§9.1.5), not Rock
//! Ridge's. Left out: Joliet, devices, zisofs, interleaved files.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::read::SECTOR;
use crate::format::civil::{CivilTime, unix_time};
use crate::format::field::u32_at;
use crate::tree::{Content, Kind, Meta, OriginId, Tree, display_path};

/// Names of a volume, bytes of all its directories, levels of directories.
const MAX_NAMES: usize = 1 << 20;
const MAX_DIRECTORY_BYTES: u64 = 256 << 20;
const MAX_DEPTH: usize = 128;
/// Bytes of system use fields behind one record, continuations included.
const MAX_SYSTEM_USE: usize = 64 << 10;

const DIRECTORY: u8 = 0x02;
const MULTI_EXTENT: u8 = 0x80;

/// Reads the names of a volume; the file must stay while the tree lives.
///
/// # Errors
/// Directories that are no directories, lead in a circle or out of the file,
/// one name twice in a directory, more names than any medium has.
pub fn read_tree(path: &Path) -> Result<Tree> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let length = (&file).seek(SeekFrom::End(0)).context("asking for the file's size")?;
    let mut descriptor = [0; SECTOR as usize];
    file.read_exact_at(&mut descriptor, 16 * SECTOR).context("reading sector 16")?;
    ensure!(descriptor[1..6] == *b"CD001", "sector 16 is no ISO 9660 volume descriptor");
    let mut tree = Tree::new();
    let origin = tree.add_origin(path.display().to_string());
    let mut reading = Reading {
        file,
        length,
        path: Arc::new(path.to_path_buf()),
        tree,
        origin,
        skip: 0,
        names: 0,
        bytes: 0,
        seen: HashSet::new(),
    };
    let root = Record::parse(&descriptor[156..190]).context("the volume has no root directory")?;
    reading.find_susp(&root)?;
    let mut pending = vec![(Vec::new(), root.sector, root.length)];
    while let Some((path, sector, length)) = pending.pop() {
        let below = reading
            .directory(&path, sector, length)
            .with_context(|| format!("reading the directory /{}", display_path(&path)))?;
        pending.extend(below);
    }
    Ok(reading.tree)
}

/// A directory still to be read: path, first sector, bytes.
type Pending = (Vec<u8>, u32, u32);

struct Reading {
    file: File,
    length: u64,
    path: Arc<PathBuf>,
    tree: Tree,
    origin: OriginId,
    /// Bytes to skip in each system use area (SUSP `SP`).
    skip: usize,
    names: usize,
    bytes: u64,
    seen: HashSet<u32>,
}

/// A directory record without its system use area.
#[derive(Clone, Copy)]
struct Record<'b> {
    sector: u32,
    length: u32,
    flags: u8,
    /// Recording date and time, 0 for none.
    mtime: i64,
    name: &'b [u8],
    system_use: &'b [u8],
}

impl<'b> Record<'b> {
    fn parse(bytes: &'b [u8]) -> Option<Record<'b>> {
        let name_length = usize::from(*bytes.get(32)?);
        let name = bytes.get(33..33 + name_length)?;
        // The name is padded to an even number of bytes with the length's own byte.
        let system_use = bytes.get(33 + name_length + (name_length + 1) % 2..).unwrap_or_default();
        let sector = u32_at(bytes, 2).checked_add(u32::from(bytes[1]))?;
        let mtime = recorded(&bytes[18..25]).unwrap_or(0);
        Some(Record { sector, length: u32_at(bytes, 10), flags: bytes[25], mtime, name, system_use })
    }
}

/// Year since 1900, month, day, hour, minute, second, and the offset from UTC in quarters of an hour.
fn recorded(bytes: &[u8]) -> Option<i64> {
    let [year, month, day, hour, minute, second, zone] = *bytes else { return None };
    let time = CivilTime { year: 1900 + i64::from(year), month, day, hour, minute, second };
    Some(unix_time(time)? - i64::from(zone as i8) * 900)
}

/// What Rock Ridge says of one record.
#[derive(Default)]
struct RockRidge {
    name: Vec<u8>,
    meta: Option<Meta>,
    file_type: u32,
    target: Option<Vec<u8>>,
    target_continues: bool,
    child: Option<u32>,
    relocated: bool,
}

impl Reading {
    fn sectors(&self, sector: u32, length: u64) -> Result<Vec<u8>> {
        let start = u64::from(sector) * SECTOR;
        ensure!(
            start.checked_add(length).is_some_and(|end| end <= self.length),
            "its {length} bytes at sector {sector} lie outside the file"
        );
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, start).with_context(|| format!("reading sector {sector}"))?;
        Ok(bytes)
    }

    /// Whether the volume has system use fields, and where they begin.
    fn find_susp(&mut self, root: &Record<'_>) -> Result<()> {
        let first = self.sectors(root.sector, SECTOR).context("reading the root directory")?;
        let end = usize::from(first[0]);
        let record = first.get(..end).and_then(Record::parse);
        if let Some([b'S', b'P', 7, 1, 0xbe, 0xef, skip, ..]) = record.map(|record| record.system_use) {
            self.skip = usize::from(*skip);
        }
        Ok(())
    }

    fn directory(&mut self, path: &[u8], sector: u32, length: u32) -> Result<Vec<Pending>> {
        ensure!(self.seen.insert(sector), "it has two places in the volume");
        ensure!(path.iter().filter(|&&b| b == b'/').count() < MAX_DEPTH, "it is too deep");
        self.bytes += u64::from(length);
        ensure!(self.bytes <= MAX_DIRECTORY_BYTES, "the directories have too many bytes");
        let bytes = self.sectors(sector, u64::from(length))?;
        let mut below = Vec::new();
        let mut extents: BTreeMap<Vec<u8>, (u32, u64)> = BTreeMap::new();
        for block in bytes.chunks(SECTOR as usize) {
            let mut rest = block;
            while let Some(&size) = rest.first().filter(|&&size| size != 0) {
                let (bytes, after) =
                    rest.split_at_checked(usize::from(size)).context("a record is cut short")?;
                rest = after;
                let record = Record::parse(bytes).context("a record is cut short")?;
                // `.` and `..`
                if matches!(record.name, [0 | 1]) {
                    continue;
                }
                below.extend(self.name(path, &record, &mut extents)?);
            }
        }
        Ok(below)
    }

    /// Adds one name to the tree; returns it if it is a directory.
    fn name(
        &mut self,
        parent: &[u8],
        record: &Record<'_>,
        extents: &mut BTreeMap<Vec<u8>, (u32, u64)>,
    ) -> Result<Option<Pending>> {
        self.names += 1;
        ensure!(self.names <= MAX_NAMES, "the volume has more than {MAX_NAMES} names");
        let rock_ridge = self.rock_ridge(record.system_use)?;
        if rock_ridge.relocated {
            return Ok(None);
        }
        let name = if rock_ridge.name.is_empty() { plain_name(record.name) } else { rock_ridge.name };
        let mut path = parent.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let is_directory = record.flags & DIRECTORY != 0 || rock_ridge.child.is_some();
        let (start, before) = extents.get(&name).copied().unwrap_or((record.sector, 0));
        ensure!(
            before != 0 || self.tree.get(&path).is_none(),
            "it has the name `{}` twice",
            display_path(&name)
        );
        let fallback = Meta::mode(if is_directory { 0o555 } else { 0o444 });
        let meta = Meta { mtime: record.mtime, ..rock_ridge.meta.unwrap_or(fallback) };
        if is_directory {
            self.tree.add_directory(&path, meta, self.origin)?;
            let sector = rock_ridge.child.unwrap_or(record.sector);
            let length = match rock_ridge.child {
                Some(sector) => u32_at(&self.sectors(sector, SECTOR)?, 10),
                None => record.length,
            };
            return Ok(Some((path, sector, length)));
        }
        let kind = match (rock_ridge.file_type, rock_ridge.target) {
            (_, Some(target)) => Kind::Symlink(target),
            (0o010000, _) => Kind::Fifo,
            (0o140000, _) => Kind::Socket,
            _ => {
                ensure!(
                    u64::from(start) * SECTOR + before == u64::from(record.sector) * SECTOR,
                    "the parts of `{}` do not follow each other",
                    display_path(&name)
                );
                let length = before + u64::from(record.length);
                let offset = u64::from(start) * SECTOR;
                ensure!(
                    length == 0 || offset.checked_add(length).is_some_and(|end| end <= self.length),
                    "`{}` ends outside the file: the ISO is cut off",
                    display_path(&name)
                );
                if record.flags & MULTI_EXTENT != 0 {
                    extents.insert(name, (start, length));
                } else {
                    extents.remove(&name);
                }
                Kind::File(Content::Slice { file: self.path.clone(), offset, length })
            }
        };
        self.tree.insert(&path, kind, meta, self.origin)?;
        Ok(None)
    }

    fn rock_ridge(&self, system_use: &[u8]) -> Result<RockRidge> {
        let mut found = RockRidge::default();
        let mut total = 0;
        let mut area = system_use.get(self.skip..).unwrap_or_default().to_vec();
        loop {
            total += area.len().max(1);
            ensure!(total <= MAX_SYSTEM_USE, "a record has too many system use fields");
            let mut continuation = None;
            let mut rest = &area[..];
            while let [a, b, size, _, ..] = *rest
                && let Some(field) = rest.get(..usize::from(size)).filter(|field| field.len() >= 4)
            {
                rest = &rest[field.len()..];
                match &[a, b] {
                    b"CE" if field.len() >= 28 => continuation = Some(field.to_vec()),
                    b"ST" => break,
                    _ => found.field(field),
                }
            }
            let Some(field) = continuation else {
                return Ok(found);
            };
            let (sector, offset, length) = (u32_at(&field, 4), u32_at(&field, 12), u32_at(&field, 20));
            let block = self.sectors(sector, SECTOR).context("reading a continuation area")?;
            let end = (offset as usize).checked_add(length as usize);
            let next = end.and_then(|end| block.get(offset as usize..end));
            area = next.context("a continuation area ends outside its sector")?.to_vec();
        }
    }
}

impl RockRidge {
    fn field(&mut self, field: &[u8]) {
        match (&field[..2], field.len()) {
            (b"NM", 5..) => self.name.extend_from_slice(&field[5..]),
            (b"PX", 36..) => {
                let mode = u32_at(field, 4);
                self.file_type = mode & 0o170000;
                let mode = (mode & 0o7777) as u16;
                self.meta = Some(Meta { mode, uid: u32_at(field, 20), gid: u32_at(field, 28), mtime: 0 });
            }
            (b"SL", 5..) => self.link(&field[5..]),
            (b"CL", 12..) => self.child = Some(u32_at(field, 4)),
            (b"RE", _) => self.relocated = true,
            _ => {}
        }
    }

    /// Components of a symbolic link: flags, length, bytes (RRIP §4.1.3).
    fn link(&mut self, mut rest: &[u8]) {
        let target = self.target.get_or_insert_default();
        while let [flags, length, after @ ..] = rest {
            let Some((text, next)) = after.split_at_checked(usize::from(*length)) else {
                return;
            };
            rest = next;
            if !target.is_empty() && !target.ends_with(b"/") && !self.target_continues {
                target.push(b'/');
            }
            self.target_continues = flags & 1 != 0;
            match flags & 0x0e {
                2 => target.push(b'.'),
                4 => target.extend_from_slice(b".."),
                8 => target.push(b'/'),
                _ => target.extend_from_slice(text),
            }
        }
    }
}

/// An ISO name without its version and the dot of an empty extension.
fn plain_name(name: &[u8]) -> Vec<u8> {
    let end = name.iter().position(|&b| b == b';').unwrap_or(name.len());
    let name = &name[..end];
    name.strip_suffix(b".").unwrap_or(name).to_vec()
}
