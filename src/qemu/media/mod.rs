//! Media derived from an image, each made once, without mounting anything.
//!
//! ```text
//! cd, usb                 the image itself
//! usb-without-el-torito   a copy whose boot record no longer says so
//! fat-copy                its files on FAT32 under another label, as Rufus copies them
//! loopback                the image as a file beside a GRUB of another stick
//! netboot                 what `liveiso export netboot` writes
//! netboot-nbd             the same with --root nbd, and a server for the root image
//! ```

mod loopback;
mod nbd;
mod stick;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::machine::{Firmware, Medium, NBD_SERVER};
use super::process::Process;
use super::subject::Subject;
use crate::boot;
use crate::export::{self, Root};
use crate::format::iso9660::SECTOR;
use crate::plan::EfiArch;
use crate::scratch::Scratch;

/// Media made for a run; they go with this value.
#[derive(Debug)]
pub struct Media {
    image: PathBuf,
    made: BTreeMap<Medium, PathBuf>,
    /// Ends with this value.
    _nbd_server: Option<Process>,
    /// Removed on drop.
    _dir: Scratch,
}

impl Media {
    /// Makes the media that these machines need.
    ///
    /// # Errors
    /// A missing program by its package, a full disk, an image without the files that a medium takes.
    pub fn make(subject: &Subject, machines: &[(Firmware, Medium)]) -> Result<Media> {
        let dir = Scratch::new("media")?;
        let (mut made, mut nbd_server) = (BTreeMap::new(), None);
        for medium in Medium::ALL {
            let firmwares: Vec<Firmware> =
                machines.iter().filter(|(_, m)| *m == medium).map(|(firmware, _)| *firmware).collect();
            if firmwares.is_empty() || Medium::PLAIN.contains(&medium) {
                continue;
            }
            let path = dir.path().join(medium.name());
            make(subject, medium, &firmwares, &path)
                .with_context(|| format!("making the medium {}", medium.name()))?;
            if medium == Medium::NetbootNbd {
                nbd_server = Some(nbd::serve(subject, &path).context("serving the root image by NBD")?);
            }
            made.insert(medium, path);
        }
        Ok(Media { image: subject.image.clone(), made, _nbd_server: nbd_server, _dir: dir })
    }

    /// The file, or over the network the directory, of a medium.
    pub fn path(&self, medium: Medium) -> &Path {
        self.made.get(&medium).unwrap_or(&self.image)
    }
}

fn make(subject: &Subject, medium: Medium, firmwares: &[Firmware], path: &Path) -> Result<()> {
    let bios = firmwares.contains(&Firmware::Bios);
    match medium {
        Medium::Cd | Medium::Usb => Ok(()),
        Medium::UsbWithoutElTorito => without_el_torito(&subject.image, path),
        Medium::FatCopy => stick::fat_copy(subject, bios, path),
        Medium::Loopback => loopback::stick(subject, bios, path),
        Medium::Netboot => netboot(subject, firmwares, &Root::Http, path),
        Medium::NetbootNbd => {
            netboot(subject, firmwares, &Root::Nbd { server: NBD_SERVER.to_string(), export: None }, path)
        }
    }
}

/// The network's own loaders are no part of an image: under BIOS the card's iPXE, under UEFI Debian's GRUB.
fn netboot(subject: &Subject, firmwares: &[Firmware], root: &Root, path: &Path) -> Result<()> {
    let options = export::Options { roots: std::slice::from_ref(root), ..export::Options::default() };
    export::netboot(&subject.image, &subject.install_dir, &options, path)?;
    let [x64, ia32] = export::GRUB_FOR_NETWORKS
        .map(|loader| (loader.package, loader.path.to_string(), loader.name().to_string()));
    let (package, signed) = boot::signed_grub_for_networks(EfiArch::X64);
    let behind_shim = export::file_name(&boot::chain(EfiArch::X64).grub).to_string();
    for (firmware, (package, from, name)) in [
        (Firmware::UefiX64, x64),
        (Firmware::UefiIa32, ia32),
        (Firmware::SecureBoot, (package, signed, behind_shim)),
    ] {
        if firmwares.contains(&firmware) {
            let from = Path::new("/").join(from);
            let bytes = std::fs::read(&from).with_context(|| {
                format!("reading {}; install it with `sudo apt-get install {package}`", from.display())
            })?;
            std::fs::write(path.join(name), bytes).context("adding GRUB for networks")?;
        }
    }
    Ok(())
}

/// OVMF starts a stick through El Torito where there is one, real firmware rarely
/// does; without it the partition table has to be right. The volume stays one:
/// only the boot record's system identifier (El Torito 1.0, figure 7) goes.
fn without_el_torito(image: &Path, path: &Path) -> Result<()> {
    const IDENTIFIER: u64 = 17 * SECTOR + 7;
    std::fs::copy(image, path).with_context(|| format!("copying {}", image.display()))?;
    let writing = || format!("changing {}", path.display());
    // The image may be write-protected, and so its copy.
    let mut permissions = std::fs::metadata(path).with_context(writing)?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(path, permissions).with_context(writing)?;
    let file = File::options().read(true).write(true).open(path).with_context(writing)?;
    let mut found = [0; 23];
    file.read_exact_at(&mut found, IDENTIFIER).with_context(writing)?;
    ensure!(
        &found == b"EL TORITO SPECIFICATION",
        "sector 17 of {} is no El Torito boot record",
        image.display()
    );
    file.write_all_at(&[0; 32], IDENTIFIER).with_context(writing)
}
