//! What a build publishes, as independent programs read it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use liveiso::host::Tool;
use serde_json::Value;

use super::{TINY, json, output, sha256};

#[test]
fn the_artifacts_agree_with_each_other() {
    let (place, artifacts, stem) = (&TINY.reference().place, &TINY.reference().artifacts, TINY.stem);
    let out = place.out();
    let iso = out.join(format!("{stem}.iso"));
    let check = Tool::new("sha256sum", "tests").unwrap().args(["-c", &format!("{stem}.iso.sha256")]);
    assert_eq!(check.current_dir(&out).output().unwrap(), format!("{stem}.iso: OK\n").as_bytes());

    let manifest = json(&out.join(format!("{stem}.manifest.json")));
    let size = fs::metadata(&iso).unwrap().len();
    let recorded = serde_json::json!({ format!("{stem}.iso"): { "size": size, "sha256": artifacts[&format!("{stem}.iso")] } });
    assert_eq!(manifest["artifacts"], recorded);
    let host = |text: &str| {
        text.contains(env!("CARGO_MANIFEST_DIR")) || text.contains("http") || text.contains("file:")
    };
    assert!(!host(&manifest.to_string()), "{manifest}");

    let medium = place.path().join("medium");
    extract(&iso, &medium);
    for (name, path) in [
        ("airootfs.sfs", "liveiso/i386/airootfs.sfs"),
        ("initrd.img", "liveiso/boot/i386/initrd.img"),
        ("vmlinuz", "liveiso/boot/i386/vmlinuz"),
    ] {
        let recorded = &manifest["images"][name];
        let path = medium.join(path);
        assert_eq!(recorded["sha256"], *sha256(&path), "{name}");
        assert_eq!(recorded["size"], fs::metadata(&path).unwrap().len(), "{name}");
    }
    let id = manifest["build-id"].as_str().unwrap();
    assert_eq!(fs::read_to_string(medium.join(format!("liveiso/{id}.id"))).unwrap(), format!("{id}\n"));
    the_list_of_digests_is_right(&medium.join("liveiso"), id);

    let mut packages: Vec<String> = manifest["plan"]["packages"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|list| list.as_array().unwrap())
        .map(|p| ["name", "version", "arch"].map(|key| p[key].as_str().unwrap()).join(" "))
        .collect();
    packages.sort();
    packages.dedup();
    let listed = fs::read_to_string(out.join(format!("{stem}.packages.txt"))).unwrap();
    assert_eq!(listed.lines().collect::<Vec<_>>(), packages);

    the_root_is_what_was_listed(&medium.join("liveiso/i386/airootfs.sfs"), &out);
    the_initramfs_is_complete(&medium.join("liveiso/boot/i386/initrd.img"), id);
    the_medium_starts_everywhere(&iso, place.path(), &manifest);
}

fn extract(iso: &Path, to: &Path) {
    let words = ["-no_rc", "-osirrox", "on", "-indev"].map(OsStr::new);
    let words = [&words[..], &[iso.as_ref(), "-extract".as_ref(), "/".as_ref(), to.as_ref()]].concat();
    output("xorriso", &words);
}

/// What `verify` reads: every file of ours but the list itself, and no menu.
fn the_list_of_digests_is_right(dir: &Path, id: &str) {
    let tool = Tool::new("sha256sum", "tests").unwrap().args(["-c", "sha256sums"]).current_dir(dir);
    let marker = format!("{id}.id");
    let boot = ["i386/initrd.img", "i386/vmlinuz", "memtest.bin", "memtest32.efi", "memtest64.efi"];
    let mut names: Vec<String> = boot.iter().map(|name| format!("boot/{name}")).collect();
    names.extend([marker, "i386/airootfs.sfs".to_string()]);
    // The id decides where it stands.
    names.sort();
    let expected: String = names.iter().map(|name| format!("{name}: OK\n")).collect();
    assert_eq!(String::from_utf8(tool.output().unwrap()).unwrap(), expected);
}

