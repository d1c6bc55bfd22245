//! A second opinion on a written image: `fatfs`, which reads well, must find
//! every file of the tree with its bytes. The cluster numbers it follows are checked before.

use std::collections::BTreeSet;
use std::io::{Cursor, Read};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fatfs::{Dir, FileSystem, FsOptions};

use crate::tree::{Entry, Kind, Tree, display_path};

/// Reads `image` with an implementation that is not ours and compares its files
/// and directories with `tree`.
///
/// # Errors
/// The first file that is missing or different.
pub fn verify(image: &[u8], tree: &Tree) -> Result<()> {
    super::chains::check(image).context("following the cluster chains of the FAT image")?;
    let file_system =
        FileSystem::new(Cursor::new(image.to_vec()), FsOptions::new().update_accessed_date(false))
            .context("reading the FAT image back")?;
    let root = file_system.root_dir();
    for entry in tree.walk().filter(|entry| !entry.path.is_empty()) {
        compare(&root, &entry)
            .with_context(|| format!("reading /{} back from the FAT image", display_path(&entry.path)))?;
    }
    Ok(())
}

/// Reads the volume at `offset` of a file of `length` bytes there back with our
/// own strict reader, and compares it with `tree` piece by piece.
///
/// # Errors
/// The first file that is missing, different or too much.
pub fn verify_in(path: &Path, offset: u64, length: u64, tree: &Tree) -> Result<()> {
    let (_, found) = super::read(path, offset, length).context("reading the FAT volume back")?;
    let names = |tree: &Tree| tree.walk().map(|entry| entry.path).collect::<BTreeSet<_>>();
    ensure!(names(&found) == names(tree), "the FAT volume has other names than were written");
    for entry in tree.walk() {
        let Kind::File(expected) = &entry.inode.kind else { continue };
        let kind = found.get(&entry.path).map(|id| &found.inode(id).kind);
        let Some(Kind::File(content)) = kind else {
            anyhow::bail!("/{} is no file any more", display_path(&entry.path));
        };
        let differs = content.len() != expected.len() || content.sha256()? != expected.sha256()?;
        ensure!(!differs, "/{} is not what was written", display_path(&entry.path));
    }
    Ok(())
}

fn compare(root: &Dir<'_, Cursor<Vec<u8>>>, entry: &Entry<'_>) -> Result<()> {
    let path = std::str::from_utf8(&entry.path).context("FAT names are text")?;
    let Kind::File(content) = &entry.inode.kind else {
        root.open_dir(path)?;
        return Ok(());
    };
    let mut found = Vec::new();
    root.open_file(path)?.read_to_end(&mut found)?;
    ensure!(found == content.read_all()?, "its bytes are not those that were written");
    Ok(())
}
