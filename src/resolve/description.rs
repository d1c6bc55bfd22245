//! `root.description` and `initramfs.description`: files in the words of the kernel's
//! `usr/gen_init_cpio.c`, the format behind CONFIG_INITRAMFS_SOURCE.
//!
//! ```text
//! dir   NAME MODE UID GID
//! file  NAME SOURCE MODE UID GID [MORE NAMES]
//! nod   NAME MODE UID GID b|c MAJOR MINOR
//! slink NAME TARGET MODE UID GID
//! pipe  NAME MODE UID GID
//! sock  NAME MODE UID GID
//! ```
//! A `#` in the first column begins a comment. Differences: sources are looked
//! for in the profile, not in the current directory; `${VARIABLE}` in them is
//! refused, because a build does not depend on the environment; missing
//! directories are made instead of the kernel dropping what is in them; what
//! liveiso itself puts into an initramfs cannot be replaced.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use crate::cache::digest_file;
use crate::diagnostic::{Diagnostics, Place};
use crate::plan::{DescriptionEntry, DescriptionKind, InputFile};
use crate::profile::{Text, read_text};
use crate::tree::components;

/// The types and their operands.
const TYPES: [(&str, &str); 6] = [
    ("dir", "NAME MODE UID GID"),
    ("file", "NAME SOURCE MODE UID GID [MORE NAMES]"),
    ("nod", "NAME MODE UID GID b|c MAJOR MINOR"),
    ("slink", "NAME TARGET MODE UID GID"),
    ("pipe", "NAME MODE UID GID"),
    ("sock", "NAME MODE UID GID"),
];
/// Whose files a description adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Replaces what packages and overlays brought.
    Root,
    /// Adds to what /init needs.
    Initramfs,
}

/// Directories of an initramfs that /init and the kernel rely on.
const DIRECTORIES: [&str; 12] =
    ["bin", "dev", "etc", "etc/liveiso", "lib", "newroot", "proc", "run", "sbin", "squash", "sys", "tmp"];
/// Its files and whole directories that are liveiso's own.
const OURS: [&str; 11] = [
    ".complete",
    "bin/busybox",
    "bin/sh",
    "dev/console",
    "etc/liveiso/id",
    "etc/liveiso/medium",
    "init",
    "lib/liveiso",
    "lib/modules",
    "sbin/modprobe",
    "squash",
];

/// The entries of the description file the profile names.
pub(super) fn description(
    dir: &Path,
    written: Option<&Text>,
    whose: Whose,
    diagnostics: &mut Diagnostics,
) -> Vec<DescriptionEntry> {
    let Some(written) = written else { return Vec::new() };
    let path = match locate(dir, &written.value) {
        Ok(path) => path,
        Err((message, help)) => {
            diagnostics.error(&written.place, message).help(help);
            return Vec::new();
        }
    };
    let Some(text) = read_text(&path, diagnostics) else { return Vec::new() };
    let file = diagnostics.add_file(&path, text.clone());
    let (entries, errors) = parse(&text, whose, |source| pin(dir, source));
    for LineError { start, end, message, help } in errors {
        diagnostics.error(&Place::new(file, start..end), message).help(help);
    }
    entries
}

/// A message and what to do.
pub(super) type Refusal = (String, String);

/// A regular file of the profile, by a path that stays in it.
fn locate(dir: &Path, name: &str) -> Result<std::path::PathBuf, Refusal> {
    if name.contains("${") {
        let help = "write the path itself, relative to the profile".to_string();
        return Err((
            format!("`{name}` has a variable, but a build does not depend on the environment"),
            help,
        ));
    }
    let relative = Path::new(name);
    let stays = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if name.is_empty() || !stays {
        let help = "copy the file into the profile and name it relative to that".to_string();
        return Err((format!("`{name}` is not a path inside the profile"), help));
    }
    let mut path = dir.to_path_buf();
    for component in relative.components() {
        path.push(component);
        match path.symlink_metadata() {
            Err(error) => {
                return Err((format!("`{name}` cannot be read: {error}"), "correct the path".to_string()));
            }
            Ok(metadata) if metadata.is_symlink() => {
                let help = "copy what it points to into the profile".to_string();
                return Err((format!("`{name}` runs through a symbolic link"), help));
            }
            Ok(_) => {}
        }
    }
    if path.is_file() {
        Ok(path)
    } else {
        Err((format!("`{name}` is not a regular file"), "name a file".to_string()))
    }
}

