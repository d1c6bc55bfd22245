//! The GUID partition table, valid or not (UEFI 2.10 §5.3).
//!
//! The crate `gpt` reads valid tables only; hybrid media carry one whose
//! partitions overlap on purpose, and a report must tell the two apart.

use std::fs::File;
use std::os::unix::fs::FileExt;

use serde::Serialize;

use crate::format::field::{u16_at, u32_at, u64_at};

const BLOCK: u64 = 512;
/// More entries, or larger ones, belong to no table on a medium.
const MAX_ENTRIES: u32 = 1024;
const MAX_ENTRY: u32 = 1024;

/// Type of an EFI system partition as it is stored.
const ESP: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];

/// A GUID partition table at block 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Gpt {
    /// Disk GUID.
    pub disk: String,
    /// Whether both checksums of the primary table hold.
    pub checksums: bool,
    /// Whether partitions overlap, for which firmware rejects the table.
    pub overlapping: bool,
    /// Whether the backup header is where the primary one says.
    pub backup: bool,
    /// Used entries.
    pub partitions: Vec<GptPartition>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct GptPartition {
    /// Its place in the table, from 1.
    pub slot: usize,
    /// Name, as far as it is text.
    pub name: String,
    /// Type GUID.
    pub kind: String,
    /// Whether the type is that of an EFI system partition.
    pub esp: bool,
    /// First 512-byte block.
    pub start: u64,
    /// Number of blocks.
    pub blocks: u64,
}

impl Gpt {
    /// Whether firmware takes the table for one.
    pub fn is_valid(&self) -> bool {
        self.checksums && !self.overlapping
    }
}

/// The table of a medium, if block 1 has the signature of one.
pub(super) fn read(file: &File) -> Option<Gpt> {
    let header = block(file, 1).filter(|header| header.starts_with(b"EFI PART"))?;
    let header_length = u32_at(&header, 12) as usize;
    let is_plausible = (92..=BLOCK as usize).contains(&header_length);
    let mut zeroed = header[..if is_plausible { header_length } else { header.len() }].to_vec();
    zeroed[16..20].fill(0);
    let (count, size) = (u32_at(&header, 80), u32_at(&header, 84));
    let bounded = count <= MAX_ENTRIES && (128..=MAX_ENTRY).contains(&size);
    let mut entries = vec![0; if bounded { count as usize * size as usize } else { 0 }];
    let at = u64_at(&header, 72).checked_mul(BLOCK);
    let is_read = at.is_some_and(|at| file.read_exact_at(&mut entries, at).is_ok());
    let checksums = bounded
        && is_read
        && is_plausible
        && crc(&zeroed) == u32_at(&header, 16)
        && crc(&entries) == u32_at(&header, 88);
    let partitions: Vec<GptPartition> = match size {
        0 => Vec::new(),
        _ => {
            let slots = entries.chunks_exact(size as usize).enumerate();
            slots.filter_map(|(n, entry)| partition(n + 1, entry)).collect()
        }
    };
    let ends_before =
        |one: &GptPartition, other: &GptPartition| one.start.saturating_add(one.blocks) <= other.start;
    let overlap = |(n, one): (usize, &GptPartition)| {
        partitions[n + 1..].iter().any(|other| !ends_before(one, other) && !ends_before(other, one))
    };
    Some(Gpt {
        disk: guid(&header[56..72]),
        checksums,
        overlapping: partitions.iter().enumerate().any(overlap),
        backup: block(file, u64_at(&header, 32)).is_some_and(|backup| backup.starts_with(b"EFI PART")),
        partitions,
    })
}

fn block(file: &File, number: u64) -> Option<[u8; BLOCK as usize]> {
    let mut bytes = [0; BLOCK as usize];
    file.read_exact_at(&mut bytes, number.checked_mul(BLOCK)?).ok()?;
    Some(bytes)
}

fn partition(slot: usize, entry: &[u8]) -> Option<GptPartition> {
    if entry[..16] == [0; 16] {
        return None;
    }
    let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
    let units: Vec<u16> =
        entry[56..128].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let end = units.iter().position(|&unit| unit == 0).unwrap_or(units.len());
    Some(GptPartition {
        slot,
        name: String::from_utf16_lossy(&units[..end]),
        kind: guid(&entry[..16]),
        esp: entry[..16] == ESP,
        start: first,
        blocks: last.saturating_add(1).saturating_sub(first),
    })
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The mixed byte order of GUIDs in text.
fn guid(b: &[u8]) -> String {
    let tail: String = b[10..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{:08x}-{:04x}-{:04x}-{:02x}{:02x}-{tail}", u32_at(b, 0), u16_at(b, 4), u16_at(b, 6), b[8], b[9])
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Found by fuzzing: a header shorter than its own checksum's place.
    #[test]
    fn headers_of_any_length_are_read() {
        for length in [0_u32, 15, 16, 19, 20, 91, 92, 512, 513, u32::MAX] {
            let mut file = tempfile::tempfile().unwrap();
            let mut header = [0; 1024];
            header[512..520].copy_from_slice(b"EFI PART");
            header[524..528].copy_from_slice(&length.to_le_bytes());
            file.write_all(&header).unwrap();
            assert!(!read(&file).unwrap().is_valid(), "{length}");
        }
    }
}
