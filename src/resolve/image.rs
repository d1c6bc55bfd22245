//! `[root]`: format and compression of the root image.

use super::value::{bytes_of, choose, number};
use crate::diagnostic::Diagnostics;
use crate::format::squashfs::{default_level, levels};
use crate::plan::{Compression, RootFormat, RootImage};
use crate::profile::{RootTable, Text};

/// The block size when nothing else is asked for (bytes).
const BLOCK_SIZE: u32 = 128 << 10;
/// EROFS: larger clusters gain a half per cent more.
const CLUSTER_SIZE: u32 = 64 << 10;

/// Names for what a build wants, and what was measured for them.
///
/// A mount takes three fragment blocks (the kernel's fragment cache) and what the
/// decompressor works in, so RAM goes with the block size; README.md has all of
/// `cargo bench --bench image_ram`.
///
/// | squashfs of `profiles/rescue` (242 MB) | bytes | CPU s | kB while mounted |
/// |---|---|---|---|
/// | gzip 6, 128K (no name given) | 86,749,184 | 3.0 | 428 |
/// | gzip 9, 32K: `small-ram` | 89,743,360 | 6.2 | 76 |
/// | zstd 3, 128K: `fast` | 91,877,376 | 1.2 | 928 |
/// | lz4 3, 128K | 106,049,536 | 2.6 | 640 |
/// | xz 6, 256K: `small` | 67,932,160 | | 1152 |
/// | xz 6, 1M | 64,200,704 | | 4992 |
///
/// xz at 32K holds no more than gzip and is smaller, but a Pentium III would read
/// it nine times slower. xz at 1M also takes a builder beyond its bound of memory.
const NAMED: [(&str, RootImage); 3] = [
    ("small-ram", settings(Compression::Gzip, 9, 32 << 10)),
    ("fast", settings(Compression::Zstd, 3, 128 << 10)),
    ("small", settings(Compression::Xz, 6, 256 << 10)),
];

const fn settings(compression: Compression, level: u32, block_size: u32) -> RootImage {
    RootImage { format: RootFormat::Squashfs, compression, level, block_size }
}

pub(super) fn image(table: &RootTable, diagnostics: &mut Diagnostics) -> RootImage {
    let choices = [("squashfs", RootFormat::Squashfs), ("erofs", RootFormat::Erofs)];
    let format = table.format.as_ref().and_then(|f| choose(f, "format", &choices, diagnostics));
    let (name, defaults) = match format.unwrap_or_default() {
        RootFormat::Squashfs => squashfs(table, diagnostics),
        RootFormat::Erofs => erofs(table, diagnostics),
    };
    // A level says nothing about a compressor that is not known.
    let level = table.level.as_ref().filter(|_| name.is_some());
    let level = level.and_then(|l| {
        let key = format!("level` of `{}", name.unwrap_or_default());
        number(l, &key, levels(defaults.compression), diagnostics)
    });
    let block_size = table.block_size.as_ref().and_then(|b| block_size(b, diagnostics));
    RootImage {
        level: level.unwrap_or(defaults.level),
        block_size: block_size.unwrap_or(defaults.block_size),
        ..defaults
    }
}

/// The compressor's name, unless it is unknown, and what holds where nothing else is written.
fn squashfs(table: &RootTable, diagnostics: &mut Diagnostics) -> (Option<&'static str>, RootImage) {
    let compressors = [
        ("gzip", Compression::Gzip),
        ("xz", Compression::Xz),
        ("zstd", Compression::Zstd),
        ("lz4", Compression::Lz4),
        ("lzo", Compression::Lzo),
    ];
    let plain = |c: Compression| settings(c, default_level(c), BLOCK_SIZE);
    let mut choices = compressors.map(|(name, c)| (name, plain(c))).to_vec();
    choices.extend(NAMED);
    let chosen = match &table.compression {
        Some(written) => choose(written, "compression", &choices, diagnostics),
        None => Some(plain(Compression::Gzip)),
    };
    let image = chosen.unwrap_or_else(|| plain(Compression::Gzip));
    let name = compressors.iter().find(|(_, c)| *c == image.compression).map(|(name, _)| *name);
    (name.filter(|_| chosen.is_some()), image)
}

fn erofs(table: &RootTable, diagnostics: &mut Diagnostics) -> (Option<&'static str>, RootImage) {
    let compression = Compression::Lz4;
    if let Some(written) = table.compression.as_ref().filter(|written| written.value != "lz4") {
        let message =
            format!("`{}` is no compression for `format = \"erofs\"`, only `lz4` is", written.value);
        diagnostics
            .error(&written.place, message)
            .help("leave it out, or take `format = \"squashfs\"`; bookworm's kernel reads no other EROFS");
    }
    let level = default_level(compression);
    (Some("lz4"), RootImage { format: RootFormat::Erofs, compression, level, block_size: CLUSTER_SIZE })
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
