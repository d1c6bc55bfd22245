//! Decompression of an initramfs's parts: every format that Linux takes
//! (`lib/decompress.c`), bounded in what it may unpack to and allocate.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

use super::initramfs::MAX_UNPACKED;

/// Window or dictionary a decompressor may ask for (bytes).
const MAX_WINDOW: u64 = 256 << 20;

/// Name of the compression, bytes in the file, content.
pub(super) type Part = (&'static str, usize, Vec<u8>);

/// Unpacks the part that begins here, at most `left` bytes: compression, bytes it has in the file, content.
///
/// # Errors
/// Damage, a compression that no kernel takes, more than `left` bytes.
pub(super) fn unpack(bytes: &[u8], left: u64) -> Result<Part> {
    let (name, length, unpacked) = match bytes {
        [0x1f, 0x8b, ..] => {
            let mut decoder = flate2::bufread::GzDecoder::new(bytes);
            let unpacked = bounded(&mut decoder, left).context("unpacking gzip")?;
            ("gzip", bytes.len() - decoder.into_inner().len(), unpacked)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MAX_WINDOW, 0)?;
            let mut decoder = liblzma::bufread::XzDecoder::new_stream(bytes, stream);
            let unpacked = bounded(&mut decoder, left).context("unpacking xz")?;
            ("xz", usize::try_from(decoder.total_in())?, unpacked)
        }
        [0x5d, 0, 0, ..] => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(MAX_WINDOW)?;
            let mut decoder = liblzma::bufread::XzDecoder::new_stream(bytes, stream);
            let unpacked = bounded(&mut decoder, left).context("unpacking lzma")?;
            ("lzma", usize::try_from(decoder.total_in())?, unpacked)
        }
        [b'B', b'Z', b'h', ..] => {
            let mut decoder = bzip2::bufread::BzDecoder::new(bytes);
            let unpacked = bounded(&mut decoder, left).context("unpacking bzip2")?;
            ("bzip2", usize::try_from(decoder.total_in())?, unpacked)
        }
        [0x89, b'L', b'Z', b'O', 0, b'\r', b'\n', 0x1a, b'\n', rest @ ..] => {
            let (length, unpacked) = unpack_lzop(rest, left).context("unpacking lzo")?;
            ("lzo", bytes.len() - rest.len() + length, unpacked)
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => unpack_zstd(bytes, left).context("unpacking zstd")?,
        [0x02, 0x21, 0x4c, 0x18, ..] => unpack_lz4(&bytes[4..], left).context("unpacking lz4")?,
        [a, b, ..] => bail!("bytes {a:02x} {b:02x} begin neither a cpio archive nor a compression we read"),
        _ => bail!("it is cut short"),
    };
    ensure!(length > 0, "nothing was unpacked");
    Ok((name, length, unpacked))
}

/// zstd streams may be several frames, as `zstd -T0` and dracut write them.
fn unpack_zstd(bytes: &[u8], left: u64) -> Result<Part> {
    let (mut at, mut unpacked) = (0, Vec::new());
    while bytes[at..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let length = zstd::zstd_safe::find_frame_compressed_size(&bytes[at..])
            .map_err(|code| anyhow::anyhow!("{}", zstd::zstd_safe::get_error_name(code)))?;
        let frame = bytes.get(at..at + length).context("a frame is cut short")?;
        let mut decoder = zstd::stream::read::Decoder::new(frame)?.single_frame();
        decoder.window_log_max(MAX_WINDOW.ilog2())?;
        unpacked.extend(bounded(&mut decoder, left - unpacked.len() as u64)?);
        at += length;
    }
    Ok(("zstd", at, unpacked))
}

/// The legacy format the kernel takes: blocks of at most 8 MiB, each after its length.
fn unpack_lz4(bytes: &[u8], left: u64) -> Result<Part> {
    let (mut at, mut unpacked) = (0, Vec::new());
    while let Some(length) = bytes.get(at..at + 4) {
        let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
        if length == 0 || length > 9 << 20 {
            break;
        }
        let block = bytes.get(at + 4..at + 4 + length).context("a block is cut short")?;
        unpacked.extend(lz4::block::decompress(block, Some(8 << 20))?);
        ensure!(unpacked.len() as u64 <= left, "it unpacks to more than {MAX_UNPACKED} bytes");
        at += 4 + length;
    }
    Ok(("lz4", at + 4, unpacked))
}

