//! `liveiso export netboot`: the whole directory, read back, and a boot from it.
//!
//! Needs coreutils, mtools for the stick beside it, qemu-system-x86, ipxe-qemu and ovmf.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use liveiso::format::iso9660::read_tree;
use liveiso::initramfs::unpack;
use liveiso::tree::Kind;

use crate::boot::{boots, names};
use crate::support::{liveiso, oracle, ran, tiny};

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
    let initrd = "liveiso/boot/i386/initrd.img";
    let paths = |bytes: &[u8]| {
        let tree = unpack(bytes).unwrap().0;
        tree.walk().map(|entry| String::from_utf8(entry.path).unwrap()).collect::<Vec<_>>()
    };
    let (before, after) = (paths(&on_medium(initrd)), paths(&one[initrd]));
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
        let mut command = liveiso(["export", "netboot"]);
        let (code, stdout, stderr) = ran(command.arg(tiny()).arg(dir.path()).args(words).output().unwrap());
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

/// DHCP, iPXE's script, kernel and initramfs by TFTP, and the image by /init: the machine has no drive.
#[test]
fn tiny_boots_over_the_network() {
    let cells = boots(tiny(), &["--firmware", "bios", "--medium", "netboot"]);
    assert_eq!(names(&cells), ["bios-netboot"]);
    assert_eq!(cells[0]["medium-reads"], serde_json::Value::Null);
}
