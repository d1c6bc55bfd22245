//! What firmware sees of a medium: volume descriptor, El Torito catalog, MBR.
//!
//! ECMA-119 §8.4 (primary volume descriptor), El Torito 1.0 §2 (boot catalog),
//! the PC's partition table. Little-endian throughout. Untrusted input: every
//! read is bounded and every field checked before it is used. GPT and the
//! directory tree are not read.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::format::field::{u16_at, u32_at};

/// Bytes of a CD sector.
pub const SECTOR: u64 = 2048;

const DESCRIPTORS: u64 = 16;
const PARTITION_TABLE: usize = 446;
const CATALOG_ENTRY: usize = 32;

/// A medium, as firmware reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootMedium {
    /// Bytes of the whole file.
    pub length: u64,
    /// The primary volume descriptor.
    pub volume: Volume,
    /// The four MBR entries, or `None` without the signature 55 AA.
    pub mbr: Option<[MbrEntry; 4]>,
    /// Start of the El Torito catalog, in 2 KiB sectors; 0 without one.
    pub catalog_sector: u32,
    /// El Torito entries in the order of the catalog.
    pub catalog: Vec<CatalogEntry>,
}

/// The parts of a primary volume descriptor we write.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Volume {
    /// Volume id, padding removed.
    pub id: String,
    /// Publisher id, padding removed.
    pub publisher: String,
    /// Preparer id, padding removed.
    pub preparer: String,
    /// Application id, padding removed.
    pub application: String,
    /// Size in 2 KiB sectors.
    pub sectors: u32,
    /// Modification date, 16 digits.
    pub modified: String,
}

/// One partition of the MBR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MbrEntry {
    /// 0x80 is active.
    pub status: u8,
    /// Partition type; 0xEF is an EFI system partition, 0xEE protects a GPT.
    pub kind: u8,
    /// First 512-byte block.
    pub start: u32,
    /// Number of 512-byte blocks; 0 is an unused entry.
    pub blocks: u32,
    /// Head, sector and cylinder of the first block, as BIOSes of old go by.
    #[serde(skip)]
    pub first_chs: (u8, u8, u16),
}

/// One bootable image of the El Torito catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CatalogEntry {
    /// 0x00 is a PC BIOS, 0xEF is UEFI.
    pub platform: u8,
    /// Whether the entry is marked bootable (0x88).
    pub bootable: bool,
    /// Emulated medium; 0 is none.
    pub emulation: u8,
    /// 512-byte blocks to load; for UEFI the size of the image.
    pub blocks: u16,
    /// First 2 KiB sector of the image.
    pub sector: u32,
}

/// Reads the boot structures of a medium.
///
/// # Errors
/// When the file cannot be read or is no well-formed ISO 9660 volume.
pub fn read(path: &Path) -> Result<BootMedium> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let length = (&file).seek(SeekFrom::End(0)).context("asking for the file's size")?;
    let volume = parse_volume(&sector(&file, DESCRIPTORS)?)?;
    let mbr = parse_mbr(&sector(&file, 0)?);
    let (catalog_sector, catalog) = match parse_boot_record(&sector(&file, DESCRIPTORS + 1)?) {
        Some(at) => (at, parse_catalog(&sector(&file, u64::from(at))?)?),
        None => (0, Vec::new()),
    };
    Ok(BootMedium { length, volume, mbr, catalog_sector, catalog })
}

