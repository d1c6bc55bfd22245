//! Reading FAT12, FAT16 and FAT32 images of any maker into a [`Tree`].
//!
//! The crate `fatfs` cannot do this for foreign bytes: cluster numbers below 2
//! make it overflow. Untrusted input: every cluster belongs to one file, so
//! neither loops nor memory can grow beyond the image. Left out: times, volume
//! labels of the root directory, exFAT.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};

use super::FIRST_CLUSTER;
use crate::format::field;
use crate::tree::{Content, Meta, OriginId, Tree, display_path};

/// Larger allocation tables than this belong to no system partition (bytes).
const MAX_TABLE: u64 = 64 << 20;
/// Bytes of all files in scattered clusters, and of one directory.
const MAX_SCATTERED: u64 = 64 << 20;
const MAX_DEPTH: usize = 64;

/// The error of bytes that are no FAT volume at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoBootSector;

impl std::fmt::Display for NoBootSector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("there is no FAT boot sector")
    }
}

impl std::error::Error for NoBootSector {}

const DELETED: u8 = 0xe5;
const VOLUME_LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;

/// What the boot sector says.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Volume {
    /// 12, 16 or 32 bits of a cluster number.
    pub bits: u8,
    /// Clusters; FAT32 is to have at least 65525, and firmware may go by that.
    pub clusters: u64,
    /// Who made it, by its own account: `mkfs.fat`, `MTOO4043` (mformat), `MSDOS5.0`.
    pub maker: String,
    /// Bytes of the volume, by its own account.
    pub length: u64,
    /// Bytes of a cluster.
    pub cluster_size: u32,
    /// Label in the boot sector, padding removed.
    pub label: String,
    /// Serial number.
    pub serial: u32,
}

/// Reads the volume that begins at `offset` of a file and has at most `limit`
/// bytes there; the file must stay while the tree lives.
///
/// # Errors
/// No FAT boot sector, a volume larger than `limit`, damaged chains and names.
pub fn read(path: &Path, offset: u64, limit: u64) -> Result<(Volume, Tree)> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, offset).context("reading the boot sector")?;
    let geometry = Geometry::parse(&sector)?;
    ensure!(
        geometry.volume.length <= limit,
        "the FAT volume has {} bytes, its place only {limit}",
        geometry.volume.length
    );
    ensure!(geometry.table_length <= MAX_TABLE, "the allocation table has {} bytes", geometry.table_length);
    let mut table = vec![0; geometry.table_length as usize];
    file.read_exact_at(&mut table, offset + geometry.table).context("reading the allocation table")?;
    let mut tree = Tree::new();
    let origin = tree.add_origin("FAT volume");
    let used = vec![false; geometry.clusters as usize + 2];
    let volume = geometry.volume.clone();
    let path = Arc::new(path.to_path_buf());
    let mut reading = Reading { file, path, offset, geometry, table, tree, origin, used, scattered: 0 };
    let root = reading.root().context("reading the root directory")?;
    let mut pending = vec![(Vec::new(), root)];
    while let Some((path, bytes)) = pending.pop() {
        let shown = display_path(&path);
        let below = reading.directory(&path, &bytes).with_context(|| format!("reading /{shown}"))?;
        pending.extend(below);
    }
    Ok((volume, reading.tree))
}

struct Geometry {
    volume: Volume,
    /// Byte positions from the start of the volume.
    table: u64,
    table_length: u64,
    root: u64,
    root_length: u64,
    root_cluster: u32,
    data: u64,
    clusters: u64,
}

