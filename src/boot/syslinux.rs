//! SYSLINUX on a FAT file system, installed without its installer.
//!
//! Debian has the boot sector and `ldlinux.sys` only inside the program
//! `syslinux(1)`. They are taken out of the package's program, so that they are of
//! one version with the modules, whatever the host has; the program itself is
//! never run (it would want mtools, and date files by the clock). What an installer
//! does: the boot sector learns where `ldlinux.sys` begins, `ldlinux.sys` where
//! its other sectors lie, how many they are, and a checksum (SYSLINUX 6.04,
//! doc/distrib.txt and the patch areas of core/diskstart.inc). Little-endian.
//!
//! ```text
//! boot sector   0 jump, name │ 11 parameters of the file system, kept │ 90 code │ 510 55 AA
//! ldlinux.sys   loaded at 7E00h: … 3EB202FEh: the patch area, which names the extended one
//!               behind it two sectors of settings that survive a reboot (ADV), empty
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

const SECTOR: usize = 512;
const BANNER: &[u8] = b"\r\nSYSLINUX ";
const MAGIC: u32 = 0x3eb2_02fe;
/// `ldlinux.sys` is loaded into conventional memory, which has no more for it (bytes).
const LONGEST: usize = 256 << 10;
/// Code of the boot sector behind FAT32's parameters, which are the longest.
const CODE: std::ops::Range<usize> = 90..510;
/// The address behind the sector that the boot sector loads itself.
const SECOND_SECTOR: u32 = 0x8000;
/// An empty ADV: head, checksum and tail.
const ADV: [(usize, u32); 3] = [(0, 0x5a2d_2fa5), (4, 0xa304_1767), (SECTOR - 4, 0xdd28_bf64)];

/// What the installer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syslinux {
    boot_sector: Vec<u8>,
    /// Whole sectors, without the ADV.
    core: Vec<u8>,
}

impl Syslinux {
    /// Takes boot sector and core out of the program `syslinux(1)` of version 6.
    ///
    /// # Errors
    /// A program that does not hold them the way version 6 does.
    pub fn from_program(program: &[u8]) -> Result<Syslinux> {
        let start = find(program, BANNER).context("it holds no ldlinux.sys")?;
        let boot = start.checked_sub(SECTOR).map(|at| &program[at..start]);
        let boot = boot.filter(|boot| boot[3..11] == *b"SYSLINUX" && boot[510..] == [0x55, 0xaa]);
        let boot_sector = boot.context("no boot sector stands before its ldlinux.sys")?.to_vec();
        // ldlinux.c32 follows; other programs inside ldlinux.sys begin within a sector.
        let sectors = program[start..].chunks(SECTOR).take(LONGEST / SECTOR);
        let end = sectors.into_iter().position(|sector| sector.starts_with(b"\x7fELF"));
        let end = end.filter(|&sectors| sectors > 1).context("its ldlinux.sys has no end")?;
        let core = program[start..start + end * SECTOR].to_vec();
        let syslinux = Syslinux { boot_sector, core };
        syslinux.patch_areas()?;
        Ok(syslinux)
    }

