//! A root image of either format, as far as both are looked into the same way.

use anyhow::{Result, bail};

use super::Image;
use crate::format::{erofs, squashfs};
use crate::tree::Content;

/// An image open for looking.
pub(super) enum Root {
    Squashfs(Box<squashfs::Reader>),
    Erofs(Box<erofs::Reader>),
}

impl Root {
    /// Opens the image.
    ///
    /// # Errors
    /// Damage, a compressor we lack, and images in pieces.
    pub fn open(image: &Image) -> Result<Root> {
        let Content::Slice { file, offset, length } = &image.content else {
            bail!("it does not lie in one piece");
        };
        Ok(match image.squashfs {
            Some(_) => Root::Squashfs(Box::new(squashfs::Reader::open(file, *offset, *length)?)),
            None => Root::Erofs(Box::new(erofs::Reader::open(file, *offset, *length)?)),
        })
    }

    /// The content of a regular file of at most `max` bytes, if there is one of this name.
    ///
    /// # Errors
    /// Damage on the way, and more than `max` bytes.
    pub fn read_file(&mut self, path: &[u8], max: u64) -> Result<Option<Vec<u8>>> {
        match self {
            Root::Squashfs(reader) => reader.read_file(path, max),
            Root::Erofs(reader) => reader.read_file(path, max),
        }
    }

    /// The names in a directory; none if there is no such directory.
    ///
    /// # Errors
    /// Damage on the way.
    pub fn names(&self, path: &[u8]) -> Result<Vec<String>> {
        match self {
            Root::Squashfs(reader) => reader.names(path),
            Root::Erofs(reader) => reader.names(path),
        }
    }
}
