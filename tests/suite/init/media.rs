//! /init's functions that look at media, judge what they hold and write to them, on the host.

use std::fs;

use tempfile::TempDir;

use super::{in_init, make, quoted};

/// The log is written to a copy of the medium that can take it, and nowhere else.
#[test]
fn the_log_goes_onto_our_own_medium_only() {
    let dir = TempDir::new().unwrap();
    let at = dir.path();
    for name in ["clean", "open"] {
        fs::File::create(at.join(name)).unwrap().set_len(8 << 20).unwrap();
        make("mkfs.ext4", &["-q", name], at);
    }
    make("debugfs", &["-w", "-R", "feature needs_recovery", "open"], at);
    let open = format!("{}/open M ext4 ro 0 0", at.display());
    let clean = format!("{}/clean M ext4 ro 0 0", at.display());
    for (mounts, expected) in [
        ("/dev/sda1 M vfat ro 0 0", "yes\n"),
        ("/dev/sda1 M exfat ro 0 0", "yes\n"),
        (&clean, "yes\n"),
        // Its journal, replayed later, would undo what was written past it.
        (&open, "no\n"),
        ("/dev/sr0 M iso9660 ro 0 0", "no\n"),
        ("/dev/loop0 M iso9660 ro 0 0\n/dev/sda1 D vfat ro 0 0", "no\n"),
        ("10.0.2.2:/live M nfs4 ro 0 0", "no\n"),
        ("/dev/sdb1 D vfat ro 0 0", "no\n"),
        ("", "no\n"),
    ] {
        fs::write(at.join("mounts"), format!("{mounts}\n")).unwrap();
        let script =
            ". \"$LIBRARY/trouble.sh\"; MEDIUM=M; log_fits_medium \"$LIVE/mounts\" && echo yes || echo no";
        assert_eq!(in_init(at, script), expected, "{mounts}");
    }
}

/// Changes in a file are not written past an ext4 journal that waits on the medium either.
#[test]
fn changes_wait_for_a_clean_medium() {
    let dir = TempDir::new().unwrap();
    fs::File::create(dir.path().join("open")).unwrap().set_len(8 << 20).unwrap();
    make("mkfs.ext4", &["-q", "open"], dir.path());
    make("debugfs", &["-w", "-R", "feature needs_recovery", "open"], dir.path());
    let script = "mount() { echo mounted; }; changes=$LIVE/changes.ext4 medium_device=$LIVE/open
        mount_changes_rw || echo \"$verdict\"";
    let expected = "the medium's own file system was not closed cleanly: run e2fsck on it\n";
    assert_eq!(in_init(dir.path(), script), expected);
}