fn sector(file: &File, number: u64) -> Result<[u8; SECTOR as usize]> {
    let mut bytes = [0; SECTOR as usize];
    file.read_exact_at(&mut bytes, number * SECTOR).with_context(|| format!("reading sector {number}"))?;
    Ok(bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches([' ', '\0']).to_string()
}

fn parse_volume(descriptor: &[u8; SECTOR as usize]) -> Result<Volume> {
    ensure!(descriptor[..7] == *b"\x01CD001\x01", "sector 16 is no ISO 9660 primary volume descriptor");
    let sectors = u32_at(descriptor, 80);
    let twin = u32::from_be_bytes([descriptor[84], descriptor[85], descriptor[86], descriptor[87]]);
    ensure!(
        sectors == twin,
        "the volume's size is {sectors} sectors in one byte order and {twin} in the other"
    );
    ensure!(u16_at(descriptor, 128) == 2048, "the volume's blocks do not have 2048 bytes");
    Ok(Volume {
        id: text(&descriptor[40..72]),
        publisher: text(&descriptor[318..446]),
        preparer: text(&descriptor[446..574]),
        application: text(&descriptor[574..702]),
        sectors,
        modified: text(&descriptor[830..846]),
    })
}

/// The four entries of sector 0, or `None` without the signature 55 AA.
pub fn parse_mbr(block: &[u8; SECTOR as usize]) -> Option<[MbrEntry; 4]> {
    if block[510..512] != [0x55, 0xaa] {
        return None;
    }
    Some([0, 1, 2, 3].map(|slot| {
        let entry = &block[PARTITION_TABLE + 16 * slot..][..16];
        let cylinder = u16::from(entry[3]) | u16::from(entry[2] >> 6) << 8;
        MbrEntry {
            status: entry[0],
            kind: entry[4],
            start: u32_at(entry, 8),
            blocks: u32_at(entry, 12),
            first_chs: (entry[1], entry[2] & 0x3f, cylinder),
        }
    }))
}

/// The catalog's sector, if sector 17 is an El Torito boot record.
fn parse_boot_record(record: &[u8; SECTOR as usize]) -> Option<u32> {
    let header = b"\x00CD001\x01EL TORITO SPECIFICATION";
    (record[..header.len()] == *header).then(|| u32_at(record, 71))
}

/// Entries of the catalog's first sector; more than 63 are no catalog we write.
fn parse_catalog(catalog: &[u8; SECTOR as usize]) -> Result<Vec<CatalogEntry>> {
    let sum = catalog[..CATALOG_ENTRY]
        .chunks_exact(2)
        .fold(0u16, |sum, word| sum.wrapping_add(u16::from_le_bytes([word[0], word[1]])));
    ensure!(
        catalog[0] == 1 && catalog[30..32] == [0x55, 0xaa] && sum == 0,
        "the El Torito catalog has no valid validation entry"
    );
    let mut entries = catalog.chunks_exact(CATALOG_ENTRY).skip(1);
    let first = entries.next().context("the El Torito catalog is empty")?;
    let mut found = vec![parse_entry(first, catalog[1])?];
    while let Some(header) = entries.next() {
        let last = match header[0] {
            0x90 => false,
            0x91 => true,
            0 => break,
            other => bail!("the El Torito catalog has a section header {other:#04x}"),
        };
        for _ in 0..u16_at(header, 2) {
            let entry = entries.next().context("the El Torito catalog ends within a section")?;
            found.push(parse_entry(entry, header[1])?);
        }
        if last {
            break;
        }
    }
    Ok(found)
}

fn parse_entry(entry: &[u8], platform: u8) -> Result<CatalogEntry> {
    let bootable = match entry[0] {
        0x88 => true,
        0x00 => false,
        other => bail!("the El Torito catalog has an entry marked {other:#04x}"),
    };
    Ok(CatalogEntry {
        platform,
        bootable,
        emulation: entry[1] & 0x0f,
        blocks: u16_at(entry, 6),
        sector: u32_at(entry, 8),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> [u8; SECTOR as usize] {
        let mut bytes = [0; SECTOR as usize];
        bytes[0] = 1;
        bytes[30..32].copy_from_slice(&[0x55, 0xaa]);
        let sum = 0u16.wrapping_sub(1).wrapping_sub(0xaa55);
        bytes[28..30].copy_from_slice(&sum.to_le_bytes());
        bytes[32..44].copy_from_slice(&[0x88, 0, 0, 0, 0, 0, 4, 0, 67, 0, 0, 0]);
        bytes[64..68].copy_from_slice(&[0x91, 0xef, 1, 0]);
        bytes[96..108].copy_from_slice(&[0x88, 0, 0, 0, 0, 0, 0, 0x40, 0, 8, 0, 0]);
        bytes
    }

    #[test]
    fn reads_a_catalog_for_bios_and_uefi() {
        let bios = CatalogEntry { platform: 0, bootable: true, emulation: 0, blocks: 4, sector: 67 };
        let uefi =
            CatalogEntry { platform: 0xef, bootable: true, emulation: 0, blocks: 0x4000, sector: 2048 };
        assert_eq!(parse_catalog(&catalog()).unwrap(), [bios, uefi]);
    }

    #[test]
    fn a_damaged_catalog_never_panics() {
        for at in 0..128 {
            for value in [0, 1, 0x7f, 0x88, 0x90, 0x91, 0xff] {
                let mut bytes = catalog();
                bytes[at] = value;
                if let Ok(entries) = parse_catalog(&bytes) {
                    assert!(entries.len() < 64);
                }
            }
        }
        let mut endless = catalog();
        endless[66..68].copy_from_slice(&[0xff, 0xff]);
        for entry in endless[96..].chunks_exact_mut(32) {
            entry[0] = 0x88;
        }
        let error = parse_catalog(&endless).unwrap_err().to_string();
        assert_eq!(error, "the El Torito catalog ends within a section");
    }

    #[test]
    fn an_mbr_without_its_signature_is_none() {
        let mut block = [0; SECTOR as usize];
        assert_eq!(parse_mbr(&block), None);
        block[510..512].copy_from_slice(&[0x55, 0xaa]);
        block[446..462].copy_from_slice(&[0x80, 2, 0xc1, 1, 0xef, 0, 0, 0, 64, 0, 0, 0, 0, 1, 0, 0]);
        let used = MbrEntry { status: 0x80, kind: 0xef, start: 64, blocks: 256, first_chs: (2, 1, 769) };
        let unused = MbrEntry { status: 0, kind: 0, start: 0, blocks: 0, first_chs: (0, 0, 0) };
        assert_eq!(parse_mbr(&block), Some([used, unused, unused, unused]));
    }
}
