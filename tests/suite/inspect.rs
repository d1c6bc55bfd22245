//! `inspect`, `inspect --lint` and `diff` on good media, on media with one
//! defect each, on other makers' layouts and on damaged bytes.

mod contract;
mod diff;
mod disk_image;
mod initramfs;
mod layouts;
mod medium;
mod secure_boot;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use liveiso::format::erofs;
use liveiso::inspect::lint::{Outcome, lint};
use liveiso::inspect::{inspect, text};
use liveiso::tree::parse_listing;
use tempfile::TempDir;

use crate::support::{liveiso, ran, tiny};
use medium::{GRUB, INITRD, KERNEL, Medium, RELEASE, kernel, patch};

/// `check outcome` of everything that neither passes nor is out of place.
pub fn findings(iso: &Path) -> Vec<String> {
    let findings = lint(&inspect(iso).unwrap_or_else(|e| panic!("{e:#}")));
    let bad = findings.iter().filter(|f| matches!(f.outcome, Outcome::Fail | Outcome::Warn));
    bad.map(|f| format!("{} {:?}", f.check, f.outcome).to_lowercase()).collect()
}

#[test]
fn a_report_names_everything() {
    let dir = TempDir::new().unwrap();
    let iso = Medium::good().write(dir.path(), "good");
    let report = text(&inspect(&iso).unwrap());
    let length = fs::metadata(&iso).unwrap().len();
    let image = fs::metadata(dir.path().join("root.sfs")).unwrap().len();
    let lines: Vec<&str> = report.lines().collect();
    let find =
        |start: &str| -> Vec<&str> { lines.iter().copied().filter(|line| line.starts_with(start)).collect() };
    let sectors = length / 2048;
    assert_eq!(
        find("volume"),
        [format!("volume       `RESCUE`, {sectors} sectors of 2048 bytes; file {length} bytes")]
    );
    assert_eq!(find("MBR"), ["MBR          boot code, 2 partitions"]);
    assert_eq!(find("  2 "), ["  2            type ef, block 2048, 8704 blocks"]);
    assert_eq!(
        find("GPT"),
        ["GPT          invalid: its partitions overlap, disk 01234567-89ab-4def-8123-456789abcdef"]
    );
    assert_eq!(find("ESP"), ["ESP          FAT16 `LIVEISO_EFI` at block 2048, 4456448 bytes, 2 files"]);
    assert_eq!(
        find("kernel"),
        [format!("kernel       /{KERNEL}: i386, 40000 bytes, {RELEASE} (nobody) #1 SMP")]
    );
    let modules = "cdrom dm_mod exfat ext4 isofs loop overlay sd_mod squashfs sr_mod usb_storage vfat";
    assert_eq!(find("  modules"), [format!("  modules      {modules}")]);
    assert_eq!(
        find("image"),
        [format!(
            "image        /liveiso/i386/airootfs.sfs: squashfs, {image} bytes, gzip, blocks of 128 KiB, 10 inodes, 1 fragments"
        )]
    );
    assert_eq!(find("packages"), ["packages     1 in /liveiso/i386/airootfs.sfs:/var/lib/dpkg/status"]);
    assert_eq!(find("  nano"), ["  nano 7.2-1 i386"]);
    assert_eq!(
        find("menu"),
        [
            format!("menu         /boot/grub/grub.cfg:4 Start: /{KERNEL}"),
            "menu         /boot/grub/grub.cfg:9 Extra: /boot/extra".to_string(),
            format!("menu         /boot/grub/grub.cfg:13 Safe: /{KERNEL}"),
            format!("menu         /isolinux/isolinux.cfg:2 Start: /{KERNEL}"),
        ]
    );
    assert_eq!(find("damaged"), Vec::<&str>::new());
}

