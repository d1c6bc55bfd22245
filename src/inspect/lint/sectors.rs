//! What boot code and partition editors read besides the tables themselves:
//! where the first loader lies, what is in each partition, which FAT the ESP has.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Inspection, Verdict, fail, judge, not_applicable, pass, warn};
use crate::format::field::u32_at;
use crate::format::iso9660::SECTOR;
use crate::inspect::{BLOCK, Format, MbrPartition};

const ACTIVE: u8 = 0x80;
const ESP: u8 = 0xef;
const PROTECTIVE: u8 = 0xee;
/// FAT32 is to have at least so many clusters (Microsoft, *FAT32 File System Specification*).
const LEAST_FAT32: u64 = 65525;
/// El Torito counts 2 KiB sectors, the MBR 512-byte blocks.
const BLOCKS: u64 = SECTOR / BLOCK;

/// Partitions share no block; an ISO may have its ESP inside the partition of its volume.
pub(super) fn overlap(it: &Inspection) -> Verdict {
    let is_partition = |p: &&MbrPartition| p.entry.kind != PROTECTIVE && p.entry.blocks > 1;
    let all: Vec<&MbrPartition> = it.mbr.iter().flatten().filter(is_partition).collect();
    if all.is_empty() {
        return not_applicable("the MBR has no partition");
    }
    let range = |p: &MbrPartition| {
        let start = u64::from(p.entry.start);
        (start, start + u64::from(p.entry.blocks))
    };
    let (mut problems, mut nested) = (Vec::new(), None);
    for (n, one) in all.iter().enumerate() {
        for other in &all[n + 1..] {
            let ((a, b), (c, d)) = (range(one), range(other));
            if b <= c || d <= a {
                continue;
            }
            let (inner, is_inside) =
                if one.entry.kind == ESP { (one, c <= a && b <= d) } else { (other, a <= c && d <= b) };
            if it.format == Format::Iso && !it.is_ours() && inner.entry.kind == ESP && is_inside {
                nested = Some(inner.slot);
            } else {
                problems.push(format!("MBR partitions {} and {} overlap", one.slot, other.slot));
            }
        }
    }
    let good = match nested {
        None => "no two partitions share a block".to_string(),
        Some(slot) => {
            format!("partition {slot} lies inside the ISO's, which partition editors refuse to edit")
        }
    };
    judge(problems, "let xorriso append the ESP behind the volume: -append_partition 2 0xef", good)
}

/// The partition of the volume can be mounted if it has volume descriptors of its own.
pub(super) fn iso_partition(it: &Inspection) -> Verdict {
    let is_volume = |p: &&MbrPartition| {
        p.entry.status == ACTIVE && !matches!(p.entry.kind, ESP | PROTECTIVE) && p.entry.start > 0
    };
    let found = it.mbr.iter().flatten().find(is_volume).filter(|_| it.format == Format::Iso);
    let Some(partition) = found else {
        return not_applicable("no partition begins behind the volume's descriptors");
    };
    let mut mark = [0; 5];
    let at = u64::from(partition.entry.start) * BLOCK + 16 * SECTOR + 1;
    let is_read = File::open(&it.path).and_then(|file| file.read_exact_at(&mut mark, at)).is_ok();
    if is_read && &mark == b"CD001" {
        return pass(format!("partition {} has volume descriptors of its own", partition.slot));
    }
    let reason =
        format!("partition {} has no volume descriptor: only the whole stick can be mounted", partition.slot);
    let remedy = "let xorriso write them: -partition_offset 16";
    if it.is_ours() { fail(reason, remedy) } else { warn(reason, remedy) }
}

/// The MBR's code of ISOLINUX and of GRUB has the place of the next stage at byte 432.
pub(super) fn mbr_loader(it: &Inspection) -> Verdict {
    let mut code = [0; 440];
    if let Err(error) = File::open(&it.path).and_then(|file| file.read_exact_at(&mut code, 0)) {
        return fail(format!("sector 0 cannot be read: {error}"), "read the medium again");
    }
    let has = |text: &[u8]| code.windows(text.len()).any(|window| window == text);
    let image = it.el_torito.iter().find(|entry| entry.platform == 0 && entry.bootable);
    let beyond = match image {
        Some(_) if has(b"isolinux.bin missing or corrupt") => 0,
        // GRUB's first sector is El Torito's alone.
        Some(_) if has(b"GRUB ") => 4,
        _ => return not_applicable("the MBR holds neither ISOLINUX's nor GRUB's code for El Torito's image"),
    };
    let expected = image.map(|entry| u64::from(entry.sector) * BLOCKS + beyond).unwrap_or_default();
    let found = u64::from(u32_at(&code, 432)) | u64::from(u32_at(&code, 436)) << 32;
    if found == expected {
        return pass(format!("it goes on at block {found}"));
    }
    fail(
        format!(
            "the MBR's code goes on at block {found}, but its loader is at {expected}: no stick boots by BIOS"
        ),
        "let xorriso write the boot code with the ISO: -isohybrid-mbr or --grub2-mbr",
    )
}

/// Which FAT the ESP has, and who made it.
pub(super) fn esp_format(it: &Inspection) -> Verdict {
    let Some(esp) = &it.esp else {
        return not_applicable("no EFI system partition was read");
    };
    let fat = &esp.volume;
    let remedy = "make it with mkfs.fat: -F 16 below 36 MiB, -F 32 above";
    let judged = |reason| if it.is_ours() { fail(reason, remedy) } else { warn(reason, remedy) };
    if fat.bits == 32 && fat.clusters < LEAST_FAT32 {
        let reason = format!(
            "FAT32 with {} clusters: firmware that goes by their number takes it for FAT16",
            fat.clusters
        );
        return judged(reason);
    }
    if fat.maker.starts_with("MTOO") {
        return judged("made by mformat, whose file systems some firmware does not read".to_string());
    }
    match fat.bits {
        12 if it.is_ours() => fail("FAT12, which some firmware does not read", remedy),
        12 => pass("FAT12, which UEFI asks of firmware on removable media only"),
        bits => pass(format!("FAT{bits} with {} clusters", fat.clusters)),
    }
}
