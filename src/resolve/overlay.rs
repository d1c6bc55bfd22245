//! Overlay directories, pinned: the built-in `airootfs/`, then the profile's
//! `airootfs/` and `efiboot/`.
//!
//! Of the host's files only names, bytes, the owner's execute bit and link
//! targets get in; owner, group, other mode bits, times and directory order do
//! not. Set-user-ID bits and capabilities, which someone set on purpose, are
//! errors and ACLs a warning. Nothing is read through a symbolic link.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, FileType};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::embedded::{Embedded, EmbeddedKind};
use crate::boot::template::{TEMPLATES, check};
use crate::cache::{digest_file, hex_sha256};
use crate::diagnostic::{Diagnostic, Diagnostics, Place, closest};
use crate::plan::{InputFile, Overlay, OverlayEntry};
use crate::profile::read_text;
use crate::tree::{Content, Name, display_path};

/// What messages call the built-in overlay.
pub const BUILT_IN: &str = "airootfs (built in)";

/// The built-in overlay, then the profile's, if it has one.
pub(super) fn overlays(dir: &Path, built_in: &[Embedded], diagnostics: &mut Diagnostics) -> Vec<Overlay> {
    let mut overlays = vec![Overlay { origin: BUILT_IN.to_string(), files: pin(built_in) }];
    if let Some(files) = scan(dir, "airootfs", diagnostics) {
        overlays.push(Overlay { origin: "airootfs (of the profile)".to_string(), files });
    }
    overlays.retain(|overlay| !overlay.files.is_empty());
    overlays
}

fn pin(built_in: &[Embedded]) -> BTreeMap<String, OverlayEntry> {
    built_in
        .iter()
        .map(|file| {
            let entry = match file.kind {
                EmbeddedKind::Symlink(target) => OverlayEntry::Symlink { target: target.to_string() },
                EmbeddedKind::File { bytes, executable } => {
                    let content =
                        InputFile { path: None, size: bytes.len() as u64, sha256: hex_sha256(bytes) };
                    OverlayEntry::File { executable, content }
                }
            };
            (file.path.to_string(), entry)
        })
        .collect()
}

/// The templates a profile replaces. A name that is not among the built-in ones
/// would never be read, so it is an error; so is an unknown placeholder.
pub(super) fn efiboot(dir: &Path, diagnostics: &mut Diagnostics) -> BTreeMap<String, InputFile> {
    let mut replaced = BTreeMap::new();
    let known = TEMPLATES.map(|(name, _)| name);
    for (name, entry) in scan(dir, "efiboot", diagnostics).unwrap_or_default() {
        let host = dir.join("efiboot").join(&name);
        match entry {
            OverlayEntry::File { content, .. } if known.contains(&name.as_str()) => {
                check_template(&host, diagnostics);
                replaced.insert(name, content);
            }
            OverlayEntry::Directory => {}
            OverlayEntry::Symlink { .. } => {
                diagnostics
                    .path_error(&host, format!("`efiboot/{name}` is a symbolic link, but must be a file"))
                    .help("copy the file here");
            }
            OverlayEntry::File { .. } => {
                let message = format!("`efiboot/{name}` replaces no template, so it would not be used");
                let diagnostic = diagnostics.path_error(&host, message);
                match closest(&name, known) {
                    Some(close) => diagnostic.help(format!("did you mean `{close}`?")),
                    None => diagnostic.help(format!("the templates are {}", known.join(", "))),
                }
            }
        }
    }
    replaced
}

fn check_template(host: &Path, diagnostics: &mut Diagnostics) {
    let Some(text) = read_text(host, diagnostics) else {
        return;
    };
    let errors = check(&host.display().to_string(), &text);
    if errors.is_empty() {
        return;
    }
    let lines: Vec<usize> =
        std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let file = diagnostics.add_file(host, text.clone());
    for error in errors {
        let line = lines[error.line - 1];
        let start = line + text[line..].chars().take(error.column - 1).map(char::len_utf8).sum::<usize>();
        // The word and its closing percent sign.
        let length = text[start + 1..].find('%').map_or(1, |end| end + 2);
        let (message, help) = error.message.split_once("; ").unwrap_or((&error.message, ""));
        diagnostics.error(&Place::new(file, start..start + length), message).help(help);
    }
}

