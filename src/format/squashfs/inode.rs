//! Inodes as bytes: the basic form where it suffices, the extended one where it must be.

use super::data::FileData;
use super::directory::Listing;
use super::layout::{LISTING_EXTRA, NONE, inode_type};
use crate::tree::{Device, Inode, Kind};

/// What every inode starts with.
pub(super) struct Common {
    /// Index of the owner in the id table.
    pub uid: u16,
    /// Index of the group in the id table.
    pub gid: u16,
    /// Position in the export table, from 1.
    pub number: u32,
    /// Number of the xattr set.
    pub xattrs: Option<u32>,
}

/// The basic type of a file's inode.
pub(super) fn basic_type(kind: &Kind) -> u16 {
    match kind {
        Kind::Directory(_) => inode_type::DIRECTORY,
        Kind::File(_) => inode_type::FILE,
        Kind::Symlink(_) => inode_type::SYMLINK,
        Kind::BlockDevice(_) => inode_type::BLOCK_DEVICE,
        Kind::CharDevice(_) => inode_type::CHAR_DEVICE,
        Kind::Fifo => inode_type::FIFO,
        Kind::Socket => inode_type::SOCKET,
    }
}

/// A 32-bit device number: 8 low bits of the minor, 12 of the major, 12 high bits of the minor.
pub(super) fn device_number(device: Device) -> u32 {
    device.minor & 0xff | device.major << 8 | (device.minor & !0xff) << 12
}

/// The inverse of [`device_number`].
pub(super) fn device_from_number(number: u32) -> Device {
    Device { major: number >> 8 & 0xfff, minor: number & 0xff | number >> 12 & 0xf_ff00 }
}

/// Seconds since 1970 UTC as the format has them: 0 to 2106.
pub(super) fn clamped_time(seconds: i64) -> u32 {
    seconds.clamp(0, i64::from(u32::MAX)) as u32
}

fn header(inode: &Inode, common: &Common, extended: bool) -> Vec<u8> {
    let basic = basic_type(&inode.kind);
    let mut bytes = Vec::with_capacity(64);
    for half in
        [if extended { basic + inode_type::EXTENDED } else { basic }, inode.mode, common.uid, common.gid]
    {
        bytes.extend(half.to_le_bytes());
    }
    push(&mut bytes, &[clamped_time(inode.mtime), common.number]);
    bytes
}

fn push(bytes: &mut Vec<u8>, words: &[u32]) {
    for word in words {
        bytes.extend(word.to_le_bytes());
    }
}

/// A directory's inode; `links` counts its name, `.` and every subdirectory's `..`.
pub(super) fn directory(
    inode: &Inode,
    common: &Common,
    listing: &Listing,
    links: u32,
    parent: u32,
) -> Vec<u8> {
    let size = listing.size + LISTING_EXTRA;
    let start = listing.at.start as u32;
    let short_size = u16::try_from(size).ok().filter(|_| listing.index_count == 0 && common.xattrs.is_none());
    let mut bytes = header(inode, common, short_size.is_none());
    match short_size {
        Some(size) => {
            push(&mut bytes, &[start, links]);
            bytes.extend(size.to_le_bytes());
            bytes.extend(listing.at.offset.to_le_bytes());
            push(&mut bytes, &[parent]);
        }
        None => {
            push(&mut bytes, &[links, size, start, parent]);
            bytes.extend(listing.index_count.to_le_bytes());
            bytes.extend(listing.at.offset.to_le_bytes());
            push(&mut bytes, &[common.xattrs.unwrap_or(NONE)]);
            bytes.extend(&listing.index);
        }
    }
    bytes
}

/// A regular file's inode.
pub(super) fn file(inode: &Inode, common: &Common, data: &FileData) -> Vec<u8> {
    let (fragment, offset) = data.tail.unwrap_or((NONE, 0));
    let short = match (u32::try_from(data.start), u32::try_from(data.length)) {
        (Ok(start), Ok(length)) if inode.links == 1 && data.sparse == 0 && common.xattrs.is_none() => {
            Some((start, length))
        }
        _ => None,
    };
    let mut bytes = header(inode, common, short.is_none());
    match short {
        Some((start, length)) => push(&mut bytes, &[start, fragment, offset, length]),
        None => {
            for long in [data.start, data.length, data.sparse] {
                bytes.extend(long.to_le_bytes());
            }
            push(&mut bytes, &[inode.links, fragment, offset, common.xattrs.unwrap_or(NONE)]);
        }
    }
    push(&mut bytes, &data.blocks);
    bytes
}

/// The inode of anything that is neither a directory nor a regular file.
pub(super) fn special(inode: &Inode, common: &Common) -> Vec<u8> {
    let mut bytes = header(inode, common, common.xattrs.is_some());
    push(&mut bytes, &[inode.links]);
    match &inode.kind {
        Kind::Symlink(target) => {
            push(&mut bytes, &[target.len() as u32]);
            bytes.extend(target);
        }
        Kind::CharDevice(device) | Kind::BlockDevice(device) => push(&mut bytes, &[device_number(*device)]),
        _ => {}
    }
    if let Some(set) = common.xattrs {
        push(&mut bytes, &[set]);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_split_as_the_kernel_splits_them() {
        for (major, minor, number) in
            [(8, 1, 0x801), (5, 255, 0x5ff), (259, 256, 0x0011_0300), (0xfff, 0xf_ffff, u32::MAX)]
        {
            assert_eq!(device_number(Device { major, minor }), number);
            assert_eq!(device_from_number(number), Device { major, minor });
        }
    }

    #[test]
    fn times_stay_within_the_format() {
        for (seconds, expected) in [(-1, 0), (0, 0), (1 << 31, 1 << 31), (1 << 32, u32::MAX)] {
            assert_eq!(clamped_time(seconds), expected);
        }
    }
}
