//! From the tree to the bytes the boot loader loads.

use anyhow::{Context, Result, bail, ensure};

use super::kernel_format::{Part, PartFormat, unpack};
use super::sizes::Sizes;
use crate::cache::FileDigest;
use crate::format::cpio;
use crate::plan::Compression;
use crate::tree::{Content, Meta, Tree};
use liblzma::stream::{Check, Filters, LzmaOptions, Stream};

/// Window of zstd and dictionary of xz, bytes: the kernel allocates it while the
/// compressed archive and most of the unpacked one are in RAM. The smallest costs 4 % more
/// on the medium than the largest.
const WINDOWS: std::ops::RangeInclusive<u32> = 128 << 10..=1 << 20;
/// A boot loader puts archives one after another; each begins at a multiple of this.
const ALIGNMENT: usize = 512;
/// `LZMA_PRESET_EXTREME`: search longer, same memory for the reader.
const EXTREME: u32 = 1 << 31;

/// An initramfs archive as it goes onto the medium.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The archive, zeros up to a multiple of 512 included.
    pub bytes: Vec<u8>,
    /// What it weighs.
    pub sizes: Sizes,
}

/// Writes a tree as a compressed archive the kernel unpacks, and reads it back
/// to make sure. The same tree gives the same bytes, whatever the machine.
///
/// # Errors
/// Compressions other than zstd and xz, what cpio cannot hold, and a result
/// the kernel would refuse or that needs a larger window than it was given.
pub fn pack(tree: &Tree, compression: Compression) -> Result<Packed> {
    let mut archive = Vec::new();
    cpio::write(tree, &mut archive)?;
    let weight = Sizes::of(tree);
    let window = window(&weight);
    let mut bytes = match compression {
        Compression::Zstd => zstd(&archive, window).context("compressing the initramfs with zstd")?,
        Compression::Xz => xz(&archive, window).context("compressing the initramfs with xz")?,
        Compression::Gzip | Compression::Lz4 | Compression::Lzo => {
            bail!("an initramfs is compressed with zstd or xz, not {compression:?}")
        }
    };
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    let window = check(&bytes, &archive, window).context("reading the initramfs back")?;
    let sizes = Sizes { archive: archive.len() as u64, compressed: bytes.len() as u64, window, ..weight };
    Ok(Packed { bytes, sizes })
}

/// The largest window that does not raise the least RAM: of a large initramfs the
/// first root's half of it decides, and the window comes for nothing.
fn window(weight: &Sizes) -> u32 {
    let free = weight.window_for_nothing().max(1).ilog2();
    (1 << free.min(31)).clamp(*WINDOWS.start(), *WINDOWS.end())
}

/// The small plain archive that follows the base: `/etc/liveiso/id` with the id
/// of the finished build, `/etc/liveiso/image` with SHA-256 and size of the root
/// image, by which /init judges one from the network, `/etc/liveiso/verity` with the
/// device mapper's words for its hash tree if it has one, and, as the very last
/// member, the empty `/.complete`, which is there only if everything before it was.
///
/// # Errors
/// An id that is not 24 lower-case hex digits, a time cpio cannot hold.
pub fn id_archive(
    build_id: &str,
    image: &FileDigest,
    verity: Option<&str>,
    timestamp: i64,
) -> Result<Vec<u8>> {
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
    let image = Content::bytes(format!("{} {}\n", image.sha256, image.size));
    tree.add_file(b"etc/liveiso/image", image, meta(0o644), origin)?;
    if let Some(words) = verity {
        let words = Content::bytes(format!("{words}\n"));
        tree.add_file(b"etc/liveiso/verity", words, meta(0o644), origin)?;
    }
    tree.add_file(b".complete", Content::bytes([]), meta(0o644), origin)?;
    let mut bytes = Vec::new();
    cpio::write_by(&tree, |path| path == b".complete", &mut bytes)?;
    Ok(bytes)
}

/// One frame, one thread, checksum, content size in the header.
fn zstd(archive: &[u8], window: u32) -> Result<Vec<u8>> {
    use zstd::zstd_safe::CParameter;
    let mut compressor = zstd::bulk::Compressor::new(19)?;
    compressor.set_parameter(CParameter::WindowLog(window.ilog2()))?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    compressor.set_parameter(CParameter::ContentSizeFlag(true))?;
    Ok(compressor.compress(archive)?)
}

