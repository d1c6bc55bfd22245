//! The live stage in QEMU: /init with the media and the trouble it meets in the
//! field. The kernel is started directly, with /init's options on its command
//! line; the media are made here, by other people's tools.
//!
//! Needs qemu-system-x86, xorriso, mtools, dosfstools, exfatprogs, ntfs-3g, e2fsprogs, fdisk, cpio and cryptsetup-bin.
//!
//! Of the two ways with Ventoy the hook is taken: Ventoy puts a line in front of /init's line `mountroot`,
//! maps the ISO file to a device and names it in LIVE_MEDIA. The other way, the mark `VENTOY COMPATIBLE`
//! and the ACPI table VTOY, asks every system to know Ventoy's disk layout, and file systems it may have
//! no driver for; with the hook any disk that Ventoy itself can read will do.
//!
//! The 31 ways live systems fail in the field, and what keeps this one from each
//! (tests of this file unless a module is named; init:: runs /init's functions on the host):
//!
//! | # | failure | test, or why there is none |
//! |---|---|---|
//! | 1 | label cut or changed | a_flipped_byte… (FAT label `MY STICK`), init::the_marker_decides |
//! | 2 | link races of by-label, whole disk taken | changes_persist… (partition 1 before the disk even when it answers later, partition 3 mountable); there are no links |
//! | 3 | same path on two disks | a_flipped_byte… (another build on a disk tried before ours) |
//! | 4 | loop device races with udev | after_toram…, an_iso_file_on_exfat…: no udev, /init attaches it |
//! | 5 | Ventoy cannot patch | devices::ventoy_hands_over_its_device (its hook, with programs of ours: its own cannot be had here) |
//! | 6 | no driver for the ISO's disk | an_iso_file_on_exfat…; devices::sd_cards_nvme_and_ntfs…: ntfs3 is not in this kernel, the report says so |
//! | 7 | FUSE daemon killed at shutdown | none: no FUSE is ever used by /init |
//! | 8 | copying to RAM without a check | an_iso_file_on_exfat… (refused), init::copying_to_ram_is_decided_from_figures |
//! | 9 | /run capped below the image | after_toram…: a tmpfs of its own |
//! | 10 | time-out taken for a delay | a_search_without_a_medium…; init::options_and_their_other_spellings |
//! | 11 | fixed 256M for changes | init::options…: from RAM; rwsize= sets it |
//! | 12 | uncapped changes | the same: always a size |
//! | 13 | initramfs not unpacked whole | initramfs::: the sentinel is last; /init's words are not booted: needs a machine size found by search |
//! | 14 | 64 MiB dictionary | initramfs::the_default_initramfs… (window of at most 1 MiB) |
//! | 15 | large squashfs blocks | boot::tiny_boots_in_37_mib |
//! | 16 | failed unmounting at shutdown | halting_releases…, init_systems:: (systemd, sysvinit), changes_persist… (e2fsck finds nothing) |
//! | 17 | medium pulled, machine wedged | after_toram… (disk unplugged); without toram not prevented: the root is on it |
//! | 18 | badly written stick | a_flipped_byte…, verity::a_flipped_bit… |
//! | 19 | driver class missing | initramfs:: (module list); driverless controllers are in the report |
//! | 20 | no keyboard in the shell | initramfs:: (HID group in the list); needs eyes and hands |
//! | 21 | compressed modules | kmod::, initramfs:: (stored plain) |
//! | 22 | kernel's xz refuses | initramfs:: (read back: check type, dictionary, alignment) |
//! | 23 | losetup of busybox | every test here: no --show, loop loaded first |
//! | 24 | exit from the shell is a panic | a_flipped_byte… (a shell below the menu; PID 1 only waits) |
//! | 25 | journals replayed | a_flipped_byte…, after_toram…, init::mount_options_forbid_every_replay, init::media::the_log_goes…, init::media::changes_wait… |
//! | 26 | upper layer on FAT | changes_persist…: only ext file systems; the file on FAT is one (beyond::changes_persist_in_a_file_on_fat, by request) |
//! | 27 | rootfs.img in squashfs | none: the squashfs is the root |
//! | 28 | dd-written hybrid seen only as a whole disk | a_flipped_byte… (whole disk without partitions) |
//! | 29 | slow drive, no medium at first | init::media::empty_drives_are_asked…; QEMU's drive is ready at once |
//! | 30 | 4096-byte sectors | devices::a_stick_of_4096_byte_sectors (by request) |
//! | 31 | busybox's gaps | init::shellcheck…, and every boot here runs on busybox-static alone |

