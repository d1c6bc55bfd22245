//! FAT16 images (Microsoft, *FAT32 File System Specification*, 1.03): what the
//! EFI system partition of a medium is written in.
//!
//! ```text
//! sector 0           boot sector with the BIOS parameter block
//! 1                  two FATs, 16-bit entries
//! …                  root directory, 512 entries
//! …                  1 KiB clusters: directories and files in the order of the tree, in one piece each
//! ```
//! The image is sized to its content and padded where it would be too small for
//! FAT16; FAT32 is out of reach on purpose, see [`MAX_SECTORS`]. Owners and modes
//! are not carried; anything else FAT has no word for is refused by path and
//! origin.
//!
//! The crate `fatfs` 0.3 reads every image back ([`verify`]), but does not write
//! it: it gives `.` and `..` long names, for which fsck.fat finds every
//! subdirectory damaged, and it keeps its clock for ever.

mod chains;
mod check;
mod directory;
mod read;
mod verify;

pub use read::{Volume, read};
pub use verify::verify;

use std::collections::HashMap;
use std::io::{self, Write};

use anyhow::{Context, Result, ensure};

use super::civil_time;
use crate::tree::{InodeId, Kind, Tree, display_path};
use directory::Record;

/// Bytes per sector.
pub const SECTOR: u64 = 512;

/// An El Torito entry counts its image in 16 bits of 512-byte sectors; xorriso
/// writes 0 for anything longer, which firmware reads as "up to the end". The
/// most that is a multiple of the CD's 2 KiB.
pub const MAX_SECTORS: u64 = 65_532;

const SECTORS_PER_CLUSTER: u64 = 2;
const CLUSTER: u64 = SECTOR * SECTORS_PER_CLUSTER;
const RESERVED: u64 = 1;
const FATS: u64 = 2;
const ROOT_ENTRIES: u64 = 512;
const ROOT_SECTORS: u64 = ROOT_ENTRIES * 32 / SECTOR;
/// Fewer than 4085 clusters would be FAT12; the specification (page 14) asks to
/// stay 16 away from the limit.
const MIN_CLUSTERS: u64 = 4085 + 16;
const FIRST_CLUSTER: u64 = 2;
const END_OF_CHAIN: u16 = 0xffff;
/// Room for what firmware or a user adds later (OVMF's `NvVars`, an edited menu), in clusters.
const SLACK: u64 = 128;
const ROUND_TO_SECTORS: u64 = (256 << 10) / SECTOR;

/// What an image carries besides its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Volume label, 1 to 11 of `[A-Z0-9_-]`.
    pub label: String,
    /// Volume serial number.
    pub volume_id: u32,
    /// The time of every file, seconds since 1970-01-01 UTC; FAT begins in 1980.
    pub timestamp: i64,
}

/// Writes the tree as a FAT image, front to back, every byte of it.
///
/// # Errors
/// Names and file types FAT does not carry, content of more than
/// [`MAX_SECTORS`], unreadable content, and failures of `out`.
pub fn write(tree: &Tree, options: &Options, out: &mut impl Write) -> Result<()> {
    let label = padded_label(&options.label)?;
    check::check(tree)?;
    let layout = Layout::new(tree)?;
    write_headers(&layout, options, &label, out).context("writing the FAT image")?;
    write_clusters(tree, &layout, options, out)
}

/// Where everything lies.
struct Layout {
    sectors: u64,
    sectors_per_fat: u64,
    clusters: u64,
    /// The FAT, from entry 0.
    fat: Vec<u16>,
    /// First cluster of every directory and file that has one.
    first: HashMap<InodeId, u16>,
    /// The entries of every directory but for the dots.
    directories: HashMap<InodeId, Vec<Record>>,
}

