//! Files of the ISO, the ESP and root images.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::{Change, added, attributes, changed, changed_value, compare, removed, same_stream, sizes};
use crate::format::civil_time;
use crate::format::squashfs::{Entry, EntryKind, Reader};
use crate::inspect::{Image, Inspection};
use crate::tree::{Content, Inode, Kind, Tree, display_path};

pub(super) fn iso(old: &Inspection, new: &Inspection) -> Result<Vec<Change>> {
    let skip = |path: &str| old.is_root_image(path) && new.is_root_image(path);
    trees("file", &old.tree, &new.tree, skip)
}

pub(super) fn esp(old: &Inspection, new: &Inspection) -> Result<Vec<Change>> {
    let empty = Tree::new();
    let tree = |it| -> &Tree { esp_tree(it).unwrap_or(&empty) };
    trees("esp", tree(old), tree(new), |_| false)
}

fn esp_tree(it: &Inspection) -> Option<&Tree> {
    it.esp.as_ref().map(|esp| &esp.tree)
}

fn by_path(tree: &Tree) -> BTreeMap<Vec<u8>, &Inode> {
    tree.walk().skip(1).map(|entry| (entry.path, entry.inode)).collect()
}

/// Compares two trees; of files for which `skip` holds only the attributes.
fn trees(area: &'static str, old: &Tree, new: &Tree, skip: impl Fn(&str) -> bool) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for (path, one, other) in compare(&by_path(old), &by_path(new)) {
        let path = format!("/{}", display_path(path));
        match (one, other) {
            (Some(one), Some(other)) => {
                let detail = inodes(one, other, skip(&path)).with_context(|| format!("comparing {path}"))?;
                changes.extend((!detail.is_empty()).then(|| changed(area, path, detail.join(", "))));
            }
            (None, _) => changes.push(added(area, path)),
            (_, None) => changes.push(removed(area, path)),
        }
    }
    let (old, new) = (by_path(old), by_path(new));
    let both = compare(&old, &new).filter_map(|(path, one, other)| Some((path, one?.mtime, other?.mtime)));
    changes.extend(times(area, both));
    Ok(changes)
}

/// One change for all names of which only the times differ, or they too.
fn times<'p>(area: &str, names: impl Iterator<Item = (&'p Vec<u8>, i64, i64)>) -> Option<Change> {
    let names: Vec<_> = names.filter(|(_, old, new)| old != new).collect();
    let (path, old, new) = *names.first()?;
    let (path, count) = (display_path(path), names.len());
    let detail = format!("{count} names, the first /{path}: {} -> {}", shown_time(old), shown_time(new));
    Some(changed("times", area, detail))
}

fn shown_time(timestamp: i64) -> String {
    let t = civil_time(timestamp);
    format!("{:04}-{:02}-{:02} {:02}:{:02}:{:02}", t.year, t.month, t.day, t.hour, t.minute, t.second)
}

fn inodes(old: &Inode, new: &Inode, skip: bool) -> Result<Vec<String>> {
    let of = |inode: &Inode| (u32::from(inode.mode), (inode.uid, inode.gid));
    let mut detail = attributes(of(old), of(new));
    match (&old.kind, &new.kind) {
        (Kind::File(one), Kind::File(other)) if !skip && !same_content(one, other)? => {
            detail.push(sizes(one.len(), other.len()));
        }
        (Kind::Symlink(one), Kind::Symlink(other)) if one != other => {
            detail.push(format!("target {} -> {}", display_path(one), display_path(other)));
        }
        (one, other) if one.word() != other.word() => {
            detail.push(format!("type {} -> {}", one.word(), other.word()));
        }
        _ => {}
    }
    Ok(detail)
}

fn same_content(old: &Content, new: &Content) -> Result<bool> {
    Ok(old.len() == new.len() && same_stream(old.open()?, new.open()?)?)
}

