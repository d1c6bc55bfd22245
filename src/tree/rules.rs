//! The rules of a profile: what is left out, and who owns what.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use globset::{GlobBuilder, GlobMatcher};

use super::{InodeId, Kind, Tree};
use crate::plan::FilePermission;

/// One line of an exclude list.
struct Pattern {
    glob: GlobMatcher,
    /// Written with a leading `!`: keeps what an earlier line excluded.
    keep: bool,
}

/// Removes what the patterns match, a directory with everything below it; the
/// last matching pattern decides, and one with a leading `!` keeps. `*` stops at
/// slashes, `**` does not. A directory stays as long as something in it is kept.
/// Returns the patterns that matched nothing, for a warning.
///
/// # Errors
/// Patterns that are no globs.
pub fn exclude(tree: &mut Tree, patterns: &[String]) -> Result<Vec<String>> {
    let compiled: Vec<Pattern> = patterns.iter().map(|p| compile(p)).collect::<Result<_>>()?;
    let mut used = vec![false; compiled.len()];
    let mut doomed = BTreeSet::new();
    for entry in tree.walk().filter(|e| !e.path.is_empty()) {
        let path = String::from_utf8_lossy(&entry.path);
        let parent = entry.path.iter().rposition(|&b| b == b'/').map(|slash| &entry.path[..slash]);
        let mut verdict = parent.is_some_and(|parent| doomed.contains(parent));
        for (i, pattern) in compiled.iter().enumerate() {
            if pattern.glob.is_match(path.as_ref()) {
                used[i] = true;
                verdict = !pattern.keep;
            }
        }
        if verdict {
            doomed.insert(entry.path);
        }
    }
    // Children sort after their parents: backwards, directories are met empty.
    for path in doomed.iter().rev() {
        let occupied = tree.get(path).and_then(|id| tree.entries(id)).is_some_and(|e| !e.is_empty());
        if !occupied {
            tree.remove(path);
        }
    }
    Ok(patterns.iter().zip(used).filter(|(_, used)| !used).map(|(p, _)| p.clone()).collect())
}

fn compile(pattern: &str) -> Result<Pattern> {
    let (keep, text) = match pattern.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let glob = GlobBuilder::new(text.trim_start_matches('/'))
        .literal_separator(true)
        .build()
        .with_context(|| format!("exclude pattern `{pattern}`"))?;
    Ok(Pattern { glob: glob.compile_matcher(), keep })
}

/// Sets owners and modes by path. Returns the paths that do not exist.
pub fn set_permissions(tree: &mut Tree, permissions: &BTreeMap<String, FilePermission>) -> Vec<String> {
    let mut missing = Vec::new();
    for (path, wanted) in permissions {
        match tree.resolve(path.as_bytes()) {
            Ok(id) => set_permission(tree, id, wanted),
            Err(_) => missing.push(path.clone()),
        }
    }
    missing
}

fn set_permission(tree: &mut Tree, id: InodeId, wanted: &FilePermission) {
    let mut pending = vec![id];
    while let Some(id) = pending.pop() {
        if let Some(entries) = tree.entries(id).filter(|_| wanted.recursive) {
            pending.extend(entries.values().copied());
        }
        let inode = tree.inode_mut(id);
        (inode.uid, inode.gid) = (wanted.uid, wanted.gid);
        if !matches!(inode.kind, Kind::Symlink(_)) {
            inode.mode = wanted.mode & 0o7777;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{listing, parse_listing};
    use super::*;

    fn names(tree: &Tree) -> Vec<String> {
        tree.walk().map(|e| String::from_utf8(e.path).unwrap()).collect()
    }

    #[test]
    fn the_last_matching_pattern_decides() {
        let mut tree = parse_listing(
            "file /usr/share/doc/a/copyright 0644 0 0 size=1
             file /usr/share/doc/a/README 0644 0 0 size=1
             file /usr/share/doc/b/x/y 0644 0 0 size=1
             file /etc/keep 0644 0 0 size=1",
        )
        .unwrap();
        let patterns = ["/usr/share/{doc,x}", "!/usr/share/doc/*/copyright", "/no/such"].map(String::from);
        assert_eq!(exclude(&mut tree, &patterns).unwrap(), ["/no/such"]);
        assert_eq!(
            names(&tree),
            [
                "",
                "etc",
                "etc/keep",
                "usr",
                "usr/share",
                "usr/share/doc",
                "usr/share/doc/a",
                "usr/share/doc/a/copyright"
            ]
        );
    }

    #[test]
    fn permissions_reach_below_a_trailing_slash_and_spare_links() {
        let mut tree =
            parse_listing("file /a/b 0644 0 0 text=x\nslink /a/l 0777 0 0 b\nfile /c 0644 0 0 text=x")
                .unwrap();
        let rule = |mode, recursive| FilePermission { uid: 5, gid: 6, mode, recursive };
        let rules = BTreeMap::from([
            ("/a/".to_string(), rule(0o700, true)),
            ("/c".to_string(), rule(0o4755, false)),
            ("/missing".to_string(), rule(0o644, false)),
        ]);
        assert_eq!(set_permissions(&mut tree, &rules), ["/missing"]);
        let x = crate::cache::hex_sha256(b"x");
        assert_eq!(
            listing(&tree).unwrap(),
            format!(
                "dir / 0755 0 0 mtime=0\ndir /a 0700 5 6 mtime=0\nfile /a/b 0700 5 6 mtime=0 size=1 sha256={x}\n\
                 slink /a/l 0777 5 6 b mtime=0\nfile /c 4755 5 6 mtime=0 size=1 sha256={x}\n"
            )
        );
    }
}
