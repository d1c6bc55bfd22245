//! dm-verity: the hash tree against cryptsetup's own, the program that speaks to
//! the device mapper, and an image with one flipped bit under a real kernel.
//!
//! Needs cryptsetup-bin, binutils, and what live:: needs.

use std::fs;
use std::path::{Path, PathBuf};

use liveiso::format::verity;
use liveiso::initramfs::ioctl_program;
use liveiso::plan::Arch;

use super::machine::{boot, boot_on};
use super::media::{Unpacked, run};
use crate::support::{built, liveiso, oracle, profile, ran, tiny_variant};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 9562's way to write one.
fn shown_uuid(uuid: &[u8; 16]) -> String {
    let text = hex(uuid);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

/// Blocks of data that are all different.
fn data(dir: &Path, blocks: u32) -> PathBuf {
    let path = dir.join("image");
    let words = (0..blocks * 1024).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes());
    fs::write(&path, words.collect::<Vec<_>>().concat()).unwrap();
    path
}

/// `veritysetup format` with our salt and UUID writes the same bytes and names the same root hash.
#[test]
fn the_tree_is_the_one_veritysetup_writes() {
    let dir = tempfile::tempdir().unwrap();
    for blocks in [2, 127, 128, 129, 16384, 16385] {
        let ours = data(dir.path(), blocks);
        let theirs = dir.path().join("theirs");
        fs::copy(&ours, &theirs).unwrap();
        let mut file = fs::File::options().read(true).write(true).open(&ours).unwrap();
        let verity = verity::append(&mut file).unwrap();
        let place = format!("--hash-offset={}", u64::from(blocks) * 4096);
        let count = format!("--data-blocks={blocks}");
        let salt = format!("--salt={}", hex(&verity.salt));
        let uuid = format!("--uuid={}", shown_uuid(&verity.uuid));
        let said =
            oracle("veritysetup", &["format", &place, &count, &salt, &uuid, "theirs", "theirs"], dir.path());
        let root = said.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim();
        assert_eq!(root, verity.root_hash_hex(), "{blocks} blocks");
        assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{blocks} blocks differ");
        oracle("veritysetup", &["verify", &place, "image", "image", root], dir.path());
    }
}

/// What objdump makes of the program, without addresses.
fn disassembled(arch: Arch, machine: &str, headers: usize) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("code"), &ioctl_program(arch)[headers..]).unwrap();
    let words = ["-D", "-b", "binary", "-M", "intel", "-m", machine, "--no-show-raw-insn", "code"];
    let text = oracle("objdump", &words, dir.path());
    let code = text.lines().filter_map(|line| line.trim_start().split_once(":\t"));
    code.map(|(_, code)| code.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

#[test]
fn the_program_is_three_system_calls() {
    let i386 = "sub esp,0x1000\nmov ecx,esp\nxor ebx,ebx\nmov edx,0x1000\nmov eax,0x3\nint 0x80\n\
                lea edx,[ecx+0x4]\nmov ecx,DWORD PTR [ecx]\nmov bl,0x3\nmov eax,0x36\nint 0x80\n\
                neg eax\nmov ebx,eax\nmov eax,0x1\nint 0x80\n";
    assert_eq!(disassembled(Arch::I386, "i386", 84), i386);
    let amd64 = "sub rsp,0x1000\nmov rsi,rsp\nxor edi,edi\nmov edx,0x1000\nxor eax,eax\nsyscall\n\
                 mov edi,0x3\nmov esi,DWORD PTR [rsp]\nlea rdx,[rsp+0x4]\nmov eax,0x10\nsyscall\n\
                 neg eax\nmov edi,eax\nmov eax,0x3c\nsyscall\n";
    assert_eq!(disassembled(Arch::Amd64, "i386:x86-64", 120), amd64);
}

/// readelf has nothing to warn of, and the kernel runs it: FIONREAD of a pipe works,
/// a number no driver knows is ENOTTY (25).
#[test]
fn the_program_runs() {
    let dir = tempfile::tempdir().unwrap();
    let sh = |script: &str| oracle("sh", &["-c", script], dir.path());
    for arch in [Arch::I386, Arch::Amd64] {
        fs::write(dir.path().join("ioctl"), ioctl_program(arch)).unwrap();
        assert_eq!(sh("readelf -hlW ioctl 2>&1 | grep -ci -e warning -e error; true"), "0\n");
    }
    let script = "chmod +x ioctl; true | {
        printf '\\033\\124\\000\\000\\000\\000\\000\\000' >request; ./ioctl 3<&0 <request; echo $?
        printf '\\377\\124\\000\\000' >request; ./ioctl 3<&0 <request; echo $?; }";
    assert_eq!(sh(script), "0\n25\n");
}

/// The ISO of a profile like tiny with `verity`, and 256 KiB that no compressor can shrink in its root.
fn checked_iso(dir: &Path) -> (PathBuf, Vec<u8>) {
    let source = dir.join("checked");
    fs::create_dir(&source).unwrap();
    let mode = "mode = \"unpacked\"\n";
    tiny_variant(&source, |text| text.replace(mode, &format!("{mode}verity = true\n")));
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(256 << 10)
    .collect();
    fs::create_dir_all(source.join("airootfs/root")).unwrap();
    fs::write(source.join("airootfs/root/noise"), &noise).unwrap();
    (built(&source, "checked").0, noise)
}

