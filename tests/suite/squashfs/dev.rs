//! `liveiso dev squashfs`: a directory and a tar archive of it lead to the same image.

use std::fs;
use std::path::Path;

use liveiso::cache::digest_file;
use liveiso::host::Tool;

use crate::support::{Ran, liveiso, ran};

fn write(dir: &Path, words: &[&str]) -> Ran {
    let mut command = liveiso(["dev", "squashfs"]);
    ran(command.args(words).current_dir(dir).output().unwrap())
}

/// A directory with links, a sparse file and an xattr, and a tar archive of it.
fn sources() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join("d").join(path);
    fs::create_dir_all(at("sub/deep")).unwrap();
    for n in 0..30_usize {
        fs::write(at(&format!("sub/file{n}")), vec![n as u8; n * n * 300]).unwrap();
    }
    fs::hard_link(at("sub/file9"), at("a-second-name")).unwrap();
    std::os::unix::fs::symlink("sub/deep", at("link")).unwrap();
    rustix::fs::setxattr(at("sub/file3"), "user.x", &[7; 300], rustix::fs::XattrFlags::empty()).unwrap();
    let tar = Tool::new("tar", "tests").unwrap().args(["--format=pax", "--xattrs", "--numeric-owner"]);
    let tar = tar.args(["--sort=name", "-C"]).arg(dir.path().join("d"));
    tar.arg("-cf").arg(dir.path().join("d.tar")).arg(".").output().unwrap();
    dir
}

#[test]
fn a_directory_and_its_archive_make_the_same_image() {
    let dir = sources();
    for options in [
        &[][..],
        &["--compression", "xz", "--level", "1", "--block-size", "4096", "--jobs", "1"],
        &["--compression", "zstd", "--block-size", "1M", "--jobs", "3"],
        &["--compression", "lzo", "--block-size", "32K", "--block-cache", "cache"],
        &["--compression", "lz4"],
    ] {
        let digests = ["d", "d.tar"].map(|source| {
            let (code, stdout, stderr) = write(dir.path(), &[&[source, "x.sfs"], options].concat());
            assert_eq!((code, stderr.as_str()), (Some(0), ""), "{options:?}");
            assert!(stdout.contains("\"inodes\":34,"), "{stdout}");
            digest_file(&dir.path().join("x.sfs")).unwrap().sha256
        });
        assert_eq!(digests[0], digests[1], "{options:?}");
    }
}

#[test]
fn what_is_no_source_is_said() {
    let dir = sources();
    fs::write(dir.path().join("text"), "no archive").unwrap();
    for (words, expected) in [
        (
            ["missing", "x.sfs"],
            "error: reading missing\n  caused by: No such file or directory (os error 2)\n",
        ),
        (["/dev/null", "x.sfs"], "error: /dev/null is neither a directory nor a tar archive\n"),
    ] {
        assert_eq!(write(dir.path(), &words), (Some(1), String::new(), expected.to_string()));
    }
    let (code, _, stderr) = write(dir.path(), &["text", "x.sfs"]);
    let first = stderr.lines().next();
    assert_eq!(
        (code, first),
        (Some(1), Some("error: reading a tar archive; a compressed one must be uncompressed first"))
    );
    assert!(!dir.path().join("x.sfs").exists());
}
