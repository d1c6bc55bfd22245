//! What a file is, by its first bytes: EFI program, kernel or root image.

use std::fs::File;
use std::io::Read;

use anyhow::{Context, Result};

use super::{FileEntry, Image, Kernel, Loader, Place, Program, kernel, pe};
use crate::format::{erofs, squashfs, verity};
use crate::tree::Content;

/// EFI programs larger than this are not looked into (bytes).
const MAX_PROGRAM: u64 = 128 << 20;

/// Adds the file to the list it belongs to, if any.
///
/// # Errors
/// When it cannot be read, or is not what it begins as.
pub(super) fn sort(
    place: Place,
    file: FileEntry,
    content: &Content,
    loaders: &mut Vec<Loader>,
    kernels: &mut Vec<Kernel>,
    images: &mut Vec<Image>,
) -> Result<()> {
    let start = head(content, 1032)?;
    if start.starts_with(b"hsqs")
        && let Content::Slice { file: iso, offset, .. } = content
    {
        let parameters = squashfs::parameters(iso, *offset)?;
        let verity = hash_tree(content, parameters.bytes_used)?;
        let (squashfs, content) = (Some(parameters), content.clone());
        images.push(Image { file, format: "squashfs", squashfs, erofs: None, verity, content });
    } else if erofs::is_erofs(&start) {
        let parameters = erofs::parameters(&head(content, erofs::HEAD)?)?;
        let verity = hash_tree(content, parameters.bytes_used)?;
        let (erofs, content) = (Some(parameters), content.clone());
        images.push(Image { file, format: "erofs", squashfs: None, erofs, verity, content });
    } else if start.get(0x202..0x206) == Some(b"HdrS") {
        let header = kernel::read(&head(content, kernel::HEAD)?);
        let bytes = if start.starts_with(b"MZ") { whole(content)? } else { Vec::new() };
        let program = pe::read(&bytes);
        // memtest86+ has a kernel's header too, with its name as version.
        match (header.filter(|header| header.version.starts_with(|c: char| c.is_ascii_digit())), program) {
            (Some(header), program) => {
                let signers = program.map(|program| program.signers).unwrap_or_default();
                kernels.push(Kernel { place, file, header, signers });
            }
            (None, Some(program)) => loaders.push(Loader::new(place, file, program, &bytes)),
            (None, None) => {}
        }
    } else if start.starts_with(b"MZ") {
        let bytes = whole(content)?;
        if let Some(program) = pe::read(&bytes) {
            loaders.push(Loader::new(place, file, program, &bytes));
        }
    }
    Ok(())
}

/// What lies behind the `length` bytes of an image, if anything does.
fn hash_tree(content: &Content, length: u64) -> Result<Option<verity::Found>> {
    let Content::Slice { file, offset, .. } = content else { return Ok(None) };
    let reading = || format!("opening {}", file.display());
    verity::find(&File::open(file.as_path()).with_context(reading)?, *offset, length)
}

impl Loader {
    fn new(place: Place, file: FileEntry, program: Program, bytes: &[u8]) -> Loader {
        let wants_disk_info = bytes.windows(11).any(|window| window == b"/.disk/info");
        Loader { place, file, program, sha256: crate::cache::hex_sha256(bytes), wants_disk_info }
    }
}

fn whole(content: &Content) -> Result<Vec<u8>> {
    anyhow::ensure!(content.len() <= MAX_PROGRAM, "it has {} bytes, more than {MAX_PROGRAM}", content.len());
    content.read_all()
}

/// At most `length` bytes from the beginning.
fn head(content: &Content, length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    content.open()?.take(length as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
