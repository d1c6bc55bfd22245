//! Roots that are not on the medium: over the network, encrypted, in the initramfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::machine::{Live, boot};
use super::media::{DISK, Unpacked, ext4, fat_copy, run, sha256, stick};
use super::nbd;
use crate::support::{built, profile, tiny};

/// The ISO of profiles/nbd-luks.
fn nbd_luks_iso() -> &'static Path {
    static ISO: OnceLock<PathBuf> = OnceLock::new();
    ISO.get_or_init(|| built(&profile("nbd-luks"), "images").0)
}

/// The same, unpacked once.
pub fn nbd_luks() -> Unpacked {
    static TREE: OnceLock<PathBuf> = OnceLock::new();
    let tree = TREE.get_or_init(|| {
        let iso = nbd_luks_iso();
        let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nbd-luks-tree");
        if to.exists() {
            run("chmod", &["-R".as_ref(), "u+w".as_ref(), to.as_ref()]);
            fs::remove_dir_all(&to).unwrap();
        }
        Unpacked::at(iso, &to).tree
    });
    Unpacked { tree: tree.clone() }
}

/// The same with the layout `squashed` and hooks at the two later stages, of which the first fails
/// once; unpacked, with its root as an ext4 file system.
fn hooked(dir: &Path) -> (Unpacked, PathBuf) {
    let source = dir.join("hooked");
    run("cp", &["-r".as_ref(), profile("nbd-luks").as_ref(), source.as_ref()]);
    let hooks = "media = [\"hooks/unlock.sh\"]\n";
    let text = fs::read_to_string(source.join("profile.toml")).unwrap();
    let more = format!("{hooks}mount = [\"hooks/image.sh\"]\nbottom = [\"hooks/root.sh\"]\n");
    let mut changed = text;
    for (old, new) in [
        (hooks, &*more),
        ("[initramfs]\n", "[initramfs]\nlayout = \"squashed\"\n"),
        ("programs = [", "programs = [\"/usr/local/sbin/own\", "),
    ] {
        assert_eq!(changed.matches(old).count(), 1, "{old}");
        changed = changed.replace(old, new);
    }
    fs::write(source.join("profile.toml"), changed).unwrap();
    // A program of airootfs, with libraries of packages.
    let own = nbd_luks().tree.join("liveiso/i386/airootfs.sfs");
    let program = source.join("airootfs/usr/local/sbin/own");
    let script = format!("unsquashfs -cat {} usr/sbin/nbd-client", own.display());
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    run("sh", &["-c".as_ref(), format!("{script} >{0} && chmod +x {0}", program.display()).as_ref()]);
    let image = "say \"$(/usr/local/sbin/own -V)\"; [ -e \"$LIVE/once\" ] || { touch \"$LIVE/once\"; fail \"once more, please\"; }\n\
        [ -x \"$LIVE/ro/usr/sbin/init\" ] && say \"the image is there\"\n";
    fs::write(source.join("hooks/image.sh"), image).unwrap();
    let root = "[ -x \"$NEWROOT/usr/sbin/init\" ] && mkdir -p \"$NEWROOT/root\" && echo by a hook >\"$NEWROOT/root/note\"\n";
    fs::write(source.join("hooks/root.sh"), root).unwrap();
    let medium = Unpacked::at(&built(&source, "hooked").0, &dir.join("hooked-tree"));
    let files = dir.join("files");
    let image = medium.tree.join("liveiso/i386/airootfs.sfs");
    run("unsquashfs", &["-q".as_ref(), "-n".as_ref(), "-d".as_ref(), files.as_ref(), image.as_ref()]);
    let root = ext4(dir, "root.img", "root", 192, &files);
    (medium, root)
}

