//! `[root]`: how the root tree is made and written.

use std::collections::BTreeMap;

use globset::GlobBuilder;

use super::value::{bytes_of, choose, number};
use crate::diagnostic::Diagnostics;
use crate::format::squashfs::{default_level, levels};
use crate::plan::{Compression, FilePermission, Root, RootImage, RootMode};
use crate::profile::{RootTable, Text};

pub(super) fn mode(table: &RootTable, diagnostics: &mut Diagnostics) -> RootMode {
    let choices = [("configured", RootMode::Configured), ("unpacked", RootMode::Unpacked)];
    let written = table.mode.as_ref();
    written.and_then(|m| choose(m, "mode", &choices, diagnostics)).unwrap_or(RootMode::Configured)
}

pub(super) fn root(
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

fn image(table: &RootTable, diagnostics: &mut Diagnostics) -> RootImage {
    let choices = [
        ("gzip", Compression::Gzip),
        ("xz", Compression::Xz),
        ("zstd", Compression::Zstd),
        ("lz4", Compression::Lz4),
        ("lzo", Compression::Lzo),
    ];
    let chosen = match &table.compression {
        Some(written) => choose(written, "compression", &choices, diagnostics),
        None => Some(Compression::Gzip),
    };
    let compression = chosen.unwrap_or(Compression::Gzip);
    let name = choices.iter().find(|(_, c)| *c == compression).map_or("", |(name, _)| name);
    // A level says nothing about a compressor that is not known.
    let level = table.level.as_ref().filter(|_| chosen.is_some());
    let level =
        level.and_then(|l| number(l, &format!("level` of `{name}"), levels(compression), diagnostics));
    let block_size = table.block_size.as_ref().and_then(|b| block_size(b, diagnostics));
    RootImage {
        compression,
        level: level.unwrap_or(default_level(compression)),
        block_size: block_size.unwrap_or(128 << 10),
    }
}

/// `4K` to `1M`, a power of two.
fn block_size(written: &Text, diagnostics: &mut Diagnostics) -> Option<u32> {
    let bytes = bytes_of(&written.value).and_then(|bytes| u32::try_from(bytes).ok());
    let legal = bytes.filter(|b| b.is_power_of_two() && (4 << 10..=1 << 20).contains(b));
    if legal.is_none() {
        let message = format!(
            "`block-size` must be a power of two from 4K to 1M, but this is {}",
            if bytes.is_some() { format!("`{}`", written.value) } else { "no size".to_string() }
        );
        let help = "write it as `128K`; larger blocks compress better and cost more RAM";
        diagnostics.error(&written.place, message).help(help);
    }
    legal
}
