//! What will be built: every default filled, every name legal, every input
//! pinned by digest. The build reads nothing else of the user's wishes, and
//! `liveiso plan` prints exactly this as JSON.

mod description;
mod initramfs;
mod root;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use description::described_files;
pub use description::{DescriptionEntry, DescriptionKind};
pub use initramfs::{Hook, HookStage, Initramfs, Layout, Microcode};
pub use root::{Compression, FilePermission, Root, RootFormat, RootImage, RootMode};

/// The resolved build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// Version of this document's layout; a cache or lock of another one is not used.
    pub plan_version: u32,
    /// File name stem of the artifacts, `rescue` in `rescue-1.0-i386.iso`.
    pub iso_name: String,
    /// Free-form version, part of the file name.
    pub iso_version: String,
    /// ISO 9660 volume id, `[A-Z0-9_]{1,11}`.
    pub iso_label: String,
    /// ISO 9660 publisher id, at most 128 characters.
    pub iso_publisher: String,
    /// ISO 9660 application id, at most 128 characters.
    pub iso_application: String,
    /// What the ISO's first sectors are for.
    #[serde(default, skip_serializing_if = "IsoLayout::is_default")]
    pub iso_layout: IsoLayout,
    /// A disk image with the same content beside the ISO, if one is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_image: Option<DiskImage>,
    /// Directory on the medium that holds our files, `[a-z0-9]{1,8}`.
    pub install_dir: String,
    /// Debian architecture of the root.
    pub arch: Arch,
    /// Architecture of a second kernel, for processors that can run it; the root serves both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_kernel: Option<Arch>,
    /// Suite of a second root, of the second kernel's architecture and for that kernel alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_root: Option<String>,
    /// The one timestamp of the build, seconds since 1970-01-01 UTC.
    pub timestamp: i64,
    /// Where packages come from.
    pub debian: Debian,
    /// Every package of the root, the kernel and the loaders, by role.
    pub packages: Packages,
    /// The root tree and its image.
    pub root: Root,
    /// The initramfs.
    pub initramfs: Initramfs,
    /// Boot loaders and menus.
    pub boot: Boot,
    /// Overlay files in the order in which they are laid over the packages.
    pub overlays: Vec<Overlay>,
    /// The files under `efiboot/` the profile replaces, by name.
    pub efiboot: BTreeMap<String, InputFile>,
    /// What the result may weigh. It changes no byte, so it is no part of the identity.
    #[serde(default, skip_serializing_if = "Budget::is_empty")]
    pub budget: Budget,
}

/// How an ISO is laid out for sticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IsoLayout {
    /// An active MBR entry and the EFI system partition in the MBR; a GPT that is invalid on purpose.
    #[default]
    Hybrid,
    /// A valid GPT behind a protective MBR with a dummy active entry, for firmware that wants one.
    Gpt,
    /// No partition table: discs and virtual machines only.
    CdOnly,
}

impl IsoLayout {
    fn is_default(&self) -> bool {
        *self == IsoLayout::default()
    }
}

/// The partition table of a disk image; its one partition is FAT32 and boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskImage {
    /// MBR, partition 1 active, type EF.
    Mbr,
    /// GPT, partition 1 an EFI system partition that a BIOS may boot.
    Gpt,
    /// MBR for BIOSes that boot USB sticks as Zip drives: partition 4 active, type 0C.
    UsbZip,
}

/// Limits beyond which a build, or its test, fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Budget {
    /// Most bytes of the initramfs on the medium.
    pub initramfs: Option<u64>,
    /// Most bytes of RAM that unpacking the initramfs may take, everything included.
    pub memory: Option<u64>,
    /// Most bytes of the ISO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso_size: Option<u64>,
    /// Most bytes of RAM that a BIOS machine with a CD may need to reach the login; `liveiso test` sees to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_ram: Option<u64>,
    /// Least bytes of `MemAvailable` at the login of a BIOS machine of 128 MiB; likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_at_128: Option<u64>,
}