/// The same, pinned by digest.
pub(super) fn pin(dir: &Path, name: &str) -> Result<InputFile, Refusal> {
    let path = locate(dir, name)?;
    match digest_file(&path) {
        Ok(digest) => Ok(InputFile { path: Some(path), size: digest.size, sha256: digest.sha256 }),
        Err(error) => Err((format!("`{name}` cannot be read: {:#}", error), "make it readable".to_string())),
    }
}

/// A mistake in one line: its bytes in the text.
#[derive(Debug, PartialEq, Eq)]
struct LineError {
    start: usize,
    end: usize,
    message: String,
    help: String,
}

fn parse(
    text: &str,
    whose: Whose,
    pin: impl Fn(&str) -> Result<InputFile, Refusal>,
) -> (Vec<DescriptionEntry>, Vec<LineError>) {
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    let mut known: BTreeMap<String, (usize, &'static str)> = BTreeMap::new();
    let mut start = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let content = line.trim_end();
        if !content.is_empty() && !content.starts_with('#') {
            let entry = entry(content, whose, &pin).and_then(|entry| {
                remember(&entry, number + 1, &mut known)?;
                Ok(entry)
            });
            match entry {
                Ok(entry) => entries.push(entry),
                Err((message, help)) => {
                    errors.push(LineError { start, end: start + content.len(), message, help });
                }
            }
        }
        start += line.len();
    }
    (entries, errors)
}

/// Refuses names that are taken, and files as parents.
fn remember(
    entry: &DescriptionEntry,
    line: usize,
    known: &mut BTreeMap<String, (usize, &'static str)>,
) -> Result<(), Refusal> {
    let links = match &entry.kind {
        DescriptionKind::File { links, .. } => links.as_slice(),
        _ => &[],
    };
    let word = word(&entry.kind);
    for name in std::iter::once(&entry.name).chain(links) {
        if let Some((earlier, _)) = known.get(name) {
            let help = "remove one of them".to_string();
            return Err((format!("`/{name}` is in line {earlier} already"), help));
        }
        for (slash, _) in name.match_indices('/') {
            let parent = &name[..slash];
            if let Some((line, word)) = known.get(parent).filter(|(_, word)| !["dir", "slink"].contains(word))
            {
                let message = format!("`/{name}` is below `/{parent}`, which is a {word} in line {line}");
                return Err((message, "rename one of them".to_string()));
            }
        }
        known.insert(name.clone(), (line, word));
    }
    Ok(())
}

fn word(kind: &DescriptionKind) -> &'static str {
    match kind {
        DescriptionKind::Dir => "dir",
        DescriptionKind::File { .. } => "file",
        DescriptionKind::Nod { .. } => "nod",
        DescriptionKind::Slink { .. } => "slink",
        DescriptionKind::Pipe => "pipe",
        DescriptionKind::Sock => "sock",
    }
}