/// The image in a LUKS 2 container that this key opens; made without device mapper.
fn encrypted(dir: &Path, image: &Path, key: &Path) -> PathBuf {
    let container = dir.join("container");
    fs::copy(image, &container).unwrap();
    let file = fs::File::options().write(true).open(&container).unwrap();
    file.set_len(fs::metadata(image).unwrap().len().next_multiple_of(4096) + (4 << 20)).unwrap();
    // cryptsetup keeps a temporary header in the current directory.
    let script = format!(
        "cd {} && cryptsetup reencrypt --encrypt --batch-mode --reduce-device-size 4M --key-size 512 \
         --cipher aes-xts-plain64 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file {} container",
        dir.display(),
        key.display()
    );
    run("sh", &["-c".as_ref(), script.as_ref()]);
    container
}

/// A FAT stick of this label with one file.
fn key_stick(dir: &Path, label: &str, name: &str, file: &Path) -> PathBuf {
    let stick = dir.join("key.img");
    fs::File::create(&stick).unwrap().set_len(4 << 20).unwrap();
    run("mkfs.fat", &["-n".as_ref(), label.as_ref(), stick.as_ref()]);
    let to = format!("::{name}");
    run("mcopy", &["-i".as_ref(), stick.as_ref(), file.as_ref(), to.as_ref()]);
    stick
}

/// A machine with a network card.
pub fn networked(medium: &Unpacked, words: &str) -> Live {
    let mut live = boot(medium, 256, words);
    live.arguments(&["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"]);
    live
}

/// What the key sticks hold: text, so that it can be typed too.
const KEY: &str = "a key of text, which can be typed";

/// Makes of the second disk in a running guest: LUKS, in it LVM, in that a copy of the root.
const CHAIN: &str = "K='a key of text, which can be typed'; \
    printf \"$K\" | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 /dev/vda - && \
    printf \"$K\" | cryptsetup open --key-file - /dev/vda two && \
    { lvm pvcreate /dev/mapper/two && lvm vgcreate group /dev/mapper/two && \
      lvm lvcreate -W n -Z n -l 100%FREE -n root group; } >/tmp/lvm 2>&1 && cat /sys/class/block/dm-2/dm/name && \
    dd if=/dev/mapper/cryptroot of=/dev/dm-2 bs=1M 2>>/tmp/lvm && sync && echo copied || cat /tmp/lvm";

/// profiles/nbd-luks with its image in a container on loopback, and the key's stick.
struct Beyond {
    dir: tempfile::TempDir,
    medium: Unpacked,
    container: PathBuf,
    stick: PathBuf,
}

impl Beyond {
    fn new() -> Beyond {
        let (dir, medium) = (tempfile::tempdir().unwrap(), nbd_luks());
        let key = dir.path().join("root.key");
        fs::write(&key, KEY).unwrap();
        let container = encrypted(dir.path(), &medium.tree.join("liveiso/i386/airootfs.sfs"), &key);
        let stick = key_stick(dir.path(), "KEYSTICK", "root.key", &key);
        Beyond { dir, medium, container, stick }
    }

    /// A machine with this container on the network.
    fn boot(&self, container: &Path, words: &str) -> Live {
        let port = nbd::serve(container, "root");
        networked(&self.medium, &format!("cryptnbd=10.0.2.2:{port}/root {words}"))
    }
}

/// The classic: an encrypted network block device whose key is on a USB stick; checked and copied to
/// RAM, after which neither container nor server is needed.
#[test]
fn an_encrypted_network_root_opens_with_a_key_on_a_stick() {
    let beyond = Beyond::new();
    assert!(!fs::read(&beyond.container).unwrap().starts_with(b"hsqs"));
    let mut live = beyond.boot(&beyond.container, "verify toram");
    live.usb("qemu-xhci", &beyond.stick);
    let mut guest = live.start();
    guest.says(":: attaching root of 10.0.2.2");
    guest.says(":: cryptroot is unlocked; /dev/sda may be removed");
    guest.says(":: image: /dev/mapper/cryptroot\n");
    guest.says(":: verify: the image is as it was built\n");
    guest.says(":: /dev/mapper/cryptroot is released\n:: /dev/nbd0 is released\n");
    guest.says("; image in RAM (");
    guest.logs_in();
    assert_eq!(guest.ask("ls -d /sys/block/dm-0; cat /sys/block/nbd0/size; findfs LABEL=KEYSTICK"), GONE);
    assert_eq!(guest.ask("grep -c -e cryptroot -e nbd -e /dev/sda /proc/mounts"), "0\n");
    guest.ends("poweroff -f");
}

