//! `liveiso dev`: parts of the program on their own, for measuring and for oracles.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::builder::PossibleValuesParser;

use crate::format::squashfs::{BlockCache, Options, default_level, write};
use crate::plan::Compression;
use crate::tree::{Content, Device, Kind, Meta, OriginId, Tree, display_path, read_tar};

/// Write a directory or an uncompressed tar archive as a squashfs image, with
/// owners, modes and times as they are there; only POSIX ACLs of a directory,
/// which squashfs cannot hold, are left out
#[derive(Debug, clap::Args)]
pub struct SquashfsArgs {
    /// Directory or uncompressed tar archive to read
    #[arg(value_name = "DIR|TAR")]
    source: PathBuf,
    /// Image to write
    #[arg(value_name = "OUT")]
    out: PathBuf,
    /// Compressor
    #[arg(long, value_name = "C", default_value = "gzip", value_parser = PossibleValuesParser::new(["gzip", "xz", "zstd", "lz4", "lzo"]))]
    compression: String,
    /// The compressor's own level
    #[arg(long, value_name = "N")]
    level: Option<u32>,
    /// Bytes of a data block, 4K to 1M
    #[arg(long, value_name = "SIZE", default_value = "128K", value_parser = parse_size)]
    block_size: u32,
    /// Compressing threads; all cores when not given
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Directory of compressed blocks of earlier runs
    #[arg(long, value_name = "DIR")]
    block_cache: Option<PathBuf>,
}

/// The block cache of `liveiso dev squashfs` keeps this much (bytes).
const BLOCK_CACHE_SIZE: u64 = 8 << 30;

/// Runs `liveiso dev squashfs` and prints the summary as JSON.
///
/// # Errors
/// What cannot be read, carried or written.
pub fn squashfs(args: &SquashfsArgs) -> Result<()> {
    write_tree(&read_source(args)?, args)
}

/// Writes a tree as these arguments say and prints the summary as JSON.
///
/// # Errors
/// What cannot be read, carried or written.
pub fn write_tree(tree: &Tree, args: &SquashfsArgs) -> Result<()> {
    let compression = match args.compression.as_str() {
        "gzip" => Compression::Gzip,
        "xz" => Compression::Xz,
        "zstd" => Compression::Zstd,
        "lz4" => Compression::Lz4,
        _ => Compression::Lzo,
    };
    let defaults = Options::new(compression);
    let block_cache =
        args.block_cache.as_ref().map(|dir| BlockCache::open(dir, BLOCK_CACHE_SIZE)).transpose()?;
    let options = Options {
        level: args.level.unwrap_or_else(|| default_level(compression)),
        block_size: args.block_size,
        jobs: args.jobs.unwrap_or(defaults.jobs),
        timestamp: tree.walk().map(|e| e.inode.mtime).max().unwrap_or_default(),
        block_cache: block_cache.as_ref(),
        ..defaults
    };
    let out = File::create(&args.out).with_context(|| format!("creating {}", args.out.display()))?;
    let summary = write(tree, &options, out).with_context(|| format!("writing {}", args.out.display()))?;
    println!("{}", serde_json::to_string(&summary).context("printing the summary")?);
    Ok(())
}

/// The tree these arguments name, without POSIX ACLs.
///
/// # Errors
/// What cannot be read, by path.
pub fn read_source(args: &SquashfsArgs) -> Result<Tree> {
    let source = &args.source;
    let metadata = fs::metadata(source).with_context(|| format!("reading {}", source.display()))?;
    if metadata.is_dir() {
        let mut tree = read_directory(source)?;
        drop_acls(&mut tree);
        return Ok(tree);
    }
    ensure!(metadata.is_file(), "{} is neither a directory nor a tar archive", source.display());
    let mut tree = Tree::new();
    read_tar(&mut tree, source, &source.display().to_string())
        .context("reading a tar archive; a compressed one must be uncompressed first")?;
    Ok(tree)
}

/// Removes POSIX ACLs, which squashfs cannot hold and real roots have (systemd's journal), and says so.
fn drop_acls(tree: &mut Tree) {
    let is_acl = |name: &[u8]| name.starts_with(b"system.posix_acl_");
    let with_acls: Vec<_> = tree
        .walk()
        .filter(|e| e.inode.xattrs.keys().any(|name| is_acl(name)))
        .map(|e| (e.id, display_path(&e.path)))
        .collect();
    for (id, path) in with_acls {
        eprintln!("warning: squashfs cannot hold the ACL of `/{path}`; left out");
        tree.inode_mut(id).xattrs.retain(|name, _| !is_acl(name));
    }
}

