//! QEMU boots, as far as they need no product image: what `liveiso test` says about
//! an image that cannot boot, and that no machine outlives its test.
//!
//! Needs qemu-system-x86 and xorriso.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use liveiso::host::Tool;
use liveiso::qemu::accelerator::{Accelerator, probe};
use liveiso::qemu::{
    Cell, Firmware, Guest, Machine, Medium, TestOptions, matrix, report::Shell, serial::Stopped, test,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const ID: &str = "0123456789abcdef01234567";

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
machine  MiB  result  login s  MemAvailable  MemFree  Shmem  modules
bios-cd  128  FAILED        -             -        -      -        -  the firmware found nothing to boot: \
No bootable device.  Retrying in 0 seconds. (the machine switched itself off or reset)
";
    assert_eq!(matrix::table(&cells), expected);
    let mut names: Vec<String> = fs::read_dir(logs.join("bios-cd"))
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
        matrix::build_id(&data_image(&dir, files), "liveiso")
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
    let missing = matrix::build_id(&dir.path().join("missing.iso"), "liveiso").unwrap_err();
    assert!(missing.to_string().ends_with("missing.iso is not a file; give the .iso to boot"));
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
