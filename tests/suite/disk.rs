//! Disk images against sfdisk, sgdisk, fsck.fat, mtools, fatfs and Debian's own
//! SYSLINUX installer; one boot each of a GPT's BIOS way and of the GPT layout of ISOs.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use liveiso::boot::syslinux::Syslinux;
use liveiso::format::disk::{self, Options, START, write};
use liveiso::format::fat::{self, FatKind};
use liveiso::plan::DiskImage;
use liveiso::tree::{Content, Kind, Tree, parse_listing};
use tempfile::TempDir;

use crate::boot::boots;
use crate::support::{built, oracle, tiny_variant};

const FILES: &str = "\
dir /.disk 0755 0 0
file /.disk/info 0444 0 0 text=x\\x0a
file /EFI/BOOT/BOOTX64.EFI 0444 0 0 size=30000
file /liveiso/boot/i386/vmlinuz 0444 0 0 size=700001
file /liveiso/0123456789abcdef01234567.id 0444 0 0 text=id\\x0a
file /liveiso/nothing 0444 0 0 size=0
file /sub/ldlinux.sys 0444 0 0 size=59392
";

/// A disk image named RESCUE of 2026-01-01, with this partition table.
pub fn options(table: DiskImage) -> Options {
    Options {
        table,
        boot_code: vec![0xeb; 440],
        signature: 0x1234_abcd,
        disk_guid: "01234567-89ab-4def-8123-456789abcdef".to_string(),
        fat: fat::Options {
            label: "RESCUE".to_string(),
            volume_id: 7,
            timestamp: 1_767_225_600,
            kind: FatKind::Fat32 { hidden_sectors: START },
        },
    }
}

/// The image as `x.img`, and its partition alone as `p.img`.
fn written(dir: &Path, table: DiskImage) -> (Tree, PathBuf) {
    let tree = parse_listing(FILES).unwrap();
    let image = dir.join("x.img");
    write(&tree, &options(table), &image).unwrap_or_else(|e| panic!("{e:#}"));
    let bytes = fs::read(&image).unwrap();
    let mut end = bytes.len();
    if table == DiskImage::Gpt {
        end -= 1 << 20;
    }
    fs::write(dir.join("p.img"), &bytes[1 << 20..end]).unwrap();
    (tree, image)
}

fn partitions(dir: &Path) -> Vec<String> {
    let table = oracle("sfdisk", &["--dump", "x.img"], dir);
    table.lines().filter(|line| line.contains(" : ")).map(str::to_string).collect()
}

#[test]
fn every_table_is_what_sfdisk_and_sgdisk_read() {
    for (table, expected) in [
        (DiskImage::Mbr, "x.img1 : start=        2048, size=       67584, type=ef, bootable"),
        (DiskImage::UsbZip, "x.img4 : start=        2048, size=       67584, type=c, bootable"),
        (
            DiskImage::Gpt,
            "x.img1 : start=        2048, size=       67584, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, \
             uuid=01234567-89AB-4DEF-8123-456789ABCDF0, name=\"EFI system partition\", attrs=\"LegacyBIOSBootable\"",
        ),
    ] {
        let dir = TempDir::new().unwrap();
        let (tree, image) = written(dir.path(), table);
        assert_eq!(partitions(dir.path()), [expected], "{table:?}");
        disk::verify(&image, &tree, &options(table)).unwrap();
        if table == DiskImage::Gpt {
            let checked = oracle("sgdisk", &["--verify", "x.img"], dir.path());
            assert!(checked.contains("No problems found."), "{checked}");
        }
    }
}

/// Heads, sectors and cylinders of a Zip drive, which an Award BIOS computes from the table itself.
#[test]
fn partitions_lie_on_the_cylinders_of_a_zip_drive() {
    let dir = TempDir::new().unwrap();
    let (_, image) = written(dir.path(), DiskImage::UsbZip);
    let bytes = fs::read(&image).unwrap();
    let entry = &bytes[446 + 48..446 + 64];
    assert_eq!(entry[..8], [0x80, 0, 1, 1, 0x0c, 63, 32, 33]);
    assert_eq!(bytes.len() % (64 * 32 * 512), 0);
    assert_eq!(bytes[(1 << 20) + 24..][..8], [32, 0, 64, 0, 0, 8, 0, 0], "the boot sector's geometry");
}

