//! /init and the shell programs of the live root, on the host: shellcheck, and
//! the functions that need no kernel, run by the shell they are written for.

mod media;

use std::fs;
use std::path::{Path, PathBuf};

use liveiso::host::Tool;
use tempfile::TempDir;

const INIT: &str = "src/initramfs/init";

/// Every shell program and part of the repository.
fn shell_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in [".ci", "airootfs", "efiboot", "profiles", "src", "tests"] {
        collect(Path::new(dir), &mut found);
    }
    found.extend(fs::read_dir(".").unwrap().map(|e| e.unwrap().path()).filter(|p| is_shell(p)));
    found.sort();
    found
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(&path, found);
        } else if is_shell(&path) {
            found.push(path);
        }
    }
}

fn is_shell(path: &Path) -> bool {
    path.is_file()
        && (path.extension().is_some_and(|e| e == "sh")
            || path.ends_with("etc/profile")
            || fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"#!/bin/sh\n")))
}

#[test]
fn shellcheck_has_no_complaint() {
    let files = shell_files();
    for expected in
        ["src/initramfs/init/init", "src/initramfs/init/menu.sh", "airootfs/etc/rc", "airootfs/usr/sbin/net"]
    {
        assert!(files.iter().any(|f| f.strip_prefix(".").unwrap_or(f) == Path::new(expected)), "{expected}");
    }
    let output =
        Tool::new("shellcheck", "checking /init").unwrap().args(["-s", "sh"]).args(&files).capture().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Ventoy puts its hook in front of a line that is exactly this one.
#[test]
fn init_has_the_line_ventoy_looks_for() {
    let text = fs::read_to_string(Path::new(INIT).join("init")).unwrap();
    assert_eq!(text.lines().filter(|line| *line == "mountroot").count(), 1);
}

/// Runs `script` in busybox ash with the parts of /init sourced and a private
/// directory in place of /run; returns what it prints.
fn in_init(dir: &Path, script: &str) -> String {
    let dir = dir.display();
    let parts = ["say", "options", "drivers", "probe", "medium", "memory", "root", "persist"]
        .map(|part| format!(". {INIT}/{part}.sh\n"))
        .concat();
    let whole = format!(
        "LIBRARY={INIT}\n{parts}LIVE={dir}; LOG={dir}/log; SEEN={dir}/seen\npart() {{ . \"$LIBRARY/$1.sh\"; }}\n{script}\n"
    );
    let output = Tool::new("busybox", "running /init's functions").unwrap().args(["ash", "-c", &whole]);
    let output = output.capture().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{script}");
    String::from_utf8(output.stdout).unwrap()
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[test]
fn words_of_the_command_line() {
    let dir = TempDir::new().unwrap();
    for (line, words) in [
        ("", ""),
        ("  a\tb  ", "a\nb\n"),
        (r#"findiso="/my iso.iso" quiet"#, "findiso=/my iso.iso\nquiet\n"),
        (r#""findiso=/a  b.iso" x"#, "findiso=/a  b.iso\nx\n"),
        (r#"a="" b"#, "a=\nb\n"),
        (r#"open="a b"#, "open=a b\n"),
        ("* $(reboot) `x` ;", "*\n$(reboot)\n`x`\n;\n"),
    ] {
        assert_eq!(in_init(dir.path(), &format!("split_words {}", quoted(line))), words, "{line}");
    }
}

/// What the menus of a network boot say, with what DHCP said.
#[test]
fn the_place_of_the_image_is_found_from_what_loaders_know() {
    let dir = TempDir::new().unwrap();
    for (told, dhcp, expected) in [
        ("http://192.0.2.1/live/", "", "http://192.0.2.1/live"),
        ("http://192.0.2.1:81/live/boot.ipxe", "", "http://192.0.2.1:81/live"),
        ("tftp://192.0.2.2/live/boot.ipxe", "", "tftp://192.0.2.2/live"),
        ("tftp://192.0.2.2/http://192.0.2.1/boot.ipxe", "", "http://192.0.2.1"),
        ("tftp:", "192.0.2.2 pxelinux.0", "tftp://192.0.2.2"),
        ("tftp:", "192.0.2.2 /a/b/pxelinux.0", "tftp://192.0.2.2/a/b"),
        ("tftp:", "192.0.2.2", "tftp://192.0.2.2"),
        ("tftp:", "", "failed: DHCP names no boot server: write liveiso.net=tftp://ADDRESS/DIR"),
    ] {
        let command = format!(
            "mkdir -p \"$LIVE\"; echo {} >\"$LIVE/server\"; opt_net={}; \
             . \"$LIBRARY/network.sh\"; find_base && echo \"$base\" || echo \"failed: $verdict\"",
            quoted(dhcp),
            quoted(told)
        );
        assert_eq!(in_init(dir.path(), &command), format!("{expected}\n"), "{told} {dhcp}");
    }
}

#[test]
fn options_and_their_other_spellings() {
    let dir = TempDir::new().unwrap();
    let defaults: &[(&str, &str)] = &[
        ("opt_timeout", "60"),
        ("opt_init", "/sbin/init"),
        ("opt_zram", "auto"),
        ("opt_toram", "auto"),
        ("opt_persistence", ""),
    ];
    let table: &[(&str, &[(&str, &str)])] = &[
        ("BOOT_IMAGE=/x console=tty0", defaults),
        (r#"findiso="/my iso/a b.iso""#, &[("opt_iso", "/my iso/a b.iso")]),
        ("iso-scan/filename=/a=b.iso", &[("opt_iso", "/a=b.iso")]),
        ("img_dev=UUID=1-2 img_loop=/x.iso", &[("opt_iso_device", "UUID=1-2"), ("opt_iso", "/x.iso")]),
        ("fromiso=/dev/sda1/d/x.iso", &[("opt_iso_device", "/dev/sda1"), ("opt_iso", "/d/x.iso")]),
        (
            "fromiso=/dev/disk/by-label/A/d/x.iso",
            &[("opt_iso_device", "/dev/disk/by-label/A"), ("opt_iso", "/d/x.iso")],
        ),
        ("isofrom=/dev/mapper/a/x.iso", &[("opt_iso_device", "/dev/mapper/a"), ("opt_iso", "/x.iso")]),
        ("toram", &[("opt_toram", "y")]),
        ("toram=filesystem.squashfs", &[("opt_toram", "y")]),
        ("toram copytoram=no", &[("opt_toram", "")]),
        ("copytoram=y toram=n", &[("opt_toram", "")]),
        ("toram toram=auto", &[("opt_toram", "auto")]),
        ("persistence", &[("opt_persistence", "rw")]),
        ("persistent", &[("opt_persistence", "rw")]),
        ("persistence=ro", &[("opt_persistence", "ro")]),
        ("persistence persistence=no", &[("opt_persistence", "")]),
        ("liveiso.persistence=replay", &[("opt_persistence", "replay")]),
        ("fetch=http://10.0.2.2/a b=c", &[("opt_net", "http://10.0.2.2/a")]),
        ("verify checksum=n", &[("opt_verify", "")]),
        ("rootdelay=9", &[("opt_timeout", "9")]),
        ("rootdelay=09", &[("opt_timeout", "60")]),
        ("liveiso.timeout=x;y rootdelay=-1 rootdelay=99999999999", &[("opt_timeout", "60")]),
        ("liveiso.zram=0", &[("opt_zram", "0")]),
        ("cow_spacesize=256M", &[("opt_rw_size", "256M")]),
        ("verify liveiso.verify=no", &[("opt_verify", "")]),
        ("liveiso.rwsize=0", &[("opt_rw_size", "auto")]),
        ("liveiso.rwsize=1g,exec", &[("opt_rw_size", "auto")]),
        ("break", &[("opt_break", "media")]),
        ("break=premount", &[("opt_break", "media")]),
        ("rd.break=mountroot", &[("opt_break", "mount")]),
        ("modprobe.blacklist=a,b_c;d module_blacklist=e-1", &[("opt_blacklist", " a  e-1 ")]),
        ("modules=x,y", &[("opt_modules", " x y ")]),
        ("keymap=us kmap=de-latin1", &[("opt_keymap", "de-latin1")]),
        ("init=/bin/sh", &[("opt_init", "/bin/sh")]),
        ("init=sh", defaults),
        ("single x 3 toram -- --log a=b", &[("opt_init_args", " single 3 --log a=b")]),
        ("quiet debug loglevel=7", &[("opt_quiet", "1"), ("opt_debug", "1"), ("opt_loglevel", "1")]),
    ];
    for (line, expected) in table {
        let print: String = expected.iter().map(|(name, _)| format!("echo \"{name}=${name}\"\n")).collect();
        let found = in_init(dir.path(), &format!("read_options {}\n{print}", quoted(line)));
        let wanted: String = expected.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        assert_eq!(found, wanted, "{line}");
    }
}

/// Runs a tool that makes an image.
fn make(program: &str, args: &[&str], dir: &Path) {
    let tool = Tool::new(program, "making a test image").unwrap();
    let output = tool.args(args).current_dir(dir).capture().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn file_systems_are_told_by_their_magic() {
    let dir = TempDir::new().unwrap();
    let at = dir.path();
    let sized = |name: &str, megabytes: u64| {
        fs::File::create(at.join(name)).unwrap().set_len(megabytes << 20).unwrap();
    };
    for (name, megabytes) in [("ext2", 4), ("ext4", 8), ("fat12", 2), ("fat16", 16), ("fat32", 64)] {
        sized(name, megabytes);
    }
    for (name, megabytes) in [("exfat", 8), ("swap", 1), ("mbr", 1), ("zero", 1), ("nothing", 0)] {
        sized(name, megabytes);
    }
    make("mkfs.ext4", &["-q", "-O", "^has_journal", "ext2"], at);
    make("mkfs.ext4", &["-q", "ext4"], at);
    for bits in ["12", "16", "32"] {
        make("mkfs.fat", &["-F", bits, &format!("fat{bits}")], at);
    }
    make("mkfs.exfat", &["exfat"], at);
    make("mkswap", &["swap"], at);
    fs::create_dir(at.join("tree")).unwrap();
    fs::write(at.join("tree/file"), vec![1; 100_000]).unwrap();
    make("mksquashfs", &["tree", "squashfs", "-quiet", "-no-progress"], at);
    make("xorriso", &["-as", "mkisofs", "-quiet", "-V", "VOLUME_1", "-o", "iso", "tree"], at);
    let mut mbr = vec![0; 1 << 20];
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(at.join("mbr"), mbr).unwrap();
    fs::write(at.join("short"), b"LUKS\xba\xbe").unwrap();

    let names = "ext2 ext4 fat12 fat16 fat32 exfat swap mbr zero nothing squashfs iso short tree missing";
    let script = format!("for n in {names}; do echo $n $(filesystem_type {}/$n); done", at.display());
    let expected = "ext2 ext4\next4 ext4\nfat12 vfat\nfat16 vfat\nfat32 vfat\nexfat exfat\nswap swap\n\
                    mbr partitioned\nzero unknown\nnothing empty\nsquashfs squashfs\niso iso9660\nshort LUKS\n\
                    tree empty\nmissing empty\n";
    assert_eq!(in_init(at, &script), expected);
    assert_eq!(in_init(at, &format!("volume_id {}/iso", at.display())), "VOLUME_1");
}

/// Whatever the medium's marker says decides, and the reason is kept for the report.
#[test]
fn the_marker_decides() {
    let dir = TempDir::new().unwrap();
    let make = |path: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    };
    fs::create_dir(dir.path().join("empty")).unwrap();
    make("ours/liveiso/aa.id");
    make("ours/liveiso/i386/airootfs.sfs");
    make("partial/liveiso/aa.id");
    make("other/liveiso/bb.id");
    make("other/liveiso/i386/airootfs.sfs");
    let judge = |any_build: &str| {
        let script = format!(
            "judged=/dev/sdb1; BUILD_ID=aa; INSTALL_DIR=liveiso; IMAGE=i386/airootfs.sfs; MARKER=liveiso/aa.id
            opt_any_build={any_build}
            for d in empty ours partial other; do
                verdict=; is_our_medium {}/$d && echo $d: yes || echo \"$d: $verdict\"
            done",
            dir.path().display()
        );
        in_init(dir.path(), &script)
    };
    let partial = "our medium, but liveiso/i386/airootfs.sfs is missing: copied only in part?";
    assert_eq!(
        judge(""),
        format!("empty: no liveiso medium\nours: yes\npartial: {partial}\nother: another build: bb.id\n")
    );
    let any = format!("empty: no liveiso medium\nours: yes\npartial: {partial}\nother: yes\n");
    assert_eq!(judge("1"), any);
    // Chosen by a person: that disk, no other.
    assert_eq!(judge("/dev/sdb"), any);
    assert_eq!(judge("/dev/sdb2"), judge(""));
    assert_eq!(judge("/dev/sd"), judge(""));
}

#[test]
fn links_are_followed_inside_the_new_root() {
    let dir = TempDir::new().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("usr/sbin")).unwrap();
    fs::write(root.join("usr/sbin/real"), "x").unwrap();
    for (target, name) in [
        ("usr/sbin", "sbin"),
        ("/usr/sbin/real", "usr/sbin/init"),
        ("../../../../sbin/real", "usr/sbin/up"),
        ("loop", "loop"),
    ] {
        std::os::unix::fs::symlink(target, root.join(name)).unwrap();
    }
    let at = root.display();
    for (path, expected) in [
        ("/sbin/init", format!("{at}/usr/sbin/real\n")),
        ("/sbin/up", format!("{at}/usr/sbin/real\n")),
        ("/sbin/../sbin/./real", format!("{at}/usr/sbin/real\n")),
        ("/loop", String::new()),
        ("/missing", format!("{at}/missing\n")),
    ] {
        assert_eq!(in_init(dir.path(), &format!("resolve_in {at} {path}")), expected, "{path}");
    }
}

/// Nothing is mounted with an option that lets the kernel write.
#[test]
fn mount_options_forbid_every_replay() {
    let dir = TempDir::new().unwrap();
    let script = "for t in ext4 xfs f2fs btrfs vfat exfat iso9660; do echo $t $(readonly_options $t); done";
    let expected = "ext4 ro,noload\nxfs ro,norecovery\nf2fs ro,norecovery\nbtrfs ro,rescue=nologreplay\n\
                    vfat ro\nexfat ro\niso9660 ro\n";
    assert_eq!(in_init(dir.path(), script), expected);
}

/// When the image is copied to RAM, in kB: image, available, what the command line and the medium are.
#[test]
fn copying_to_ram_is_decided_from_figures() {
    let dir = TempDir::new().unwrap();
    let refused = "!! not copied to RAM: the image needs 60000 kB and the system 32768 kB, 92767 kB are available; \
                   keep the medium in\nno\n";
    for (toram, persistence, quick, image, available, expected) in [
        ("y", "", "false", 60_000, 92_768, "yes\n"),
        ("y", "", "false", 60_000, 92_767, refused),
        ("n", "", "true", 60_000, 9_000_000, "no\n"),
        ("auto", "", "true", 60_000, 584_288, "yes\n"),
        ("auto", "", "true", 60_000, 584_287, "no\n"),
        ("auto", "", "false", 60_000, 9_000_000, "no\n"),
        ("auto", "rw", "true", 60_000, 9_000_000, "no\n"),
        ("auto", "", "true", 900_000, 3_599_999, "no\n"),
    ] {
        let script = format!(
            "medium_is_quick() {{ {quick}; }}; warn() {{ echo \"!! $*\"; }}
            opt_toram={toram} opt_persistence={persistence}
            should_copy {image} {available} && echo yes || echo no"
        );
        assert_eq!(
            in_init(dir.path(), &script),
            expected,
            "{toram} {persistence} {quick} {image} {available}"
        );
    }
}

/// The state of a file system of changes is read from its superblock, never by mounting it.
#[test]
fn the_superblock_says_how_changes_were_left() {
    let dir = TempDir::new().unwrap();
    let at = dir.path();
    for name in ["clean", "open", "errors", "ext2"] {
        fs::File::create(at.join(name)).unwrap().set_len(8 << 20).unwrap();
        let journal = if name == "ext2" { "^has_journal" } else { "has_journal" };
        make("mkfs.ext4", &["-q", "-O", journal, "-L", "liveiso-changes", name], at);
    }
    make("debugfs", &["-w", "-R", "feature needs_recovery", "open"], at);
    make("debugfs", &["-w", "-R", "ssv state 2", "errors"], at);
    fs::write(at.join("none"), vec![0; 8192]).unwrap();
    let script = format!(
        "for n in clean open errors ext2 none; do
            changes_state=; read_superblock {}/$n && echo $n $changes_label $changes_state || echo $n no
        done",
        at.display()
    );
    let expected = "clean liveiso-changes clean\nopen liveiso-changes open\nerrors liveiso-changes errors\n\
                    ext2 liveiso-changes clean\nnone no\n";
    assert_eq!(in_init(at, &script), expected);
}

/// Which devices get a driver in the live root.
#[test]
fn wanted_hardware() {
    for (modalias, wanted) in [
        ("pci:v00008086d00007010sv00001AF4sd00001100bc01sc01i80", true),
        ("pci:v000010ECd00008139sv00001AF4sd00001100bc02sc00i00", true),
        ("pci:v00008086d000024CDsv0sd0bc0Csc03i20", true),
        ("pci:v00008086d00002415sv0sd0bc04sc01i00", false),
        ("pci:v00001234d00001111sv00001AF4sd00001100bc03sc00i00", false),
        ("usb:v0781p5567d0126dc00dsc00dp00ic08isc06ip50in00", true),
        ("usb:v046Dp0825d0010dcEFdsc02dp01ic0Eisc01ip00in00", false),
        ("acpi:PNP0C0C:", true),
        ("acpi:PNP0103:", false),
        ("scsi:t-0x05", true),
        ("virtio:d00000001v00001AF4", true),
        ("snd-hda", false),
    ] {
        let script = format!(". airootfs/usr/lib/liveiso/wanted.sh; wanted '{modalias}'");
        let tool = Tool::new("busybox", "running wanted.sh").unwrap();
        let status = tool.args(["ash", "-c", &script]).capture().unwrap().status;
        assert_eq!(status.success(), wanted, "{modalias}");
    }
}

/// The links the unpacked root needs because no maintainer script makes them.
#[test]
fn every_applet_link_is_an_applet() {
    let list = Tool::new("busybox", "listing applets").unwrap().arg("--list").output().unwrap();
    let applets: Vec<&str> = std::str::from_utf8(&list).unwrap().lines().collect();
    let targets = [
        ("/usr/bin", "busybox"),
        ("/usr/sbin", "../bin/busybox"),
        ("/usr/lib/liveiso/applets", "../../../bin/busybox"),
    ];
    for (profile, least) in [("tiny", 240), ("secure", 240), ("rescue", 220)] {
        let text = fs::read_to_string(Path::new("profiles").join(profile).join("applets")).unwrap();
        let links: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(links.len() >= least, "{profile}: {}", links.len());
        for link in &links {
            let (dir, name) = link.split(' ').nth(1).unwrap().rsplit_once('/').unwrap();
            let (_, target) = targets.iter().find(|(of, _)| *of == dir).unwrap();
            assert_eq!(*link, format!("slink {dir}/{name} {target} 0777 0 0"), "{profile}");
            assert!(applets.contains(&name), "{profile}: {link}");
        }
        for needed in ["init", "poweroff", "reboot", "halt"] {
            let link = format!("slink /usr/sbin/{needed} ../bin/busybox 0777 0 0");
            assert!(links.contains(&&*link), "{profile}: {needed}");
        }
    }
}

#[test]
fn the_image_is_mounted_as_what_its_name_says() {
    let dir = TempDir::new().unwrap();
    let script = "for IMAGE in i386/airootfs.sfs i386/airootfs.erofs; do image_filesystem; done";
    assert_eq!(in_init(dir.path(), script), "squashfs\nerofs\n");
}