impl Layout {
    fn new(tree: &Tree) -> Result<Layout> {
        let mut layout = Layout {
            sectors: 0,
            sectors_per_fat: 0,
            clusters: 0,
            fat: vec![0xfff8, 0xffff],
            first: HashMap::new(),
            directories: HashMap::new(),
        };
        let mut used = FIRST_CLUSTER;
        for entry in tree.walk() {
            let path = || display_path(&entry.path);
            let bytes = match &entry.inode.kind {
                Kind::File(content) => content.len(),
                _ => {
                    let records = directory::records(tree, entry.id);
                    let entries = records.iter().map(|record| record.entries()).sum::<u64>();
                    layout.directories.insert(entry.id, records);
                    // Beside them the volume label, or `.` and `..`.
                    let (limit, dots) = if entry.id == Tree::ROOT { (ROOT_ENTRIES, 1) } else { (1 << 16, 2) };
                    ensure!(entries + dots <= limit, "the directory `/{}` is too large for FAT", path());
                    if entry.id == Tree::ROOT { 0 } else { (entries + dots) * 32 }
                }
            };
            let clusters = bytes.div_ceil(CLUSTER);
            if clusters > 0 && used + clusters <= MAX_SECTORS {
                layout.first.insert(entry.id, used as u16);
                layout.fat.extend((used + 1..used + clusters).map(|next| next as u16));
                layout.fat.push(END_OF_CHAIN);
            }
            used = used.checked_add(clusters).context("adding up the FAT image")?;
        }
        layout.set_size(used - FIRST_CLUSTER)?;
        Ok(layout)
    }

    fn set_size(&mut self, used: u64) -> Result<()> {
        let bytes = sectors_for(used) * SECTOR;
        let limit = MAX_SECTORS * SECTOR;
        ensure!(
            bytes <= limit,
            "the files of the FAT image need {bytes} bytes, but a CD's EFI boot image may have {limit}; \
             keep the kernel and the initramfs out of it"
        );
        let wanted = sectors_for((used + SLACK).max(MIN_CLUSTERS));
        self.sectors = wanted.next_multiple_of(ROUND_TO_SECTORS).min(MAX_SECTORS);
        // Rounding up made room for more clusters, and these for a larger FAT.
        self.sectors_per_fat = fat_sectors(used);
        loop {
            let data = self.sectors - RESERVED - FATS * self.sectors_per_fat - ROOT_SECTORS;
            self.clusters = data / SECTORS_PER_CLUSTER;
            if fat_sectors(self.clusters) <= self.sectors_per_fat {
                return Ok(());
            }
            self.sectors_per_fat += 1;
        }
    }
}

/// Sectors of a FAT for so many clusters.
fn fat_sectors(clusters: u64) -> u64 {
    ((clusters + FIRST_CLUSTER) * 2).div_ceil(SECTOR)
}

/// Sectors of an image with so many clusters.
fn sectors_for(clusters: u64) -> u64 {
    RESERVED + FATS * fat_sectors(clusters) + ROOT_SECTORS + clusters * SECTORS_PER_CLUSTER
}

fn write_headers(layout: &Layout, options: &Options, label: &[u8; 11], out: &mut impl Write) -> Result<()> {
    out.write_all(&boot_sector(layout, options, label))?;
    let mut fat: Vec<u8> = layout.fat.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    fat.resize((layout.sectors_per_fat * SECTOR) as usize, 0);
    for _ in 0..FATS {
        out.write_all(&fat)?;
    }
    let time = dos_time(options.timestamp);
    let mut root = directory::label(label, time).to_vec();
    root.extend(layout.table(Tree::ROOT, time));
    root.resize((ROOT_ENTRIES * 32) as usize, 0);
    out.write_all(&root)?;
    Ok(())
}

fn boot_sector(layout: &Layout, options: &Options, label: &[u8; 11]) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"MSWIN4.1");
    put(11, &(SECTOR as u16).to_le_bytes());
    put(13, &[SECTORS_PER_CLUSTER as u8]);
    put(14, &(RESERVED as u16).to_le_bytes());
    put(16, &[FATS as u8]);
    put(17, &(ROOT_ENTRIES as u16).to_le_bytes());
    put(19, &(layout.sectors as u16).to_le_bytes());
    put(21, &[0xf8]);
    put(22, &(layout.sectors_per_fat as u16).to_le_bytes());
    // The geometry isohybrid has too: 32 sectors a track, 64 heads.
    put(24, &32u16.to_le_bytes());
    put(26, &64u16.to_le_bytes());
    put(36, &[0x80, 0, 0x29]);
    put(39, &options.volume_id.to_le_bytes());
    put(43, label);
    put(54, b"FAT16   ");
    // A BIOS that starts the partition goes on to the next device: int 18h, then stay.
    put(62, &[0xcd, 0x18, 0xeb, 0xfe]);
    put(510, &[0x55, 0xaa]);
    sector
}

