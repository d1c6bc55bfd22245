//! Whether a written medium is what its options ask for. xorriso reports what
//! it believes to have written; this reads the bytes firmware will read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::read::{BootMedium, CatalogEntry, MbrEntry, SECTOR, read};
use super::{Bios, Options};
use crate::format::field::u32_at;
use crate::plan::IsoLayout;

const BIOS: u8 = 0x00;
const UEFI: u8 = 0xef;
const ACTIVE: u8 = 0x80;
const ESP: u8 = 0xef;
const PROTECTIVE: u8 = 0xee;
/// 512-byte blocks a CD sector.
const BLOCKS: u64 = 4;
/// `-partition_offset`, where the second volume descriptors follow, in sectors.
const PARTITION_OFFSET: u64 = 16;

/// Checks the boot structures of a finished medium against its options.
///
/// # Errors
/// The first thing that is not as asked for.
pub fn verify(path: &Path, options: &Options) -> Result<()> {
    let medium = read(path)?;
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    check_volume(&file, &medium, options)?;
    check_partitions(&medium, options)?;
    let platforms: Vec<u8> = medium.catalog.iter().map(|entry| entry.platform).collect();
    let mut expected = Vec::new();
    expected.extend(options.bios.is_some().then_some(BIOS));
    expected.extend(options.efi_image.is_some().then_some(UEFI));
    ensure!(platforms == expected, "El Torito serves platforms {platforms:02x?}, not {expected:02x?}");
    for entry in &medium.catalog {
        ensure!(
            entry.bootable && entry.emulation == 0,
            "an El Torito entry is not plainly bootable: {entry:?}"
        );
    }
    if let (Some(bios), Some(entry)) = (&options.bios, find(&medium, BIOS)) {
        check_bios(&file, bios, options.layout, entry)?;
    }
    if let (Some(image), Some(entry)) = (&options.efi_image, find(&medium, UEFI)) {
        check_efi(&file, &medium, options, image, entry)?;
    }
    Ok(())
}

fn find(medium: &BootMedium, platform: u8) -> Option<&CatalogEntry> {
    medium.catalog.iter().find(|entry| entry.platform == platform)
}

fn check_volume(file: &File, medium: &BootMedium, options: &Options) -> Result<()> {
    let volume = &medium.volume;
    let bytes = u64::from(volume.sectors) * SECTOR;
    ensure!(
        bytes == medium.length,
        "the volume says it has {bytes} bytes, but the file has {}; Ventoy would call it corrupted",
        medium.length
    );
    let pairs = [
        ("volume id", &volume.id, options.volume_id.clone()),
        ("publisher", &volume.publisher, options.publisher.to_uppercase()),
        ("application", &volume.application, options.application.to_uppercase()),
        ("preparer", &volume.preparer, "LIVEISO".to_string()),
        ("modification date", &volume.modified, options.volume_date.clone()),
    ];
    for (what, found, expected) in pairs {
        let expected = expected.trim_end();
        ensure!(found == expected, "the {what} is `{found}`, not `{expected}`");
    }
    if options.layout == IsoLayout::CdOnly {
        return Ok(());
    }
    let second = bytes_at(file, (16 + PARTITION_OFFSET) * SECTOR, 6)?;
    ensure!(second == b"\x01CD001", "the first partition has no volume descriptor of its own");
    Ok(())
}

fn check_partitions(medium: &BootMedium, options: &Options) -> Result<()> {
    if options.layout == IsoLayout::CdOnly {
        ensure!(medium.mbr.is_none(), "sector 0 has an MBR signature, but the medium is for discs only");
        return Ok(());
    }
    let Some(entries) = medium.mbr else {
        bail!("sector 0 has no MBR signature");
    };
    let used: Vec<MbrEntry> = entries.into_iter().filter(|entry| entry.blocks != 0).collect();
    for (i, one) in used.iter().enumerate() {
        let end = u64::from(one.start) + u64::from(one.blocks);
        ensure!(end * 512 <= medium.length, "partition {one:?} ends behind the file");
        for other in &used[i + 1..] {
            let apart = end <= u64::from(other.start)
                || u64::from(other.start) + u64::from(other.blocks) <= u64::from(one.start);
            ensure!(apart, "partitions {one:?} and {other:?} overlap");
        }
    }
    let active: Vec<&MbrEntry> = used.iter().filter(|entry| entry.status == ACTIVE).collect();
    if has_valid_gpt(options) {
        ensure!(used.iter().any(|entry| entry.kind == PROTECTIVE), "no MBR entry protects the GPT");
    }
    if options.bios.is_none() {
        ensure!(active.is_empty(), "a partition is active, but no BIOS can boot the medium");
        return Ok(());
    }
    let [first] = active[..] else {
        bail!("{} partitions are active; a BIOS wants exactly one", active.len());
    };
    // The dummy beside a valid GPT is where nothing else is.
    let expected = if options.layout == IsoLayout::Gpt { 0 } else { PARTITION_OFFSET * BLOCKS };
    ensure!(
        u64::from(first.start) == expected,
        "the active partition starts at block {}, not where its volume descriptor expects it",
        first.start
    );
    Ok(())
}

