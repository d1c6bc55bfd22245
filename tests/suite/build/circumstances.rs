//! Nothing of the circumstances of a build reaches a byte, and its time comes
//! from where it is said to come from.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use liveiso::host::Tool;

use super::{ARTIFACTS, Place, QUICK, TINY, copy, digests, entries, json, names, open_way, output};
use crate::support::{liveiso, ran};

/// Copies a directory, making what it holds in the order in which it is listed; tmpfs then lists it the
/// other way round.
fn copy_backwards(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for path in listed(from) {
        let target = to.join(path.file_name().unwrap());
        if path.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&path).unwrap(), target).unwrap();
        } else if path.is_dir() {
            copy_backwards(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Names in the order in which the file system lists them.
fn listed(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Builds `$FAR/x` for another user, in another directory, at another time, with one of the CPUs.
/// xorriso gets a cleaned environment, so its clock is changed by a program of its name.
const ELSEWHERE: &str = r#"
    umask 077
    cd "$FAR"
    mkdir bin home
    printf '#!/bin/sh\nexec faketime "2007-08-09 10:11:12" %s "$@"\n' "$(command -v xorriso)" > bin/xorriso
    chmod +x bin/xorriso
    export PATH="$FAR/bin:$PATH" HOME="$FAR/home" USER=nobody LOGNAME=nobody
    export TZ=Pacific/Kiritimati LC_ALL=de_DE.UTF-8 LANGUAGE=de LANG=tr_TR.ISO-8859-9
    cpu=$(taskset -pc $$ | sed 's/.*: *//; s/[-,].*//')
    exec taskset -c "$cpu" prlimit --nofile=64 faketime '2031-02-03 04:05:06' \
        "$PLACE/liveiso" build --offline --jobs 1 x -o "$PLACE/out" --cache-dir "$PLACE/cache"
"#;

#[test]
fn nothing_of_the_circumstances_reaches_a_byte() {
    let place = TINY.cold();
    let far = tempfile::tempdir_in("/dev/shm").unwrap();
    let profile = far.path().join("x");
    copy_backwards(&TINY.profile, &profile);
    let (there, here) = (listed(&profile.join("airootfs/etc")), listed(&TINY.profile.join("airootfs/etc")));
    assert_eq!(there.len(), here.len());
    assert!(there.iter().zip(&here).any(|(a, b)| a.file_name() != b.file_name()), "the order is another one");
    fs::copy(env!("CARGO_BIN_EXE_liveiso"), place.path().join("liveiso")).unwrap();
    let root = rustix::process::geteuid().is_root();
    let mut tool = Tool::new(if root { "setpriv" } else { "env" }, "tests").unwrap();
    if root {
        let owner: &[&OsStr] =
            &["-R".as_ref(), "65534:65534".as_ref(), place.path().as_ref(), far.path().as_ref()];
        output("chown", owner);
        tool = tool.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        open_way(place.path());
    }
    let tool = tool.args(["sh", "-euc", ELSEWHERE]).env("PLACE", place.path()).env("FAR", far.path());
    let (code, stdout, stderr) = ran(tool.capture().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, place.paths_on_stdout());
    place.is_the_same();

    // A cache that has everything, another number of jobs, then one that has half of it.
    let place = TINY.warm();
    builds_with_four_jobs(&place);
    for stage in ["root", "iso"] {
        fs::remove_dir_all(place.v1().join("stages").join(stage)).unwrap();
    }
    for entry in entries(&place.v1().join("stages/data-tar")).iter().step_by(2) {
        fs::remove_dir_all(entry).unwrap();
    }
    for pack in entries(&place.v1().join("blocks")) {
        fs::remove_file(pack).unwrap();
    }
    fs::remove_dir_all(place.out()).unwrap();
    builds_with_four_jobs(&place);
}

fn builds_with_four_jobs(place: &Place) {
    let (code, _, stderr) = ran(place.build().args(["--jobs", "4"]).output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    place.is_the_same();
}

/// The timestamp of the plan, after comparing it with that of the root image, as squashfs-tools read it.
fn time_of(out: &Path, dir: &Path) -> i64 {
    let file = |end: &str| out.join(format!("{}{end}", QUICK.stem));
    let image = dir.join("airootfs.sfs");
    let words = ["-no_rc", "-osirrox", "on", "-indev"].map(OsStr::new);
    let (iso, from) = (file(ARTIFACTS[0]), OsStr::new("/liveiso/i386/airootfs.sfs"));
    output("xorriso", &[&words[..], &[iso.as_ref(), "-extract".as_ref(), from, image.as_ref()]].concat());
    let found = output("unsquashfs", &["-fstime".as_ref(), image.as_ref()]);
    fs::remove_file(image).unwrap();
    let planned = json(&file(ARTIFACTS[2]))["plan"]["timestamp"].as_i64().unwrap();
    assert_eq!(found, format!("{planned}\n"));
    planned
}

#[test]
fn the_time_is_that_of_source_date_epoch_else_that_of_the_lock() {
    const LOCKED: i64 = 1_580_702_706;
    let place = QUICK.unpacked();
    let profile = place.path().join("p");
    copy(&QUICK.profile, &profile);
    let build = |place: &Place, profile: &Path, name: &str, epoch: Option<i64>| {
        let out = place.path().join(name);
        let mut command = liveiso(["build", "--offline", "-o"]);
        command.arg(&out).arg(profile).arg("--cache-dir").arg(place.cache());
        command.envs(epoch.map(|epoch| ("SOURCE_DATE_EPOCH", epoch.to_string())));
        let (code, _, stderr) = ran(command.output().unwrap());
        assert_eq!(code, Some(0), "{stderr}");
        out
    };
    let mut lock = liveiso(["lock", "--offline"]);
    let (code, _, stderr) = ran(lock.arg(&profile).arg("--cache-dir").arg(place.cache()).output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    let text = fs::read_to_string(profile.join("liveiso.lock")).unwrap();
    let reference = TimeAndDigests::of(&QUICK.reference().place.out(), place.path());
    assert_eq!(TimeAndDigests::of(&build(&place, &profile, "locked", None), place.path()), reference);

    let line = text.lines().find(|line| line.starts_with("timestamp = ")).unwrap();
    let moved = text.replace(line, "timestamp = 2020-02-03T04:05:06Z");
    fs::write(profile.join("liveiso.lock"), moved).unwrap();
    let locked = TimeAndDigests::of(&build(&place, &profile, "moved", None), place.path());
    assert_eq!(locked.time, LOCKED);
    // Another cache, no lock.
    let other = QUICK.unpacked();
    let given = build(&other, &QUICK.profile, "given", Some(LOCKED));
    assert_eq!(TimeAndDigests::of(&given, other.path()), locked);
    // The environment before the lock.
    let both = TimeAndDigests::of(&build(&place, &profile, "both", Some(1_300_000_000)), place.path());
    assert_eq!(both.time, 1_300_000_000);
    let [a, b, c] = [&reference, &locked, &both].map(|found| &found.marker);
    assert!(a != b && b != c && a != c, "different builds share no id: {a} {b} {c}");
}

/// What a build was dated, its marker's name, and its artifacts.
#[derive(Debug, PartialEq)]
struct TimeAndDigests {
    time: i64,
    marker: String,
    digests: std::collections::BTreeMap<String, String>,
}

impl TimeAndDigests {
    fn of(out: &Path, dir: &Path) -> TimeAndDigests {
        let manifest = json(&out.join(format!("{}{}", QUICK.stem, ARTIFACTS[2])));
        assert_eq!(names(out).len(), ARTIFACTS.len());
        TimeAndDigests {
            time: time_of(out, dir),
            marker: manifest["build-id"].as_str().unwrap().to_string(),
            digests: digests(out),
        }
    }
}
