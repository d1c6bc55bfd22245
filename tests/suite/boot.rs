//! QEMU boots: the product's images on the machines they are made for, what
//! `liveiso test` says about an image that cannot boot, and that no machine
//! outlives its test.
//!
//! Needs qemu-system-x86, ovmf, ovmf-ia32 and xorriso.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use liveiso::host::Tool;
use liveiso::qemu::accelerator::{Accelerator, probe};
use liveiso::qemu::{
    Cell, Firmware, Guest, Machine, Medium, Subject, TestOptions, matrix, report::Shell, serial::Stopped,
    test,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::support::{liveiso, ran, rescue, tiny};

pub const ID: &str = "0123456789abcdef01234567";

/// An ISO 9660 image with these files and no boot loader.
fn data_image(dir: &Path, files: &[&str]) -> PathBuf {
    let root = dir.join("root");
    for file in files {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x\n").unwrap();
    }
    fs::create_dir_all(&root).unwrap();
    let image = dir.join("a,b.iso");
    let tool = Tool::new("xorriso", "tests").unwrap().args(["-as", "mkisofs", "-quiet", "-R", "-o"]);
    tool.arg(&image).arg(&root).output().unwrap();
    image
}

fn one_machine(log_dir: &Path) -> TestOptions {
    TestOptions {
        firmwares: vec![Firmware::Bios],
        media: vec![Medium::Cd],
        time_limit: Duration::from_secs(120),
        log_dir: Some(log_dir.to_path_buf()),
        ..TestOptions::default()
    }
}

#[test]
fn an_image_without_loader_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let image = data_image(dir.path(), &[&format!("liveiso/{ID}.id")]);
    let logs = dir.path().join("logs");
    let cells = test(&image, &one_machine(&logs), &|_: &Cell| {}).unwrap();
    let expected = "\
machine  MiB  result  started by  login s  read kB  requests  MemAvailable  MemFree  Shmem  modules
bios-cd  128  FAILED  -                 -        -         -             -        -      -        -  the firmware found nothing to boot: \
No bootable device.  Retrying in 0 seconds. (the machine switched itself off or reset)
";
    assert_eq!(matrix::table(&cells), expected);
    let mut names: Vec<String> = fs::read_dir(logs.join("bios-cd-128M"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["console.log", "firmware.log", "qemu.log"]);
}

#[test]
fn marker_files_of_images() {
    let dir = tempfile::tempdir().unwrap();
    let id = |name: &str, files: &[&str]| {
        let dir = dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        Subject::open(&data_image(&dir, files), "liveiso")
            .map(|subject| subject.build_id)
            .map_err(|e| format!("{e:#}").replace(&*dir.to_string_lossy(), "DIR"))
    };
    let marker = format!("liveiso/{ID}.id");
    assert_eq!(id("one", &[&marker, "liveiso/i386/other.id"]), Ok(ID.to_string()));
    assert_eq!(
        id("two", &[&marker, "liveiso/00.id"]),
        Err(format!("DIR/a,b.iso has several marker files: 00, {ID}"))
    );
    assert_eq!(
        id("none", &["liveiso/i386/airootfs.sfs"]),
        Err("DIR/a,b.iso has no marker file /liveiso/*.id; is it a liveiso image?".to_string())
    );
    let missing = Subject::open(&dir.path().join("missing.iso"), "liveiso").unwrap_err();
    assert!(missing.to_string().ends_with("missing.iso is not a file; give the .iso to boot"));
}

#[test]
fn what_cannot_be_booted_is_skipped_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let image = data_image(dir.path(), &[&format!("liveiso/{ID}.id"), "EFI/BOOT/BOOTX64.EFI"]);
    let run = |words: &[&str]| {
        let mut command = liveiso(["test"]);
        ran(command.args(words).arg("--logs").arg(dir.path().join("logs")).arg(&image).output().unwrap())
    };
    let bios = "skipped: the image is made for UEFI alone";
    let ia32 = "skipped: the image has no /EFI/BOOT/BOOTIA32.EFI";
    let table = "skipped: the image has no partition table: it is for CDs alone";
    let expected = format!(
        "bios-cd-128M  {bios}
bios-usb-128M  {bios}
bios-usb-without-el-torito-128M  {bios}
bios-fat-copy-128M  {bios}
bios-loopback-128M  {bios}
bios-netboot-128M  {bios}
bios-netboot-nbd-128M  {bios}
uefi-x64-cd-256M
uefi-x64-usb-256M  {table}
uefi-x64-usb-without-el-torito-256M  {table}
uefi-x64-fat-copy-256M
uefi-x64-loopback-256M  skipped: the image has no /boot/grub/loopback.cfg
uefi-x64-netboot-256M  skipped: the image has no kernel below /liveiso
uefi-x64-netboot-nbd-256M  skipped: the image has no kernel below /liveiso
uefi-ia32-cd-256M  {ia32}
uefi-ia32-usb-256M  {ia32}
uefi-ia32-usb-without-el-torito-256M  {ia32}
uefi-ia32-fat-copy-256M  {ia32}
uefi-ia32-loopback-256M  {ia32}
uefi-ia32-netboot-256M  {ia32}
uefi-ia32-netboot-nbd-256M  {ia32}
"
    );
    assert_eq!(run(&["--list", "--all"]), (Some(0), expected, String::new()));
    let (code, stdout, stderr) = run(&["--firmware", "bios", "--medium", "usb", "--memory", "64,128"]);
    let table = "\
machine   MiB  result   started by  login s  read kB  requests  MemAvailable  MemFree  Shmem  modules
bios-usb   64  skipped  -                 -        -         -             -        -      -        -  the image is made for UEFI alone
bios-usb  128  skipped  -                 -        -         -             -        -      -        -  the image is made for UEFI alone
";
    assert_eq!((code, stdout.as_str()), (Some(1), table));
    assert!(stderr.ends_with("error: every machine was skipped: the image was not tested\n"), "{stderr}");
    let junit = "\
<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuite name=\"a,b.iso\" tests=\"2\" failures=\"0\" skipped=\"2\">
  <testcase classname=\"boot\" name=\"bios-usb-64M\" time=\"0.0\">
    <skipped message=\"the image is made for UEFI alone\"/>
  </testcase>
  <testcase classname=\"boot\" name=\"bios-usb-128M\" time=\"0.0\">
    <skipped message=\"the image is made for UEFI alone\"/>
  </testcase>
</testsuite>
";
    assert_eq!(fs::read_to_string(dir.path().join("logs/junit.xml")).unwrap(), junit);
}

