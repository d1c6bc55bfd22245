//! Hybrid ISO 9660 media (ECMA-119, Rock Ridge, Joliet, El Torito), written by
//! xorriso and read back by our own strict reader before anybody trusts them.
//!
//! ```text
//! BIOS + UEFI (archiso's layout; 512-byte blocks)
//!   0        MBR: isohybrid code; p1 0x80 type 00 from 64; p2 type EF = the appended ESP;
//!            an overlapping, hence invalid GPT: a valid one keeps some BIOSes from booting
//!   64       the volume: descriptors at 2 KiB sector 16, and again 16 sectors later for p1
//!   …        El Torito: BIOS → isolinux.bin (no emulation, 4 sectors), UEFI → the ESP's bytes
//!   …        the ESP, behind the volume's files
//! ```
//! BIOS alone has p1 only; UEFI alone has a valid GPT and no active entry.
//! [`IsoLayout::Gpt`] has a valid GPT, a protective MBR and, for BIOSes that look for
//! one, a dummy active entry of one block; [`IsoLayout::CdOnly`] has no system area
//! and its ESP as the file [`EFI_IMAGE`].
//! Owners are 0:0, modes 0444 and 0555, all dates [`Options::timestamp`]. Joliet
//! and plain ISO names serve ISOLINUX and file copiers. No link enters a medium:
//! a copy of its files to FAT would lose it.

mod check;
mod read;
mod stage;
mod tree;

pub use check::{boot_info_sum, verify};
pub use read::{BootMedium, CatalogEntry, MbrEntry, SECTOR, Volume, parse_mbr, read};
pub use tree::read_tree;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::civil_time;
use crate::host::{self, Tool};
use crate::plan::IsoLayout;
use crate::tree::Tree;

/// GPT type of an EFI system partition; xorriso turns it into MBR type 0xEF too.
const ESP_TYPE: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

/// Where a medium without partitions has its ESP, for El Torito alone.
pub const EFI_IMAGE: &str = "boot/grub/efi.img";

/// Ids, dates and boot images of a medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Volume id, `[A-Z0-9_]{1,32}`.
    pub volume_id: String,
    /// Publisher id, at most 128 printable ASCII characters; stored in upper case.
    pub publisher: String,
    /// Application id, as the publisher.
    pub application: String,
    /// The time of every file, seconds since 1970-01-01 UTC.
    pub timestamp: i64,
    /// Volume creation and modification date, `YYYYMMDDhhmmsscc`: what blkid shows as the UUID.
    pub volume_date: String,
    /// GPT disk GUID; the partitions' are counted on from it.
    pub disk_guid: String,
    /// What the first sectors are for.
    pub layout: IsoLayout,
    /// How a BIOS starts the medium.
    pub bios: Option<Bios>,
    /// FAT image that UEFI starts, less than 32 MiB.
    pub efi_image: Option<PathBuf>,
}

/// An isohybrid ISOLINUX.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bios {
    /// Path of `isolinux.bin` in the tree, without leading slash.
    pub image: String,
    /// Boot code for the MBR, at most 432 bytes (`isohdpfx.bin`).
    pub mbr: Vec<u8>,
}

/// Writes the tree as a bootable medium to `out`, replacing it, and verifies
/// what was written. `work` is an existing directory for short-lived files;
/// large files are read where they are.
///
/// # Errors
/// Names and types a medium cannot carry, bad ids, a missing or failing
/// xorriso, and a result that is not what was asked for.
pub fn write(tree: &Tree, options: &Options, work: &Path, out: &Path) -> Result<()> {
    check_options(options)?;
    stage::check(tree)?;
    let staged = stage::stage(tree, options, work).context("preparing the files of the ISO")?;
    match fs::remove_file(out) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("replacing {}", out.display()));
        }
        _ => {}
    }
    run(options, &staged, out).with_context(|| format!("writing {}", out.display()))?;
    verify(out, options).with_context(|| format!("checking {}", out.display()))
}

fn run(options: &Options, staged: &stage::Staged, out: &Path) -> Result<()> {
    let out = std::path::absolute(out).context("finding the current directory")?;
    let tool = Tool::bound("xorriso", "writing the ISO")?
        .env("SOURCE_DATE_EPOCH", options.timestamp.to_string())
        .current_dir(staged.dir.path())
        .args(arguments(options, &out));
    let shown = tool.shown();
    let output = tool.capture()?;
    let complaints: Vec<String> = String::from_utf8_lossy(&output.stderr)
        .lines()
        .filter(|line| [": SORRY :", ": FAILURE :", ": FATAL :"].iter().any(|word| line.contains(word)))
        .map(str::to_string)
        .collect();
    if output.status.success() && complaints.is_empty() {
        return Ok(());
    }
    let told = match complaints.is_empty() {
        true => host::last_lines(&output.stderr),
        false => complaints.join("\n"),
    };
    bail!("xorriso failed ({}):\n{told}\nthe command was: {shown}", output.status)
}

