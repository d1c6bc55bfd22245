//! Tar archives read into a tree.
//!
//! Reads the ustar, PAX (POSIX.1-2017, pax Interchange Format) and GNU headers
//! that dpkg-deb, GNU tar and mmdebstrap write. The archive is an uncompressed
//! file on disk; the bytes of its members stay there and the tree refers to
//! them by offset. The `tar` crate iterates and checks the headers; what stands
//! before a member about it is read by `pax`.
//!
//! Refused, by path and origin: sparse members, volume headers and other types
//! no file has, ACLs, and archives that end early. Access and change times,
//! user and group names are left out on purpose.

mod pax;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tar::{Entry, EntryType};

use self::pax::Extensions;
use super::{Content, Device, Kind, Meta, OriginId, Tree, display_path};

/// Linux takes no longer path or link target (bytes, `PATH_MAX` less the NUL).
const MAX_PATH: usize = 4095;
const BLOCK: u64 = 512;

/// Reads the uncompressed tar archive at `path` into `tree`, over what is
/// there already; `origin` names it in messages. The file must stay as it is
/// while the tree lives.
///
/// # Errors
/// A damaged archive, a member no tree carries or that would leave it, a
/// conflict with what the tree has; each with member path and origin.
pub fn read_tar(tree: &mut Tree, path: &Path, origin: &str) -> Result<()> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let length = file.metadata().with_context(|| format!("reading {}", path.display()))?.len();
    let id = tree.add_origin(origin);
    let backing = Arc::new(path.to_path_buf());
    let reader = Reader { tree, origin: id, backing, length, end: 0, pending: Extensions::default() };
    reader.read(file).with_context(|| format!("reading {origin} from {}", path.display()))
}

struct Reader<'t> {
    tree: &'t mut Tree,
    origin: OriginId,
    backing: Arc<PathBuf>,
    /// Size of the archive in bytes.
    length: u64,
    /// First byte after the last member.
    end: u64,
    pending: Extensions,
}