#[test]
fn a_64_bit_image_gets_a_64_bit_processor() {
    let dir = tempfile::tempdir().unwrap();
    let cases = |name: &str, kernels: &[&str]| {
        let dir = dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        let files = [&format!("liveiso/{ID}.id"), "EFI/BOOT/BOOTX64.EFI", "EFI/BOOT/BOOTIA32.EFI"];
        let subject = Subject::open(&data_image(&dir, &[&files[..], kernels].concat()), "liveiso").unwrap();
        let options = TestOptions { media: vec![Medium::Cd], ..TestOptions::default() };
        options
            .cases(&subject)
            .into_iter()
            .map(|case| (case.machine.program(), case.obstacle))
            .collect::<Vec<_>>()
    };
    let (i386, x86_64) = ("qemu-system-i386", "qemu-system-x86_64");
    let bios = Some("the image is made for UEFI alone".to_string());
    let ia32 = Some("the image has no kernel for the 32-bit processor of this machine".to_string());
    let [old, new] = ["liveiso/boot/i386/vmlinuz", "liveiso/boot/amd64/vmlinuz"];
    assert_eq!(cases("new", &[new]), [(x86_64, bios.clone()), (x86_64, None), (i386, ia32)]);
    assert_eq!(cases("both", &[old, new]), [(i386, bios), (x86_64, None), (i386, None)]);
}

#[test]
fn a_guest_answers_the_probe() {
    probe(Accelerator::Tcg, Duration::from_secs(60)).unwrap();
}

#[test]
fn a_refused_machine_says_why() {
    let machine = Machine { cpu: "no-such-cpu".to_string(), ..Machine::new(Firmware::Bios, Medium::Cd) };
    let deadline = Instant::now() + Duration::from_secs(60);
    let error = Guest::start(&machine, None, None, deadline).unwrap_err().to_string();
    assert!(error.starts_with("QEMU did not start:\n"), "{error}");
    assert!(error.contains("no-such-cpu"), "{error}");
}

/// A machine that waits before its first instruction.
fn waiting_guest() -> Guest {
    let mut machine = Machine::new(Firmware::Bios, Medium::Cd);
    machine.extra = vec!["-S".into()];
    Guest::start(&machine, None, None, Instant::now() + Duration::from_secs(60)).unwrap()
}

#[test]
fn a_dropped_guest_is_gone() {
    let mut guest = waiting_guest();
    let status = guest.qmp.execute("query-status", serde_json::json!({})).unwrap();
    assert_eq!(status["status"], "prelaunch");
    let soon = Instant::now() + Duration::from_millis(10);
    assert_eq!(
        Shell::log_in(&mut guest.serial, soon, |_| false).unwrap().err(),
        Some(Some(Stopped::Deadline))
    );
    let process = PathBuf::from(format!("/proc/{}", guest.process_id()));
    assert!(process.exists());
    drop(guest);
    assert!(!process.exists());
}

#[test]
#[ignore = "started, and killed, by a_killed_test_leaves_no_guest"]
fn holds_a_guest() {
    let mut guest = waiting_guest();
    println!("\nqemu {}", guest.process_id());
    guest.serial.drain(Instant::now() + Duration::from_secs(60)).unwrap();
}

