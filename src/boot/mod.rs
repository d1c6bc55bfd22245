//! Boot loaders and their menus: from the plan and the loader packages to the
//! files of the medium. Pure; reads nothing but the profile's own templates.
//!
//! ```text
//! iso   /isolinux/…            ISOLINUX and its menu (BIOS)
//!       /EFI/BOOT/…            GRUB again as plain files, for copies of the medium to FAT
//!       /boot/grub/…           GRUB's menu, alone and from another disk's GRUB
//!       …/i386.cfg, amd64.cfg  the menus of two kernels; the usual one chooses by the processor
//!       /liveiso/boot/memtest* memtest86+
//!       /liveiso/<id>.id       by which GRUB and the initramfs know this medium
//! esp   /EFI/BOOT/…            GRUB for 64-bit and 32-bit UEFI
//!       /boot/grub/grub.cfg    finds the medium by its marker
//! ```
//! GRUB is Debian's prebuilt image for CDs, `gcd*.efi`, with the modules built
//! in, or, for Secure Boot, Debian's signed chain (`secure.rs`). The kernel and
//! the initramfs are the build's to add.

mod entry;
mod identity;
mod secure;
pub mod syslinux;
pub mod template;

pub use identity::Identity;
pub use secure::{Chain, chain, signed_grub_for_networks, signed_packages};

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::cache::hex_sha256;
use crate::plan::{Arch, BootMode, DiskImage, EfiArch, InputFile, Plan};
use crate::tree::{Content, Kind, Meta, OriginId, Tree};
use entry::{Menu, Serial, grub_serial, isolinux_serial};
use syslinux::Syslinux;
use template::Values;

/// Path of ISOLINUX on the medium.
pub const ISOLINUX_IMAGE: &str = "isolinux/isolinux.bin";

/// Path of SYSLINUX in a disk image.
pub const LDLINUX_SYS: &str = "syslinux/ldlinux.sys";

const ISOLINUX: &str = "isolinux";
const SYSLINUX: &str = "syslinux-common";
/// Has the boot sector and `ldlinux.sys` in its program.
const INSTALLER: &str = "syslinux";
const MEMTEST: &str = "memtest86+";
/// The unsigned GRUB of each UEFI: file, and its name on the medium, in capitals
/// because some firmware compares byte by byte.
const GRUB_IMAGES: [(EfiArch, &str, &str); 2] = [
    (EfiArch::X64, "usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi", "EFI/BOOT/BOOTX64.EFI"),
    (EfiArch::Ia32, "usr/lib/grub/i386-efi/monolithic/gcdia32.efi", "EFI/BOOT/BOOTIA32.EFI"),
];

/// The release whose GRUB's modules and whole images are in one package; later ones part them.
const SUITE_WITH_GRUB_IN_ONE: &str = "bookworm";

/// The package of a suite that has GRUB as whole images, unsigned.
pub fn grub_package(efi: EfiArch, suite: &str) -> &'static str {
    match (efi, suite == SUITE_WITH_GRUB_IN_ONE) {
        (EfiArch::X64, true) => "grub-efi-amd64-bin",
        (EfiArch::X64, false) => "grub-efi-amd64-unsigned",
        (EfiArch::Ia32, true) => "grub-efi-ia32-bin",
        (EfiArch::Ia32, false) => "grub-efi-ia32-unsigned",
    }
}

/// What `isolinux.cfg` names, and the libraries these programs load.
const SYSLINUX_MODULES: [&str; 7] =
    ["chain.c32", "ldlinux.c32", "libcom32.c32", "libutil.c32", "menu.c32", "poweroff.c32", "reboot.c32"];

/// A loader file, where it comes from and where it goes.
struct Loader {
    package: &'static str,
    from: String,
    to: String,
}

/// The files a medium boots by.
#[derive(Clone, Debug)]
pub struct BootFiles {
    /// For the ISO.
    pub iso: Tree,
    /// For the EFI system partition; `None` when no boot mode is for UEFI.
    pub esp: Option<Tree>,
    /// Boot code for the MBR; `None` when no boot mode is for BIOS.
    pub isohybrid_mbr: Option<Vec<u8>>,
}

