//! A small medium that boots by every rule, to be damaged in one place each.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use liveiso::format::iso9660::{self, Options};
use liveiso::format::{cpio, fat, squashfs};
use liveiso::plan::{Compression, IsoLayout};
use liveiso::tree::{Content, Meta, Tree, parse_listing};

use crate::support::{iso_options, isolinux};

pub const RELEASE: &str = "6.1.0-9-686";
pub const KERNEL: &str = "liveiso/boot/i386/vmlinuz";
pub const INITRD: &str = "liveiso/boot/i386/initrd.img";
pub const ROOT: &str = "liveiso/i386/airootfs.sfs";
pub const GRUB: &str = "boot/grub/grub.cfg";

const GRUB_MENU: &str = "\
set loopback=
if [ -n \"$iso_path\" ]; then set loopback=\"findiso=$iso_path\"; fi
search --no-floppy --file --set=root /liveiso/0123456789abcdef01234567.id
menuentry 'Start' {
  linux /liveiso/boot/i386/vmlinuz quiet $loopback
  initrd /liveiso/boot/i386/initrd.img
}
if [ -f /boot/extra ]; then
menuentry 'Extra' {
  linux /boot/extra
}
fi
menuentry 'Safe' {
  linux /liveiso/boot/i386/vmlinuz nomodeset $loopback
  initrd /liveiso/boot/i386/initrd.img
}
";

const SUMS: &str = "\
0123  boot/i386/vmlinuz
4567  i386/airootfs.sfs
";

const ISOLINUX_MENU: &str = "\
default live
label live
  menu label ^Start
  linux /liveiso/boot/i386/vmlinuz
  initrd /liveiso/boot/i386/initrd.img
  append quiet
label off
  com32 poweroff.c32
";

/// What goes into the medium; tests change it before it is written.
pub struct Medium {
    pub files: BTreeMap<String, Vec<u8>>,
    pub esp: BTreeMap<String, Vec<u8>>,
    pub modules: Vec<&'static str>,
    pub builtin: Vec<&'static str>,
    /// Listing of the root image.
    pub root: String,
    pub volume_id: String,
    /// Whether dm-mod is compressed.
    pub packed: bool,
    /// The file by which the initramfs is known for whose it is.
    pub mark: &'static str,
    /// The build id that the initramfs has.
    pub id: &'static str,
    /// Text of /init, in a listing's spelling.
    pub init: &'static str,
    pub layout: IsoLayout,
    pub timestamp: i64,
}

impl Medium {
    pub fn good() -> Medium {
        let loader = |name: &str| format!("MZ, but no program: {name}").into_bytes();
        let esp = ["BOOTX64.EFI", "BOOTIA32.EFI"].map(|name| (format!("EFI/BOOT/{name}"), loader(name)));
        let text = |path: &str, text: &str| (path.to_string(), text.as_bytes().to_vec());
        let mut files = BTreeMap::from(esp.clone());
        files.extend([
            text(".disk/info", "rescue\n"),
            text("liveiso/0123456789abcdef01234567.id", "0123456789abcdef01234567\n"),
            text("liveiso/sha256sums", SUMS),
            text(GRUB, GRUB_MENU),
            text("boot/grub/loopback.cfg", "source /boot/grub/grub.cfg\n"),
            text("isolinux/isolinux.cfg", ISOLINUX_MENU),
            ("isolinux/isolinux.bin".to_string(), isolinux()),
            text("isolinux/ldlinux.c32", "second piece"),
            (KERNEL.to_string(), kernel(RELEASE)),
        ]);
        let status =
            "Package: nano\\x0aStatus: install ok installed\\x0aVersion: 7.2-1\\x0aArchitecture: i386\\x0a";
        let root = format!(
            "dir / 0755 0 0\nfile /etc/hostname 0644 0 0 text=live\\x0a\nfile /usr/bin/nano 0755 0 0 size=300000\n\
             file /var/lib/dpkg/status 0644 0 0 text={}\n",
            status.replace(' ', "\\x20")
        );
        Medium {
            files,
            esp: esp.into(),
            modules: vec![
                "cdrom",
                "dm-mod",
                "exfat",
                "ext4",
                "isofs",
                "loop",
                "overlay",
                "sd_mod",
                "sr_mod",
                "squashfs",
                "usb-storage",
                "vfat",
            ],
            builtin: vec!["scsi_mod"],
            root,
            volume_id: "RESCUE".to_string(),
            packed: false,
            mark: "etc/liveiso/id",
            id: "0123456789abcdef01234567",
            init: "#!/bin/sh\\x0amountroot\\x0a",
            layout: IsoLayout::Hybrid,
            timestamp: 1_767_225_600,
        }
    }

    pub fn set(&mut self, path: &str, text: &str) {
        self.files.insert(path.to_string(), text.as_bytes().to_vec());
    }

    /// Replaces text in a menu, which must be there.
    pub fn replace(&mut self, path: &str, from: &str, to: &str) {
        let text = String::from_utf8(self.files[path].clone()).unwrap();
        assert!(text.contains(from), "{path} has no {from}");
        self.set(path, &text.replace(from, to));
    }

    pub fn without(&mut self, module: &str) {
        self.modules.retain(|name| *name != module);
    }

    fn initrd(&self) -> Vec<u8> {
        let directory = format!("/lib/modules/{RELEASE}");
        let mut listing = format!(
            "file /init 0755 0 0 text={}\nfile /{} 0644 0 0 text={}\\x0a\n",
            self.init, self.mark, self.id
        );
        for module in &self.modules {
            let suffix = if self.packed && *module == "dm-mod" { ".xz" } else { "" };
            listing += &format!("file {directory}/kernel/{module}.ko{suffix} 0644 0 0 size=1000\n");
        }
        let builtin: String = self.builtin.iter().map(|name| format!("kernel/{name}.ko\\x0a")).collect();
        listing += &format!("file {directory}/modules.builtin 0644 0 0 text={builtin}\n");
        let depends = "kernel/sr_mod.ko:\\x20kernel/cdrom.ko\\x20kernel/scsi_mod.ko\\x0a";
        listing += &format!("file {directory}/modules.dep 0644 0 0 text={depends}\n");
        let mut bytes = Vec::new();
        cpio::write(&parse_listing(&listing).unwrap(), &mut bytes).unwrap();
        zstd::encode_all(&bytes[..], 3).unwrap()
    }

    /// Everything the medium holds, for other formats.
    pub fn tree(&self, dir: &Path) -> Tree {
        tree(&self.contents(dir))
    }

    /// Everything the ISO holds, in memory.
    pub fn contents(&self, dir: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files.clone();
        files.entry(INITRD.to_string()).or_insert_with(|| self.initrd());
        files.entry(ROOT.to_string()).or_insert_with(|| {
            let path = dir.join("root.sfs");
            let options = squashfs::Options::new(Compression::Gzip);
            squashfs::write(&parse_listing(&self.root).unwrap(), &options, File::create(&path).unwrap())
                .unwrap();
            fs::read(path).unwrap()
        });
        files
    }

    pub fn esp_image(&self, path: &Path) {
        let options = fat::Options {
            label: "LIVEISO_EFI".to_string(),
            volume_id: 7,
            timestamp: 1_767_225_600,
            kind: fat::FatKind::Fat16,
        };
        let mut image = Vec::new();
        fat::write(&tree(&self.esp), &options, &mut image).unwrap();
        fs::write(path, image).unwrap();
    }

    /// Writes `dir/NAME.iso`.
    pub fn write(&self, dir: &Path, name: &str) -> PathBuf {
        self.esp_image(&dir.join("efiboot.img"));
        let options = Options {
            volume_id: self.volume_id.clone(),
            timestamp: self.timestamp,
            layout: self.layout,
            ..iso_options(dir)
        };
        let out = dir.join(format!("{name}.iso"));
        iso9660::write(&tree(&self.contents(dir)), &options, dir, &out).unwrap_or_else(|e| panic!("{e:#}"));
        out
    }

    /// Writes `dir/x.iso` with this FAT image as its ESP.
    pub fn write_with_esp(&self, dir: &Path, image: &[u8]) -> PathBuf {
        fs::write(dir.join("efiboot.img"), image).unwrap();
        let out = dir.join("x.iso");
        iso9660::write(&self.tree(dir), &iso_options(dir), dir, &out).unwrap_or_else(|e| panic!("{e:#}"));
        out
    }

    /// The ISO's files as a directory, for other writers.
    pub fn directory(&self, dir: &Path) -> PathBuf {
        let top = dir.join("tree");
        for (path, bytes) in self.contents(dir) {
            let path = top.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        top
    }
}

fn tree(files: &BTreeMap<String, Vec<u8>>) -> Tree {
    let mut tree = Tree::new();
    let origin = tree.add_origin("test");
    for (path, bytes) in files {
        tree.add_file(path.as_bytes(), Content::bytes(bytes.clone()), Meta::mode(0o444), origin).unwrap();
    }
    tree
}

/// A header as `Documentation/arch/x86/boot.rst` has it.
pub fn kernel(release: &str) -> Vec<u8> {
    let mut bytes = vec![0; 40_000];
    bytes[0x202..0x208].copy_from_slice(b"HdrS\x0f\x02");
    bytes[0x20e..0x210].copy_from_slice(&0x1000_u16.to_le_bytes());
    let version = format!("{release} (nobody) #1 SMP\0");
    bytes[0x1200..0x1200 + version.len()].copy_from_slice(version.as_bytes());
    bytes
}

/// Overwrites bytes of a file.
pub fn patch(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}
