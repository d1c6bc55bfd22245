//! The contract of media, line by line, with the check of `inspect --lint` that
//! covers each, and a medium with that one defect which the check catches.
//!
//! | line of the contract | check |
//! |---|---|
//! | **dd, Etcher, GNOME Disks** | |
//! | 55 AA and a table in sector 0, boot code before it | partition-table |
//! | exactly one active entry | active-flag |
//! | the boot code knows where its loader lies | mbr-loader |
//! | the ESP as a partition, El Torito meaning the same bytes | esp-partition |
//! | partitions inside the file, none overlapping | partition-bounds, partition-overlap |
//! | 64 heads and 32 sectors, or 255 and 63 | geometry |
//! | the first partition mountable, with descriptors of its own | iso-partition |
//! | GPT invalid beside an MBR that boots, or valid with its backup | gpt |
//! | length equal to the volume's and a multiple of 2048 | length |
//! | ESP by mkfs.fat, FAT16, or FAT32 of 36 MiB and more | esp-format |
//! | **CD** | |
//! | no emulation, 4 blocks, boot info table with its checksum | el-torito-bios |
//! | ISOLINUX with its second piece | isolinux-files |
//! | the ESP below 65536 blocks, and El Torito says so | el-torito-efi-size |
//! | **UEFI** | |
//! | loaders for x64 and ia32 under /EFI/BOOT, in capitals | x64-loader, ia32-loader, loader-names |
//! | the same loaders in the ISO's tree | loaders-in-iso |
//! | **Rufus, copies on FAT32** | |
//! | volume id of `[A-Z0-9_]{1,11}`, in no line that Rufus changes | volume-id, volume-id-in-menus |
//! | no links, no file of 4 GiB, no colliding, illegal or long names | symlinks, large-files, names |
//! | menus where Rufus looks; none of the names that forbid copying | menu-places, foreign-marks |
//! | lists of checksums fit, ours without menus | checksum-lists |
//! | nothing is found by a label; the file searched for is there and not hidden | label-search, search-file |
//! | two sticks are never taken for each other | build-id |
//! | GRUB images with a driver for FAT | none: any GRUB that starts from an ESP has it |
//! | **Ventoy** | |
//! | initramfs named literally in the menus Ventoy reads | literal-initrd |
//! | a line `mountroot` in /init, dm-mod unpacked | ventoy-hook |
//! | no rdinit=, absolute paths | rdinit, menu-files |
//! | no Windows names, no mark VENTOY COMPATIBLE | foreign-marks |
//! | LIVE_MEDIA honoured, an ISO on /dev/mapper accepted | none here: live::devices:: boots it |
//! | **GRUB loopback** | |
//! | /boot/grub/loopback.cfg hands the path on | loopback |
//! | drivers of the file systems an ISO lies on | carrier-modules |
//! | all spellings of findiso= understood | none here: init:: |
//! | **Secure Boot** | |
//! | shim, signed GRUB, MokManager, no fallback or stray file | shim-neighbours, mok-manager |
//! | signed kernels; no revoked generation | signed-kernels, sbat |
//! | Microsoft's authority of 2023 | shim-authority |
//! | menus without insmod, fonts and unsigned programs under lockdown | lockdown |
//! | /.disk/info, or a menu in the ESP that searches for the marker | disk-info |
//! | **Machines** | |
//! | few bytes read by a BIOS | firmware-reads |
//! | a kernel without PAE where there is a 32-bit one | old-processors |
//! | an entry without modesetting | safe-entry |
//! | drivers for finding the medium in the initramfs | search-modules |
//! | least RAM | none: of a running machine, `liveiso test --min-ram` |
//! | netboot without sanboot | none: no medium's affair, export:: |
//! | everything can be read | readable |

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use liveiso::inspect::inspect;
use liveiso::inspect::lint::lint;
use tempfile::TempDir;

use super::findings;
use super::medium::{GRUB, KERNEL, Medium, kernel, patch};
use crate::support::oracle;

