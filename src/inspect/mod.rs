//! What is inside a finished ISO, of any maker, read from its tables.
//!
//! ```text
//! ISO ─ iso9660, gpt ──► partitions, El Torito ─┐
//!     ─ iso9660::read_tree ─► files ─► menus ───┼─► Inspection ─► text, JSON, lint
//!     ─ fat::read ──────────► ESP               │
//!     ─ pe, kernel, initramfs, squashfs ────────┘
//! ```
//! File contents are read only where they are loaders, kernels' headers, menus,
//! initramfs or a package list, so a report costs the same for a large root image
//! as for a small one. What cannot be read is a line in [`Inspection::damage`],
//! not the end: a broken ISO is what people inspect.

pub mod diff;
mod gpt;
mod initramfs;
mod kernel;
pub mod lint;
mod menu;
mod packages;
mod pe;
mod report;
mod sort;
mod squashed;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::format::{erofs, fat, iso9660, squashfs, verity};
use crate::tree::{Content, Kind, Tree, display_path};

pub use gpt::{Gpt, GptPartition};
pub use initramfs::{Contents, Member, Part};
pub use kernel::Header;
pub use menu::{Config, Entry, Entry as MenuEntry};
pub use packages::{Package, Packages};
pub use pe::{Program, Sbat, Signer, signers};
pub use report::text;

const BLOCK: u64 = 512;
/// Initramfs files larger than this are not looked into (bytes).
const MAX_INITRAMFS: u64 = 512 << 20;

/// El Torito platform of UEFI.
const UEFI: u8 = 0xef;

/// What a medium holds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inspection {
    /// Bytes of the file.
    pub length: u64,
    /// The primary volume descriptor.
    pub volume: iso9660::Volume,
    /// Used MBR entries with their slots from 1, or none without a signature.
    pub mbr: Option<Vec<MbrPartition>>,
    /// Whether sector 0 begins with boot code.
    pub boot_code: bool,
    /// The GUID partition table.
    pub gpt: Option<Gpt>,
    /// Entries of the El Torito catalog.
    pub el_torito: Vec<iso9660::CatalogEntry>,
    /// The EFI system partition.
    pub esp: Option<Esp>,
    /// EFI programs in the ISO's files and in the ESP, kernels excepted.
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
    /// Files of the ISO.
    pub files: Vec<FileEntry>,
    /// What could not be read, and why.
    pub damage: Vec<String>,
    #[serde(skip)]
    path: PathBuf,
    #[serde(skip)]
    tree: Tree,
    #[serde(skip)]
    /// Of the ISO, and of the ESP with `ESP:` before the path.
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
    /// Its files.
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
    /// Among the ISO's files.
    Iso,
    /// In the EFI system partition.
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
}

/// Looks into an ISO.
///
/// # Errors
/// When the file cannot be read or is no ISO 9660 volume with readable
/// directories; anything else that is damaged is reported in the result.
pub fn inspect(path: &Path) -> Result<Inspection> {
    read(path).with_context(|| format!("inspecting {}", path.display()))
}

