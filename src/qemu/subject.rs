//! The image under test: its files, its build id, and which boots it is made for.
//!
//! Read from the ISO's own tables, so that a question
//! ("is there a partition table?") is answered from the image and not from a profile.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::machine::{Firmware, Medium};
use crate::boot;
use crate::format::disk;
use crate::format::iso9660::{self, BootMedium};
use crate::plan::{Arch, EfiArch};
use crate::tree::{Content, Kind, Tree};

/// El Torito platforms.
const PC_BIOS: u8 = 0x00;

/// An ISO or a disk image of ours, opened.
#[derive(Debug)]
pub struct Subject {
    /// The file.
    pub image: PathBuf,
    /// Directory on the medium that holds the marker file.
    pub install_dir: String,
    /// The name of its marker file.
    pub build_id: String,
    /// None in a disk image.
    boot: Option<BootMedium>,
    tree: Tree,
}

impl Subject {
    /// Opens `image`, whose marker file is `/<install_dir>/<id>.id`.
    ///
    /// # Errors
    /// What is no ISO 9660 volume and no disk with a FAT partition, or has not exactly one marker.
    pub fn open(image: &Path, install_dir: &str) -> Result<Subject> {
        if !image.is_file() {
            bail!("{} is not a file; give the .iso to boot", image.display());
        }
        let reading =
            || format!("{} is neither an ISO 9660 image nor a disk with a FAT partition", image.display());
        let (boot, tree) = match disk::read_tree(image) {
            Ok(Some(tree)) => (None, tree),
            // What is no ISO either is the ISO's reader's to judge.
            _ => {
                let boot = iso9660::read(image).with_context(reading)?;
                (Some(boot), iso9660::read_tree(image).with_context(reading)?)
            }
        };
        let ids = marker_names(&tree, install_dir);
        let build_id = match &ids[..] {
            [id] => id.clone(),
            [] => bail!("{} has no marker file /{install_dir}/*.id; is it a liveiso image?", image.display()),
            _ => bail!("{} has several marker files: {}", image.display(), ids.join(", ")),
        };
        let install_dir = install_dir.to_string();
        Ok(Subject { image: image.to_path_buf(), install_dir, build_id, boot, tree })
    }

    /// Its files.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The content of a file, by path without leading slash.
    pub fn file(&self, path: &str) -> Option<&Content> {
        match &self.tree.inode(self.tree.get(path.as_bytes())?).kind {
            Kind::File(content) => Some(content),
            _ => None,
        }
    }

    /// The files below the install directory, by path without leading slash.
    pub fn files(&self) -> impl Iterator<Item = (String, &Content)> {
        self.files_in(&self.install_dir)
    }

    /// The files below a directory, by path without leading slash.
    pub fn files_in(&self, directory: &str) -> impl Iterator<Item = (String, &Content)> {
        let inside = format!("{directory}/");
        self.tree.walk().filter_map(move |entry| match &entry.inode.kind {
            Kind::File(content) => {
                let path = String::from_utf8(entry.path).ok()?;
                path.starts_with(&inside).then_some((path, content))
            }
            _ => None,
        })
    }

    /// The root images; none if the root is in the initramfs.
    pub fn root_images(&self) -> impl Iterator<Item = (String, &Content)> {
        self.files().filter(|(path, _)| path.ends_with(".sfs") || path.ends_with(".erofs"))
    }

    /// Bytes of the root images, which a machine that downloads them holds in RAM.
    pub fn image_bytes(&self) -> u64 {
        self.root_images().map(|(_, content)| content.len()).sum()
    }

    /// Why the image cannot be started this way, whatever its quality; `None` if it should start.
    pub fn obstacle(&self, firmware: Firmware, medium: Medium) -> Option<String> {
        let unsigned = firmware == Firmware::SecureBoot && !self.is_signed(EfiArch::X64);
        let secure =
            unsigned.then(|| "the image is not made for Secure Boot: `secure-boot` under [boot]".to_string());
        self.firmware_obstacle(firmware).or(secure).or_else(|| self.medium_obstacle(medium))
    }

