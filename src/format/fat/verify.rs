//! A second opinion on a written image: `fatfs`, which reads well, must find
//! every file of the tree with its bytes. The cluster numbers it follows are checked before.

use std::io::{Cursor, Read};

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
