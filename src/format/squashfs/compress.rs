//! The five compressors, one context a thread.
//!
//! gzip is libdeflate in a zlib wrapper: at level 6 it is smaller than zlib's
//! level 9 for a tenth of the time. Every block of an xz image is an .xz stream
//! of its own, so the x86 filter is a per-block choice the kernel follows
//! without being told; announcing it in the options is for people who look.
//! lzo is lzokay, pure Rust, which searches as LZO's own best level does.
//!
//! The upper levels of xz are not quite liblzma's, see [`lzma_options`].

use anyhow::{Context, Result, bail};
use liblzma::stream::{Action, Check, Filters, LzmaOptions, Status, Stream};
use lz4::block::CompressionMode;

use super::layout::METADATA_SIZE;
use crate::plan::Compression;

/// Levels each compressor takes. gzip: libdeflate's. lz4: 1 and 2 are plain lz4, 3 to 12 lz4hc. lzo has one.
pub fn levels(compression: Compression) -> std::ops::RangeInclusive<u32> {
    match compression {
        Compression::Gzip | Compression::Lz4 => 1..=12,
        Compression::Xz => 0..=9,
        Compression::Zstd => 1..=22,
        Compression::Lzo => 1..=1,
    }
}

/// The level used when none is asked for.
pub fn default_level(compression: Compression) -> u32 {
    match compression {
        Compression::Gzip | Compression::Xz => 6,
        Compression::Zstd => 15,
        Compression::Lz4 => 12,
        Compression::Lzo => 1,
    }
}

const FIRST_HC_LEVEL: u32 = 3;

/// What decides the bytes of a compressed block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub compression: Compression,
    pub level: u32,
    pub block_size: u32,
}

impl Settings {
    /// The kernel sizes its window by the data block, metadata being the least.
    fn dictionary(self) -> u32 {
        self.block_size.max(METADATA_SIZE as u32)
    }

    /// Content of the options block behind the superblock, where one is needed:
    /// lz4 always, xz to announce the x86 filter, the others when the level is
    /// not the one every tool assumes.
    pub fn options_block(self) -> Option<Vec<u8>> {
        let words = |words: &[u32]| Some(words.iter().flat_map(|w| w.to_le_bytes()).collect());
        match self.compression {
            // unsquashfs takes levels up to 9; window of 15 bits, default strategy.
            Compression::Gzip if self.level < 9 => words(&[self.level, 15]),
            Compression::Gzip => None,
            Compression::Zstd if self.level == 15 => None,
            Compression::Zstd => words(&[self.level]),
            Compression::Xz => words(&[self.dictionary(), 1]),
            // Tools assume LZO1X-999, which is what the stream is like.
            Compression::Lzo => None,
            Compression::Lz4 => words(&[1, u32::from(self.level >= FIRST_HC_LEVEL)]),
        }
    }
}

/// A compressor with its memory, reused from block to block.
pub(super) enum Codec {
    Gzip(libdeflater::Compressor),
    Zstd(zstd::bulk::Compressor<'static>),
    /// liblzma's contexts can be neither reused nor sent to another thread.
    Xz(Settings),
    Lz4(CompressionMode),
    Lzo(Box<lzokay::compress::Dict>),
}

impl Codec {
    /// Allocates a context.
    ///
    /// # Errors
    /// A level the compressor does not have.
    pub fn new(settings: Settings) -> Result<Codec> {
        let level = settings.level as i32;
        Ok(match settings.compression {
            Compression::Gzip => {
                let level = libdeflater::CompressionLvl::new(level)
                    .map_err(|e| anyhow::anyhow!("gzip level {level}: {e:?}"))?;
                Codec::Gzip(libdeflater::Compressor::new(level))
            }
            // Parameters of our own gave the size of level 15 for 0.95 of its time, no better.
            Compression::Zstd => Codec::Zstd(zstd::bulk::Compressor::new(level).context("starting zstd")?),
            Compression::Xz => Codec::Xz(settings),
            Compression::Lz4 => Codec::Lz4(match settings.level {
                ..FIRST_HC_LEVEL => CompressionMode::DEFAULT,
                _ => CompressionMode::HIGHCOMPRESSION(level),
            }),
            Compression::Lzo => Codec::Lzo(lzokay::compress::Dict::new()),
        })
    }

