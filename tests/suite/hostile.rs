//! Files and archives made to break out, to exhaust or to confuse: contained and
//! exact in the image, or refused with path and origin. And damaged bytes, for
//! every parser whose own tests do not damage them.

mod archive;
mod damage;
mod overlay;

use std::fs::File;
use std::path::PathBuf;

use liveiso::format::squashfs::{Options, write};
use liveiso::plan::Compression;
use liveiso::tree::{Tree, listing};
use tempfile::TempDir;

use crate::squashfs::oracle;

fn squashfs(tree: &Tree) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.sfs");
    write(tree, &Options::new(Compression::Gzip), File::create_new(&path).unwrap()).unwrap();
    (dir, path)
}

fn squashfs_refusal(tree: &Tree) -> String {
    let out = std::io::Cursor::new(Vec::new());
    format!("{:#}", write(tree, &Options::new(Compression::Gzip), out).unwrap_err())
}

/// The image holds exactly this, say our reader and the kernel.
fn assert_exact(tree: &Tree, expected: &str) {
    assert_eq!(listing(tree).unwrap(), expected);
    let (_dir, path) = squashfs(tree);
    assert_eq!(oracle::ours(&path).unwrap(), expected);
    if let Some(shown) = oracle::kernel(&path) {
        assert_eq!(shown, expected);
    }
}
