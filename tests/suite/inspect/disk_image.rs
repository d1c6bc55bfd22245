//! Raw disk images: ours with every table, and others made with sfdisk, mkfs.fat and mtools.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use liveiso::format::disk;
use liveiso::inspect::{Format, Place, inspect, text};
use liveiso::plan::DiskImage;
use tempfile::TempDir;

use super::findings;
use super::medium::{GRUB, INITRD, KERNEL, Medium, ROOT, patch};
use crate::disk::options;
use crate::support::oracle;

/// The good medium as a disk image with SYSLINUX's menu.
fn image(dir: &Path, table: DiskImage) -> PathBuf {
    let mut medium = Medium::good();
    let menu = medium.files.remove("isolinux/isolinux.cfg").unwrap();
    medium.files.remove("isolinux/isolinux.bin");
    medium.files.insert("syslinux/syslinux.cfg".to_string(), menu);
    medium.files.remove("boot/grub/loopback.cfg");
    medium.set("syslinux/ldlinux.sys", "SYSLINUX");
    let out = dir.join("disk.img");
    disk::write(&medium.tree(dir), &options(table), &out).unwrap_or_else(|e| panic!("{e:#}"));
    out
}

#[test]
fn our_disk_images_are_read_and_raise_no_alarm() {
    for (table, mbr, gpt) in [
        (DiskImage::Mbr, "  1            type ef, block 2048, 67584 blocks, active\n", ""),
        (DiskImage::UsbZip, "  4            type 0c, block 2048, 67584 blocks, active\n", ""),
        (
            DiskImage::Gpt,
            "  1            type ee, block 1, 71679 blocks\n  2            type 00, block 0, 1 blocks, active\n",
            "GPT          valid, disk 01234567-89ab-4def-8123-456789abcdef\n               \
             EFI system partition, block 2048, 67584 blocks, `EFI system partition`\n",
        ),
    ] {
        let dir = TempDir::new().unwrap();
        let path = image(dir.path(), table);
        let report = text(&inspect(&path).unwrap_or_else(|e| panic!("{e:#}")));
        let length = fs::metadata(&path).unwrap().len();
        let count = mbr.lines().count();
        let slot = if table == DiskImage::UsbZip { 4 } else { 1 };
        let start = format!(
            "disk         {length} bytes\nMBR          boot code, {count} partitions\n{mbr}{gpt}\
             partition {slot}  fat32, block 2048, 67584 blocks, `RESCUE`, 12 files\n\
             ESP          FAT32 `RESCUE` at block 2048, 34603008 bytes, 12 files\nkernel       /{KERNEL}: i386, 40000 "
        );
        assert!(report.starts_with(&start), "{report}\n{start}");
        for line in [
            format!("image        /{ROOT}: squashfs, "),
            format!("initramfs    /{INITRD}: "),
            format!("menu         /{GRUB}:4 Start: /{KERNEL}\n"),
            "menu         /syslinux/syslinux.cfg:2 Start: ".to_string(),
            format!("packages     1 in /{ROOT}:/var/lib/dpkg/status\n  nano 7.2-1 i386\n"),
        ] {
            assert!(report.contains(&line), "{report}\n{line}");
        }
        assert_eq!(findings(&path), Vec::<String>::new(), "{table:?}");
    }
}

#[test]
fn defects_of_disk_images_are_caught() {
    let dir = TempDir::new().unwrap();
    let path = image(dir.path(), DiskImage::Gpt);
    let good = fs::read(&path).unwrap();
    let end = good.len() as u64 - 512;
    for (what, at, bytes, expected) in [
        ("no active entry", 462, &[0][..], &["active-flag fail"][..]),
        ("no boot code", 0, &[0; 440], &["partition-table fail"]),
        ("a GPT whose checksum is wrong", 512 + 60, &[0xff], &["gpt fail"]),
        ("no second GPT", end, &[0; 8], &["gpt fail"]),
        ("a FAT that ends behind its partition", (1 << 20) + 32, &[0, 0, 9, 0], &["readable fail"]),
    ] {
        patch(&path, at, bytes);
        let found = match inspect(&path) {
            Ok(_) => findings(&path),
            Err(error) => vec![error.root_cause().to_string()],
        };
        assert_eq!(found, expected, "{what}");
        patch(&path, at, &good[at as usize..at as usize + bytes.len()]);
    }
    let path = image(dir.path(), DiskImage::Mbr);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len((20 << 20) + 1).unwrap();
    assert_eq!(findings(&path), ["readable fail", "length fail", "partition-bounds fail"]);
}

