//! `[file-permissions]`: archiso's `"/path" = "uid:gid:mode"`, where a trailing
//! slash means everything below as well.

use std::collections::{BTreeMap, BTreeSet};

use super::value::meant;
use crate::diagnostic::Diagnostics;
use crate::plan::{FilePermission, Overlay};
use crate::profile::{Profile, Text};
use crate::tree::components;

pub(super) fn file_permissions(
    profile: &Profile,
    overlays: &[Overlay],
    diagnostics: &mut Diagnostics,
) -> BTreeMap<String, FilePermission> {
    let known = overlay_paths(overlays);
    let mut rules = BTreeMap::new();
    for (path, value) in &profile.file_permissions {
        let path_is_legal = check_path(path, &known, diagnostics);
        if let (true, Some(rule)) = (path_is_legal, permission(path, value, diagnostics)) {
            rules.insert(path.value.clone(), rule);
        }
    }
    rules
}

/// Every path of the overlays with its parents, with a leading slash.
fn overlay_paths(overlays: &[Overlay]) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for file in overlays.iter().flat_map(|overlay| overlay.files.keys()) {
        let file = file.trim_end_matches('/');
        paths.extend(file.match_indices('/').map(|(at, _)| format!("/{}", &file[..at])));
        paths.insert(format!("/{file}"));
    }
    paths
}

fn check_path(path: &Text, known: &BTreeSet<String>, diagnostics: &mut Diagnostics) -> bool {
    let text = path.value.as_str();
    let names = components(text.as_bytes());
    let message = match &names {
        _ if !text.starts_with('/') => format!("`{text}` must be an absolute path of the live system"),
        Err(error) => format!("{error}"),
        Ok(names) if names.is_empty() => "the owner of the whole root cannot be changed".to_string(),
        Ok(_) => {
            warn_of_no_match(path, known, diagnostics);
            return true;
        }
    };
    let diagnostic = diagnostics.error(&path.place, message);
    if !text.starts_with('/') && names.is_ok() {
        diagnostic.help(format!("write `/{text}`"));
    }
    false
}

/// A path no overlay has may still come from a package; the build, which sees
/// the packages' files, fails when it does not.
fn warn_of_no_match(path: &Text, known: &BTreeSet<String>, diagnostics: &mut Diagnostics) {
    let wanted = path.value.trim_end_matches('/');
    if known.contains(wanted) {
        return;
    }
    let message = format!("no overlay has `{wanted}`; this works only if a package brings it");
    let diagnostic = diagnostics.warning(&path.place, message);
    if let Some(help) = meant(wanted, known.iter().map(String::as_str)) {
        diagnostic.help(help);
    }
}

fn permission(path: &Text, value: &Text, diagnostics: &mut Diagnostics) -> Option<FilePermission> {
    let parsed = parse(&value.value, path.value.ends_with('/'));
    if parsed.is_none() {
        diagnostics
            .error(&value.place, format!("`{}` is no `uid:gid:mode`", value.value))
            .help("write numbers, the mode in octal: `0:0:0400`");
    }
    parsed
}

fn parse(text: &str, recursive: bool) -> Option<FilePermission> {
    let mut parts = text.split(':');
    let mut next = || parts.next().filter(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let (uid, gid, mode) = (next()?, next()?, next()?);
    let mode = u16::from_str_radix(mode, 8).ok().filter(|m| *m <= 0o7777)?;
    if parts.next().is_some() {
        return None;
    }
    // -1 means "leave as it is" to chown, so it is nobody's number.
    let id = |text: &str| text.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    Some(FilePermission { uid: id(uid)?, gid: id(gid)?, mode, recursive })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_three_numbers() {
        let rule = |uid, gid, mode| Some(FilePermission { uid, gid, mode, recursive: false });
        for (text, expected) in [
            ("0:0:400", rule(0, 0, 0o400)),
            ("1000:1000:4755", rule(1000, 1000, 0o4755)),
            ("0:42:0640", rule(0, 42, 0o640)),
            ("4294967294:0:644", rule(4_294_967_294, 0, 0o644)),
            ("4294967295:0:644", None),
            ("0:0:800", None),
            ("0:0:10000", None),
            ("0:0", None),
            ("0:0:644:1", None),
            ("root:root:644", None),
            ("0:0:+644", None),
            ("", None),
        ] {
            assert_eq!(parse(text, false), expected, "{text}");
        }
    }
}