    /// Compresses `raw` into `out`, whose old content is dropped. `false` means
    /// that nothing would be gained and `raw` is to be stored; `out` is then
    /// undefined.
    ///
    /// # Errors
    /// The compressor's own failures (memory).
    pub fn compress(&mut self, raw: &[u8], is_x86_code: bool, out: &mut Vec<u8>) -> Result<bool> {
        if !matches!(self, Codec::Lz4(_)) && is_noise(raw, out)? {
            return Ok(false);
        }
        let length = match self {
            Codec::Gzip(compressor) => {
                out.resize(raw.len(), 0);
                match compressor.zlib_compress(raw, out) {
                    Ok(length) => length,
                    Err(libdeflater::CompressionError::InsufficientSpace) => return Ok(false),
                }
            }
            Codec::Zstd(compressor) => {
                out.resize(zstd::zstd_safe::compress_bound(raw.len()), 0);
                compressor.compress_to_buffer(raw, out.as_mut_slice()).context("compressing with zstd")?
            }
            Codec::Xz(settings) => return compress_xz(*settings, is_x86_code, raw, out),
            Codec::Lz4(mode) => {
                out.resize(lz4::block::compress_bound(raw.len())?, 0);
                lz4::block::compress_to_buffer(raw, Some(*mode), false, out)
                    .context("compressing with lz4")?
            }
            Codec::Lzo(dictionary) => {
                out.resize(lzokay::compress::compress_worst_size(raw.len()), 0);
                lzokay::compress::compress_no_alloc(raw, out, dictionary)
                    .map_err(|e| anyhow::anyhow!("compressing with lzo: {e}"))?
            }
        };
        out.truncate(length);
        Ok(length < raw.len())
    }
}

/// Whether no compressor can gain anything worth its time: every byte value is
/// about as frequent as any other, and lz4 in its fastest mode finds no repetition (within 64 KiB).
/// Integers only, so that the answer is the same on every host.
fn is_noise(raw: &[u8], scratch: &mut Vec<u8>) -> Result<bool> {
    const LEAST: usize = 16 << 10;
    if raw.len() < LEAST {
        return Ok(false);
    }
    let mut counts = [0_u64; 256];
    raw.iter().for_each(|&byte| counts[usize::from(byte)] += 1);
    let squares: u64 = counts.iter().map(|count| count * count).sum();
    let even = (raw.len() as u64).pow(2) / 256;
    // An excess of a 32nd is worth 0.02 bits a byte to an entropy coder.
    if squares > even + even / 32 {
        return Ok(false);
    }
    scratch.resize(lz4::block::compress_bound(raw.len())?, 0);
    let fastest = CompressionMode::FAST(8);
    let length =
        lz4::block::compress_to_buffer(raw, Some(fastest), false, scratch).context("compressing with lz4")?;
    Ok(length >= raw.len() - raw.len() / 128)
}

/// With the dictionary bound to the block, liblzma's presets 6 to 9 are the
/// same. Here they differ in how long and how often they search: 6 is within
/// 0.2 % of the preset's size for nine tenths of its time, 7 is the preset.
fn lzma_options(settings: Settings) -> Result<LzmaOptions> {
    let mut options = LzmaOptions::new_preset(settings.level).context("starting xz")?;
    options.dict_size(settings.dictionary());
    match settings.level {
        6 => options.nice_len(48).depth(24),
        8 => options.nice_len(128),
        9 => options.nice_len(273),
        _ => &mut options,
    };
    Ok(options)
}

fn compress_xz(settings: Settings, is_x86_code: bool, raw: &[u8], out: &mut Vec<u8>) -> Result<bool> {
    let options = lzma_options(settings)?;
    let mut filters = Filters::new();
    if is_x86_code {
        filters.x86();
    }
    filters.lzma2(&options);
    // CRC32 is the only check the kernel's decoder knows.
    let mut stream = Stream::new_stream_encoder(&filters, Check::Crc32).context("starting xz")?;
    out.clear();
    out.reserve_exact(raw.len());
    loop {
        let before = (stream.total_in(), stream.total_out());
        let rest = &raw[before.0 as usize..];
        match stream.process_vec(rest, out, Action::Finish).context("compressing with xz")? {
            Status::StreamEnd => return Ok(out.len() < raw.len()),
            _ if (stream.total_in(), stream.total_out()) == before || out.len() >= raw.len() => {
                return Ok(false);
            }
            _ => {}
        }
    }
}

/// Uncompresses one block into `out`, which must hold the largest legal result.
/// Returns the length.
///
/// # Errors
/// Damaged data, and data that would not fit `out`.
pub(super) fn uncompress(compression: Compression, packed: &[u8], out: &mut [u8]) -> Result<usize> {
    match compression {
        Compression::Gzip => {
            // A fresh decompressor is cheap beside a block.
            let mut decompressor = libdeflater::Decompressor::new();
            decompressor.zlib_decompress(packed, out).map_err(|e| anyhow::anyhow!("damaged gzip block: {e}"))
        }
        Compression::Zstd => zstd::bulk::decompress_to_buffer(packed, out).context("damaged zstd block"),
        Compression::Lzo => {
            lzokay::decompress::decompress(packed, out).map_err(|e| anyhow::anyhow!("damaged lzo block: {e}"))
        }
        Compression::Lz4 => {
            lz4::block::decompress_to_buffer(packed, Some(out.len() as i32), out).context("damaged lz4 block")
        }
        Compression::Xz => {
            let limit = 64 << 20;
            let mut stream = Stream::new_stream_decoder(limit, 0).context("starting xz")?;
            match stream.process(packed, out, Action::Finish).context("damaged xz block")? {
                Status::StreamEnd => Ok(stream.total_out() as usize),
                _ => bail!("damaged xz block: it is longer than it may be"),
            }
        }
    }
}

/// Whether a file that starts with `head` is x86 machine code: linked ELF of
/// the 32-bit or 64-bit kind. Relocatable files (kernel modules) have no branch
/// targets yet and gain nothing from the filter.
pub(super) fn is_x86_code(head: &[u8]) -> bool {
    const LINKED: [u16; 2] = [2, 3];
    const MACHINES: [u16; 2] = [3, 62];
    let half = |at: usize| head.get(at..at + 2).map(|b| u16::from_le_bytes([b[0], b[1]]));
    head.starts_with(b"\x7fELF")
        && half(16).is_some_and(|t| LINKED.contains(&t))
        && half(18).is_some_and(|m| MACHINES.contains(&m))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of text with digits, as configuration files have them.
    fn text(size: usize) -> Vec<u8> {
        (0..)
            .flat_map(|n: u32| format!("entry {n} = {}\n", n.wrapping_mul(2_654_435_761)).into_bytes())
            .take(size)
            .collect()
    }

    #[test]
    fn every_compressor_and_level_survives_the_round_trip() {
        use Compression::{Gzip, Lz4, Lzo, Xz, Zstd};
        let raw = text(100_000);
        for compression in [Gzip, Xz, Zstd, Lz4, Lzo] {
            for level in levels(compression) {
                let settings = Settings { compression, level, block_size: 1 << 17 };
                let mut codec = Codec::new(settings).unwrap();
                for is_x86_code in [false, true, false] {
                    let mut packed = Vec::new();
                    assert!(codec.compress(&raw, is_x86_code, &mut packed).unwrap(), "{settings:?}");
                    let mut again = vec![0; 1 << 17];
                    let length = uncompress(compression, &packed, &mut again).unwrap();
                    assert!(again[..length] == raw, "{settings:?}");
                    let short = uncompress(compression, &packed, &mut again[..raw.len() - 1]);
                    assert!(short.is_err(), "{settings:?}: wrote past its end");
                }
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        use Compression::{Gzip, Lz4, Lzo, Xz, Zstd};
        let mut noise = vec![0; 50_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for compression in [Gzip, Xz, Zstd, Lz4, Lzo] {
            let level = default_level(compression);
            let mut codec = Codec::new(Settings { compression, level, block_size: 1 << 17 }).unwrap();
            for raw in [&noise[..], &noise[..1]] {
                assert!(!codec.compress(raw, false, &mut Vec::new()).unwrap(), "{compression:?}");
            }
        }
    }

    #[test]
    fn noise_is_told_from_what_only_looks_like_it() {
        let mut noise = vec![0; 128 << 10];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let repeated = [&noise[..64 << 10], &noise[..32 << 10], &noise[..32 << 10]].concat();
        let hex: Vec<u8> = noise.iter().map(|b| b"0123456789abcdef"[usize::from(b & 15)]).collect();
        let short = noise[..8192].to_vec();
        for (raw, expected) in [(noise, true), (repeated, false), (hex, false), (short, false)] {
            assert_eq!(is_noise(&raw, &mut Vec::new()).unwrap(), expected);
        }
    }

    #[test]
    fn options_blocks_are_what_other_tools_expect() {
        use Compression::{Gzip, Lz4, Lzo, Xz, Zstd};
        for (compression, level, block_size, expected) in [
            (Gzip, 9, 1 << 17, None),
            (Gzip, 12, 1 << 17, None),
            (Gzip, 6, 1 << 17, Some(vec![6, 0, 0, 0, 15, 0, 0, 0])),
            (Zstd, 15, 1 << 17, None),
            (Zstd, 19, 1 << 17, Some(vec![19, 0, 0, 0])),
            (Xz, 6, 1 << 12, Some(vec![0, 0x20, 0, 0, 1, 0, 0, 0])),
            (Lzo, 1, 1 << 17, None),
            (Lz4, 1, 1 << 17, Some(vec![1, 0, 0, 0, 0, 0, 0, 0])),
            (Lz4, 12, 1 << 17, Some(vec![1, 0, 0, 0, 1, 0, 0, 0])),
        ] {
            assert_eq!(Settings { compression, level, block_size }.options_block(), expected);
        }
    }
}