mod beyond;
mod devices;
mod init_systems;
mod machine;
mod media;
mod nbd;
mod nfs;
mod verity;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{liveiso, profile, ran, tiny};
use machine::boot;
use media::{DISK, PARTITION_3, Unpacked, debugfs, dirty, exfat_with, ext4, fat_copy, run, sha256, stick};

/// Every test that the table of failures names is there.
#[test]
fn the_tests_of_the_table_exist() {
    let suite = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite");
    let table = fs::read_to_string(suite.join("live.rs")).unwrap();
    let mut rows = 0;
    for row in table.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let Some(number) = row.split(' ').next().and_then(|first| first.parse::<u32>().ok()) else {
            continue;
        };
        rows += 1;
        assert_eq!(number, rows, "{row}");
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let names = cell.split(|c: char| !c.is_ascii_alphanumeric() && !"_:…".contains(c));
        for name in names.filter(|name| name.contains("::") || name.contains('_')) {
            let (module, test) = name.rsplit_once("::").unwrap_or(("live", name));
            let module = module.trim_end_matches(':').replace("::", "/");
            let text = ["", "live/"].map(|dir| suite.join(format!("{dir}{module}.rs")));
            let text = text.iter().find(|file| file.exists()).unwrap_or_else(|| panic!("{name}"));
            let text = fs::read_to_string(text).unwrap();
            let test = test.trim_end_matches(':');
            let wanted = match test.strip_suffix('…') {
                Some(start) => format!("\nfn {start}"),
                None => format!("\nfn {test}("),
            };
            assert!(test.is_empty() || text.contains(&wanted), "{number}: {name}");
        }
    }
    assert_eq!(rows, 31);
}

/// A stranger's disk with a dirty journal and another build's stick stay as they are, a menu
/// that Rufus rewrote is no damage, and one flipped byte is named; the log is left on the medium.
#[test]
fn a_flipped_byte_is_named_and_strangers_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Unpacked::of(tiny());
    let tree = dir.path().join("tree");
    run("cp", &["-r".as_ref(), medium.tree.as_ref(), tree.as_ref()]);
    run("chmod", &["-R".as_ref(), "u+w".as_ref(), tree.as_ref()]);
    let image = tree.join("liveiso/i386/airootfs.sfs");
    let mut bytes = fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&image, bytes).unwrap();
    fs::write(tree.join("isolinux/isolinux.cfg"), "rewritten\n").unwrap();
    let copy = fat_copy(dir.path(), "copy.img", &tree);
    let other = dir.path().join("other");
    fs::create_dir_all(other.join("liveiso/i386")).unwrap();
    fs::write(other.join("liveiso/ffffffffffffffffffffffff.id"), "x").unwrap();
    fs::write(other.join("liveiso/i386/airootfs.sfs"), "x").unwrap();
    let other = fat_copy(dir.path(), "other.img", &other);
    fs::create_dir(dir.path().join("files")).unwrap();
    let stranger = dirty(&ext4(dir.path(), "stranger.img", "stranger", 64, &dir.path().join("files")));
    let before = [sha256(&other), sha256(&stranger)];

    let mut live = boot(&medium, 128, "verify");
    live.disk(&stranger, DISK).disk(&other, DISK).disk(&copy, DISK);
    let mut guest = live.start();
    guest.says("!! the medium is damaged: /liveiso/i386/airootfs.sfs is damaged\n");
    guest.says("The log is on the medium: liveiso/log.txt");
    guest.says("power off > ");
    guest.types("s");
    let log = guest.ask("cat /run/initramfs/live/log");
    assert!(log.contains("another build: ffffffffffffffffffffffff.id"), "{log}");
    assert!(log.contains("vda: ext4, no liveiso medium"), "{log}");
    guest.ends("poweroff -f");
    assert_eq!([sha256(&other), sha256(&stranger)], before);
    let log = run("mtype", &["-i".as_ref(), copy.as_ref(), "::/liveiso/log.txt".as_ref()]);
    assert!(log.contains("---- block devices"), "{log}");
}