/// What is left of container and network, and the stick's place.
const GONE: &str = "ls: /sys/block/dm-0: No such file or directory\n0\n/dev/sda\n";

/// Without the stick the passphrase is asked; in the container is a root of its own, an ext4 file
/// system; hooks run at the later stages, and again when they failed; the initramfs is squashed.
#[test]
fn a_passphrase_opens_a_root_of_ones_own() {
    let mut beyond = Beyond::new();
    let (medium, root) = hooked(beyond.dir.path());
    beyond.medium = medium;
    let container = encrypted(beyond.dir.path(), &root, &beyond.dir.path().join("root.key"));
    let mut guest = beyond.boot(&container, "verify liveiso.key=OTHER:/root.key").start();
    guest.says("!! no file system labelled OTHER with the key: the passphrase will do\n");
    guest.says("Passphrase for cryptroot: ");
    guest.types("wrong");
    guest.says("!! that passphrase does not open cryptroot\n");
    guest.says("Passphrase for cryptroot: ");
    guest.types(KEY);
    guest.says(":: image: /dev/mapper/cryptroot\n");
    guest.says(
        "!! verify: /dev/mapper/cryptroot is a root of its own (ext4), of which this build has no digests",
    );
    guest.says("This is nbd-client, from nbd 3");
    guest.says("!! hook 01-image.sh: once more, please\n");
    guest.says("power off > ");
    guest.types("r");
    guest.says(":: the image is there\n");
    guest.says("; image on /dev/mapper/cryptroot, ");
    guest.logs_in();
    assert_eq!(guest.ask("cat /root/note /sys/block/dm-0/dm/name"), "by a hook\ncryptroot\n");
    assert_eq!(guest.ask("grep -c cryptroot.*ext4 /proc/mounts; grep -c squash: /proc/mounts"), "1\n0\n");
    assert!(!guest.guest.serial.text().contains("can be typed"));
    guest.ends("poweroff -f");
}

/// The root is a logical volume in the container.
#[test]
#[ignore = "boots twice, the first time to make the volume; the rest is as in the test above"]
fn a_logical_volume_in_the_container() {
    let beyond = Beyond::new();
    let chain = beyond.dir.path().join("chain.img");
    let size = fs::metadata(&beyond.container).unwrap().len().next_multiple_of(1 << 20) + (24 << 20);
    fs::File::create(&chain).unwrap().set_len(size).unwrap();
    let mut live = beyond.boot(&beyond.container, "");
    live.usb("qemu-xhci", &beyond.stick).disk(&chain, DISK);
    let mut guest = live.start();
    guest.logs_in();
    assert_eq!(guest.ask(CHAIN), "group-root\ncopied\n");
    guest.ends("poweroff -f");

    let mut live = beyond.boot(&chain, "toram verify");
    live.usb("qemu-xhci", &beyond.stick);
    let mut guest = live.start();
    guest.says(":: image: /dev/dm-1\n");
    guest.says(":: verify: the image is as it was built\n");
    guest.says(":: /dev/dm-1 is released\n:: /dev/dm-0 is released\n:: /dev/nbd0 is released\n");
    guest.logs_in();
    guest.ends("poweroff -f");
}

