//! `liveiso export netboot`: the whole directory, read back, and a boot from it.
//!
//! Needs coreutils, qemu-system-x86 with ipxe-qemu and qemu-storage-daemon, and busybox-static.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use liveiso::format::iso9660::read_tree;
use liveiso::initramfs::{unpack, unsquash};
use liveiso::tree::{Kind, Tree};
use rustix::process::{Pid, Signal, kill_process};

use crate::boot::{boots, names};
use crate::build::ended_within;
use crate::support::{liveiso, oracle, profile, ran, tiny};

const FILES: [&str; 11] = [
    "boot.ipxe",
    "grub.cfg",
    "grub/grub.cfg",
    "ldlinux.c32",
    "libutil.c32",
    "liveiso/boot/i386/initrd.img",
    "liveiso/boot/i386/vmlinuz",
    "liveiso/i386/airootfs.sfs",
    "menu.c32",
    "pxelinux.cfg/default",
    "sha256sums",
];

const IPXE: &str = "\
#!ipxe
# tiny 1.0 i386: kernel, initramfs and image over the network.

isset ${cwuri} && set base ${cwuri} || set base tftp://${next-server}/${filename}

:menu
menu tiny 1.0 i386
item start0 Start tiny 1.0
item start1 Start with low memory (one processor)
item start2 Start without graphics (no modesetting)
item start3 Stop in the initramfs shell (debug)
choose --default start0 --timeout 5000 start && goto ${start} || exit

:start0
kernel liveiso/boot/i386/vmlinuz initrd=initrd.img console=ttyS0,115200 console=tty0 liveiso.net=${base} || goto failed
initrd liveiso/boot/i386/initrd.img || goto failed
boot || goto failed

:start1
kernel liveiso/boot/i386/vmlinuz initrd=initrd.img console=ttyS0,115200 console=tty0 nr_cpus=1 liveiso.net=${base} || goto failed
initrd liveiso/boot/i386/initrd.img || goto failed
boot || goto failed

:start2
kernel liveiso/boot/i386/vmlinuz initrd=initrd.img console=ttyS0,115200 console=tty0 nomodeset liveiso.net=${base} || goto failed
initrd liveiso/boot/i386/initrd.img || goto failed
boot || goto failed

:start3
kernel liveiso/boot/i386/vmlinuz initrd=initrd.img console=ttyS0,115200 console=tty0 break=medium debug liveiso.net=${base} || goto failed
initrd liveiso/boot/i386/initrd.img || goto failed
boot || goto failed

:failed
prompt Not started. Any key brings the menu. && imgfree && goto menu
";

const PXELINUX: &str = "\
# tiny 1.0 i386: kernel, initramfs and image over the network.
serial 0 115200
ui menu.c32
prompt 0
timeout 50
menu title tiny 1.0 i386

label start0
  menu label Start tiny 1.0
  menu default
  linux liveiso/boot/i386/vmlinuz
  initrd liveiso/boot/i386/initrd.img
  append console=ttyS0,115200 console=tty0 liveiso.net=tftp:

label start1
  menu label Start with low memory (one processor)
  linux liveiso/boot/i386/vmlinuz
  initrd liveiso/boot/i386/initrd.img
  append console=ttyS0,115200 console=tty0 nr_cpus=1 liveiso.net=tftp:

label start2
  menu label Start without graphics (no modesetting)
  linux liveiso/boot/i386/vmlinuz
  initrd liveiso/boot/i386/initrd.img
  append console=ttyS0,115200 console=tty0 nomodeset liveiso.net=tftp:

label start3
  menu label Stop in the initramfs shell (debug)
  linux liveiso/boot/i386/vmlinuz
  initrd liveiso/boot/i386/initrd.img
  append console=ttyS0,115200 console=tty0 break=medium debug liveiso.net=tftp:
";

const GRUB: &str = r#"# tiny 1.0 i386: kernel, initramfs and image over the network.
set dir=
regexp --set=1:dir '^\([^)]*\)(/.*[^/])/*$' "$cmdpath"
set protocol=tftp
regexp --set=1:protocol '^\((http)' "$cmdpath"
set base=$protocol://$net_default_server$dir
if serial --unit=0 --speed=115200; then
  terminal_input console serial
  terminal_output console serial
fi
set default=0
set timeout=5
set timeout_style=menu

menuentry 'Start tiny 1.0' {
  linux $dir/liveiso/boot/i386/vmlinuz console=ttyS0,115200 console=tty0 liveiso.net=$base
  initrd $dir/liveiso/boot/i386/initrd.img
}