#[test]
fn the_file_system_is_what_fsck_mtools_and_fatfs_read() {
    let dir = TempDir::new().unwrap();
    let (tree, _) = written(dir.path(), DiskImage::Mbr);
    let checked = oracle("fsck.fat", &["-vn", "p.img"], dir.path());
    assert!(
        checked.contains("2 FATs, 32 bit entries") && checked.contains("512 bytes per cluster"),
        "{checked}"
    );
    assert!(checked.contains("p.img: 14 files, "), "{checked}");
    let listed = oracle("mdir", &["-i", "p.img", "::"], dir.path());
    assert!(
        listed.contains(" Volume in drive : is RESCUE     \n Volume Serial Number is 0000-0007\n"),
        "{listed}"
    );
    let file = fs::File::open(dir.path().join("p.img")).unwrap();
    let volume = fatfs::FileSystem::new(file, fatfs::FsOptions::new()).unwrap();
    assert_eq!(volume.fat_type(), fatfs::FatType::Fat32);
    let stats = volume.stats().unwrap();
    for entry in tree.walk() {
        let Kind::File(content) = &entry.inode.kind else { continue };
        let path = String::from_utf8(entry.path.clone()).unwrap();
        let mut found = Vec::new();
        volume.root_dir().open_file(&path).unwrap().read_to_end(&mut found).unwrap();
        assert!(found == content.read_all().unwrap(), "{path}");
        let copied = oracle("mcopy", &["-i", "p.img", &format!("::/{path}"), "-"], dir.path());
        assert_eq!(copied.len() as u64, String::from_utf8_lossy(&found).len() as u64, "{path}");
    }
    // FSInfo's count is what a walk over the table finds.
    let said = oracle("fsck.fat", &["-vn", "p.img"], dir.path());
    let used = stats.total_clusters() - stats.free_clusters();
    assert!(said.contains(&format!("{used}/{} clusters", stats.total_clusters())), "{said}");
}

/// From 260 MiB on clusters have 4 KiB, as Microsoft's specification has it.
#[test]
fn large_volumes_have_larger_clusters() {
    let dir = TempDir::new().unwrap();
    let mut tree = parse_listing(FILES).unwrap();
    let origin = tree.add_origin("test");
    let large = dir.path().join("large");
    fs::File::create(&large).unwrap().set_len(300 << 20).unwrap();
    tree.add_file(b"large", Content::file(&large, 300 << 20), Default::default(), origin).unwrap();
    let image = dir.path().join("x.img");
    write(&tree, &options(DiskImage::Mbr), &image).unwrap();
    let bytes = fs::read(&image).unwrap();
    fs::write(dir.path().join("p.img"), &bytes[1 << 20..]).unwrap();
    let checked = oracle("fsck.fat", &["-vn", "p.img"], dir.path());
    assert!(checked.contains("4096 bytes per cluster") && checked.contains("32 bit entries"), "{checked}");
    tree.add_file(b"larger", Content::file(&large, 4 << 30), Default::default(), origin).unwrap();
    let error = format!("{:#}", write(&tree, &options(DiskImage::Mbr), &image).unwrap_err());
    assert_eq!(error, "`/larger` has 4294967296 bytes, FAT takes 4294967295");
}

#[test]
fn the_bytes_do_not_depend_on_what_was_there() {
    for table in [DiskImage::Mbr, DiskImage::Gpt] {
        let dir = TempDir::new().unwrap();
        let (tree, image) = written(dir.path(), table);
        let first = fs::read(&image).unwrap();
        fs::write(&image, vec![0xa5; first.len() + 5000]).unwrap();
        write(&tree, &options(table), &image).unwrap();
        assert!(fs::read(&image).unwrap() == first, "{table:?}: the old bytes shine through");
    }
}

#[test]
fn damage_is_found() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = written(dir.path(), DiskImage::Gpt);
    let good = fs::read(&image).unwrap();
    let last = good.len() - 512;
    for (at, expected) in [
        (450, "sector 0 is not the MBR that was written"),
        (512 + 60, "CRC32 Checksum Mismatch"),
        (last + 60, "CRC32 Checksum Mismatch"),
        ((1 << 20) + 32 * 512 + 8, "reading the FAT volume back"),
    ] {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        fs::write(&image, bytes).unwrap();
        let error = format!("{:#}", disk::verify(&image, &tree, &options(DiskImage::Gpt)).unwrap_err());
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// The installer of the host's Debian does to a file system what we do, but for
/// the place and the modules it copies.
#[test]
fn syslinux_is_installed_as_its_own_installer_does() {
    let program = fs::read("/usr/bin/syslinux").expect("the package syslinux is needed for this test");
    let syslinux = Syslinux::from_program(&program).unwrap();
    let dir = TempDir::new().unwrap();
    let mut tree = parse_listing("dir /sub 0755 0 0\n").unwrap();
    let origin = tree.add_origin("test");
    let sys = Content::bytes(syslinux.ldlinux_sys());
    tree.add_file(b"sub/ldlinux.sys", sys, Default::default(), origin).unwrap();
    let image = dir.path().join("x.img");
    write(&tree, &options(DiskImage::Mbr), &image).unwrap();
    fs::copy(&image, dir.path().join("theirs.img")).unwrap();
    let volume = u64::from(START) * 512;
    let length = fs::metadata(&image).unwrap().len() - volume;
    let place = |image: &Path| {
        let (_, tree) = fat::read(image, volume, length).unwrap();
        match &tree.inode(tree.get(b"sub/ldlinux.sys").unwrap()).kind {
            Kind::File(content @ Content::Slice { offset, .. }) => (*offset, content.read_all().unwrap()),
            other => panic!("{other:?}"),
        }
    };
    syslinux.install(&image, volume, place(&image).0, "/sub").unwrap();
    oracle("syslinux", &["--install", "--offset", "1048576", "-d", "/sub", "theirs.img"], dir.path());
    let theirs = dir.path().join("theirs.img");
    // The same work at their place must give their bytes.
    let their_place = place(&theirs).0;
    let mut moved = fs::read(&theirs).unwrap();
    let end = their_place as usize + syslinux.ldlinux_sys().len();
    moved[their_place as usize..end].copy_from_slice(&syslinux.ldlinux_sys());
    let ours = dir.path().join("moved.img");
    fs::write(&ours, moved).unwrap();
    syslinux.install(&ours, volume, their_place, "/sub").unwrap();
    let boot = |image: &Path| fs::read(image).unwrap()[volume as usize..][..512].to_vec();
    assert!(boot(&ours) == boot(&theirs), "the boot sector differs");
    let (ours, theirs) = (place(&ours).1, place(&theirs).1);
    assert_eq!(mapped(&ours), mapped(&theirs), "the sectors of ldlinux.sys");
    assert!(without_map(ours) == without_map(theirs), "ldlinux.sys differs");
}

fn number(core: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([core[at], core[at + 1]]))
}

