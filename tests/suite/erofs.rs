//! EROFS images, mounted by the kernel and read by erofs-utils; and a live system on one.
//!
//! Needs erofs-utils, fakeroot and attr; QEMU for the boot.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use liveiso::cache::digest_file;
use liveiso::cli::dev::read_directory;
use liveiso::format::erofs::{HEAD, Options, Parameters, Reader, parameters, write};
use liveiso::host::{Tool, environment};
use liveiso::tree::{Tree, listing, parse_listing};
use tempfile::TempDir;

use crate::squashfs::trees;
use crate::support::{built, liveiso, profile, ran};

const OPTIONS: Options = Options { level: 12, cluster_size: 64 << 10, timestamp: 0xffff_ffff };

fn image(tree: &Tree, options: &Options) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (work, out) = (dir.path().join("work"), dir.path().join("image.erofs"));
    fs::create_dir(&work).unwrap();
    write(tree, options, &work, &out).unwrap();
    (dir, out)
}

/// What the kernel shows; nothing for a plain user, which CI does not accept.
fn kernel(image: &Path) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        assert!(environment("CI").is_none(), "CI must run these tests as root: they mount images");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = Tool::new("mount", "tests").unwrap();
    mount.args(["-t", "erofs", "-o", "loop,ro"]).arg(image).arg(dir.path()).output().unwrap();
    let shown = read_directory(dir.path()).and_then(|tree| listing(&tree));
    Tool::new("umount", "tests").unwrap().arg(dir.path()).output().unwrap();
    Some(shown.unwrap())
}

