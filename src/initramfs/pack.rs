//! From the tree to the bytes the boot loader loads.

use anyhow::{Context, Result, bail, ensure};

use super::kernel_format::{Part, PartFormat, unpack};
use crate::format::cpio;
use crate::plan::{Arch, Compression};
use crate::tree::{Content, Kind, Meta, Tree};
use liblzma::stream::{Check, Filters, LzmaOptions, Stream};

/// Window of zstd and dictionary of xz: the kernel allocates it while the
/// compressed archive and most of the unpacked one are in RAM.
const WINDOW_LOG: u32 = 20;
/// A boot loader puts archives one after another; each begins at a multiple of this.
const ALIGNMENT: usize = 512;
/// The page size of x86.
const PAGE: u64 = 4096;

/// An initramfs archive as it goes onto the medium.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The archive, zeros up to a multiple of 512 included.
    pub bytes: Vec<u8>,
    /// What it weighs.
    pub sizes: Sizes,
}

/// What an initramfs weighs, in bytes unless said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sizes {
    /// The cpio archive before compression.
    pub archive: u64,
    /// On the medium, padding included.
    pub compressed: u64,
    /// What the decompressor allocates for its window or dictionary.
    pub window: u64,
    /// The files in RAM, whole pages each.
    pub unpacked: u64,
    /// Number of kernel modules.
    pub modules: u64,
}

impl Sizes {
    /// RAM a machine must have for the kernel to reach /init and for /init to
    /// work: what Debian's kernel keeps for itself, the packed and the unpacked
    /// archive, the window, 12 MiB of room. Measured boots are within 4 MiB of it.
    pub fn predicted_ram(&self, arch: Arch) -> u64 {
        // 128 MiB less MemTotal, measured with Debian's 6.1 kernels.
        let kernel = match arch {
            Arch::I386 => 17_088 << 10,
            Arch::Amd64 => 49_152 << 10,
        };
        kernel + self.compressed + self.unpacked + self.window + (12 << 20)
    }
}

/// Writes a tree as a compressed archive the kernel unpacks, and reads it back
/// to make sure. The same tree gives the same bytes, whatever the machine.
///
/// # Errors
/// Compressions other than zstd and xz, what cpio cannot hold, and a result
/// the kernel would refuse or that needs a window over 1 MiB.
pub fn pack(tree: &Tree, compression: Compression) -> Result<Packed> {
    let mut archive = Vec::new();
    cpio::write(tree, &mut archive)?;
    let mut bytes = match compression {
        Compression::Zstd => zstd(&archive).context("compressing the initramfs with zstd")?,
        Compression::Xz => xz(&archive).context("compressing the initramfs with xz")?,
        Compression::Gzip | Compression::Lz4 => {
            bail!("an initramfs is compressed with zstd or xz, not {compression:?}")
        }
    };
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    let window = check(&bytes, &archive).context("reading the initramfs back")?;
    let sizes = Sizes {
        archive: archive.len() as u64,
        compressed: bytes.len() as u64,
        window,
        unpacked: unpacked_size(tree),
        modules: tree.walk().filter(|entry| entry.path.ends_with(b".ko")).count() as u64,
    };
    Ok(Packed { bytes, sizes })
}

/// The small plain archive that follows the base: `/etc/liveiso/id` with the id
/// of the finished build and, as the very last member, the empty `/.complete`,
/// which is there only if everything before it was.
///
/// # Errors
/// An id that is not 24 lower-case hex digits, a time cpio cannot hold.
pub fn id_archive(build_id: &str, timestamp: i64) -> Result<Vec<u8>> {
    let is_id = build_id.len() == 24 && build_id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    ensure!(is_id, "build id `{build_id}` is not 24 lower-case hexadecimal digits");
    let mut tree = Tree::new();
    let origin = tree.add_origin("build id");
    let meta = |mode| Meta { mtime: timestamp, ..Meta::mode(mode) };
    for directory in [&b""[..], b"etc", b"etc/liveiso"] {
        tree.add_directory(directory, meta(0o755), origin)?;
    }
    let id = Content::bytes(format!("{build_id}\n"));
    tree.add_file(b"etc/liveiso/id", id, meta(0o644), origin)?;
    tree.add_file(b".complete", Content::bytes([]), meta(0o644), origin)?;
    let mut bytes = Vec::new();
    cpio::write_by(&tree, |path| path == b".complete", &mut bytes)?;
    Ok(bytes)
}

/// One frame, one thread, checksum, content size in the header.
fn zstd(archive: &[u8]) -> Result<Vec<u8>> {
    use zstd::zstd_safe::CParameter;
    let mut compressor = zstd::bulk::Compressor::new(19)?;
    compressor.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
    Ok(compressor.compress(archive)?)
}

/// One block, the x86 filter, CRC32: the only check the kernel knows.
fn xz(archive: &[u8]) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut options = LzmaOptions::new_preset(9 | liblzma_extreme())?;
    options.dict_size(1 << WINDOW_LOG);
    let mut filters = Filters::new();
    filters.x86().lzma2(&options);
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32)?;
    let mut bytes = Vec::new();
    liblzma::bufread::XzEncoder::new_stream(archive, stream).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// `LZMA_PRESET_EXTREME`.
const fn liblzma_extreme() -> u32 {
    1 << 31
}

/// What the kernel would make of the bytes; returns the window.
fn check(bytes: &[u8], archive: &[u8]) -> Result<u64> {
    let (tree, parts) = unpack(bytes)?;
    let [Part { offset: 0, unpacked, format, .. }] = parts[..] else {
        bail!("it has {} parts, not one", parts.len());
    };
    ensure!(unpacked == archive.len(), "it unpacks to {unpacked} bytes, not to {}", archive.len());
    let mut again = Vec::new();
    cpio::write(&tree, &mut again)?;
    ensure!(again == archive, "it unpacks to other files than went in");
    let checked = match format {
        PartFormat::Plain => false,
        PartFormat::Zstd { checksum, .. } => checksum,
        PartFormat::Xz { crc32, .. } => crc32,
    };
    ensure!(checked, "it has no checksum");
    ensure!(format.window() <= 1 << WINDOW_LOG, "its window has {} bytes", format.window());
    Ok(format.window())
}

/// Bytes the files take in the kernel's page cache, hard links once.
fn unpacked_size(tree: &Tree) -> u64 {
    let mut seen = std::collections::BTreeSet::new();
    let files = tree.walk().filter(|entry| seen.insert(entry.id));
    let pages = files.map(|entry| match &entry.inode.kind {
        Kind::File(content) => content.len().next_multiple_of(PAGE),
        _ => 0,
    });
    pages.sum()
}