fn read(path: &Path) -> Result<Inspection> {
    let medium = iso9660::read(path)?;
    let tree = iso9660::read_tree(path)?;
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut code = [0; 440];
    file.read_exact_at(&mut code, 0).context("reading sector 0")?;
    let slots = |entries: [iso9660::MbrEntry; 4]| {
        let slots = entries.into_iter().enumerate().map(|(n, entry)| MbrPartition { slot: n + 1, entry });
        slots.filter(|partition| partition.entry.blocks != 0).collect()
    };
    let configs = menu::configs(&tree);
    let mut inspection = Inspection {
        length: medium.length,
        volume: medium.volume,
        mbr: medium.mbr.map(slots),
        boot_code: code.iter().any(|&b| b != 0),
        gpt: gpt::read(&file),
        el_torito: medium.catalog,
        esp: None,
        loaders: Vec::new(),
        kernels: Vec::new(),
        initramfs: Vec::new(),
        images: Vec::new(),
        packages: None,
        menu: configs.iter().flat_map(menu::entries).collect(),
        files: file_entries(&tree),
        damage: Vec::new(),
        path: path.to_path_buf(),
        tree,
        configs,
    };
    inspection.read_esp();
    if let Some(esp) = &inspection.esp {
        inspection.configs.extend(
            menu::configs(&esp.tree)
                .into_iter()
                .map(|config| Config { path: format!("ESP:{}", config.path), ..config }),
        );
    }
    inspection.read_files();
    inspection.read_initramfs();
    inspection.packages = packages::find(&mut inspection);
    Ok(inspection)
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
    /// Where UEFI finds its partition: El Torito's image, else a partition of that type.
    fn esp_start(&self) -> Option<u64> {
        let image = self.el_torito.iter().find(|entry| entry.platform == UEFI);
        let by_type = self.mbr.iter().flatten().find(|partition| partition.entry.kind == 0xef);
        let by_guid = self.gpt.iter().flat_map(|gpt| &gpt.partitions).find(|partition| partition.esp);
        image
            .map(|entry| u64::from(entry.sector) * 4)
            .or(by_type.map(|partition| u64::from(partition.entry.start)))
            .or(by_guid.map(|partition| partition.start))
    }

    fn read_esp(&mut self) {
        let Some(start) = self.esp_start() else { return };
        let Some(offset) = start.checked_mul(BLOCK).filter(|&offset| offset < self.length) else {
            self.damage.push(format!("the EFI system partition: block {start} is outside the file"));
            return;
        };
        match fat::read(&self.path, offset, self.length - offset) {
            Ok((volume, tree)) => {
                self.esp = Some(Esp { start, volume, files: file_entries(&tree), tree });
            }
            Err(error) => self.damage.push(format!("the EFI system partition: {error:#}")),
        }
    }

    /// Sorts the files by what their first bytes say.
    fn read_files(&mut self) {
        let mut places = vec![(Place::Iso, &self.tree)];
        places.extend(self.esp.as_ref().map(|esp| (Place::Esp, &esp.tree)));
        for (place, tree) in places {
            for entry in tree.walk() {
                let Kind::File(content) = &entry.inode.kind else { continue };
                let path = format!("/{}", display_path(&entry.path));
                let file = FileEntry { path, length: content.len() };
                let shown = file.path.clone();
                let found =
                    sort::sort(place, file, content, &mut self.loaders, &mut self.kernels, &mut self.images);
                if let Err(error) = found {
                    self.damage.push(format!("{shown}: {error:#}"));
                }
            }
        }
    }

    /// The initramfs files that menus name, and those that are called so.
    fn read_initramfs(&mut self) {
        let named: BTreeSet<String> = self
            .menu
            .iter()
            .flat_map(|entry| entry.initrds.iter().filter_map(|path| menu::literal_path(entry, path)))
            .collect();
        let mut known: HashMap<(u64, u64), usize> = HashMap::new();
        for entry in self.tree.walk() {
            let Kind::File(content) = &entry.inode.kind else { continue };
            let path = format!("/{}", display_path(&entry.path));
            let name = path.rsplit('/').next().unwrap_or_default();
            if !named.contains(&path) && !name.starts_with("initrd") && !name.starts_with("initramfs") {
                continue;
            }
            // Two names of the same sectors need not be unpacked twice.
            let place = match content {
                Content::Slice { offset, length, .. } if *length > 0 => Some((*offset, *length)),
                _ => None,
            };
            if let Some(known) = place.and_then(|place| known.get(&place)) {
                let contents = self.initramfs[*known].contents.clone();
                self.initramfs.push(Initramfs { file: FileEntry { path, length: content.len() }, contents });
                continue;
            }
            let read = if content.len() > MAX_INITRAMFS {
                Err(anyhow::anyhow!("it has {} bytes, more than {MAX_INITRAMFS}", content.len()))
            } else {
                content.read_all().and_then(|bytes| initramfs::read(&bytes))
            };
            match read {
                Ok(contents) => {
                    let file = FileEntry { path, length: content.len() };
                    known.extend(place.map(|place| (place, self.initramfs.len())));
                    self.initramfs.push(Initramfs { file, contents });
                }
                Err(error) => self.damage.push(format!("{path}: {error:#}")),
            }
        }
    }

    /// A file of the ISO by its path with leading slash.
    fn file(&self, path: &str) -> Option<&Content> {
        content(&self.tree, path)
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