/// Of a device with an image on it only the image is read; both formats say how long they are.
#[test]
fn an_offered_image_is_as_long_as_it_says() {
    let dir = TempDir::new().unwrap();
    let at = dir.path();
    fs::create_dir(at.join("tree")).unwrap();
    fs::write(at.join("tree/file"), vec![1; 300_000]).unwrap();
    make("mksquashfs", &["tree", "squashfs", "-quiet", "-no-progress"], at);
    make("mkfs.erofs", &["erofs", "tree"], at);
    let script = ". \"$LIBRARY/hook.sh\"; for type in squashfs erofs; do
        echo $(stat -c %s \"$LIVE/$type\") $(offered_bytes \"$LIVE/$type\" $type /none /none)
    done; echo 'digest 70000000000' >\"$LIVE/image\"; offered_bytes /none squashfs \"$LIVE/image\" \"$LIVE/image\"";
    let found = in_init(at, script);
    let lines: Vec<&str> = found.lines().collect();
    for line in &lines[..2] {
        let (length, said) = line.split_once(' ').unwrap();
        assert_eq!(length.parse::<u64>().unwrap().next_multiple_of(4096).to_string(), said, "{found}");
    }
    assert_eq!(lines[2..], ["70000000000"]);
}

/// What was offered is compared by the bytes of this build's image, whatever lies behind them.
#[test]
fn digests_are_taken_of_as_many_bytes_as_the_image_has() {
    let dir = TempDir::new().unwrap();
    let mut bytes = vec![5; 100_000];
    let digest = liveiso::cache::hex_sha256(&bytes);
    bytes.extend([9; 5000]);
    fs::write(dir.path().join("device"), bytes).unwrap();
    let other = "0".repeat(64);
    let script = format!(
        ". \"$LIBRARY/verify.sh\"; say() {{ :; }}
        verify_file {digest} \"$LIVE/device\" 100000 && echo yes
        for words in '{digest} device' '{other} device 100000' '{digest} none 1'; do
            set -- $words; verify_file $1 \"$LIVE/$2\" $3 || echo \"$verdict\"
        done"
    );
    assert_eq!(in_init(dir.path(), &script), "yes\nis damaged\nis damaged\nis missing\n");
}

#[test]
fn the_root_hash_is_that_of_the_build() {
    let dir = TempDir::new().unwrap();
    for (told, expected) in [
        ("", "yes\n"),
        ("ab12", "yes\n"),
        ("AB12", "yes\n"),
        (
            "ab13",
            "the root hash of the boot entry is ab13, that of this build ab12: the entry was changed, or \
             belongs to another build\n",
        ),
    ] {
        let script = format!(
            ". \"$LIBRARY/verity.sh\"; same_root_hash '{told}' ab12 && echo yes || echo \"$verdict\""
        );
        assert_eq!(in_init(dir.path(), &script), expected, "{told}");
    }
}

#[test]
fn an_nfs_server_may_have_another_port() {
    let dir = TempDir::new().unwrap();
    for (told, expected) in [
        ("10.0.2.2:/live", ""),
        ("10.0.2.2:/live,port=2050", "2050\n"),
        ("10.0.2.2:/live,vers=4,port=2050,ro", "2050\n"),
        ("10.0.2.2:/live,port=x;y", "\n"),
    ] {
        let script = format!(". \"$LIBRARY/nfs.sh\"; opt_nfs={}; nfs_port", quoted(told));
        assert_eq!(in_init(dir.path(), &script), expected, "{told}");
    }
}

/// A device that had nothing to read is asked again, but not while the last question is open.
#[test]
fn empty_drives_are_asked_one_question_at_a_time() {
    let dir = TempDir::new().unwrap();
    let script = "mkdir \"$SEEN\"; cd \"$SEEN\"
        echo empty >sr0.type; echo vfat >sr1.type; echo empty >sr2.type; true >sr2.5.reading; echo empty >none.type
        for d in sr0 sr1 sr2 none; do asks_again /dev/$d && echo $d yes || echo $d no; done";
    assert_eq!(in_init(dir.path(), script), "sr0 yes\nsr1 no\nsr2 no\nnone no\n");
}

/// A disk that does not answer does not hold up the search for a label; what is said late is heard.
#[test]
fn labels_are_looked_for_beside_the_search() {
    let dir = TempDir::new().unwrap();
    let script = "mkfifo \"$LIVE/disk\"
        findfs() { case $1 in *slow) cat \"$LIVE/disk\" ;; *quick) echo /dev/sdb1 ;; *) return 1 ;; esac; }
        for tag in LABEL=quick LABEL=slow 'LABEL=slow' UUID=none /dev/disk/by-label/quick; do
            echo $tag $(named_device $tag)
        done
        echo /dev/sdc1 >\"$LIVE/disk\"
        until named_device LABEL=slow; do usleep 10000; done
        rm \"$LIVE/disk\"; ls \"$LIVE\"";
    let expected = "LABEL=quick /dev/sdb1\nLABEL=slow\nLABEL=slow\nUUID=none\n\
                    /dev/disk/by-label/quick /dev/sdb1\n/dev/sdc1\n";
    assert_eq!(in_init(dir.path(), script), expected);
    let blank = "findfs() { echo \"$1\"; }; named_device '/dev/disk/by-label/MY\\x20STICK'";
    assert_eq!(in_init(dir.path(), blank), "LABEL=MY STICK\n");
}

/// What was read of a disk that was changed meanwhile is not taken for the new one's.
#[test]
fn an_answer_that_comes_too_late_is_dropped() {
    let dir = TempDir::new().unwrap();
    let script = "mkdir \"$SEEN\"; named=; record=$SEEN/sda
        for key in 8/1 8/2; do
            echo 8/1 >\"$record\"
            filesystem_type() { echo $key >\"$record\"; echo vfat; }
            start_reading /dev/sda \"$record\" 8/1; wait
            ls \"$SEEN\"; rm -f \"$record\".*
        done";
    assert_eq!(in_init(dir.path(), script), "sda\nsda.type\nsda\n");
}

/// A layout that is not there is said with those that are; a name is no path.
#[test]
fn keyboard_layouts_are_those_of_the_initramfs() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("kmap")).unwrap();
    for name in ["de.bmap", "fr.bmap", "notes"] {
        fs::write(dir.path().join("kmap").join(name), name).unwrap();
    }
    fs::write(dir.path().join("out.bmap"), "x").unwrap();
    let missing = |name: &str| {
        format!("!! kmap={name}: this initramfs has no such keyboard layout; it has: de.bmap fr.bmap\n")
    };
    for (name, expected) in [
        ("de", "de.bmap".to_string()),
        ("es", missing("es")),
        ("../out", missing("../out")),
        ("*", missing("*")),
    ] {
        let script = format!(
            "warn() {{ echo \"!! $*\"; }}; loadkmap() {{ cat; }}; KEYMAPS=$LIVE/kmap
            opt_keymap={}; load_keymap",
            quoted(name)
        );
        assert_eq!(in_init(dir.path(), &script), expected, "{name}");
    }
}
