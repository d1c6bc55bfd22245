//! Which kind of medium a file is, by its marks, and what to do if it is none.

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::Format;

/// The first volume descriptor's mark (ECMA-119 §8.1.2).
const ISO: (u64, &[u8]) = (16 * 2048 + 1, b"CD001");
/// Ends sector 0 of every partitioned disk and of FAT.
const BOOT_SIGNATURE: (u64, &[u8]) = (510, &[0x55, 0xaa]);
const GPT: (u64, &[u8]) = (512, b"EFI PART");

/// Files that hold a medium in another form, or a part of one: mark, name, remedy.
const OTHERS: [(u64, &[u8], &str, &str); 15] = [
    (0, &[0x1f, 0x8b], "compressed with gzip", "unpack it first: gunzip --keep"),
    (0, b"\xfd7zXZ\0", "compressed with xz", "unpack it first: unxz --keep"),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "compressed with zstd", "unpack it first: unzstd"),
    (0, b"BZh", "compressed with bzip2", "unpack it first: bunzip2 --keep"),
    (0, &[0x04, 0x22, 0x4d, 0x18], "compressed with lz4", "unpack it first: unlz4"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first: unzip"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first: 7z x"),
    (0, b"QFI\xfb", "a qcow2 image", "convert it first: qemu-img convert -O raw"),
    (0, b"KDMV", "a VMDK image", "convert it first: qemu-img convert -O raw"),
    (0, b"vhdxfile", "a VHDX image", "convert it first: qemu-img convert -O raw"),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "a VDI image", "convert it first: qemu-img convert -O raw"),
    (0, b"hsqs", "a squashfs image alone", "inspect the medium that holds it, or use unsquashfs -s"),
    (
        1024,
        &[0xe2, 0xe1, 0xf5, 0xe0],
        "an EROFS image alone",
        "inspect the medium that holds it, or use dump.erofs",
    ),
    (0, b"0707", "a cpio archive", "inspect the medium that holds it, or use cpio -t"),
    (0, b"\x7fELF", "a program", "name an ISO or a disk image"),
];

/// Opens a file or disk, with its length in bytes.
///
/// # Errors
/// What cannot be opened, and what has no bytes by position.
pub(super) fn open(path: &Path) -> Result<(File, u64)> {
    ensure!(
        path.as_os_str() != "-",
        "standard input cannot be read by position: save it to a file and name that"
    );
    let file = File::open(path).context("opening it")?;
    let kind = file.metadata().context("asking for its type")?.file_type();
    ensure!(!kind.is_dir(), "it is a directory: name an ISO or a disk image in it");
    ensure!(
        kind.is_file() || kind.is_block_device(),
        "it is no file and no disk, so it cannot be read by position: save it to a file and name that"
    );
    let length = (&file).seek(SeekFrom::End(0)).context("asking for its size")?;
    Ok((file, length))
}

/// What the file is.
///
/// # Errors
/// When it is no medium: what it is instead, as far as that can be told.
pub(super) fn format(file: &File, length: u64) -> Result<Format> {
    ensure!(length > 0, "it is empty: build or download it again");
    let has = |(at, mark): (u64, &[u8])| -> Result<bool> {
        let mut bytes = vec![0; mark.len()];
        if length < at + mark.len() as u64 {
            return Ok(false);
        }
        file.read_exact_at(&mut bytes, at).with_context(|| format!("reading byte {at}"))?;
        Ok(bytes == mark)
    };
    if has(ISO)? {
        return Ok(Format::Iso);
    }
    // What is compressed may have any bytes at 510.
    for (at, mark, what, remedy) in OTHERS {
        ensure!(!has((at, mark))?, "it is {what}: {remedy}");
    }
    if has(BOOT_SIGNATURE)? || has(GPT)? {
        return Ok(Format::Disk);
    }
    if length < ISO.0 + 2048 {
        bail!("it is neither an ISO nor a disk image, for which its {length} bytes are too few");
    }
    bail!(
        "it is neither an ISO nor a disk image: there is no volume descriptor at byte 32768, no partition table"
    )
}
