//! Handing over to an init that packages brought, and leaving the medium from it.
//!
//! The roots are unpacked, not configured: a minute less each. What Debian's maintainer scripts make of
//! these packages was booted by hand.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::machine::boot;
use super::media::Unpacked;
use crate::support::{built, profile};

/// What the system says once it runs, on the serial line.
const MARKER: &str = "echo \"marker $(cat /run/initramfs/live/id) $(readlink /proc/1/exe)\" >/dev/ttyS0";

/// A profile with these packages and files (path, mode, text); tiny's users, busybox's shell.
fn root_with(dir: &Path, name: &str, packages: &str, files: &[(&str, u32, &str)]) -> PathBuf {
    let text = format!(
        "iso-name = \"{name}\"\niso-version = \"1\"\niso-label = \"INIT\"\n\
         packages = [{packages}, \"busybox-static\"]\n\n[debian]\nsuite = \"bookworm\"\n\n\
         [root]\nmode = \"unpacked\"\nexclude = [\"/usr/share/{{doc,locale,man}}\", \"/usr/lib/udev/hwdb.{{bin,d}}\",\n\
         \"/usr/lib/modules/*/kernel/{{drivers,sound,net,fs,arch,crypto,lib}}/**\"]\n\n\
         [initramfs]\ndefault-modules = false\n\
         modules = [\"loop\", \"squashfs\", \"overlay\", \"isofs\", \"sr_mod\", \"ata_piix\", \"dm-mod\"]\n"
    );
    let source = dir.join(name);
    let overlay = source.join("airootfs");
    fs::create_dir_all(overlay.join("etc")).unwrap();
    fs::create_dir_all(overlay.join("usr/bin")).unwrap();
    fs::write(source.join("profile.toml"), text).unwrap();
    for file in ["etc/passwd", "etc/group"] {
        fs::copy(profile("tiny").join("airootfs").join(file), overlay.join(file)).unwrap();
    }
    symlink("busybox", overlay.join("usr/bin/sh")).unwrap();
    for (path, mode, text) in files {
        let file = overlay.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(*mode)).unwrap();
    }
    built(&source, name).0
}

/// The system says who it is and stops; the medium is let go and the tray is open.
fn says_stops_and_ejects(dir: &Path, iso: &Path, words: &str, program: &str) {
    let medium = Unpacked::at(iso, &dir.join("unpacked"));
    let marker = fs::read_dir(medium.tree.join("liveiso")).unwrap().map(|e| e.unwrap().path());
    let marker = marker.into_iter().find(|path| path.extension().is_some_and(|e| e == "id")).unwrap();
    let id = marker.file_stem().unwrap().to_str().unwrap();
    let mut live = boot(&medium, 128, words);
    live.disc(iso);
    let mut guest = live.start();
    guest.says(&format!("marker {id} {program}"));
    guest.says("The medium is released.");
    guest.says("reboot: System halted");
    guest.has_ejected();
}

#[test]
fn systemd_is_handed_over_to_and_ejects() {
    let dir = tempfile::tempdir().unwrap();
    let unit = format!(
        "[Unit]\nDescription=Says what runs\nDefaultDependencies=no\nAfter=basic.target\n\n\
         [Service]\nType=oneshot\nExecStart=/usr/bin/sh -c '{}'\nExecStart=systemctl --no-block halt\n",
        MARKER.replace('$', "$$")
    );
    let files = [("usr/lib/systemd/system/marker.service", 0o644, unit.as_str())];
    let iso = root_with(dir.path(), "init-systemd", "\"systemd-sysv\"", &files);
    let words = "loglevel=4 systemd.show_status=0 systemd.unit=basic.target systemd.wants=marker.service";
    says_stops_and_ejects(dir.path(), &iso, words, "/usr/lib/systemd/systemd");
}

/// Its scripts are left out but for the last one, which is ours.
#[test]
fn sysvinit_is_handed_over_to_and_ejects() {
    let dir = tempfile::tempdir().unwrap();
    let inittab = "id:2:initdefault:\nma:2:once:/etc/marker\nl0:0:wait:/usr/bin/busybox env INIT_HALT=HALT /etc/init.d/halt stop\n";
    let marker = format!("#!/bin/sh\nPATH=/sbin:/bin; export PATH\n{MARKER}\ntelinit 0\n");
    let files = [("etc/inittab", 0o644, inittab), ("etc/marker", 0o755, marker.as_str())];
    let iso = root_with(dir.path(), "init-sysvinit", "\"sysvinit-core\", \"initscripts\"", &files);
    says_stops_and_ejects(dir.path(), &iso, "loglevel=4", "/usr/sbin/init");
}
