//! What lies before the clusters: boot sector, FSInfo, the FATs, FAT16's root directory.

use std::io::Write;

use anyhow::Result;

use super::layout::Layout;
use super::{FATS, FIRST_CLUSTER, FatKind, Options, SECTOR, dos_time, zeros};
use crate::tree::Tree;

/// Where FAT32 keeps FSInfo and the copies of the first sectors.
const FSINFO: u16 = 1;
const BACKUP: u16 = 6;

pub(super) fn write(
    layout: &Layout,
    options: &Options,
    label: &[u8; 11],
    out: &mut impl Write,
) -> Result<()> {
    let boot = boot_sector(layout, options, label);
    out.write_all(&boot)?;
    if layout.shape.kind != FatKind::Fat16 {
        let info = fs_info(layout);
        out.write_all(&info)?;
        zeros(u64::from(BACKUP - FSINFO - 1) * SECTOR, out)?;
        out.write_all(&boot)?;
        out.write_all(&info)?;
        zeros((layout.shape.reserved - u64::from(BACKUP) - 2) * SECTOR, out)?;
    }
    let mut fat: Vec<u8> = match layout.shape.kind {
        FatKind::Fat16 => layout.fat.iter().flat_map(|&entry| (entry as u16).to_le_bytes()).collect(),
        FatKind::Fat32 { .. } => layout.fat.iter().flat_map(|entry| entry.to_le_bytes()).collect(),
    };
    fat.resize((layout.sectors_per_fat * SECTOR) as usize, 0);
    for _ in 0..FATS {
        out.write_all(&fat)?;
    }
    if layout.shape.root_sectors != 0 {
        let mut root = layout.root_table(label, dos_time(options.timestamp));
        root.resize((layout.shape.root_sectors * SECTOR) as usize, 0);
        out.write_all(&root)?;
    }
    Ok(())
}

fn boot_sector(layout: &Layout, options: &Options, label: &[u8; 11]) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    let shape = &layout.shape;
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(3, b"MSWIN4.1");
    put(11, &(SECTOR as u16).to_le_bytes());
    put(13, &[shape.sectors_per_cluster as u8]);
    put(14, &(shape.reserved as u16).to_le_bytes());
    put(16, &[FATS as u8]);
    put(17, &((shape.root_sectors * SECTOR / 32) as u16).to_le_bytes());
    put(21, &[0xf8]);
    // The geometry isohybrid has too, and what Zip drives have: 32 sectors a track, 64 heads.
    put(24, &32u16.to_le_bytes());
    put(26, &64u16.to_le_bytes());
    // Where the fields begin that both kinds have, and the code.
    let (common, code) = match shape.kind {
        FatKind::Fat16 => {
            put(19, &(layout.sectors as u16).to_le_bytes());
            put(22, &(layout.sectors_per_fat as u16).to_le_bytes());
            put(54, b"FAT16   ");
            (36, 62)
        }
        FatKind::Fat32 { hidden_sectors } => {
            put(28, &hidden_sectors.to_le_bytes());
            put(32, &(layout.sectors as u32).to_le_bytes());
            put(36, &(layout.sectors_per_fat as u32).to_le_bytes());
            put(44, &layout.cluster(Tree::ROOT).to_le_bytes());
            put(48, &FSINFO.to_le_bytes());
            put(50, &BACKUP.to_le_bytes());
            put(82, b"FAT32   ");
            (64, 90)
        }
    };
    put(0, &[0xeb, code - 2, 0x90]);
    put(common, &[0x80, 0, 0x29]);
    put(common + 3, &options.volume_id.to_le_bytes());
    put(common + 7, label);
    // A BIOS that starts the partition goes on to the next device: int 18h, then stay.
    put(usize::from(code), &[0xcd, 0x18, 0xeb, 0xfe]);
    put(510, &[0x55, 0xaa]);
    sector
}

/// How much is free, and from where on (specification, page 21).
fn fs_info(layout: &Layout) -> [u8; SECTOR as usize] {
    let mut sector = [0; SECTOR as usize];
    let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"RRaA");
    put(484, b"rrAa");
    put(488, &((layout.clusters - layout.used()) as u32).to_le_bytes());
    // The last one in use, as Windows writes it.
    put(492, &((layout.used() + FIRST_CLUSTER - 1) as u32).to_le_bytes());
    put(510, &[0x55, 0xaa]);
    sector
}
