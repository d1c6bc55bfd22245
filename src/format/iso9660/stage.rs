//! A tree as files that xorriso can read: small ones are copied to a short-lived
//! directory, large ones on disk are taken from where they are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::{EFI_IMAGE, Options};
use crate::plan::IsoLayout;
use crate::tree::{Content, Kind, Tree, display_path};

/// The MBR boot code, in the staging directory.
pub(super) const MBR: &str = "mbr.bin";
/// xorriso's list of what goes where.
pub(super) const PATH_LIST: &str = "path-list";
const EMPTY: &str = "empty";

/// ISO 9660 level 2 and 3 names (ECMA-119 §7.5.1) without the version.
const LONGEST_NAME: usize = 31;

/// Files ready for xorriso; the directory goes when this is dropped.
pub(super) struct Staged {
    pub dir: TempDir,
}

/// Refuses what a medium cannot carry on every way it is read or copied.
pub(super) fn check(tree: &Tree) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut folded: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for entry in tree.walk().skip(1) {
        let from = || format!("`/{}` (from {})", display_path(&entry.path), tree.origin(entry.inode.origin));
        match &entry.inode.kind {
            Kind::File(_) if seen.insert(entry.id) => {}
            Kind::Directory(_) => {}
            Kind::File(_) => bail!("the ISO cannot hold the hard link {}", from()),
            Kind::Symlink(_) => bail!("the ISO cannot hold the symlink {}", from()),
            other => bail!("the ISO cannot hold the {} {}", other.word(), from()),
        }
        let last = entry.path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        let legal = |&b: &u8| b.is_ascii_alphanumeric() || b"._-+".contains(&b);
        if last.len() > LONGEST_NAME || !last.iter().all(legal) {
            bail!("the ISO cannot hold {}: a name wants at most 31 of A-Z, a-z, 0-9 and `._-+`", from());
        }
        if let Some(other) = folded.insert(entry.path.to_ascii_uppercase(), entry.path.clone()) {
            bail!(
                "the ISO cannot hold {} beside `/{}`: a copy to FAT ignores case",
                from(),
                display_path(&other)
            );
        }
    }
    Ok(())
}

pub(super) fn stage(tree: &Tree, options: &Options, work: &Path) -> Result<Staged> {
    let dir = tempfile::Builder::new()
        .prefix("iso-")
        .tempdir_in(work)
        .with_context(|| format!("making a directory in {}", work.display()))?;
    fs::create_dir(dir.path().join(EMPTY)).context("making an empty directory")?;
    if let Some(bios) = &options.bios {
        fs::write(dir.path().join(MBR), &bios.mbr).context("writing the MBR boot code")?;
    }
    let mut list = Vec::new();
    for (number, entry) in tree.walk().enumerate().skip(1) {
        let source = match &entry.inode.kind {
            Kind::File(content) => source_of(content, dir.path(), number)
                .with_context(|| format!("copying /{}", display_path(&entry.path)))?,
            _ => absolute(&dir.path().join(EMPTY))?,
        };
        list.extend(path_line(&entry.path, &source));
    }
    if let Some(image) = options.efi_image.as_ref().filter(|_| options.layout == IsoLayout::CdOnly) {
        ensure!(tree.get(EFI_IMAGE.as_bytes()).is_none(), "the place of the ESP, /{EFI_IMAGE}, is taken");
        list.extend(path_line(EFI_IMAGE.as_bytes(), &absolute(image)?));
    }
    fs::write(dir.path().join(PATH_LIST), list).context("writing the list of files")?;
    Ok(Staged { dir })
}

/// A line of xorriso's path list.
fn path_line(path: &[u8], source: &[u8]) -> Vec<u8> {
    let escaped = source.iter().flat_map(|&b| match b {
        b'=' | b'\\' => vec![b'\\', b],
        b => vec![b],
    });
    path.iter().copied().chain([b'=']).chain(escaped).chain([b'\n']).collect()
}

/// Path of a host file with exactly this content.
fn source_of(content: &Content, dir: &Path, number: usize) -> Result<Vec<u8>> {
    if let Content::Slice { file, offset: 0, length } = content {
        let found = fs::metadata(file.as_path()).with_context(|| format!("reading {}", file.display()))?;
        if found.is_file() && found.len() == *length && !file.is_symlink() {
            return absolute(file);
        }
    }
    let path = dir.join(format!("f{number}"));
    let mut out = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let copied = io::copy(&mut content.open()?, &mut out)
        .with_context(|| format!("copying {content} to {}", path.display()))?;
    ensure!(copied == content.len(), "{content}: {copied} bytes were read");
    absolute(&path)
}

fn absolute(path: &Path) -> Result<Vec<u8>> {
    let path = std::path::absolute(path).context("finding the current directory")?;
    let bytes = path.as_os_str().as_bytes();
    ensure!(!bytes.contains(&b'\n'), "{} has a line break in its path", path.display());
    Ok(bytes.to_vec())
}