/// xorriso's command line; relative paths lie in the staging directory.
fn arguments(options: &Options, out: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["-no_rc".into(), "-as".into(), "mkisofs".into()];
    words.extend(["-o".into(), out.as_os_str().to_os_string()]);
    let mut add = |line: &str| words.extend(line.split(' ').map(OsString::from));
    add("-iso-level 3 -full-iso9660-filenames -joliet -joliet-long -rational-rock");
    add("-uid 0 -gid 0 -dir-mode 0555 -file-mode 0444");
    add(&format!("--modification-date={}", options.volume_date));
    add(&format!("--set_all_file_dates {}", compact(options.timestamp)));
    let has_partitions = options.layout != IsoLayout::CdOnly;
    if has_partitions {
        add(&format!("--gpt_disk_guid {} -partition_offset 16", options.disk_guid));
    }
    if let Some(bios) = &options.bios {
        if has_partitions {
            add(&format!("-isohybrid-mbr {} --mbr-force-bootable", stage::MBR));
        }
        add(&format!("-eltorito-boot {} -eltorito-catalog {}", bios.image, catalog(options)));
        add("-no-emul-boot -boot-load-size 4 -boot-info-table");
    }
    if let Some(image) = &options.efi_image {
        words.extend(efi_arguments(options, image));
    }
    for (name, value) in [
        ("-sysid", "LINUX"),
        ("-volid", options.volume_id.as_str()),
        ("-preparer", "LIVEISO"),
        ("-publisher", options.publisher.as_str()),
        ("-appid", options.application.as_str()),
    ] {
        words.extend([name.into(), value.into()]);
    }
    words.extend(["-graft-points", "-path-list", stage::PATH_LIST].map(OsString::from));
    words
}

fn efi_arguments(options: &Options, image: &Path) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    if options.layout != IsoLayout::CdOnly {
        words.extend(["-append_partition", "2", ESP_TYPE].map(OsString::from));
        words.push(image.as_os_str().to_os_string());
    }
    let mut add = |line: &str| words.extend(line.split(' ').map(OsString::from));
    match (options.layout, &options.bios) {
        (IsoLayout::CdOnly, _) => {}
        // Before -e, or the ESP would be typed as basic data in the GPT.
        (IsoLayout::Hybrid, Some(_)) => add("-isohybrid-gpt-basdat"),
        (IsoLayout::Hybrid, None) | (IsoLayout::Gpt, _) => add("-appended_part_as_gpt"),
    }
    match options.bios {
        Some(_) => add("-eltorito-alt-boot"),
        None => add(&format!("-eltorito-catalog {}", catalog(options))),
    }
    match options.layout {
        IsoLayout::CdOnly => add(&format!("-e {EFI_IMAGE}")),
        _ => add("-e --interval:appended_partition_2:all::"),
    }
    add("-no-emul-boot");
    words
}

/// Where xorriso puts the boot catalog; its directory must exist in the tree.
fn catalog(options: &Options) -> String {
    match &options.bios {
        Some(bios) => match bios.image.rsplit_once('/') {
            Some((directory, _)) => format!("{directory}/boot.cat"),
            None => "boot.cat".to_string(),
        },
        None => "EFI/boot.cat".to_string(),
    }
}

/// `YYYYMMDDhhmmss00`.
fn compact(timestamp: i64) -> String {
    let t = civil_time(timestamp);
    format!("{:04}{:02}{:02}{:02}{:02}{:02}00", t.year, t.month, t.day, t.hour, t.minute, t.second)
}

