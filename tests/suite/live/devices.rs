//! Media on devices that are no IDE disc, and Ventoy.

use std::fs;
use std::path::Path;

use liveiso::format::cpio;
use liveiso::initramfs::ioctl_program;
use liveiso::plan::Arch;
use liveiso::tree::{Content, Meta, Tree};

use super::machine::boot;
use super::media::{DISK, Unpacked, exfat_with, fat_copy, ntfs_with, run};
use crate::support::tiny;

/// The files of tiny as another build's medium.
fn other_build(dir: &Path, medium: &Unpacked, id: &str) -> std::path::PathBuf {
    let tree = dir.join(id);
    run("cp", &["-r".as_ref(), medium.tree.as_ref(), tree.as_ref()]);
    run("chmod", &["-R".as_ref(), "u+w".as_ref(), tree.as_ref()]);
    let markers = fs::read_dir(tree.join("liveiso")).unwrap().map(|entry| entry.unwrap().path());
    let marker = markers.into_iter().find(|path| path.extension().is_some_and(|e| e == "id")).unwrap();
    fs::rename(marker, tree.join(format!("liveiso/{id}.id"))).unwrap();
    fat_copy(dir, &format!("{id}.img"), &tree)
}

/// Other builds on an SD card and an NVMe disk are read and told apart, an ISO file on NTFS is
/// beyond this kernel and said to be; the one a person chooses boots.
#[test]
fn sd_cards_nvme_and_ntfs_are_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Unpacked::of(tiny());
    let [card, disk] = ["aaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbb"]
        .map(|id| other_build(dir.path(), &medium, id));
    let ntfs = ntfs_with(dir.path(), "ntfs.img", tiny());
    let mut live = boot(&medium, 128, "liveiso.timeout=20");
    live.arguments(&["-device", "sdhci-pci"]).disk(&card, "sd-card");
    live.disk(&disk, "nvme,serial=1").usb("usb-ehci", &ntfs);
    let mut guest = live.start();
    guest.says("the medium of this build was not found in 20 s");
    guest.says("power off > ");
    guest.types("s");
    let report = guest.ask("cat /run/initramfs/live/report");
    for line in [
        ("mmcblk0 ", "vfat", "another build: aaaaaaaaaaaaaaaaaaaaaaaa.id"),
        ("nvme0n1 ", "vfat", "another build: bbbbbbbbbbbbbbbbbbbbbbbb.id"),
        ("sda ", "ntfs3", "no driver for ntfs3 in this initramfs"),
    ] {
        let (name, kind, verdict) = line;
        let found = report.lines().any(|l| l.contains(name) && l.contains(kind) && l.contains(verdict));
        assert!(found, "{line:?}:\n{report}");
    }
    guest.types("exit");
    guest.says("power off > ");
    guest.types("d");
    guest.says("any liveiso medium will do): ");
    guest.types("nvme0n1");
    guest.says(":: medium: /dev/nvme0n1 (vfat)");
    guest.logs_in();
    guest.ends("poweroff -f");
}

/// A stick whose sectors have 4096 bytes, which isofs reads through a loop device only.
#[test]
#[ignore = "boots twice; only old readers of magneto-optical discs and some card readers have such sectors"]
fn a_stick_of_4096_byte_sectors() {
    let dir = tempfile::tempdir().unwrap();
    let stick = dir.path().join("stick.img");
    fs::copy(tiny(), &stick).unwrap();
    run("chmod", &["u+w".as_ref(), stick.as_ref()]);
    let length = fs::metadata(&stick).unwrap().len().next_multiple_of(4096);
    fs::File::options().write(true).open(&stick).unwrap().set_len(length).unwrap();
    for (words, place) in [("", "image on the medium"), ("toram", "image in RAM (")] {
        let mut live = boot(&Unpacked::of(tiny()), 256, words);
        live.disk(&stick, "virtio-blk-pci,logical_block_size=4096,physical_block_size=4096");
        let mut guest = live.start();
        guest.says(":: medium: /dev/vda (iso9660)");
        guest.says(place);
        guest.logs_in();
        let loops = if words.is_empty() { "2\n" } else { "1\n" };
        assert_eq!(guest.ask("ls -d /sys/block/loop*/loop | wc -l"), loops);
        guest.ends("poweroff -f");
    }
}