/// ISOLINUX's program that tells 64-bit processors from others.
const CHOOSER: &str = "ifcpu64.c32";

/// The packages of a Debian suite whose merged files [`files`] wants, sorted, besides
/// [`signed_packages`]; any architecture has them.
pub fn loader_packages(
    modes: &[BootMode],
    disk: Option<DiskImage>,
    secure: &[EfiArch],
    suite: &str,
) -> Vec<&'static str> {
    let mut packages = vec![MEMTEST];
    if modes.contains(&BootMode::BiosSyslinux) {
        packages.extend([ISOLINUX, SYSLINUX]);
        packages.extend(disk.map(|_| INSTALLER));
    }
    if modes.contains(&BootMode::UefiGrub) {
        let unsigned = GRUB_IMAGES.iter().filter(|(efi, ..)| !secure.contains(efi));
        packages.extend(unsigned.map(|(efi, ..)| grub_package(*efi, suite)));
    }
    packages.sort_unstable();
    packages
}

/// Makes the boot files of a medium; `loaders` is the merged tree of
/// [`loader_packages`] and [`signed_packages`].
///
/// # Errors
/// A loader package without the file that is expected of it, an unreadable or
/// changed template, [`template::TemplateErrors`] in its text, and, for Secure
/// Boot, commands in it that a locked GRUB refuses.
pub fn files(plan: &Plan, build_id: &str, loaders: &Tree) -> Result<BootFiles> {
    ensure!(
        build_id.len() == 24 && build_id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)),
        "`{build_id}` is no build id of 24 lower-case hex digits"
    );
    if let Some(name) = plan.efiboot.keys().find(|name| template::built_in(name).is_none()) {
        let [first @ .., last] = template::TEMPLATES.map(|(known, _)| known);
        bail!("efiboot/{name} is no template; those are {} and {last}", first.join(", "));
    }
    let bios = plan.boot.bootmodes.contains(&BootMode::BiosSyslinux);
    let uefi = plan.boot.bootmodes.contains(&BootMode::UefiGrub);
    let mut iso = Files::new(plan.timestamp);
    iso.text(&format!("{}/{build_id}.id", plan.install_dir), format!("{build_id}\n"))?;
    let arch = plan.arch.debian_name();
    iso.text(".disk/info", format!("{} {} {arch} {build_id}\n", plan.iso_name, plan.iso_version))?;
    iso.loaders(loaders, &memory_tests(plan))?;
    // A GRUB on another disk can start the medium whatever its own firmware is.
    let values = |arch| -> Result<Values> {
        let menu = menu(plan, arch)?;
        Ok(values(plan, arch, build_id, &menu.grub(), &grub_serial(menu.serial)))
    };
    iso.menus(plan, "boot/grub/grub.cfg", [template::GRUB, template::GRUB_CHOICE], values)?;
    let values = values(plan.arch)?;
    iso.text("boot/grub/loopback.cfg", rendered(plan, template::LOOPBACK, &values)?)?;
    let mut esp = None;
    if uefi {
        let images = efi_images(plan);
        iso.loaders(loaders, &images)?;
        let mut tree = Files::new(plan.timestamp);
        tree.loaders(loaders, &images)?;
        tree.text("boot/grub/grub.cfg", rendered(plan, template::ESP, &values)?)?;
        esp = Some(tree.tree);
    }
    let mut isohybrid_mbr = None;
    if bios {
        let values = |arch| -> Result<Values> {
            let menu = menu(plan, arch)?;
            Ok(self::values(plan, arch, build_id, &menu.isolinux(), &isolinux_serial(menu.serial)))
        };
        let templates = [template::ISOLINUX, template::ISOLINUX_CHOICE];
        iso.menus(plan, "isolinux/isolinux.cfg", templates, values)?;
        iso.loaders(loaders, &syslinux_files(plan))?;
        let mbr = loader_content(loaders, ISOLINUX, "usr/lib/ISOLINUX/isohdpfx.bin")?;
        isohybrid_mbr = Some(mbr.read_all()?);
    }
    Ok(BootFiles { iso: iso.tree, esp, isohybrid_mbr })
}