/// Owners and modes of the squashfs as unsquashfs reads them, and its names against files.txt.
fn the_root_is_what_was_listed(image: &Path, out: &Path) {
    let listing = output("unsquashfs", &["-lln".as_ref(), image.as_ref()]);
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    let mut found = Vec::new();
    for line in listing.lines() {
        let mut words = line.splitn(2, " 0/0 ");
        let (mode, rest) = (words.next().unwrap(), words.next().unwrap_or_else(|| panic!("owner: {line}")));
        *kinds.entry(mode).or_default() += 1;
        let name = &rest[rest.find("squashfs-root").unwrap() + "squashfs-root".len()..];
        found.push(name.split(" -> ").next().unwrap().to_string());
    }
    let kinds: Vec<&str> = kinds.into_keys().collect();
    assert_eq!(kinds, ["-rw-r--r--", "-rwxr-xr-x", "drwxr-xr-x", "lrwxrwxrwx"]);
    found.retain(|name| !name.is_empty());
    found.sort();
    let text = fs::read_to_string(out.join(format!("{}.files.txt", TINY.stem))).unwrap();
    let mut listed: Vec<&str> = text.lines().map(|line| line.rsplit_once(" [").unwrap().0).collect();
    listed.sort_unstable();
    assert_eq!(found, listed);
}

/// The initramfs as xz and cpio read it: the base, then the archive with the id.
fn the_initramfs_is_complete(image: &Path, id: &str) {
    let bytes = fs::read(image).unwrap();
    let start = bytes.windows(6).rposition(|w| w == b"070701").unwrap();
    let first = bytes.windows(6).position(|w| w == b"070701").unwrap();
    assert!(first % 512 == 0 && first < start, "the second archive begins at {first}");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tail"), &bytes[first..]).unwrap();
    fs::write(dir.path().join("base.xz"), &bytes[..first]).unwrap();
    let listed = |script: &str| {
        let tool = Tool::new("sh", "tests").unwrap().args(["-euc", script]).current_dir(dir.path());
        String::from_utf8(tool.output().unwrap()).unwrap()
    };
    assert_eq!(
        listed("cpio --quiet -t < tail"),
        ".\netc\netc/liveiso\netc/liveiso/id\netc/liveiso/image\n.complete\n"
    );
    assert_eq!(listed("cpio --quiet -i --to-stdout etc/liveiso/id < tail"), format!("{id}\n"));
    let base = listed("xz --single-stream -dc base.xz | cpio --quiet -t");
    for name in ["init", "bin/busybox", "bin/sh", "sbin/modprobe", "dev/console", "etc/liveiso/medium"] {
        assert!(base.lines().any(|line| line == name), "{name}");
    }
    let medium = listed("xz --single-stream -dc base.xz | cpio --quiet -i --to-stdout etc/liveiso/medium");
    assert_eq!(medium, "INSTALL_DIR=liveiso\nIMAGE=i386/airootfs.sfs\nVOLUME=TINY\n");
}

/// The MBR, El Torito and the EFI system partition.
fn the_medium_starts_everywhere(iso: &Path, dir: &Path, manifest: &Value) {
    let table: Value = serde_json::from_str(&output("sfdisk", &["-J".as_ref(), iso.as_ref()])).unwrap();
    let table = &table["partitiontable"];
    assert_eq!(table["label"], "dos");
    let rows = table["partitions"].as_array().unwrap();
    let of = |key: &str| rows.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!((of("type"), of("bootable")), (vec!["0".into(), "ef".into()], vec![true.into(), Value::Null]));

    let words = ["-no_rc", "-report_about", "FAILURE", "-indev"].map(OsStr::new);
    let words = [&words[..], &[iso.as_ref(), "-report_el_torito".as_ref(), "plain".as_ref()]].concat();
    let report = output("xorriso", &words);
    let images: Vec<Vec<&str>> = report
        .lines()
        .filter_map(|line| line.strip_prefix("El Torito boot img :"))
        .map(|line| line.split_whitespace().take(4).collect())
        .collect();
    assert_eq!(images, [["1", "BIOS", "y", "none"], ["2", "UEFI", "y", "none"]]);

    let (start, size) = (rows[1]["start"].as_u64().unwrap() * 512, rows[1]["size"].as_u64().unwrap() * 512);
    let bytes = fs::read(iso).unwrap();
    let esp = dir.join("esp");
    fs::write(&esp, &bytes[start as usize..(start + size) as usize]).unwrap();
    assert_eq!(manifest["images"]["efiboot.img"]["sha256"], *sha256(&esp));
    output("fsck.fat", &["-n".as_ref(), esp.as_ref()]);
    let files = output("mdir", &["-/".as_ref(), "-b".as_ref(), "-i".as_ref(), esp.as_ref(), "::".as_ref()]);
    for name in ["::/EFI/BOOT/BOOTX64.EFI", "::/EFI/BOOT/BOOTIA32.EFI"] {
        assert!(files.lines().any(|line| line == name), "{files}");
    }
}
