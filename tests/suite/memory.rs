//! What the layouts and entries do to a machine's memory, told by the machine itself.
//!
//! Kernel and initramfs of an image are started directly, with the words of one of
//! its menu entries, and the image lies in a drive: no boot loader to wait for.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use liveiso::qemu::report::{Report, Shell};
use liveiso::qemu::{Firmware, Guest, Machine, Medium};

use crate::boot::MOST_SHMEM_KB;
use crate::layouts::{extracted, tiny_with};
use crate::support::{built, tiny};

/// A booted machine, in its own words.
struct Told {
    report: Report,
    /// `MemAvailable` in kB when /init handed over.
    before: u64,
    mounts: String,
}

/// The words of an entry of the image's BIOS menu.
fn words(image: &Path, label: &str) -> String {
    let menu = String::from_utf8(extracted(image, "/isolinux/isolinux.cfg")).unwrap();
    let (_, entry) = menu.split_once(&format!("label {label}\n")).unwrap();
    let line = entry.lines().find_map(|line| line.trim().strip_prefix("append ")).unwrap();
    line.to_string()
}

/// Boots an image with 128 MiB, these processors and the words of this entry.
fn told(image: &Path, processors: u32, entry: &str) -> Told {
    let dir = tempfile::tempdir().unwrap();
    let mut machine = Machine::new(Firmware::Bios, Medium::Cd);
    (machine.memory_mib, machine.cpus) = (128, processors);
    for (option, name) in [("-kernel", "vmlinuz"), ("-initrd", "initrd.img")] {
        let file = dir.path().join(name);
        fs::write(&file, extracted(image, &format!("/liveiso/boot/i386/{name}"))).unwrap();
        machine.extra.extend([option.into(), file.into()]);
    }
    machine.extra.extend(["-append".into(), words(image, entry).into()]);
    let drive = format!("if=none,id=disc,format=raw,readonly=on,media=cdrom,file={}", image.display());
    machine.extra.extend(["-drive", &drive, "-device", "ide-cd,bus=ide.1,drive=disc"].map(Into::into));
    let deadline = Instant::now() + Duration::from_secs(240);
    let mut guest = Guest::start(&machine, None, None, deadline).unwrap();
    let mut shell = Shell::log_in(&mut guest.serial, deadline, |_| false).unwrap().unwrap();
    let report = shell.report(deadline).unwrap();
    let (_, before) = shell.ask("dmesg | sed -n 's/.*handing over.*MemAvailable //p'", deadline).unwrap();
    let before = before.split_whitespace().next().unwrap().parse().unwrap();
    let (_, mounts) = shell.ask("cat /proc/mounts", deadline).unwrap();
    println!("{}: {before} kB before, {report:?}", image.display());
    Told { report, before, mounts }
}

#[test]
fn four_processors_cost_the_low_memory_entry_at_most_one_megabyte() {
    let (one, four) = (told(tiny(), 1, "live"), told(tiny(), 4, "lowmem"));
    let lost = one.report.mem_available_kb.saturating_sub(four.report.mem_available_kb);
    assert!(lost * 1024 <= 1_000_000, "{lost} kB: {:?} {:?}", one.report, four.report);
}

/// Drivers of every wired network card besides the default modules.
#[test]
fn a_large_squashed_initramfs_takes_less_memory_and_leaves_nothing() {
    let image = |layout: &str| {
        let text = format!(
            "[initramfs]\nlayout = \"{layout}\"\nmodules = [\"drivers/net/ethernet/*/*\"]\n\n[budget]\nmemory = \"100M\"\n"
        );
        built(tiny_with(&text, &[]).path(), &format!("large-{layout}")).0
    };
    let [plain, squashed] = ["plain", "squashed"].map(|layout| told(&image(layout), 1, "live"));
    assert!(squashed.before >= plain.before + 5_000, "{} kB, {} kB", squashed.before, plain.before);
    assert!(squashed.report.shmem_kb <= MOST_SHMEM_KB, "{:?}", squashed.report);
    let left = |told: &Told| told.mounts.lines().filter(|line| line.contains("squash")).count();
    assert_eq!((left(&squashed), left(&plain)), (1, 1), "{}", squashed.mounts);
    let lost = plain.report.mem_available_kb.saturating_sub(squashed.report.mem_available_kb);
    assert!(lost <= 512, "{lost} kB: {:?} {:?}", plain.report, squashed.report);
}
