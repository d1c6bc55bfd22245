//! `liveiso test` when something is in the way: an image that hangs, a file that is no
//! image, a signal in the middle.
//!
//! Needs qemu-system-x86 and xorriso.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::boot::ID;
use crate::build::ended_within;
use crate::build::killed::programs_end;
use crate::support::{liveiso, oracle, ran};

/// An image with our marker file, whose boot loader does nothing for ever.
fn hanging_image(dir: &Path) -> PathBuf {
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("liveiso")).unwrap();
    fs::write(tree.join("liveiso").join(format!("{ID}.id")), "x\n").unwrap();
    let mut loader = vec![0; 2048];
    // jmp to itself
    loader[..2].copy_from_slice(&[0xeb, 0xfe]);
    fs::write(tree.join("loader.bin"), loader).unwrap();
    let words =
        ["-as", "mkisofs", "-quiet", "-R", "-b", "loader.bin", "-no-emul-boot", "-boot-load-size", "4"];
    let words: Vec<&str> = words.into_iter().chain(["-o", "hang.iso", "tree"]).collect();
    oracle("xorriso", &words, dir);
    dir.join("hang.iso")
}

/// Two machines side by side: both are ended, their scratch directories go, nothing is reported.
#[test]
fn ctrl_c_ends_every_machine() {
    let dir = tempfile::tempdir().unwrap();
    let image = hanging_image(dir.path());
    let (logs, temporary) = (dir.path().join("logs"), dir.path().join("tmp"));
    fs::create_dir(&temporary).unwrap();
    let mut command =
        liveiso(["test", "--firmware", "bios", "--medium", "cd", "--memory", "32,64", "--jobs", "2"]);
    command.arg("--logs").arg(&logs).arg(&image).env("TMPDIR", &temporary);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let hangs = |name: &str| {
        let log = fs::read_to_string(logs.join(name).join("firmware.log")).unwrap_or_default();
        log.contains("Booting from 0000:7c00")
    };
    while !(hangs("bios-cd-32M") && hangs("bios-cd-64M")) {
        assert!(!ended_within(&child, Duration::from_millis(10)), "{:?}", child.wait_with_output());
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = ran(child.wait_with_output().unwrap());
    assert_eq!(ended, (Some(130), String::new(), "interrupted; nothing was written\n".to_string()));
    programs_end(dir.path());
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    assert!(!logs.join("junit.xml").exists());
}

#[test]
#[ignore = "takes the 20 s of its time limit; what the log means is tested beside the code"]
fn an_image_that_hangs_fails_at_the_time_limit() {
    let dir = tempfile::tempdir().unwrap();
    let image = hanging_image(dir.path());
    let logs = dir.path().join("logs");
    let mut command = liveiso(["test", "--firmware", "bios", "--medium", "cd", "--time-limit", "20"]);
    let (code, stdout, stderr) = ran(command.arg("--logs").arg(&logs).arg(&image).output().unwrap());
    let reason = "the boot loader ran, but no kernel (time-out after 20 s)";
    assert_eq!(code, Some(5), "{stdout}{stderr}");
    assert!(stdout.ends_with(&format!("  {reason}\n")) && stderr.contains(reason), "{stdout}{stderr}");
    for name in ["console.log", "firmware.log", "qemu.log", "screen.png"] {
        assert!(logs.join("bios-cd-128M").join(name).is_file(), "{name}");
    }
    assert!(fs::read_to_string(logs.join("junit.xml")).unwrap().contains(reason));
}

#[test]
fn what_is_no_image_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    fs::write(&file, "no image").unwrap();
    let (code, stdout, stderr) = ran(liveiso(["test"]).arg(&file).output().unwrap());
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    let expected =
        format!("error: {} is neither an ISO 9660 image nor a disk with a FAT partition\n", file.display());
    assert!(stderr.starts_with(&expected), "{stderr}");
}
