//! What is inside a finished ISO or disk image, of any maker, read from its tables.
//!
//! ```text
//! ISO  ─ iso9660, gpt ───► partitions, El Torito ─┐
//!      ─ iso9660::read_tree ─► files ─► menus ────┤
//!      ─ fat::read ──────────► ESP                ├─► Inspection ─► text, JSON, lint
//! disk ─ gpt, disk ───► partitions, FAT ─► files, │
//!                       menus, ESP                │
//! both ─ pe, kernel, initramfs, squashfs, erofs ──┘
//! ```
//! File contents are read only where they are loaders, kernels' headers, menus,
//! initramfs or a package list, so a report costs the same for a large root image
//! as for a small one. What cannot be read is a line in [`Inspection::damage`],
//! not the end: a broken ISO is what people inspect.

pub mod diff;
mod disk;
mod gpt;
mod initramfs;
mod kernel;
pub mod lint;
mod menu;
mod packages;
mod pe;
mod read;
mod recognise;
mod report;
mod root;
mod sort;
mod squashed;
mod unpack;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::format::{erofs, fat, iso9660, squashfs, verity};
use crate::tree::{Content, Kind, Tree, display_path};

pub use disk::FileSystem;
pub use gpt::{Gpt, GptPartition};
pub use initramfs::{Contents, Member, Part};
pub use kernel::Header;
pub use menu::{Config, Entry, Entry as MenuEntry};
pub use packages::{Package, Packages};
pub use pe::{Program, Sbat, Signer, signers};
pub use report::text;

const BLOCK: u64 = 512;

/// El Torito platform of UEFI.
const UEFI: u8 = 0xef;

/// Kinds of media.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// An ISO 9660 volume, hybrid or not.
    Iso,
    /// A disk with a partition table, or with one FAT and nothing else.
    Disk,
}

/// What a medium holds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspection {
    /// What kind of medium it is.
    pub format: Format,
    /// Bytes of the file.
    pub length: u64,
    /// An ISO's primary volume descriptor.
    pub volume: Option<iso9660::Volume>,
    /// Used MBR entries with their slots from 1, or none without a signature.
    pub mbr: Option<Vec<MbrPartition>>,
    /// Whether sector 0 begins with boot code.
    pub boot_code: bool,
    /// The GUID partition table.
    pub gpt: Option<Gpt>,
    /// Entries of the El Torito catalog.
    pub el_torito: Vec<iso9660::CatalogEntry>,
    /// What is in a disk image's partitions; empty for an ISO.
    pub file_systems: Vec<FileSystem>,
    /// The EFI system partition.
    pub esp: Option<Esp>,
    /// EFI programs in the medium's files and in the ESP, kernels excepted.
    pub loaders: Vec<Loader>,
    /// Linux kernels.
    pub kernels: Vec<Kernel>,
    /// Initramfs files that menus name.
    pub initramfs: Vec<Initramfs>,
    /// Root images.
    pub images: Vec<Image>,
    /// Installed packages, if a list was found.
    pub packages: Option<Packages>,
    /// Menu entries.
    pub menu: Vec<Entry>,
    /// Files of the ISO, or of the disk image's FAT volume with the most bytes of them.
    pub files: Vec<FileEntry>,
    /// What could not be read, and why.
    pub damage: Vec<String>,
    #[serde(skip)]
    path: PathBuf,
    #[serde(skip)]
    tree: Tree,
    #[serde(skip)]
    /// Of the medium's files, and of an ESP of its own with `ESP:` before the path.
    configs: Vec<Config>,
}

/// One used entry of the MBR.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MbrPartition {
    /// 1 to 4.
    pub slot: usize,
    /// The entry.
    #[serde(flatten)]
    pub entry: iso9660::MbrEntry,
}

/// The FAT volume that UEFI starts.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Esp {
    /// First 512-byte block on the medium.
    pub start: u64,
    /// Its boot sector.
    pub volume: fat::Volume,
    /// Whether it is the file system that the medium's files are in, as on a disk with one partition.
    pub shared: bool,
    /// Its files; empty if they are the medium's.
    pub files: Vec<FileEntry>,
    #[serde(skip)]
    tree: Tree,
}

