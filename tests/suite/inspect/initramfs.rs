//! Initramfs files packed by every program whose format Linux reads.

use std::fs;

use liveiso::format::cpio;
use liveiso::inspect::inspect;
use liveiso::tree::parse_listing;
use tempfile::TempDir;

use super::findings;
use super::medium::{INITRD, Medium};
use crate::support::oracle;

/// The program with its options, and the name of the compression in reports.
const PACKERS: [(&str, &[&str], &str); 9] = [
    ("gzip", &["-9"], "gzip"),
    ("bzip2", &[], "bzip2"),
    ("xz", &["--check=crc32"], "xz"),
    ("xz", &["--format=lzma"], "lzma"),
    ("lzop", &[], "lzo"),
    ("lzop", &["-9", "-C", "--crc32"], "lzo"),
    ("lz4", &["-l"], "lz4"),
    ("lz4", &["-l", "-9"], "lz4"),
    ("zstd", &["-19"], "zstd"),
];

#[test]
fn every_compression_of_linux_is_read() {
    let dir = TempDir::new().unwrap();
    let listing = "dir /lib 0755 0 0\nfile /init 0755 0 0 text=#!/bin/sh\\x0amountroot\\x0a\nfile /noise 0644 0 0 size=300000\n\
                   file /lib/modules/6.1.0/kernel/isofs.ko 0644 0 0 size=9000\n";
    let mut archive = Vec::new();
    cpio::write(&parse_listing(listing).unwrap(), &mut archive).unwrap();
    fs::write(dir.path().join("archive"), &archive).unwrap();
    let mut second = Vec::new();
    cpio::write(
        &parse_listing("file /lib/modules/6.1.0/kernel/vfat.ko 0644 0 0 size=9\n").unwrap(),
        &mut second,
    )
    .unwrap();
    // To the NUL behind TRAILER!!!, without the padding.
    let second_length = (second.iter().rposition(|&b| b != 0).unwrap() + 2).next_multiple_of(4) as u64;
    for (program, options, name) in PACKERS {
        let words: Vec<&str> = options.iter().copied().chain(["-c", "archive"]).collect();
        let script = format!("{program} {} > packed", words.join(" "));
        oracle("sh", &["-c", &script], dir.path());
        let packed = fs::read(dir.path().join("packed")).unwrap();
        let mut medium = Medium::good();
        // A second archive behind it, as early microcode and our own build id are.
        let mut file = packed.clone();
        file.resize(file.len().next_multiple_of(512), 0);
        file.extend_from_slice(&second);
        medium.files.insert(INITRD.to_string(), file);
        let it = inspect(&medium.write(dir.path(), "x")).unwrap();
        assert_eq!(it.damage, Vec::<String>::new(), "{script}");
        let contents = &it.initramfs[0].contents;
        let parts: Vec<_> =
            contents.parts.iter().map(|part| (part.compression, part.length, part.unpacked)).collect();
        let lengths = (packed.len() as u64, archive.len() as u64, second_length);
        assert_eq!(parts, [(name, lengths.0, lengths.1), ("none", lengths.2, lengths.2)], "{script}");
        let modules: Vec<&str> = contents.modules.iter().map(String::as_str).collect();
        assert_eq!((modules, contents.calls_mountroot), (vec!["isofs", "vfat"], true), "{script}");
        for length in (0..packed.len()).step_by(packed.len() / 12 + 1) {
            medium.files.insert(INITRD.to_string(), packed[..length].to_vec());
            let mut flipped = packed.clone();
            flipped[length] ^= 0xff;
            medium.files.insert(format!("{INITRD}-2"), flipped);
            inspect(&medium.write(dir.path(), "x")).unwrap();
        }
    }
}

/// An initramfs with the whole system in it, larger than what other files may have.
#[test]
fn a_large_initramfs_is_read() {
    let dir = TempDir::new().unwrap();
    let mut archive = Vec::new();
    cpio::write(&parse_listing("file /root.sfs 0644 0 0 size=70000000\n").unwrap(), &mut archive).unwrap();
    let mut medium = Medium::good();
    medium.files.insert(INITRD.to_string(), archive);
    let iso = medium.write(dir.path(), "x");
    assert_eq!(inspect(&iso).unwrap().initramfs[0].contents.files["root.sfs"].length, 70_000_000);
    assert!(!findings(&iso).contains(&"readable fail".to_string()));
}
