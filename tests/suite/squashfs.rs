//! squashfs images, read back by unsquashfs, rdsquashfs, backhand, the kernel
//! and our own reader; on hand-written trees and on generated nasty ones.

mod cache;
mod dev;
pub mod oracle;
mod order;
mod reader;
pub mod trees;

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use liveiso::cache::digest_file;
use liveiso::format::squashfs::{Options, Summary, levels, read, write};
use liveiso::host::Tool;
use liveiso::plan::Compression::{self, Gzip, Lz4, Lzo, Xz, Zstd};
use liveiso::tree::{Content, Tree, listing, parse_listing};
use tempfile::TempDir;

use super::support;

const COMPRESSORS: [Compression; 5] = [Gzip, Xz, Zstd, Lz4, Lzo];

/// An image in a directory of its own, which goes with it.
struct Image {
    dir: TempDir,
    compression: Compression,
    summary: Summary,
}

impl Image {
    fn path(&self) -> PathBuf {
        self.dir.path().join("image.sfs")
    }

    fn digest(&self) -> String {
        digest_file(&self.path()).unwrap().sha256
    }
}

fn image(tree: &Tree, options: &Options) -> Image {
    let dir = tempfile::tempdir().unwrap();
    let out = File::create_new(dir.path().join("image.sfs")).unwrap();
    let summary = write(tree, options, out).unwrap();
    Image { dir, compression: options.compression, summary }
}

/// Blocks small enough that small files have several of them.
fn small_blocks(compression: Compression) -> Options<'static> {
    Options { block_size: 4096, ..Options::new(compression) }
}

/// Every reader must find the tree in the image, as far as it shows it.
fn assert_read_by_all(tree: &Tree, image: &Image, what: &str) {
    let expected = listing(tree).unwrap();
    let path = image.path();
    assert_eq!(oracle::ours(&path).unwrap(), expected, "our reader: {what}");
    if let Some(shown) = oracle::kernel(&path) {
        assert_eq!(shown, expected, "the kernel: {what}");
    }
    // backhand reads lzo only with a library of another licence.
    if image.compression != Lzo {
        assert_eq!(oracle::backhand(&path), oracle::without_links(tree), "backhand: {what}");
    }
    assert_eq!(oracle::rdsquashfs(&path), oracle::as_rdsquashfs(tree), "rdsquashfs: {what}");
    assert_eq!(
        oracle::unsquashfs(&path),
        listing(&oracle::without_xattrs(tree)).unwrap(),
        "unsquashfs: {what}"
    );
}

#[test]
fn every_kind_of_file_reaches_every_reader() {
    let tree = parse_listing(trees::EVERY_KIND).unwrap();
    for compression in COMPRESSORS {
        for block_size in [4 << 10, 128 << 10, 1 << 20] {
            let options = Options { block_size, ..Options::new(compression) };
            let image = image(&tree, &options);
            assert_eq!(image.summary.inodes, 17);
            assert_read_by_all(&tree, &image, &format!("{compression:?} {block_size}"));
        }
    }
}

#[test]
fn what_other_tools_unpack_is_the_tree() {
    let every_kind = parse_listing(trees::EVERY_KIND).unwrap();
    // File systems of hosts hold less xattrs than the generated ones have.
    let generated = (20..25).map(|seed| (trees::generated(seed), false));
    for ((tree, with_xattrs), compression) in [(every_kind, true)].into_iter().chain(generated).zip(cycle()) {
        let image = image(&tree, &small_blocks(compression));
        assert_unpacked_by_all(&tree, &image, with_xattrs, &format!("{compression:?}"));
    }
}

fn cycle() -> impl Iterator<Item = Compression> {
    COMPRESSORS.into_iter().cycle()
}

fn assert_unpacked_by_all(tree: &Tree, image: &Image, with_xattrs: bool, what: &str) {
    let tree = if with_xattrs { tree.clone() } else { oracle::without_xattrs(tree) };
    for (tool, shown) in oracle::unpacked(&image.path(), with_xattrs) {
        let expected = match tool {
            // It makes a file of its own of every name, and changes owners after
            // setting xattrs, upon which Linux drops the capabilities.
            "rdsquashfs" => oracle::without_links_but_xattrs(&oracle::without_capabilities(&tree)),
            _ => listing(&tree).unwrap(),
        };
        assert_eq!(shown, oracle::below_root(&expected), "{tool}: {what}");
    }
}