impl Geometry {
    fn parse(sector: &[u8; 512]) -> Result<Geometry> {
        let u16_at = |at| u64::from(field::u16_at(sector, at));
        let u32_at = |at| field::u32_at(sector, at);
        let (bytes, per_cluster) = (u16_at(11), u64::from(sector[13]));
        let plausible = [512, 1024, 2048, 4096].contains(&bytes)
            && per_cluster.is_power_of_two()
            && matches!(sector[16], 1 | 2)
            && sector[510..] == [0x55, 0xaa];
        ensure!(plausible, NoBootSector);
        let either = |small: u64, large: u64| if small != 0 { small } else { large };
        let sectors = either(u16_at(19), u64::from(u32_at(32)));
        let table_sectors = either(u16_at(22), u64::from(u32_at(36)));
        let table = u16_at(14) * bytes;
        let root = table + u64::from(sector[16]) * table_sectors * bytes;
        let root_length = (u16_at(17) * 32).next_multiple_of(bytes);
        let (data, length) = (root + root_length, sectors * bytes);
        ensure!(table_sectors != 0 && data < length, "the FAT volume has no room for data");
        let clusters = (length - data) / (per_cluster * bytes);
        // Small FAT32 volumes, against the specification, are made by many; Linux and EDK II go by this field.
        let is_fat32 = u16_at(22) == 0;
        let bits = match clusters {
            _ if is_fat32 => 32,
            ..4085 => 12,
            _ => 16,
        };
        let needed = (clusters + 2) * bits / 8;
        ensure!(table_sectors * bytes >= needed, "the allocation table is shorter than the volume");
        let label = if bits == 32 { &sector[71..82] } else { &sector[43..54] };
        let volume = Volume {
            bits: bits as u8,
            clusters,
            maker: String::from_utf8_lossy(&sector[3..11]).trim_end_matches([' ', '\0']).to_string(),
            length,
            cluster_size: (per_cluster * bytes) as u32,
            label: String::from_utf8_lossy(label).trim_end_matches([' ', '\0']).to_string(),
            serial: u32_at(if bits == 32 { 67 } else { 39 }),
        };
        let root_cluster = if bits == 32 { u32_at(44) } else { 0 };
        let table_length = needed.next_multiple_of(bytes).min(table_sectors * bytes);
        Ok(Geometry { volume, table, table_length, root, root_length, root_cluster, data, clusters })
    }
}

/// A directory still to be read: path and bytes.
type Pending = (Vec<u8>, Vec<u8>);

struct Reading {
    file: File,
    path: Arc<PathBuf>,
    offset: u64,
    geometry: Geometry,
    table: Vec<u8>,
    tree: Tree,
    origin: OriginId,
    used: Vec<bool>,
    /// Bytes held in memory for files in pieces.
    scattered: u64,
}

impl Reading {
    fn root(&mut self) -> Result<Vec<u8>> {
        if self.geometry.root_cluster != 0 {
            let chain = self.chain(self.geometry.root_cluster)?;
            return self.gather(&chain, None);
        }
        let mut bytes = vec![0; self.geometry.root_length as usize];
        self.file.read_exact_at(&mut bytes, self.offset + self.geometry.root)?;
        Ok(bytes)
    }

    /// The entry of a cluster in the allocation table.
    fn next(&self, cluster: u32) -> Option<u32> {
        let n = cluster as usize;
        let byte = |at: usize| self.table.get(at).map(|&b| u32::from(b));
        match self.geometry.volume.bits {
            12 => {
                let at = n + n / 2;
                let pair = byte(at)? | byte(at + 1)? << 8;
                Some(if n % 2 == 1 { pair >> 4 } else { pair & 0xfff })
            }
            16 => Some(byte(2 * n)? | byte(2 * n + 1)? << 8),
            _ => {
                let four = self.table.get(4 * n..4 * n + 4)?;
                Some(field::u32_at(four, 0) & 0x0fff_ffff)
            }
        }
    }

    fn chain(&mut self, first: u32) -> Result<Vec<u32>> {
        let end = (1u32 << self.geometry.volume.bits.min(28)) - 8;
        let (mut chain, mut cluster) = (Vec::new(), first);
        while cluster < end {
            let used = self.used.get_mut(cluster as usize).filter(|_| u64::from(cluster) >= FIRST_CLUSTER);
            let used = used.with_context(|| format!("cluster {cluster} does not exist"))?;
            ensure!(!*used, "cluster {cluster} belongs to two files");
            *used = true;
            chain.push(cluster);
            cluster = self.next(cluster).context("the allocation table is too short")?;
        }
        Ok(chain)
    }

    fn position(&self, cluster: u32) -> u64 {
        let index = u64::from(cluster) - FIRST_CLUSTER;
        self.offset + self.geometry.data + index * u64::from(self.geometry.volume.cluster_size)
    }

    /// The bytes of a chain, cut to `length` if it is known.
    fn gather(&self, chain: &[u32], length: Option<u64>) -> Result<Vec<u8>> {
        let size = u64::from(self.geometry.volume.cluster_size);
        let length = length.unwrap_or(chain.len() as u64 * size);
        ensure!(length <= MAX_SCATTERED, "it has {length} bytes in scattered clusters");
        let mut bytes = vec![0; length as usize];
        for (part, &cluster) in bytes.chunks_mut(size as usize).zip(chain) {
            self.file.read_exact_at(part, self.position(cluster)).context("reading a cluster")?;
        }
        Ok(bytes)
    }

