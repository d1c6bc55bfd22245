//! The structures firmware reads before any file: volume, partitions, El Torito.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{Inspection, Verdict, fail, judge, not_applicable, pass, warn};
use crate::format::fat;
use crate::format::field::u32_at;
use crate::format::iso9660::{self, CatalogEntry, SECTOR};
use crate::inspect::{BLOCK, Format, UEFI};

const ACTIVE: u8 = 0x80;
const ESP: u8 = 0xef;
const PROTECTIVE: u8 = 0xee;
/// No ISOLINUX is larger (bytes).
const MAX_ISOLINUX: usize = 1 << 20;
/// A FAT label has 11 characters; Rufus and copying tools cut longer ones.
const LABEL_LENGTH: usize = 11;

pub(super) fn readable(it: &Inspection) -> Verdict {
    let remedy = "build or download the ISO again; if it was made so, its maker has to mend it";
    judge(it.damage.clone(), remedy, "everything that was looked at could be read")
}

pub(super) fn length(it: &Inspection) -> Verdict {
    let Some(volume) = &it.volume else {
        return match it.length.is_multiple_of(BLOCK) {
            true => pass(format!("{} blocks of 512 bytes", it.length / BLOCK)),
            false => fail(
                format!("the file's {} bytes are no multiple of 512", it.length),
                "the disk image is cut off: make or download it again",
            ),
        };
    };
    let said = u64::from(volume.sectors) * SECTOR;
    let remedy = "let the writer of the ISO count everything it writes: xorriso with -append_partition does, padding and \
                  isohybrid(1) afterwards do not";
    if !it.length.is_multiple_of(SECTOR) {
        return fail(format!("the file's {} bytes are no multiple of 2048", it.length), remedy);
    }
    if said != it.length {
        return fail(
            format!(
                "the volume says {said} bytes, the file has {}: Ventoy asks whether it is corrupted",
                it.length
            ),
            remedy,
        );
    }
    pass(format!("{said} bytes, as the volume says"))
}

pub(super) fn volume_id(it: &Inspection) -> Verdict {
    let Some(volume) = &it.volume else {
        return not_applicable("a disk image has no volume id");
    };
    let id = &volume.id;
    let legal = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if (1..=LABEL_LENGTH).contains(&id.len()) && id.bytes().all(legal) {
        return pass(format!("`{id}` survives as a FAT label"));
    }
    let reason = format!("`{id}` is not 1 to 11 of A-Z, 0-9 and _: a copy to a FAT stick changes it");
    let remedy = "choose a volume id of at most 11 of A-Z, 0-9 and _";
    if it.is_ours() { fail(reason, remedy) } else { warn(reason, remedy) }
}

/// Whether the medium was made for discs and nothing else.
fn is_for_discs_only(it: &Inspection) -> bool {
    it.mbr.is_none() && it.gpt.is_none() && !it.boot_code && !it.el_torito.is_empty()
}

pub(super) fn partition_table(it: &Inspection) -> Verdict {
    if is_for_discs_only(it) {
        let reason = "no partition table: for discs only, written to a stick it does not boot";
        // Ours says so in its profile; others may not know.
        return match it.volume.as_ref().is_some_and(|volume| volume.preparer == "LIVEISO") {
            true => not_applicable(reason),
            false => {
                warn(reason, "make the ISO hybrid, if it is to be written to sticks: xorriso -isohybrid-mbr")
            }
        };
    }
    let remedy =
        "make the ISO hybrid: xorriso -isohybrid-mbr or --grub2-mbr; leave it if it is for discs only";
    if let [only] = &it.file_systems[..]
        && only.place == "disk"
    {
        let remedy = "give the disk a partition table with one active FAT partition";
        return warn("no partition table: some BIOSes take the stick for a floppy disk or refuse it", remedy);
    }
    if it.mbr.is_none() {
        return fail("sector 0 has no MBR: written to a stick it does not boot, Etcher warns", remedy);
    }
    if it.serves_bios() && !it.boot_code {
        return fail("the MBR has no boot code: written to a stick no BIOS starts it", remedy);
    }
    pass("there is an MBR")
}

