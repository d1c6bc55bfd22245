//! A root of its own for each of two kernels: what lies on the medium, and which one a PC gets.
//!
//! Needs squashfs-tools and qemu-system-x86.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use liveiso::format::iso9660::read_tree;
use liveiso::initramfs::unpack;
use liveiso::qemu::{Firmware, Machine, Medium};
use liveiso::tree::{Kind, Tree};

use crate::secure::{ROOT, answers, variant};
use crate::support::{built, oracle};

/// The finished ISO of profiles/tiny with the next release for 64-bit PCs beside it.
fn both() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let lines = "[root.amd64]\npackages = [\"kmod\"]\n\n[kernel.amd64]\nsuite = \"trixie\"\n";
        built(&variant(dir.path(), lines), "two-roots").0
    })
}

fn content(tree: &Tree, path: &str) -> Vec<u8> {
    let id = tree.get(path.as_bytes()).unwrap_or_else(|| panic!("no /{path}"));
    let Kind::File(content) = &tree.inode(id).kind else { panic!("/{path} is no file") };
    content.read_all().unwrap()
}

/// Bits of an ELF program's words (gABI, EI_CLASS).
fn elf_bits(program: &[u8]) -> u32 {
    assert_eq!(program[..4], *b"\x7fELF");
    u32::from(program[4]) * 32
}

#[test]
fn each_kernel_has_its_root_on_the_medium() {
    let medium = read_tree(both()).unwrap();
    let text = |path: &str| String::from_utf8(content(&medium, path)).unwrap();
    let digests = text("liveiso/sha256sums");
    let mut names: Vec<&str> = digests.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    names.retain(|name| !name.ends_with(".id") && !name.contains("memtest"));
    assert_eq!(
        names,
        [
            "amd64/airootfs.sfs",
            "boot/amd64/initrd.img",
            "boot/amd64/vmlinuz",
            "boot/i386/initrd.img",
            "boot/i386/vmlinuz",
            "i386/airootfs.sfs",
        ]
    );
    let dir = tempfile::tempdir().unwrap();
    let mut kernels = BTreeMap::new();
    for (arch, bits, programs) in [("i386", 32, 0), ("amd64", 64, 1)] {
        let initramfs = unpack(&content(&medium, &format!("liveiso/boot/{arch}/initrd.img"))).unwrap().0;
        let words = String::from_utf8(content(&initramfs, "etc/liveiso/medium")).unwrap();
        assert!(words.lines().any(|line| line == format!("IMAGE={arch}/airootfs.sfs")), "{words}");
        assert_eq!(elf_bits(&content(&initramfs, "bin/busybox")), bits);

        let image = medium.get(format!("liveiso/{arch}/airootfs.sfs").as_bytes()).unwrap();
        let Kind::File(image) = &medium.inode(image).kind else { panic!("the image is no file") };
        let mut copy = fs::File::create_new(dir.path().join(arch)).unwrap();
        std::io::copy(&mut image.open().unwrap(), &mut copy).unwrap();
        oracle("unsquashfs", &["-q", "-n", "-d", "root", arch, "usr/bin", "usr/lib/modules"], dir.path());
        let root = dir.path().join("root");
        assert_eq!(elf_bits(&fs::read(root.join("usr/bin/busybox")).unwrap()), bits);
        assert_eq!(usize::from(root.join("usr/bin/kmod").exists()), programs, "{arch}");
        let found = fs::read_dir(root.join("usr/lib/modules")).unwrap();
        let found: Vec<String> = found.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(found.len(), 1, "{arch} has modules of {found:?}");
        kernels.insert(arch, found[0].clone());
        fs::remove_dir_all(root).unwrap();
    }
    assert!(kernels["i386"].starts_with("6.1.") && kernels["amd64"].starts_with("6.12."), "{kernels:?}");
}

#[test]
fn the_manifest_tells_the_roots_apart() {
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(both().with_extension("manifest.json")).unwrap()).unwrap();
    let images: Vec<&String> = manifest["images"].as_object().unwrap().keys().collect();
    assert_eq!(
        images,
        [
            "airootfs.sfs",
            "amd64/airootfs.sfs",
            "amd64/initrd.img",
            "amd64/vmlinuz",
            "efiboot.img",
            "initrd.img",
            "vmlinuz"
        ]
    );
    assert_eq!(manifest["plan"]["second-root"], "trixie");
    let packages = fs::read_to_string(both().with_extension("packages.txt")).unwrap();
    let of = |arch: &str| {
        let suffix = format!(" {arch}");
        let lines = packages.lines().filter(|line| line.ends_with(&suffix));
        lines.filter(|line| line.starts_with("busybox-static ") || line.starts_with("kmod ")).count()
    };
    assert_eq!((of("i386"), of("amd64")), (1, 2), "{packages}");
    for (name, has) in [("files.txt", false), ("amd64.files.txt", true)] {
        let files = fs::read_to_string(both().with_extension(name)).unwrap();
        assert_eq!(files.lines().any(|line| line.starts_with("/usr/bin/kmod ")), has, "{name}");
    }
}

#[test]
fn a_64_bit_pc_gets_the_64_bit_root() {
    let cpu = "qemu64".to_string();
    let machine = Machine { cpu, memory_mib: 256, ..Machine::new(Firmware::Bios, Medium::Cd) };
    // The word size of process 1's program.
    let found = answers(&machine, both(), [ROOT, "od -An -tu1 -j4 -N1 /proc/1/exe", "uname -m"]);
    assert_eq!(found, ["overlay", "2", "x86_64"]);
}