fn entry(
    line: &str,
    whose: Whose,
    pin: impl Fn(&str) -> Result<InputFile, Refusal>,
) -> Result<DescriptionEntry, Refusal> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let Some((&kind, operands)) = words.split_first() else {
        return Err(("the line is empty".to_string(), String::new()));
    };
    let Some((_, usage)) = TYPES.iter().find(|(name, _)| *name == kind) else {
        let names: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        let names = crate::diagnostic::alternatives(&names);
        return Err((format!("unknown file type `{kind}`"), format!("write {names}")));
    };
    let wrong = || (format!("`{kind}` takes other operands"), format!("write `{kind} {usage}`"));
    let (name, kind, [mode, uid, gid]) = match (kind, operands) {
        ("dir", [name, rest @ ..]) => (name, DescriptionKind::Dir, three(rest).ok_or_else(wrong)?),
        ("pipe", [name, rest @ ..]) => (name, DescriptionKind::Pipe, three(rest).ok_or_else(wrong)?),
        ("sock", [name, rest @ ..]) => (name, DescriptionKind::Sock, three(rest).ok_or_else(wrong)?),
        ("slink", [name, target, rest @ ..]) => {
            (name, DescriptionKind::Slink { target: target.to_string() }, three(rest).ok_or_else(wrong)?)
        }
        ("nod", [name, mode, uid, gid, class, major, minor]) => {
            (name, device(class, major, minor)?, [*mode, *uid, *gid])
        }
        ("file", [name, source, mode, uid, gid, links @ ..]) => {
            let links = links.iter().map(|link| legal_name(link, false, whose)).collect::<Result<_, _>>()?;
            (name, DescriptionKind::File { content: pin(source)?, links }, [*mode, *uid, *gid])
        }
        _ => return Err(wrong()),
    };
    let name = legal_name(name, matches!(kind, DescriptionKind::Dir), whose)?;
    Ok(DescriptionEntry { name, mode: octal(mode)?, uid: id(uid)?, gid: id(gid)?, kind })
}

fn three<'w>(words: &[&'w str]) -> Option<[&'w str; 3]> {
    words.try_into().ok()
}

/// The path without leading slash, if it may be there.
fn legal_name(written: &str, is_dir: bool, whose: Whose) -> Result<String, Refusal> {
    let names = components(written.as_bytes())
        .map_err(|error| (error.to_string(), "write an absolute path of the system".to_string()))?;
    let name: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name.as_bytes())).collect();
    let name = name.join("/");
    if name.is_empty() {
        return Err(("the root itself cannot be changed".to_string(), "name something in it".to_string()));
    }
    if whose == Whose::Root {
        return Ok(name);
    }
    let is_ours = |ours: &&&str| name == ***ours || name.starts_with(&format!("{ours}/"));
    if OURS.iter().any(|ours| is_ours(&ours)) {
        return Err((format!("`/{name}` is liveiso's own"), "choose another name".to_string()));
    }
    if !is_dir && DIRECTORIES.contains(&&*name) {
        let help = "choose another name".to_string();
        return Err((format!("`/{name}` is a directory of every initramfs"), help));
    }
    Ok(name)
}

fn octal(text: &str) -> Result<u16, Refusal> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let mode = u16::from_str_radix(text, 8).ok().filter(|mode| plain && *mode <= 0o7777);
    mode.ok_or_else(|| (format!("`{text}` is no mode"), "write up to four octal digits: `0755`".to_string()))
}

fn id(text: &str) -> Result<u32, Refusal> {
    let plain = text.bytes().all(|b| b.is_ascii_digit());
    let id = text.parse::<u32>().ok().filter(|id| plain && *id != u32::MAX);
    id.ok_or_else(|| {
        (format!("`{text}` is no user or group number"), "write a decimal number: `0`".to_string())
    })
}