/// The sectors that the extents name, one by one: theirs cross multiples of 64 KiB, ours do not.
fn mapped(core: &[u8]) -> Vec<u64> {
    let extended = number(core, 24 + 22);
    let (extents, count) = (number(core, extended + 10), number(core, extended + 12));
    let extent = |entry: &[u8]| {
        let start = u64::from_le_bytes(entry[..8].try_into().unwrap());
        start..start + number(entry, 8) as u64
    };
    core[extents..][..10 * count].chunks(10).flat_map(extent).collect()
}

/// The rest, but for the checksum.
fn without_map(mut core: Vec<u8>) -> Vec<u8> {
    let extended = number(&core, 24 + 22);
    let (extents, count) = (number(&core, extended + 10), number(&core, extended + 12));
    core[extents..][..10 * count].fill(0);
    core[24 + 16..24 + 20].fill(0);
    core
}

/// profiles/tiny with a disk image and a GPT on both media.
fn built_with_gpt() -> &'static (PathBuf, String) {
    static BUILT: OnceLock<(PathBuf, String)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dir = TempDir::new().unwrap();
        let keys = "iso-layout = \"gpt\"\ndisk-image = \"gpt\"\narch = ";
        tiny_variant(dir.path(), |text| text.replacen("arch = ", keys, 1));
        built(dir.path(), "gpt")
    })
}

#[test]
fn a_build_publishes_the_disk_image_and_says_what_firmware_reads() {
    let (iso, stderr) = built_with_gpt();
    let image = iso.with_extension("img");
    let (dir, name) = (image.parent().unwrap(), image.file_name().unwrap().to_str().unwrap());
    assert_eq!(oracle("sha256sum", &["-c", &format!("{name}.sha256")], dir), format!("{name}: OK\n"));
    let manifest = fs::read(iso.with_extension("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["artifacts"][name]["size"], fs::metadata(&image).unwrap().len());
    let size = |name: &str| manifest["images"][name]["size"].as_u64().unwrap();
    let (kernel, initramfs) = (size("vmlinuz"), size("initrd.img"));
    let reads = serde_json::json!({ "kernel": kernel, "initramfs": initramfs });
    assert_eq!(manifest["firmware-reads"], reads);
    assert!(kernel + initramfs <= 10_000_000, "{reads}");
    let megabytes = |bytes: u64| format!("{:.1} MB", (bytes / 100_000) as f64 / 10.0);
    let said = format!(
        "firmware reads {}: kernel {}, initramfs {}\n",
        megabytes(kernel + initramfs),
        megabytes(kernel),
        megabytes(initramfs)
    );
    assert!(stderr.contains(&said), "{said}{stderr}");
    // The same files as the ISO has, but for the loader of BIOS.
    fs::write(dir.join("p.img"), &fs::read(&image).unwrap()[1 << 20..]).unwrap();
    let listed = oracle("mdir", &["-i", "p.img", "-/", "-b", "::"], dir);
    let mut names: Vec<String> =
        listed.lines().filter(|line| !line.ends_with('/')).map(|line| line[2..].to_string()).collect();
    names.sort();
    let found = oracle("xorriso", &["-indev", iso.to_str().unwrap(), "-find", "/", "-type", "f"], dir);
    let mut expected: Vec<String> = found
        .lines()
        .map(|line| {
            line.trim_matches('\'')
                .replace("/isolinux/", "/syslinux/")
                .replace("isolinux.cfg", "syslinux.cfg")
        })
        .filter(|path| !path.ends_with("isolinux.bin") && !path.ends_with("boot.cat"))
        .collect();
    expected.push("/syslinux/ldlinux.sys".to_string());
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn the_gpts_boot_by_bios() {
    let usb = ["--firmware", "bios", "--medium", "usb"];
    boots(&built_with_gpt().0, &usb);
    boots(&built_with_gpt().0.with_extension("img"), &usb);
}
