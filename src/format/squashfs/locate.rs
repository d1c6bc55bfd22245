//! Where the content of files lies in an image, and which file an inode number
//! means; read from metadata alone.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::image::Image;
use super::layout::DATA_RAW;
use super::read_inode::{FoundContent, read_inode, read_listing};

/// Deeper paths than this are refused (bytes).
const MAX_PATH: usize = 32 << 10;

/// One name of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// Path without leading slash.
    pub path: Vec<u8>,
    /// Inode number, as `stat` and the kernel's trace events show it.
    pub number: u32,
    /// Bytes of the image its full blocks take; empty when there is none.
    pub blocks: Range<u64>,
    /// Bytes of the fragment block that holds its tail.
    pub fragment: Option<Range<u64>>,
}

/// Every regular file of an image, directory by directory.
///
/// # Errors
/// Metadata the format does not allow, positions outside the image.
pub fn locate(path: &Path) -> Result<Vec<Located>> {
    locate_files(&Image::open(path)?).with_context(|| format!("reading {}", path.display()))
}

fn locate_files(image: &Image) -> Result<Vec<Located>> {
    let mut files = Vec::new();
    let mut directories = HashSet::new();
    let mut pending = vec![(Vec::new(), image.superblock.root)];
    while let Some((path, at)) = pending.pop() {
        let inode = read_inode(image, at)?;
        match inode.content {
            FoundContent::Directory(listing, size) => {
                ensure!(directories.insert(at.packed()), "a directory has two names");
                for entry in read_listing(image, listing, size)?.into_iter().rev() {
                    let slash: &[u8] = if path.is_empty() { b"" } else { b"/" };
                    let below = [&path, slash, entry.name.as_bytes()].concat();
                    ensure!(below.len() <= MAX_PATH, "paths of more than {MAX_PATH} bytes are not read");
                    image.charge(size_of::<Located>() + 2 * below.len())?;
                    pending.push((below, entry.inode));
                }
            }
            FoundContent::File(data) => {
                let stored: u64 = data.blocks.iter().map(|size| u64::from(size & !DATA_RAW)).sum();
                let fragment = data.tail.map(|(number, _)| image.fragment(number)).transpose()?;
                files.push(Located {
                    path,
                    number: inode.number,
                    blocks: extent(image, data.start, stored)?,
                    fragment: fragment
                        .map(|f| extent(image, f.start, u64::from(f.size & !DATA_RAW)))
                        .transpose()?,
                });
            }
            FoundContent::Other(_) => {}
        }
    }
    Ok(files)
}

fn extent(image: &Image, start: u64, length: u64) -> Result<Range<u64>> {
    let end = start.checked_add(length).filter(|&end| end <= image.superblock.bytes_used);
    Ok(start..end.with_context(|| format!("{length} bytes at {start} are outside the image"))?)
}
