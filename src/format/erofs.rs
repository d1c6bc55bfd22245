//! EROFS, the other format of the live root, written by mkfs.erofs.
//!
//! mkfs.erofs reads a directory (tar streams only from version 1.7 on, which
//! Debian bookworm has not), but owners, modes, devices and capabilities of a tree
//! must not touch the host's disk, where a plain user could not make them anyway.
//! So a scratch directory holds names, contents and times, every special file
//! as an empty one, and fakeroot(1) answers mkfs.erofs's questions about the rest
//! from a list of ours. Compressed with LZ4, the one compressor bookworm's kernel
//! and mkfs.erofs share; the order of files is mkfs.erofs's own. What the two
//! programs would cut off or lose, [`write`] refuses by path.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::host::{Tool, find_tool};
use crate::tree::{Content, Device, Inode, InodeId, Kind, Tree, display_path};

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
    check(tree)?;
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

/// mkfs.erofs 1.5 cuts longer names off.
const MAX_NAME: usize = 254;
/// Linux follows no longer link (`PATH_MAX` less the NUL).
const MAX_TARGET: usize = 4095;
/// Device numbers as the kernel reads them from the image: 12 and 20 bits.
const MAX_DEVICE: Device = Device { major: (1 << 12) - 1, minor: (1 << 20) - 1 };
/// An attribute's name, a NUL and its value in fakeroot's messages; also all names of a file.
const MAX_XATTR: usize = 1024;
/// Names the image has numbers for.
const XATTR_NAMES: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
const XATTR_PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

fn check(tree: &Tree) -> Result<()> {
    for entry in tree.walk() {
        if let Some(reason) = refusal(&entry.path, entry.inode) {
            let origin = tree.origin(entry.inode.origin);
            bail!(
                "mkfs.erofs cannot hold `/{}` (from {origin}): {reason}, or take `format = \"squashfs\"`",
                display_path(&entry.path)
            );
        }
    }
    Ok(())
}

/// Why a file cannot be carried and what to do, as the first half of a sentence.
fn refusal(path: &[u8], inode: &Inode) -> Option<String> {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    if name.len() > MAX_NAME {
        return Some(format!("its name has {} bytes, more than {MAX_NAME}; shorten it", name.len()));
    }
    if [inode.uid, inode.gid].contains(&u32::MAX) {
        return Some(format!("{} is no owner or group to Linux; choose another", u32::MAX));
    }
    match &inode.kind {
        Kind::Symlink(target) if target.is_empty() || target.len() > MAX_TARGET => {
            return Some(format!("its target has {} bytes, not 1 to {MAX_TARGET}; change it", target.len()));
        }
        Kind::CharDevice(d) | Kind::BlockDevice(d)
            if d.major > MAX_DEVICE.major || d.minor > MAX_DEVICE.minor =>
        {
            let Device { major, minor } = MAX_DEVICE;
            return Some(format!(
                "device number {}:{} is above {major}:{minor}; change it",
                d.major, d.minor
            ));
        }
        _ => {}
    }
    let names: usize = inode.xattrs.keys().map(|name| name.len() + 1).sum();
    if names > MAX_XATTR {
        return Some(format!(
            "the names of its xattrs have {names} bytes, more than {MAX_XATTR}; remove some"
        ));
    }
    inode.xattrs.iter().find_map(|(name, value)| xattr_refusal(name, value))
}

fn xattr_refusal(name: &[u8], value: &[u8]) -> Option<String> {
    let shown = display_path(name);
    let is_known = XATTR_NAMES.contains(&name)
        || XATTR_PREFIXES.iter().any(|prefix| name.len() > prefix.len() && name.starts_with(prefix));
    if !is_known || name.contains(&0) {
        let allowed = "`user.`, `trusted.`, `security.` and POSIX ACLs can be stored";
        return Some(format!("xattr `{shown}`: only {allowed}; remove it"));
    }
    let size = name.len() + 1 + value.len();
    (size > MAX_XATTR).then(|| {
        format!("xattr `{shown}` has {size} bytes with its name, more than fakeroot's {MAX_XATTR}; remove it")
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::parse_listing;

    #[test]
    fn refusals_name_path_origin_reason_and_remedy() {
        let long = "n".repeat(255);
        let many: String = (0..103).map(|n| format!(" xattr.user.n{n:03}=")).collect();
        for (line, reason) in [
            (format!("file /{long} 0644 0 0"), "its name has 255 bytes, more than 254; shorten it"),
            (
                "file /f 0644 0 4294967295".to_string(),
                "4294967295 is no owner or group to Linux; choose another",
            ),
            (
                format!("slink /f 0777 0 0 {}", "t".repeat(4096)),
                "its target has 4096 bytes, not 1 to 4095; change it",
            ),
            ("nod /f 0600 0 0 c 4096 1".to_string(), "device number 4096:1 is above 4095:1048575; change it"),
            (
                format!("file /f 0644 0 0{many}"),
                "the names of its xattrs have 1030 bytes, more than 1024; remove some",
            ),
            (
                "file /f 0644 0 0 xattr.system.nfs4_acl=00".to_string(),
                "xattr `system.nfs4_acl`: only `user.`, `trusted.`, `security.` and POSIX ACLs can be stored; remove it",
            ),
            (
                format!("file /f 0644 0 0 xattr.user.a={}", "00".repeat(1018)),
                "xattr `user.a` has 1025 bytes with its name, more than fakeroot's 1024; remove it",
            ),
        ] {
            let name = if line.contains(&long) { &long } else { "f" };
            let error = check(&parse_listing(&line).unwrap()).unwrap_err().to_string();
            let expected = format!(
                "mkfs.erofs cannot hold `/{name}` (from listing): {reason}, or take `format = \"squashfs\"`"
            );
            assert_eq!(error, expected);
        }
        let fits = format!(
            "nod /d 0600 0 0 b 4095 1048575\nfile /f 0644 0 0 xattr.user.a={}\nfile /{} 0644 0 0 \
             xattr.system.posix_acl_access=02",
            "00".repeat(1017),
            "n".repeat(254)
        );
        check(&parse_listing(&fits).unwrap()).unwrap();
    }
}
