//! Which files a boot reads, seen in QEMU.

use crate::support::{liveiso, ran, tiny};

#[test]
fn a_boot_is_recorded_file_by_file() {
    let mut command = liveiso(["test", "--record-boot-order"]);
    let (code, stdout, stderr) = ran(command.arg(tiny()).output().unwrap());
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let paths: Vec<&str> = stdout.lines().filter(|line| !line.starts_with('#')).collect();
    // What runs beside something else may come in another order; these cannot.
    assert_eq!(paths[..3], ["/usr/bin/busybox", "/etc/inittab", "/etc/rc"], "{stdout}");
    for path in ["/usr/lib/liveiso/coldplug", "/usr/lib/liveiso/serial-login", "/etc/profile"] {
        assert!(paths.contains(&path), "{path} was not read?\n{stdout}");
    }
    assert!(paths.len() < 60, "more than a boot reads:\n{stdout}");
}