/// The list of packages in an EROFS image, and one that is damaged.
#[test]
fn packages_of_an_erofs_image_are_named() {
    let dir = TempDir::new().unwrap();
    let (work, image) = (dir.path().join("work"), dir.path().join("root.erofs"));
    fs::create_dir(&work).unwrap();
    let mut medium = Medium::good();
    let options = erofs::Options { level: 12, cluster_size: 65536, timestamp: 1_767_225_600 };
    erofs::write(&parse_listing(&medium.root).unwrap(), &options, &work, &image).unwrap();
    let mut bytes = fs::read(&image).unwrap();
    medium.files.insert(medium::ROOT.to_string(), bytes.clone());
    let it = inspect(&medium.write(dir.path(), "x")).unwrap();
    let packages = it.packages.unwrap();
    let shown: Vec<String> =
        packages.list.iter().map(|p| format!("{} {} {}", p.name, p.version, p.arch)).collect();
    assert_eq!(
        (packages.source, shown),
        (format!("/{}:/var/lib/dpkg/status", medium::ROOT), vec!["nano 7.2-1 i386".to_string()])
    );
    bytes[1024 + 14] ^= 0xff;
    medium.files.insert(medium::ROOT.to_string(), bytes);
    let it = inspect(&medium.write(dir.path(), "x")).unwrap();
    assert_eq!((it.packages, it.damage.len()), (None, 1));
}

