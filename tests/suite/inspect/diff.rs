//! `liveiso diff`: what it names, and its exit codes.

use std::path::Path;

use liveiso::inspect::diff::{diff, text};
use tempfile::TempDir;

use super::medium::{GRUB, INITRD, KERNEL, Medium, ROOT, kernel, patch};
use crate::support::{liveiso, ran};

/// The changes from the good medium to a changed one; sizes and places of tables left out.
fn changes(change: impl FnOnce(&mut Medium)) -> Vec<String> {
    let dir = TempDir::new().unwrap();
    let old = Medium::good().write(dir.path(), "old");
    let mut medium = Medium::good();
    change(&mut medium);
    let new = medium.write(dir.path(), "new");
    let all = text(&diff(&old, &new).unwrap_or_else(|e| panic!("{e:#}")));
    let bytes = |line: &&str| line.starts_with("root ") && line.contains(" bytes -> ");
    all.lines().filter(|line| !line.starts_with("table") && !bytes(line)).map(str::to_string).collect()
}

fn line(area: &str, kind: &str, rest: &str) -> String {
    format!("{area:<10} {kind:<8} {rest}")
}

#[test]
fn files_packages_and_owners_of_the_root_are_named() {
    let found = changes(|m| {
        m.root = m
            .root
            .replace("7.2-1", "7.2-2")
            .replace("/usr/bin/nano 0755 0 0 size=300000", "/usr/bin/nano 4755 0 5 size=300001");
        m.root += "file /etc/new 0600 0 0 size=1\nslink /etc/link 0777 0 0 new\n";
        m.root = m.root.replace("file /etc/hostname 0644 0 0 text=live\\x0a\n", "");
    });
    assert_eq!(
        found,
        [
            line("package", "changed", "nano:i386: 7.2-1 -> 7.2-2"),
            line("root", "removed", "/etc/hostname"),
            line("root", "added", "/etc/link"),
            line("root", "added", "/etc/new"),
            line(
                "root",
                "changed",
                "/usr/bin/nano: mode 0755 -> 4755, owner 0:0 -> 0:5, content (300000 -> 300001 bytes)"
            ),
            line("root", "changed", "/var/lib/dpkg/status: content (77 bytes)"),
        ]
    );
}

#[test]
fn menu_lines_modules_kernels_and_loaders_are_named() {
    let found = changes(|m| {
        m.replace(GRUB, "quiet", "quiet nomodeset");
        m.without("vfat");
        m.modules.push("btrfs");
        m.files.insert(KERNEL.to_string(), kernel("6.12.0-1-686"));
        m.esp.remove("EFI/BOOT/BOOTIA32.EFI");
        m.set("autorun.inf", "x");
    });
    let menu = |n: &str, word: &str| format!("/{GRUB}:5 linux /{KERNEL} {word} $loopback{n}");
    assert_eq!(
        found,
        [
            line("menu", "removed", &menu("", "quiet")),
            line("menu", "added", &menu("", "quiet nomodeset")),
            line(
                "kernel",
                "changed",
                &format!(
                    "/{KERNEL}: i386 6.1.0-9-686 (nobody) #1 SMP unsigned -> i386 6.12.0-1-686 (nobody) #1 SMP unsigned"
                )
            ),
            line("module", "removed", &format!("vfat in /{INITRD}")),
            line("module", "added", &format!("btrfs in /{INITRD}")),
            line("file", "added", "/autorun.inf"),
            line("file", "changed", &format!("/{GRUB}: content (453 -> 463 bytes)")),
            line("file", "changed", &line_of_initrd(&found)),
            line("file", "changed", &format!("/{KERNEL}: content (40000 bytes)")),
            line("esp", "removed", "/EFI/BOOT/BOOTIA32.EFI"),
        ]
    );
}

/// The compressed sizes are the compressor's affair.
fn line_of_initrd(found: &[String]) -> String {
    let start = line("file", "changed", &format!("/{INITRD}: content ("));
    let found = found.iter().find(|line| line.starts_with(&start)).unwrap();
    found[line("file", "changed", "").len()..].to_string()
}

#[test]
fn exit_codes_are_those_of_diff() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    let one = Medium::good().write(dir.path(), "one");
    let two = Medium::good().write(dir.path(), "two");
    let run = |words: &[&str]| ran(liveiso(words).args([&one, &two]).output().unwrap());
    let equal = format!("{} and {} are equal\n", path("one.iso"), path("two.iso"));
    assert_eq!(run(&["diff"]), (Some(0), equal, String::new()));
    let json = "{\n  \"equal\": true,\n  \"changes\": []\n}\n".to_string();
    assert_eq!(run(&["diff", "--json"]), (Some(0), json, String::new()));
    patch(&two, 446, &[0]);
    let (code, stdout, stderr) = run(&["diff", "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&json["equal"], &json["changes"][0]["name"]), (&false.into(), &"MBR".into()));
    assert_eq!(json["changes"].as_array().unwrap().len(), 1);
    patch(&two, 446, &[0x80]);
    // Reserved bytes of the system area: nothing that has a name.
    patch(&two, 20_000, b"?");
    let expected = line("bytes", "changed", "the file: order or padding; no content differs\n");
    assert_eq!(run(&["diff"]), (Some(1), expected, String::new()));
    std::fs::write(&two, "x").unwrap();
    let error = format!(
        "error: inspecting {}\n  caused by: it is neither an ISO nor a disk image, for which its 1 bytes are too few\n",
        path("two.iso")
    );
    assert_eq!(run(&["diff"]), (Some(2), String::new(), error));
    assert!(!Path::new(ROOT).exists());
}

#[test]
fn times_are_counted() {
    let dir = TempDir::new().unwrap();
    let old = Medium::good().write(dir.path(), "old");
    let mut medium = Medium::good();
    medium.timestamp += 3661;
    let all = text(&diff(&old, &medium.write(dir.path(), "new")).unwrap());
    // All but the root directory and the boot catalog, which xorriso dates by the volume.
    let names = liveiso::format::iso9660::read_tree(&old).unwrap().walk().count() - 2;
    let detail = format!("file: {names} names, the first /.disk: 2026-01-01 00:00:00 -> 2026-01-01 01:01:01");
    assert_eq!(all, format!("{}\n", line("times", "changed", &detail)));
}

#[test]
fn the_way_an_image_is_packed_is_told_apart_from_what_is_in_it() {
    let dir = TempDir::new().unwrap();
    let old = Medium::good().write(dir.path(), "old");
    let mut medium = Medium::good();
    let path = dir.path().join("xz.sfs");
    let options = liveiso::format::squashfs::Options {
        block_size: 4096,
        ..liveiso::format::squashfs::Options::new(liveiso::plan::Compression::Xz)
    };
    let tree = liveiso::tree::parse_listing(&medium.root).unwrap();
    liveiso::format::squashfs::write(&tree, &options, std::fs::File::create(&path).unwrap()).unwrap();
    medium.files.insert(ROOT.to_string(), std::fs::read(&path).unwrap());
    let all = text(&diff(&old, &medium.write(dir.path(), "new")).unwrap());
    let root: Vec<&str> = all.lines().filter(|line| line.starts_with("root")).collect();
    let packed = format!("/{ROOT}: gzip, blocks of 131072 bytes -> xz, blocks of 4096 bytes");
    assert_eq!(root[0], line("root", "changed", &packed));
    assert_eq!(root.len(), 2, "{all}");
    assert!(root[1].contains(" bytes -> "), "{all}");
}
