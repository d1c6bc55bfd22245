//! FAT images (Microsoft, *FAT32 File System Specification*, 1.03): what the
//! EFI system partition of a medium is written in.
//!
//! The image is sized to its content, with 1 KiB clusters: FAT16 from about
//! 4 MiB, FAT12 below; UEFI 2.10 §13.3.1.1 wants both read from removable media.
//! FAT32 is out of reach on purpose, see [`MAX_SECTORS`]. `fatfs` lays out the
//! file system; this module decides what may enter it. Owners and modes are not
//! carried; anything else FAT has no word for is refused by path and origin.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Write};

use anyhow::{Context, Result, bail, ensure};
use fatfs::{Date, DateTime, Dir, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

use crate::tree::{Content, Inode, InodeId, Kind, Name, Tree, display_path};

/// Bytes per sector.
pub const SECTOR: u64 = 512;

/// An El Torito entry counts its image in 16 bits of 512-byte sectors; xorriso
/// writes 0 for anything longer, which firmware reads as "up to the end".
pub const MAX_SECTORS: u64 = 65_535;

const CLUSTER: u64 = 1024;
const DIRECTORY_ENTRY: u64 = 32;
const ROOT_ENTRIES: u64 = 512;
/// Room for what firmware or a user adds later (OVMF's `NvVars`, an edited menu).
const SLACK: u64 = 128 << 10;
const ROUND_TO: u64 = 256 << 10;

/// What an image carries besides its files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Volume label, 1 to 11 of `[A-Z0-9_-]`.
    pub label: String,
    /// Volume serial number.
    pub volume_id: u32,
    /// The time of every file, seconds since 1970-01-01 UTC; FAT begins in 1980.
    pub timestamp: i64,
}

/// Writes the tree as a FAT image. Every byte of the image is written, so
/// nothing of what `out` held before survives within its length.
///
/// # Errors
/// Names and file types FAT does not carry, content of more than
/// [`MAX_SECTORS`], unreadable content, and failures of `out`.
pub fn write(tree: &Tree, options: &Options, out: &mut impl Write) -> Result<()> {
    let label = padded_label(&options.label)?;
    check(tree)?;
    let clock = fixed_clock(options.timestamp);
    let mut size = image_size(tree)?;
    let mut image = loop {
        let mut image = Cursor::new(vec![0; usize::try_from(size).context("sizing the FAT image")?]);
        let format = FormatVolumeOptions::new()
            .bytes_per_cluster(CLUSTER as u32)
            .volume_id(options.volume_id)
            .volume_label(label);
        match fatfs::format_volume(&mut image, format) {
            Ok(()) => break image,
            // Between the largest FAT12 and the smallest FAT16 lie sizes that are neither.
            Err(_) if size + ROUND_TO <= MAX_SECTORS * SECTOR => size += ROUND_TO,
            Err(e) => return Err(e).context("formatting the FAT image"),
        }
    };
    let fs = FileSystem::new(&mut image, FsOptions::new().time_provider(clock))
        .context("opening the new FAT image")?;
    fill(tree, Tree::ROOT, &fs.root_dir(), "")?;
    fs.unmount().context("closing the FAT image")?;
    out.write_all(image.get_ref()).context("writing the FAT image")
}

fn fill(tree: &Tree, directory: InodeId, into: &Dir<'_, &mut Cursor<Vec<u8>>>, above: &str) -> Result<()> {
    for (name, id, inode) in children(tree, directory) {
        let name = std::str::from_utf8(name.as_bytes()).context("a name is not UTF-8")?;
        let path = format!("{above}/{name}");
        match &inode.kind {
            Kind::Directory(_) => {
                let new = into.create_dir(name).with_context(|| format!("making {path} in the FAT image"))?;
                fill(tree, id, &new, &path)?;
            }
            Kind::File(content) => {
                copy(content, into, name).with_context(|| format!("writing {path} into the FAT image"))?;
            }
            other => bail!("FAT cannot hold the {} `{path}`", other.word()),
        }
    }
    Ok(())
}

fn copy(content: &Content, into: &Dir<'_, &mut Cursor<Vec<u8>>>, name: &str) -> Result<()> {
    let mut file = into.create_file(name)?;
    let copied = io::copy(&mut content.open()?, &mut file)?;
    ensure!(copied == content.len(), "{content}: {copied} bytes were read");
    file.flush()?;
    Ok(())
}

fn children(tree: &Tree, directory: InodeId) -> impl Iterator<Item = (&Name, InodeId, &Inode)> {
    tree.entries(directory).into_iter().flatten().map(|(name, &id)| (name, id, tree.inode(id)))
}

