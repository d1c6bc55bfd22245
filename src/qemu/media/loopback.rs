//! A stick with a GRUB of its own that starts the image from a file, as Super
//! Grub Disk, GLIM and people's own menus do (`loopback.cfg`).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::Subject;
use super::stick::{write, write_boot_code};
use crate::host::Tool;

/// What a caller of loopback.cfg sets. GRUB's module `tpm` would read the whole image at once.
const CONFIG: &str = "\
if [ $grub_platform = efi ]; then rmmod tpm; fi
set iso_path=/isos/live.iso
export iso_path
set stick=$root
if [ ! -e $iso_path ]; then search --no-floppy --file --set=stick $iso_path; fi
loopback loop ($stick)$iso_path
set root=(loop)
configfile /boot/grub/loopback.cfg
";

/// GRUB's own modules for a BIOS: partition, file systems and what menus use.
const MODULES: &[&str] = &[
    "biosdisk",
    "part_msdos",
    "fat",
    "iso9660",
    "loopback",
    "search",
    "search_fs_file",
    "search_fs_uuid",
    "probe",
    "normal",
    "configfile",
    "test",
    "echo",
    "linux",
    "linux16",
    "serial",
    "terminal",
    "drivemap",
    "chain",
    "halt",
    "reboot",
    "regexp",
    "sleep",
    "all_video",
    "minicmd",
];

const I386_PC: &str = "/usr/lib/grub/i386-pc";

/// Where UEFI loaders lie, on the stick as on the image.
const LOADERS: &str = "EFI/BOOT";

/// Under UEFI the stick's GRUB is a copy of the image's, with shim where that has one; under BIOS Debian's grub-pc-bin.
pub(super) fn stick(subject: &Subject, bios: bool, path: &Path) -> Result<()> {
    let files = path.with_extension("files");
    for dir in ["isos", "boot/grub", LOADERS] {
        fs::create_dir_all(files.join(dir)).with_context(|| format!("creating {dir}"))?;
    }
    fs::copy(&subject.image, files.join("isos/live.iso")).context("copying the image")?;
    fs::write(files.join("boot/grub/grub.cfg"), CONFIG).context("writing grub.cfg")?;
    for (loader, content) in subject.files_in(LOADERS) {
        fs::write(files.join(&loader), content.read_all()?).with_context(|| format!("writing {loader}"))?;
    }
    write(path, &files)?;
    fs::remove_dir_all(&files).context("removing the stick's files")?;
    if bios { install_grub(path) } else { Ok(()) }
}

/// boot.img loads the block behind it, which loads the rest from where it lies by default.
fn install_grub(path: &Path) -> Result<()> {
    let core = path.with_extension("core");
    let mkimage = Tool::new("grub-mkimage", "starting the image from a file on a BIOS machine")?;
    let boot = Path::new(I386_PC).join("boot.img");
    let boot = fs::read(&boot).with_context(|| {
        format!("reading {}; install it with `sudo apt-get install grub-pc-bin`", boot.display())
    })?;
    mkimage
        .args(["-O", "i386-pc", "-d", I386_PC, "-p", "(hd0,msdos1)/boot/grub", "-o"])
        .arg(&core)
        .args(MODULES)
        .output()?;
    write_boot_code(path, &boot[..440.min(boot.len())], 0)?;
    write_boot_code(path, &fs::read(&core).context("reading GRUB's core image")?, 1)
}