/// Device numbers as the kernel's `new_decode_dev` splits them: 12 and 20 bits.
fn device(class: &str, major: &str, minor: &str) -> Result<DescriptionKind, Refusal> {
    let number = |text: &str, bits: u32| {
        let plain = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u32>().ok().filter(|n| plain && *n < 1 << bits).ok_or_else(|| {
            (format!("`{text}` is no device number"), format!("write a decimal number below {}", 1 << bits))
        })
    };
    let block = match class {
        "b" => true,
        "c" => false,
        _ => return Err((format!("`{class}` is no kind of device"), "write `b` or `c`".to_string())),
    };
    Ok(DescriptionKind::Nod { block, major: number(major, 12)?, minor: number(minor, 20)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fake(source: &str) -> Result<InputFile, Refusal> {
        match source {
            "missing" => Err(("no `missing`".to_string(), "help".to_string())),
            _ => Ok(InputFile { path: None, size: 3, sha256: source.to_string() }),
        }
    }

    #[test]
    fn every_type_is_read() {
        let text = "# a comment\n\n  \ndir /data 0755 0 0\nfile /data/a src/a 4644 1 2 /data/b data/c\n\
                    nod /dev/sda 660 0 6 b 8 0\nnod /dev/null 0666 0 0 c 1 3\nslink\t/x\t../y 777 0 0\n\
                    pipe p 600 0 0\nsock /s 600 0 0";
        let (entries, errors) = parse(text, Whose::Initramfs, fake);
        assert_eq!(errors, []);
        let entry = |name: &str, mode, uid, gid, kind| DescriptionEntry {
            name: name.to_string(),
            mode,
            uid,
            gid,
            kind,
        };
        let content = fake("src/a").unwrap();
        let links = vec!["data/b".to_string(), "data/c".to_string()];
        let nod = |block, major, minor| DescriptionKind::Nod { block, major, minor };
        assert_eq!(
            entries,
            [
                entry("data", 0o755, 0, 0, DescriptionKind::Dir),
                entry("data/a", 0o4644, 1, 2, DescriptionKind::File { content, links }),
                entry("dev/sda", 0o660, 0, 6, nod(true, 8, 0)),
                entry("dev/null", 0o666, 0, 0, nod(false, 1, 3)),
                entry("x", 0o777, 0, 0, DescriptionKind::Slink { target: "../y".to_string() }),
                entry("p", 0o600, 0, 0, DescriptionKind::Pipe),
                entry("s", 0o600, 0, 0, DescriptionKind::Sock),
            ]
        );
    }

    #[test]
    fn mistakes_say_what_is_wrong() {
        for (text, message) in [
            ("directory /a 755 0 0", "unknown file type `directory`"),
            ("dir /a 755 0", "`dir` takes other operands"),
            ("dir", "`dir` takes other operands"),
            ("dir /a 755 0 0 0", "`dir` takes other operands"),
            ("file /a missing 644 0 0", "no `missing`"),
            ("file /a x 0x1 0 0", "`0x1` is no mode"),
            ("file /a x 10000 0 0", "`10000` is no mode"),
            ("file /a x +755 0 0", "`+755` is no mode"),
            ("file /a x 644 root 0", "`root` is no user or group number"),
            ("file /a x 644 0 4294967295", "`4294967295` is no user or group number"),
            ("nod /a 644 0 0 u 1 2", "`u` is no kind of device"),
            ("nod /a 644 0 0 c 4096 2", "`4096` is no device number"),
            ("nod /a 644 0 0 c 1 1048576", "`1048576` is no device number"),
            ("file /init x 755 0 0", "`/init` is liveiso's own"),
            ("file /lib/modules/x x 755 0 0", "`/lib/modules/x` is liveiso's own"),
            ("file /x x 755 0 0 /bin/busybox", "`/bin/busybox` is liveiso's own"),
            ("slink /lib /usr/lib 777 0 0", "`/lib` is a directory of every initramfs"),
            ("dir / 755 0 0", "the root itself cannot be changed"),
            ("dir /a 755 0 0\ndir a 700 0 0", "`/a` is in line 1 already"),
            ("pipe /a 755 0 0\nfile /a/b x 644 0 0", "`/a/b` is below `/a`, which is a pipe in line 1"),
        ] {
            let (_, errors) = parse(text, Whose::Initramfs, fake);
            let messages: Vec<&str> = errors.iter().map(|e| e.message.as_str()).collect();
            assert_eq!(messages, [message], "{text}");
        }
        let (_, errors) = parse("dir /a 755 0 0\nbad\n", Whose::Initramfs, fake);
        assert_eq!((errors[0].start, errors[0].end), (15, 18));
    }
}
