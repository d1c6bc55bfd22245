//! EROFS images, mounted by the kernel; and a live system on one.
//!
//! Needs erofs-utils, fakeroot and attr; QEMU for the boots.

use std::fs;
use std::path::{Path, PathBuf};

use liveiso::cache::digest_file;
use liveiso::cli::dev::read_directory;
use liveiso::format::erofs::{Options, write};
use liveiso::host::{Tool, environment};
use liveiso::tree::{Tree, listing, parse_listing};
use tempfile::TempDir;

use crate::squashfs::trees;
use crate::support::{liveiso, profile, ran, tiny};

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
fn tiny_on_erofs_boots_in_40_mib() {
    let dir = tempfile::tempdir().unwrap();
    let words = ["test", "--json", "--firmware", "bios", "--medium", "cd", "--memory", "40"];
    let mut command = liveiso(words);
    let (code, stdout, stderr) = ran(command.arg(tiny_on_erofs(dir.path())).output().unwrap());
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let cells: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    println!("{cells}");
    assert_eq!(cells[0]["report"]["root-filesystem"], "overlay");
    assert!(cells[0]["medium-reads"]["bytes"].as_u64().unwrap() > 8 << 20, "{cells}");
}

#[test]
fn a_boot_is_recorded_file_by_file() {
    let mut command = liveiso(["test", "--record-boot-order"]);
    let (code, stdout, stderr) = ran(command.arg(tiny()).output().unwrap());
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let paths: Vec<&str> = stdout.lines().filter(|line| !line.starts_with('#')).collect();
    // What runs beside something else may come in another order; these cannot.
    assert_eq!(paths[..3], ["/usr/bin/busybox", "/etc/inittab", "/etc/rc"], "{stdout}");
    for path in ["/usr/lib/liveiso/coldplug", "/usr/lib/liveiso/serial-login", "/etc/profile"] {
        assert!(paths.contains(&path), "{path} was not read?\n{stdout}");
    }
    assert!(paths.len() < 60, "more than a boot reads:\n{stdout}");
}