fn check_options(options: &Options) -> Result<()> {
    let volume_id = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    let id = &options.volume_id;
    ensure!(
        (1..=32).contains(&id.len()) && id.bytes().all(volume_id),
        "`{id}` is no ISO 9660 volume id: it wants 1 to 32 of A-Z, 0-9 and `_`"
    );
    for (what, text) in [("publisher", &options.publisher), ("application", &options.application)] {
        ensure!(
            text.len() <= 128 && text.bytes().all(|b| (0x20..0x7f).contains(&b)) && !text.starts_with('-'),
            "`{text}` is no ISO 9660 {what} id: it wants at most 128 printable ASCII characters, no dash first"
        );
        // Ventoy takes this for the promise that we find the ISO on its disk ourselves.
        ensure!(
            !text.to_uppercase().contains("VENTOY COMPATIBLE"),
            "the {what} id contains `VENTOY COMPATIBLE`, which changes how Ventoy boots the ISO; remove it"
        );
    }
    let date = &options.volume_date;
    ensure!(
        date.len() == 16 && date.bytes().all(|b| b.is_ascii_digit()),
        "`{date}` is no volume date: it wants YYYYMMDDhhmmsscc"
    );
    ensure!(
        (0..=4_102_444_799).contains(&options.timestamp),
        "timestamp {} is not within 1970 to 2099",
        options.timestamp
    );
    ensure!(options.bios.is_some() || options.efi_image.is_some(), "nothing is there to boot from");
    ensure!(
        options.layout != IsoLayout::Gpt || options.efi_image.is_some(),
        "a GPT without an EFI system partition boots nothing; use the layout `hybrid`"
    );
    if let Some(bios) = &options.bios {
        ensure!(
            (1..=432).contains(&bios.mbr.len()),
            "the MBR boot code has {} bytes; the place for it has 432",
            bios.mbr.len()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            volume_id: "RESCUE".to_string(),
            publisher: "liveiso".to_string(),
            application: "rescue stick".to_string(),
            timestamp: 1_767_225_600,
            volume_date: "2026010103040506".to_string(),
            disk_guid: "01234567-89ab-4def-8123-456789abcdef".to_string(),
            bios: Some(Bios { image: "isolinux/isolinux.bin".to_string(), mbr: vec![0; 432] }),
            layout: IsoLayout::Hybrid,
            efi_image: Some(PathBuf::from("/c/efi boot.img")),
        }
    }

    fn line(options: &Options) -> String {
        let words = arguments(options, Path::new("/out/x.iso"));
        words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn the_command_line_follows_the_boot_images() {
        let head = "-no_rc|-as|mkisofs|-o|/out/x.iso|-iso-level|3|-full-iso9660-filenames|-joliet|-joliet-long|\
                    -rational-rock|-uid|0|-gid|0|-dir-mode|0555|-file-mode|0444|--modification-date=2026010103040506|\
                    --set_all_file_dates|2026010100000000|--gpt_disk_guid|01234567-89ab-4def-8123-456789abcdef|\
                    -partition_offset|16";
        let bios = "|-isohybrid-mbr|mbr.bin|--mbr-force-bootable|-eltorito-boot|isolinux/isolinux.bin|\
                    -eltorito-catalog|isolinux/boot.cat|-no-emul-boot|-boot-load-size|4|-boot-info-table";
        let append = "|-append_partition|2|C12A7328-F81F-11D2-BA4B-00A0C93EC93B|/c/efi boot.img";
        let efi = "|-e|--interval:appended_partition_2:all::|-no-emul-boot";
        let tail = "|-sysid|LINUX|-volid|RESCUE|-preparer|LIVEISO|-publisher|liveiso|-appid|rescue stick|\
                    -graft-points|-path-list|path-list";
        let both = options();
        let expected = format!("{head}{bios}{append}|-isohybrid-gpt-basdat|-eltorito-alt-boot{efi}{tail}");
        assert_eq!(line(&both), expected);
        let bios_only = Options { efi_image: None, ..options() };
        assert_eq!(line(&bios_only), format!("{head}{bios}{tail}"));
        let efi_only = Options { bios: None, ..options() };
        let gpt = "|-appended_part_as_gpt|-eltorito-catalog|EFI/boot.cat";
        assert_eq!(line(&efi_only), format!("{head}{append}{gpt}{efi}{tail}"));
        let with_gpt = Options { layout: IsoLayout::Gpt, ..options() };
        let table = "|-appended_part_as_gpt|-eltorito-alt-boot";
        assert_eq!(line(&with_gpt), format!("{head}{bios}{append}{table}{efi}{tail}"));
        let cd_only = Options { layout: IsoLayout::CdOnly, ..options() };
        let head = head.split("|--gpt_disk_guid").next().unwrap();
        let bios = bios.replace("|-isohybrid-mbr|mbr.bin|--mbr-force-bootable", "");
        let efi = "|-eltorito-alt-boot|-e|boot/grub/efi.img|-no-emul-boot";
        assert_eq!(line(&cd_only), format!("{head}{bios}{efi}{tail}"));
    }

    #[test]
    fn refuses_ids_a_volume_cannot_have() {
        let publisher = |text: &str| Options { publisher: text.to_string(), ..options() };
        for (bad, expected) in [
            (
                Options { volume_id: "rescue".to_string(), ..options() },
                "`rescue` is no ISO 9660 volume id: it wants 1 to 32 of A-Z, 0-9 and `_`",
            ),
            (
                publisher("caf\u{e9}"),
                "`caf\u{e9}` is no ISO 9660 publisher id: it wants at most 128 printable ASCII characters, no dash first",
            ),
            (
                publisher("Ventoy compatible"),
                "the publisher id contains `VENTOY COMPATIBLE`, which changes how Ventoy boots the ISO; remove it",
            ),
            (
                Options { volume_date: "2026".to_string(), ..options() },
                "`2026` is no volume date: it wants YYYYMMDDhhmmsscc",
            ),
            (Options { timestamp: -1, ..options() }, "timestamp -1 is not within 1970 to 2099"),
            (Options { bios: None, efi_image: None, ..options() }, "nothing is there to boot from"),
            (
                Options { layout: IsoLayout::Gpt, efi_image: None, ..options() },
                "a GPT without an EFI system partition boots nothing; use the layout `hybrid`",
            ),
        ] {
            assert_eq!(check_options(&bad).unwrap_err().to_string(), expected);
        }
        check_options(&options()).unwrap();
    }
}
