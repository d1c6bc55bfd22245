//! Filling an [`Inspection`]: tables first, then the files by what they are.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::disk::{self, Found};
use super::{BLOCK, Config, Esp, FileEntry, Format, Initramfs, Inspection, MbrPartition, Place, UEFI};
use super::{file_entries, gpt, initramfs, menu, packages, recognise, sort};
use crate::format::{fat, iso9660};
use crate::tree::{Content, Kind, Tree, display_path};

/// Initramfs files larger than this are not looked into (bytes).
const MAX_INITRAMFS: u64 = 512 << 20;

pub(super) fn read(path: &Path) -> Result<Inspection> {
    let (file, length) = recognise::open(path)?;
    let mut it = match recognise::format(&file, length)? {
        Format::Iso => iso(path)?,
        Format::Disk => disk(path, &file, length)?,
    };
    let mut code = [0; 440];
    file.read_exact_at(&mut code, 0).context("reading sector 0")?;
    it.boot_code = code.iter().any(|&b| b != 0);
    it.configs = menu::configs(&it.tree);
    it.menu = it.configs.iter().flat_map(menu::entries).collect();
    it.files = file_entries(&it.tree);
    if let Some(esp) = it.esp.as_ref().filter(|esp| !esp.shared) {
        let configs = menu::configs(&esp.tree).into_iter();
        it.configs.extend(configs.map(|config| Config { path: format!("ESP:{}", config.path), ..config }));
    }
    it.read_files();
    it.read_initramfs();
    it.packages = packages::find(&mut it);
    Ok(it)
}

fn iso(path: &Path) -> Result<Inspection> {
    let medium = iso9660::read(path)?;
    let mut it = Inspection::empty(path, Format::Iso, medium.length);
    it.tree = iso9660::read_tree(path)?;
    it.mbr = medium.mbr.map(used);
    it.gpt = gpt::read(&File::open(path).context("opening it")?);
    it.volume = Some(medium.volume);
    it.el_torito = medium.catalog;
    it.read_esp();
    Ok(it)
}

fn disk(path: &Path, file: &File, length: u64) -> Result<Inspection> {
    let mut it = Inspection::empty(path, Format::Disk, length);
    let mut found = match disk::whole(path, length) {
        Some(found) => found,
        None => {
            let mut sector = [0; iso9660::SECTOR as usize];
            file.read_exact_at(&mut sector[..BLOCK as usize], 0).context("reading sector 0")?;
            it.mbr = iso9660::parse_mbr(&sector).map(used);
            it.gpt = gpt::read(file);
            disk::partitions(&it, file)
        }
    };
    if found.file_systems.is_empty() && found.damage.is_empty() {
        bail!("it is neither an ISO nor a disk image: sector 0 names no partition");
    }
    it.damage.append(&mut found.damage);
    it.take(found);
    Ok(it)
}

fn used(entries: [iso9660::MbrEntry; 4]) -> Vec<MbrPartition> {
    let slots = entries.into_iter().enumerate().map(|(n, entry)| MbrPartition { slot: n + 1, entry });
    slots.filter(|partition| partition.entry.blocks != 0).collect()
}

impl Inspection {
    fn empty(path: &Path, format: Format, length: u64) -> Inspection {
        Inspection {
            format,
            length,
            volume: None,
            mbr: None,
            boot_code: false,
            gpt: None,
            el_torito: Vec::new(),
            file_systems: Vec::new(),
            esp: None,
            loaders: Vec::new(),
            kernels: Vec::new(),
            initramfs: Vec::new(),
            images: Vec::new(),
            packages: None,
            menu: Vec::new(),
            files: Vec::new(),
            damage: Vec::new(),
            path: path.to_path_buf(),
            tree: Tree::new(),
            configs: Vec::new(),
        }
    }

    /// Where an ISO has its ESP: at El Torito's image, else in a partition of that type.
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
                self.esp = Some(Esp { start, volume, shared: false, files: file_entries(&tree), tree });
            }
            Err(error) => self.damage.push(format!("the EFI system partition: {error:#}")),
        }
    }

    /// The file systems of a disk: one has the medium's files, one, perhaps the same, is the ESP.
    fn take(&mut self, found: Found) {
        let (esp, medium) = (found.esp(), found.medium());
        for (n, fat) in found.fats.into_iter().enumerate() {
            let shared = medium == Some(n);
            if esp == Some(n) {
                let (files, tree) = match shared {
                    true => (Vec::new(), Tree::new()),
                    false => (file_entries(&fat.tree), fat.tree.clone()),
                };
                self.esp = Some(Esp { start: fat.start, volume: fat.volume, shared, files, tree });
            }
            if shared {
                self.tree = fat.tree;
            }
        }
        self.file_systems = found.file_systems;
        for (path, content) in found.images {
            let file = FileEntry { path, length: content.len() };
            self.sort(Place::Medium, file, &content);
        }
    }

    fn sort(&mut self, place: Place, file: FileEntry, content: &Content) {
        let shown = file.path.clone();
        let found = sort::sort(place, file, content, &mut self.loaders, &mut self.kernels, &mut self.images);
        if let Err(error) = found {
            self.damage.push(format!("{shown}: {error:#}"));
        }
    }

    /// Sorts the files by what their first bytes say.
    fn read_files(&mut self) {
        let mut places = vec![(Place::Medium, &self.tree)];
        places.extend(self.esp.as_ref().map(|esp| (Place::Esp, &esp.tree)));
        let mut files = Vec::new();
        for (place, tree) in places {
            for entry in tree.walk() {
                if let Kind::File(content) = &entry.inode.kind {
                    let path = format!("/{}", display_path(&entry.path));
                    files.push((place, FileEntry { path, length: content.len() }, content.clone()));
                }
            }
        }
        for (place, file, content) in files {
            self.sort(place, file, &content);
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
            let file = FileEntry { path, length: content.len() };
            // Two names of the same sectors need not be unpacked twice.
            let place = match content {
                Content::Slice { offset, length, .. } if *length > 0 => Some((*offset, *length)),
                _ => None,
            };
            if let Some(known) = place.and_then(|place| known.get(&place)) {
                let contents = self.initramfs[*known].contents.clone();
                self.initramfs.push(Initramfs { file, contents });
                continue;
            }
            match read_one(content) {
                Ok(contents) => {
                    known.extend(place.map(|place| (place, self.initramfs.len())));
                    self.initramfs.push(Initramfs { file, contents });
                }
                Err(error) => self.damage.push(format!("{}: {error:#}", file.path)),
            }
        }
    }
}

fn read_one(content: &Content) -> Result<initramfs::Contents> {
    if content.len() > MAX_INITRAMFS {
        bail!("it has {} bytes, more than {MAX_INITRAMFS}", content.len());
    }
    let mut bytes = Vec::new();
    content.open()?.read_to_end(&mut bytes)?;
    initramfs::read(&bytes)
}
