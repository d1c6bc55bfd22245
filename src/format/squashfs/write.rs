//! The writer: a tree becomes an image, table after table.
//!
//! It stands beside backhand, whose reader the tests use. backhand 0.25.5's
//! writer compresses on one thread with zlib-rs (33.4 s of CPU time for a
//! 603 MB tree where libdeflate takes 10.1 s and a smaller image), writes no
//! xattrs (its issue 32), makes a second inode of a second
//! name, stores zeros as blocks, and offers no place for a block cache.

use std::collections::HashMap;
use std::io::{BufWriter, Seek, SeekFrom, Write};

use anyhow::{Context, Result, ensure};

use super::compress::{Codec, Settings, levels};
use super::data::{DataWriter, FileData, Stored};
use super::directory::{DirectoryEntry, Listing, write_listing};
use super::inode::{self, Common, basic_type, clamped_time};
use super::layout::{
    BLOCK_SIZES, METADATA_RAW, METADATA_SIZE, MetadataRef, NO_TABLE, PADDING, SUPERBLOCK_SIZE, Superblock,
    compressor_id, flag,
};
use super::metadata::{IdTable, MetadataWriter, Output};
use super::order::{Turn, data_order};
use super::workers::Workers;
use super::xattr::XattrTable;
use super::{Options, Summary, check};
use crate::plan::Compression;
use crate::tree::{InodeId, Kind, Tree};

/// Writes the tree as a squashfs 4.0 image from the start of `out`. The bytes
/// depend on the tree and on everything in `options` but the number of jobs
/// and the cache.
///
/// # Errors
/// What squashfs cannot carry, by path and origin; options no kernel reads;
/// unreadable file content; a full disk.
pub fn write(tree: &Tree, options: &Options<'_>, out: impl Write + Seek) -> Result<Summary> {
    let settings = settings(options)?;
    check::check(tree, options.block_size)?;
    let mut out = Output::new(BufWriter::with_capacity(256 << 10, out));
    out.write(&[0; SUPERBLOCK_SIZE])?;
    if let Some(block) = settings.options_block() {
        out.write(&(METADATA_RAW | block.len() as u16).to_le_bytes())?;
        out.write(&block)?;
    }
    let order = data_order(tree, options.first, options.block_size);
    let (stored, numbers) = store_content(tree, &order, options, settings, out)?;
    let Stored { mut out, files, fragments, duplicates, new_blocks } = stored;

    let mut codec = Codec::new(settings)?;
    let mut tables = Tables::new(tree);
    let root = tables.write_inodes(tree, &mut codec, &files, &numbers)?;

    let inode_table = out.position;
    out.write(&tables.inodes.finish(&mut codec)?)?;
    let directory_table = out.position;
    out.write(&tables.directories.finish(&mut codec)?)?;
    let fragment_bytes: Vec<u8> =
        fragments.iter().flat_map(|f| [f.start, u64::from(f.size)]).flat_map(u64::to_le_bytes).collect();
    let fragment_table = match fragments.is_empty() {
        true => NO_TABLE,
        false => out.write_table(&mut codec, &fragment_bytes, &[])?,
    };
    let references: Vec<u8> = tables.references.iter().flat_map(|r| r.packed().to_le_bytes()).collect();
    let export_table = out.write_table(&mut codec, &references, &[])?;
    let id_table = out.write_table(&mut codec, &tables.ids.encode(), &[])?;
    let xattr_table = tables.xattrs.write(&mut codec, &mut out)?;

    let bytes_used = out.position;
    out.write(&vec![0; (bytes_used.next_multiple_of(PADDING) - bytes_used) as usize])?;
    let superblock = Superblock {
        inode_count: tables.references.len() as u32,
        mkfs_time: clamped_time(options.timestamp),
        block_size: options.block_size,
        fragment_count: fragments.len() as u32,
        compressor: compressor_id(options.compression),
        flags: flags(settings, xattr_table),
        id_count: tables.ids.count(),
        root,
        bytes_used,
        id_table,
        xattr_table,
        inode_table,
        directory_table,
        fragment_table,
        export_table,
    };
    let image_size = out.position;
    let mut out = out.into_inner();
    out.seek(SeekFrom::Start(0)).context("seeking to the superblock")?;
    out.write_all(&superblock.encode()).context("writing the superblock")?;
    out.flush().context("writing the squashfs image")?;
    if let Some(cache) = options.block_cache {
        cache.commit()?;
    }
    Ok(Summary {
        image_size,
        content_size: files.iter().map(|f| f.length).sum(),
        inodes: superblock.inode_count,
        fragments: superblock.fragment_count,
        duplicates,
        new_blocks,
    })
}

fn settings(options: &Options<'_>) -> Result<Settings> {
    let Options { compression, level, block_size, .. } = *options;
    let legal = levels(compression);
    ensure!(
        legal.contains(&level),
        "{compression:?} has no level {level}; choose {} to {}",
        legal.start(),
        legal.end()
    );
    ensure!(
        BLOCK_SIZES.contains(&block_size) && block_size.is_power_of_two(),
        "block size {block_size} is not a power of two from {} to {}",
        BLOCK_SIZES.start(),
        BLOCK_SIZES.end()
    );
    Ok(Settings { compression, level, block_size })
}

fn flags(settings: Settings, xattr_table: u64) -> u16 {
    let mut flags = flag::DUPLICATES | flag::EXPORTABLE;
    if xattr_table == NO_TABLE {
        flags |= flag::NO_XATTRS;
    }
    if settings.options_block().is_some() {
        flags |= flag::COMPRESSOR_OPTIONS;
    }
    flags
}

