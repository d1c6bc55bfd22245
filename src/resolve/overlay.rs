//! Overlay directories, pinned: the built-in `airootfs/`, then the profile's
//! `airootfs/` and `efiboot/`.
//!
//! Of the host's files only names, bytes, the owner's execute bit and link
//! targets get in; owner, group, other mode bits, times and directory order do
//! not. Nothing is read through a symbolic link.

use std::collections::BTreeMap;
use std::fs::{self, FileType};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::embedded::{Embedded, EmbeddedKind};
use crate::cache::{digest_file, hex_sha256};
use crate::diagnostic::{Diagnostics, closest};
use crate::plan::{InputFile, Overlay, OverlayEntry};
use crate::tree::{Name, display_path};

/// The built-in overlay, then the profile's, if it has one.
pub(super) fn overlays(dir: &Path, built_in: &[Embedded], diagnostics: &mut Diagnostics) -> Vec<Overlay> {
    let mut overlays = vec![Overlay { origin: "airootfs (built in)".to_string(), files: pin(built_in) }];
    let host = dir.join("airootfs");
    if let Some(files) = scan(&host, diagnostics) {
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
/// would never be read, so it is an error.
pub(super) fn efiboot(
    dir: &Path,
    built_in: &[Embedded],
    diagnostics: &mut Diagnostics,
) -> BTreeMap<String, InputFile> {
    let host = dir.join("efiboot");
    let mut replaced = BTreeMap::new();
    for (name, entry) in scan(&host, diagnostics).unwrap_or_default() {
        let known = built_in.iter().any(|file| file.path == name);
        match entry {
            OverlayEntry::File { content, .. } if known => {
                replaced.insert(name, content);
            }
            OverlayEntry::Directory => {}
            OverlayEntry::Symlink { .. } => {
                diagnostics
                    .path_error(&host.join(&name), "is a symbolic link; templates are plain files")
                    .help("copy the file here");
            }
            OverlayEntry::File { .. } => {
                let names: Vec<&str> = built_in.iter().map(|file| file.path).collect();
                let diagnostic =
                    diagnostics.path_error(&host.join(&name), "replaces no template of this name");
                match closest(&name, names.iter().copied()) {
                    Some(close) => diagnostic.help(format!("did you mean `{close}`?")),
                    None => diagnostic.help(format!("the templates are {}", names.join(", "))),
                }
            }
        }
    }
    replaced
}

/// Pins every file below a directory, `None` when there is no such directory.
fn scan(root: &Path, diagnostics: &mut Diagnostics) -> Option<BTreeMap<String, OverlayEntry>> {
    let metadata = root.symlink_metadata().ok()?;
    if metadata.is_symlink() {
        diagnostics
            .path_error(root, "is a symbolic link; files outside the profile are not read")
            .help("move the directory into the profile");
        return None;
    }
    if !metadata.is_dir() {
        diagnostics.path_error(root, "is a file, but must be a directory");
        return None;
    }
    let mut files = BTreeMap::new();
    let mut pending = vec![String::new()];
    while let Some(below) = pending.pop() {
        match children(root, &below, diagnostics) {
            None => {}
            Some(children) if children.is_empty() && !below.is_empty() => {
                files.insert(format!("{below}/"), OverlayEntry::Directory);
            }
            Some(children) => {
                for (path, file_type) in children {
                    if file_type.is_dir() {
                        pending.push(path);
                    } else if let Some(entry) = pin_entry(root, &path, file_type, diagnostics) {
                        files.insert(path, entry);
                    }
                }
            }
        }
    }
    Some(files)
}

/// The names in one directory below `root`, as paths from there.
fn children(root: &Path, below: &str, diagnostics: &mut Diagnostics) -> Option<Vec<(String, FileType)>> {
    let dir = root.join(below);
    let read = || -> std::io::Result<Vec<(PathBuf, FileType)>> {
        fs::read_dir(&dir)?.map(|entry| entry.and_then(|e| Ok((e.path(), e.file_type()?)))).collect()
    };
    let entries = match read() {
        Ok(entries) => entries,
        Err(error) => {
            diagnostics.path_error(&dir, format!("cannot be read: {error}"));
            return None;
        }
    };
    let mut named = Vec::new();
    for (path, file_type) in entries {
        let name = path.file_name().unwrap_or_default();
        let legal = Name::new(name.as_encoded_bytes()).is_ok();
        match name.to_str().filter(|n| legal && !n.chars().any(char::is_control)) {
            Some(name) if below.is_empty() => named.push((name.to_string(), file_type)),
            Some(name) => named.push((format!("{below}/{name}"), file_type)),
            None => {
                diagnostics
                    .path_error(&path, "has a name that is not UTF-8 or holds control characters")
                    .help("rename it");
            }
        }
    }
    Some(named)
}

fn pin_entry(
    root: &Path,
    path: &str,
    file_type: FileType,
    diagnostics: &mut Diagnostics,
) -> Option<OverlayEntry> {
    let host = root.join(path);
    if file_type.is_symlink() {
        return symlink(&host, path, diagnostics);
    }
    if !file_type.is_file() {
        diagnostics
            .path_error(
                &host,
                format!(
                    "is {}; an overlay holds files, directories and symbolic links only",
                    article(file_type)
                ),
            )
            .help("the live system makes its devices, pipes and sockets itself");
        return None;
    }
    let pinned = host.metadata().map_err(anyhow::Error::from).and_then(|m| Ok((m, digest_file(&host)?)));
    match pinned {
        Ok((metadata, digest)) => Some(OverlayEntry::File {
            executable: metadata.permissions().mode() & 0o100 != 0,
            content: InputFile { path: Some(host), size: digest.size, sha256: digest.sha256 },
        }),
        Err(error) => {
            diagnostics.path_error(&host, format!("cannot be read: {}", error.root_cause()));
            None
        }
    }
}

fn article(file_type: FileType) -> &'static str {
    match file_type {
        t if t.is_block_device() => "a block device",
        t if t.is_char_device() => "a character device",
        t if t.is_fifo() => "a named pipe",
        t if t.is_socket() => "a socket",
        _ => "of an unknown type",
    }
}

fn symlink(host: &Path, path: &str, diagnostics: &mut Diagnostics) -> Option<OverlayEntry> {
    let target = match fs::read_link(host) {
        Ok(target) => target,
        Err(error) => {
            diagnostics.path_error(host, format!("cannot be read: {error}"));
            return None;
        }
    };
    let shown = display_path(target.as_os_str().as_encoded_bytes());
    let Some(target) = target.to_str() else {
        diagnostics.path_error(host, format!("is a symbolic link to `{shown}`, which is not UTF-8"));
        return None;
    };
    if leaves_tree(path, target) {
        diagnostics
            .path_error(host, format!("is a symbolic link to `{shown}`, which leaves the tree"))
            .help("a target that starts with / means the root of the live system");
        return None;
    }
    Some(OverlayEntry::Symlink { target: target.to_string() })
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
    let known = ["airootfs", "efiboot", "packages", "profile.toml"];
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for name in entries.flatten().filter_map(|e| e.file_name().into_string().ok()) {
        if !known.contains(&name.as_str())
            && !name.starts_with("packages.")
            && let Some(close) = closest(&name, known)
        {
            diagnostics
                .path_warning(&dir.join(&name), "is not read")
                .help(format!("did you mean `{close}`?"));
        }
    }
}

/// The bytes of a pinned file: of the host's file, or the built-in one called `path`.
///
/// # Errors
/// When the file cannot be read or is not the one that was pinned.
pub fn read_input(input: &InputFile, built_in: &[Embedded], path: &str) -> Result<Vec<u8>> {
    let (bytes, shown) = match &input.path {
        Some(host) => (
            fs::read(host).with_context(|| format!("reading {}", host.display()))?,
            host.display().to_string(),
        ),
        None => {
            let found = built_in.iter().find(|file| file.path == path).and_then(Embedded::bytes);
            let bytes = found.with_context(|| format!("this program has no built-in file `{path}`"))?;
            (bytes.to_vec(), format!("{path} (built in)"))
        }
    };
    ensure!(
        hex_sha256(&bytes) == input.sha256,
        "{shown} changed while it was being built; run the build again"
    );
    Ok(bytes)
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