/// The whole medium on a network block device; checked, copied to RAM and let go.
#[test]
fn a_medium_on_a_network_block_device() {
    let medium = nbd_luks();
    let port = nbd::serve(nbd_luks_iso(), "iso");
    let mut guest = networked(&medium, &format!("liveiso.nbd=10.0.2.2:{port}/iso toram verify")).start();
    guest.says(":: medium: /dev/nbd0 (iso9660), after ");
    guest.says(":: verify: every file of the medium is as it was built\n");
    guest.says(":: /dev/nbd0 is released\n");
    guest.says("; image in RAM (");
    guest.logs_in();
    assert_eq!(guest.ask("cat /sys/block/nbd0/size"), "0\n");
    guest.ends("poweroff -f");
}

/// A keyboard layout as loadkeys -b writes it, of the plain keys only: all do what Q does.
fn keymap() -> Vec<u8> {
    let mut bytes = b"bkeymap\x01".to_vec();
    bytes.extend([0; 255]);
    bytes.extend([0x71, 0x0b].repeat(128));
    bytes
}

/// The image lies beside /init, for machines that get kernel and initramfs only; and a keyboard layout.
#[test]
fn an_image_inside_the_initramfs() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Unpacked::of(tiny());
    let (tree, image) = (dir.path().join("tree"), "liveiso/i386/airootfs.sfs");
    fs::create_dir_all(tree.join("liveiso/boot/i386")).unwrap();
    for name in ["vmlinuz", "initrd.img"] {
        let path = format!("liveiso/boot/i386/{name}");
        fs::copy(medium.tree.join(&path), tree.join(&path)).unwrap();
    }
    fs::create_dir_all(dir.path().join("more/etc/kmap")).unwrap();
    fs::write(dir.path().join("more/etc/kmap/all-q.bmap"), keymap()).unwrap();
    let names = format!("liveiso\nliveiso/i386\n{image}\n");
    let script = format!(
        "cd {}/more && chmod u+w {initrd} && printf 'etc/kmap\netc/kmap/all-q.bmap\n' | cpio --quiet -o -H newc >>{initrd}
        cd {} && printf '{names}' | cpio --quiet -o -H newc >>{initrd}",
        dir.path().display(),
        medium.tree.display(),
        initrd = tree.join("liveiso/boot/i386/initrd.img").display()
    );
    run("sh", &["-c".as_ref(), script.as_ref()]);
    let mut guest = boot(&Unpacked { tree }, 512, "verify kmap=all-q").start();
    guest.says(":: image: in the initramfs\n");
    guest.says(":: verify: the image is as it was built\n");
    guest.says("; image in RAM (");
    guest.logs_in();
    // Behind magic and flags: what key 30, an A in America, does, and key 2 with Shift.
    let keys = guest.ask("dumpkmap </dev/tty1 | dd bs=1 skip=263 count=512 2>/dev/null | hexdump -v -e '/2 \"%x \"' | cut -d ' ' -f 31,131");
    assert_eq!(keys, "b71 21\n");
    guest.ends("poweroff -f");
}

/// The image by TFTP, as the firmware got the kernel.
#[test]
#[ignore = "boots once and takes long: 512 bytes a turn"]
fn an_image_by_tftp() {
    let medium = nbd_luks();
    let mut live = boot(&medium, 512, "liveiso.net=tftp://10.0.2.2/");
    let server = format!("user,id=net,tftp={}", medium.tree.display());
    live.arguments(&["-netdev", &server, "-device", "virtio-net-pci,netdev=net"]);
    let mut guest = live.start();
    guest.says(":: fetching ");
    guest.says("; image in RAM (");
    guest.logs_in();
    guest.ends("poweroff -f");
}