/// A request to the device mapper about the device `ventoy`: linux/dm-ioctl.h.
fn device_mapper(command: u32, target: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut word = |value: u32| bytes.extend(value.to_le_bytes());
    word(0xc138_fd00 + command);
    let targets = u32::from(target.is_some());
    for value in [4, 0, 0, 1024, 312, targets, 0, 0, 0, 0, 0, 0] {
        word(value);
    }
    bytes.extend(b"ventoy");
    bytes.resize(4 + 312, 0);
    bytes.extend(target.unwrap_or_default());
    bytes.resize(4 + 1024, 0);
    bytes
}

/// What Ventoy adds to the initramfs of a Debian-like system: a program that runs before /init, puts a
/// line in front of the line `mountroot` and starts it. The hook waits for the disk, loads the
/// initramfs's own dm-mod and maps the sectors of the ISO file. After Ventoy 1.0's
/// IMG/cpio/ventoy/hook/{default,debian}; the programs are this test's.
fn ventoy_archive(first_sector: u64, sectors: u64) -> Vec<u8> {
    let mut target = Vec::new();
    target.extend(0_u64.to_le_bytes());
    target.extend(sectors.to_le_bytes());
    target.extend([0; 8]);
    target.extend(b"linear\0\0\0\0\0\0\0\0\0\0");
    target.extend(format!("/dev/vda {first_sector}\0").bytes());
    let start = "#!/bin/busybox sh\n\
        /bin/busybox sed -i '/^mountroot$/i\\/bin/busybox sh /ventoy/hook.sh\\nexport LIVEMEDIA=/dev/mapper/ventoy LIVE_MEDIA=/dev/mapper/ventoy' /init\n\
        exec /init\n";
    let hook = "until [ -b /dev/vda ]; do sleep 0.2; done\n\
        insmod $(find /lib/modules -name dm-mod.ko)\n\
        for step in create load resume; do /ventoy/ioctl 3<>/dev/mapper/control </ventoy/$step || echo \"ventoy: $step failed\"; done\n";
    let files: [(&str, Vec<u8>); 6] = [
        ("vtoy/vtoy", start.into()),
        ("ventoy/hook.sh", hook.into()),
        ("ventoy/ioctl", ioctl_program(Arch::I386)),
        ("ventoy/create", device_mapper(3, None)),
        ("ventoy/load", device_mapper(9, Some(&target))),
        ("ventoy/resume", device_mapper(6, None)),
    ];
    let mut tree = Tree::new();
    let origin = tree.add_origin("ventoy");
    for directory in ["ventoy", "vtoy"] {
        tree.add_directory(directory.as_bytes(), Meta::mode(0o755), origin).unwrap();
    }
    for (path, bytes) in files {
        tree.add_file(path.as_bytes(), Content::bytes(bytes), Meta::mode(0o755), origin).unwrap();
    }
    let mut bytes = Vec::new();
    cpio::write(&tree, &mut bytes).unwrap();
    bytes
}

/// An ISO file on exFAT as Ventoy hands it over: a device of its own, made by a hook in /init.
#[test]
fn ventoy_hands_over_its_device() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Unpacked::of(tiny());
    let stick = exfat_with(dir.path(), "stick.img", "any name.iso", tiny());
    // The file is contiguous, and the only thing on the stick with an ISO's descriptor.
    let bytes = fs::read(&stick).unwrap();
    let descriptor = &fs::read(tiny()).unwrap()[32768..34816];
    let at = bytes
        .chunks(512)
        .enumerate()
        .find(|(n, chunk)| *chunk == &descriptor[..512] && bytes[n * 512..].starts_with(descriptor));
    let first = at.unwrap().0 as u64 - 64;
    let sectors = fs::metadata(tiny()).unwrap().len() / 512;

    let boot_dir = medium.tree.join("liveiso/boot/i386");
    let tree = dir.path().join("tree/liveiso/boot/i386");
    fs::create_dir_all(&tree).unwrap();
    fs::copy(boot_dir.join("vmlinuz"), tree.join("vmlinuz")).unwrap();
    let mut initrd = fs::read(boot_dir.join("initrd.img")).unwrap();
    initrd.resize(initrd.len().next_multiple_of(512), 0);
    initrd.extend(ventoy_archive(first, sectors));
    fs::write(tree.join("initrd.img"), initrd).unwrap();

    let patched = Unpacked { tree: dir.path().join("tree") };
    let mut live = boot(&patched, 128, "rdinit=/vtoy/vtoy");
    live.disk(&stick, DISK);
    let mut guest = live.start();
    guest.says(":: medium: /dev/dm-0 (iso9660)");
    guest.logs_in();
    guest.ends("poweroff -f");
}