pub(super) fn active_flag(it: &Inspection) -> Verdict {
    let Some(partitions) = it.mbr.as_ref().filter(|_| it.serves_bios()) else {
        return not_applicable(if it.mbr.is_none() {
            "there is no MBR"
        } else {
            "no BIOS is meant to start it"
        });
    };
    let remedy = "mark exactly one MBR entry 0x80: xorriso --mbr-force-bootable";
    let active = partitions.iter().filter(|partition| partition.entry.status == ACTIVE).count();
    match active {
        1 => pass("one MBR entry is active"),
        0 => fail("no MBR entry is active: some BIOSes do not offer the stick", remedy),
        more => fail(format!("{more} MBR entries are active: a BIOS wants one"), remedy),
    }
}

pub(super) fn partition_bounds(it: &Inspection) -> Verdict {
    let mbr = it.mbr.iter().flatten().map(|partition| {
        let name = format!("MBR partition {}", partition.slot);
        (name, u64::from(partition.entry.start), u64::from(partition.entry.blocks))
    });
    let gpt = it.gpt.iter().flat_map(|gpt| &gpt.partitions);
    let gpt = gpt
        .map(|partition| (format!("GPT partition `{}`", partition.name), partition.start, partition.blocks));
    let all: Vec<_> = mbr.chain(gpt).collect();
    if all.is_empty() {
        return not_applicable("there is no partition");
    }
    let end = it.length.div_ceil(BLOCK);
    let outside = all.iter().filter(|(_, start, blocks)| start.saturating_add(*blocks) > end);
    let problems = outside.map(|(name, ..)| format!("{name} ends behind the file")).collect();
    judge(
        problems,
        "the ISO is cut off or its tables are older than its content: write it anew",
        "all inside the file",
    )
}

/// BIOSes that take a stick for a Zip drive compute its geometry from the table:
/// 64 heads and 32 sectors; of hard disks, 255 and 63.
pub(super) fn geometry(it: &Inspection) -> Verdict {
    // A dummy at block 0 and partitions that only UEFI reads say nothing.
    let active = it.mbr.iter().flatten().filter(|partition| partition.entry.status == ACTIVE);
    let entries: Vec<_> = active.filter(|partition| partition.entry.start > 0).collect();
    if entries.is_empty() || !it.serves_bios() {
        return not_applicable("no partition that a BIOS starts");
    }
    let agrees = |heads: u64, sectors: u64| {
        entries.iter().all(|partition| {
            let (head, sector, cylinder) = partition.entry.first_chs;
            let start = u64::from(partition.entry.start);
            let block = (u64::from(cylinder) * heads + u64::from(head)) * sectors + u64::from(sector) - 1;
            let is_beyond = start >= 1024 * heads * sectors && cylinder == 1023;
            sector > 0 && (is_beyond || block == start)
        })
    };
    let remedy = "let xorriso write the table: -partition_hd_cyl 64 -partition_sec_hd 32";
    match [(64, 32), (255, 63)].into_iter().find(|&(heads, sectors)| agrees(heads, sectors)) {
        Some((heads, sectors)) => pass(format!("{heads} heads, {sectors} sectors")),
        None => warn(
            "heads and sectors of the MBR fit neither 64 × 32 nor 255 × 63: old BIOSes misjudge the stick",
            remedy,
        ),
    }
}

pub(super) fn gpt(it: &Inspection) -> Verdict {
    let Some(gpt) = &it.gpt else {
        return not_applicable("there is no GPT");
    };
    let protective = it.mbr.iter().flatten().any(|partition| partition.entry.kind == PROTECTIVE);
    let remedy = "write primary and backup GPT with right checksums, or none: xorriso -appended_part_as_gpt";
    match (protective, gpt.is_valid()) {
        (true, false) => fail("the MBR refers to a GPT that is not valid", remedy),
        (true, true) if !gpt.backup => fail("the GPT has no backup where it says", remedy),
        (true, true) => pass("valid, with its backup"),
        (false, true) => pass("valid; the MBR has partitions of its own"),
        (false, false) => pass("not valid, so firmware goes by the MBR, as hybrid layouts intend"),
    }
}