menuentry 'Start with low memory (one processor)' {
  linux $dir/liveiso/boot/i386/vmlinuz console=ttyS0,115200 console=tty0 nr_cpus=1 liveiso.net=$base
  initrd $dir/liveiso/boot/i386/initrd.img
}

menuentry 'Start without graphics (no modesetting)' {
  linux $dir/liveiso/boot/i386/vmlinuz console=ttyS0,115200 console=tty0 nomodeset liveiso.net=$base
  initrd $dir/liveiso/boot/i386/initrd.img
}

menuentry 'Stop in the initramfs shell (debug)' {
  linux $dir/liveiso/boot/i386/vmlinuz console=ttyS0,115200 console=tty0 break=medium debug liveiso.net=$base
  initrd $dir/liveiso/boot/i386/initrd.img
}
"#;

/// Every file below a directory by path.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let listing = oracle("find", &[".", "-type", "f", "-printf", "%P\n"], dir);
    listing.lines().map(|path| (path.to_string(), fs::read(dir.join(path)).unwrap())).collect()
}

#[test]
fn the_directory_for_network_boots_is_whole_and_repeatable() {
    let dir = tempfile::tempdir().unwrap();
    let export = |name: &str| {
        let to = dir.path().join(name);
        let (code, stdout, stderr) =
            ran(liveiso(["export", "netboot"]).arg(tiny()).arg(&to).output().unwrap());
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let expected: String = FILES.iter().map(|file| format!("{}\n", to.join(file).display())).collect();
        assert_eq!(stdout, expected);
        files(&to)
    };
    let one = export("one");
    assert_eq!(one.keys().map(String::as_str).collect::<Vec<_>>(), FILES);
    // All entries have the profile's own words.
    let own = " initcall_blacklist=tracer_init_tracefs";
    let text = |path: &str| String::from_utf8(one[path].clone()).unwrap().replace(own, "");
    assert_eq!(text("boot.ipxe"), IPXE);
    assert_eq!(text("pxelinux.cfg/default"), PXELINUX);
    assert_eq!(text("grub.cfg"), GRUB);
    assert_eq!(text("grub/grub.cfg"), GRUB);
    let checked = oracle("sha256sum", &["--strict", "-c", "sha256sums"], &dir.path().join("one"));
    let expected: String = FILES[..10].iter().map(|file| format!("{file}: OK\n")).collect();
    assert_eq!(checked, expected);

    // All but the initramfs is on the medium too, and that has nothing less than the medium's.
    let medium = read_tree(tiny()).unwrap();
    let on_medium = |path: &str| match &medium.inode(medium.get(path.as_bytes()).unwrap()).kind {
        Kind::File(content) => content.read_all().unwrap(),
        other => panic!("{path} is a {}", other.word()),
    };
    let kernel = "liveiso/boot/i386/vmlinuz";
    assert!(one[kernel] == on_medium(kernel), "{kernel}");
    let paths = |bytes: &[u8]| paths(&unpack(bytes).unwrap().0);
    let (before, after) = (paths(&on_medium(INITRD)), paths(&one[INITRD]));
    assert!(before.iter().all(|path| after.contains(path)));
    for card in ["e1000", "8139too", "virtio_net", "mii"] {
        let file = format!("/{card}.ko");
        assert!(after.iter().any(|path| path.ends_with(&file)), "{card}");
        assert!(!before.iter().any(|path| path.ends_with(&file)), "{card}");
    }
    assert!(export("two") == one, "two exports of one image differ");
}

#[test]
fn a_directory_in_use_and_a_url_with_a_name_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine"), "x").unwrap();
    let run = |words: &[&str]| {
        let (code, stdout, stderr) = export(tiny(), dir.path(), words);
        assert_eq!((code, stdout.as_str()), (Some(1), ""));
        stderr
    };
    let shown = dir.path().display();
    assert_eq!(
        run(&[]),
        format!("error: {shown} is there already and not empty; remove it or name another directory\n")
    );
    assert_eq!(
        run(&["--url", "http://server/live"]),
        "error: `http://server/live` cannot be fetched in the initramfs; write http:// or tftp:// with an IPv4 \
         address, and no blanks\n"
    );
    assert_eq!(files(dir.path()).into_keys().collect::<Vec<_>>(), ["mine"]);
}

const INITRD: &str = "liveiso/boot/i386/initrd.img";

