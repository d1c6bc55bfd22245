//! The reader on images of other programs, and on damaged ones.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use liveiso::cli::dev::read_directory;
use liveiso::format::squashfs::{Options, read};
use liveiso::host::Tool;
use liveiso::plan::Compression::{Gzip, Zstd};
use liveiso::tree::{listing, parse_listing};
use tempfile::TempDir;

use super::{image, oracle, trees};

/// A directory as a plain user can make it.
fn directory() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    for n in 0..40 {
        fs::create_dir_all(at(&format!("d{}/e", n % 7))).unwrap();
        fs::write(at(&format!("d{}/e/file{n}", n % 7)), vec![n as u8; n * n * 300]).unwrap();
    }
    fs::write(at("sparse"), [&[0; 300_000][..], b"end"].concat()).unwrap();
    fs::hard_link(at("d1/e/file8"), at("second-name")).unwrap();
    symlink("d1/e", at("link")).unwrap();
    rustix::fs::setxattr(at("sparse"), "user.x", &[7; 300], rustix::fs::XattrFlags::empty()).unwrap();
    fs::set_permissions(at("d2"), fs::Permissions::from_mode(0o1770)).unwrap();
    dir
}

fn mksquashfs(source: &Path, image: &Path, args: &[&str]) {
    let tool = Tool::new("mksquashfs", "tests").unwrap().arg(source).arg(image);
    tool.args(["-noappend", "-quiet", "-no-progress"]).args(args).output().unwrap();
}

#[test]
fn images_of_other_programs_are_read() {
    let source = directory();
    let expected = listing(&read_directory(source.path()).unwrap()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("image");
    for compression in ["gzip", "xz", "zstd", "lz4"] {
        for extra in
            [&["-always-use-fragments"][..], &["-no-fragments", "-no-exports"], &["-noI", "-noF", "-noX"]]
        {
            mksquashfs(source.path(), &path, &[&["-comp", compression, "-b", "16384"], extra].concat());
            assert_eq!(oracle::ours(&path).unwrap(), expected, "mksquashfs {compression} {extra:?}");
        }
    }
    let tool = Tool::new("gensquashfs", "tests").unwrap();
    let tool = tool.args(["--keep-time", "--keep-xattr", "--force", "--quiet", "--pack-dir"]);
    tool.arg(source.path()).arg(&path).output().unwrap();
    // gensquashfs knows no hard links here and gives the root a mode and time of its own.
    let shown = |tree| oracle::without_links_but_xattrs(&tree).split_once('\n').unwrap().1.to_string();
    let found = read(&path, &out.path().join("content"), 1 << 30).unwrap();
    assert_eq!(shown(found), shown(read_directory(source.path()).unwrap()));
}

/// Reads what may be damaged; an error is as good as a tree, a panic is not.
fn try_to_read(bytes: &[u8], path: &PathBuf) -> bool {
    fs::write(path, bytes).unwrap();
    oracle::ours(path).is_ok()
}

#[test]
fn damaged_images_are_errors_or_other_trees() {
    let source = directory();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("image");
    // Uncompressed metadata lets the damage through to the parsers.
    mksquashfs(source.path(), &path, &["-noI", "-noId", "-noF", "-noX", "-noD", "-b", "65536"]);
    let plain = fs::read(&path).unwrap();
    let ours = fs::read(image(&trees::generated(11), &Options::new(Zstd)).path()).unwrap();
    let mut random = trees::Random::new(17);
    for (name, intact) in [("plain", plain), ("ours", ours)] {
        let tables = intact.len() - 6000.min(intact.len() / 2);
        let mut errors = 0;
        for n in 0..300 {
            let mut damaged = intact.clone();
            let at = match n % 3 {
                0 => random.below(96),
                1 => tables as u64 + random.below((intact.len() - tables) as u64),
                _ => random.below(intact.len() as u64),
            } as usize;
            damaged[at] ^= 1 + random.below(255) as u8;
            errors += u32::from(!try_to_read(&damaged, &path));
        }
        assert!(errors > 50, "{name}: only {errors} of 300 damaged images were noticed");
        for n in 0..60 {
            assert!(!try_to_read(&intact[..(intact.len() - 4096) * n / 60], &path), "{name} cut at {n}/60");
        }
    }
}

#[test]
fn hostile_images_are_named_by_what_is_wrong() {
    let image = image(&parse_listing("file /f 0644 0 0 size=5000").unwrap(), &Options::new(Gzip));
    let intact = fs::read(image.path()).unwrap();
    let path = image.path();
    let scratch = |n: usize| image.dir.path().join(format!("scratch{n}"));
    for (n, (at, bytes, expected)) in [
        (0, &b"hsqx"[..], "not a squashfs image: the magic number is wrong"),
        (20, &[2, 0], "compressor 2 is none of gzip, xz, zstd, lz4 and lzo"),
        (40, &[0, 0, 0, 1, 0, 0, 0, 0], "the image is cut off: it should have 16777216 bytes and has 4096"),
        (64, &[255; 8], "the inode and directory tables are not where they can be"),
        (32, &[255; 8], "reading the root directory: an inode is referred to outside the inode table"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut damaged = intact.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&path, damaged).unwrap();
        let error = read(&path, &scratch(n), 1 << 20).unwrap_err();
        assert_eq!(format!("{error:#}"), format!("reading {}: {expected}", path.display()));
    }
    fs::write(&path, intact).unwrap();
    let error = read(&path, &scratch(9), 4999).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        format!("reading {}: reading /f: the files hold more than 4999 bytes", path.display())
    );
}
