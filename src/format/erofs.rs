//! EROFS, the other format of the live root, written by mkfs.erofs.
//!
//! mkfs.erofs reads a directory (tar streams only from version 1.7 on, which
//! Debian bookworm has not), but owners, modes, devices and capabilities of a tree
//! must not touch the host's disk, where a plain user could not make them anyway.
//! So a scratch directory holds names, contents and times, every special file
//! as an empty one, and fakeroot(1) answers mkfs.erofs's questions about the rest
//! from a list of ours. Compressed with LZ4, the one compressor bookworm's kernel
//! and mkfs.erofs share; the order of files is mkfs.erofs's own. What the two
//! programs would cut off or lose, [`write()`] refuses by path.

mod check;
mod clusters;
mod inode;
mod read;
mod superblock;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::host::{Tool, find_tool};
use crate::tree::{Content, Device, Inode, InodeId, Kind, Tree, display_path};

pub use read::{Entry, Reader};
pub use superblock::{HEAD, Parameters, is_erofs, parameters};

/// What the programs are needed for, in messages.
const PURPOSE: &str = "writing an EROFS image";
/// Nothing mounts by it, and a random one would change every image.
const UUID: &str = "00000000-0000-0000-0000-000000000000";
/// lz4hc's levels start here; below is plain lz4.
const FIRST_HC_LEVEL: u32 = 3;

/// Sizes of a compressed cluster mkfs.erofs and the kernel take (bytes).
pub const CLUSTER_SIZES: std::ops::RangeInclusive<u32> = 4096..=1 << 20;

/// How an image is written.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// 1 and 2 are plain lz4, 3 to 12 lz4hc.
    pub level: u32,
    /// Largest compressed cluster in bytes, one of [`CLUSTER_SIZES`], a multiple of 4096.
    pub cluster_size: u32,
    /// The superblock's time and the latest of any file, seconds since 1970-01-01 UTC.
    pub timestamp: i64,
}

/// Writes the tree as the new file `out`; `work` is an empty directory for scratch files.
///
/// # Errors
/// Missing programs by package, what mkfs.erofs refuses, an image that
/// fsck.erofs finds damaged, a full disk; the first file that cannot be carried.
pub fn write(tree: &Tree, options: &Options, work: &Path, out: &Path) -> Result<()> {
    let Options { level, cluster_size, timestamp } = *options;
    ensure!(
        CLUSTER_SIZES.contains(&cluster_size) && cluster_size.is_multiple_of(4096),
        "cluster size {cluster_size} is no multiple of 4096 up to 1 MiB"
    );
    check::check(tree)?;
    let mkfs = find_tool("mkfs.erofs", PURPOSE)?;
    let fakeroot = Tool::new("fakeroot", PURPOSE)?;
    let out = std::path::absolute(out).context("finding the current directory")?;
    let scratch = Scratch::write(tree, work)?;
    let mut tool = fakeroot.current_dir(work).args(["-i", STATE, "--"]);
    if !scratch.xattrs.is_empty() {
        // They live and die with this one fakeroot session.
        let setfattr = find_tool("setfattr", PURPOSE)?;
        tool =
            tool.args(["sh", "-c", "\"$1\" -h --restore=xattrs && shift && exec \"$@\"", "sh"]).arg(setfattr);
    }
    let compressor = if level < FIRST_HC_LEVEL { "-zlz4".to_string() } else { format!("-zlz4hc,{level}") };
    tool.env("SOURCE_DATE_EPOCH", timestamp.to_string())
        .arg(mkfs)
        .args(["--quiet", &compressor, &format!("-C{cluster_size}"), "-Eztailpacking", "-U", UUID])
        .arg(&out)
        .arg(ROOT)
        .output()?;
    Tool::new("fsck.erofs", PURPOSE)?.arg("--extract").arg(&out).output().context("checking the image")?;
    Ok(())
}

const ROOT: &str = "root";
const STATE: &str = "state";
const XATTRS: &str = "xattrs";

