//! What the kernel accepts as an initramfs: `init/initramfs.c` and the
//! decompressors of `lib/` as Debian's kernels have them.
//!
//! A buffer is a row of plain newc archives, each at a multiple of 4, and
//! compressed ones, with zeros between them. Of xz the kernel takes LZMA2, alone
//! or behind the x86 filter, with CRC32 or no check; of zstd one frame without a
//! dictionary. The LZMA2 dictionary or zstd window is allocated as the header
//! says, at the moment when memory is shortest. gzip, bzip2, lzma, lzo and lz4,
//! which the kernel reads too, are left out: we do not write them.

use std::io::Read;

use anyhow::{Context, Result, bail, ensure};

use crate::format::cpio;
use crate::tree::Tree;

/// More unpacked than this is no initramfs for our machines.
const MAX_UNPACKED: u64 = 512 << 20;
/// Largest window or dictionary the reader itself is willing to allocate, in bytes.
const MAX_WINDOW: u64 = 128 << 20;

/// One archive of an initramfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte in the buffer.
    pub offset: usize,
    /// Bytes in the buffer, without zeros that follow.
    pub length: usize,
    /// Bytes when unpacked.
    pub unpacked: usize,
    /// How it is stored.
    pub format: PartFormat,
}

/// How an archive is stored, with what the kernel allocates to read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartFormat {
    /// Not compressed.
    Plain,
    /// Zstandard.
    Zstd {
        /// Bytes of the window.
        window: u64,
        /// Whether the frame ends in a checksum.
        checksum: bool,
    },
    /// .xz
    Xz {
        /// Bytes of the LZMA2 dictionary.
        dictionary: u64,
        /// Whether the x86 filter is in front.
        x86: bool,
        /// Whether blocks end in a CRC32.
        crc32: bool,
    },
}

impl PartFormat {
    /// Bytes of window or dictionary; 0 for plain archives.
    pub fn window(&self) -> u64 {
        match *self {
            PartFormat::Plain => 0,
            PartFormat::Zstd { window, .. } => window,
            PartFormat::Xz { dictionary, .. } => dictionary,
        }
    }
}

/// Unpacks an initramfs as the kernel would, into one tree.
///
/// # Errors
/// What the kernel would refuse or lose: see the module and [`cpio::read_into`].
pub fn unpack(initrd: &[u8]) -> Result<(Tree, Vec<Part>)> {
    let mut tree = Tree::new();
    let origin = tree.add_origin("initramfs");
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(zeros) = initrd[at..].iter().position(|&b| b != 0) {
        at += zeros;
        let part = &initrd[at..];
        let (format, length, archive) =
            open_part(part, at).with_context(|| format!("initramfs part at byte {at}"))?;
        let archive = archive.as_deref().unwrap_or(&part[..length]);
        cpio::read_into(&mut tree, archive, origin)
            .with_context(|| format!("initramfs part at byte {at}"))?;
        parts.push(Part { offset: at, length, unpacked: archive.len(), format });
        at += length;
    }
    ensure!(!parts.is_empty(), "initramfs is empty");
    Ok((tree, parts))
}

/// Format, length and, unless it is plain, the unpacked bytes of what begins here.
fn open_part(part: &[u8], at: usize) -> Result<(PartFormat, usize, Option<Vec<u8>>)> {
    if part.starts_with(b"0707") {
        ensure!(at.is_multiple_of(4), "a plain cpio archive does not begin at a multiple of 4");
        return Ok((PartFormat::Plain, cpio::archive_length(part)?, None));
    }
    if part.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let format = zstd_format(part)?;
        let (length, archive) = unpack_zstd(part)?;
        return Ok((format, length, Some(archive)));
    }
    if part.starts_with(b"\xfd7zXZ\0") {
        let format = xz_format(part)?;
        let (length, archive) = unpack_xz(part)?;
        return Ok((format, length, Some(archive)));
    }
    bail!("neither cpio nor zstd nor xz begins here")
}

fn unpack_zstd(part: &[u8]) -> Result<(usize, Vec<u8>)> {
    let length = zstd::zstd_safe::find_frame_compressed_size(part).map_err(|code| {
        anyhow::anyhow!("zstd frame is damaged: {}", zstd::zstd_safe::get_error_name(code))
    })?;
    let frame = part.get(..length).context("zstd frame is cut short")?;
    let mut decoder = zstd::stream::read::Decoder::new(frame)?.single_frame();
    decoder.window_log_max(MAX_WINDOW.ilog2())?;
    Ok((length, read_bounded(&mut decoder).context("unpacking zstd")?))
}