/// The files of a disk image, and what makes a BIOS start it.
#[derive(Clone, Debug)]
pub struct DiskFiles {
    /// For its file system.
    pub files: Tree,
    /// For the MBR; empty when no boot mode is for BIOS.
    pub boot_code: Vec<u8>,
    /// To be installed in the file system, which holds its `ldlinux.sys`.
    pub syslinux: Option<Syslinux>,
}

/// Makes the boot files of a disk image: the ISO's, with SYSLINUX for ISOLINUX.
///
/// # Errors
/// As [`files`].
pub fn disk_files(plan: &Plan, build_id: &str, loaders: &Tree, table: DiskImage) -> Result<DiskFiles> {
    let BootFiles { iso, isohybrid_mbr, .. } = files(plan, build_id, loaders)?;
    let mut files = Tree::new();
    files.inode_mut(Tree::ROOT).mtime = plan.timestamp;
    for entry in iso.walk() {
        let Kind::File(content) = &entry.inode.kind else { continue };
        let path = std::str::from_utf8(&entry.path).context("reading the names of the boot files")?;
        let path = match path.strip_prefix("isolinux/") {
            Some("isolinux.bin") => continue,
            Some("isolinux.cfg") => "syslinux/syslinux.cfg".to_string(),
            Some(name) => format!("syslinux/{name}"),
            None => path.to_string(),
        };
        let origin = files.add_origin(iso.origin(entry.inode.origin));
        let meta = Meta { mtime: plan.timestamp, ..Meta::mode(0o444) };
        files.add_file(path.as_bytes(), content.clone(), meta, origin)?;
    }
    if isohybrid_mbr.is_none() {
        return Ok(DiskFiles { files, boot_code: Vec::new(), syslinux: None });
    }
    let program = loader_content(loaders, INSTALLER, "usr/bin/syslinux")?.read_all()?;
    let syslinux = Syslinux::from_program(&program)
        .with_context(|| format!("taking SYSLINUX out of /usr/bin/syslinux of package {INSTALLER}"))?;
    let origin = files.add_origin(format!("/usr/bin/syslinux of package {INSTALLER}"));
    let meta = Meta { mtime: plan.timestamp, ..Meta::mode(0o444) };
    files.add_file(LDLINUX_SYS.as_bytes(), Content::bytes(syslinux.ldlinux_sys()), meta, origin)?;
    let code = if table == DiskImage::Gpt { "gptmbr.bin" } else { "mbr.bin" };
    let boot_code = loader_content(loaders, SYSLINUX, &format!("usr/lib/syslinux/mbr/{code}"))?.read_all()?;
    Ok(DiskFiles { files, boot_code, syslinux: Some(syslinux) })
}

/// A tree of read-only files being filled.
struct Files {
    tree: Tree,
    meta: Meta,
    generated: OriginId,
}

impl Files {
    fn new(timestamp: i64) -> Files {
        let mut tree = Tree::new();
        tree.inode_mut(Tree::ROOT).mtime = timestamp;
        let generated = tree.add_origin("boot loader configuration");
        Files { tree, meta: Meta { mtime: timestamp, ..Meta::mode(0o444) }, generated }
    }

    fn text(&mut self, path: &str, text: String) -> Result<()> {
        self.tree.add_file(path.as_bytes(), Content::bytes(text), self.meta, self.generated)?;
        Ok(())
    }

    /// The menu of the one kernel at `path`; or those of two beside it, named for
    /// their architectures, and the choice between them at `path`.
    fn menus(
        &mut self,
        plan: &Plan,
        path: &str,
        [menu, choice]: [&str; 2],
        values: impl Fn(Arch) -> Result<Values>,
    ) -> Result<()> {
        if plan.second_kernel.is_none() {
            return self.text(path, rendered(plan, menu, &values(plan.arch)?)?);
        }
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        for arch in plan.kernels() {
            let own = format!("{directory}/{}.cfg", arch.debian_name());
            self.text(&own, rendered(plan, menu, &values(arch)?)?)?;
        }
        self.text(path, rendered(plan, choice, &values(plan.arch)?)?)
    }