/// Pins every file below a directory of the profile, `None` when there is none of this name.
fn scan(dir: &Path, name: &str, diagnostics: &mut Diagnostics) -> Option<BTreeMap<String, OverlayEntry>> {
    let root = Root { host: dir.join(name), name };
    let metadata = root.host.symlink_metadata().ok()?;
    if metadata.is_symlink() {
        diagnostics
            .path_error(
                &root.host,
                format!("`{name}` is a symbolic link; files outside the profile are not read"),
            )
            .help("move the directory into the profile");
        return None;
    }
    if !metadata.is_dir() {
        diagnostics.path_error(&root.host, format!("`{name}` is a file, but must be a directory"));
        return None;
    }
    let mut files = BTreeMap::new();
    let mut pending = vec![String::new()];
    while let Some(below) = pending.pop() {
        let children = root.children(&below, diagnostics).unwrap_or_default();
        if children.is_empty() && !below.is_empty() {
            files.insert(format!("{below}/"), OverlayEntry::Directory);
        }
        for (path, file_type) in children {
            if file_type.is_dir() {
                pending.push(path);
            } else if let Some(entry) = root.pin(&path, file_type, diagnostics) {
                files.insert(path, entry);
            }
        }
    }
    root.warn_of_acls(&files, diagnostics);
    Some(files)
}

/// The directory being scanned, and what messages call it.
struct Root<'n> {
    host: PathBuf,
    name: &'n str,
}

impl Root<'_> {
    fn error<'d>(&self, path: &str, problem: &str, diagnostics: &'d mut Diagnostics) -> &'d mut Diagnostic {
        let message = format!("`{}` {problem}", format!("{}/{path}", self.name).trim_end_matches('/'));
        diagnostics.path_error(&self.host.join(path), message)
    }

    /// The names in one directory, as paths from the root.
    fn children(&self, below: &str, diagnostics: &mut Diagnostics) -> Option<Vec<(String, FileType)>> {
        let read = || -> std::io::Result<Vec<(OsString, FileType)>> {
            let entries = fs::read_dir(self.host.join(below))?;
            entries.map(|entry| entry.and_then(|e| Ok((e.file_name(), e.file_type()?)))).collect()
        };
        let entries = match read() {
            Ok(entries) => entries,
            Err(error) => {
                self.error(below, &format!("cannot be read: {error}"), diagnostics);
                return None;
            }
        };
        let prefix = if below.is_empty() { String::new() } else { format!("{below}/") };
        let mut named = Vec::new();
        for (name, file_type) in entries {
            let legal = Name::new(name.as_encoded_bytes()).is_ok();
            match name.to_str().filter(|n| legal && !n.chars().any(char::is_control)) {
                Some(name) => named.push((format!("{prefix}{name}"), file_type)),
                None => {
                    let shown = format!("{prefix}{}", display_path(name.as_encoded_bytes()));
                    let message = format!("`{}/{shown}` is not UTF-8 or holds control characters", self.name);
                    let host = self.host.join(below).join(&name);
                    diagnostics.path_error(&host, message).help("rename it");
                }
            }
        }
        Some(named)
    }

    fn pin(&self, path: &str, file_type: FileType, diagnostics: &mut Diagnostics) -> Option<OverlayEntry> {
        if file_type.is_symlink() {
            return self.symlink(path, diagnostics);
        }
        if !file_type.is_file() {
            let problem =
                format!("is {}; only files, directories and symbolic links are taken", word(file_type));
            self.error(path, &problem, diagnostics)
                .help("the live system makes its devices, pipes and sockets itself");
            return None;
        }
        let host = self.host.join(path);
        if self.is_privileged(path, &host, diagnostics) {
            return None;
        }
        let pinned = host.metadata().map_err(anyhow::Error::from).and_then(|m| Ok((m, digest_file(&host)?)));
        match pinned {
            Ok((metadata, digest)) => Some(OverlayEntry::File {
                executable: metadata.permissions().mode() & 0o100 != 0,
                content: InputFile { path: Some(host), size: digest.size, sha256: digest.sha256 },
            }),
            Err(error) => {
                self.error(path, &format!("cannot be read: {}", error.root_cause()), diagnostics);
                None
            }
        }
    }

    /// Refuses what would silently be lost: privileges the file gives to who runs it.
    fn is_privileged(&self, path: &str, host: &Path, diagnostics: &mut Diagnostics) -> bool {
        let mode = host.symlink_metadata().map_or(0, |m| m.permissions().mode());
        if mode & 0o6000 != 0 {
            let problem = "is set-user-ID or set-group-ID; modes are not taken from the host";
            self.error(path, problem, diagnostics)
                .help("take the bit away here (chmod ug-s) and give the mode under file-permissions");
            return true;
        }
        if has_xattr(host, "security.capability") {
            let problem = "has file capabilities; attributes are not taken from the host";
            self.error(path, problem, diagnostics)
                .help("remove them here (setcap -r); only packages bring capabilities");
            return true;
        }
        false
    }

    fn warn_of_acls(&self, files: &BTreeMap<String, OverlayEntry>, diagnostics: &mut Diagnostics) {
        let regular = files.iter().filter(|(_, entry)| matches!(entry, OverlayEntry::File { .. }));
        let mut with_acl = regular
            .map(|(path, _)| path)
            .filter(|path| has_xattr(&self.host.join(path), "system.posix_acl_access"));
        if let Some(first) = with_acl.next() {
            let more = match with_acl.count() {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            let message = format!("`{}/{first}`{more} has an ACL, which is left out", self.name);
            diagnostics
                .path_warning(&self.host.join(first), message)
                .help("squashfs holds no ACLs; express it by owner, group and mode under file-permissions");
        }
    }

    fn symlink(&self, path: &str, diagnostics: &mut Diagnostics) -> Option<OverlayEntry> {
        let target = match fs::read_link(self.host.join(path)) {
            Ok(target) => target,
            Err(error) => {
                self.error(path, &format!("cannot be read: {error}"), diagnostics);
                return None;
            }
        };
        let shown = display_path(target.as_os_str().as_encoded_bytes());
        let Some(target) = target.to_str() else {
            self.error(path, &format!("is a symbolic link to `{shown}`, which is not UTF-8"), diagnostics);
            return None;
        };
        if leaves_tree(path, target) {
            let problem = format!("is a symbolic link to `{shown}`, which leaves the tree");
            self.error(path, &problem, diagnostics)
                .help("a target that starts with / means the root of the live system");
            return None;
        }
        Some(OverlayEntry::Symlink { target: target.to_string() })
    }
}