/// An ISO file, in a directory with a blank, on a disk whose journal wants to be replayed; copied
/// to RAM, after which the disk is pulled out.
#[test]
fn after_toram_the_disk_of_the_iso_can_go() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Unpacked::of(tiny());
    let files = dir.path().join("files");
    fs::create_dir_all(files.join("my iso")).unwrap();
    fs::copy(tiny(), files.join("my iso/a b.iso")).unwrap();
    let disk = dirty(&ext4(dir.path(), "disk.img", "stranger", 200, &files));
    let before = sha256(&disk);

    let mut live = boot(&medium, 256, r#"findiso="/my iso/a b.iso" toram"#);
    live.disk(&disk, "virtio-blk-pci,id=disk");
    let mut guest = live.start();
    guest.says("a b.iso on /dev/vda (ext4) may be removed now");
    guest.logs_in();
    let text = guest.ask("grep -c -e /dev/vd -e medium -e isodev /proc/mounts");
    assert_eq!(text, "0\n");
    assert_eq!(
        guest.ask("cat /sys/block/loop*/loop/backing_file"),
        "/run/initramfs/live/toram/airootfs.sfs\n"
    );
    guest.guest.qmp.execute("device_del", json!({ "id": "disk" })).unwrap();
    guest.ask("while [ -e /sys/block/vda ]; do sleep 0.2; done");
    guest.ask("echo 3 >/proc/sys/vm/drop_caches");
    let read = guest.ask("cat /usr/lib/modules/*/kernel/fs/[a-e]*/*.ko | wc -c");
    assert!(read.trim().parse::<u64>().unwrap() > 1 << 20, "{read}");
    assert_eq!(guest.ask("dmesg | grep -c -e 'SQUASHFS error' -e 'I/O error'"), "0\n");
    guest.ends("poweroff -f");
    assert_eq!(sha256(&disk), before);
}

/// An ISO file on an exFAT stick at a USB 1.1 port; the disc beside it is another build's.
#[test]
fn an_iso_file_on_exfat_at_usb_1() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Unpacked::of(tiny());
    let exfat = exfat_with(dir.path(), "stick.img", "a b.iso", tiny());
    let before = sha256(&exfat);
    let mut live = boot(&medium, 128, r#"img_loop="/a b.iso" toram"#);
    live.usb("piix3-usb-uhci", &exfat);
    let mut guest = live.start();
    guest.says(":: medium: /a b.iso on /dev/sda (exfat)");
    // The image does not fit beside a system.
    guest.says("!! not copied to RAM: the image needs ");
    guest.says(" kB are available; keep the medium in\n");
    guest.logs_in();
    guest.ends("poweroff -f");
    assert_eq!(sha256(&exfat), before);
}

/// Changes of one boot are there in the next; with no room left, or after a crash, they stay
/// in RAM and the partition is not touched.
#[test]
fn changes_persist_on_the_mediums_own_disk() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Unpacked::of(tiny());
    let changes = dir.path().join("changes.img");
    run("truncate", &["-s".as_ref(), "40M".as_ref(), changes.as_ref()]);
    run("mkfs.ext4", &["-q".as_ref(), "-L".as_ref(), "liveiso-changes".as_ref(), changes.as_ref()]);
    // The same on another disk is nobody's business.
    let decoy = dir.path().join("decoy.img");
    fs::copy(&changes, &decoy).unwrap();
    let before = sha256(&decoy);
    let disk = stick(dir.path(), tiny(), &changes);
    let start = || {
        let mut live = boot(&medium, 128, "persistence");
        live.disk(&decoy, DISK).disk(&disk, DISK);
        live.start()
    };
    let mut guest = start();
    guest.says("changes kept on /dev/vdb3");
    guest.logs_in();
    guest.ask("echo kept >/root/note; rm /etc/hosts");
    // busybox's own command: PID 1 stays on the medium, everything becomes read-only.
    guest.ends("busybox poweroff");
    let part = |name: &str| {
        let out = dir.path().join(name);
        let bytes = fs::read(&disk).unwrap();
        fs::write(&out, &bytes[PARTITION_3..PARTITION_3 + (40 << 20)]).unwrap();
        out
    };
    run("e2fsck", &["-fn".as_ref(), part("first.img").as_ref()]);

    // Full: what is there is seen, nothing is written.
    fs::write(dir.path().join("filler"), vec![1; 31 << 20]).unwrap();
    debugfs(&part("full.img"), &format!("write {} filler\n", dir.path().join("filler").display()));
    let full = dir.path().join("full.img");
    let disk = stick(dir.path(), tiny(), &full);
    let before_full = sha256(&disk);
    let mut live = boot(&medium, 128, "persistence");
    live.disk(&disk, DISK);
    let mut guest = live.start();
    guest.says("!! persistence: /dev/vda3 is full; what is on it can be seen; changes stay in RAM");
    guest.logs_in();
    assert_eq!(
        guest.ask("cat /root/note; ls /etc/hosts; echo x >/root/new && cat /root/new"),
        "kept\nls: /etc/hosts: No such file or directory\nx\n"
    );
    guest.ends("poweroff -f");
    assert_eq!(sha256(&disk), before_full);

    // A journal that was not written back.
    let crashed = dirty(&changes);
    let disk = stick(dir.path(), tiny(), &crashed);
    // The medium is an SD card now, whose size is a power of two.
    fs::File::options().write(true).open(&disk).unwrap().set_len(256 << 20).unwrap();
    let before_dirty = sha256(&disk);
    let mut live = boot(&medium, 128, "persistence");
    live.arguments(&["-device", "sdhci-pci"]).disk(&disk, "sd-card");
    let mut guest = live.start();
    guest.says("!! persistence: /dev/mmcblk0p3 was not closed cleanly (open): run e2fsck on it, or boot with persistence=replay; changes stay in RAM");
    guest.logs_in();
    guest.ends("poweroff -f");
    assert_eq!(sha256(&disk), before_dirty);
    assert_eq!(sha256(&decoy), before);
}

