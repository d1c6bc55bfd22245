//! FAT images against fsck.fat and mtools.

use std::fs;
use std::io::Cursor;

use liveiso::format::fat::{FatKind, Options, write};
use liveiso::tree::{Content, Meta, Tree, parse_listing};
use tempfile::TempDir;

use crate::support::oracle;

fn options() -> Options {
    Options {
        label: "LIVEISO_EFI".to_string(),
        volume_id: 0x1234_abcd,
        timestamp: 1_767_225_601,
        kind: FatKind::Fat16,
    }
}

fn image(tree: &Tree) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(tree, &options(), &mut bytes).unwrap();
    bytes
}

const SYSTEM_PARTITION: &str = "\
dir /EFI 0755 0 0
dir /EFI/BOOT 0755 0 0
file /EFI/BOOT/BOOTIA32.EFI 0444 0 0 size=3428352
file /EFI/BOOT/BOOTX64.EFI 0444 0 0 size=3833856
dir /boot 0755 0 0
dir /boot/grub 0755 0 0
file /boot/grub/grub.cfg 0444 0 0 text=search\\x0a
file /empty 0444 0 0 size=0
file /A\\x20long\\x20name\\x20of\\x20some\\x20file.config 0444 0 0 size=1025
";

#[test]
fn fsck_and_mtools_find_what_was_written() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("esp.img"), image(&parse_listing(SYSTEM_PARTITION).unwrap())).unwrap();
    let checked = oracle("fsck.fat", &["-vn", "esp.img"], dir.path());
    assert!(checked.contains("16 bit entries") && checked.contains("1024 bytes per cluster"), "{checked}");
    assert!(checked.contains("esp.img: 10 files, 7099/7378 clusters"), "{checked}");
    let names = oracle("mdir", &["-i", "esp.img", "-/", "-b", "::"], dir.path());
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "::/A long name of some file.config",
            "::/EFI/",
            "::/EFI/BOOT/",
            "::/EFI/BOOT/BOOTIA32.EFI",
            "::/EFI/BOOT/BOOTX64.EFI",
            "::/boot/",
            "::/boot/grub/",
            "::/boot/grub/grub.cfg",
            "::/empty",
        ]
    );
    let root = oracle("mdir", &["-i", "esp.img", "::/boot/grub"], dir.path());
    assert!(
        root.contains(" Volume in drive : is LIVEISO_EFI\n Volume Serial Number is 1234-ABCD\n"),
        "{root}"
    );
    assert_eq!(root.matches("2026-01-01   0:00").count(), 3, "{root}");
}

#[test]
fn mcopy_gives_every_file_back() {
    let dir = TempDir::new().unwrap();
    let tree = parse_listing(SYSTEM_PARTITION).unwrap();
    fs::write(dir.path().join("esp.img"), image(&tree)).unwrap();
    oracle("mcopy", &["-i", "esp.img", "-s", "-n", "::/*", "."], dir.path());
    let mut compared = 0;
    for entry in tree.walk() {
        if let liveiso::tree::Kind::File(content) = &entry.inode.kind {
            let path = String::from_utf8(entry.path.clone()).unwrap();
            assert_eq!(fs::read(dir.path().join(&path)).unwrap(), content.read_all().unwrap(), "{path}");
            compared += 1;
        }
    }
    assert_eq!(compared, 5);
}

#[test]
fn the_bytes_do_not_depend_on_what_was_there_before() {
    let tree = parse_listing(SYSTEM_PARTITION).unwrap();
    let clean = image(&tree);
    let mut noisy = Cursor::new(vec![0xa5; clean.len()]);
    write(&tree, &options(), &mut noisy).unwrap();
    assert!(noisy.into_inner() == clean, "the old bytes shine through");
    // The order of insertion does not matter either.
    let mut lines: Vec<&str> = SYSTEM_PARTITION.lines().collect();
    lines.reverse();
    assert!(image(&parse_listing(&lines.join("\n")).unwrap()) == clean, "insertion order matters");
}