pub(super) fn esp_partition(it: &Inspection) -> Verdict {
    if !it.serves_uefi() {
        return not_applicable("UEFI is not meant to start it");
    }
    if is_for_discs_only(it) {
        return not_applicable("it is for discs only, where UEFI goes by El Torito");
    }
    // Firmware starts any FAT of a removable disk, which is how sticks of copied files boot.
    if let Some(esp) = it.esp.as_ref().filter(|_| it.format == Format::Disk) {
        return pass(format!("FAT{} at block {}", esp.volume.bits, esp.start));
    }
    let mbr = it.mbr.iter().flatten().filter(|partition| partition.entry.kind == ESP);
    let valid = it.gpt.iter().filter(|gpt| gpt.is_valid()).flat_map(|gpt| &gpt.partitions);
    let starts: Vec<u64> = mbr
        .map(|partition| u64::from(partition.entry.start))
        .chain(valid.filter(|partition| partition.esp).map(|partition| partition.start))
        .collect();
    let remedy = "append the ESP as a partition: xorriso -append_partition 2 0xef efi.img, -e --interval:appended_partition_2:all::";
    if starts.is_empty() {
        return fail(
            "no partition is an EFI system partition: firmware that goes by partitions finds nothing on a stick",
            remedy,
        );
    }
    let is_fat = |start: &u64| {
        let offset = start.checked_mul(BLOCK).filter(|&offset| offset < it.length);
        it.esp.as_ref().is_some_and(|esp| esp.start == *start)
            || offset.is_some_and(|offset| fat::read(&it.path, offset, it.length - offset).is_ok())
    };
    match starts.iter().find(|start| !is_fat(start)) {
        Some(start) => {
            fail(format!("the EFI system partition at block {start} holds no FAT file system"), remedy)
        }
        None if !starts.contains(&it.esp.as_ref().map_or(starts[0], |esp| esp.start)) => {
            let reason = format!("a stick's ESP at block {} is not the one that El Torito names", starts[0]);
            if it.is_ours() { fail(reason, remedy) } else { warn(reason, remedy) }
        }
        None => pass(format!("at block {}", starts[0])),
    }
}

fn entry(it: &Inspection, platform: u8) -> Option<&CatalogEntry> {
    it.el_torito.iter().find(|entry| entry.platform == platform && entry.bootable)
}

/// ISOLINUX finds itself by the boot info table at byte 8 of its image.
pub(super) fn el_torito_bios(it: &Inspection) -> Verdict {
    let Some(entry) = entry(it, 0) else {
        return not_applicable("El Torito has no BIOS image");
    };
    let mut image = vec![0; MAX_ISOLINUX];
    let read =
        File::open(&it.path).and_then(|file| file.read_at(&mut image, u64::from(entry.sector) * SECTOR));
    image.truncate(read.unwrap_or_default());
    let remedy = "write it with -no-emul-boot -boot-load-size 4 -boot-info-table";
    if image.len() < 64 {
        return fail(format!("its BIOS image at sector {} is outside the file", entry.sector), remedy);
    }
    if !image.windows(8).any(|window| window == b"ISOLINUX") {
        return pass("the BIOS image is in the file");
    }
    if entry.emulation != 0 || (u32_at(&image, 8), u32_at(&image, 12)) != (16, entry.sector) {
        return fail("ISOLINUX does not know where it lies: its boot info table is wrong", remedy);
    }
    let (length, sum) = (u32_at(&image, 16) as usize, u32_at(&image, 20));
    if image.get(..length).and_then(iso9660::boot_info_sum) != Some(sum) {
        return fail("ISOLINUX finds itself damaged: the checksum in its boot info table is wrong", remedy);
    }
    if entry.blocks != 4 {
        let reason = format!(
            "El Torito loads {} blocks of ISOLINUX: some BIOSes take 4 and no other number",
            entry.blocks
        );
        return if it.is_ours() { fail(reason, remedy) } else { warn(reason, remedy) };
    }
    pass("ISOLINUX knows where it lies")
}

pub(super) fn el_torito_efi_size(it: &Inspection) -> Verdict {
    let Some(entry) = entry(it, UEFI) else {
        return not_applicable("El Torito has no UEFI image");
    };
    let Some(esp) = it.esp.as_ref().filter(|esp| esp.start == u64::from(entry.sector) * 4) else {
        return not_applicable("its UEFI image holds no FAT file system that could be read");
    };
    let needed = esp.volume.length.div_ceil(BLOCK);
    let remedy = "keep the ESP of discs below 65536 blocks of 512 bytes (32 MiB): loaders only, no kernel";
    let said = u64::from(entry.blocks);
    match said {
        0 | 1 => warn(
            format!("{said} blocks, which means up to the end of the disc; the ESP has {needed}"),
            remedy,
        ),
        _ if said < needed => {
            fail(format!("the ESP has {needed} blocks, El Torito says {said}: it overflowed"), remedy)
        }
        _ => pass(format!("{said} blocks")),
    }
}
