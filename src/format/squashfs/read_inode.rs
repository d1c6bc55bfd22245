//! Inodes, listings and xattr sets from their bytes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::data::FileData;
use super::image::{Cursor, Image};
use super::inode::device_from_number;
use super::layout::{
    LISTING_EXTRA, MAX_GROUP, MetadataRef, NONE, XATTR_OUT_OF_LINE, XATTR_PREFIXES, inode_type,
};
use crate::tree::{Kind, Name};

/// Linux's `XATTR_SIZE_MAX`, and `PATH_MAX`.
const MAX_XATTR_VALUE: u32 = 65536;
const MAX_TARGET: u32 = 4096;

/// An inode as it was found.
pub(super) struct FoundInode {
    pub inode_type: u16,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: u32,
    pub number: u32,
    pub xattrs: u32,
    pub content: FoundContent,
}

/// What only one type of inode has.
pub(super) enum FoundContent {
    /// Start of the listing and its bytes.
    Directory(MetadataRef, u32),
    File(FileData),
    Other(Kind),
}

/// One name of a listing.
pub(super) struct FoundEntry {
    pub name: Name,
    pub inode: MetadataRef,
    pub number: u32,
    pub inode_type: u16,
}

/// Reads the inode at a place in the inode table.
///
/// # Errors
/// What no inode looks like.
pub(super) fn read_inode(image: &Image, at: MetadataRef) -> Result<FoundInode> {
    let superblock = &image.superblock;
    let table = superblock.inode_table;
    ensure!(at.start < superblock.directory_table - table, "an inode is referred to outside the inode table");
    let cursor = &mut image.cursor(table, at)?;
    let (full_type, mode) = (cursor.u16()?, cursor.u16()?);
    let (uid, gid) = (image.id(cursor.u16()?)?, image.id(cursor.u16()?)?);
    let (mtime, number) = (cursor.u32()?, cursor.u32()?);
    ensure!((1..=superblock.inode_count).contains(&number), "inode number {number} is not possible");
    ensure!(mode <= 0o7777, "inode {number} has mode {mode:o}");
    let is_extended = full_type > inode_type::EXTENDED;
    let inode_type = if is_extended { full_type - inode_type::EXTENDED } else { full_type };
    let (content, xattrs) = match (inode_type, is_extended) {
        (inode_type::DIRECTORY, _) => directory(cursor, is_extended)?,
        (inode_type::FILE, _) => file(cursor, is_extended)?,
        _ => {
            let kind = special(cursor, inode_type).with_context(|| format!("in inode {number}"))?;
            (FoundContent::Other(kind), if is_extended { cursor.u32()? } else { NONE })
        }
    };
    Ok(FoundInode { inode_type, mode, uid, gid, mtime, number, xattrs, content })
}

fn directory(cursor: &mut Cursor<'_>, is_extended: bool) -> Result<(FoundContent, u32)> {
    let (start, size, offset, xattrs);
    if is_extended {
        let _links = cursor.u32()?;
        (size, start) = (cursor.u32()?, cursor.u32()?);
        let (_parent, _index_count) = (cursor.u32()?, cursor.u16()?);
        (offset, xattrs) = (cursor.u16()?, cursor.u32()?);
    } else {
        start = cursor.u32()?;
        let _links = cursor.u32()?;
        (size, offset, xattrs) = (u32::from(cursor.u16()?), cursor.u16()?, NONE);
    }
    let size = size.checked_sub(LISTING_EXTRA).context("a directory's listing is too short")?;
    Ok((FoundContent::Directory(MetadataRef { start: u64::from(start), offset }, size), xattrs))
}