    /// Whether its only kernel is for 64-bit processors.
    pub fn is_64_bit(&self) -> bool {
        let has = |arch: Arch| {
            self.file(&format!("{}/boot/{}/vmlinuz", self.install_dir, arch.debian_name())).is_some()
        };
        has(Arch::Amd64) && !has(Arch::I386)
    }

    /// An image for nothing at all is not excused, but tried.
    fn firmware_obstacle(&self, firmware: Firmware) -> Option<String> {
        let bios = match &self.boot {
            Some(boot) => boot.catalog.iter().any(|entry| entry.bootable && entry.platform == PC_BIOS),
            None => self.file(boot::LDLINUX_SYS).is_some(),
        };
        let loaders = [Firmware::UefiX64, Firmware::UefiIa32].map(|uefi| self.file(uefi_loader(uefi)?));
        let uefi = loaders.iter().any(Option::is_some);
        match firmware {
            Firmware::Bios => (uefi && !bios).then(|| "the image is made for UEFI alone".to_string()),
            Firmware::UefiIa32 if self.is_64_bit() => {
                Some("the image has no kernel for the 32-bit processor of this machine".to_string())
            }
            _ => {
                let loader = uefi_loader(firmware)?;
                let missing = (uefi || bios) && self.file(loader).is_none();
                missing.then(|| format!("the image has no /{loader}"))
            }
        }
    }

    /// Whether it starts through shim, which starts this GRUB.
    pub fn is_signed(&self, efi: EfiArch) -> bool {
        self.file(&boot::chain(efi).grub).is_some()
    }

    fn medium_obstacle(&self, medium: Medium) -> Option<String> {
        let Some(boot) = &self.boot else {
            let is_stick = matches!(medium, Medium::Usb);
            return (!is_stick).then(|| "the image is a disk, for sticks alone".to_string());
        };
        let (no_table, no_catalog) = (boot.mbr.is_none(), boot.catalog.is_empty());
        let reason = match medium {
            Medium::Usb | Medium::UsbWithoutElTorito if no_table => {
                "the image has no partition table: it is for CDs alone"
            }
            Medium::UsbWithoutElTorito if no_catalog => "the image has no El Torito catalog: the same as usb",
            Medium::Loopback if self.file("boot/grub/loopback.cfg").is_none() => {
                "the image has no /boot/grub/loopback.cfg"
            }
            Medium::Netboot | Medium::NetbootNbd
                if !self.files().any(|(path, _)| path.ends_with("/vmlinuz")) =>
            {
                return Some(format!("the image has no kernel below /{}", self.install_dir));
            }
            Medium::NetbootNbd if self.root_images().count() != 1 => {
                "the image has no single root image that a server could offer"
            }
            Medium::FatCopy
                if self.tree.walk().any(|e| matches!(&e.inode.kind, Kind::File(c) if c.len() >= 4 << 30)) =>
            {
                "the image has a file of 4 GiB or more, which FAT cannot hold"
            }
            _ => return None,
        };
        Some(reason.to_string())
    }
}

/// The removable-media path of a UEFI firmware (UEFI 2.10, 3.5.1.1) on the medium.
pub(super) fn uefi_loader(firmware: Firmware) -> Option<&'static str> {
    match firmware {
        Firmware::Bios => None,
        Firmware::UefiX64 | Firmware::SecureBoot => Some("EFI/BOOT/BOOTX64.EFI"),
        Firmware::UefiIa32 => Some("EFI/BOOT/BOOTIA32.EFI"),
    }
}

/// Names of `/<install_dir>/*.id`, sorted.
fn marker_names(tree: &Tree, install_dir: &str) -> Vec<String> {
    let entries = tree.get(install_dir.as_bytes()).and_then(|id| tree.entries(id));
    let names =
        entries.into_iter().flatten().filter(|(_, id)| matches!(tree.inode(**id).kind, Kind::File(_)));
    let names = names.filter_map(|(name, _)| std::str::from_utf8(name.as_bytes()).ok()?.strip_suffix(".id"));
    names.map(str::to_string).collect()
}