impl Reader<'_> {
    fn read(mut self, file: File) -> Result<()> {
        let mut archive = tar::Archive::new(&file);
        let entries = archive.entries_with_seek().context("reading the first header")?.raw(true);
        for entry in entries {
            let mut entry = entry.with_context(|| format!("reading the header at byte {}", self.end))?;
            self.check_extent(&entry)?;
            if self.pending.take(&mut entry, self.end)? {
                continue;
            }
            let extensions = std::mem::take(&mut self.pending);
            let path = extensions.path.clone().unwrap_or_else(|| entry.header().path_bytes().into_owned());
            self.add(&entry, &path, extensions)
                .with_context(|| format!("adding `{}`", display_path(&path)))?;
        }
        ensure!(!self.pending.any, "the archive ends where a name or attribute announced a file");
        self.check_end(&file)
    }

    /// The member's bytes must lie inside the archive.
    fn check_extent(&mut self, entry: &Entry<'_, impl Read>) -> Result<()> {
        let (start, size) = (entry.raw_file_position(), entry.size());
        let end = start.checked_add(size).and_then(|end| end.checked_next_multiple_of(BLOCK));
        match end.filter(|&end| end <= self.length) {
            Some(end) => self.end = end,
            None => bail!(
                "`{}` claims {size} bytes at byte {start}, yet the archive has {} bytes; it is cut short or damaged",
                display_path(&entry.path_bytes()),
                self.length
            ),
        }
        Ok(())
    }

    /// After the last member stands a block of zeros; without it the archive was cut.
    fn check_end(&self, file: &File) -> Result<()> {
        let mut block = [0xff; BLOCK as usize];
        let complete = file.read_exact_at(&mut block, self.end).is_ok() && block == [0; BLOCK as usize];
        ensure!(complete, "the archive has no end mark at byte {}; it is cut short or damaged", self.end);
        Ok(())
    }

    fn add(&mut self, entry: &Entry<'_, impl Read>, path: &[u8], extensions: Extensions) -> Result<()> {
        ensure!(path.len() <= MAX_PATH, "its path is longer than {MAX_PATH} bytes");
        if let Some(refusal) = extensions.refusal {
            bail!(refusal);
        }
        let header = entry.header();
        if let Some(size) = extensions.size {
            ensure!(
                size == entry.size(),
                "its two headers disagree about its size ({} and {size} bytes); files of 8 GiB and more are not supported",
                entry.size()
            );
        }
        let meta = Meta {
            mode: (header.mode().context("reading its mode")? & 0o7777) as u16,
            uid: owner("user", extensions.uid.map_or_else(|| header.uid(), Ok))?,
            gid: owner("group", extensions.gid.map_or_else(|| header.gid(), Ok))?,
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => {
                    let mtime = header.mtime().context("reading its modification time")?;
                    i64::try_from(mtime).ok().context("its modification time is out of range")?
                }
            },
        };
        let link = extensions.link.or_else(|| header.link_name_bytes().map(|l| l.into_owned()));
        let id = match self.kind(entry, path, link.unwrap_or_default())? {
            Member::Link(target) => {
                ensure!(entry.size() == 0, "is a hard link with content of its own");
                return self.tree.add_hard_link(path, &target, self.origin).map(drop).map_err(Into::into);
            }
            Member::Own(Kind::Symlink(target)) => self.tree.add_symlink(path, &target, meta, self.origin)?,
            Member::Own(kind) => self.tree.insert(path, kind, meta, self.origin)?,
        };
        self.tree.inode_mut(id).xattrs.extend(extensions.xattrs);
        Ok(())
    }

    fn kind(&self, entry: &Entry<'_, impl Read>, path: &[u8], link: Vec<u8>) -> Result<Member> {
        let header = entry.header();
        let kind = match header.entry_type() {
            // V7 archives mark a directory by its trailing slash only.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory(BTreeMap::new()),
            EntryType::Regular | EntryType::Continuous => {
                let offset = entry.raw_file_position();
                return Ok(Member::Own(Kind::File(if entry.size() == 0 {
                    Content::bytes([])
                } else {
                    Content::Slice { file: self.backing.clone(), offset, length: entry.size() }
                })));
            }
            EntryType::Link => return Ok(Member::Link(link_target(link)?)),
            EntryType::Symlink => Kind::Symlink(link_target(link)?),
            EntryType::Directory => Kind::Directory(BTreeMap::new()),
            EntryType::Char => Kind::CharDevice(device(header)?),
            EntryType::Block => Kind::BlockDevice(device(header)?),
            EntryType::Fifo => Kind::Fifo,
            EntryType::GNUSparse => bail!("is a sparse member; write the archive without --sparse"),
            other => bail!("has type `{}`, which no file has", other.as_byte().escape_ascii()),
        };
        ensure!(entry.size() == 0, "is a {} with content", kind.word());
        Ok(Member::Own(kind))
    }
}

enum Member {
    /// An inode of its own.
    Own(Kind),
    /// A second name for the file at this path.
    Link(Vec<u8>),
}

fn owner(what: &str, id: std::io::Result<u64>) -> Result<u32> {
    let id = id.with_context(|| format!("reading its {what}"))?;
    u32::try_from(id).ok().with_context(|| format!("its {what} {id} does not fit 32 bits"))
}

fn device(header: &tar::Header) -> Result<Device> {
    let number = |n: std::io::Result<Option<u32>>| n.ok().flatten().context("has no device number");
    Ok(Device { major: number(header.device_major())?, minor: number(header.device_minor())? })
}

fn link_target(target: Vec<u8>) -> Result<Vec<u8>> {
    ensure!(!target.is_empty(), "is a link to nothing");
    ensure!(!target.contains(&0), "is a link whose target contains a NUL byte");
    ensure!(target.len() <= MAX_PATH, "is a link whose target is longer than {MAX_PATH} bytes");
    Ok(target)
}

#[cfg(test)]
mod tests;