/// `4096`, `128K` or `1M`.
fn parse_size(text: &str) -> Result<u32> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    let number: u32 = digits.parse().context("a size is a number, optionally with K or M")?;
    number.checked_mul(unit).context("this size is too large")
}

/// A host directory as it is on disk: owners, modes, times, xattrs, hard links
/// and devices included. For a build nothing of this may be read; it has its own scan.
///
/// # Errors
/// What cannot be read, by path.
pub fn read_directory(dir: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    let origin = tree.add_origin(dir.display().to_string());
    let mut scan = Scan { tree, origin, linked: HashMap::new() };
    let mut pending = vec![(dir.to_path_buf(), Vec::new())];
    while let Some((host, path)) = pending.pop() {
        let metadata = fs::symlink_metadata(&host).with_context(|| format!("reading {}", host.display()))?;
        scan.add(&host, &path, &metadata).with_context(|| format!("reading {}", host.display()))?;
        if metadata.is_dir() {
            let mut names = fs::read_dir(&host)
                .and_then(|entries| entries.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>())
                .with_context(|| format!("reading {}", host.display()))?;
            names.sort_by(|a, b| b.cmp(a));
            for name in names {
                let below = if path.is_empty() { vec![] } else { [&path[..], b"/"].concat() };
                pending.push((host.join(&name), [&below[..], name.as_bytes()].concat()));
            }
        }
    }
    Ok(scan.tree)
}

struct Scan {
    tree: Tree,
    origin: OriginId,
    /// First path of every file that has several, by device and inode number.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

impl Scan {
    fn add(&mut self, host: &Path, path: &[u8], metadata: &Metadata) -> Result<()> {
        if !metadata.is_dir() && metadata.nlink() > 1 {
            let key = (metadata.dev(), metadata.ino());
            if let Some(first) = self.linked.get(&key) {
                self.tree.add_hard_link(path, first, self.origin)?;
                return Ok(());
            }
            self.linked.insert(key, path.to_vec());
        }
        let meta = Meta {
            mode: (metadata.mode() & 0o7777) as u16,
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: metadata.mtime(),
        };
        let id = self.tree.insert(path, kind(host, metadata)?, meta, self.origin)?;
        self.tree.inode_mut(id).xattrs = xattrs(host)?.into_iter().collect();
        Ok(())
    }
}

fn kind(host: &Path, metadata: &Metadata) -> Result<Kind> {
    let file_type = metadata.file_type();
    let device =
        || Device { major: rustix::fs::major(metadata.rdev()), minor: rustix::fs::minor(metadata.rdev()) };
    Ok(match file_type {
        t if t.is_dir() => Kind::Directory(Default::default()),
        t if t.is_file() => Kind::File(Content::file(host, metadata.len())),
        t if t.is_symlink() => Kind::Symlink(fs::read_link(host)?.into_os_string().into_vec()),
        t if t.is_char_device() => Kind::CharDevice(device()),
        t if t.is_block_device() => Kind::BlockDevice(device()),
        t if t.is_fifo() => Kind::Fifo,
        t if t.is_socket() => Kind::Socket,
        _ => bail!("unknown file type"),
    })
}

fn xattrs(host: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // Linux's XATTR_LIST_MAX and XATTR_SIZE_MAX.
    let mut buffer = [0; 64 << 10];
    let length = match rustix::fs::llistxattr(host, &mut buffer[..]) {
        Ok(length) => length,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(e) => return Err(e).context("listing xattrs"),
    };
    let names: Vec<Vec<u8>> =
        buffer[..length].split(|&b| b == 0).filter(|n| !n.is_empty()).map(<[u8]>::to_vec).collect();
    names
        .into_iter()
        .map(|name| {
            let length = rustix::fs::lgetxattr(host, &name[..], &mut buffer[..])
                .with_context(|| format!("reading xattr {}", String::from_utf8_lossy(&name)))?;
            Ok((name, buffer[..length].to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("4096", Some(4096)),
            ("128K", Some(128 << 10)),
            ("1M", Some(1 << 20)),
            ("8192M", None),
            ("K", None),
        ] {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
    }
}
