//! Damaged packages, indexes and media.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use liveiso::format::{fat, iso9660};
use liveiso::host::Tool;
use liveiso::source::{Deb, Index};
use liveiso::tree::parse_listing;

use crate::squashfs::trees::Random;

/// Calls a parser with every kind of damage: it may fail or find something else, never panic.
fn damage(intact: &[u8], rounds: u64, cuts: usize, mut parse: impl FnMut(&[u8]) -> bool) {
    assert!(parse(intact), "the intact input is read");
    let mut random = Random::new(intact.len() as u64);
    for n in 0..rounds {
        let mut bytes = intact.to_vec();
        for _ in 0..=n % 3 {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = match random.below(4) {
                0 => 0,
                1 => 0xff,
                2 => bytes[at] ^ (1 << random.below(8)),
                _ => random.below(256) as u8,
            };
        }
        parse(&bytes);
    }
    for n in 0..cuts {
        parse(&intact[..intact.len() * n / cuts]);
    }
}

#[test]
fn damaged_packages_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("pkg/DEBIAN")).unwrap();
    fs::write(
        at("pkg/DEBIAN/control"),
        "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m\nDescription: d\n",
    )
    .unwrap();
    fs::write(at("pkg/file"), "content").unwrap();
    fs::set_permissions(at("pkg"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(at("pkg/DEBIAN"), fs::Permissions::from_mode(0o755)).unwrap();
    for compression in ["none", "gzip", "xz", "zstd"] {
        let tool = Tool::new("dpkg-deb", "tests").unwrap().arg(format!("-Z{compression}")).arg("-b");
        tool.arg(at("pkg")).arg(at("x.deb")).output().unwrap();
        let intact = fs::read(at("x.deb")).unwrap();
        damage(&intact, 400, 60, |bytes| {
            fs::write(at("damaged.deb"), bytes).unwrap();
            let read = || -> Result<()> {
                let deb = Deb::open(&at("damaged.deb"))?;
                deb.control()?;
                deb.write_data(&mut std::io::sink())
            };
            read().is_ok()
        });
    }
}

#[test]
fn damaged_package_indexes_never_panic() {
    let intact = format!(
        "Package: p\nVersion: 1:2-3\nArchitecture: i386\nProvides: a (= 1), b | c,\n d\nSize: 10\n\
         Filename: pool/p.deb\nSHA256: {:064}\nDescription: ü\n x\n .\n\nPackage: q\nVersion: 1\n\
         Architecture: all\nSize: 18446744073709551615\nFilename: q\nSHA256: {0:064}\n",
        0
    );
    damage(intact.as_bytes(), 3000, intact.len(), |bytes| {
        let mut index = Index::default();
        let read = index.add(&String::from_utf8_lossy(bytes), "bookworm").is_ok();
        index.suggest("p");
        read
    });
}

#[test]
fn damaged_fat_images_never_panic() {
    let tree = parse_listing(
        "file /EFI/BOOT/BOOTX64.EFI 0644 0 0 size=5000\nfile /a-long-name-of-a-file.txt 0644 0 0 text=x\ndir /empty 0755 0 0",
    )
    .unwrap();
    let mut intact = Vec::new();
    let options =
        fat::Options { label: "X".to_string(), volume_id: 7, timestamp: 0, kind: fat::FatKind::Fat16 };
    fat::write(&tree, &options, &mut intact).unwrap();
    // What is interesting stands in the boot sector, the tables and the directories.
    let head = intact.iter().rposition(|&b| b != 0).unwrap() + 1;
    let rest = intact.len() - head;
    damage(&intact[..head], 600, 40, |bytes| {
        let mut image = bytes.to_vec();
        if bytes.len() == head {
            image.resize(head + rest, 0);
        }
        fat::verify(&image, &tree).is_ok()
    });
    damage(&intact[..512], 600, 16, |bytes| fat::verify(&[bytes, &intact[512..]].concat(), &tree).is_ok());
}

#[test]
fn damaged_media_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("root")).unwrap();
    fs::write(at("root/boot.img"), [0; 2048]).unwrap();
    let tool =
        Tool::new("xorriso", "tests").unwrap().args(["-as", "mkisofs", "-quiet", "-o"]).arg(at("x.iso"));
    let tool = tool.args(["-b", "boot.img", "-no-emul-boot", "-boot-load-size", "4"]).arg(at("root"));
    tool.output().unwrap();
    let whole = fs::read(at("x.iso")).unwrap();
    let catalog = iso9660::read(&at("x.iso")).unwrap().catalog_sector as usize * 2048;
    for part in [0..512, 32768..36864, catalog..catalog + 128] {
        damage(&whole[part.clone()], 400, 0, |bytes| {
            let mut damaged = whole.clone();
            damaged[part.clone()].copy_from_slice(bytes);
            fs::write(at("damaged.iso"), damaged).unwrap();
            iso9660::read(&at("damaged.iso")).is_ok()
        });
    }
    damage(&whole, 0, 60, |bytes| {
        fs::write(at("damaged.iso"), bytes).unwrap();
        iso9660::read(&at("damaged.iso")).is_ok()
    });
}
