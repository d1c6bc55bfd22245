//! `programs` of `[initramfs]` and `[initramfs.hooks]`: what a profile adds to /init.

use std::path::Path;

use super::description::pin;
use super::value::without_duplicates;
use crate::diagnostic::{Diagnostics, Spanned};
use crate::plan::{Hook, HookStage, Layout};
use crate::profile::{HooksTable, Text};
use crate::tree::components;

/// Absolute paths of files in the root's packages.
pub(super) fn programs(written: Option<&Spanned<Vec<Text>>>, diagnostics: &mut Diagnostics) -> Vec<String> {
    let Some(written) = written else { return Vec::new() };
    let mut kept = Vec::new();
    for (name, place) in without_duplicates(&written.value, "program", diagnostics) {
        let is_path = name.starts_with('/') && components(name.as_bytes()).is_ok_and(|names| names.len() > 1);
        if is_path {
            kept.push(name);
        } else {
            diagnostics
                .error(&place, format!("`{name}` is no absolute path of a program"))
                .help("write it as in the root: `/usr/sbin/nbd-client`");
        }
    }
    kept
}

/// The hooks stage by stage, in the order written.
pub(super) fn hooks(
    dir: &Path,
    table: &HooksTable,
    layout: Layout,
    diagnostics: &mut Diagnostics,
) -> Vec<Hook> {
    let stages = [
        (HookStage::Media, &table.media),
        (HookStage::Mount, &table.mount),
        (HookStage::Bottom, &table.bottom),
    ];
    let mut hooks: Vec<Hook> = Vec::new();
    for (stage, written) in stages {
        let Some(written) = written else { continue };
        if layout == Layout::Resident {
            diagnostics
                .error(&written.place, "the layout `resident` has no stages to hook into")
                .help("its root is the initramfs: start the script from there");
            continue;
        }
        for (path, place) in without_duplicates(&written.value, "hook", diagnostics) {
            hooks.extend(hook(dir, stage, &Spanned { value: path, place }, diagnostics));
        }
    }
    hooks
}

fn hook(dir: &Path, stage: HookStage, path: &Text, diagnostics: &mut Diagnostics) -> Option<Hook> {
    let content = match pin(dir, &path.value) {
        Ok(content) => content,
        Err((message, help)) => {
            diagnostics.error(&path.place, message).help(help);
            return None;
        }
    };
    let name = path.value.rsplit('/').next().unwrap_or_default().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !name.chars().all(is_plain) {
        diagnostics
            .error(&path.place, format!("`{name}` cannot be the name of a hook"))
            .help("take letters, digits, - _ and .");
        return None;
    }
    Some(Hook { stage, name, content })
}