#[test]
#[ignore = "reads some 200 MB a dozen times; run it with `cargo test --release rescue_root -- --ignored`"]
fn the_rescue_root_reaches_every_reader() {
    let dir = tempfile::tempdir().unwrap();
    let product = dir.path().join("airootfs.sfs");
    let xorriso = Tool::new("xorriso", "tests").unwrap();
    let xorriso = xorriso.args(["-no_rc", "-osirrox", "on", "-indev"]).arg(support::rescue());
    xorriso.args(["-extract", "/liveiso/i386/airootfs.sfs"]).arg(&product).output().unwrap();
    let tree = read(&product, &dir.path().join("content"), 1 << 32).unwrap();
    assert!(tree.inode_count() > 2000);
    if let Some(shown) = oracle::kernel(&product) {
        assert_eq!(shown, listing(&tree).unwrap(), "the kernel and our reader on the product's image");
    }
    for (compression, level) in [(Gzip, 1), (Xz, 0), (Zstd, 1), (Lz4, 1), (Lzo, 1)] {
        let image = image(&tree, &Options { level, ..Options::new(compression) });
        assert_read_by_all(&tree, &image, &format!("{compression:?}"));
        assert_unpacked_by_all(&tree, &image, true, &format!("{compression:?}"));
    }
}

#[test]
fn generated_trees_reach_every_reader() {
    for seed in 0..15 {
        let tree = trees::generated(seed);
        let compression = COMPRESSORS[seed as usize % 5];
        let image = image(&tree, &small_blocks(compression));
        assert_read_by_all(&tree, &image, &format!("seed {seed}"));
    }
}

#[test]
fn an_empty_root_is_an_image_too() {
    let tree = parse_listing("dir / 0700 7 8 mtime=9").unwrap();
    assert_read_by_all(&tree, &image(&tree, &Options::new(Gzip)), "empty");
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let tree = trees::generated(99);
    for compression in COMPRESSORS {
        let digest = |jobs| {
            let jobs = NonZeroUsize::new(jobs).unwrap();
            image(&tree, &Options { jobs, ..small_blocks(compression) }).digest()
        };
        let one = digest(1);
        for jobs in [2, 3, 16] {
            assert_eq!(digest(jobs), one, "{compression:?} on {jobs} threads");
        }
    }
}

#[test]
fn duplicate_files_are_stored_once() {
    let mut text = String::new();
    let content = "x".repeat(9000) + "y";
    for n in 0..50 {
        text +=
            &format!("file /copy{n} 0644 0 0 mtime=0 text={content}\nfile /small{n} 0644 {n} 0 text=same\n");
    }
    let tree = parse_listing(&text).unwrap();
    let many = image(&tree, &small_blocks(Gzip));
    let once = image(
        &parse_listing(&format!("file /copy0 0644 0 0 text={content}\nfile /small0 0644 0 0 text=same\n"))
            .unwrap(),
        &small_blocks(Gzip),
    );
    assert_eq!((many.summary.duplicates, once.summary.duplicates), (98, 0));
    assert_eq!((many.summary.content_size, once.summary.content_size), (9005, 9005));
    assert_eq!((many.summary.fragments, once.summary.fragments), (1, 1));
    assert_read_by_all(&tree, &many, "duplicates");
}

#[test]
fn zeros_take_no_space() {
    let mut tree = Tree::new();
    let origin = tree.add_origin("test");
    let blocks = [vec![0; 4096], vec![1; 4096], vec![0; 8192], b"end".to_vec()].concat();
    for (path, content) in [
        ("all", vec![0; 40960]),
        ("all-and-a-bit", vec![0; 40961]),
        ("one", vec![0]),
        ("mixed", blocks),
        ("tail", [vec![2; 4096], vec![0; 100]].concat()),
    ] {
        tree.add_file(path.as_bytes(), Content::bytes(content), Default::default(), origin).unwrap();
    }
    let image = image(&tree, &small_blocks(Lz4));
    assert_eq!(image.summary.fragments, 1, "only `mixed` has a tail that is not zero");
    assert_read_by_all(&tree, &image, "zeros");
}

