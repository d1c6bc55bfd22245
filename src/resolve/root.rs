//! `[root]`: how the root tree is made and written.

use std::collections::BTreeMap;
use std::path::Path;

use globset::GlobBuilder;

use super::description::{self, Whose};
use super::image::image;
use super::value::choose;
use crate::diagnostic::Diagnostics;
use crate::plan::{FilePermission, Root, RootMode};
use crate::profile::{RootTable, Text};

pub(super) fn mode(table: &RootTable, diagnostics: &mut Diagnostics) -> RootMode {
    let choices = [("configured", RootMode::Configured), ("unpacked", RootMode::Unpacked)];
    let written = table.mode.as_ref();
    written.and_then(|m| choose(m, "mode", &choices, diagnostics)).unwrap_or(RootMode::Configured)
}

pub(super) fn root(
    dir: &Path,
    table: &RootTable,
    mode: RootMode,
    file_permissions: BTreeMap<String, FilePermission>,
    boot_order: Vec<String>,
    diagnostics: &mut Diagnostics,
) -> Root {
    let exclude = table.exclude.as_ref().map(|e| e.value.as_slice()).unwrap_or_default();
    Root {
        mode,
        exclude: exclude.iter().filter_map(|pattern| pattern_of(pattern, diagnostics)).collect(),
        description: description::description(dir, table.description.as_ref(), Whose::Root, diagnostics),
        file_permissions,
        image: image(table, diagnostics),
        boot_order,
        verity: table.verity.as_ref().is_some_and(|wanted| wanted.value),
    }
}

/// A glob against `/path`, `!` in front keeps what an earlier one excludes.
fn pattern_of(written: &Text, diagnostics: &mut Diagnostics) -> Option<String> {
    let glob = written.value.strip_prefix('!').unwrap_or(&written.value);
    if !glob.starts_with('/') {
        diagnostics
            .error(&written.place, format!("exclude pattern `{}` must start with /", written.value))
            .help("patterns are matched against whole paths of the live system, such as /usr/share/doc/**");
        return None;
    }
    if let Err(error) = GlobBuilder::new(glob).literal_separator(true).build() {
        let message = format!("exclude pattern `{}` is no glob: {}", written.value, error.kind());
        diagnostics.error(&written.place, message);
        return None;
    }
    Some(written.value.clone())
}