/// The table above names every check there is, and no other.
#[test]
fn every_check_is_a_line_of_the_contract() {
    let dir = TempDir::new().unwrap();
    let findings = lint(&inspect(&Medium::good().write(dir.path(), "x")).unwrap());
    let checks: BTreeSet<&str> = findings.iter().map(|finding| finding.check).collect();
    let rows = include_str!("contract.rs").lines().filter_map(|line| line.strip_prefix("//! | "));
    let named =
        rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | ")).map(|(_, checks)| checks);
    let named: BTreeSet<&str> = named
        .filter(|cell| *cell != "check" && !cell.starts_with("none"))
        .flat_map(|cell| cell.split(", "))
        .collect();
    assert_eq!(named, checks);
}

/// Bytes of tables, boot code and file systems.
#[test]
fn defects_of_sectors_are_caught() {
    let dir = TempDir::new().unwrap();
    let iso = Medium::good().write(dir.path(), "good");
    let good = fs::read(&iso).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(good[at..at + 4].try_into().unwrap()) as u64;
    let catalog = u32_at(17 * 2048 + 71) * 2048;
    let isolinux = u32_at(catalog as usize + 40) * 2048;
    let (first, esp) = (u32_at(454) * 512, u32_at(470) * 512);
    let place = (isolinux / 512).to_le_bytes();
    let grub = (isolinux / 512 + 4).to_le_bytes();
    let text = b"isolinux.bin missing or corrupt";
    type Case<'c> = (&'c str, &'c [(u64, &'c [u8])], &'c [&'c str]);
    let cases: [Case<'_>; 11] = [
        ("the first partition reaches into the ESP", &[(458, &[0xd0, 0x07])], &["partition-overlap fail"]),
        ("no descriptors for the first partition", &[(first + 32768, &[0; 6])], &["iso-partition fail"]),
        ("ISOLINUX's code with another block", &[(100, text), (432, &[1, 2, 3, 4])], &["mbr-loader fail"]),
        ("ISOLINUX's code with the right block", &[(100, text), (432, &place)], &[]),
        ("GRUB's code with another block", &[(100, b"GRUB "), (432, &place)], &["mbr-loader fail"]),
        ("GRUB's code with the right block", &[(100, b"GRUB "), (432, &grub)], &[]),
        ("an ESP of mformat's", &[(esp + 3, b"MTOO4043")], &["esp-format fail"]),
        ("one byte of ISOLINUX", &[(isolinux + 2000, b"?")], &["el-torito-bios fail"]),
        ("ISOLINUX loaded in one piece", &[(catalog + 32 + 6, &[76])], &["el-torito-bios fail"]),
        ("ISOLINUX as a floppy disk", &[(catalog + 32 + 1, &[2])], &["el-torito-bios fail"]),
        ("a UEFI entry without its FAT", &[(catalog + 96 + 8, &[0x20, 0, 0, 0])], &["readable fail"]),
    ];
    for (what, patches, expected) in &cases {
        for (at, bytes) in *patches {
            patch(&iso, *at, bytes);
        }
        assert_eq!(findings(&iso), *expected, "{what}");
        for (at, bytes) in *patches {
            patch(&iso, *at, &good[*at as usize..*at as usize + bytes.len()]);
        }
    }
}

/// El Torito and a stick's firmware start different file systems.
#[test]
fn two_system_partitions_are_told() {
    let dir = TempDir::new().unwrap();
    let iso = Medium::good().write(dir.path(), "good");
    let mut image = fs::read(dir.path().join("efiboot.img")).unwrap();
    image.resize(image.len().next_multiple_of(2048), 0);
    let length = fs::metadata(&iso).unwrap().len();
    let file = File::options().write(true).open(&iso).unwrap();
    file.write_all_at(&image, length).unwrap();
    let sectors = ((length + image.len() as u64) / 2048) as u32;
    for at in [16, 32] {
        let offset = u64::from(at == 32) * 16;
        patch(&iso, at * 2048 + 80, &(sectors - offset as u32).to_le_bytes());
        patch(&iso, at * 2048 + 84, &(sectors - offset as u32).to_be_bytes());
    }
    patch(&iso, 470, &((length / 512) as u32).to_le_bytes());
    assert_eq!(findings(&iso), ["esp-partition fail"]);
}

