//! Writing an archive.

use std::collections::{HashMap, HashSet};
use std::io::{self, Write};

use anyhow::{Context, Result, bail};

use super::{ARCHIVE_ALIGNMENT, HEADER_LEN, PATH_MAX, TRAILER, padding};
use crate::tree::{Device, Entry, Inode, InodeId, Kind, Tree, display_path};

/// Members and their data begin at multiples of this.
const MEMBER_ALIGNMENT: u64 = 4;

/// Writes a tree as one archive, names in byte order, directories before their
/// contents, padded with zeros to a multiple of 512 bytes.
///
/// # Errors
/// What the format or the kernel's unpacker cannot carry, by path and origin
/// (extended attributes, files of 4 GiB and more, times outside 1970 to 2106,
/// paths and link targets over 4095 bytes, hard-linked symbolic links); content
/// that cannot be read; `out`'s errors.
pub fn write(tree: &Tree, out: &mut impl Write) -> Result<()> {
    write_by(tree, |_| 0, out)
}

/// As [`write()`], members sorted by `rank` of their path first. Unpacking stops
/// where memory ends, so the order decides what is there in that case.
///
/// # Errors
/// As [`write()`], and a member ranked before its directory.
pub fn write_by<K: Ord>(tree: &Tree, rank: impl Fn(&[u8]) -> K, out: &mut impl Write) -> Result<()> {
    write_members(tree, rank, MEMBER_ALIGNMENT, out)
}

/// As [`write()`], with every file's data at a multiple of `alignment` (a
/// multiple of 4, at most 512) for whoever reads it in place: more than one NUL
/// ends the names, which changes nothing for readers of C strings.
///
/// # Errors
/// As [`write()`].
pub fn write_aligned(tree: &Tree, alignment: u64, out: &mut impl Write) -> Result<()> {
    write_members(tree, |_| 0, alignment, out)
}

fn write_members<K: Ord>(
    tree: &Tree,
    rank: impl Fn(&[u8]) -> K,
    alignment: u64,
    out: &mut impl Write,
) -> Result<()> {
    let mut entries: Vec<Entry> = tree.walk().collect();
    entries.sort_by_key(|entry| rank(&entry.path));
    let mut archive = Archive { out, written: 0, alignment };
    let mut numbers: HashMap<InodeId, (u32, u32)> = HashMap::new();
    let mut directories: HashSet<Vec<u8>> = HashSet::new();
    for entry in &entries {
        check_parent(&directories, &entry.path)?;
        if matches!(entry.inode.kind, Kind::Directory(_)) {
            directories.insert(entry.path.clone());
        }
        check(tree, entry)?;
        let next = u32::try_from(numbers.len() + 1).context("numbering cpio members")?;
        let (ino, seen) = numbers.entry(entry.id).or_insert((next, 0));
        *seen += 1;
        archive
            .member(entry, *ino, *seen == entry.inode.links)
            .with_context(|| format!("writing cpio member `{}`", display_path(&entry.path)))?;
    }
    archive.finish().context("ending the cpio archive")
}

fn check_parent(directories: &HashSet<Vec<u8>>, path: &[u8]) -> Result<()> {
    let parent = match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => &path[..slash],
        None => b"",
    };
    if !path.is_empty() && !directories.contains(parent) {
        let (member, parent) = (display_path(path), display_path(parent));
        bail!("cpio member `{member}` would come before its directory `{parent}`");
    }
    Ok(())
}