/// Changes in a file of a stick the medium was copied to; with much RAM and no such wish the
/// image is copied unasked.
#[test]
#[ignore = "boots three times; changes_persist_on_the_mediums_own_disk covers most of it"]
fn changes_persist_in_a_file_on_fat() {
    let dir = tempfile::tempdir().unwrap();
    let medium = Unpacked::of(tiny());
    let copy = fat_copy(dir.path(), "copy.img", &medium.tree);
    let before = sha256(&copy);
    let mut live = boot(&medium, 1024, "");
    live.disk(&copy, DISK);
    let mut guest = live.start();
    guest.says(":: /dev/vda (vfat) may be removed now");
    guest.logs_in();
    guest.ends("poweroff -f");
    assert_eq!(sha256(&copy), before);

    let changes = dir.path().join("changes.ext4");
    fs::File::create(&changes).unwrap().set_len(16 << 20).unwrap();
    run("mkfs.ext4", &["-q".as_ref(), changes.as_ref()]);
    let target = "::/liveiso/changes.ext4";
    run("mcopy", &["-i".as_ref(), copy.as_ref(), changes.as_ref(), target.as_ref()]);
    for line in ["echo kept >/root/note", "cat /root/note"] {
        let mut live = boot(&medium, 128, "persistence");
        live.disk(&copy, DISK);
        let mut guest = live.start();
        guest.says("changes kept on /liveiso/changes.ext4");
        guest.logs_in();
        let shown = guest.ask(line);
        assert_eq!(shown, if line.starts_with("cat") { "kept\n" } else { "" });
        guest.ends("busybox poweroff");
        let after = dir.path().join("after.ext4");
        run(
            "mcopy",
            &["-n".as_ref(), "-o".as_ref(), "-i".as_ref(), copy.as_ref(), target.as_ref(), after.as_ref()],
        );
        run("e2fsck", &["-fn".as_ref(), after.as_ref()]);
        run("fsck.fat", &["-n".as_ref(), copy.as_ref()]);
    }
}

/// Changes on a LUKS partition of the medium's disk; then they are looked at only.
#[test]
#[ignore = "boots three times; the parts are those of the two other tests"]
fn changes_persist_encrypted() {
    let dir = tempfile::tempdir().unwrap();
    let medium = nbd_luks();
    let key = dir.path().join("root.key");
    fs::write(&key, KEY).unwrap();
    let plain = dir.path().join("plain");
    fs::File::create(&plain).unwrap().set_len(32 << 20).unwrap();
    run("mkfs.ext4", &["-q".as_ref(), "-L".as_ref(), "liveiso-changes".as_ref(), plain.as_ref()]);
    let container = encrypted(dir.path(), &plain, &key);
    run(
        "cryptsetup",
        &["config".as_ref(), container.as_ref(), "--label".as_ref(), "liveiso-changes".as_ref()],
    );
    let keys = key_stick(dir.path(), "KEYSTICK", "root.key", &key);
    let disk = stick(dir.path(), nbd_luks_iso(), &container);
    for line in ["echo kept >/root/note", "cat /root/note"] {
        let mut live = boot(&medium, 256, "persistence liveiso.key=KEYSTICK:/root.key");
        live.disk(&disk, DISK).usb("qemu-xhci", &keys);
        let mut guest = live.start();
        guest.says(":: liveiso-changes is unlocked; ");
        guest.says("changes kept on /dev/vda3");
        guest.logs_in();
        let shown = guest.ask(line);
        assert_eq!(shown, if line.starts_with("cat") { "kept\n" } else { "" });
        guest.ends("busybox poweroff");
    }

    let before = sha256(&disk);
    let mut live = boot(&medium, 256, "persistence=ro liveiso.key=KEYSTICK:/root.key");
    live.disk(&disk, DISK).usb("qemu-xhci", &keys);
    let mut guest = live.start();
    guest.says(":: liveiso-changes is unlocked; ");
    guest.says(" over those on /dev/vda3");
    guest.logs_in();
    assert_eq!(guest.ask("cat /root/note; echo x >/root/new; cat /root/new"), "kept\nx\n");
    guest.ends("busybox poweroff");
    assert_eq!(sha256(&disk), before);
}
