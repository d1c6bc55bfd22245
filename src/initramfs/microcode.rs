//! The archive with processor microcode that stands in front of everything.
//!
//! The kernel looks for it before it has memory management: a plain newc
//! archive at the very start with `kernel/x86/microcode/GenuineIntel.bin` or
//! `AuthenticAMD.bin` (Documentation/x86/microcode.rst), each its vendor's files
//! one after another. The data begin at multiples of 16, as Intel's processors
//! want it (SDM volume 3, 9.11). VIA's and late loading are left out.

use anyhow::{Context, Result, bail};

use crate::format::cpio;
use crate::plan::{Microcode, Plan};
use crate::resolve::input_content;
use crate::tree::{Content, Kind, Meta, Tree};

/// Where Intel's processors want their updates to begin.
const ALIGNMENT: u64 = 16;
/// Merged /usr or not, this is where packages put firmware.
const FIRMWARE: [&str; 2] = ["usr/lib/firmware", "lib/firmware"];

/// Whose processors a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Vendor {
    /// AMD, whose containers begin with `DMA`.
    Amd,
    /// Intel, whose updates begin with header version 1.
    Intel,
}

impl Vendor {
    /// CPUID's vendor string names the member.
    fn member(self) -> &'static str {
        match self {
            Vendor::Amd => "kernel/x86/microcode/AuthenticAMD.bin",
            Vendor::Intel => "kernel/x86/microcode/GenuineIntel.bin",
        }
    }
}

/// Whose microcode this is, by the first words: `struct microcode_header_intel`
/// (48 bytes, loader revision 1 at byte 20), AMD's `UCODE_MAGIC`.
pub fn microcode_vendor(bytes: &[u8]) -> Option<Vendor> {
    let word = |at: usize| bytes.get(at..at + 4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]));
    match word(0)? {
        0x0041_4d44 => Some(Vendor::Amd),
        1 if bytes.len() >= 48 && bytes.len().is_multiple_of(4) && word(20) == Some(1) => Some(Vendor::Intel),
        _ => None,
    }
}

/// The archive for the plan's microcode, a multiple of 512 bytes long; empty when none is wanted.
///
/// # Errors
/// Packages without microcode, files that are none, unreadable files.
pub fn microcode_archive(plan: &Plan, packages: &Tree) -> Result<Vec<u8>> {
    let files = match &plan.initramfs.microcode {
        None => return Ok(Vec::new()),
        Some(Microcode::Packages) => packaged(packages)?,
        Some(Microcode::Files { files }) => {
            let read = |file| input_content(file, &[], "microcode")?.read_all();
            files.iter().map(read).collect::<Result<_>>().context("reading microcode")?
        }
    };
    archive(&files, plan.timestamp)
}

/// Intel's files and AMD's containers, in order of their names.
fn packaged(packages: &Tree) -> Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    for (directory, wanted) in [("amd-ucode", "microcode_amd"), ("intel-ucode", "")] {
        let paths = FIRMWARE.map(|firmware| format!("{firmware}/{directory}"));
        let entries = paths.iter().find_map(|path| packages.entries(packages.resolve(path.as_bytes()).ok()?));
        let entries = entries.with_context(|| format!("the microcode packages have no {}", paths[1]))?;
        for (name, id) in entries {
            let is_signature = name.as_bytes().ends_with(b".asc");
            if let (Kind::File(content), false) = (&packages.inode(*id).kind, is_signature)
                && name.as_bytes().starts_with(wanted.as_bytes())
            {
                files.push(content.read_all()?);
            }
        }
    }
    Ok(files)
}

fn archive(files: &[Vec<u8>], mtime: i64) -> Result<Vec<u8>> {
    let mut tree = Tree::new();
    let origin = tree.add_origin("microcode");
    let meta = |mode| Meta { mtime, ..Meta::mode(mode) };
    tree.add_directory(b"", meta(0o755), origin)?;
    for vendor in [Vendor::Amd, Vendor::Intel] {
        let of_vendor: Vec<&[u8]> =
            files.iter().filter(|f| microcode_vendor(f) == Some(vendor)).map(Vec::as_slice).collect();
        if !of_vendor.is_empty() {
            let content = Content::bytes(of_vendor.concat());
            tree.add_file(vendor.member().as_bytes(), content, meta(0o644), origin)?;
        }
    }
    if let Some(other) = files.iter().position(|file| microcode_vendor(file).is_none()) {
        bail!("microcode file {} of {} is neither Intel's nor AMD's", other + 1, files.len());
    }
    let mut bytes = Vec::new();
    cpio::write_aligned(&tree, ALIGNMENT, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::initramfs::unpack;
    use crate::tree::listing;

    /// An update of 48 bytes plus these data, as far as anyone looks here.
    pub(crate) fn intel(data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 48];
        (bytes[0], bytes[20]) = (1, 1);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn each_vendor_has_one_aligned_member() {
        let amd = b"DMA\0amd!-".to_vec();
        let bytes = archive(&[intel(b"one!"), amd.clone(), intel(b"two!")], 1000).unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let (tree, parts) = unpack(&bytes).unwrap();
        assert_eq!((parts.len(), parts[0].offset), (1, 0));
        let shown = listing(&tree).unwrap();
        let digest = |bytes: &[u8]| crate::cache::hex_sha256(bytes);
        let both = [intel(b"one!"), intel(b"two!")].concat();
        let expected = format!(
            "dir / 0755 0 0 mtime=1000\ndir /kernel 0755 0 0 mtime=1000\ndir /kernel/x86 0755 0 0 mtime=1000\n\
             dir /kernel/x86/microcode 0755 0 0 mtime=1000\n\
             file /kernel/x86/microcode/AuthenticAMD.bin 0644 0 0 mtime=1000 size=9 sha256={}\n\
             file /kernel/x86/microcode/GenuineIntel.bin 0644 0 0 mtime=1000 size=104 sha256={}\n",
            digest(&amd),
            digest(&both)
        );
        assert_eq!(shown, expected);
        for content in [&amd, &both] {
            let at = bytes.windows(content.len()).position(|w| w == *content).unwrap();
            assert_eq!(at % 16, 0);
        }
    }

    #[test]
    fn microcode_is_known_by_its_first_words() {
        let mut other_loader = intel(b"");
        other_loader[20] = 2;
        for (bytes, vendor) in [
            (intel(b"abcd"), Some(Vendor::Intel)),
            (intel(b"abc"), None),
            (intel(b"")[..40].to_vec(), None),
            (other_loader, None),
            (b"DMA\0".to_vec(), Some(Vendor::Amd)),
            (b"\x7fELF".to_vec(), None),
            (Vec::new(), None),
        ] {
            assert_eq!(microcode_vendor(&bytes), vendor, "{bytes:?}");
        }
        let error = archive(&[intel(b""), b"\x7fELF".to_vec()], 0).unwrap_err();
        assert_eq!(error.to_string(), "microcode file 2 of 2 is neither Intel's nor AMD's");
    }
}
