//! Menus and boot files, from the plan to the text.

use std::collections::BTreeMap;
use std::fs;

use liveiso::boot::{self, BootFiles};
use liveiso::cache::hex_sha256;
use liveiso::plan::{
    Arch, Boot, BootMode, Compression, Debian, Initramfs, InputFile, Packages, Plan, Root, RootImage,
    RootMode,
};
use liveiso::tree::{Kind, Tree, listing, parse_listing};
use tempfile::TempDir;

const BUILD_ID: &str = "0123456789abcdef01234567";

fn plan() -> Plan {
    Plan {
        plan_version: 1,
        iso_name: "rescue".to_string(),
        iso_version: "1.0".to_string(),
        iso_label: "RESCUE_10".to_string(),
        iso_publisher: "liveiso".to_string(),
        iso_application: "rescue stick".to_string(),
        install_dir: "liveiso".to_string(),
        arch: Arch::I386,
        timestamp: 1_767_225_600,
        debian: Debian { suite: "bookworm".to_string(), sources: Vec::new(), left_out: Vec::new() },
        packages: Packages::default(),
        root: Root {
            mode: RootMode::Unpacked,
            exclude: Vec::new(),
            file_permissions: BTreeMap::new(),
            image: RootImage { compression: Compression::Gzip, level: 9, block_size: 131_072 },
        },
        initramfs: Initramfs {
            compression: Compression::Xz,
            modules: Vec::new(),
            optional_modules: Vec::new(),
        },
        boot: Boot {
            bootmodes: vec![BootMode::BiosSyslinux, BootMode::UefiGrub],
            title: "Bob's rescue".to_string(),
            timeout: 5,
            kernel_parameters: "quiet".to_string(),
            serial: Some("ttyS0,115200".to_string()),
        },
        overlays: Vec::new(),
        efiboot: BTreeMap::new(),
    }
}

/// The files of the loader packages, by the names Debian gives them.
const LOADERS: &str = "\
file /usr/lib/ISOLINUX/isolinux.bin 0644 0 0 size=38912
file /usr/lib/ISOLINUX/isohdpfx.bin 0644 0 0 size=432
file /usr/lib/syslinux/modules/bios/chain.c32 0644 0 0 size=10
file /usr/lib/syslinux/modules/bios/ldlinux.c32 0644 0 0 size=11
file /usr/lib/syslinux/modules/bios/libcom32.c32 0644 0 0 size=12
file /usr/lib/syslinux/modules/bios/libutil.c32 0644 0 0 size=13
file /usr/lib/syslinux/modules/bios/menu.c32 0644 0 0 size=14
file /usr/lib/syslinux/modules/bios/poweroff.c32 0644 0 0 size=15
file /usr/lib/syslinux/modules/bios/reboot.c32 0644 0 0 size=16
file /usr/lib/syslinux/modules/bios/vesamenu.c32 0644 0 0 size=17
file /usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi 0644 0 0 size=20
file /usr/lib/grub/i386-efi/monolithic/gcdia32.efi 0644 0 0 size=21
file /boot/memtest86+ia32.bin 0644 0 0 size=30
file /boot/memtest86+ia32.efi 0644 0 0 size=31
file /boot/memtest86+x64.bin 0644 0 0 size=32
file /boot/memtest86+x64.efi 0644 0 0 size=33
";

fn files(plan: &Plan) -> BootFiles {
    boot::files(plan, BUILD_ID, &parse_listing(LOADERS).unwrap()).unwrap_or_else(|e| panic!("{e:#}"))
}

fn text(tree: &Tree, path: &str) -> String {
    let id = tree.get(path.as_bytes()).unwrap_or_else(|| panic!("{path} is missing"));
    let Kind::File(content) = &tree.inode(id).kind else { panic!("{path} is no file") };
    String::from_utf8(content.read_all().unwrap()).unwrap()
}

/// Paths and sizes, the part of a listing that matters here.
fn names(tree: &Tree) -> Vec<String> {
    let text = listing(tree).unwrap();
    let wanted = text.lines().filter(|line| line.starts_with("file "));
    wanted
        .map(|line| {
            line.split(' ')
                .filter(|w| w.starts_with(['/', 's']) && !w.starts_with("sha256"))
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}

#[test]
fn print() {
    let f = files(&plan());
    for p in ["isolinux/isolinux.cfg", "boot/grub/grub.cfg", "boot/grub/loopback.cfg"] {
        println!("{}", text(&f.iso, p));
    }
    println!("{}", text(f.esp.as_ref().unwrap(), "boot/grub/grub.cfg"));
    println!("{}\n\n{}", names(&f.iso).join("\n"), listing(f.esp.as_ref().unwrap()).unwrap());
    let _ = (
        hex_sha256(b""),
        InputFile { path: None, size: 0, sha256: String::new() },
        TempDir::new(),
        fs::read("/"),
    );
}