fn export(image: &Path, to: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    ran(liveiso(["export", "netboot"]).arg(image).arg(to).args(words).output().unwrap())
}

fn paths(tree: &Tree) -> Vec<String> {
    tree.walk().map(|entry| String::from_utf8(entry.path).unwrap()).collect()
}

fn text_of(tree: &Tree, path: &str) -> String {
    match &tree.inode(tree.get(path.as_bytes()).unwrap()).kind {
        Kind::File(content) => String::from_utf8(content.read_all().unwrap()).unwrap(),
        other => panic!("{path} is a {}", other.word()),
    }
}

/// The words for /init in a menu, each once, in their order.
fn ways(menu: &str) -> Vec<&str> {
    let mut ways: Vec<&str> =
        menu.split_ascii_whitespace().filter(|word| word.starts_with("liveiso.")).collect();
    ways.dedup();
    ways
}

/// What the ways to the image need is in the initramfs, and the menus name them in the order given.
#[test]
fn the_image_can_stay_on_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    let words = ["--root", "nbd,nfs=192.0.2.9:/srv/live", "--root", "http", "--url", "http://192.0.2.1/live"];
    let (code, _, stderr) = export(tiny(), &to, &words);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let menu = |name: &str| fs::read_to_string(to.join(name)).unwrap();
    let servers = ["liveiso.nbd=192.0.2.1/liveiso", "liveiso.nfs=192.0.2.9:/srv/live"];
    for (name, base) in
        [("boot.ipxe", "${base}"), ("grub.cfg", "$base"), ("pxelinux.cfg/default", "http://192.0.2.1/live")]
    {
        let http = format!("liveiso.net={base}");
        assert_eq!(ways(&menu(name)), [servers[0], servers[1], &http], "{name}");
    }
    let marker = files(&to).into_keys().find(|path| path.ends_with(".id")).unwrap();
    let id = fs::read_to_string(to.join(&marker)).unwrap();
    assert_eq!(marker, format!("liveiso/{}.id", id.trim_end()));

    let tree = unpack(&fs::read(to.join(INITRD)).unwrap()).unwrap().0;
    let found = paths(&tree);
    let parts = ["hook.sh", "nbd-connect.sh", "nbd.sh", "nfs.sh"].map(|name| format!("lib/liveiso/{name}"));
    for file in parts.iter().map(String::as_str).chain(["bin/netlink"]) {
        assert!(found.iter().any(|path| path == file), "{file}");
    }
    for module in ["nbd", "nfs", "nfsv3", "nfsv4", "sunrpc"] {
        assert!(found.iter().any(|path| path.ends_with(&format!("/{module}.ko"))), "{module}");
    }

    // Without an address /init asks DHCP; the directory is the one that is written.
    let other = dir.path().join("other");
    let (code, _, stderr) = export(tiny(), &other, &["--root", "nfs,nbd=/x"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let grub = fs::read_to_string(other.join("grub.cfg")).unwrap();
    assert_eq!(ways(&grub), [&format!("liveiso.nfs=:{}", other.display()), "liveiso.nbd=/x"]);
}

/// A profile's export has loaders and drivers of its packages. This one is `squashed`, and stays so.
#[test]
fn a_profile_is_built_and_exported() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("squashed");
    oracle("cp", &["-r", profile("tiny").to_str().unwrap(), source.to_str().unwrap()], dir.path());
    let text = fs::read_to_string(source.join("profile.toml")).unwrap();
    let changed = text.replace("[initramfs]\n", "[initramfs]\nlayout = \"squashed\"\n");
    assert_ne!(text, changed);
    fs::write(source.join("profile.toml"), changed).unwrap();
    let to = dir.path().join("to");
    let (code, stdout, stderr) = export(&source, &to, &["--root", "nbd"]);
    assert_eq!(code, Some(0), "{stderr}");
    let mut expected: Vec<&str> = FILES.to_vec();
    expected.extend(["grubnetia32.efi", "grubnetx64.efi"]);
    expected.sort();
    let listed: Vec<String> = expected.iter().map(|file| format!("{}", to.join(file).display())).collect();
    assert_eq!(stdout.lines().collect::<Vec<_>>(), listed);
    for (name, format) in [("grubnetia32.efi", "pei-i386"), ("grubnetx64.efi", "pei-x86-64")] {
        let said = oracle("objdump", &["-f", name], &to);
        assert!(said.contains(&format!("file format {format}\n")), "{said}");
    }

    let loader = unpack(&fs::read(to.join(INITRD)).unwrap()).unwrap().0;
    let outside: Vec<String> = paths(&loader).into_iter().filter(|path| path.ends_with(".ko")).collect();
    assert!(outside.iter().all(|path| !path.contains("/drivers/net/")), "{outside:?}");
    let whole = unsquash(&loader, &dir.path().join("scratch")).unwrap().unwrap();
    let found = paths(&whole);
    let dep = found.iter().find(|path| path.ends_with("/modules.dep")).unwrap();
    let dep = text_of(&whole, dep);
    for module in ["e1000", "8139too", "virtio_net", "mii", "nbd", "squashfs"] {
        let name = format!("/{module}.ko");
        assert!(found.iter().any(|path| path.ends_with(&name)), "{module}");
        assert!(dep.lines().any(|line| line.split(':').next().unwrap().ends_with(&name)), "{module}");
    }
    assert!(text_of(&whole, "lib/liveiso/nbd-connect.sh").contains("hand_to_kernel"));
}

