//! What differs between two ISOs, down to package, file, module and menu line.
//!
//! Content is compared, not the way it is stored: two squashfs images with the
//! same files differ in their parameters only. Times are counted, not listed. Bytes
//! that differ although nothing below them does are named as such, so that no
//! difference is passed over in silence.

mod files;
mod system;

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::Inspection;

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Change {
    /// Where: `table`, `package`, `menu`, `file` (of the ISO), `esp`, `loader`,
    /// `kernel`, `module`, `initramfs`, `root`, `times`, `bytes`.
    pub area: &'static str,
    /// What happened to it.
    pub kind: ChangeKind,
    /// Package, path or line.
    pub name: String,
    /// `before -> after`, or what changed; empty for what is only in one of them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Whether something came, went or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// Only in the second ISO.
    Added,
    /// Only in the first.
    Removed,
    /// In both, differently.
    Changed,
}

fn added(area: &'static str, name: impl Into<String>) -> Change {
    Change { area, kind: ChangeKind::Added, name: name.into(), detail: String::new() }
}

fn removed(area: &'static str, name: impl Into<String>) -> Change {
    Change { area, kind: ChangeKind::Removed, name: name.into(), detail: String::new() }
}

fn changed(area: &'static str, name: impl Into<String>, detail: impl Into<String>) -> Change {
    Change { area, kind: ChangeKind::Changed, name: name.into(), detail: detail.into() }
}

/// A value that is not the same in both.
fn changed_value(area: &'static str, name: &str, old: String, new: String) -> Option<Change> {
    (old != new).then(|| changed(area, name, format!("{old} -> {new}")))
}

/// Compares two ISOs; no change means that every byte is equal.
///
/// # Errors
/// When one of them is no ISO, or file content cannot be read.
pub fn diff(old: &Path, new: &Path) -> Result<Vec<Change>> {
    if same_bytes(old, new)? {
        return Ok(Vec::new());
    }
    let (old, new) = (super::inspect(old)?, super::inspect(new)?);
    let mut changes = system::tables(&old, &new);
    changes.extend(system::packages(&old, &new));
    changes.extend(system::menus(&old, &new));
    changes.extend(system::loaders(&old, &new));
    changes.extend(system::kernels(&old, &new));
    changes.extend(system::initramfs(&old, &new));
    changes.extend(files::iso(&old, &new)?);
    changes.extend(files::esp(&old, &new)?);
    changes.extend(files::roots(&old, &new)?);
    if changes.is_empty() {
        changes.push(changed("bytes", "the file", "order or padding; no content differs"));
    }
    Ok(changes)
}

fn same_bytes(old: &Path, new: &Path) -> Result<bool> {
    let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
    let length = |file: &File| file.metadata().context("asking for the file's size").map(|m| m.len());
    let (one, other) = (open(old)?, open(new)?);
    if length(&one)? != length(&other)? {
        return Ok(false);
    }
    same_stream(one, other)
}

/// Whether two readers give the same bytes.
fn same_stream(mut one: impl Read, mut other: impl Read) -> Result<bool> {
    const CHUNK: u64 = 256 << 10;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    loop {
        a.clear();
        b.clear();
        one.by_ref().take(CHUNK).read_to_end(&mut a)?;
        other.by_ref().take(CHUNK).read_to_end(&mut b)?;
        if a != b {
            return Ok(false);
        }
        if a.is_empty() {
            return Ok(true);
        }
    }
}

/// The changes for people, one a line.
pub fn text(changes: &[Change]) -> String {
    let mut out = String::new();
    for change in changes {
        let kind = match change.kind {
            ChangeKind::Added => "added",
            ChangeKind::Removed => "removed",
            ChangeKind::Changed => "changed",
        };
        let detail = if change.detail.is_empty() { String::new() } else { format!(": {}", change.detail) };
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{:<10} {kind:<8} {}{detail}", change.area, change.name);
    }
    out
}

/// What is in one map, the other or both, in the order of the names.
fn compare<'m, K: Ord, V>(
    old: &'m std::collections::BTreeMap<K, V>,
    new: &'m std::collections::BTreeMap<K, V>,
) -> impl Iterator<Item = (&'m K, Option<&'m V>, Option<&'m V>)> {
    let names: std::collections::BTreeSet<&K> = old.keys().chain(new.keys()).collect();
    names.into_iter().map(|name| (name, old.get(name), new.get(name)))
}

/// Mode, owner and size or target, where they differ.
fn attributes(old: (u32, (u32, u32)), new: (u32, (u32, u32))) -> Vec<String> {
    let mut found = Vec::new();
    if old.0 != new.0 {
        found.push(format!("mode {:04o} -> {:04o}", old.0, new.0));
    }
    if old.1 != new.1 {
        found.push(format!("owner {}:{} -> {}:{}", old.1.0, old.1.1, new.1.0, new.1.1));
    }
    found
}

fn sizes(old: u64, new: u64) -> String {
    if old == new { format!("content ({old} bytes)") } else { format!("content ({old} -> {new} bytes)") }
}

impl Inspection {
    /// Whether a file of the ISO is one whose content is compared piece by piece.
    fn is_root_image(&self, path: &str) -> bool {
        self.images.iter().any(|image| image.squashfs.is_some() && image.file.path == path)
    }
}