/// Writes the content of all files. The second result leads from an inode to its content's number.
fn store_content<W: Write>(
    tree: &Tree,
    order: &[Turn],
    options: &Options<'_>,
    settings: Settings,
    out: Output<W>,
) -> Result<(Stored<W>, Vec<usize>)> {
    let length = |id: InodeId| match &tree.inode(id).kind {
        Kind::File(content) => content.len(),
        _ => 0,
    };
    let mut of_length: HashMap<u64, u32> = HashMap::new();
    for turn in order {
        *of_length.entry(length(turn.id)).or_default() += 1;
    }
    let mut numbers = vec![0; tree.inode_count()];
    std::thread::scope(|scope| {
        let workers = Workers::start(scope, options.jobs.get(), settings, options.block_cache)?;
        let filters_code = options.compression == Compression::Xz;
        let mut data = DataWriter::new(out, workers, options.block_size, filters_code, options.block_cache);
        for &Turn { id, starts_fragment } in order {
            if starts_fragment {
                data.close_fragment()?;
            }
            if let Kind::File(content) = &tree.inode(id).kind {
                numbers[id.index()] = data
                    .store(content, of_length[&content.len()] > 1)
                    .with_context(|| format!("storing a file from {}", tree.origin(tree.inode(id).origin)))?;
            }
        }
        Ok((data.finish()?, numbers))
    })
}

/// The tables that are filled while inodes are written.
struct Tables {
    inodes: MetadataWriter,
    directories: MetadataWriter,
    ids: IdTable,
    xattrs: XattrTable,
    /// Where every inode is, by number less one: the export table.
    references: Vec<MetadataRef>,
    /// Directories after everything below them.
    post_order: Vec<InodeId>,
    /// Inode number by inode id.
    numbers: Vec<u32>,
    /// Inode number of a directory's parent by inode id.
    parents: Vec<u32>,
}

impl Tables {
    /// Numbers all inodes: the children of a directory one after the other, the root last.
    fn new(tree: &Tree) -> Tables {
        let mut post_order = Vec::new();
        let mut pending = vec![Tree::ROOT];
        while let Some(directory) = pending.pop() {
            post_order.push(directory);
            let children = tree.entries(directory).into_iter().flat_map(|e| e.values());
            pending.extend(children.filter(|&&child| tree.entries(child).is_some()));
        }
        post_order.reverse();
        let mut numbers = vec![0; tree.inode_count()];
        let mut last = 0;
        let children = |&directory: &InodeId| tree.entries(directory).into_iter().flat_map(|e| e.values());
        for &id in post_order.iter().flat_map(children).chain([&Tree::ROOT]) {
            if numbers[id.index()] == 0 {
                last += 1;
                numbers[id.index()] = last;
            }
        }
        // The root's parent is a number no inode has.
        let mut parents = vec![last + 1; tree.inode_count()];
        for directory in &post_order {
            for child in children(directory) {
                parents[child.index()] = numbers[directory.index()];
            }
        }
        Tables {
            inodes: MetadataWriter::new(),
            directories: MetadataWriter::new(),
            ids: IdTable::default(),
            xattrs: XattrTable::new(),
            references: vec![MetadataRef::default(); last as usize],
            post_order,
            numbers,
            parents,
        }
    }

    /// Writes inodes and listings from the leaves to the root, whose place is returned.
    fn write_inodes(
        &mut self,
        tree: &Tree,
        codec: &mut Codec,
        files: &[FileData],
        content: &[usize],
    ) -> Result<MetadataRef> {
        let mut listings: HashMap<InodeId, Listing> = HashMap::new();
        let mut written = vec![false; tree.inode_count()];
        for directory in std::mem::take(&mut self.post_order) {
            let entries = tree.entries(directory).into_iter().flatten();
            let mut listed = Vec::new();
            for (name, &id) in entries {
                if !std::mem::replace(&mut written[id.index()], true) {
                    self.write_inode(tree, codec, id, listings.remove(&id), &files[content[id.index()]..])?;
                }
                let number = self.numbers[id.index()];
                listed.push(DirectoryEntry {
                    name: name.as_bytes(),
                    inode: self.references[number as usize - 1],
                    number,
                    inode_type: basic_type(&tree.inode(id).kind),
                });
            }
            listings.insert(directory, write_listing(&mut self.directories, codec, &listed)?);
        }
        self.write_inode(tree, codec, Tree::ROOT, listings.remove(&Tree::ROOT), &[])?;
        Ok(self.references[self.numbers[Tree::ROOT.index()] as usize - 1])
    }

    /// `listing` is that of a directory, the first of `files` that of a regular file.
    fn write_inode(
        &mut self,
        tree: &Tree,
        codec: &mut Codec,
        id: InodeId,
        listing: Option<Listing>,
        files: &[FileData],
    ) -> Result<()> {
        let inode = tree.inode(id);
        let number = self.numbers[id.index()];
        let common = Common {
            uid: self.ids.index(inode.uid)?,
            gid: self.ids.index(inode.gid)?,
            number,
            xattrs: self.xattrs.index(codec, &inode.xattrs)?,
        };
        let bytes = match &inode.kind {
            Kind::Directory(entries) => {
                let below = entries.values().filter(|&&child| tree.entries(child).is_some()).count();
                let listing = listing.unwrap_or_default();
                inode::directory(inode, &common, &listing, 2 + below as u32, self.parents[id.index()])
            }
            Kind::File(_) => inode::file(inode, &common, &files[0]),
            _ => inode::special(inode, &common),
        };
        self.references[number as usize - 1] = self.inodes.position();
        self.inodes.write(codec, &bytes)
    }
}

const _: () = assert!(METADATA_SIZE <= METADATA_RAW as usize);
