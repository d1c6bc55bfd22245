//! `boot-order`: the files a boot reads, one path a line, in the order in which
//! it reads them. `liveiso test --record-boot-order` writes it; `#` starts a comment.

use std::collections::HashSet;
use std::path::Path;

use crate::diagnostic::{Diagnostics, Place};
use crate::profile::read_text;

/// The file's name in the profile's directory.
pub const BOOT_ORDER: &str = "boot-order";

/// The paths of a profile's boot order; none when it has no such file.
pub(super) fn boot_order(dir: &Path, diagnostics: &mut Diagnostics) -> Vec<String> {
    let path = dir.join(BOOT_ORDER);
    if path.symlink_metadata().is_err() {
        return Vec::new();
    }
    let Some(text) = read_text(&path, diagnostics) else {
        return Vec::new();
    };
    let file = diagnostics.add_file(&path, text.clone());
    paths(&text, |start, line| {
        let place = Place::new(file, start..start + line.len());
        diagnostics
            .error(&place, format!("`{line}` is no path: it must start with /"))
            .help("record the order again with `liveiso test PROFILE --record-boot-order`");
    })
}

/// Every path once; `refused` hears of lines that are none, with their byte offset.
fn paths(text: &str, mut refused: impl FnMut(usize, &str)) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut paths = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let path = line.trim_end_matches(['\n', '\r']);
        if path.starts_with('/') {
            if seen.insert(path) {
                paths.push(path.to_string());
            }
        } else if !path.is_empty() && !path.starts_with('#') {
            refused(start, path);
        }
        start += line.len();
    }
    paths
}

/// The file's text for these paths.
pub fn boot_order_text(paths: &[String]) -> String {
    let head = "# Files in the order in which a boot reads them; they come first in the image.\n\
                # Written by `liveiso test PROFILE --record-boot-order`.\n";
    std::iter::once(head).chain(paths.iter().flat_map(|path| [path, "\n"])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_paths_comments_or_mistakes() {
        let mut refused = Vec::new();
        let text = "# c\n/a\n\n/with blank\r\n/a\nusr/x\n  /y\n/z";
        let found = paths(text, |start, line| refused.push((start, line.to_string())));
        assert_eq!(found, ["/a", "/with blank", "/z"]);
        assert_eq!(refused, [(24, "usr/x".to_string()), (30, "  /y".to_string())]);
    }

    #[test]
    fn what_is_written_is_read() {
        let order = ["/usr/bin/busybox".to_string(), "/etc/rc".to_string()];
        let text = boot_order_text(&order);
        assert_eq!(paths(&text, |_, line| panic!("{line}")), order);
        assert!(text.ends_with("boot-order`.\n/usr/bin/busybox\n/etc/rc\n"), "{text}");
    }
}