#[test]
fn the_command_line_reports_and_judges() {
    let dir = TempDir::new().unwrap();
    let iso = Medium::good().write(dir.path(), "good");
    let run = |words: &[&str]| ran(liveiso(words).arg(&iso).output().unwrap());
    let (code, stdout, stderr) = run(&["inspect", "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(json["volume"]["id"], "RESCUE");
    assert_eq!(json["initramfs"][0]["system"], "liveiso");
    assert_eq!(json["packages"]["list"][0]["name"], "nano");
    let (code, stdout, _) = run(&["inspect", "--lint"]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(stdout.ends_with("47 checks: 39 passed, 0 failed, 0 warnings, 8 not applicable\n"), "{stdout}");

    patch(&iso, 446, &[0]);
    let (code, stdout, _) = run(&["inspect", "--lint"]);
    let expected = "FAIL active-flag        no MBR entry is active: some BIOSes do not offer the stick\n                        \
                    remedy: mark exactly one MBR entry 0x80: xorriso --mbr-force-bootable\n";
    assert_eq!(code, Some(5));
    assert!(stdout.contains(expected), "{stdout}");
    let (code, stdout, _) = run(&["inspect", "--lint", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(
        (code, &json[4]["check"], &json[4]["outcome"]),
        (Some(5), &"active-flag".into(), &"fail".into())
    );

    fs::write(&iso, "no ISO").unwrap();
    let error = format!(
        "error: inspecting {}\n  caused by: it is neither an ISO nor a disk image, for which its 6 bytes are too few\n",
        iso.display()
    );
    assert_eq!(run(&["inspect"]), (Some(1), String::new(), error));
}

#[test]
fn our_own_image_has_no_finding() {
    assert_eq!(findings(tiny()), Vec::<String>::new());
}

/// Defects of the bytes firmware reads.
#[test]
fn defects_of_the_tables_are_caught() {
    let dir = TempDir::new().unwrap();
    let iso = Medium::good().write(dir.path(), "good");
    assert_eq!(findings(&iso), Vec::<String>::new());
    let good = fs::read(&iso).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(good[at..at + 4].try_into().unwrap()) as u64;
    let catalog = u32_at(17 * 2048 + 71) * 2048;
    let isolinux = u32_at(catalog as usize + 32 + 8) * 2048;
    let esp = u32_at(470) * 512;
    let descriptor = 16 * 2048;
    let cases: &[(&str, u64, &[u8], &[&str])] = &[
        ("no active flag", 446, &[0], &["active-flag fail"]),
        ("two active flags", 462, &[0x80], &["active-flag fail"]),
        ("an ESP of another type", 466, &[0x0c], &["esp-partition fail"]),
        ("an ESP elsewhere", 470, &[0, 0, 0, 0], &["partition-overlap fail", "esp-partition fail"]),
        ("no MBR", 510, &[0, 0], &["partition-table fail", "esp-partition fail"]),
        ("no boot code", 0, &[0; 440], &["partition-table fail"]),
        ("heads of no geometry", 447, &[3], &["geometry warn"]),
        ("a partition behind the end", 475, &[0, 0, 1], &["partition-bounds fail"]),
        ("a GPT that is meant and broken", 450, &[0xee], &["gpt fail"]),
        ("El Torito size overflow", catalog + 96 + 6, &[0, 1], &["el-torito-efi-size fail"]),
        ("El Torito size unknown", catalog + 96 + 6, &[0, 0], &["el-torito-efi-size warn"]),
        ("ISOLINUX elsewhere", isolinux + 12, &[1], &["el-torito-bios fail"]),
        ("small letters in the volume id", descriptor + 40, b"Rescue", &["volume-id fail"]),
        ("a long volume id", descriptor + 40, b"RESCUE_AND_MORE", &["volume-id fail"]),
        ("a mark for Ventoy", descriptor + 318, b"VENTOY COMPATIBLE", &["foreign-marks fail"]),
        ("an ESP without boot sector", esp + 510, &[0, 0], &["readable fail", "esp-partition fail"]),
    ];
    for (what, at, bytes, expected) in cases {
        patch(&iso, *at, bytes);
        assert_eq!(findings(&iso), *expected, "{what}");
        let end = *at as usize + bytes.len();
        patch(&iso, *at, &good[*at as usize..end]);
    }
    let file = File::options().write(true).open(&iso).unwrap();
    for (length, expected) in [
        (good.len() as u64 + 2048, &["length fail"][..]),
        (good.len() as u64 + 1, &["length fail"][..]),
        (good.len() as u64 - 2048, &["length fail"][..]),
        (
            good.len() as u64 - (400 << 10),
            &["readable fail", "length fail", "partition-bounds fail", "esp-partition fail"][..],
        ),
    ] {
        file.set_len(length).unwrap();
        assert_eq!(findings(&iso), expected, "{length} bytes instead of {}", good.len());
    }
}

/// Defects of the files and menus.
#[test]
fn defects_of_the_contents_are_caught() {
    let dir = TempDir::new().unwrap();
    type Change = fn(&mut Medium);
    let cases: [(&str, Change, &[&str]); 27] = [
        (
            "no ia32 loader",
            |m| {
                m.esp.remove("EFI/BOOT/BOOTIA32.EFI");
                m.files.remove("EFI/BOOT/BOOTIA32.EFI");
            },
            &["ia32-loader fail"],
        ),
        (
            "no x64 loader",
            |m| {
                m.esp.remove("EFI/BOOT/BOOTX64.EFI");
                m.files.remove("EFI/BOOT/BOOTX64.EFI");
            },
            &["x64-loader fail"],
        ),
        (
            "loaders in the ESP only",
            |m| m.files.retain(|path, _| !path.starts_with("EFI/")),
            &["loaders-in-iso fail"],
        ),
        (
            "GRUB's label search",
            |m| {
                m.replace(
                    GRUB,
                    "--file --set=root /liveiso/0123456789abcdef01234567.id",
                    "--label --set=root X",
                )
            },
            &["label-search fail"],
        ),
        (
            "a label on the kernel line",
            |m| m.replace("isolinux/isolinux.cfg", "append quiet", "append quiet root=live:CDLABEL=X"),
            &["label-search fail"],
        ),
        (
            "the ESP's label search",
            |m| {
                m.esp.insert(GRUB.to_string(), b"search --label X --set=root\n".to_vec());
            },
            &["label-search fail"],
        ),
        (
            "the volume id in a kernel line",
            |m| m.replace(GRUB, "quiet", "quiet title=RESCUE"),
            &["volume-id-in-menus fail"],
        ),
        ("no program for Ventoy's device", |m| m.without("dm-mod"), &["ventoy-hook fail"]),
        ("an /init without Ventoy's place", |m| m.init = "exec\\x20sh", &["ventoy-hook fail"]),
        ("the word that Ventoy needs", |m| m.replace(GRUB, "quiet", "rdinit=/init"), &["rdinit fail"]),
        (
            "no menu for ISOLINUX",
            |m| {
                m.files.remove("isolinux/isolinux.cfg");
            },
            &["menu-places fail"],
        ),
        (
            "no menu for GRUB",
            |m| {
                let menu = m.files.remove(GRUB).unwrap();
                m.files.insert("boot/grub/other.cfg".to_string(), menu);
                m.set("boot/grub/loopback.cfg", "source /boot/grub/other.cfg\n");
            },
            &["menu-places fail"],
        ),
        ("no driver for the ISO", |m| m.without("isofs"), &["search-modules fail"]),
        ("no driver for sticks", |m| m.without("usb-storage"), &["search-modules fail"]),
        ("no driver for the root image", |m| m.without("squashfs"), &["search-modules fail"]),
        (
            "no driver for a copy on FAT",
            |m| m.without("vfat"),
            &["search-modules fail", "carrier-modules fail"],
        ),
        ("a driver without what it needs", |m| m.without("cdrom"), &["search-modules fail"]),
        ("a driver without what was built in", |m| m.builtin.clear(), &["search-modules fail"]),
        (
            "modules of another kernel",
            |m| {
                m.files.insert(KERNEL.to_string(), kernel("6.12.0-1-686"));
            },
            &["search-modules fail"],
        ),
        (
            "no loopback.cfg",
            |m| {
                m.files.remove("boot/grub/loopback.cfg");
            },
            &["loopback fail"],
        ),
        ("loopback.cfg without the path", |m| m.replace(GRUB, "findiso=", "x="), &["loopback fail"]),
        (
            "an initramfs behind a variable",
            |m| {
                m.replace(GRUB, "initrd /liveiso", "initrd $dir");
                m.replace("isolinux/isolinux.cfg", "initrd /liveiso", "initrd $dir");
            },
            &["literal-initrd fail"],
        ),
        (
            "a menu line without its file",
            |m| m.replace(GRUB, "linux /liveiso/boot/i386/vmlinuz", "linux /liveiso/vmlinux"),
            &["menu-files fail"],
        ),
        (
            "a large initramfs",
            |m| {
                m.files.get_mut(KERNEL).unwrap().resize(10_000_000, 0);
            },
            &["firmware-reads fail"],
        ),
        ("Windows's boot.wim", |m| m.set("sources/boot.wim", "x"), &["foreign-marks fail"]),
        ("a damaged initramfs", |m| m.set(INITRD, "x"), &["readable fail"]),
        (
            "a damaged root image",
            |m| m.set("liveiso/i386/airootfs.sfs", &"hsqs".repeat(500)),
            &["readable fail"],
        ),
    ];
    for (what, change, expected) in cases {
        let mut medium = Medium::good();
        change(&mut medium);
        assert_eq!(findings(&medium.write(dir.path(), "x")), expected, "{what}");
    }
}

/// Every byte that a reader believes, damaged: an error or a finding, never a panic.
#[test]
fn damage_never_panics() {
    let dir = TempDir::new().unwrap();
    let iso = Medium::good().write(dir.path(), "x");
    let good = fs::read(&iso).unwrap();
    let file = File::options().write(true).open(&iso).unwrap();
    let u32_at = |at: usize| u32::from_le_bytes(good[at..at + 4].try_into().unwrap()) as usize;
    let place = |path: &str| {
        let tree = liveiso::format::iso9660::read_tree(&iso).unwrap();
        let liveiso::tree::Kind::File(liveiso::tree::Content::Slice { offset, length, .. }) =
            &tree.inode(tree.get(path.as_bytes()).unwrap()).kind
        else {
            panic!("{path} is no file")
        };
        (*offset as usize, *length as usize)
    };
    let root = u32_at(16 * 2048 + 158) * 2048;
    let esp = u32_at(470) * 512;
    let (initrd, initrd_length) = place(INITRD);
    let (image, image_length) = place(medium::ROOT);
    let mut places: Vec<usize> = Vec::new();
    places.extend(440..520); // MBR
    places.extend((512..1600).step_by(3)); // GPT
    places.extend(16 * 2048..16 * 2048 + 190); // volume descriptor
    places.extend(17 * 2048 + 60..17 * 2048 + 80);
    places.extend((root..root + 1400).step_by(3)); // directories
    places.extend(esp..esp + 64); // FAT's boot sector
    places.extend((esp + 512..esp + 700).step_by(5)); // its table
    places.extend((esp..esp + 80_000).step_by(977));
    places.extend((initrd..initrd + initrd_length).step_by(29));
    places.extend(image..image + 96);
    places.extend((image + image_length.saturating_sub(1200)..image + image_length).step_by(7));
    for at in places {
        for flip in [0x01, 0x80, 0xff] {
            file.write_all_at(&[good[at] ^ flip], at as u64).unwrap();
            if let Ok(inspection) = inspect(&iso) {
                let _ = (lint(&inspection), text(&inspection));
            }
        }
        file.write_all_at(&good[at..=at], at as u64).unwrap();
    }
    assert_eq!(findings(&iso), Vec::<String>::new(), "a patch was left behind");
    for length in (0..good.len()).rev().step_by(good.len() / 97) {
        file.set_len(length as u64).unwrap();
        if let Ok(inspection) = inspect(&iso) {
            assert!(lint(&inspection).iter().any(|finding| finding.outcome == Outcome::Fail), "{length}");
        }
    }
}