#[test]
fn a_killed_test_leaves_no_guest() {
    let ourselves = std::env::current_exe().unwrap();
    let words = ["--exact", "boot::holds_a_guest", "--ignored", "--nocapture"];
    let tool = Tool::new(ourselves.to_str().unwrap(), "tests").unwrap().args(words);
    let mut holder = tool.into_command().stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(holder.stdout.take().unwrap());
    let pid = output.lines().find_map(|line| line.unwrap().strip_prefix("qemu ")?.parse().ok());
    let qemu = pidfd_open(Pid::from_raw(pid.unwrap()).unwrap(), PidfdFlags::empty()).unwrap();
    holder.kill().unwrap();
    holder.wait().unwrap();
    let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
    let gone = poll(&mut [PollFd::new(&qemu, PollFlags::IN)], Some(&limit)).unwrap();
    assert_eq!(gone, 1, "QEMU outlived its test");
}

/// Runs `liveiso test` on an image with these options: every machine must pass.
/// Returns the table and the cells. The tests of this room take turns, so that
/// no more than two of their machines run at once.
pub fn boots(image: &Path, options: &[&str]) -> Vec<serde_json::Value> {
    static MACHINES: Mutex<()> = Mutex::new(());
    let _turn = MACHINES.lock().unwrap_or_else(PoisonError::into_inner);
    let logs = tempfile::tempdir().unwrap();
    let mut command = liveiso(["test", "--json", "--time-limit", "240", "--jobs", "2", "--logs"]);
    let (code, stdout, stderr) = ran(command.arg(logs.path()).args(options).arg(image).output().unwrap());
    assert_eq!(code, Some(0), "{options:?}:\n{stdout}{stderr}{}", consoles(logs.path()));
    let cells: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
    let manifest = fs::read(image.with_extension("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    for cell in &cells {
        let report = &cell["report"];
        println!("{cell}");
        assert_eq!(report["build-id"], manifest["build-id"], "{cell}");
        assert_eq!(report["root-filesystem"], "overlay", "{cell}");
        assert_eq!(
            (&report["init-name"], &report["init-program"]),
            (&"init".into(), &"/usr/bin/busybox".into()),
            "{cell}"
        );
    }
    cells
}

/// The end of every console, for a failing test's message.
fn consoles(logs: &Path) -> String {
    let mut text = String::new();
    for cell in fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().path()) {
        let console = fs::read(cell.join("console.log")).unwrap_or_default();
        let end = String::from_utf8_lossy(&console[console.len().saturating_sub(3000)..]).into_owned();
        text.push_str(&format!("--- {}\n{end}\n", cell.display()));
    }
    text
}

/// The machines' names.
pub fn names(cells: &[serde_json::Value]) -> Vec<&str> {
    cells.iter().map(|cell| cell["name"].as_str().unwrap()).collect()
}

/// What tmpfs may hold at the login shell, in kB: the overlay's upper directory
/// and /run. An initramfs that stayed would be ten thousand.
pub const MOST_SHMEM_KB: u64 = 1024;

#[test]
fn tiny_boots_in_37_mib() {
    let cells = boots(tiny(), &["--firmware", "bios", "--medium", "cd", "--memory", "37"]);
    assert_eq!(names(&cells), ["bios-cd"]);
}

#[test]
fn tiny_leaves_the_memory_of_a_128_mib_machine_to_its_user() {
    let least = ["--firmware", "bios", "--medium", "cd", "--min-available", "100000"];
    let cells = boots(tiny(), &least);
    assert_eq!(names(&cells), ["bios-cd"]);
    assert_eq!(cells[0]["memory-mib"], 128);
    assert!(cells[0]["report"]["shmem-kb"].as_u64().unwrap() <= MOST_SHMEM_KB, "{}", cells[0]);
}

#[test]
fn rescue_boots_on_every_machine_of_the_matrix() {
    let cells = boots(rescue(), &["--min-available", "96000"]);
    assert_eq!(
        names(&cells),
        ["bios-cd", "bios-usb", "uefi-x64-cd", "uefi-x64-usb", "uefi-ia32-cd", "uefi-ia32-usb"]
    );
    let memory: Vec<&serde_json::Value> = cells.iter().map(|cell| &cell["memory-mib"]).collect();
    assert_eq!(memory, [128, 128, 256, 256, 256, 256]);
    for cell in &cells {
        assert!(cell["report"]["shmem-kb"].as_u64().unwrap() <= MOST_SHMEM_KB, "{cell}");
    }
}

#[test]
fn rescue_boots_in_48_mib() {
    let cells = boots(rescue(), &["--firmware", "bios", "--medium", "cd", "--memory", "48"]);
    assert_eq!(names(&cells), ["bios-cd"]);
}

/// Files copied to FAT32 under another label, the image as a file on another stick,
/// and a firmware that needs the partition table.
#[test]
fn tiny_boots_from_the_media_people_make_of_it() {
    let cells = boots(tiny(), &["--firmware", "uefi-x64", "--medium", "fat-copy,loopback"]);
    assert_eq!(names(&cells), ["uefi-x64-fat-copy", "uefi-x64-loopback"]);
    let cells = boots(tiny(), &["--firmware", "uefi-ia32", "--medium", "usb-without-el-torito"]);
    assert_eq!(names(&cells), ["uefi-ia32-usb-without-el-torito"]);
}