/// A disk of other makers: a GPT with an ESP, a squashfs and an ext4, written by sfdisk and mtools.
#[test]
fn the_partitions_of_other_disks_are_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.img");
    let medium = Medium::good();
    let contents = medium.contents(dir.path());
    let file = File::create(&path).unwrap();
    file.set_len(64 << 20).unwrap();
    fs::write(
        dir.path().join("table"),
        "label: gpt\nstart=2048, size=65536, type=U, name=boot\nstart=67584, size=8192, type=L\n\
         start=75776, size=16384, type=L\nstart=92160, size=2048, type=L\n",
    )
    .unwrap();
    oracle("sh", &["-c", "sfdisk --quiet x.img < table"], dir.path());
    oracle("mkfs.fat", &["-F", "16", "-n", "BOOT", "-i", "2a", "-C", "p.img", "32768"], dir.path());
    let tree = medium.directory(dir.path());
    for path in ["EFI", "boot"] {
        oracle("mcopy", &["-s", "-i", "p.img", tree.join(path).to_str().unwrap(), "::"], dir.path());
    }
    file.write_all_at(&fs::read(dir.path().join("p.img")).unwrap(), 1 << 20).unwrap();
    file.write_all_at(&contents[ROOT], 67584 * 512).unwrap();
    oracle("mkfs.ext4", &["-q", "-E", "offset=38797312", "x.img", "8192k"], dir.path());
    let it = inspect(&path).unwrap_or_else(|e| panic!("{e:#}"));
    let shown: Vec<String> = it
        .file_systems
        .iter()
        .map(|found| {
            format!(
                "{} {} {}+{} `{}` {} {}",
                found.place, found.format, found.start, found.blocks, found.label, found.files, found.esp
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "partition 1 fat16 2048+65536 `BOOT` 4 true",
            "partition 2 squashfs 67584+8192 `` 0 false",
            "partition 3 ext4 75776+16384 `` 0 false",
            "partition 4 unknown 92160+2048 `` 0 false",
        ]
    );
    assert_eq!((it.format, it.damage.len(), it.esp.as_ref().unwrap().shared), (Format::Disk, 0, true));
    assert_eq!(it.images.iter().map(|image| image.file.path.as_str()).collect::<Vec<_>>(), ["partition 2"]);
    let packages = it.packages.unwrap();
    assert_eq!((packages.source.as_str(), packages.list.len()), ("partition 2:/var/lib/dpkg/status", 1));
    assert!(it.loaders.iter().all(|loader| loader.place == Place::Medium));
}

/// A floppy's layout on a stick: no table, the file system from the first block on.
#[test]
fn a_disk_that_is_one_fat_is_read() {
    let dir = TempDir::new().unwrap();
    let tree = Medium::good().directory(dir.path());
    oracle("mformat", &["-C", "-T", "65536", "-v", "STICK", "-i", "x.img", "::"], dir.path());
    oracle("mcopy", &["-s", "-i", "x.img", tree.join("EFI").to_str().unwrap(), "::"], dir.path());
    let path = dir.path().join("x.img");
    let it = inspect(&path).unwrap_or_else(|e| panic!("{e:#}"));
    let found = &it.file_systems[0];
    assert_eq!((found.place.as_str(), found.format.as_str(), found.files), ("disk", "fat16", 2));
    assert_eq!(
        it.files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(),
        ["/EFI/BOOT/BOOTIA32.EFI", "/EFI/BOOT/BOOTX64.EFI",]
    );
    assert!(findings(&path).contains(&"partition-table warn".to_string()), "{:?}", findings(&path));
}

/// What is no medium is named, with what to do.
#[test]
fn what_is_no_medium_is_named() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x");
    let gzip: Vec<u8> = [0x1f, 0x8b].into_iter().chain([0; 70_000]).collect();
    let mut vdi = vec![0; 70_000];
    vdi[64..68].copy_from_slice(&[0x7f, 0x10, 0xda, 0xbe]);
    let mut empty_table = vec![0; 70_000];
    empty_table[510..512].copy_from_slice(&[0x55, 0xaa]);
    for (bytes, expected) in [
        (Vec::new(), "it is empty: build or download it again"),
        (b"text".to_vec(), "it is neither an ISO nor a disk image, for which its 4 bytes are too few"),
        (gzip, "it is compressed with gzip: unpack it first: gunzip --keep"),
        (b"PK\x03\x04".to_vec(), "it is a zip archive: unpack it first: unzip"),
        (b"QFI\xfb".repeat(9000), "it is a qcow2 image: convert it first: qemu-img convert -O raw"),
        (vdi, "it is a VDI image: convert it first: qemu-img convert -O raw"),
        (
            b"hsqs".repeat(9000),
            "it is a squashfs image alone: inspect the medium that holds it, or use unsquashfs -s",
        ),
        (empty_table, "it is neither an ISO nor a disk image: sector 0 names no partition"),
        (
            vec![1; 70_000],
            "it is neither an ISO nor a disk image: there is no volume descriptor at byte 32768, no partition table",
        ),
    ] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(inspect(&path).unwrap_err().root_cause().to_string(), expected);
    }
    let error = |path: &Path| format!("{:#}", inspect(path).unwrap_err());
    let shown = dir.path().display();
    assert_eq!(
        error(dir.path()),
        format!("inspecting {shown}: it is a directory: name an ISO or a disk image in it")
    );
    assert_eq!(
        error(Path::new("-")),
        "inspecting -: standard input cannot be read by position: save it to a file and name that"
    );
    let device =
        "it is no file and no disk, so it cannot be read by position: save it to a file and name that";
    assert_eq!(error(Path::new("/dev/null")), format!("inspecting /dev/null: {device}"));
    let missing = dir.path().join("missing");
    let expected = "opening it: No such file or directory (os error 2)";
    assert_eq!(error(&missing), format!("inspecting {}: {expected}", missing.display()));
}