fn file(cursor: &mut Cursor<'_>, is_extended: bool) -> Result<(FoundContent, u32)> {
    let (start, length, sparse, fragment, offset, xattrs);
    if is_extended {
        (start, length, sparse) = (cursor.u64()?, cursor.u64()?, cursor.u64()?);
        let _links = cursor.u32()?;
        (fragment, offset, xattrs) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    } else {
        start = u64::from(cursor.u32()?);
        (fragment, offset) = (cursor.u32()?, cursor.u32()?);
        (length, sparse, xattrs) = (u64::from(cursor.u32()?), 0, NONE);
    }
    let block_size = u64::from(cursor.image.superblock.block_size);
    let tail = (fragment != NONE).then_some((fragment, offset));
    let count = if tail.is_some() { length / block_size } else { length.div_ceil(block_size) };
    // The list grows as it is read: its announced length is nothing to allocate by.
    let mut blocks = Vec::new();
    for _ in 0..count {
        cursor.image.charge(size_of::<u32>())?;
        blocks.push(cursor.u32()?);
    }
    Ok((FoundContent::File(FileData { length, start, blocks, tail, sparse }), xattrs))
}

fn special(cursor: &mut Cursor<'_>, inode_type: u16) -> Result<Kind> {
    let _links = cursor.u32()?;
    Ok(match inode_type {
        inode_type::SYMLINK => {
            let length = cursor.u32()?;
            ensure!(length <= MAX_TARGET, "a symbolic link's target has {length} bytes");
            Kind::Symlink(cursor.bytes(length as usize)?)
        }
        inode_type::BLOCK_DEVICE => Kind::BlockDevice(device_from_number(cursor.u32()?)),
        inode_type::CHAR_DEVICE => Kind::CharDevice(device_from_number(cursor.u32()?)),
        inode_type::FIFO => Kind::Fifo,
        inode_type::SOCKET => Kind::Socket,
        other => bail!("inode type {other} does not exist"),
    })
}

/// Reads a listing of `size` bytes.
///
/// # Errors
/// Names no tree has or not in order, groups that are empty or run over the end.
pub(super) fn read_listing(image: &Image, at: MetadataRef, size: u32) -> Result<Vec<FoundEntry>> {
    let mut entries: Vec<FoundEntry> = Vec::new();
    if size == 0 {
        return Ok(entries);
    }
    let cursor = &mut image.cursor(image.superblock.directory_table, at)?;
    let mut left = i64::from(size);
    while left > 0 {
        let (count, start, base) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
        ensure!((count as usize) < MAX_GROUP, "a directory group announces {count} entries");
        left -= 12;
        for _ in 0..=count {
            let inode = MetadataRef { start: u64::from(start), offset: cursor.u16()? };
            let number = base.wrapping_add_signed(i32::from(cursor.u16()? as i16));
            let (inode_type, length) = (cursor.u16()?, usize::from(cursor.u16()?) + 1);
            left -= 8 + length as i64;
            ensure!(length <= 256 && left >= 0, "a name runs over the end of its listing");
            let name = Name::new(&cursor.bytes(length)?)?;
            ensure!(
                entries.last().is_none_or(|last| last.name < name),
                "the names of a directory are not in order"
            );
            entries.push(FoundEntry { name, inode, number, inode_type });
        }
    }
    Ok(entries)
}

/// Reads a set of xattrs.
///
/// # Errors
/// Prefixes that do not exist, values larger than Linux has them.
pub(super) fn read_xattrs(image: &Image, index: u32) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut xattrs = BTreeMap::new();
    if index == NONE {
        return Ok(xattrs);
    }
    let (table, at, count) = image.xattrs(index)?;
    let cursor = &mut image.cursor(table, at)?;
    for _ in 0..count {
        let type_bits = cursor.u16()?;
        let prefix = XATTR_PREFIXES.get(usize::from(type_bits & 0xff));
        let mut name = prefix.context("an xattr has an unknown prefix")?.to_vec();
        let length = cursor.u16()?;
        name.extend(cursor.bytes(usize::from(length))?);
        let mut value = read_value(cursor)?;
        if type_bits & XATTR_OUT_OF_LINE != 0 {
            let reference = <[u8; 8]>::try_from(value).ok().context("an xattr's reference is damaged")?;
            let at = MetadataRef::unpacked(u64::from_le_bytes(reference));
            value = read_value(&mut image.cursor(table, at)?)?;
        }
        xattrs.insert(name, value);
    }
    Ok(xattrs)
}

fn read_value(cursor: &mut Cursor<'_>) -> Result<Vec<u8>> {
    let length = cursor.u32()?;
    ensure!(length <= MAX_XATTR_VALUE, "an xattr's value has {length} bytes");
    cursor.bytes(length as usize)
}