/// Root images of the same path, file by file.
pub(super) fn roots(old: &Inspection, new: &Inspection) -> Result<Vec<Change>> {
    let mut changes = Vec::new();
    for one in &old.images {
        let Some(other) = new.images.iter().find(|image| image.file.path == one.file.path) else {
            continue;
        };
        let path = &one.file.path;
        let (a, b) = (&one.content, &other.content);
        if !same_content(a, b)? {
            let found = images((one, a), (other, b)).with_context(|| format!("comparing {path}"))?;
            changes.extend(found);
        }
    }
    Ok(changes)
}

fn images((one, a): (&Image, &Content), (other, b): (&Image, &Content)) -> Result<Vec<Change>> {
    let path = &one.file.path;
    let (Some(p), Some(q)) = (&one.squashfs, &other.squashfs) else {
        return Ok(Vec::new());
    };
    let shown = |p: &crate::format::squashfs::Parameters| {
        format!("{}, blocks of {} bytes", p.compression, p.block_size)
    };
    let mut changes = Vec::new();
    changes.extend(changed_value("root", path, shown(p), shown(q)));
    changes.extend(changed_value(
        "root",
        path,
        format!("{} bytes", p.bytes_used),
        format!("{} bytes", q.bytes_used),
    ));
    let (Some(mut old), Some(mut new)) = (reader(a)?, reader(b)?) else {
        return Ok(changes);
    };
    let by_path = |entries: Vec<Entry>| -> BTreeMap<Vec<u8>, Entry> {
        entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect()
    };
    let (before, after) = (by_path(old.entries()?), by_path(new.entries()?));
    for (path, one, other) in compare(&before, &after) {
        let path = format!("/{}", display_path(path));
        match (one, other) {
            (Some(one), Some(other)) => {
                let detail = entries((&mut old, one), (&mut new, other))
                    .with_context(|| format!("comparing {path}"))?;
                changes.extend((!detail.is_empty()).then(|| changed("root", path, detail.join(", "))));
            }
            (None, _) => changes.push(added("root", path)),
            (_, None) => changes.push(removed("root", path)),
        }
    }
    let both = compare(&before, &after)
        .filter_map(|(path, one, other)| Some((path, i64::from(one?.mtime), i64::from(other?.mtime))));
    changes.extend(times("root", both));
    if changes.is_empty() {
        changes.push(changed("root", path.as_str(), "order or compression level; no file differs"));
    }
    Ok(changes)
}

fn reader(content: &Content) -> Result<Option<Reader>> {
    match content {
        Content::Slice { file, offset, length } => Reader::open(file, *offset, *length).map(Some),
        _ => Ok(None),
    }
}

fn entries((old, one): (&mut Reader, &Entry), (new, other): (&mut Reader, &Entry)) -> Result<Vec<String>> {
    let of = |entry: &Entry| (u32::from(entry.mode), entry.owner);
    let mut detail = attributes(of(one), of(other));
    if one.xattrs != other.xattrs {
        detail.push("extended attributes".to_string());
    }
    match (&one.kind, &other.kind) {
        (EntryKind::Directory, EntryKind::Directory) => {}
        (EntryKind::File(a), EntryKind::File(b)) => {
            let (long, longer) = (one.length().unwrap_or_default(), other.length().unwrap_or_default());
            if long != longer || old.sha256(a)? != new.sha256(b)? {
                detail.push(sizes(long, longer));
            }
        }
        (EntryKind::Other(Kind::Symlink(a)), EntryKind::Other(Kind::Symlink(b))) if a != b => {
            detail.push(format!("target {} -> {}", display_path(a), display_path(b)));
        }
        (a, b) => {
            let (a, b) = (described(a), described(b));
            if a != b {
                detail.push(format!("type {a} -> {b}"));
            }
        }
    }
    Ok(detail)
}

fn described(kind: &EntryKind) -> String {
    match kind {
        EntryKind::Directory => "dir".to_string(),
        EntryKind::File(_) => "file".to_string(),
        EntryKind::Other(Kind::CharDevice(device)) => format!("char {}:{}", device.major, device.minor),
        EntryKind::Other(Kind::BlockDevice(device)) => format!("block {}:{}", device.major, device.minor),
        EntryKind::Other(other) => other.word().to_string(),
    }
}