fn write_clusters(tree: &Tree, layout: &Layout, options: &Options, out: &mut impl Write) -> Result<()> {
    let time = dos_time(options.timestamp);
    let mut parents: HashMap<InodeId, InodeId> = HashMap::new();
    let mut written = 0;
    for entry in tree.walk() {
        let context = || format!("writing /{} into the FAT image", display_path(&entry.path));
        let length = match &entry.inode.kind {
            Kind::File(content) => {
                let copied = content.open().and_then(|mut reader| Ok(io::copy(&mut reader, out)?));
                let copied = copied.with_context(context)?;
                ensure!(copied == content.len(), "{content} gave {copied} bytes");
                copied
            }
            _ => {
                parents.extend(tree.entries(entry.id).into_iter().flatten().map(|(_, &id)| (id, entry.id)));
                let Some(parent) = parents.get(&entry.id) else {
                    continue; // The root directory lies before the clusters.
                };
                let mut table = directory::dots(layout.cluster(entry.id), layout.cluster(*parent), time);
                table.extend(layout.table(entry.id, time));
                out.write_all(&table).with_context(context)?;
                table.len() as u64
            }
        };
        let padded = length.next_multiple_of(CLUSTER);
        zeros(padded - length, out).with_context(context)?;
        written += padded;
    }
    // What rounding leaves over, a last half cluster included.
    let head = RESERVED + FATS * layout.sectors_per_fat + ROOT_SECTORS;
    zeros((layout.sectors - head) * SECTOR - written, out).context("writing the end of the FAT image")
}

impl Layout {
    /// First cluster; 0 for the root directory and for empty files.
    fn cluster(&self, id: InodeId) -> u16 {
        self.first.get(&id).copied().unwrap_or(0)
    }

    fn table(&self, directory: InodeId, time: [u8; 4]) -> Vec<u8> {
        let records = self.directories.get(&directory).into_iter().flatten();
        records.flat_map(|record| record.bytes(self.cluster(record.inode), time)).collect()
    }
}

fn zeros(length: u64, out: &mut impl Write) -> Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), length), out)?;
    Ok(())
}

fn padded_label(label: &str) -> Result<[u8; 11]> {
    let legal = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    ensure!(
        (1..=11).contains(&label.len()) && label.bytes().all(legal),
        "`{label}` is no FAT volume label: it wants 1 to 11 of A-Z, 0-9, `_` and `-`"
    );
    let mut padded = [b' '; 11];
    padded[..label.len()].copy_from_slice(label.as_bytes());
    Ok(padded)
}

/// The nearest moment FAT can say, as a time and a date of 16 bits each: from
/// 1980 to 2107, in steps of two seconds, in UTC.
fn dos_time(timestamp: i64) -> [u8; 4] {
    let t = civil_time(timestamp.clamp(315_532_800, 4_354_819_198));
    let time = u16::from(t.hour) << 11 | u16::from(t.minute) << 5 | (u16::from(t.second) / 2);
    let date = ((t.year - 1980) as u16) << 9 | u16::from(t.month) << 5 | u16::from(t.day);
    let ([a, b], [c, d]) = (time.to_le_bytes(), date.to_le_bytes());
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_clamped_to_what_fat_can_say() {
        let words = |t: i64| {
            let [a, b, c, d] = dos_time(t);
            (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
        };
        let first = (0, 1 << 5 | 1);
        let last = (23 << 11 | 59 << 5 | 29, 127 << 9 | 12 << 5 | 31);
        for (timestamp, expected) in [
            (i64::MIN, first),
            (0, first),
            (315_532_801, first),
            (315_532_802, (1, 1 << 5 | 1)),
            (1_767_225_600, (0, 46 << 9 | 1 << 5 | 1)),
            (i64::MAX, last),
        ] {
            assert_eq!(words(timestamp), expected, "{timestamp}");
        }
    }

    #[test]
    fn every_size_is_fat16_with_room_for_its_table() {
        for used in 0..32_600 {
            let mut layout = Layout {
                sectors: 0,
                sectors_per_fat: 0,
                clusters: 0,
                fat: Vec::new(),
                first: HashMap::new(),
                directories: HashMap::new(),
            };
            layout.set_size(used).unwrap();
            assert!(layout.clusters >= used.max(MIN_CLUSTERS) && layout.clusters < 65_525, "{used}");
            assert!(fat_sectors(layout.clusters) <= layout.sectors_per_fat, "{used}");
            assert!(sectors_for(layout.clusters) <= layout.sectors + 2 * FATS, "{used}");
            assert!(layout.sectors.is_multiple_of(4) && layout.sectors <= MAX_SECTORS, "{used}");
        }
    }
}