/// File systems that mkfs.fat makes when it is asked for the wrong one.
#[test]
fn unfit_file_systems_are_caught() {
    for (words, expected) in [
        (&["-F", "12", "-C", "efiboot.img", "2048"][..], "esp-format fail"),
        (&["-F", "32", "-s", "1", "-C", "efiboot.img", "8192"], "esp-format fail"),
    ] {
        let dir = TempDir::new().unwrap();
        oracle("mkfs.fat", words, dir.path());
        let image = fs::read(dir.path().join("efiboot.img")).unwrap();
        let iso = Medium::good().write_with_esp(dir.path(), &image);
        let found = findings(&iso);
        assert!(found.contains(&expected.to_string()), "{words:?}: {found:?}");
        assert!(!found.contains(&"readable fail".to_string()), "{words:?}: {found:?}");
    }
}

/// Files and menus.
#[test]
fn defects_of_files_and_menus_are_caught() {
    type Change = fn(&mut Medium);
    const MARKER: &str = "liveiso/0123456789abcdef01234567.id";
    let cases: [(&str, Change, &[&str]); 17] = [
        (
            "small letters",
            |m| {
                for files in [&mut m.files, &mut m.esp] {
                    let loader = files.remove("EFI/BOOT/BOOTX64.EFI").unwrap();
                    files.insert("EFI/BOOT/bootx64.efi".to_string(), loader);
                }
            },
            &["loader-names fail"],
        ),
        (
            "the specification's letters",
            |m| {
                for files in [&mut m.files, &mut m.esp] {
                    let loader = files.remove("EFI/BOOT/BOOTX64.EFI").unwrap();
                    files.insert("EFI/BOOT/BOOTx64.EFI".to_string(), loader);
                }
            },
            &[],
        ),
        ("half of ISOLINUX", |m| drop(m.files.remove("isolinux/ldlinux.c32")), &["isolinux-files fail"]),
        (
            "the other half elsewhere",
            |m| {
                let piece = m.files.remove("isolinux/ldlinux.c32").unwrap();
                m.files.insert("boot/isolinux/ldlinux.c32".to_string(), piece);
            },
            &[],
        ),
        ("no marker", |m| drop(m.files.remove(MARKER)), &["search-file fail", "build-id fail"]),
        ("a marker without its text", |m| m.set(MARKER, "x"), &["build-id fail"]),
        ("an initramfs of another build", |m| m.id = "ffffffffffffffffffffffff", &["build-id fail"]),
        ("two markers", |m| m.set("ffffffffffffffffffffffff.id", "x"), &["build-id fail"]),
        (
            "a hidden marker",
            |m| {
                m.set(".disk/id", "x");
                m.replace(GRUB, "--set=root /liveiso/0123456789abcdef01234567.id", "--set=root /.disk/id");
            },
            &["search-file fail"],
        ),
        ("a list with a file too many", |m| m.set("md5sum.txt", "0  ./gone\n"), &["checksum-lists fail"]),
        (
            "a list with a menu",
            |m| m.set("liveiso/sha256sums", "0  ../boot/grub/grub.cfg\n"),
            &["checksum-lists fail"],
        ),
        ("Pop!_OS", |m| m.set("casper_pop-os_22/x", "x"), &["foreign-marks fail"]),
        ("no entry for black screens", |m| m.replace(GRUB, "nomodeset", "quiet"), &["safe-entry warn"]),
        (
            "a kernel with PAE",
            |m| {
                let _ = m.files.insert(KERNEL.to_string(), kernel("6.1.0-9-686-pae"));
            },
            &["old-processors warn", "search-modules fail"],
        ),
        ("a path from nowhere", |m| m.replace(GRUB, "linux /liveiso", "linux liveiso"), &["menu-files fail"]),
        ("no driver for exFAT", |m| m.without("exfat"), &["carrier-modules fail"]),
        ("a packed module for Ventoy", |m| m.packed = true, &["ventoy-hook fail"]),
    ];
    let dir = TempDir::new().unwrap();
    for (what, change, expected) in cases {
        let mut medium = Medium::good();
        change(&mut medium);
        assert_eq!(findings(&medium.write(dir.path(), "x")), expected, "{what}");
    }
}