impl Budget {
    fn is_empty(&self) -> bool {
        *self == Budget::default()
    }
}

/// Timestamps that every format of a build can hold: FAT counts from 1980, cpio
/// and squashfs up to 32 bits.
pub const TIMESTAMPS: std::ops::RangeInclusive<i64> = 315_532_800..=0xffff_ffff;

/// A Debian architecture we can boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arch {
    /// 32-bit x86, the main job.
    #[default]
    I386,
    /// 64-bit x86.
    Amd64,
}

impl Arch {
    /// Debian's name.
    pub fn debian_name(self) -> &'static str {
        match self {
            Arch::I386 => "i386",
            Arch::Amd64 => "amd64",
        }
    }

    /// The other one.
    pub fn other(self) -> Arch {
        match self {
            Arch::I386 => Arch::Amd64,
            Arch::Amd64 => Arch::I386,
        }
    }
}

/// The archive the packages were resolved against.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Debian {
    /// Code name, `bookworm`.
    pub suite: String,
    /// What was really used, one entry a suite, with the state of its index.
    pub sources: Vec<AptSource>,
    /// Suites that were asked for and left out, with the reason in words.
    pub left_out: Vec<String>,
}

/// One line of a sources list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AptSource {
    /// Base URI. The mirror does not influence the result, so it is no part of any stage key.
    pub uri: String,
    /// `bookworm`, `bookworm-security`, …
    pub suite: String,
    /// `main`, `contrib`, …
    pub components: Vec<String>,
    /// Keyring file that must have signed it.
    pub signed_by: PathBuf,
}

/// Packages by what they are for, each list sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Packages {
    /// Installed into the root tree, dependencies included.
    pub root: Vec<Package>,
    /// Kernel images of every architecture, laid over the root without their maintainer scripts.
    pub kernel: Vec<Package>,
    /// Boot loader files only (isolinux, syslinux, GRUB EFI images, shim, memtest86+), of any architecture.
    pub loaders: Vec<Package>,
    /// The target's busybox-static for the initramfs; of both architectures where each has a root.
    pub initramfs: Vec<Package>,
    /// Installed into the second root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub second_root: Vec<Package>,
}

impl Packages {
    /// Every list, in the order of their names in a lock file.
    pub fn lists(&self) -> [&Vec<Package>; 5] {
        [&self.root, &self.kernel, &self.loaders, &self.initramfs, &self.second_root]
    }
}

/// One package at one version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Package {
    /// Name.
    pub name: String,
    /// Debian version with epoch.
    pub version: String,
    /// Debian architecture, or `all`.
    pub arch: String,
    /// Source package, for security tracking.
    pub source: String,
    /// Lower-case hex SHA-256 of the .deb.
    pub sha256: String,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// File name in the archive, `pool/main/…`.
    pub filename: String,
    /// Suite it was found in, `bookworm` or `bookworm-security`.
    pub suite: String,
}

/// Boot loaders and their menus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Boot {
    /// `bios.syslinux` and `uefi.grub`, archiso's words.
    pub bootmodes: Vec<BootMode>,
    /// Shown as the menu's heading.
    pub title: String,
    /// Seconds until the default entry starts.
    pub timeout: u32,
    /// Appended to the kernel command line of every entry.
    pub kernel_parameters: String,
    /// Serial console in kernel syntax (`ttyS0,115200`), or none.
    pub serial: Option<String>,
    /// The UEFI architectures that start by Debian's signed shim and GRUB; empty without Secure Boot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secure_boot: Vec<EfiArch>,
}

/// A UEFI firmware's architecture, by the name in its loaders' file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EfiArch {
    /// 64-bit x86.
    X64,
    /// 32-bit x86.
    Ia32,
}