#[test]
fn every_size_is_sound() {
    let dir = TempDir::new().unwrap();
    // Around the least FAT16 has, and the largest there may be.
    for kib in [0, 1, 100, 3500, 3700, 3750, 3800, 3850, 3900, 4000, 4200, 8000, 16_000, 32_000] {
        let tree = parse_listing(&format!("file /f 0444 0 0 size={}", kib * 1024)).unwrap();
        let bytes = image(&tree);
        assert!(bytes.len() <= 65_532 * 512 && bytes.len().is_multiple_of(2048), "{kib} KiB");
        fs::write(dir.path().join("esp.img"), bytes).unwrap();
        let checked = oracle("fsck.fat", &["-vn", "esp.img"], dir.path());
        assert!(!checked.contains("differ") && !checked.contains("Wrong"), "{kib} KiB: {checked}");
    }
    let tree = parse_listing(&format!("file /f 0444 0 0 size={}", 33 << 20)).unwrap();
    let error = write(&tree, &options(), &mut Vec::new()).unwrap_err().to_string();
    assert_eq!(
        error,
        "the files of the FAT image need 34756096 bytes, but a CD's EFI boot image may have 33552384; \
         keep the kernel and the initramfs out of it"
    );
}

#[test]
fn what_fat_cannot_hold_is_refused_by_path_and_origin() {
    for (line, expected) in [
        ("slink /a/l 0777 0 0 x", "FAT cannot hold the symlink `/a/l` (from listing)"),
        ("nod /c 0600 0 0 c 5 1", "FAT cannot hold the device node `/c` (from listing)"),
        ("pipe /p 0600 0 0", "FAT cannot hold the named pipe `/p` (from listing)"),
        ("sock /s 0600 0 0", "FAT cannot hold the socket `/s` (from listing)"),
        ("file /x 0600 0 0\nlink /y /x", "FAT cannot hold the hard link `/y` (from listing)"),
        (
            "file /x 0600 0 0 size=0 xattr.user.a=00",
            "FAT cannot hold the extended attributes of `/x` (from listing)",
        ),
        (
            "file /d/Readme 0600 0 0\nfile /d/README 0600 0 0",
            "FAT cannot hold `/d/Readme` (from listing) beside `/d/README`: it ignores case",
        ),
        ("file /a:b 0600 0 0", "FAT cannot hold `/a:b` (from listing): its name contains `:`"),
        ("file /a\\x0a 0600 0 0", "FAT cannot hold `/a\\n` (from listing): its name contains `\\n`"),
        ("file /\\xff 0600 0 0", "FAT cannot hold `/\\xff` (from listing): its name is not UTF-8"),
        (
            "file /a. 0600 0 0",
            "FAT cannot hold `/a.` (from listing): its name begins or ends with a blank or ends with a dot",
        ),
    ] {
        let error = write(&parse_listing(line).unwrap(), &options(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), expected, "{line}");
    }
    let bad = Options { label: "efi".to_string(), ..options() };
    let error = write(&Tree::new(), &bad, &mut Vec::new()).unwrap_err().to_string();
    assert_eq!(error, "`efi` is no FAT volume label: it wants 1 to 11 of A-Z, 0-9, `_` and `-`");
}

#[test]
fn a_file_that_shrank_is_an_error() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("grub.efi");
    fs::write(&path, b"short").unwrap();
    let mut tree = Tree::new();
    let origin = tree.add_origin("package");
    tree.add_file(b"EFI/BOOT/BOOTX64.EFI", Content::file(&path, 100), Meta::default(), origin).unwrap();
    let error = format!("{:#}", write(&tree, &options(), &mut Vec::new()).unwrap_err());
    assert_eq!(
        error,
        "writing /EFI/BOOT/BOOTX64.EFI into the FAT image: file changed or is shorter than expected"
    );
}