fn unpack_xz(part: &[u8]) -> Result<(usize, Vec<u8>)> {
    let stream = liblzma::stream::Stream::new_stream_decoder(MAX_WINDOW + (1 << 20), 0)?;
    let mut decoder = liblzma::bufread::XzDecoder::new_stream(part, stream);
    let archive = read_bounded(&mut decoder).context("unpacking xz")?;
    Ok((usize::try_from(decoder.total_in())?, archive))
}

fn read_bounded(reader: &mut impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(MAX_UNPACKED + 1).read_to_end(&mut bytes)?;
    ensure!(bytes.len() as u64 <= MAX_UNPACKED, "it unpacks to more than {MAX_UNPACKED} bytes");
    Ok(bytes)
}

/// Reads a frame header, RFC 8878 section 3.1.1.1.
fn zstd_format(frame: &[u8]) -> Result<PartFormat> {
    let descriptor = *frame.get(4).context("zstd frame is cut short")?;
    let single_segment = descriptor & 0x20 != 0;
    ensure!(descriptor & 0x03 == 0, "zstd frame wants a dictionary, which the kernel does not have");
    let window = if single_segment {
        let length = [1, 2, 4, 8][usize::from(descriptor >> 6)];
        let field = frame.get(5..5 + length).context("zstd frame is cut short")?;
        let size = field.iter().rev().fold(0u64, |size, &b| size << 8 | u64::from(b));
        size + if length == 2 { 256 } else { 0 }
    } else {
        let byte = *frame.get(5).context("zstd frame is cut short")?;
        let base = 1u64 << (10 + (byte >> 3));
        base + base / 8 * u64::from(byte & 7)
    };
    ensure!(window <= MAX_WINDOW, "zstd window has {window} bytes, more than {MAX_WINDOW}");
    Ok(PartFormat::Zstd { window, checksum: descriptor & 0x04 != 0 })
}

/// Reads the stream header and the first block header, .xz format 1.2.1 sections 2.1.1 and 3.1.
fn xz_format(stream: &[u8]) -> Result<PartFormat> {
    let check = *stream.get(7).context("xz stream is cut short")?;
    ensure!(check <= 1, "xz check type {check} is unknown to the kernel, which takes CRC32 or none");
    let header_len = (usize::from(*stream.get(12).context("xz stream is cut short")?) + 1) * 4;
    ensure!(header_len > 4, "xz stream has no block");
    let header = stream.get(13..12 + header_len).context("xz block header is cut short")?;
    let (&flags, mut rest) = header.split_first().context("xz block header is cut short")?;
    for present in [flags & 0x40, flags & 0x80] {
        if present != 0 {
            number(&mut rest)?;
        }
    }
    let mut filters = Vec::new();
    for _ in 0..=flags & 3 {
        let id = number(&mut rest)?;
        let length = usize::try_from(number(&mut rest)?)?;
        let (properties, after) =
            rest.split_at_checked(length).context("xz filter runs out of its block header")?;
        filters.push((id, properties));
        rest = after;
    }
    match filters[..] {
        [(0x21, &[bits])] => xz_part(bits, false, check),
        [(0x04, &[]), (0x21, &[bits])] => xz_part(bits, true, check),
        _ => {
            let ids: Vec<String> = filters.iter().map(|(id, _)| format!("{id:#x}")).collect();
            bail!(
                "xz filters {} are unknown to the kernel, which takes LZMA2 or x86 and LZMA2",
                ids.join(", ")
            )
        }
    }
}

fn xz_part(bits: u8, x86: bool, check: u8) -> Result<PartFormat> {
    ensure!(bits < 40, "xz dictionary is too large");
    let dictionary = (2 | u64::from(bits & 1)) << (bits / 2 + 11);
    ensure!(dictionary <= MAX_WINDOW, "xz dictionary has {dictionary} bytes, more than {MAX_WINDOW}");
    Ok(PartFormat::Xz { dictionary, x86, crc32: check == 1 })
}

/// A multibyte integer of the .xz format, section 1.2.
fn number(rest: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, after) = rest.split_first().context("xz number is cut short")?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("xz number is too long")
}
