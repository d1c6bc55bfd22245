//! Roots that are not on the medium: over the network, encrypted, in the initramfs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::machine::{Live, boot};
use super::media::{Unpacked, run};
use super::nbd;
use crate::support::{built, profile};

/// profiles/nbd-luks, built and unpacked once.
fn nbd_luks() -> Unpacked {
    static TREE: OnceLock<PathBuf> = OnceLock::new();
    let tree = TREE.get_or_init(|| {
        let (iso, _) = built(&profile("nbd-luks"), "images");
        let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nbd-luks-tree");
        if to.exists() {
            run("chmod", &["-R".as_ref(), "u+w".as_ref(), to.as_ref()]);
            fs::remove_dir_all(&to).unwrap();
        }
        Unpacked::at(&iso, &to).tree
    });
    Unpacked { tree: tree.clone() }
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

fn networked(medium: &Unpacked, words: &str) -> Live {
    let mut live = boot(medium, 256, words);
    live.arguments(&["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"]);
    live
}

/// The classic: an encrypted network block device whose key is on a USB stick. First without
/// the stick, where the key, which is text, is typed as the passphrase.
#[test]
fn an_encrypted_network_root_opens_with_a_key_on_a_stick() {
    let dir = tempfile::tempdir().unwrap();
    let medium = nbd_luks();
    let key = dir.path().join("root.key");
    fs::write(&key, "a key of text, which can be typed").unwrap();
    let container = encrypted(dir.path(), &medium.tree.join("liveiso/i386/airootfs.sfs"), &key);
    assert!(!fs::read(&container).unwrap().windows(4).any(|w| w == b"hsqs"));
    let port = nbd::serve(&container, "root");
    let stick = key_stick(dir.path(), "KEYSTICK", "root.key", &key);

    let mut live = networked(&medium, &format!("cryptnbd=10.0.2.2:{port}/root"));
    live.usb("qemu-xhci", &stick);
    let mut guest = live.start();
    guest.says(":: attaching root of 10.0.2.2");
    guest.says(":: cryptroot is unlocked; /dev/sda may be removed");
    guest.says(":: image: /dev/mapper/cryptroot\n");
    guest.logs_in();
    assert_eq!(guest.ask("cat /sys/block/dm-0/dm/name; findfs LABEL=KEYSTICK"), "cryptroot\n/dev/sda\n");
    assert_eq!(guest.ask("grep -c 'dm-0\\|cryptroot' /proc/mounts; grep -c KEY /proc/mounts"), "1\n0\n");
    guest.ends("poweroff -f");

    let mut guest = networked(&medium, &format!("cryptnbd=10.0.2.2:{port}/root liveiso.key=OTHER:/root.key")).start();
    guest.says("!! no file system labelled OTHER with the key: the passphrase will do\n");
    guest.says("Passphrase for cryptroot: ");
    guest.types("wrong");
    guest.says("!! that passphrase does not open cryptroot\n");
    guest.says("Passphrase for cryptroot: ");
    guest.types("a key of text, which can be typed");
    guest.says(":: image: /dev/mapper/cryptroot\n");
    guest.logs_in();
    assert!(!guest.guest.serial.text().contains("can be typed"));
    guest.ends("poweroff -f");
}
