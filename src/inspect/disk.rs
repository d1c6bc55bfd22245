//! File systems of a disk image's partitions, or of a whole disk without any.
//!
//! FAT is read, for it is what firmware and loaders read; squashfs and EROFS are
//! root images; others are named by their marks. Left out: logical partitions,
//! RAID, LVM, sectors of 4096 bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::{BLOCK, Inspection};
use crate::format::fat;
use crate::tree::{Content, Tree};

/// Marks of file systems: byte from the start, bytes, name.
const MARKS: [(u64, &[u8], &str); 11] = [
    (0, b"hsqs", "squashfs"),
    (1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"),
    (1080, &[0x53, 0xef], "ext4"),
    (3, b"NTFS    ", "ntfs"),
    (3, b"EXFAT   ", "exfat"),
    (0x1_0040, b"_BHRfS_M", "btrfs"),
    (0, b"XFSB", "xfs"),
    (1024, &[0x10, 0x20, 0xf5, 0xf2], "f2fs"),
    (0, b"LUKS\xba\xbe", "luks"),
    (4086, b"SWAPSPACE2", "swap"),
    (32769, b"CD001", "iso9660"),
];

/// MBR types that are no partitions of their own: empty, extended, a GPT's guard.
const NO_PARTITIONS: [u8; 5] = [0x00, 0x05, 0x0f, 0x85, PROTECTIVE];
const PROTECTIVE: u8 = 0xee;
/// The MBR's type of an EFI system partition.
const ESP: u8 = 0xef;

/// A file system of a disk image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileSystem {
    /// `partition 1`, by the table that counts, or `disk` when there is none.
    pub place: String,
    /// First 512-byte block.
    pub start: u64,
    /// 512-byte blocks of the place.
    pub blocks: u64,
    /// `fat12`, `fat16`, `fat32`, `squashfs`, `erofs`, `ext4` for all of its family …; `unknown`.
    pub format: String,
    /// Label of a FAT; empty without one.
    pub label: String,
    /// Files of a FAT, directories not counted.
    pub files: usize,
    /// Whether the table calls it an EFI system partition.
    pub esp: bool,
}

/// A FAT volume that was read.
pub(super) struct Fat {
    pub start: u64,
    pub volume: fat::Volume,
    pub tree: Tree,
    /// By the table.
    pub esp: bool,
}

/// What was found on a disk.
#[derive(Default)]
pub(super) struct Found {
    pub file_systems: Vec<FileSystem>,
    pub fats: Vec<Fat>,
    /// Partitions that are root images, by place.
    pub images: Vec<(String, Content)>,
    pub damage: Vec<String>,
}

/// Name, first block and number of blocks, and whether it is an ESP, of the partitions
/// by the table that firmware would take.
fn places(it: &Inspection) -> Vec<(String, u64, u64, bool)> {
    // A damaged GPT that the MBR refers to is still the one to look at.
    let protective = it.mbr.iter().flatten().any(|partition| partition.entry.kind == PROTECTIVE);
    if let Some(gpt) = it.gpt.as_ref().filter(|gpt| gpt.is_valid() || protective) {
        let partitions = gpt.partitions.iter();
        return partitions.map(|p| (format!("partition {}", p.slot), p.start, p.blocks, p.esp)).collect();
    }
    let used = it.mbr.iter().flatten().filter(|p| !NO_PARTITIONS.contains(&p.entry.kind));
    let place = |p: &super::MbrPartition| {
        (format!("partition {}", p.slot), p.entry.start.into(), p.entry.blocks.into(), p.entry.kind == ESP)
    };
    used.map(place).collect()
}

/// Reads a disk that has no partitions but one file system from its first block, as
/// floppy disks have and `mformat` makes them.
pub(super) fn whole(path: &Path, length: u64) -> Option<Found> {
    let (volume, tree) = fat::read(path, 0, length).ok()?;
    let mut found = Found::default();
    found.add_fat("disk".to_string(), (0, length / BLOCK), false, volume, tree);
    Some(found)
}

/// Looks into every partition.
pub(super) fn partitions(it: &Inspection, file: &File) -> Found {
    let mut found = Found::default();
    for (place, start, blocks, esp) in places(it) {
        let Some(offset) = start.checked_mul(BLOCK).filter(|&offset| offset < it.length) else {
            found.damage.push(format!("{place}: block {start} is outside the file"));
            continue;
        };
        let length = blocks.saturating_mul(BLOCK).min(it.length - offset);
        found.look(&it.path, file, place, (start, offset, length), esp);
    }
    found
}

impl Found {
    fn look(
        &mut self,
        path: &Path,
        file: &File,
        place: String,
        (start, offset, length): (u64, u64, u64),
        esp: bool,
    ) {
        let has = |at: u64, mark: &[u8]| {
            let mut bytes = vec![0; mark.len()];
            at + mark.len() as u64 <= length
                && file.read_exact_at(&mut bytes, offset + at).is_ok()
                && bytes == mark
        };
        let mark = MARKS.iter().find(|(at, mark, _)| has(*at, mark)).map(|(.., name)| *name);
        if mark.is_none() && (esp || has(510, &[0x55, 0xaa])) {
            match fat::read(path, offset, length) {
                Ok((volume, tree)) => {
                    self.add_fat(place, (start, length / BLOCK), esp, volume, tree);
                    return;
                }
                // Boot sectors of other systems end in 55 AA too; an ESP has to be FAT.
                Err(error) if esp || !error.is::<fat::NoBootSector>() => {
                    self.damage.push(format!("{place}: {error:#}"));
                }
                Err(_) => {}
            }
        }
        if matches!(mark, Some("squashfs" | "erofs")) {
            let content = Content::Slice { file: Arc::new(path.to_path_buf()), offset, length };
            self.images.push((place.clone(), content));
        }
        self.file_systems.push(FileSystem {
            place,
            start,
            blocks: length / BLOCK,
            format: mark.unwrap_or("unknown").to_string(),
            label: String::new(),
            files: 0,
            esp,
        });
    }

    fn add_fat(
        &mut self,
        place: String,
        (start, blocks): (u64, u64),
        esp: bool,
        volume: fat::Volume,
        tree: Tree,
    ) {
        self.file_systems.push(FileSystem {
            place,
            start,
            blocks,
            format: format!("fat{}", volume.bits),
            label: volume.label.clone(),
            files: super::file_entries(&tree).len(),
            esp,
        });
        self.fats.push(Fat { start, volume, tree, esp });
    }

    /// The volume that UEFI starts: by the table, else the first with a loader where removable media have it.
    pub(super) fn esp(&self) -> Option<usize> {
        let has_loader = |fat: &Fat| {
            let files = super::file_entries(&fat.tree);
            files.iter().any(|file| file.path.to_ascii_lowercase().starts_with("/efi/boot/boot"))
        };
        self.fats.iter().position(|fat| fat.esp).or_else(|| self.fats.iter().position(has_loader))
    }

    /// The volume with the system: that with the most bytes of files.
    pub(super) fn medium(&self) -> Option<usize> {
        let bytes = |fat: &Fat| super::file_entries(&fat.tree).iter().map(|file| file.length).sum::<u64>();
        let most = self.fats.iter().map(bytes).max()?;
        self.fats.iter().position(|fat| bytes(fat) == most)
    }
}