/// One way a firmware starts the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootMode {
    /// ISOLINUX on CD and, through isohybrid, on USB.
    #[serde(rename = "bios.syslinux")]
    BiosSyslinux,
    /// GRUB for 64-bit and 32-bit UEFI.
    #[serde(rename = "uefi.grub")]
    UefiGrub,
}

/// One file tree laid over the root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Overlay {
    /// What messages call it: `airootfs (built in)`, `airootfs (of the profile)`.
    /// The same wherever the profile lies.
    pub origin: String,
    /// Files by path without leading slash; directories end in `/`.
    pub files: BTreeMap<String, OverlayEntry>,
}

/// One overlay file, pinned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum OverlayEntry {
    /// An otherwise empty directory.
    Directory,
    /// A regular file.
    File {
        /// Whether the owner may execute it.
        executable: bool,
        /// Its bytes.
        #[serde(flatten)]
        content: InputFile,
    },
    /// A symbolic link.
    Symlink {
        /// Target as written.
        target: String,
    },
}

/// A file of the profile, pinned by digest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InputFile {
    /// Host path, or `None` for files embedded in the binary. No part of any stage key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex SHA-256.
    pub sha256: String,
}

impl Plan {
    /// The plan without what may differ between hosts that build the same thing:
    /// mirrors, keyring paths and the places of the profile's files.
    pub fn identity(&self) -> Plan {
        let mut plan = self.clone();
        for source in &mut plan.debian.sources {
            source.uri.clear();
            source.signed_by.clear();
        }
        let entries = plan.overlays.iter_mut().flat_map(|o| o.files.values_mut());
        let overlay_files = entries.filter_map(|entry| match entry {
            OverlayEntry::File { content, .. } => Some(content),
            _ => None,
        });
        let root_files = described_files(&mut plan.root.description);
        let initramfs_files = plan.initramfs.input_files_mut();
        let boot_files = plan.efiboot.values_mut();
        for file in overlay_files.chain(boot_files).chain(root_files).chain(initramfs_files) {
            file.path = None;
        }
        plan.budget = Budget::default();
        plan
    }

    /// The architecture of every kernel, the root's own first.
    pub fn kernels(&self) -> impl Iterator<Item = Arch> {
        std::iter::once(self.arch).chain(self.second_kernel)
    }

    /// The kernel packages of one architecture.
    pub fn kernel_packages(&self, arch: Arch) -> Vec<Package> {
        let of_arch = |package: &&Package| package.arch == arch.debian_name();
        match self.second_kernel {
            Some(_) => self.packages.kernel.iter().filter(of_arch).cloned().collect(),
            None => self.packages.kernel.clone(),
        }
    }

    /// Architecture of the root that a kernel starts.
    pub fn root_of(&self, kernel: Arch) -> Arch {
        if self.second_root.is_some() { kernel } else { self.arch }
    }

    /// The architecture of every root, the main one first.
    pub fn roots(&self) -> impl Iterator<Item = Arch> {
        std::iter::once(self.arch).chain(self.second_kernel.filter(|_| self.second_root.is_some()))
    }

    /// As if one of two roots, with its kernel, were the only one; the plan itself where there is one.
    pub fn of_root(&self, arch: Arch) -> Plan {
        let mut plan = self.clone();
        let Some(suite) = plan.second_root.take() else { return plan };
        let second = std::mem::take(&mut plan.packages.second_root);
        if arch != plan.arch {
            plan.packages.root = second;
            plan.debian.suite = suite;
        }
        plan.packages.kernel = self.kernel_packages(arch);
        plan.packages.initramfs.retain(|package| package.arch == arch.debian_name());
        plan.arch = arch;
        plan.second_kernel = None;
        plan
    }

    /// File name stem of every artifact: `rescue-1.0-i386`.
    pub fn artifact_stem(&self) -> String {
        format!("{}-{}-{}", self.iso_name, self.iso_version, self.arch.debian_name())
    }
}