/// Refuses what would be lost, by path and origin.
fn check(tree: &Tree, Entry { path, inode, .. }: &Entry) -> Result<()> {
    let place = format!("`{}` (from {})", display_path(path), tree.origin(inode.origin));
    if let Some(name) = inode.xattrs.keys().next() {
        bail!("cpio cannot hold the extended attribute `{}` of {place}", display_path(name));
    }
    if u32::try_from(inode.mtime).is_err() {
        let time = inode.mtime;
        bail!("cpio cannot hold the time {time} of {place}: it counts seconds from 1970 to 2106");
    }
    if path.len() >= PATH_MAX {
        bail!(
            "cpio cannot hold {place}: its path has {} bytes, the kernel takes {}",
            path.len(),
            PATH_MAX - 1
        );
    }
    match &inode.kind {
        Kind::Symlink(target) if target.is_empty() || target.len() >= PATH_MAX => bail!(
            "cpio cannot hold the symbolic link {place}: its target has {} bytes, the kernel takes {}",
            target.len(),
            PATH_MAX - 1
        ),
        Kind::Symlink(_) if inode.links > 1 => bail!(
            "cpio cannot hold the hard-linked symbolic link {place}: the kernel unpacks one link a name"
        ),
        Kind::File(content) if u32::try_from(content.len()).is_err() => {
            bail!("cpio cannot hold {place}: it has {} bytes, the format takes 4294967295", content.len())
        }
        _ => Ok(()),
    }
}

struct Archive<'w, W: Write> {
    out: &'w mut W,
    written: u64,
    /// Of file data.
    alignment: u64,
}

impl<W: Write> Archive<'_, W> {
    /// One name. The data of a hard-linked file goes with its last name, as
    /// GNU cpio and gen_init_cpio write it; the kernel takes any place.
    fn member(&mut self, entry: &Entry, ino: u32, last_name: bool) -> Result<()> {
        let Inode { mode, uid, gid, mtime, kind, links, .. } = entry.inode;
        let nlink = if matches!(kind, Kind::Directory(_)) { 2 } else { *links };
        let device = match kind {
            Kind::CharDevice(device) | Kind::BlockDevice(device) => *device,
            _ => Device { major: 0, minor: 0 },
        };
        let size = match kind {
            Kind::File(content) if last_name => u32::try_from(content.len())?,
            Kind::Symlink(target) => u32::try_from(target.len())?,
            _ => 0,
        };
        let name: &[u8] = if entry.path.is_empty() { b"." } else { &entry.path };
        let data_at = self.written + (HEADER_LEN + name.len() + 1) as u64;
        let nuls = 1 + if matches!(kind, Kind::File(_)) && self.alignment > MEMBER_ALIGNMENT {
            padding(data_at, self.alignment)
        } else {
            0
        };
        let mode = kind.file_type_bits() | u32::from(*mode);
        let fields = [
            ino,
            mode,
            *uid,
            *gid,
            nlink,
            u32::try_from(*mtime)?,
            size,
            0,
            0,
            device.major,
            device.minor,
            u32::try_from(name.len() + nuls)?,
            0,
        ];
        self.header(&fields, name, nuls)?;
        match kind {
            Kind::File(content) if last_name => {
                let copied = io::copy(&mut content.open()?, self.out)?;
                if copied != u64::from(size) {
                    bail!("content has {copied} bytes, not {size}");
                }
                self.written += copied;
            }
            Kind::Symlink(target) => self.put(target)?,
            _ => {}
        }
        Ok(self.pad(MEMBER_ALIGNMENT)?)
    }

    fn header(&mut self, fields: &[u32; 13], name: &[u8], nuls: usize) -> io::Result<()> {
        let mut header = String::with_capacity(HEADER_LEN);
        header.push_str("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        self.put(header.as_bytes())?;
        self.put(name)?;
        self.put(&[0; ARCHIVE_ALIGNMENT][..nuls])?;
        self.pad(MEMBER_ALIGNMENT)
    }

    fn finish(mut self) -> io::Result<()> {
        let mut fields = [0; 13];
        fields[4] = 1;
        fields[11] = TRAILER.len() as u32 + 1;
        self.header(&fields, TRAILER, 1)?;
        self.pad(ARCHIVE_ALIGNMENT as u64)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self, alignment: u64) -> io::Result<()> {
        self.put(&[0; ARCHIVE_ALIGNMENT][..padding(self.written, alignment)])
    }
}