    /// `ldlinux.sys` with room for its ADV, as a file system gets it first.
    pub fn ldlinux_sys(&self) -> Vec<u8> {
        let mut adv = [0; SECTOR];
        for (at, value) in ADV {
            adv[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        [&self.core[..], &adv, &adv].concat()
    }

    /// Installs into the FAT volume at byte `volume` of a disk image, where
    /// [`Syslinux::ldlinux_sys`] lies in one piece at byte `place` already, in the
    /// directory `directory` (absolute).
    ///
    /// # Errors
    /// A file elsewhere than at a sector's beginning, failures of reading and writing.
    pub fn install(&self, image: &Path, volume: u64, place: u64, directory: &str) -> Result<()> {
        let context = || format!("writing {}", image.display());
        let file = File::options().read(true).write(true).open(image).with_context(context)?;
        let offset = place.checked_sub(volume).filter(|offset| offset.is_multiple_of(SECTOR as u64));
        let first = offset.context("ldlinux.sys does not begin with a sector")? / SECTOR as u64;
        let (boot, core) = self.patched(first, directory)?;
        let mut sector = [0; SECTOR];
        file.read_exact_at(&mut sector, volume).context("reading the boot sector")?;
        sector[..11].copy_from_slice(&boot[..11]);
        sector[CODE].copy_from_slice(&boot[CODE]);
        // FAT32 keeps a copy, which fsck.fat compares.
        let backup = u64::from(u16_at(&sector, 50));
        file.write_all_at(&sector, volume).with_context(context)?;
        file.write_all_at(&sector, volume + backup * SECTOR as u64).with_context(context)?;
        file.write_all_at(&core, place).with_context(context)
    }

    /// Boot sector and core for a file that begins at sector `first` of the volume.
    fn patched(&self, first: u64, directory: &str) -> Result<(Vec<u8>, Vec<u8>)> {
        let (mut boot, mut core) = (self.boot_sector.clone(), self.core.clone());
        let (patch, extended) = self.patch_areas()?;
        let field = |index: usize| usize::from(u16_at(&core, extended + 2 * index));
        let [adv, dir, dir_length, _, _, extents, extent_count, low, high, _] = std::array::from_fn(field);
        let sectors = core.len() / SECTOR;
        put(&mut boot, low, &(first as u32).to_le_bytes())?;
        put(&mut boot, high, &((first >> 32) as u32).to_le_bytes())?;
        put(&mut core, patch + 8, &(sectors as u16).to_le_bytes())?;
        put(&mut core, patch + 10, &2u16.to_le_bytes())?;
        put(&mut core, patch + 12, &((sectors * SECTOR / 4) as u32).to_le_bytes())?;
        put(&mut core, patch + 16, &[0; 4])?;
        let map = extents_of(first + 1, sectors as u64 - 1);
        ensure!(map.len() <= extent_count, "its ldlinux.sys has no room for {} extents", map.len());
        put(&mut core, extents, &vec![0; 10 * extent_count])?;
        for (number, (start, length)) in map.into_iter().enumerate() {
            put(&mut core, extents + 10 * number, &start.to_le_bytes())?;
            put(&mut core, extents + 10 * number + 8, &length.to_le_bytes())?;
        }
        for number in 0..2 {
            put(&mut core, adv + 8 * number, &(first + (sectors + number) as u64).to_le_bytes())?;
        }
        ensure!(directory.len() < dir_length, "its ldlinux.sys has no room for the name {directory}");
        put(&mut core, dir, directory.as_bytes())?;
        put(&mut core, dir + directory.len(), &[0])?;
        let sum = core.chunks_exact(4).fold(MAGIC, |sum, word| sum.wrapping_sub(u32_at(word, 0)));
        put(&mut core, patch + 16, &sum.to_le_bytes())?;
        Ok((boot, core))
    }

    /// Places of the patch area, which begins with its magic number, and of the extended one.
    fn patch_areas(&self) -> Result<(usize, usize)> {
        let magic = MAGIC.to_le_bytes();
        let patch = self.core.chunks_exact(4).take(SECTOR / 4).position(|word| word == magic);
        let patch = patch.context("its ldlinux.sys has no patch area")? * 4;
        let extended = usize::from(u16_at(&self.core, patch + 22));
        ensure!(extended + 20 <= self.core.len(), "its ldlinux.sys has no extended patch area");
        Ok((patch, extended))
    }
}

/// Runs of sectors that each fit below the next multiple of 64 KiB in memory, as
/// BIOS transfers must: first sector and number.
fn extents_of(mut first: u64, mut count: u64) -> Vec<(u64, u16)> {
    let mut extents = Vec::new();
    let mut address = SECOND_SECTOR;
    while count > 0 {
        let room = u64::from((0x1_0000 - address % 0x1_0000) / SECTOR as u32);
        let length = count.min(room).min(127);
        extents.push((first, length as u16));
        (first, count, address) = (first + length, count - length, address + (length as u32) * SECTOR as u32);
    }
    extents
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Result<()> {
    let place = at.checked_add(value.len()).and_then(|end| bytes.get_mut(at..end));
    place.context("its patch area points outside")?.copy_from_slice(value);
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_end_at_multiples_of_64_kib() {
        assert_eq!(extents_of(5, 0), []);
        assert_eq!(extents_of(5, 64), [(5, 64)]);
        assert_eq!(extents_of(5, 113), [(5, 64), (69, 49)]);
        assert_eq!(extents_of(5, 64 + 130), [(5, 64), (69, 127), (196, 1), (197, 2)]);
    }

    #[test]
    fn what_is_no_installer_is_said() {
        let mut program = vec![0; 4096];
        let error = |program: &[u8]| Syslinux::from_program(program).unwrap_err().to_string();
        assert_eq!(error(&program), "it holds no ldlinux.sys");
        program[600..611].copy_from_slice(BANNER);
        assert_eq!(error(&program), "no boot sector stands before its ldlinux.sys");
        program[91..99].copy_from_slice(b"SYSLINUX");
        program[598..600].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(error(&program), "its ldlinux.sys has no end");
        program[600 + 1024..][..4].copy_from_slice(b"\x7fELF");
        assert_eq!(error(&program), "its ldlinux.sys has no patch area");
        program[624..628].copy_from_slice(&MAGIC.to_le_bytes());
        program[646..648].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(error(&program), "its ldlinux.sys has no extended patch area");
        program[646..648].copy_from_slice(&[0x00, 0x01]);
        let syslinux = Syslinux::from_program(&program).unwrap();
        assert_eq!(syslinux.ldlinux_sys().len(), 2048);
        assert_eq!(
            syslinux.patched(7, "/syslinux").unwrap_err().to_string(),
            "its ldlinux.sys has no room for 1 extents"
        );
    }
}
