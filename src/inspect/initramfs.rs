//! An initramfs of any maker: its parts, how they are compressed, what they hold.
//!
//! `initramfs::unpack` is strict about what our kernels take; this reader takes
//! what others use too and goes on to the next part where it can. Unpacked sizes
//! are bounded.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::squashed;
use super::unpack::unpack;
use crate::format::cpio;
use crate::kmod::normalized_name;
use crate::tree::display_path;

/// More unpacked than this is not looked into (bytes).
pub(super) const MAX_UNPACKED: u64 = 1 << 30;
/// Text files of this size and below are kept.
const MAX_TEXT: usize = 1 << 20;

/// What an initramfs holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Contents {
    /// Its archives in order.
    pub parts: Vec<Part>,
    /// Names of its kernel modules, `_` for `-`, sorted.
    pub modules: BTreeSet<String>,
    /// Kernel releases the modules are for.
    pub releases: BTreeSet<String>,
    /// Whose live system it is: `liveiso`, `live-boot`, `casper`, `archiso`, `dracut`.
    pub system: Option<&'static str>,
    /// Whether `/init` has a line that is exactly `mountroot`.
    pub calls_mountroot: bool,
    /// The build it is of, by liveiso's `/etc/liveiso/id`.
    #[serde(skip)]
    pub id: Option<String>,
    /// Every member but directories, by path.
    #[serde(skip)]
    pub files: BTreeMap<String, Member>,
    /// The image that /init mounts over the rest, by path, until it was read.
    #[serde(skip)]
    image: Option<(String, Vec<u8>)>,
    /// Modules compiled into the kernel, if the initramfs has a list of them.
    #[serde(skip)]
    pub builtin: Option<BTreeSet<String>>,
    /// Every module's dependencies by its `modules.dep`, if it has one.
    #[serde(skip)]
    pub depends: BTreeMap<String, Vec<String>>,
}

/// One archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Part {
    /// `none`, `gzip`, `bzip2`, `xz`, `lzma`, `lzo`, `lz4`, `zstd`.
    pub compression: &'static str,
    /// Bytes in the file.
    pub length: u64,
    /// Bytes when unpacked.
    pub unpacked: u64,
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// `st_mode`.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Bytes.
    pub length: u64,
    /// BLAKE3 of the content or link target.
    pub digest: [u8; 32],
}

/// Reads an initramfs.
///
/// # Errors
/// The first part that is damaged or compressed in a way we cannot read.
pub(super) fn read(bytes: &[u8]) -> Result<Contents> {
    let mut contents = Contents::default();
    let mut at = 0;
    while let Some(zeros) = bytes[at..].iter().position(|&b| b != 0) {
        at += zeros;
        let left = MAX_UNPACKED - contents.parts.iter().map(|part| part.unpacked).sum::<u64>();
        at += part(&bytes[at..], left, &mut contents)
            .with_context(|| format!("initramfs part at byte {at}"))?;
    }
    ensure!(!contents.parts.is_empty(), "the initramfs is empty");
    let left = MAX_UNPACKED - contents.parts.iter().map(|part| part.unpacked).sum::<u64>();
    if let Some((path, image)) = contents.image.take() {
        squashed::add(&image, left, &mut contents).with_context(|| format!("{path} in the initramfs"))?;
    }
    contents.system = contents.live_system();
    Ok(contents)
}

/// Reads the part that begins here; returns its length.
fn part(bytes: &[u8], left: u64, contents: &mut Contents) -> Result<usize> {
    if bytes.starts_with(b"0707") {
        let (members, length) = cpio::members(bytes)?;
        members.iter().for_each(|member| contents.add(member));
        let length64 = length as u64;
        contents.parts.push(Part { compression: "none", length: length64, unpacked: length64 });
        return Ok(length);
    }
    let (compression, length, unpacked) = unpack(bytes, left)?;
    let mut rest = &unpacked[..];
    // One compressed part may hold several archives.
    while let Some(zeros) = rest.iter().position(|&b| b != 0) {
        let (members, length) = cpio::members(&rest[zeros..])?;
        members.iter().for_each(|member| contents.add(member));
        rest = &rest[zeros + length..];
    }
    contents.parts.push(Part { compression, length: length as u64, unpacked: unpacked.len() as u64 });
    Ok(length)
}

impl Contents {
    pub(super) fn add(&mut self, member: &cpio::RawMember<'_>) {
        const DIRECTORY: u32 = 0o040000;
        let path = display_path(member.name);
        let path = path.trim_start_matches("./").trim_start_matches('/').to_string();
        if let Some(below) = path.strip_prefix("usr/lib/modules/").or(path.strip_prefix("lib/modules/")) {
            self.module_file(below, member.data);
        }
        if member.mode & 0o170000 == DIRECTORY {
            return;
        }
        if path == "init" && member.data.len() <= MAX_TEXT {
            self.calls_mountroot = member.data.split(|&b| b == b'\n').any(|line| line == b"mountroot");
        }
        if squashed::is_image(&path, member.data) {
            self.image = Some((path.clone(), member.data.to_vec()));
        }
        if path == "etc/liveiso/id" && member.data.len() <= MAX_TEXT {
            self.id = Some(String::from_utf8_lossy(member.data).trim_end().to_string());
        }
        let digest = *blake3::hash(member.data).as_bytes();
        let length = member.data.len() as u64;
        self.files.insert(path, Member { mode: member.mode, owner: member.owner, length, digest });
    }

    /// A file below `lib/modules`.
    fn module_file(&mut self, path: &str, data: &[u8]) {
        let Some((release, path)) = path.split_once('/') else {
            return;
        };
        let name = path.rsplit('/').next().unwrap_or(path);
        if let Some((name, suffix)) = name.split_once(".ko")
            && matches!(suffix, "" | ".xz" | ".zst" | ".gz")
        {
            self.releases.insert(release.to_string());
            self.modules.insert(normalized_name(name));
        } else if path == "modules.builtin" && data.len() <= MAX_TEXT {
            self.builtin = Some(builtin_names(&String::from_utf8_lossy(data)));
        } else if path == "modules.dep" && data.len() <= MAX_TEXT {
            for line in String::from_utf8_lossy(data).lines() {
                if let Some((module, needed)) = line.split_once(':') {
                    let needed = needed.split_whitespace().map(module_name).collect();
                    self.depends.insert(module_name(module), needed);
                }
            }
        }
    }

    fn live_system(&self) -> Option<&'static str> {
        let marks = [
            ("liveiso", "etc/liveiso/id"),
            ("live-boot", "scripts/live"),
            ("live-boot", "usr/bin/live-boot"),
            ("live-boot", "bin/live-boot"),
            ("casper", "scripts/casper"),
            ("archiso", "hooks/archiso"),
            ("dracut", "usr/sbin/dmsquash-live-root"),
            ("dracut", "sbin/dmsquash-live-root"),
        ];
        marks.iter().find(|(_, path)| self.files.contains_key(*path)).map(|(name, _)| *name)
    }
}

/// Module names of a `modules.builtin`.
pub(super) fn builtin_names(text: &str) -> BTreeSet<String> {
    text.lines().map(|line| module_name(line.trim())).filter(|name| !name.is_empty()).collect()
}

/// The name of a module by its path.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    normalized_name(file.split(".ko").next().unwrap_or(file))
}