/// Every file and name of images that mkfs.erofs makes with other options than ours.
#[test]
fn our_reader_reads_what_mkfs_erofs_writes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("many")).unwrap();
    for n in 0..700 {
        fs::write(root.join(format!("many/a-rather-long-name-for-file-{n}")), format!("{n}\n").repeat(n))
            .unwrap();
    }
    let text: String =
        (0..60_000_u32).map(|n| format!("line {} {}\n", n, n.wrapping_mul(2_654_435_761) % 997)).collect();
    let mut noise = vec![0; 300_001];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let mixed = [text.as_bytes(), &noise, &vec![0; 100_000], text.as_bytes()].concat();
    for (name, bytes) in [
        ("text", text.as_bytes()),
        ("noise", &noise),
        ("mixed", &mixed),
        ("empty", b""),
        ("block", &noise[..4096]),
    ] {
        fs::write(root.join(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink("../text", root.join("many/link")).unwrap();
    for options in [
        &[][..],
        &["-zlz4"],
        &["-zlz4hc,12", "-C65536"],
        &["-zlz4hc,9", "-C65536", "-Eztailpacking"],
        &["-zlz4", "-Eztailpacking"],
        &["-zlz4hc,12", "-C1048576"],
    ] {
        let out = dir.path().join("x.erofs");
        let mkfs = Tool::new("mkfs.erofs", "tests").unwrap().arg("--quiet").args(options);
        mkfs.arg(&out).arg(&root).output().unwrap();
        let reader = Reader::open(&out, 0, fs::metadata(&out).unwrap().len()).unwrap();
        let entries = reader.entries().unwrap_or_else(|e| panic!("{options:?}: {e:#}"));
        let paths: Vec<String> =
            entries.iter().map(|entry| String::from_utf8(entry.path.clone()).unwrap()).collect();
        let tree = read_directory(&root).unwrap();
        let mut expected: Vec<String> =
            tree.walk().map(|entry| String::from_utf8(entry.path.clone()).unwrap()).collect();
        expected.sort();
        assert_eq!(paths, expected, "{options:?}");
        for entry in &entries {
            let path = root.join(std::str::from_utf8(&entry.path).unwrap());
            if entry.mode & 0o170000 == 0o100000 {
                let found =
                    reader.read_file(&entry.path, 8 << 20).unwrap_or_else(|e| panic!("{options:?}: {e:#}"));
                assert!(found.unwrap() == fs::read(&path).unwrap(), "{options:?}: {}", path.display());
            }
            let target = fs::read_link(&path).ok().map(|target| target.into_os_string().into_encoded_bytes());
            assert_eq!(entry.target, target, "{options:?}: {}", path.display());
        }
        assert_eq!(reader.read_file(b"many/nothing", 10).unwrap(), None);
        assert!(reader.read_file(b"text", 10).is_err());
    }
}

/// Damage is an error or other bytes, never a panic and no memory beyond the image's.
#[test]
fn damaged_images_never_panic() {
    let (_dir, out) = image(&generated(5), &OPTIONS);
    let good = fs::read(&out).unwrap();
    let length = good.len() as u64;
    let look = || {
        let Ok(reader) = Reader::open(&out, 0, length) else { return };
        for entry in reader.entries().unwrap_or_default().iter().take(60) {
            let _ = reader.read_file(&entry.path, 1 << 20);
        }
    };
    let file = fs::File::options().write(true).open(&out).unwrap();
    let (dense, sparse) = ((1024..3000).step_by(3), (3000..good.len()).step_by(good.len() / 150 + 1));
    for at in dense.chain(sparse) {
        for flip in [0x01, 0x80, 0xff] {
            file.write_all_at(&[good[at] ^ flip], at as u64).unwrap();
            look();
        }
        file.write_all_at(&good[at..=at], at as u64).unwrap();
    }
    for cut in (0..good.len()).rev().step_by(good.len() / 60 + 1) {
        file.set_len(cut as u64).unwrap();
        look();
    }
}

/// dump.erofs sees what we see in the superblock.
#[test]
fn the_superblock_is_read_as_by_dump_erofs() {
    for (cluster_size, features) in [(4 << 10, "0padding"), (64 << 10, "0padding big_pcluster")] {
        let (_dir, out) = image(&generated(6), &Options { cluster_size, ..OPTIONS });
        let head: Vec<u8> = fs::read(&out).unwrap().into_iter().take(HEAD).collect();
        let found = parameters(&head).unwrap();
        let shown = Tool::new("dump.erofs", "tests").unwrap().arg("-s").arg(&out).output().unwrap();
        let shown = String::from_utf8(shown).unwrap();
        let field = |name: &str| {
            let line = shown.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_once(':').unwrap().1.trim().to_string()
        };
        assert!(field("Filesystem features").contains(features), "{shown}");
        let expected = Parameters {
            compression: vec!["lz4".to_string()],
            block_size: 4096,
            cluster_size: Some(u64::from(cluster_size)),
            inodes: field("Filesystem inode count").parse().unwrap(),
            bytes_used: field("Filesystem blocks").parse::<u64>().unwrap() * 4096,
            time: 0xffff_ffff,
        };
        assert_eq!(found, expected);
    }
}

/// Capabilities, an ACL and the longest of what mkfs.erofs and fakeroot carry.
const LIMITS: &str = "\
file /acl 0644 0 0 mtime=18 size=3 xattr.system.posix_acl_access=0200000001000600ffffffff0200060001000000040004\
00ffffffff10000600ffffffff20000400ffffffff
file /\\x09\\x0a\\x22\\x23\\x27\\x3d\\x5c\\xff 0644 0 0 mtime=19 size=3 xattr.user.\\x3d\\x5c\\xff=00
";

fn generated(seed: u64) -> Tree {
    trees::generated_within(seed, 254, 1000)
}

#[test]
fn every_kind_of_file_reaches_the_kernel() {
    for (name, tree) in [
        ("by hand", parse_listing(&format!("{}{LIMITS}", trees::EVERY_KIND)).unwrap()),
        ("generated 3", generated(3)),
        ("generated 4", generated(4)),
    ] {
        for (level, cluster_size) in [(1, 4 << 10), (12, 64 << 10), (3, 1 << 20)] {
            let (_dir, out) = image(&tree, &Options { level, cluster_size, ..OPTIONS });
            if let Some(shown) = kernel(&out) {
                assert_eq!(shown, listing(&tree).unwrap(), "{name}, {level}, {cluster_size}");
            }
        }
    }
}

#[test]
fn the_same_tree_gives_the_same_image() {
    let tree = generated(5);
    let (_first, a) = image(&tree, &OPTIONS);
    let (_second, b) = image(&tree, &OPTIONS);
    assert_eq!(digest_file(&a).unwrap(), digest_file(&b).unwrap());
}

#[test]
fn cluster_sizes_nobody_reads_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (cluster_size, shown) in [(2048, "2048"), (5000, "5000"), (2 << 20, "2097152")] {
        let options = Options { cluster_size, ..OPTIONS };
        let error = write(&Tree::new(), &options, dir.path(), &dir.path().join("x")).unwrap_err();
        assert_eq!(error.to_string(), format!("cluster size {shown} is no multiple of 4096 up to 1 MiB"));
    }
}

/// The tiny profile with another root format.
fn tiny_on_erofs(dir: &Path) -> PathBuf {
    let copy = dir.join("tiny");
    Tool::new("cp", "tests").unwrap().arg("-a").arg(profile("tiny")).arg(&copy).output().unwrap();
    let text = fs::read_to_string(profile("tiny").join("profile.toml")).unwrap();
    let changed = text.replace("[root]\n", "[root]\nformat = \"erofs\"\n");
    assert_ne!(text, changed);
    fs::write(copy.join("profile.toml"), changed).unwrap();
    copy
}

#[test]
fn tiny_on_erofs_is_inspected_and_boots_in_40_mib() {
    let dir = tempfile::tempdir().unwrap();
    let (iso, said) = built(&tiny_on_erofs(dir.path()), "erofs");
    assert!(said.contains("boot-order is not applied: mkfs.erofs has an order of its own"), "{said}");
    let (code, report, _) = ran(liveiso(["inspect"]).arg(&iso).output().unwrap());
    let images: Vec<&str> = report.lines().filter(|line| line.starts_with("image")).collect();
    assert_eq!((code, images.len()), (Some(0), 1), "{report}");
    let (start, end) =
        ("image        /liveiso/i386/airootfs.erofs: erofs, ", " bytes, lz4, clusters up to 64 KiB, ");
    assert!(images[0].starts_with(start) && images[0].contains(end), "{report}");
    assert!(!report.contains("\ndamaged"), "{report}");
    let (code, report, _) = ran(liveiso(["inspect", "--lint"]).arg(&iso).output().unwrap());
    assert_eq!(code, Some(0), "{report}");
    let words = ["test", "--json", "--firmware", "bios", "--medium", "cd", "--memory", "40"];
    let (code, stdout, stderr) = ran(liveiso(words).arg(&iso).output().unwrap());
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let cells: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(cells[0]["report"]["root-filesystem"], "overlay");
    assert!(cells[0]["medium-reads"]["bytes"].as_u64().unwrap() > 8 << 20, "{cells}");
}