#[test]
fn a_way_that_init_could_not_go_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    let (code, stdout, stderr) = export(tiny(), &to, &["--root", "nbd=server"]);
    assert_eq!((code, stdout.as_str()), (Some(2), ""));
    assert!(
        stderr.contains("`server` is no server: /init resolves no names; write an IPv4 address"),
        "{stderr}"
    );
    assert!(!to.exists());
}

/// An export that is ended from outside, and the directory it may use for temporary files.
struct Export {
    dir: tempfile::TempDir,
}

impl Export {
    fn new() -> Export {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tmp")).unwrap();
        fs::create_dir_all(dir.path().join("www")).unwrap();
        Export { dir }
    }

    fn www(&self) -> PathBuf {
        self.dir.path().join("www")
    }

    fn command(&self) -> Command {
        let mut command = liveiso(["export", "netboot"]);
        command.arg(tiny()).arg(self.www().join("live")).env("TMPDIR", self.dir.path().join("tmp"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// What is in a directory of ours.
    fn names(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(name)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// A running export at the moment when the directory `name` has something in it; `None` if it was too fast.
    fn caught(&self, name: &str) -> Option<Child> {
        let child = self.command().spawn().unwrap();
        while self.names(name).is_empty() && !ended_within(&child, Duration::from_millis(1)) {}
        (!ended_within(&child, Duration::ZERO)).then_some(child)
    }
}

/// Scratch directories go on an interrupt, and nobody takes a half directory for a whole one.
#[test]
fn an_export_is_whole_or_not_there() {
    let ends = |name: &str, signal: Signal| loop {
        let export = Export::new();
        let Some(child) = export.caught(name) else { continue };
        kill_process(Pid::from_child(&child), signal).unwrap();
        let (code, stdout, stderr) = ran(child.wait_with_output().unwrap());
        match code {
            // It was done before the signal came.
            Some(0) => continue,
            _ => return (export, code, stdout, stderr),
        }
    };
    for name in ["tmp", "www"] {
        let (export, code, stdout, stderr) = ends(name, Signal::INT);
        assert_eq!((code, stdout.as_str()), (Some(130), ""), "{name}");
        assert_eq!(stderr, "interrupted; nothing was written\n", "{name}");
        assert_eq!((export.names("tmp"), export.names("www")), (Vec::new(), Vec::new()), "{name}");
    }
    let (export, code, ..) = ends("www", Signal::KILL);
    assert_eq!(code, None);
    assert!(!export.www().join("live").exists());
    let (code, _, stderr) = ran(export.command().output().unwrap());
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(export.names("www"), ["live"]);
}

/// DHCP, iPXE's script, kernel and initramfs by TFTP, and the image by /init: the machine has no drive.
#[test]
fn tiny_boots_over_the_network() {
    let cells = boots(tiny(), &["--firmware", "bios", "--medium", "netboot"]);
    assert_eq!(names(&cells), ["bios-netboot"]);
    assert_eq!(cells[0]["medium-reads"], serde_json::Value::Null);
}

/// The same, but the image stays on the server: kernel and initramfs alone are in RAM.
#[test]
fn tiny_boots_with_its_root_on_a_network_block_device() {
    let cells = boots(tiny(), &["--firmware", "bios", "--medium", "netboot-nbd", "--min-available", "96000"]);
    assert_eq!(names(&cells), ["bios-netboot-nbd"]);
    assert_eq!(cells[0]["memory-mib"], 128);
}