/// With nothing to boot from the search counts down, ends, and says what it saw.
#[test]
fn a_search_without_a_medium_ends_with_a_report() {
    let mut guest = boot(&Unpacked::of(tiny()), 64, "liveiso.timeout=6 nomodeset").start();
    guest.says(" s left; seen so far: no block device\n");
    guest.says("!! the medium of this build was not found in 6 s\n---- looked for\n  /liveiso/");
    guest.says(
        " nomodeset\n---- block devices\n  none: the controller has no driver here, or the cable is out\n",
    );
    guest.says("For a question about this: ");
    guest.says("-noblockdevice\n");
    guest.says("power off > ");
    guest.ends("p");
}

/// The usual command lets the medium go, and the tray opens.
#[test]
fn halting_releases_and_ejects_the_disc() {
    let medium = Unpacked::of(tiny());
    let mut live = boot(&medium, 128, "");
    live.disc(tiny());
    let mut guest = live.start();
    guest.logs_in();
    guest.types("halt");
    guest.says("The medium is released.");
    guest.says("reboot: System halted");
    guest.has_ejected();
}

/// A profile like tiny with a network card's driver in its initramfs, built.
fn tiny_with_network(dir: &Path) -> PathBuf {
    let source = dir.join("net");
    run("cp", &["-r".as_ref(), profile("tiny").as_ref(), source.as_ref()]);
    let text = fs::read_to_string(source.join("profile.toml")).unwrap();
    let changed = text.replace("\"zram\",\n", "\"zram\", \"e1000\",\n");
    assert_ne!(text, changed);
    fs::write(source.join("profile.toml"), changed).unwrap();
    let output = liveiso(["build", "-o"]).arg(dir.join("out")).arg(&source).output().unwrap();
    let (code, stdout, stderr) = ran(output);
    assert_eq!(code, Some(0), "{stderr}");
    PathBuf::from(stdout.lines().next().unwrap())
}

/// Answers one request with this body.
fn serve(stream: TcpStream, expected: &str, body: &[u8]) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with(&format!("GET {expected} ")), "{first}");
    while !lines.next().unwrap().unwrap().is_empty() {}
    let mut stream = stream;
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
    // The client may hang up on what it has seen enough of.
    let _ = stream.write_all(body);
}

/// The image comes by HTTP: another length and another digest are refused by name, then it runs
/// from RAM.
#[test]
fn an_image_by_http_is_checked_and_runs_from_ram() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Unpacked::at(&tiny_with_network(dir.path()), &dir.path().join("unpacked"));
    let image = fs::read(medium.tree.join("liveiso/i386/airootfs.sfs")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let size = image.len();
    let server = std::thread::spawn(move || {
        let path = "/live/liveiso/i386/airootfs.sfs";
        let mut damaged = image.clone();
        damaged[size / 3] ^= 0x10;
        for body in [&image[..4096], &damaged, &image] {
            serve(listener.accept().unwrap().0, path, body);
        }
    });
    let mut live = boot(&medium, 256, &format!("liveiso.net=http://10.0.2.2:{port}/live"));
    live.arguments(&["-netdev", "user,id=net", "-device", "e1000,netdev=net"]);
    let mut guest = live.start();
    guest.says(&format!("airootfs.sfs has 4096 bytes, not {size}: another build, or cut off\n"));
    guest.says("power off > ");
    guest.types("r");
    guest.says("is damaged: its SHA-256 is not that of this build\n");
    guest.says("power off > ");
    guest.types("r");
    guest.says("image in RAM (");
    guest.logs_in();
    guest.ends("poweroff -f");
    server.join().unwrap();
}