/// Firmware must take the GPT for one; the hybrid layout's is invalid on purpose.
fn has_valid_gpt(options: &Options) -> bool {
    match options.layout {
        IsoLayout::Hybrid => options.bios.is_none(),
        IsoLayout::Gpt => true,
        IsoLayout::CdOnly => false,
    }
}

/// The BIOS image must know where it lies (boot info table), and the MBR must hold its code.
fn check_bios(file: &File, bios: &Bios, layout: IsoLayout, entry: &CatalogEntry) -> Result<()> {
    ensure!(entry.blocks == 4, "El Torito loads {} blocks of the BIOS image, not 4", entry.blocks);
    let table = bytes_at(file, u64::from(entry.sector) * SECTOR + 8, 16)?;
    let (volume, image, length) = (u32_at(&table, 0), u32_at(&table, 4), u32_at(&table, 8));
    ensure!(volume == 16, "the boot info table expects the volume descriptor in sector {volume}");
    ensure!(image == entry.sector, "the boot info table says sector {image}, El Torito {}", entry.sector);
    ensure!((64..1 << 20).contains(&length), "the boot info table says the image has {length} bytes");
    let bytes = bytes_at(file, u64::from(image) * SECTOR, length as usize)?;
    let sum = boot_info_sum(&bytes);
    ensure!(sum == Some(u32_at(&table, 12)), "the boot info table's checksum is wrong");
    if layout == IsoLayout::CdOnly {
        return Ok(());
    }
    // isohybrid code reads the image's position at 432 (512-byte blocks).
    let mbr = bytes_at(file, 0, 440)?;
    ensure!(mbr[..bios.mbr.len()] == bios.mbr[..], "the MBR does not hold the boot code");
    let start = u32_at(&mbr, 432);
    ensure!(
        u64::from(start) == u64::from(image) * BLOCKS,
        "the MBR expects the BIOS image at block {start}, it is at sector {image}"
    );
    Ok(())
}

/// The sum of a boot image's words behind its boot info table, which ends at byte 64; `None` if it is shorter.
pub fn boot_info_sum(image: &[u8]) -> Option<u32> {
    let sum = |sum: u32, word: &[u8]| {
        let mut padded = [0; 4];
        padded[..word.len()].copy_from_slice(word);
        sum.wrapping_add(u32::from_le_bytes(padded))
    };
    Some(image.get(64..)?.chunks(4).fold(0, sum))
}

/// El Torito and the ESP's partition must both mean the bytes of the FAT image.
fn check_efi(
    file: &File,
    medium: &BootMedium,
    options: &Options,
    image: &Path,
    entry: &CatalogEntry,
) -> Result<()> {
    let expected = std::fs::read(image).with_context(|| format!("reading {}", image.display()))?;
    let blocks = u64::from(entry.blocks);
    ensure!(
        blocks * 512 >= expected.len() as u64 && blocks * 512 < expected.len() as u64 + SECTOR,
        "El Torito gives {blocks} blocks to the EFI image of {} bytes",
        expected.len()
    );
    let found = bytes_at(file, u64::from(entry.sector) * SECTOR, expected.len())?;
    ensure!(found == expected, "El Torito's EFI image is not the FAT image that was given");
    if options.layout == IsoLayout::CdOnly {
        return Ok(());
    }
    if has_valid_gpt(options) {
        return check_gpt(file, options, u64::from(entry.sector) * BLOCKS);
    }
    let Some(esp) = medium.mbr.into_iter().flatten().find(|entry| entry.kind == ESP) else {
        bail!("the MBR has no EFI system partition");
    };
    ensure!(
        u64::from(esp.start) == u64::from(entry.sector) * BLOCKS && u64::from(esp.blocks) >= blocks,
        "the EFI system partition {esp:?} is not El Torito's EFI image at sector {}",
        entry.sector
    );
    Ok(())
}

/// The crate `gpt` must find the table valid, and the ESP where El Torito has it.
fn check_gpt(file: &File, options: &Options, esp_start: u64) -> Result<()> {
    let disk = gpt::GptConfig::new().open_from_device(file).context("reading the GPT")?;
    let found = disk.guid().to_string();
    ensure!(found == options.disk_guid, "the GPT's disk GUID is {found}, not {}", options.disk_guid);
    let starts: Vec<u64> = disk
        .partitions()
        .values()
        .filter(|partition| partition.part_type_guid == gpt::partition_types::EFI)
        .map(|partition| partition.first_lba)
        .collect();
    ensure!(
        starts == [esp_start],
        "the GPT has EFI system partitions at blocks {starts:?}, not at {esp_start}"
    );
    Ok(())
}

/// Exactly `length` bytes; the caller bounds it.
fn bytes_at(file: &File, offset: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, offset).with_context(|| format!("reading {length} bytes at {offset}"))?;
    Ok(bytes)
}