#[test]
fn a_large_sparse_file_costs_little() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    let (file, size) = (File::create(&path).unwrap(), 5 << 30);
    std::os::unix::fs::FileExt::write_all_at(&file, b"in the middle", (2 << 30) + 77).unwrap();
    file.set_len(size).unwrap();
    let mut tree = Tree::new();
    let origin = tree.add_origin("test");
    tree.add_file(b"sparse", Content::file(&path, size), Default::default(), origin).unwrap();
    let image = image(&tree, &Options::new(Gzip));
    assert_eq!(image.summary.image_size, 4096);
    oracle::with_mount(&image.path(), |root| {
        let metadata = std::fs::metadata(root.join("sparse")).unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (size, 256), "only one block is not sparse");
    });
}

#[test]
fn a_directory_of_100_000_files_is_found_by_name() {
    let mut tree = Tree::new();
    let origin = tree.add_origin("test");
    for n in 0..100_000 {
        let content = Content::bytes(n.to_string());
        tree.add_file(format!("d/file-{n}").as_bytes(), content, Default::default(), origin).unwrap();
    }
    let image = image(&tree, &Options::new(Zstd));
    assert_eq!(oracle::unsquashfs(&image.path()), listing(&tree).unwrap());
    oracle::with_mount(&image.path(), |root| {
        for n in [0, 1, 4095, 50_000, 99_999] {
            assert_eq!(std::fs::read_to_string(root.join(format!("d/file-{n}"))).unwrap(), n.to_string());
        }
        assert!(!root.join("d/file-100000").exists() && !root.join("d/zzz").exists());
        assert_eq!(std::fs::read_dir(root.join("d")).unwrap().count(), 100_000);
    });
}

#[test]
fn levels_change_the_size_and_nothing_else() {
    let tree = trees::generated(7);
    let expected = listing(&oracle::without_xattrs(&tree)).unwrap();
    for compression in COMPRESSORS {
        for level in [*levels(compression).start(), *levels(compression).end()] {
            let image = image(&tree, &Options { level, ..Options::new(compression) });
            assert_eq!(oracle::unsquashfs(&image.path()), expected, "{compression:?} {level}");
        }
    }
}

#[test]
fn times_before_1970_and_after_2106_are_clamped() {
    let tree = parse_listing("file /a 0644 0 0 mtime=-5\nfile /b 0644 0 0 mtime=9999999999").unwrap();
    let clamped = parse_listing("file /a 0644 0 0 mtime=0\nfile /b 0644 0 0 mtime=4294967295").unwrap();
    assert_eq!(oracle::unsquashfs(&image(&tree, &Options::new(Gzip)).path()), listing(&clamped).unwrap());
}

#[test]
fn options_no_kernel_reads_are_refused() {
    for (options, expected) in [
        (
            Options { block_size: 2048, ..Options::new(Gzip) },
            "block size 2048 is not a power of two from 4096 to 1048576",
        ),
        (
            Options { block_size: 5000, ..Options::new(Gzip) },
            "block size 5000 is not a power of two from 4096 to 1048576",
        ),
        (Options { level: 13, ..Options::new(Gzip) }, "Gzip has no level 13; choose 1 to 12"),
        (Options { level: 0, ..Options::new(Zstd) }, "Zstd has no level 0; choose 1 to 22"),
    ] {
        let error = write(&Tree::new(), &options, std::io::Cursor::new(Vec::new())).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn content_that_is_shorter_than_announced_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("short");
    std::fs::write(&path, [0; 5000]).unwrap();
    let mut tree = Tree::new();
    let origin = tree.add_origin("package x");
    tree.add_file(b"f", Content::file(&path, 50_000), Default::default(), origin).unwrap();
    let error = write(&tree, &small_blocks(Gzip), std::io::Cursor::new(Vec::new())).unwrap_err();
    let shown = format!("{error:#}").replace(&path.display().to_string(), "FILE");
    assert_eq!(
        shown,
        "storing a file from package x: reading 50000 bytes at 0 of FILE: file changed or is shorter than expected"
    );
}
