//! Where everything of an image lies.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};

use super::directory::{self, Record};
use super::{FATS, FIRST_CLUSTER, FatKind, MAX_SECTORS, SECTOR};
use crate::tree::{InodeId, Kind, Tree, display_path};

const ROOT_ENTRIES: u64 = 512;
/// Room for what firmware or a user adds later (OVMF's `NvVars`, an edited menu), in bytes.
const SLACK: u64 = 128 << 10;
/// Limits of FAT12 and FAT16; the specification (page 14) asks to stay 16 away from them.
const FAT12_CLUSTERS: u64 = 4085;
const FAT16_CLUSTERS: u64 = 65_525;
const MARGIN: u64 = 16;
/// Cluster numbers have 28 bits, and the last ones mean something else.
const FAT32_CLUSTERS: u64 = 0x0fff_fff5;
/// FAT32's sectors a cluster, for volumes of at most so many sectors (specification, page 20).
const FAT32_SIZES: [(u64, u64); 4] =
    [(1, 532_480), (8, 16_777_216), (16, 33_554_432), (32, u32::MAX as u64 - 4096)];

/// What distinguishes the kinds of FAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub kind: FatKind,
    /// Sectors before the first FAT.
    pub reserved: u64,
    /// Sectors of a root directory outside the clusters.
    pub root_sectors: u64,
    pub sectors_per_cluster: u64,
    min_clusters: u64,
    max_sectors: u64,
    /// The volume is a multiple of so many sectors.
    round_to: u64,
    /// So is a FAT.
    round_fat_to: u64,
}

impl Shape {
    pub(super) const FAT16: Shape = Shape {
        kind: FatKind::Fat16,
        reserved: 1,
        root_sectors: ROOT_ENTRIES * 32 / SECTOR,
        sectors_per_cluster: 2,
        min_clusters: FAT12_CLUSTERS + MARGIN,
        max_sectors: MAX_SECTORS,
        round_to: (256 << 10) / SECTOR,
        round_fat_to: 1,
    };

    pub(super) fn fat32(kind: FatKind, sectors_per_cluster: u64, max_sectors: u64) -> Shape {
        Shape {
            kind,
            reserved: 32,
            root_sectors: 0,
            sectors_per_cluster,
            min_clusters: FAT16_CLUSTERS + MARGIN,
            max_sectors,
            round_to: (1 << 20) / SECTOR,
            round_fat_to: 8,
        }
    }

    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        self.sectors_per_cluster * SECTOR
    }

    /// Bytes of an entry of the FAT.
    fn entry(&self) -> u64 {
        if self.kind == FatKind::Fat16 { 2 } else { 4 }
    }

    /// Sectors of a FAT for so many clusters.
    fn fat_sectors(&self, clusters: u64) -> u64 {
        ((clusters + FIRST_CLUSTER) * self.entry()).div_ceil(SECTOR).next_multiple_of(self.round_fat_to)
    }

    fn head(&self, sectors_per_fat: u64) -> u64 {
        self.reserved + FATS * sectors_per_fat + self.root_sectors
    }

    /// Sectors of an image with so many clusters.
    fn sectors_for(&self, clusters: u64) -> u64 {
        self.head(self.fat_sectors(clusters)) + clusters * self.sectors_per_cluster
    }
}

/// Where everything lies.
pub(super) struct Layout {
    pub shape: Shape,
    /// Of the whole volume.
    pub sectors: u64,
    pub sectors_per_fat: u64,
    pub clusters: u64,
    /// The FAT, from entry 0, as FAT32 has it.
    pub fat: Vec<u32>,
    /// First cluster of every directory and file that has one.
    first: HashMap<InodeId, u32>,
    /// The entries of every directory but for the dots.
    directories: HashMap<InodeId, Vec<Record>>,
}

/// The end of a chain, and the first entry but for the media byte.
const END_OF_CHAIN: u32 = 0x0fff_ffff;

impl Layout {
    pub(super) fn new(tree: &Tree, kind: FatKind) -> Result<Layout> {
        if kind == FatKind::Fat16 {
            return Layout::shaped(tree, Shape::FAT16);
        }
        for (sectors_per_cluster, max_sectors) in FAT32_SIZES {
            let shape = Shape::fat32(kind, sectors_per_cluster, max_sectors);
            let is_last = sectors_per_cluster == FAT32_SIZES[FAT32_SIZES.len() - 1].0;
            // A rough count first, so that no large FAT is made in vain.
            let bytes: u64 = tree.walk().map(|entry| content_length(&entry.inode.kind)).sum();
            if is_last || bytes / SECTOR < max_sectors {
                let layout = Layout::shaped(tree, shape);
                if is_last || layout.is_ok() {
                    return layout;
                }
            }
        }
        unreachable!("the last size returns")
    }

    fn shaped(tree: &Tree, shape: Shape) -> Result<Layout> {
        let mut layout = Layout {
            shape,
            sectors: 0,
            sectors_per_fat: 0,
            clusters: 0,
            fat: vec![0x0fff_fff8, END_OF_CHAIN],
            first: HashMap::new(),
            directories: HashMap::new(),
        };
        let mut used = FIRST_CLUSTER;
        for entry in tree.walk() {
            let clusters = layout.bytes_of(tree, &entry)?.div_ceil(shape.cluster());
            used = used.checked_add(clusters).context("adding up the FAT image")?;
            if clusters > 0 && used * shape.sectors_per_cluster <= shape.max_sectors && used <= FAT32_CLUSTERS
            {
                let first = (used - clusters) as u32;
                layout.first.insert(entry.id, first);
                layout.fat.extend(first + 1..used as u32);
                layout.fat.push(END_OF_CHAIN);
            }
        }
        layout.set_size(used - FIRST_CLUSTER)?;
        Ok(layout)
    }

