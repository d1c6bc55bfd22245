//! Disk images: a partition table and one FAT32 partition, for sticks whose rest
//! is to be used.
//!
//! ```text
//! block 0      MBR: boot code, disk signature, table (GPT: the protective one, UEFI 2.10 §5.2.3,
//!              and an active dummy, as [`super::iso9660`] has it)
//! 1            GPT: header and entries, by the crate `gpt`
//! 2048         the partition: FAT32 to the end, in whole MiB
//! …            GPT: entries and header again, in one MiB of their own
//! ```
//! 2048 blocks are a cylinder of 64 heads and 32 sectors, the geometry that BIOSes
//! give Zip drives (and isohybrid its sticks), so partitions begin and end on
//! cylinders. The boot sector of the FAT is its file system's; see
//! [`crate::boot::syslinux`] for one that starts something.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use gpt::partition::{Partition, PartitionAttributes};

use super::fat;
use crate::plan::DiskImage;
use crate::tree::Tree;

/// Bytes of a block.
pub const BLOCK: u64 = 512;
/// First block of the partition.
pub const START: u32 = 2048;
const HEADS: u32 = 64;
const SECTORS: u32 = 32;
/// Blocks behind the partition that hold the second GPT.
const BACKUP: u32 = 2048;

const ACTIVE: u8 = 0x80;
const PROTECTIVE: u8 = 0xee;

/// What a disk image carries besides its files.
#[derive(Clone, Debug)]
pub struct Options {
    /// The partition table.
    pub table: DiskImage,
    /// Boot code of the MBR, at most 440 bytes; empty for none.
    pub boot_code: Vec<u8>,
    /// What tells disks with an MBR apart.
    pub signature: u32,
    /// GPT disk GUID; the partition's is the next one.
    pub disk_guid: String,
    /// Label, serial number and time of the file system.
    pub fat: fat::Options,
}

/// Writes the tree as a disk image to `out`, replacing it.
///
/// # Errors
/// What FAT cannot hold, boot code that is too long, more than 2 TiB, failures of writing.
pub fn write(tree: &Tree, options: &Options, out: &Path) -> Result<()> {
    ensure!(options.boot_code.len() <= 440, "the boot code has {} bytes, not 440", options.boot_code.len());
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(out)
        .with_context(|| format!("creating {}", out.display()))?;
    file.seek(SeekFrom::Start(u64::from(START) * BLOCK))?;
    let mut buffered = BufWriter::with_capacity(1 << 20, &file);
    let kind = fat::FatKind::Fat32 { hidden_sectors: START };
    fat::write(tree, &fat::Options { kind, ..options.fat.clone() }, &mut buffered)?;
    buffered.flush().context("writing the disk image")?;
    drop(buffered);
    let end = file.stream_position()? / BLOCK;
    let end = u32::try_from(end).ok().filter(|end| end.checked_add(BACKUP).is_some());
    let end = end.context("the disk image is too large for its partition table")?;
    if options.table == DiskImage::Gpt {
        file.set_len(u64::from(end + BACKUP) * BLOCK).context("making room for the second GPT")?;
    }
    file.write_all_at(&mbr(options, end), 0).context("writing the MBR")?;
    if options.table == DiskImage::Gpt {
        write_gpt(&file, options, end).context("writing the GPT")?;
    }
    verify(out, tree, options).with_context(|| format!("checking {}", out.display()))
}

/// Sector 0 for a partition that ends before block `end`.
fn mbr(options: &Options, end: u32) -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..options.boot_code.len()].copy_from_slice(&options.boot_code);
    sector[440..444].copy_from_slice(&options.signature.to_le_bytes());
    let mut set = |slot: usize, entry: [u8; 16]| sector[446 + 16 * slot..][..16].copy_from_slice(&entry);
    match options.table {
        DiskImage::Mbr => set(0, entry(ACTIVE, 0xef, START, end - 1)),
        DiskImage::UsbZip => set(3, entry(ACTIVE, 0x0c, START, end - 1)),
        DiskImage::Gpt => {
            let mut protective = entry(0, PROTECTIVE, 1, end + BACKUP - 1);
            protective[1..4].copy_from_slice(&[0, 2, 0]);
            set(0, protective);
            // Some BIOSes offer no stick without an active entry; one of type 0 is no partition to anybody else.
            set(1, entry(ACTIVE, 0, 0, 0));
        }
    }
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