/// Every boot entry of a medium has the root hash of its image. With one bit of one file flipped the
/// system starts, that file is an I/O error and everything else is as it was; at the end the image
/// is let go and the disc ejected.
#[test]
fn a_flipped_bit_is_an_io_error() {
    let dir = tempfile::tempdir().unwrap();
    let (iso, noise) = checked_iso(dir.path());
    let medium = Unpacked::at(&iso, &dir.path().join("unpacked"));
    let image = medium.tree.join("liveiso/i386/airootfs.sfs");
    let dump = oracle("unsquashfs", &["-s", image.to_str().unwrap()], dir.path());
    let size: f64 = dump
        .lines()
        .find_map(|l| l.strip_prefix("Filesystem size "))
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let place = format!("--hash-offset={}", (size as u64).next_multiple_of(4096));
    let read = |file: &str| fs::read_to_string(medium.tree.join(file)).unwrap();
    let grub = read("boot/grub/grub.cfg");
    let word = grub.split_whitespace().find_map(|word| word.strip_prefix("liveiso.verity=")).unwrap();
    let image_name = image.to_str().unwrap();
    oracle("veritysetup", &["verify", &place, image_name, image_name, word], dir.path());
    let (_, stdout, _) = ran(liveiso(["inspect"]).arg(&iso).output().unwrap());
    assert_eq!(stdout.matches(&format!("\n  verity       root hash {word}\n")).count(), 1, "{stdout}");
    let manifest = fs::read(iso.with_extension("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["root-hash"], word);
    for file in ["boot/grub/grub.cfg", "isolinux/isolinux.cfg"] {
        let text = read(file);
        let entries = text.matches("/vmlinuz").count();
        assert!(entries >= 5, "{file}:\n{text}");
        assert_eq!(text.matches(&format!("liveiso.verity={word}")).count(), entries, "{file}:\n{text}");
    }

    // A bit of the second block of 128 KiB, which is stored as it is.
    let mut bytes = fs::read(&iso).unwrap();
    let wanted = &noise[200 << 10..][..4096];
    let at = bytes.windows(4096).position(|window| window == wanted).unwrap();
    bytes[at + 100] ^= 0x10;
    let damaged = dir.path().join("damaged.iso");
    fs::write(&damaged, bytes).unwrap();
    let mut live = boot(&medium, 128, &format!("liveiso.verity={word}"));
    live.disc(&damaged);
    let mut guest = live.start();
    guest.says(":: verity: every block of the image is checked when it is read");
    guest.logs_in();
    assert_eq!(guest.ask("head -c 131072 /root/noise | wc -c"), "131072\n");
    let answer = guest.ask("cat /root/noise | wc -c");
    assert_eq!(answer, "cat: read error: Input/output error\n131072\n");
    assert!(guest.ask("dmesg | grep verity").contains(" is corrupted"));
    guest.types("poweroff");
    guest.says("The medium is released.");
    guest.ends("");
}

/// A 64-bit system whose initramfs is squashed: a boot entry with another root hash is refused in
/// words; with its own it runs from RAM, checked all the same, and the disc can go.
#[test]
fn another_root_hash_is_refused_and_a_copy_in_ram_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("checked-amd64");
    run("cp", &["-r".as_ref(), profile("secure").as_ref(), source.as_ref()]);
    let text = fs::read_to_string(source.join("profile.toml")).unwrap();
    let changed = text.replace("mode = \"unpacked\"\n", "mode = \"unpacked\"\nverity = true\n");
    assert_ne!(text, changed);
    let changed = format!("{changed}\n[initramfs]\nlayout = \"squashed\"\n");
    fs::write(source.join("profile.toml"), changed).unwrap();
    let iso = built(&source, "checked-amd64").0;
    let medium = Unpacked::at(&iso, &dir.path().join("unpacked"));
    let manifest = fs::read(iso.with_extension("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let root_hash = manifest["root-hash"].as_str().unwrap();

    let other = "0123456789abcdef".repeat(4);
    let mut live = boot_on("qemu64", "amd64", &medium, 256, &format!("liveiso.verity={other}"));
    let mut guest = live.disc(&iso).start();
    guest.says(&format!(
        "!! the image cannot be mounted: the root hash of the boot entry is {other}, that of this build \
         {root_hash}: the entry was changed, or belongs to another build\n"
    ));
    guest.says("power off > ");
    guest.ends("p");

    let upper = root_hash.to_ascii_uppercase();
    let mut live = boot_on("qemu64", "amd64", &medium, 384, &format!("liveiso.verity={upper} toram"));
    let mut guest = live.disc(&iso).start();
    guest.says(":: /dev/sr0 (iso9660) may be removed now\n");
    guest.says(":: verity: every block of the image is checked when it is read\n");
    guest.says("; image in RAM (");
    guest.logs_in();
    assert_eq!(guest.ask("cat /sys/block/dm-0/dm/name; uname -m"), "liveiso-verity\nx86_64\n");
    assert_eq!(guest.ask("grep -c -e /dev/sr0 -e squash: /proc/mounts"), "0\n");
    guest.types("poweroff");
    guest.says("The medium is released.");
    guest.ends("");
}