    fn loaders(&mut self, loaders: &Tree, wanted: &[Loader]) -> Result<()> {
        for Loader { package, from, to } in wanted {
            let content = loader_content(loaders, package, from)?;
            let origin = self.tree.add_origin(format!("/{from} of package {package}"));
            self.tree.add_file(to.as_bytes(), content, self.meta, origin)?;
        }
        Ok(())
    }
}

fn loader_content(loaders: &Tree, package: &str, path: &str) -> Result<Content> {
    let found = loaders.resolve(path.as_bytes()).ok().map(|id| &loaders.inode(id).kind);
    let Some(Kind::File(content)) = found else {
        bail!("package {package} has no file /{path}; is it of a Debian suite this program does not know?");
    };
    Ok(content.clone())
}

fn loader(package: &'static str, from: impl Into<String>, to: impl Into<String>) -> Loader {
    Loader { package, from: from.into(), to: to.into() }
}

fn syslinux_files(plan: &Plan) -> Vec<Loader> {
    let modules = SYSLINUX_MODULES.into_iter().chain(plan.second_kernel.map(|_| CHOOSER));
    let mut files = vec![loader(ISOLINUX, "usr/lib/ISOLINUX/isolinux.bin", ISOLINUX_IMAGE)];
    files.extend(modules.map(|name| {
        loader(SYSLINUX, format!("usr/lib/syslinux/modules/bios/{name}"), format!("isolinux/{name}"))
    }));
    files
}

/// Everything in `/EFI/BOOT`.
fn efi_images(plan: &Plan) -> Vec<Loader> {
    let secure = &plan.boot.secure_boot;
    let unsigned = GRUB_IMAGES.iter().filter(|(efi, ..)| !secure.contains(efi));
    let suite = &plan.debian.suite;
    let unsigned = unsigned.map(|(efi, from, to)| loader(grub_package(*efi, suite), *from, *to));
    unsigned.chain(secure.iter().copied().flat_map(secure::images)).collect()
}

fn memory_tests(plan: &Plan) -> [Loader; 3] {
    let to = |name: &str| format!("{}/boot/{name}", plan.install_dir);
    let bios = match plan.arch {
        Arch::I386 => "boot/memtest86+ia32.bin",
        Arch::Amd64 => "boot/memtest86+x64.bin",
    };
    [
        loader(MEMTEST, bios, to("memtest.bin")),
        loader(MEMTEST, "boot/memtest86+ia32.efi", to("memtest32.efi")),
        loader(MEMTEST, "boot/memtest86+x64.efi", to("memtest64.efi")),
    ]
}

fn menu(plan: &Plan, arch: Arch) -> Result<Menu> {
    let boot = &plan.boot;
    for (what, text) in [("title", &boot.title), ("kernel parameters", &boot.kernel_parameters)] {
        ensure!(
            !text.chars().any(|c| c.is_control()),
            "the boot menu's {what} `{}` must be one line without control characters",
            text.escape_debug()
        );
    }
    let dir = format!("/{}/boot/{}", plan.install_dir, arch.debian_name());
    // The last console becomes /dev/console; messages go to both.
    let consoles = boot.serial.as_ref().map(|serial| format!("console={serial} console=tty0"));
    let parameters = [consoles.as_deref().unwrap_or(""), boot.kernel_parameters.trim()];
    Ok(Menu {
        // ISOLINUX takes a caret for the mark of the hot key.
        title: boot.title.replace('^', ""),
        install_dir: plan.install_dir.clone(),
        kernel: format!("{dir}/vmlinuz"),
        initrd: format!("{dir}/initrd.img"),
        parameters: parameters.join(" ").trim().to_string(),
        serial: boot.serial.as_deref().and_then(Serial::parse),
        serial_console: boot.serial.clone(),
        has_32_bit_twin: plan.second_kernel == Some(arch),
    })
}