/// Refuses what FAT cannot carry, by path and origin.
fn check(tree: &Tree) -> Result<()> {
    let mut seen = BTreeSet::new();
    let mut folded: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for entry in tree.walk().skip(1) {
        let from = || format!("`/{}` (from {})", display_path(&entry.path), tree.origin(entry.inode.origin));
        let what = match &entry.inode.kind {
            Kind::Symlink(_) => Some("the symlink"),
            Kind::CharDevice(_) | Kind::BlockDevice(_) => Some("the device node"),
            Kind::Fifo => Some("the named pipe"),
            Kind::Socket => Some("the socket"),
            Kind::File(_) if !seen.insert(entry.id) => Some("the hard link"),
            Kind::File(_) | Kind::Directory(_) => None,
        };
        if let Some(what) = what {
            bail!("FAT cannot hold {what} {}", from());
        }
        if !entry.inode.xattrs.is_empty() {
            bail!("FAT cannot hold the extended attributes of {}", from());
        }
        let last = entry.path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        if let Some(reason) = bad_name(last) {
            bail!("FAT cannot hold {}: its name {reason}", from());
        }
        let upper = String::from_utf8_lossy(&entry.path).to_uppercase();
        if let Some(other) = folded.insert(upper, entry.path.clone()) {
            bail!("FAT cannot hold {} beside `/{}`: it ignores case", from(), display_path(&other));
        }
    }
    Ok(())
}

/// Why FAT, or `fatfs`, does not take this name.
fn bad_name(name: &[u8]) -> Option<String> {
    let Ok(text) = std::str::from_utf8(name) else {
        return Some("is not UTF-8".to_string());
    };
    if text.ends_with(['.', ' ']) || text.starts_with(' ') {
        return Some("begins or ends with a blank or ends with a dot".to_string());
    }
    let allowed = |c: char| {
        c.is_ascii_alphanumeric()
            || "$%'-_@~`!(){}. +,;=[]^#&".contains(c)
            || ('\u{a0}'..='\u{ffff}').contains(&c)
    };
    text.chars().find(|&c| !allowed(c)).map(|c| format!("contains `{}`", c.escape_default()))
}

/// Bytes of an image that holds the tree, a multiple of [`ROUND_TO`] where that fits.
fn image_size(tree: &Tree) -> Result<u64> {
    let mut clusters = SLACK / CLUSTER;
    for entry in tree.walk() {
        let bytes = match &entry.inode.kind {
            Kind::File(content) => content.len(),
            // `.` and `..`, then per name the short entry and one for every 13 characters.
            _ => children(tree, entry.id)
                .map(|(name, ..)| (1 + (name.as_bytes().len() as u64).div_ceil(13)) * DIRECTORY_ENTRY)
                .fold(2 * DIRECTORY_ENTRY, |sum, bytes| sum + bytes),
        };
        clusters = clusters.checked_add(bytes.div_ceil(CLUSTER)).context("adding up the FAT image")?;
    }
    let one_fat = ((clusters + 2) * 2).next_multiple_of(SECTOR);
    let bytes = SECTOR + 2 * one_fat + ROOT_ENTRIES * DIRECTORY_ENTRY + clusters * CLUSTER;
    let limit = MAX_SECTORS * SECTOR;
    ensure!(
        bytes <= limit,
        "the files of the FAT image need {bytes} bytes, but a CD's EFI boot image may have {limit}; \
         keep the kernel and the initramfs out of it"
    );
    Ok(bytes.next_multiple_of(ROUND_TO).min(limit))
}

fn padded_label(label: &str) -> Result<[u8; 11]> {
    let legal = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    ensure!(
        (1..=11).contains(&label.len()) && label.bytes().all(legal),
        "`{label}` is no FAT volume label: it wants 1 to 11 of A-Z, 0-9, `_` and `-`"
    );
    let mut padded = [b' '; 11];
    padded[..label.len()].copy_from_slice(label.as_bytes());
    Ok(padded)
}

/// A clock that stands still.
#[derive(Debug)]
struct Stopped(DateTime);

impl TimeProvider for Stopped {
    fn get_current_date(&self) -> Date {
        self.0.date
    }

    fn get_current_date_time(&self) -> DateTime {
        self.0
    }
}

/// `fatfs` keeps its clock for ever, so the few bytes are given up for good.
fn fixed_clock(timestamp: i64) -> &'static Stopped {
    Box::leak(Box::new(Stopped(dos_time(timestamp))))
}

/// The nearest moment FAT can say: from 1980 to 2107, in steps of two seconds, in UTC.
fn dos_time(timestamp: i64) -> DateTime {
    let civil = crate::format::civil_time(timestamp.clamp(315_532_800, 4_354_819_198));
    DateTime {
        date: Date { year: civil.year as u16, month: civil.month.into(), day: civil.day.into() },
        time: Time {
            hour: civil.hour.into(),
            min: civil.minute.into(),
            sec: u16::from(civil.second) & !1,
            millis: 0,
        },
    }
}