/// A file by path, with leading slash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileEntry {
    /// Path; what no text can hold is escaped.
    pub path: String,
    /// Bytes.
    pub length: u64,
}

/// Where a file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// Among the medium's files.
    Medium,
    /// In an EFI system partition of its own.
    Esp,
}

/// An EFI program.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Loader {
    /// Where it lies.
    pub place: Place,
    /// Path and size.
    #[serde(flatten)]
    pub file: FileEntry,
    /// What it says of itself.
    #[serde(flatten)]
    pub program: Program,
    /// SHA-256 of the file.
    pub sha256: String,
    /// Whether it holds the text `/.disk/info`, by which Debian's removable GRUB finds its medium.
    #[serde(skip)]
    wants_disk_info: bool,
}

/// A kernel.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Kernel {
    /// Where it lies.
    pub place: Place,
    /// Path and size.
    #[serde(flatten)]
    pub file: FileEntry,
    /// Its header.
    #[serde(flatten)]
    pub header: Header,
    /// One for each signature; the kernel is an EFI program too.
    pub signers: Vec<Signer>,
}

/// An initramfs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Initramfs {
    /// Path and size.
    #[serde(flatten)]
    pub file: FileEntry,
    /// What it holds.
    #[serde(flatten)]
    pub contents: Contents,
}

/// A root image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Image {
    /// Path and size.
    #[serde(flatten)]
    pub file: FileEntry,
    /// `squashfs` or `erofs`.
    pub format: &'static str,
    /// A squashfs image's superblock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub squashfs: Option<squashfs::Parameters>,
    /// An EROFS image's superblock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erofs: Option<erofs::Parameters>,
    /// The dm-verity hash tree behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verity: Option<verity::Found>,
    #[serde(skip)]
    content: Content,
}

/// Looks into an ISO or a disk image.
///
/// # Errors
/// When the file cannot be read, is neither, or is an ISO 9660 volume without
/// readable directories; anything else that is damaged is reported in the result.
pub fn inspect(path: &Path) -> Result<Inspection> {
    read::read(path).with_context(|| format!("inspecting {}", path.display()))
}

/// The entries of all boot menus among a medium's files, menu by menu.
pub fn menu_entries(tree: &Tree) -> Vec<MenuEntry> {
    menu::configs(tree).iter().flat_map(menu::entries).collect()
}

fn file_entries(tree: &Tree) -> Vec<FileEntry> {
    let files = tree.walk().filter_map(|entry| match &entry.inode.kind {
        Kind::File(content) => {
            Some(FileEntry { path: format!("/{}", display_path(&entry.path)), length: content.len() })
        }
        _ => None,
    });
    files.collect()
}

impl Inspection {
    /// A file of the medium by its path with leading slash.
    fn file(&self, path: &str) -> Option<&Content> {
        content(&self.tree, path)
    }

    /// The files of the ESP, also where they are the medium's.
    fn esp_files(&self) -> &[FileEntry] {
        match &self.esp {
            Some(esp) if esp.shared => &self.files,
            Some(esp) => &esp.files,
            None => &[],
        }
    }

    /// Whether a loader is in the ESP, also where its files are the medium's.
    fn is_in_esp(&self, loader: &Loader) -> bool {
        loader.place == Place::Esp || self.esp.as_ref().is_some_and(|esp| esp.shared)
    }

    /// What a place is called in reports.
    fn place_name(&self, place: Place) -> &'static str {
        match (place, self.format) {
            (Place::Esp, _) => "ESP",
            (Place::Medium, Format::Iso) => "ISO",
            (Place::Medium, Format::Disk) => "disk",
        }
    }
}

/// What an EFI program says of itself; `None` if the bytes are none.
pub fn program(bytes: &[u8]) -> Option<Program> {
    pe::read(bytes)
}

/// What a kernel's first bytes say; `None` if they are no kernel's.
pub fn kernel_header(bytes: &[u8]) -> Option<Header> {
    kernel::read(bytes)
}

/// A file of a tree by its path with leading slash.
fn content<'t>(tree: &'t Tree, path: &str) -> Option<&'t Content> {
    match &tree.inode(tree.get(path.trim_start_matches('/').as_bytes())?).kind {
        Kind::File(content) => Some(content),
        _ => None,
    }
}