/// One block, CRC32: the only check the kernel knows. The x86 filter, which the
/// kernel knows, too, makes modules larger (3.45 MB instead of 3.34): the calls
/// of a relocatable object have no targets yet.
fn xz(archive: &[u8], window: u32) -> Result<Vec<u8>> {
    use std::io::Read;
    let mut options = LzmaOptions::new_preset(9 | EXTREME)?;
    options.dict_size(window);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let stream = Stream::new_stream_encoder(&filters, Check::Crc32)?;
    let mut bytes = Vec::new();
    liblzma::bufread::XzEncoder::new_stream(archive, stream).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What the kernel would make of the bytes; returns the window.
fn check(bytes: &[u8], archive: &[u8], window: u32) -> Result<u64> {
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
    ensure!(format.window() <= u64::from(window), "its window has {} bytes", format.window());
    Ok(format.window())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initramfs::base::tests::small_base;
    use crate::tree::listing;

    const ID: &str = "0123456789abcdef01234567";

    fn image() -> FileDigest {
        FileDigest { sha256: "ab".repeat(32), size: 70_000 }
    }

    #[test]
    fn an_initramfs_is_what_its_tree_says_with_the_id_behind_it() {
        let tree = small_base();
        for compression in [Compression::Zstd, Compression::Xz] {
            let Packed { mut bytes, sizes } = pack(&tree, compression).unwrap();
            assert_eq!(pack(&tree, compression).unwrap().bytes, bytes);
            assert_eq!(bytes.len() % 512, 0);
            let expected = Sizes {
                archive: 5120,
                compressed: bytes.len() as u64,
                unpacked: 8 * 4096,
                modules: 2,
                microcode: 0,
                squashed: 0,
                ..sizes
            };
            assert_eq!(sizes, expected);
            let base_len = bytes.len();
            bytes.extend(id_archive(ID, &image(), None, 1000).unwrap());
            let (found, parts) = unpack(&bytes).unwrap();
            assert_eq!(parts.len(), 2);
            assert_eq!((parts[1].offset, parts[1].format), (base_len, PartFormat::Plain));
            let mut expected = tree.clone();
            let origin = expected.add_origin("id");
            let meta = Meta { mtime: 1000, ..Meta::mode(0o644) };
            let id = Content::bytes(format!("{ID}\n"));
            expected.add_file(b"etc/liveiso/id", id, meta, origin).unwrap();
            let line = Content::bytes(format!("{} 70000\n", "ab".repeat(32)));
            expected.add_file(b"etc/liveiso/image", line, meta, origin).unwrap();
            expected.add_file(b".complete", Content::bytes([]), meta, origin).unwrap();
            assert_eq!(listing(&found).unwrap(), listing(&expected).unwrap());
        }
    }

    #[test]
    fn the_last_member_is_the_mark_of_completeness() {
        let bytes = id_archive(ID, &image(), None, 1000).unwrap();
        let place = |name: &[u8]| bytes.windows(name.len()).rposition(|w| w == name).unwrap();
        assert!(place(b".complete\0") > place(b"etc/liveiso/image\0"));
        for id in ["", "0123456789abcdef0123456", "0123456789ABCDEF01234567", "0123456789abcdef0123456/"] {
            let message = format!("build id `{id}` is not 24 lower-case hexadecimal digits");
            assert_eq!(id_archive(id, &image(), None, 0).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn other_compressions_are_refused() {
        let error = pack(&small_base(), Compression::Gzip).unwrap_err();
        assert_eq!(error.to_string(), "an initramfs is compressed with zstd or xz, not Gzip");
    }

    #[test]
    fn the_window_is_as_large_as_it_can_be_for_nothing() {
        for (mebibytes, window) in [(3, 128 << 10), (10, 512 << 10), (11, 1 << 20)] {
            let mut tree = Tree::new();
            let origin = tree.add_origin("test");
            let content = [vec![0; (mebibytes - 3) << 20], noise(3 << 20)].concat();
            tree.add_file(b"big", Content::bytes(content), Meta::default(), origin).unwrap();
            for compression in [Compression::Zstd, Compression::Xz] {
                assert_eq!(pack(&tree, compression).unwrap().sizes.window, window, "{mebibytes}");
            }
        }
    }

    fn noise(length: u32) -> Vec<u8> {
        (0..length).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn damage_never_yields_other_files() {
        let tree = small_base();
        for compression in [Compression::Zstd, Compression::Xz] {
            let good = pack(&tree, compression).unwrap();
            let mut archive = Vec::new();
            cpio::write(&tree, &mut archive).unwrap();
            let end = good.bytes.iter().rposition(|&b| b != 0).unwrap();
            for at in 0..=end {
                for flip in [1, 0x80] {
                    let mut bytes = good.bytes.clone();
                    bytes[at] ^= flip;
                    // Some bits mean nothing to the decompressor.
                    let same = || check(&bytes, &archive, *WINDOWS.end()).is_ok();
                    assert!(unpack(&bytes).is_err() || same(), "{compression:?}: byte {at} ^ {flip}");
                }
                let _ = unpack(&good.bytes[..at]);
            }
        }
    }
}