/// Whether a file has an attribute; a file system without attributes has none.
fn has_xattr(path: &Path, name: &str) -> bool {
    rustix::fs::lgetxattr(path, name, &mut [0_u8; 0][..]).is_ok()
}

/// A type that no overlay holds, as messages call it.
fn word(file_type: FileType) -> &'static str {
    match file_type {
        t if t.is_block_device() => "a block device",
        t if t.is_char_device() => "a character device",
        t if t.is_fifo() => "a named pipe",
        t if t.is_socket() => "a socket",
        _ => "of an unknown type",
    }
}

/// Whether `..` in a link's target climbs above the root of the tree.
fn leaves_tree(link: &str, target: &str) -> bool {
    let mut depth = if target.starts_with('/') { 0 } else { link.matches('/').count() };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

/// Warns of a directory or file whose name is nearly one that would be read.
pub(super) fn misnamed(dir: &Path, diagnostics: &mut Diagnostics) {
    let known = ["airootfs", "boot-order", "efiboot", "packages", "profile.toml"];
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        if !known.contains(&name.as_str())
            && !name.starts_with("packages.")
            && let Some(close) = closest(&name, known)
        {
            diagnostics
                .path_warning(
                    &dir.join(&name),
                    format!("`{name}` is not part of a profile, so it is not read"),
                )
                .help(format!("did you mean `{close}`?"));
        }
    }
}

/// The content of a pinned file: of the host's file, which stays where it is and
/// is compared with its digest while it is read, or of the built-in one called `path`.
///
/// # Errors
/// When this program has no such built-in file, or another one.
pub fn input_content(input: &InputFile, built_in: &[Embedded], path: &str) -> Result<Content> {
    if let Some(host) = &input.path {
        return Ok(Content::pinned(host, input.size, &input.sha256));
    }
    let found = built_in.iter().find(|file| file.path == path).and_then(Embedded::bytes);
    let bytes = found.with_context(|| format!("this program has no built-in file `{path}`"))?;
    ensure!(
        hex_sha256(bytes) == input.sha256,
        "the built-in `{path}` is another one than the plan's; make the plan anew"
    );
    Ok(Content::bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_may_climb_to_the_root_but_no_further() {
        for (link, target, leaves) in [
            ("lib", "usr/lib", false),
            ("etc/mtab", "/proc/self/mounts", false),
            ("etc/a/b", "../../usr/x", false),
            ("etc/a/b", "../../../usr/x", true),
            ("etc/a", "x/../../../y", true),
            ("etc/a", "/../y", true),
            ("a", "..", true),
            ("a", ".", false),
        ] {
            assert_eq!(leaves_tree(link, target), leaves, "{link} -> {target}");
        }
    }
}