    fn content(&mut self, first: u32, length: u64) -> Result<Content> {
        if length == 0 {
            return Ok(Content::bytes(Vec::new()));
        }
        let chain = self.chain(first)?;
        let size = u64::from(self.geometry.volume.cluster_size);
        ensure!(chain.len() as u64 * size >= length, "its chain of clusters is too short");
        if chain.windows(2).all(|pair| pair[1] == pair[0] + 1) {
            let offset = self.position(chain[0]);
            return Ok(Content::Slice { file: self.path.clone(), offset, length });
        }
        self.scattered += length;
        ensure!(
            self.scattered <= MAX_SCATTERED,
            "files in scattered clusters have more than {MAX_SCATTERED} bytes"
        );
        self.gather(&chain, Some(length)).map(Content::bytes)
    }

    fn directory(&mut self, path: &[u8], bytes: &[u8]) -> Result<Vec<Pending>> {
        ensure!(path.iter().filter(|&&b| b == b'/').count() < MAX_DEPTH, "it is too deep");
        let mut below = Vec::new();
        let mut long = LongName::default();
        for record in bytes.chunks_exact(32) {
            match (record[0], record[11]) {
                (0, _) => break,
                (DELETED, _) => long = LongName::default(),
                (_, LONG_NAME) => long.push(record),
                (_, attributes) if attributes & VOLUME_LABEL != 0 => long = LongName::default(),
                (b'.', _) => {}
                (_, attributes) => {
                    let name = std::mem::take(&mut long).finish(record);
                    let is_directory = attributes & DIRECTORY != 0;
                    let shown = display_path(&name);
                    let found = self.name(path, &name, record, is_directory);
                    below.extend(found.with_context(|| format!("reading `{shown}`"))?);
                }
            }
        }
        Ok(below)
    }

    fn name(
        &mut self,
        parent: &[u8],
        name: &[u8],
        record: &[u8],
        is_directory: bool,
    ) -> Result<Option<Pending>> {
        let mut path = parent.to_vec();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        if self.tree.get(&path).is_some() {
            bail!("the directory has this name twice");
        }
        let half = |at| u32::from(field::u16_at(record, at));
        let high = if self.geometry.volume.bits == 32 { half(20) } else { 0 };
        let first = high << 16 | half(26);
        if is_directory {
            self.tree.add_directory(&path, Meta::mode(0o755), self.origin)?;
            let chain = self.chain(first)?;
            return Ok(Some((path, self.gather(&chain, None)?)));
        }
        let length = u64::from(field::u32_at(record, 28));
        let content = self.content(first, length)?;
        self.tree.add_file(&path, content, Meta::mode(0o644), self.origin)?;
        Ok(None)
    }
}

/// The records of a long name, which come last part first.
#[derive(Default)]
struct LongName {
    units: Vec<u16>,
    sum: u8,
}

impl LongName {
    fn push(&mut self, record: &[u8]) {
        let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
        let mut units: Vec<u16> = places.iter().map(|&at| field::u16_at(record, at)).collect();
        if record[0] & 0x40 != 0 {
            self.units.clear();
        }
        self.sum = record[13];
        // 20 records hold the 255 characters a name may have.
        if self.units.len() < 20 * places.len() {
            units.append(&mut self.units);
            self.units = units;
        }
    }

    /// The long name if it belongs to this record, else the short one, in small letters where marked so.
    fn finish(self, record: &[u8]) -> Vec<u8> {
        let sum = record[..11].iter().fold(0u8, |sum, &b| sum.rotate_right(1).wrapping_add(b));
        if !self.units.is_empty() && sum == self.sum {
            let end = self.units.iter().position(|&unit| unit == 0).unwrap_or(self.units.len());
            return String::from_utf16_lossy(&self.units[..end]).into_bytes();
        }
        let part = |range: std::ops::Range<usize>, small: bool| {
            let text = record[range].trim_ascii_end();
            if small { text.to_ascii_lowercase() } else { text.to_vec() }
        };
        let mut name = part(0..8, record[12] & 0x08 != 0);
        if name.first() == Some(&0x05) {
            name[0] = DELETED;
        }
        let extension = part(8..11, record[12] & 0x10 != 0);
        if !extension.is_empty() {
            name.push(b'.');
            name.extend(extension);
        }
        name
    }
}