fn bounded(reader: &mut impl Read, left: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(left + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= left, "it unpacks to more than {MAX_UNPACKED} bytes");
    Ok(bytes)
}

/// The first `length` bytes as a number, most significant first, which are taken off.
fn number(rest: &mut &[u8], length: usize) -> Result<u32> {
    let (field, behind) = rest.split_at_checked(length).context("it is cut short")?;
    *rest = behind;
    Ok(field.iter().fold(0, |number, &byte| number << 8 | u32::from(byte)))
}

/// What lzop's flags say of the blocks.
struct LzopSums {
    /// Checksums of what a block unpacks to.
    raw: usize,
    /// Checksums of what it is packed to, where that is less.
    packed: usize,
}

/// Takes lzop's header behind its magic off: versions, method, flags, name, checksum.
fn lzop_header(rest: &mut &[u8]) -> Result<LzopSums> {
    const FILTER: u32 = 0x800;
    let is_new = number(rest, 2)? >= 0x0940;
    number(rest, if is_new { 4 } else { 2 })?;
    let method = number(rest, 1)?;
    ensure!((1..=3).contains(&method), "method {method} is not LZO1X");
    number(rest, usize::from(is_new))?;
    let flags = number(rest, 4)?;
    // The filter, mode and times.
    for length in [if flags & FILTER != 0 { 4 } else { 0 }, 4, 4, if is_new { 4 } else { 0 }] {
        number(rest, length)?;
    }
    let name = number(rest, 1)? as usize;
    *rest = rest.get(name + 4..).context("it is cut short")?;
    let count = |which: [u32; 2]| which.iter().filter(|flag| flags & **flag != 0).count();
    Ok(LzopSums { raw: count([0x1, 0x100]), packed: count([0x2, 0x200]) })
}

/// lzop's format (lzop 1.04, `src/lzop.c`; Linux, `lib/decompress_unlzo.c`) behind its magic,
/// big-endian. Checksums are not compared. Returns the bytes read too.
fn unpack_lzop(bytes: &[u8], left: u64) -> Result<(usize, Vec<u8>)> {
    /// lzop's own limit of a block (bytes).
    const MAX_BLOCK: u32 = 64 << 20;
    let mut rest = bytes;
    let sums = lzop_header(&mut rest)?;
    let mut unpacked = Vec::new();
    loop {
        let raw = number(&mut rest, 4)?;
        if raw == 0 {
            return Ok((bytes.len() - rest.len(), unpacked));
        }
        let packed = number(&mut rest, 4)?;
        ensure!(packed <= raw && raw <= MAX_BLOCK, "a block has {packed} bytes for {raw}");
        for _ in 0..sums.raw + if packed < raw { sums.packed } else { 0 } {
            number(&mut rest, 4)?;
        }
        let (block, behind) = rest.split_at_checked(packed as usize).context("a block is cut short")?;
        rest = behind;
        let start = unpacked.len();
        ensure!(start as u64 + u64::from(raw) <= left, "it unpacks to more than {MAX_UNPACKED} bytes");
        if packed == raw {
            unpacked.extend_from_slice(block);
            continue;
        }
        unpacked.resize(start + raw as usize, 0);
        let length = lzokay::decompress::decompress(block, &mut unpacked[start..]);
        let length = length.map_err(|error| anyhow::anyhow!("a block is damaged: {error}"))?;
        ensure!(length == raw as usize, "a block has {length} bytes instead of {raw}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lzop_headers_of_both_versions_are_read() {
        let block = |raw: u32, data: &[u8]| {
            [&raw.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), &[9; 4], data].concat()
        };
        let old =
            [&[0x09, 0x30, 0x20, 0x80, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, b'x', b'y', 1, 2, 3, 4][..]];
        let new = [&[
            0x10, 0x30, 0x20, 0x80, 0x09, 0x40, 1, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
            2, 3, 4,
        ][..]];
        for header in [old, new] {
            let whole = [header[0], &block(5, b"hello"), &block(2, b"!!"), &[0; 4], b"behind"].concat();
            assert_eq!(unpack_lzop(&whole, 7).unwrap(), (whole.len() - 6, b"hello!!".to_vec()));
            assert!(unpack_lzop(&whole, 6).is_err());
            for length in 0..whole.len() - 6 {
                assert!(unpack_lzop(&whole[..length], 7).is_err(), "{length}");
            }
        }
    }
}
