//! Builds that are killed or interrupted at any moment: nothing that could be
//! taken for a result, nothing left behind, and the next build is right.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Place, QUICK, TINY, ended_within, entries, names, pid_ended_within, sha256};
use crate::squashfs::trees::Random;
use crate::support::ran;

/// A number from the environment: LIVEISO_KILLS, how often a build is killed, or
/// LIVEISO_SEED, from which the moments come.
fn number(name: &str, default: u64) -> u64 {
    liveiso::host::environment(name).map_or(default, |text| text.to_str().unwrap().parse().unwrap())
}

#[test]
fn a_killed_build_leaves_nothing_that_could_be_taken_for_a_result() {
    let (kills, seed) = (number("LIVEISO_KILLS", 8), number("LIVEISO_SEED", 20_261_122));
    let mut random = Random::new(seed);
    let cold = QUICK.reference().took;
    let place = QUICK.unpacked();
    let started = Instant::now();
    place.finishes();
    let unpacked = started.elapsed();
    drop(place);
    // Unpacking is the longest part and always the same: most begin after it.
    let is_cold = |n| n % 4 == 0;
    for n in 0..kills {
        // One in each part of the time a build takes, at random within that.
        let whole = if is_cold(n) { cold } else { unpacked };
        let part = (n as f64 + random.below(1 << 20) as f64 / f64::from(1 << 20)) / kills as f64;
        let mut moment = whole.mul_f64(part);
        let place = loop {
            let place = if is_cold(n) { QUICK.cold() } else { QUICK.unpacked() };
            if is_killed_after(&place, moment) {
                break place;
            }
            // It was faster than the one that was measured.
            moment = moment.mul_f64(0.8);
        };
        nothing_partial(&place);
        let known = if is_cold(n) { "nothing" } else { "the packages unpacked" };
        println!("seed {seed}, kill {n}: with {known}, after {:.3} s", moment.as_secs_f64());
        place.finishes();
        if n + 1 == kills {
            place.is_the_same();
        }
    }
}

/// Kills a build at a moment; `false` if it was done by then.
fn is_killed_after(place: &Place, moment: Duration) -> bool {
    let mut child = place.build().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let in_time = !ended_within(&child, moment);
    child.kill().unwrap();
    let stopped = child.wait_with_output().unwrap();
    let killed = stopped.status.code().is_none();
    assert!(killed || stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    in_time && killed
}

/// Every artifact with its final name is complete and right, and so is every
/// entry of the cache; no program of it runs on, and nothing is mounted.
pub(super) fn nothing_partial(place: &Place) {
    programs_end(place.path());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(place.path().to_str().unwrap()), "{mounts}");
    let reference = place.subject.reference();
    if place.out().exists() {
        for name in names(&place.out()).into_iter().filter(|name| !name.starts_with(".liveiso-")) {
            assert_eq!(reference.artifacts.get(&name), Some(&sha256(&place.out().join(&name))), "{name}");
        }
    }
    let all = reference.place.v1().join("stages");
    let stages = place.v1().join("stages");
    for key in if stages.exists() { entries(&stages) } else { Vec::new() }.iter().flat_map(|s| entries(s)) {
        let expected = all.join(key.strip_prefix(&stages).unwrap());
        assert_eq!(names(&key), names(&expected), "{}", key.display());
        for name in names(&key) {
            let size = |dir: &Path| fs::metadata(dir.join(&name)).unwrap().len();
            assert_eq!(size(&key), size(&expected), "{}/{name}", key.display());
        }
        let record = |dir: &Path| fs::read_to_string(dir.join("stage.json")).unwrap();
        assert_eq!(record(&key), record(&expected), "{}", key.display());
    }
}

/// Waits until no program whose command line names the directory runs.
pub fn programs_end(dir: &Path) {
    for (pid, line) in programs(dir) {
        assert!(pid_ended_within(pid, Duration::from_secs(60)), "{line}");
    }
}

/// The programs whose command line names the directory.
pub(super) fn programs(dir: &Path) -> Vec<(Pid, String)> {
    let pids = entries(Path::new("/proc")).into_iter().filter_map(|path| {
        let pid = path.file_name()?.to_str()?.parse().ok().and_then(Pid::from_raw)?;
        let line = fs::read(path.join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
    });
    pids.filter(|(_, line)| line.contains(dir.to_str().unwrap())).collect()
}

#[test]
fn ctrl_c_ends_a_build_cleanly() {
    type Moment = fn(&Path) -> bool;
    // A build that has a scratch directory has caught the signals before.
    let at_work = |v1: &Path| v1.join("work").read_dir().is_ok_and(|mut dir| dir.next().is_some());
    let moments: [(&str, Moment); 4] = [
        ("first work", |_| true),
        ("packages unpacked", |v1| v1.join("stages/data-tar").exists()),
        ("initramfs done", |v1| v1.join("stages/initramfs").exists()),
        ("root done", |v1| v1.join("stages/root").exists()),
    ];
    let place = TINY.cold();
    for (name, reached) in moments {
        let mut command = place.build();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let is_time = || reached(&place.v1()) && at_work(&place.v1());
        while !is_time() && !ended_within(&child, Duration::from_millis(5)) {}
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let found = ran(child.wait_with_output().unwrap());
        assert_eq!(
            found,
            (Some(130), String::new(), "interrupted; nothing was written\n".to_string()),
            "{name}"
        );
        assert_eq!(names(&place.v1().join("work")), [""; 0], "{name}");
        assert!(!place.out().exists() || names(&place.out()).is_empty(), "{name}");
    }
    place.builds_the_same();
}