    /// Bytes of a file or directory in the clusters.
    fn bytes_of(&mut self, tree: &Tree, entry: &crate::tree::Entry<'_>) -> Result<u64> {
        let path = || display_path(&entry.path);
        let Kind::Directory(_) = &entry.inode.kind else {
            let length = content_length(&entry.inode.kind);
            ensure!(u32::try_from(length).is_ok(), "`/{}` has {length} bytes, FAT takes 4294967295", path());
            return Ok(length);
        };
        let records = directory::records(tree, entry.id);
        let entries = records.iter().map(|record| record.entries()).sum::<u64>();
        self.directories.insert(entry.id, records);
        let is_root = entry.id == Tree::ROOT;
        let is_apart = is_root && self.shape.root_sectors != 0;
        // Beside them the volume label, or `.` and `..`.
        let (limit, more) = (if is_apart { ROOT_ENTRIES } else { 1 << 16 }, if is_root { 1 } else { 2 });
        ensure!(entries + more <= limit, "the directory `/{}` is too large for FAT", path());
        Ok(if is_apart { 0 } else { (entries + more) * 32 })
    }

    fn set_size(&mut self, used: u64) -> Result<()> {
        let shape = self.shape;
        let (bytes, limit) = (shape.sectors_for(used) * SECTOR, shape.max_sectors * SECTOR);
        if shape.kind == FatKind::Fat16 {
            ensure!(
                bytes <= limit,
                "the files of the FAT image need {bytes} bytes, but a CD's EFI boot image may have {limit}; \
                 keep the kernel and the initramfs out of it"
            );
        }
        ensure!(bytes <= limit, "the files need {bytes} bytes, but such a FAT volume may have {limit}");
        let wanted = shape.sectors_for((used + SLACK / shape.cluster()).max(shape.min_clusters));
        self.sectors = wanted.next_multiple_of(shape.round_to).min(shape.max_sectors);
        // Rounding up made room for more clusters, and these for a larger FAT.
        self.sectors_per_fat = shape.fat_sectors(used);
        loop {
            self.clusters = (self.sectors - self.head()) / shape.sectors_per_cluster;
            if shape.fat_sectors(self.clusters) <= self.sectors_per_fat {
                return Ok(());
            }
            self.sectors_per_fat += shape.round_fat_to;
        }
    }

    /// Sectors before the clusters.
    pub(super) fn head(&self) -> u64 {
        self.shape.head(self.sectors_per_fat)
    }

    /// Clusters that hold something.
    pub(super) fn used(&self) -> u64 {
        self.fat.len() as u64 - FIRST_CLUSTER
    }

    /// First cluster; 0 for FAT16's root directory and for empty files.
    pub(super) fn cluster(&self, id: InodeId) -> u32 {
        self.first.get(&id).copied().unwrap_or(0)
    }

    /// What `..` names: 0 for the root directory, of FAT32 too.
    pub(super) fn dot_dot(&self, parent: InodeId) -> u32 {
        if parent == Tree::ROOT { 0 } else { self.cluster(parent) }
    }

    pub(super) fn table(&self, directory: InodeId, time: [u8; 4]) -> Vec<u8> {
        let records = self.directories.get(&directory).into_iter().flatten();
        records.flat_map(|record| record.bytes(self.cluster(record.inode), time)).collect()
    }

    /// The root directory, with the volume label.
    pub(super) fn root_table(&self, label: &[u8; 11], time: [u8; 4]) -> Vec<u8> {
        let mut table = directory::label(label, time).to_vec();
        table.extend(self.table(Tree::ROOT, time));
        table
    }
}

fn content_length(kind: &Kind) -> u64 {
    match kind {
        Kind::File(content) => content.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(shape: Shape, used: u64) -> Layout {
        let mut layout = Layout {
            shape,
            sectors: 0,
            sectors_per_fat: 0,
            clusters: 0,
            fat: Vec::new(),
            first: HashMap::new(),
            directories: HashMap::new(),
        };
        layout.set_size(used).unwrap();
        layout
    }

    #[test]
    fn every_size_is_fat16_with_room_for_its_table() {
        for used in 0..32_600 {
            let layout = sized(Shape::FAT16, used);
            let shape = layout.shape;
            assert!(
                layout.clusters >= used.max(shape.min_clusters) && layout.clusters < FAT16_CLUSTERS,
                "{used}"
            );
            assert!(shape.fat_sectors(layout.clusters) <= layout.sectors_per_fat, "{used}");
            assert!(shape.sectors_for(layout.clusters) <= layout.sectors + 2 * FATS, "{used}");
            assert!(layout.sectors.is_multiple_of(4) && layout.sectors <= MAX_SECTORS, "{used}");
        }
    }

    #[test]
    fn every_fat32_has_enough_clusters_and_room_for_its_table() {
        for (sectors_per_cluster, max_sectors) in FAT32_SIZES {
            let shape =
                Shape::fat32(FatKind::Fat32 { hidden_sectors: 2048 }, sectors_per_cluster, max_sectors);
            let most = max_sectors / sectors_per_cluster;
            let least = most * 99 / 100;
            for used in
                [0, 1, 65_524, 65_525, 65_541, 70_000, most / 2].into_iter().filter(|&used| used < least)
            {
                let layout = sized(shape, used);
                assert!(layout.clusters >= used.max(FAT16_CLUSTERS + MARGIN), "{used}");
                assert!(shape.fat_sectors(layout.clusters) <= layout.sectors_per_fat, "{used}");
                assert!(layout.sectors.is_multiple_of(2048) && layout.sectors <= max_sectors, "{used}");
                assert!(layout.head().is_multiple_of(8), "{used}");
            }
        }
    }
}