/// An entry for blocks `first` to `last`.
fn entry(status: u8, kind: u8, first: u32, last: u32) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[0] = status;
    entry[1..4].copy_from_slice(&chs(first));
    entry[4] = kind;
    entry[5..8].copy_from_slice(&chs(last));
    entry[8..12].copy_from_slice(&first.to_le_bytes());
    entry[12..16].copy_from_slice(&(last - first + 1).to_le_bytes());
    entry
}

/// Head, sector and cylinder of a block; the greatest for what lies beyond.
fn chs(block: u32) -> [u8; 3] {
    let (cylinder, rest) = (block / (HEADS * SECTORS), block % (HEADS * SECTORS));
    if cylinder > 1023 {
        return [0xfe, 0xff, 0xff];
    }
    let sector = (rest % SECTORS + 1) | (cylinder >> 8) << 6;
    [(rest / SECTORS) as u8, sector as u8, cylinder as u8]
}

fn write_gpt(file: &File, options: &Options, end: u32) -> Result<()> {
    let guid = uuid::Uuid::parse_str(&options.disk_guid).context("the disk GUID")?;
    let config = gpt::GptConfig::new().writable(true).change_partition_count(true);
    let mut disk = config.create_from_device(file, Some(guid))?;
    let esp = Partition {
        part_type_guid: gpt::partition_types::EFI,
        part_guid: uuid::Uuid::from_u128(guid.as_u128().wrapping_add(1)),
        first_lba: START.into(),
        last_lba: u64::from(end) - 1,
        // gptmbr.bin starts the partition that says so.
        flags: PartitionAttributes::BOOTABLE.bits(),
        name: "EFI system partition".to_string(),
    };
    disk.update_partitions(BTreeMap::from([(1, esp)]))?;
    disk.write()?;
    Ok(())
}

/// Whether the image is what was asked for: its table by what firmware reads, the
/// GPT by the crate `gpt`, the files by our reader.
///
/// # Errors
/// The first thing that is not as asked for.
pub fn verify(path: &Path, tree: &Tree, options: &Options) -> Result<()> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let blocks = file.metadata()?.len() / BLOCK;
    let end = if options.table == DiskImage::Gpt { blocks.saturating_sub(BACKUP.into()) } else { blocks };
    let end = u32::try_from(end).ok().filter(|&end| end > START && end.is_multiple_of(HEADS * SECTORS));
    let Some(end) = end else {
        bail!("its {blocks} blocks are no whole cylinders with a partition");
    };
    let mut sector = [0; 512];
    file.read_exact_at(&mut sector, 0).context("reading sector 0")?;
    ensure!(sector == mbr(options, end), "sector 0 is not the MBR that was written");
    if options.table == DiskImage::Gpt {
        let disk = gpt::GptConfig::new().open_from_device(&file).context("reading the GPT")?;
        disk.primary_header().context("reading the first GPT")?;
        disk.backup_header().context("reading the second GPT")?;
        let found: Vec<(u64, u64)> =
            disk.partitions().values().map(|part| (part.first_lba, part.last_lba)).collect();
        ensure!(found == [(START.into(), u64::from(end) - 1)], "the GPT has the partitions {found:?}");
        ensure!(disk.guid().to_string() == options.disk_guid, "the GPT's disk GUID is {}", disk.guid());
    }
    let length = u64::from(end - START) * BLOCK;
    fat::verify_in(path, u64::from(START) * BLOCK, length, tree)
}

/// The files of a disk image as [`write()`] makes them; `None` for an ISO, hybrid or not.
///
/// # Errors
/// A file that cannot be read, and one that is neither.
pub fn read_tree(path: &Path) -> Result<Option<Tree>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut mark = [0; 5];
    let is_read = file.read_exact_at(&mut mark, 16 * 2048 + 1).is_ok();
    if is_read && &mark == b"CD001" {
        return Ok(None);
    }
    let volume = u64::from(START) * BLOCK;
    let length = file.metadata().context("asking for its size")?.len();
    let limit = length.checked_sub(volume).context("it is neither an ISO nor a disk image")?;
    let (_, tree) = fat::read(path, volume, limit).context("it is neither an ISO nor a disk image")?;
    Ok(Some(tree))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_a_head_a_sector_and_a_cylinder() {
        for (block, expected) in [
            (0, [0, 1, 0]),
            (31, [0, 32, 0]),
            (32, [1, 1, 0]),
            (2048, [0, 1, 1]),
            (2048 * 300 - 1, [63, 32 | 1 << 6, 43]),
            (2048 * 1024 - 1, [63, 32 | 3 << 6, 255]),
            (2048 * 1024, [0xfe, 0xff, 0xff]),
        ] {
            assert_eq!(chs(block), expected, "{block}");
        }
    }
}
