//! FAT16 and FAT32 images (Microsoft, *FAT32 File System Specification*, 1.03):
//! the EFI system partition of an ISO, and the partition of a disk image.
//!
//! ```text
//! FAT16                                        FAT32
//! sector 0  boot sector                        boot sector, FSInfo; copies of both at 6; 32 sectors
//! 1         two FATs, 16-bit entries           two FATs, 32-bit entries, a multiple of 4 KiB each
//! …         root directory, 512 entries
//! …         1 KiB clusters                     clusters of the specification's size, the root directory first
//! ```
//! Directories and files follow in the order of the tree, in one piece each. An
//! image is sized to its content and padded where it would be too small for its
//! kind; see [`MAX_SECTORS`] for the most of a FAT16. Owners and modes are not
//! carried; anything else FAT has no word for is refused by path and origin.
//!
//! The crate `fatfs` 0.3 reads every image back ([`verify`]), but does not write
//! it: it gives `.` and `..` long names, for which fsck.fat finds every
//! subdirectory damaged, and it keeps its clock for ever.

mod chains;
mod check;
mod directory;
mod headers;
mod layout;
mod read;
mod verify;

pub use read::{NoBootSector, Volume, read};
pub use verify::{verify, verify_in};

use std::collections::HashMap;
use std::io::{self, Write};

use anyhow::{Context, Result, ensure};

use super::civil_time;
use crate::tree::{InodeId, Kind, Tree, display_path};
use layout::Layout;

/// Bytes per sector.
pub const SECTOR: u64 = 512;

/// An El Torito entry counts its image in 16 bits of 512-byte sectors; xorriso
/// writes 0 for anything longer, which firmware reads as "up to the end". The
/// most that is a multiple of the CD's 2 KiB.
pub const MAX_SECTORS: u64 = 65_532;

const FATS: u64 = 2;
const FIRST_CLUSTER: u64 = 2;

/// What an image carries besides its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Volume label, 1 to 11 of `[A-Z0-9_-]`.
    pub label: String,
    /// Volume serial number.
    pub volume_id: u32,
    /// The time of every file, seconds since 1970-01-01 UTC; FAT begins in 1980.
    pub timestamp: i64,
    /// Which FAT, for which place.
    pub kind: FatKind,
}

/// The two FATs that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FatKind {
    /// Small enough for El Torito.
    Fat16,
    /// The partition of a disk.
    Fat32 {
        /// 512-byte blocks of the disk before the volume.
        hidden_sectors: u32,
    },
}

/// Writes the tree as a FAT image, front to back, every byte of it.
///
/// # Errors
/// Names and file types FAT does not carry, files of 4 GiB, content of more than
/// [`MAX_SECTORS`] for FAT16, unreadable content, and failures of `out`.
pub fn write(tree: &Tree, options: &Options, out: &mut impl Write) -> Result<()> {
    let label = padded_label(&options.label)?;
    check::check(tree)?;
    let layout = Layout::new(tree, options.kind)?;
    headers::write(&layout, options, &label, out).context("writing the FAT image")?;
    write_clusters(tree, &layout, options, &label, out)
}

fn write_clusters(
    tree: &Tree,
    layout: &Layout,
    options: &Options,
    label: &[u8; 11],
    out: &mut impl Write,
) -> Result<()> {
    let time = dos_time(options.timestamp);
    let cluster_size = layout.shape.cluster();
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
                let table = match parents.get(&entry.id) {
                    Some(parent) => {
                        let mut table =
                            directory::dots(layout.cluster(entry.id), layout.dot_dot(*parent), time);
                        table.extend(layout.table(entry.id, time));
                        table
                    }
                    None if layout.shape.root_sectors == 0 => layout.root_table(label, time),
                    None => continue, // FAT16's root directory lies before the clusters.
                };
                out.write_all(&table).with_context(context)?;
                table.len() as u64
            }
        };
        let padded = length.next_multiple_of(cluster_size);
        zeros(padded - length, out).with_context(context)?;
        written += padded;
    }
    // What rounding leaves over, a last half cluster included.
    zeros((layout.sectors - layout.head()) * SECTOR - written, out)
        .context("writing the end of the FAT image")
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
}