fn values(plan: &Plan, arch: Arch, build_id: &str, entries: &str, serial: &str) -> Values {
    let dir = format!("/{}/boot/{}", plan.install_dir, arch.debian_name());
    Values::from([
        ("ARCH", arch.debian_name().to_string()),
        ("BUILD_ID", build_id.to_string()),
        ("INITRD", format!("{dir}/initrd.img")),
        ("INSTALL_DIR", plan.install_dir.clone()),
        ("ISO_LABEL", plan.iso_label.clone()),
        ("ISO_NAME", plan.iso_name.clone()),
        ("ISO_VERSION", plan.iso_version.clone()),
        ("KERNEL", format!("{dir}/vmlinuz")),
        ("KERNEL_PARAMETERS", plan.boot.kernel_parameters.trim().to_string()),
        ("MENU_ENTRIES", entries.to_string()),
        ("SERIAL_SETUP", serial.to_string()),
        ("TIMEOUT", plan.boot.timeout.to_string()),
        // For ISOLINUX 0 means to wait for ever.
        ("TIMEOUT_TENTHS", plan.boot.timeout.saturating_mul(10).max(1).to_string()),
        ("TITLE", plan.boot.title.replace('^', "")),
    ])
}

/// A template, the profile's or the one built in, with its values.
fn rendered(plan: &Plan, name: &str, values: &Values) -> Result<String> {
    let (shown, text) = match plan.efiboot.get(name) {
        Some(InputFile { path: Some(path), size, sha256 }) => {
            (path.display().to_string(), profile_template(path, *size, sha256)?)
        }
        _ => {
            let text =
                template::built_in(name).with_context(|| format!("there is no template efiboot/{name}"))?;
            (format!("efiboot/{name} (built in)"), text.to_string())
        }
    };
    let text = template::render(&shown, &text, values)?;
    check_volume_id(&shown, &text, &plan.iso_label)?;
    if name.starts_with("grub/") && !plan.boot.secure_boot.is_empty() {
        secure::check_lockdown(&shown, &text)?;
    }
    Ok(text)
}

fn profile_template(path: &Path, size: u64, sha256: &str) -> Result<String> {
    let bytes = Content::file(path, size).read_all()?;
    ensure!(
        hex_sha256(&bytes) == sha256,
        "{} has changed since the plan was made; start the build again",
        path.display()
    );
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))
}

/// What puts a menu on the serial port of a kernel's `console=` (`ttyS0,115200`): a
/// directive of ISOLINUX and PXELINUX, commands of GRUB. Empty for what is no PC serial port.
pub fn serial_setups(console: &str) -> [String; 2] {
    let serial = Serial::parse(console);
    [isolinux_serial(serial), grub_serial(serial)]
}

/// Whether the built-in menus, or a kernel parameter, hold this volume id where
/// Rufus would replace it: known without a build.
pub fn is_rewritten_word(volume_id: &str, parameters: &str) -> bool {
    let templates = template::TEMPLATES.iter().filter_map(|(name, _)| template::built_in(name));
    let lines = templates.flat_map(str::lines).filter(|line| is_rewritten(line));
    // What stands between percent signs is replaced.
    let texts = lines.flat_map(|line| line.split('%').step_by(2));
    texts.chain([entry::EFI_LOADERS, parameters]).any(|text| text.contains(volume_id))
}

fn is_rewritten(line: &str) -> bool {
    const REWRITTEN: [&str; 7] = ["append", "for", "linux", "linuxefi", "$linux", "options", "search"];
    let first = line.split_whitespace().next().unwrap_or_default();
    REWRITTEN.contains(&first.to_ascii_lowercase().as_str())
}

/// Rufus, copying the medium to FAT, replaces the volume id by another label on
/// lines that begin with these words, wherever in the line it stands.
fn check_volume_id(file: &str, text: &str, volume_id: &str) -> Result<()> {
    for (number, line) in text.lines().enumerate() {
        if is_rewritten(line) && line.contains(volume_id) {
            bail!(
                "{file}: line {} of its result holds the volume id `{volume_id}`, which a copy by Rufus would \
                 replace: `{}`; search by the marker /%INSTALL_DIR%/%BUILD_ID%.id, or choose another volume id",
                number + 1,
                line.trim()
            );
        }
    }
    Ok(())
}
