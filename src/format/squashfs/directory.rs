//! Directory listings in the directory table.
//!
//! A listing is a sequence of groups. A group's header holds what its entries
//! share: the inode table's metadata block and a base for inode numbers. A
//! group also ends where the listing runs into the next metadata block; the
//! index of a large directory has one entry for each such place, so looking up
//! one name reads one block.

use anyhow::{Result, ensure};

use super::compress::Codec;
use super::layout::{MAX_GROUP, METADATA_SIZE, MetadataRef};
use super::metadata::MetadataWriter;

/// One name in a listing.
pub(super) struct DirectoryEntry<'t> {
    pub name: &'t [u8],
    /// Where the inode is in the inode table.
    pub inode: MetadataRef,
    pub number: u32,
    /// Basic inode type, even for extended inodes.
    pub inode_type: u16,
}

/// Where a listing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub at: MetadataRef,
    /// Bytes.
    pub size: u32,
    /// Index records as they lie in an extended directory inode.
    pub index: Vec<u8>,
    /// Number of index records.
    pub index_count: u16,
}

const HEADER_SIZE: usize = 12;
const ENTRY_SIZE: usize = 8;

/// Appends a listing; `entries` are in byte order of their names.
///
/// # Errors
/// A listing or table of more than 4 GiB; the compressor's.
pub(super) fn write_listing(
    table: &mut MetadataWriter,
    codec: &mut Codec,
    entries: &[DirectoryEntry<'_>],
) -> Result<Listing> {
    let at = table.position();
    let mut listing = Listing { at, ..Listing::default() };
    let mut rest = entries;
    let mut indexed_block = 0;
    let mut size = 0_usize;
    while let Some(first) = rest.first() {
        let from = usize::from(at.offset) + size;
        if from / METADATA_SIZE > indexed_block && listing.index_count < u16::MAX {
            indexed_block = from / METADATA_SIZE;
            listing.add_index(size, table.position(), first.name)?;
        }
        let (group, later) = rest.split_at(group_length(rest, from));
        let bytes = encode_group(group)?;
        table.write(codec, &bytes)?;
        size += bytes.len();
        rest = later;
    }
    listing.size = u32::try_from(size)?;
    ensure!(listing.size < u32::MAX - 8, "a directory's listing takes more than 4 GiB");
    Ok(listing)
}

impl Listing {
    fn add_index(&mut self, size: usize, at: MetadataRef, name: &[u8]) -> Result<()> {
        self.index.extend(u32::try_from(size)?.to_le_bytes());
        self.index.extend(u32::try_from(at.start)?.to_le_bytes());
        self.index.extend((name.len() as u32 - 1).to_le_bytes());
        self.index.extend(name);
        self.index_count += 1;
        Ok(())
    }
}

/// How many entries share a header that starts `from` bytes after the start of the listing's first metadata block.
fn group_length(entries: &[DirectoryEntry<'_>], from: usize) -> usize {
    let first = &entries[0];
    let mut end = from + HEADER_SIZE;
    let fits = |entry: &&DirectoryEntry<'_>| {
        let same_block = end / METADATA_SIZE == from / METADATA_SIZE;
        end += ENTRY_SIZE + entry.name.len();
        let distance = i64::from(entry.number) - i64::from(first.number);
        same_block && entry.inode.start == first.inode.start && i16::try_from(distance).is_ok()
    };
    // The first entry goes with its header wherever that ends.
    entries.iter().take(MAX_GROUP).take_while(fits).count().max(1)
}

fn encode_group(group: &[DirectoryEntry<'_>]) -> Result<Vec<u8>> {
    let first = &group[0];
    let mut bytes = Vec::new();
    bytes.extend((group.len() as u32 - 1).to_le_bytes());
    bytes.extend(u32::try_from(first.inode.start)?.to_le_bytes());
    bytes.extend(first.number.to_le_bytes());
    for entry in group {
        bytes.extend(entry.inode.offset.to_le_bytes());
        bytes.extend((entry.number.wrapping_sub(first.number) as u16).to_le_bytes());
        bytes.extend(entry.inode_type.to_le_bytes());
        bytes.extend((entry.name.len() as u16 - 1).to_le_bytes());
        bytes.extend(entry.name);
    }
    Ok(bytes)
}
