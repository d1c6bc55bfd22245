//! What a cache holds, one entry for each thing that is removed as a whole.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::Cache;

/// One stage output, package, index or pack of blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// Stage name; `deb`, `apt` or `blocks` for what no stage made.
    pub stage: String,
    /// The digest it is found by.
    pub key: String,
    /// Bytes of all files.
    pub size: u64,
    /// When a build used it last, seconds since 1970-01-01 UTC.
    pub last_used: i64,
    /// Sizes in bytes by name. Of an index only the sum is told.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, u64>,
    #[serde(skip)]
    pub(super) kind: EntryKind,
    #[serde(skip)]
    pub(super) path: PathBuf,
    /// Nanoseconds of the last use, for its order.
    #[serde(skip)]
    pub(super) nanoseconds: i64,
}

/// How an entry is stored, which decides how it is removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// `stages/<stage>/<key>/`
    #[default]
    Stage,
    /// `debs/<sha256>.deb`
    Deb,
    /// `apt/<digest>/`: its indexes
    Apt,
    /// `blocks/<digest>.pack`
    Blocks,
}

/// What of an apt state directory is large and comes again with the next update.
pub(super) const APT_PARTS: [&str; 2] = ["state", "cache"];

impl Cache {
    /// Everything that a prune could remove, by stage and key.
    ///
    /// # Errors
    /// When a directory cannot be read. What another process removes meanwhile is left out.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for (stage, dir) in children(&self.dir.join("stages"))? {
            for (key, path) in children(&dir)? {
                entries.extend(entry(EntryKind::Stage, &stage, &key, &path)?);
            }
        }
        for (kind, stage, sub, suffix) in
            [(EntryKind::Deb, "deb", "debs", ".deb"), (EntryKind::Blocks, "blocks", "blocks", ".pack")]
        {
            for (name, path) in children(&self.dir.join(sub))? {
                if let Some(key) = name.strip_suffix(suffix) {
                    entries.extend(entry(kind, stage, key, &path)?);
                }
            }
        }
        for (key, path) in children(&self.dir.join("apt"))? {
            if path.is_dir() {
                entries.extend(apt_entry(&key, &path)?);
            }
        }
        entries.sort_by(|a, b| (&a.stage, &a.key).cmp(&(&b.stage, &b.key)));
        Ok(entries)
    }
}

/// `None` when it is gone by now.
fn entry(kind: EntryKind, stage: &str, key: &str, path: &Path) -> Result<Option<Entry>> {
    let Some(metadata) = existing(fs::symlink_metadata(path), path)? else {
        return Ok(None);
    };
    let mut files = BTreeMap::new();
    if metadata.is_dir() {
        for (name, path) in children(path)? {
            if let Some(metadata) = existing(fs::symlink_metadata(&path), &path)? {
                files.insert(name, metadata.len());
            }
        }
    } else {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(name, metadata.len());
    }
    Ok(Some(Entry {
        stage: stage.to_string(),
        key: key.to_string(),
        size: files.values().sum(),
        last_used: metadata.mtime(),
        files,
        kind,
        path: path.to_path_buf(),
        nanoseconds: metadata.mtime_nsec(),
    }))
}

/// The lock file is opened anew by each use, which sets its time.
fn apt_entry(key: &str, path: &Path) -> Result<Option<Entry>> {
    let lock = path.join("lock");
    let Some(metadata) = existing(fs::symlink_metadata(&lock), &lock)? else {
        return Ok(None);
    };
    let mut size = 0;
    for part in APT_PARTS {
        size += size_below(&path.join(part))?;
    }
    Ok((size > 0).then(|| Entry {
        stage: "apt".to_string(),
        key: key.to_string(),
        size,
        last_used: metadata.mtime(),
        files: BTreeMap::new(),
        kind: EntryKind::Apt,
        path: path.to_path_buf(),
        nanoseconds: metadata.mtime_nsec(),
    }))
}

fn size_below(dir: &Path) -> Result<u64> {
    let mut size = 0;
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for (_, path) in children(&dir)? {
            match existing(fs::symlink_metadata(&path), &path)? {
                Some(metadata) if metadata.is_dir() => pending.push(path),
                Some(metadata) => size += metadata.len(),
                None => {}
            }
        }
    }
    Ok(size)
}

/// Names and paths in a directory, sorted; of one that is gone, none.
fn children(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let Some(entries) = existing(fs::read_dir(dir), dir)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("reading {}", dir.display()))?;
        found.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    found.sort();
    Ok(found)
}

fn existing<T>(result: std::io::Result<T>, path: &Path) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}