/// The tree on disk, as far as a plain user can have it there.
struct Scratch {
    root: PathBuf,
    /// Host path of every inode's first name.
    first: BTreeMap<InodeId, PathBuf>,
    /// fakeroot's list: one line an inode.
    state: String,
    /// As `getfattr --dump` prints them.
    xattrs: Vec<u8>,
}

impl Scratch {
    fn write(tree: &Tree, work: &Path) -> Result<Scratch> {
        let root = work.join(ROOT);
        let mut scratch = Scratch { root, first: BTreeMap::new(), state: String::new(), xattrs: Vec::new() };
        for entry in tree.walk() {
            scratch
                .make(entry.id, entry.inode, &entry.path)
                .with_context(|| format!("copying /{} to {}", display_path(&entry.path), work.display()))?;
        }
        // A directory's time and a file's number of links change until all names are there.
        for (id, path) in &scratch.first {
            set_time(path, tree.inode(*id).mtime).with_context(|| format!("in {}", work.display()))?;
            let line = state_line(path, tree.inode(*id)).with_context(|| format!("in {}", work.display()))?;
            scratch.state.push_str(&line);
        }
        fs::write(work.join(STATE), &scratch.state).context("writing fakeroot's list")?;
        fs::write(work.join(XATTRS), &scratch.xattrs).context("writing the list of xattrs")?;
        Ok(scratch)
    }

    fn make(&mut self, id: InodeId, inode: &Inode, path: &[u8]) -> Result<()> {
        let host = self.root.join(OsStr::from_bytes(path));
        if let Some(first) = self.first.get(&id) {
            return Ok(fs::hard_link(first, &host)?);
        }
        match &inode.kind {
            Kind::Directory(_) => fs::create_dir(&host)?,
            Kind::File(content) => copy(content, &host)?,
            Kind::Symlink(target) => symlink(OsStr::from_bytes(target), &host)?,
            _ => drop(File::create_new(&host)?),
        }
        self.first.insert(id, host);
        if !inode.xattrs.is_empty() {
            self.xattrs.extend(dump(path, inode));
        }
        Ok(())
    }
}

fn copy(content: &Content, host: &Path) -> Result<()> {
    let copied = io::copy(&mut content.open()?, &mut File::create_new(host)?)?;
    ensure!(copied == content.len(), "{content}: {copied} bytes were read");
    Ok(())
}

fn set_time(path: &Path, seconds: i64) -> Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).context("setting a file's time")
}

/// One inode as fakeroot saves and loads it.
fn state_line(path: &Path, inode: &Inode) -> Result<String> {
    let found = fs::symlink_metadata(path).context("reading a file's inode number")?;
    let rdev = match inode.kind {
        Kind::CharDevice(Device { major, minor }) | Kind::BlockDevice(Device { major, minor }) => {
            rustix::fs::makedev(major, minor)
        }
        _ => 0,
    };
    Ok(format!(
        "dev={:x},ino={},mode={:o},uid={},gid={},nlink={},rdev={rdev}\n",
        found.dev(),
        found.ino(),
        inode.kind.file_type_bits() | u32::from(inode.mode),
        inode.uid,
        inode.gid,
        found.nlink()
    ))
}

/// One file's xattrs in the form `setfattr --restore` reads.
fn dump(path: &[u8], inode: &Inode) -> Vec<u8> {
    let mut text = format!("# file: {ROOT}/{}\n", escaped(path));
    for (name, value) in &inode.xattrs {
        text.push_str(&escaped(name));
        text.push_str("=0x");
        value.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a String takes everything"));
        text.push('\n');
    }
    text.push('\n');
    text.into_bytes()
}

/// Bytes that would end a name, and those beyond ASCII, as a backslash and three octal digits.
fn escaped(name: &[u8]) -> String {
    name.iter()
        .map(|&byte| match byte {
            b'\\' | b'=' | 0..=0x20 | 0x7f.. => format!("\\{byte:03o}"),
            byte => char::from(byte).to_string(),
        })
        .collect()
}
