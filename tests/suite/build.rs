//! Whole builds by the real program: what they publish, that nothing of the
//! circumstances reaches it, and what becomes of a build that cannot finish.
//!
//! Every build here is of profiles/tiny, without a network: its packages come
//! from a snapshot that is taken once a run. Needs xorriso, squashfs-tools, xz,
//! cpio, mtools, dosfstools, fdisk, faketime, and the right to make a mount namespace.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use liveiso::host::Tool;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

use crate::support::{Ran, liveiso, profile, ran, tiny};

const STEM: &str = "tiny-1.0-i386";
const ARTIFACTS: [&str; 5] = [".iso", ".iso.sha256", ".manifest.json", ".packages.txt", ".files.txt"];

/// Output of an independent program.
fn output(program: &str, words: &[&OsStr]) -> String {
    String::from_utf8(Tool::new(program, "tests").unwrap().args(words).output().unwrap()).unwrap()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn sha256(path: &Path) -> String {
    output("sha256sum", &["-b".as_ref(), path.as_ref()])[..64].to_string()
}

/// A cache with tiny's packages and what was resolved, and no stage: the same for every build of this run.
fn packages() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let manifest = json(&tiny().with_extension("manifest.json"));
        let home = PathBuf::from(liveiso::host::environment("HOME").unwrap());
        let (from, to) =
            (home.join(".cache/liveiso/v1"), Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages"));
        let _ = fs::remove_dir_all(&to);
        for sub in ["apt", "debs"] {
            fs::create_dir_all(to.join("v1").join(sub)).unwrap();
        }
        for package in
            manifest["plan"]["packages"].as_object().unwrap().values().flat_map(|v| v.as_array().unwrap())
        {
            let name = format!("debs/{}.deb", package["sha256"].as_str().unwrap());
            fs::copy(from.join(&name), to.join("v1").join(&name)).unwrap();
        }
        for path in
            entries(&from.join("apt")).into_iter().filter(|p| p.to_string_lossy().ends_with(".found.json"))
        {
            fs::copy(&path, to.join("v1/apt").join(path.file_name().unwrap())).unwrap();
        }
        to
    })
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn names(dir: &Path) -> Vec<String> {
    entries(dir).iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_string()).collect()
}

fn copy(from: &Path, to: &Path) {
    output("cp", &["-r".as_ref(), from.as_ref(), to.as_ref()]);
}

/// A directory with a cache and room for artifacts.
struct Place(tempfile::TempDir);

impl Place {
    /// With packages and no stage.
    fn cold() -> Place {
        let place = Place(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        copy(packages(), &place.cache());
        place
    }

    /// With everything the reference build left in its cache.
    fn warm() -> Place {
        let place = Place(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap());
        copy(&reference().0.cache(), &place.cache());
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn cache(&self) -> PathBuf {
        self.path().join("cache")
    }

    fn out(&self) -> PathBuf {
        self.path().join("out")
    }

    /// The arguments of a build of tiny here.
    fn words(&self) -> Vec<String> {
        let word = |path: &Path| path.to_str().unwrap().to_string();
        let (profile, out, cache) = (word(&profile("tiny")), word(&self.out()), word(&self.cache()));
        ["build", "--offline", &profile, "-o", &out, "--cache-dir", &cache].map(str::to_string).to_vec()
    }

    fn build(&self) -> Command {
        liveiso(self.words())
    }

    /// Builds, and compares every artifact and stage with the reference.
    fn builds_the_same(&self) {
        let (code, stdout, stderr) = ran(self.build().output().unwrap());
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(stdout, paths_on_stdout(&self.out()));
        self.is_the_same();
    }

    fn is_the_same(&self) {
        let (place, artifacts) = reference();
        assert_eq!(digests(&self.out()), *artifacts);
        assert_eq!(stages(&self.cache()), stages(&place.cache()));
        assert_eq!(names(&self.cache().join("v1/work")), [""; 0]);
    }

    /// A message without this run's directories.
    fn shown(&self, (code, stdout, stderr): Ran) -> Ran {
        let plain = |text: String| {
            let text = text.replace(self.path().to_str().unwrap(), "DIR");
            match text.split_once("/v1/work/") {
                Some((before, after)) => {
                    format!("{before}/v1/work/WORK{}", &after[after.find('/').unwrap_or(after.len())..])
                }
                None => text,
            }
        };
        (code, plain(stdout), plain(stderr))
    }

    /// Runs a shell script in a mount namespace of its own, with `$PLACE` and
    /// `liveiso` standing for a build of tiny here.
    fn namespace(&self, script: &str) -> Ran {
        let words = self.words().iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let program = env!("CARGO_BIN_EXE_liveiso");
        let script = format!(
            "set -eu\nPLACE='{}'\nliveiso() {{ '{program}' {words}; }}\n{script}",
            self.path().display()
        );
        let kind = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
        let tool = Tool::new("unshare", "tests").unwrap().args([kind, "sh", "-c"]).arg(script);
        self.shown(ran(tool.capture().unwrap()))
    }
}

fn paths_on_stdout(out: &Path) -> String {
    ARTIFACTS.iter().map(|end| format!("{}/{STEM}{end}\n", out.display())).collect()
}

/// SHA-256 of every file in a directory of artifacts.
fn digests(out: &Path) -> BTreeMap<String, String> {
    names(out).into_iter().map(|name| (name.clone(), sha256(&out.join(name)))).collect()
}

/// SHA-256 of every output of every stage, as really found in the files.
fn stages(cache: &Path) -> BTreeMap<String, String> {
    let base = cache.join("v1/stages");
    let keys = entries(&base).into_iter().flat_map(|stage| entries(&stage));
    let files = keys.flat_map(|key| entries(&key));
    files.map(|file| (file.strip_prefix(&base).unwrap().display().to_string(), sha256(&file))).collect()
}

/// One cold build, the measure of all others: where it was, and its artifacts' digests.
fn reference() -> &'static (Place, BTreeMap<String, String>) {
    static REFERENCE: OnceLock<(Place, BTreeMap<String, String>)> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let place = Place::cold();
        let (code, stdout, stderr) = ran(place.build().output().unwrap());
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(stdout, paths_on_stdout(&place.out()));
        let artifacts = digests(&place.out());
        let mut expected: Vec<String> = ARTIFACTS.iter().map(|end| format!("{STEM}{end}")).collect();
        expected.sort();
        assert_eq!(artifacts.keys().cloned().collect::<Vec<_>>(), expected);
        (place, artifacts)
    })
}

#[test]
fn the_artifacts_agree_with_each_other() {
    let (place, artifacts) = reference();
    let out = place.out();
    let iso = out.join(format!("{STEM}.iso"));
    let check = Tool::new("sha256sum", "tests").unwrap().args(["-c", &format!("{STEM}.iso.sha256")]);
    assert_eq!(check.current_dir(&out).output().unwrap(), format!("{STEM}.iso: OK\n").as_bytes());

    let manifest = json(&out.join(format!("{STEM}.manifest.json")));
    let size = fs::metadata(&iso).unwrap().len();
    let recorded = serde_json::json!({ format!("{STEM}.iso"): { "size": size, "sha256": artifacts[&format!("{STEM}.iso")] } });
    assert_eq!(manifest["artifacts"], recorded);
    let host = |text: &str| {
        text.contains(env!("CARGO_MANIFEST_DIR")) || text.contains("http") || text.contains("file:")
    };
    assert!(!host(&manifest.to_string()), "{manifest}");

    let medium = place.path().join("medium");
    extract(&iso, &medium);
    for (name, path) in [
        ("airootfs.sfs", "liveiso/i386/airootfs.sfs"),
        ("initrd.img", "liveiso/boot/i386/initrd.img"),
        ("vmlinuz", "liveiso/boot/i386/vmlinuz"),
    ] {
        let recorded = &manifest["images"][name];
        let path = medium.join(path);
        assert_eq!(recorded["sha256"], *sha256(&path), "{name}");
        assert_eq!(recorded["size"], fs::metadata(&path).unwrap().len(), "{name}");
    }
    let id = manifest["build-id"].as_str().unwrap();
    assert_eq!(fs::read_to_string(medium.join(format!("liveiso/{id}.id"))).unwrap(), format!("{id}\n"));

    let mut packages: Vec<String> = manifest["plan"]["packages"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|list| list.as_array().unwrap())
        .map(|p| ["name", "version", "arch"].map(|key| p[key].as_str().unwrap()).join(" "))
        .collect();
    packages.sort();
    packages.dedup();
    let listed = fs::read_to_string(out.join(format!("{STEM}.packages.txt"))).unwrap();
    assert_eq!(listed.lines().collect::<Vec<_>>(), packages);

    the_root_is_what_was_listed(&medium.join("liveiso/i386/airootfs.sfs"), &out);
    the_initramfs_is_complete(&medium.join("liveiso/boot/i386/initrd.img"), id);
    the_medium_starts_everywhere(&iso, place.path(), &manifest);
}

fn extract(iso: &Path, to: &Path) {
    let words = ["-no_rc", "-osirrox", "on", "-indev"].map(OsStr::new);
    let words = [&words[..], &[iso.as_ref(), "-extract".as_ref(), "/".as_ref(), to.as_ref()]].concat();
    output("xorriso", &words);
}

/// Owners and modes of the squashfs as unsquashfs reads them, and its names against files.txt.
fn the_root_is_what_was_listed(image: &Path, out: &Path) {
    let listing = output("unsquashfs", &["-lln".as_ref(), image.as_ref()]);
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    let mut found = Vec::new();
    for line in listing.lines() {
        let mut words = line.splitn(2, " 0/0 ");
        let (mode, rest) = (words.next().unwrap(), words.next().unwrap_or_else(|| panic!("owner: {line}")));
        *kinds.entry(mode).or_default() += 1;
        let name = &rest[rest.find("squashfs-root").unwrap() + "squashfs-root".len()..];
        found.push(name.split(" -> ").next().unwrap().to_string());
    }
    let kinds: Vec<&str> = kinds.into_keys().collect();
    assert_eq!(kinds, ["-rw-r--r--", "-rwxr-xr-x", "drwxr-xr-x", "lrwxrwxrwx"]);
    found.retain(|name| !name.is_empty());
    found.sort();
    let text = fs::read_to_string(out.join(format!("{STEM}.files.txt"))).unwrap();
    let mut listed: Vec<&str> = text.lines().map(|line| line.rsplit_once(" [").unwrap().0).collect();
    listed.sort_unstable();
    assert_eq!(found, listed);
}

/// The initramfs as xz and cpio read it: the base, then the archive with the id.
fn the_initramfs_is_complete(image: &Path, id: &str) {
    let bytes = fs::read(image).unwrap();
    let start = bytes.windows(6).rposition(|w| w == b"070701").unwrap();
    let first = bytes.windows(6).position(|w| w == b"070701").unwrap();
    assert!(first % 512 == 0 && first < start, "the second archive begins at {first}");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tail"), &bytes[first..]).unwrap();
    fs::write(dir.path().join("base.xz"), &bytes[..first]).unwrap();
    let listed = |script: &str| {
        let tool = Tool::new("sh", "tests").unwrap().args(["-euc", script]).current_dir(dir.path());
        String::from_utf8(tool.output().unwrap()).unwrap()
    };
    assert_eq!(listed("cpio --quiet -t < tail"), ".\netc\netc/liveiso\netc/liveiso/id\n.complete\n");
    assert_eq!(listed("cpio --quiet -i --to-stdout etc/liveiso/id < tail"), format!("{id}\n"));
    let base = listed("xz --single-stream -dc base.xz | cpio --quiet -t");
    for name in ["init", "bin/busybox", "bin/sh", "sbin/modprobe", "dev/console", "etc/liveiso/medium"] {
        assert!(base.lines().any(|line| line == name), "{name}");
    }
    let medium = listed("xz --single-stream -dc base.xz | cpio --quiet -i --to-stdout etc/liveiso/medium");
    assert_eq!(medium, "INSTALL_DIR=liveiso\nIMAGE=i386/airootfs.sfs\nVOLUME=TINY\n");
}

/// The MBR, El Torito and the EFI system partition.
fn the_medium_starts_everywhere(iso: &Path, dir: &Path, manifest: &Value) {
    let table: Value = serde_json::from_str(&output("sfdisk", &["-J".as_ref(), iso.as_ref()])).unwrap();
    let table = &table["partitiontable"];
    assert_eq!(table["label"], "dos");
    let rows = table["partitions"].as_array().unwrap();
    let of = |key: &str| rows.iter().map(|row| row[key].clone()).collect::<Vec<_>>();
    assert_eq!((of("type"), of("bootable")), (vec!["0".into(), "ef".into()], vec![true.into(), Value::Null]));

    let words = ["-no_rc", "-report_about", "FAILURE", "-indev"].map(OsStr::new);
    let words = [&words[..], &[iso.as_ref(), "-report_el_torito".as_ref(), "plain".as_ref()]].concat();
    let report = output("xorriso", &words);
    let images: Vec<Vec<&str>> = report
        .lines()
        .filter_map(|line| line.strip_prefix("El Torito boot img :"))
        .map(|line| line.split_whitespace().take(4).collect())
        .collect();
    assert_eq!(images, [["1", "BIOS", "y", "none"], ["2", "UEFI", "y", "none"]]);

    let (start, size) = (rows[1]["start"].as_u64().unwrap() * 512, rows[1]["size"].as_u64().unwrap() * 512);
    let bytes = fs::read(iso).unwrap();
    let esp = dir.join("esp");
    fs::write(&esp, &bytes[start as usize..(start + size) as usize]).unwrap();
    assert_eq!(manifest["images"]["efiboot.img"]["sha256"], *sha256(&esp));
    output("fsck.fat", &["-n".as_ref(), esp.as_ref()]);
    let files = output("mdir", &["-/".as_ref(), "-b".as_ref(), "-i".as_ref(), esp.as_ref(), "::".as_ref()]);
    for name in ["::/EFI/BOOT/BOOTX64.EFI", "::/EFI/BOOT/BOOTIA32.EFI"] {
        assert!(files.lines().any(|line| line == name), "{files}");
    }
}

/// Copies a directory, making what it holds in reverse order; tmpfs then lists it the other way round.
fn copy_backwards(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for path in entries(from).into_iter().rev() {
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

#[test]
fn nothing_of_the_circumstances_reaches_a_byte() {
    // Another directory, file order, user, home, umask, time zone, language, clock and number of jobs.
    let place = Place::cold();
    let far = tempfile::tempdir_in("/dev/shm").unwrap();
    copy_backwards(&profile("tiny"), &far.path().join("x"));
    let program = place.path().join("liveiso");
    fs::copy(env!("CARGO_BIN_EXE_liveiso"), &program).unwrap();
    let script = r#"
        umask 077
        cd "$FAR"
        exec faketime '2031-02-03 04:05:06' "$PLACE/liveiso" build --offline --jobs 1 x -o "$PLACE/out" --cache-dir "$PLACE/cache"
    "#;
    let root = rustix::process::geteuid().is_root();
    let mut tool = Tool::new(if root { "setpriv" } else { "env" }, "tests").unwrap();
    if root {
        let owner: &[&OsStr] =
            &["-R".as_ref(), "65534:65534".as_ref(), place.path().as_ref(), far.path().as_ref()];
        output("chown", owner);
        tool = tool.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        open_way(place.path());
    }
    let tool = tool.args(["sh", "-euc", script]).env("HOME", far.path()).env("PLACE", place.path());
    let tool = tool.env("FAR", far.path()).env("TZ", "Pacific/Kiritimati").env("LC_ALL", "de_DE.UTF-8");
    let (code, stdout, stderr) = ran(tool.capture().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, paths_on_stdout(&place.out()));
    place.is_the_same();

    // A cache that has everything, another number of jobs, then one that has half of it.
    let place = Place::warm();
    let mut command = place.build();
    let (code, _, stderr) = ran(command.args(["--jobs", "4"]).output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    place.is_the_same();
    for stage in ["root", "iso"] {
        fs::remove_dir_all(place.cache().join("v1/stages").join(stage)).unwrap();
    }
    for entry in entries(&place.cache().join("v1/stages/data-tar")).iter().step_by(2) {
        fs::remove_dir_all(entry).unwrap();
    }
    fs::remove_dir_all(place.out()).unwrap();
    let mut command = place.build();
    let (code, _, stderr) = ran(command.args(["--jobs", "4"]).output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    place.is_the_same();
}

/// Lets other users reach a directory below this one's temporary directory.
fn open_way(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Waits for the end of a process, at most this long; returns whether it ended.
fn ended_within(child: &Child, time: Duration) -> bool {
    let pid = Pid::from_child(child);
    let process = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let limit = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).unwrap() == 1
}

/// Every artifact with its final name is complete and right.
fn nothing_partial(out: &Path) {
    let (_, artifacts) = reference();
    if !out.exists() {
        return;
    }
    for name in names(out).into_iter().filter(|name| !name.starts_with(".liveiso-")) {
        assert_eq!(artifacts.get(&name), Some(&sha256(&out.join(&name))), "{name}");
    }
}

/// How often a build is killed: LIVEISO_KILLS, else 10.
fn kills() -> u32 {
    let wanted = liveiso::host::environment("LIVEISO_KILLS");
    wanted.map_or(10, |text| text.to_str().unwrap().parse().unwrap())
}

#[test]
#[ignore = "takes more than four minutes; run it with `cargo test --release a_killed_build -- --ignored`"]
fn a_killed_build_leaves_nothing_that_could_be_taken_for_a_result() {
    let mut place = Place::cold();
    let started = Instant::now();
    place.builds_the_same();
    let whole = started.elapsed().as_secs_f64();
    place = Place::cold();
    // The linear congruential generator of POSIX: the same moments, relative to a whole build, every time.
    let mut state = 20_261_121_u32;
    let mut killed = 0;
    while killed < kills() {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12345);
        let moment = Duration::from_secs_f64(whole * f64::from(state >> 16) / 65536.0);
        let mut child = place.build().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        if ended_within(&child, moment) {
            assert!(child.wait().unwrap().success());
            place.builds_the_same();
            place = Place::cold();
        } else {
            child.kill().unwrap();
            child.wait().unwrap();
            killed += 1;
            nothing_partial(&place.out());
        }
    }
    place.builds_the_same();
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
    reference();
    let place = Place::cold();
    for (name, reached) in moments {
        let mut command = place.build();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let v1 = place.cache().join("v1");
        let is_time = || reached(&v1) && at_work(&v1);
        while !is_time() && !ended_within(&child, Duration::from_millis(5)) {}
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let found = ran(child.wait_with_output().unwrap());
        assert_eq!(
            found,
            (Some(130), String::new(), "interrupted; nothing was written\n".to_string()),
            "{name}"
        );
        assert_eq!(names(&place.cache().join("v1/work")), [""; 0], "{name}");
        assert!(!place.out().exists() || names(&place.out()).is_empty(), "{name}");
    }
    place.builds_the_same();
}

#[test]
fn damaged_cache_entries_are_made_anew() {
    let flip = |file: &Path| {
        let mut bytes = fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        fs::write(file, bytes).unwrap();
    };
    for stage in ["iso", "initramfs", "root", ""] {
        let place = Place::warm();
        for file in
            entries(&place.cache().join("v1/stages").join(stage)).iter().flat_map(|dir| files_below(dir))
        {
            flip(&file);
        }
        // A stage is read only by one that has to be made.
        if stage != "iso" {
            fs::remove_dir_all(place.cache().join("v1/stages/iso")).unwrap();
        }
        place.builds_the_same();
    }
}

/// Damaged archives stay unnoticed where the block cache has all that is in them, and are noticed where not.
#[test]
fn a_changed_overlay_reads_the_packages_only_where_it_must() {
    let build = |place: &Place| {
        let changed = place.path().join("profile");
        copy(&profile("tiny"), &changed);
        // Whole blocks: a tail would share its block with those of the kernel's modules.
        fs::write(changed.join("airootfs/changed"), vec![b'x'; 1 << 20]).unwrap();
        let words = place.words().into_iter();
        let shipped = profile("tiny").to_str().unwrap().to_string();
        let words = words.map(|w| if w == shipped { changed.to_str().unwrap().to_string() } else { w });
        let (code, _, stderr) = ran(liveiso(words).output().unwrap());
        assert_eq!(code, Some(0), "{stderr}");
        digests(&place.out())
    };
    let expected = build(&Place::warm());
    assert_ne!(expected, reference().1);
    for has_blocks in [true, false] {
        let place = Place::warm();
        let cache = place.cache().join("v1");
        let mut archives: Vec<(u64, PathBuf)> = entries(&cache.join("stages/data-tar"))
            .iter()
            .map(|entry| entry.join("data.tar"))
            .map(|path| (fs::metadata(&path).unwrap().len(), path))
            .collect();
        archives.sort();
        for (length, path) in &archives {
            fs::write(path, vec![0x55; *length as usize]).unwrap();
        }
        if !has_blocks {
            fs::remove_dir_all(cache.join("blocks")).unwrap();
        }
        assert_eq!(build(&place), expected);
        // The kernel's, of which the medium itself needs nothing.
        let (_, largest) = archives.last().unwrap();
        let is_damaged_still = fs::read(largest).unwrap().starts_with(&[0x55; 512]);
        assert_eq!(is_damaged_still, has_blocks);
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let below = entries(dir).into_iter();
    below.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn failed(code: i32, stderr: &str) -> Ran {
    (Some(code), String::new(), stderr.to_string())
}

#[test]
fn a_full_disk_is_named_and_room_helps() {
    let place = Place::warm();
    let found = place.namespace(
        "mkdir $PLACE/out; mount -t tmpfs -o size=32m t $PLACE/out\n\
         liveiso && exit 9 || code=$?\n\
         ls -A $PLACE/out\n\
         mount -o remount,size=512m $PLACE/out; liveiso > $PLACE/paths 2>/dev/null; sha256sum < $PLACE/out/tiny-1.0-i386.iso > $PLACE/sum\n\
         exit $code",
    );
    assert_eq!(
        found,
        failed(
            1,
            "error: cannot build tiny-1.0-i386.iso\n  caused by: writing DIR/out/tiny-1.0-i386.iso\n  \
             caused by: No space left on device (os error 28)\n"
        )
    );
    let (_, artifacts) = reference();
    assert_eq!(
        fs::read_to_string(place.path().join("sum")).unwrap()[..64],
        artifacts[&format!("{STEM}.iso")]
    );
}

#[test]
fn a_full_cache_disk_is_named_and_room_helps() {
    reference();
    let place = Place::cold();
    let found = place.namespace(
        "mv $PLACE/cache $PLACE/had; mkdir $PLACE/cache; mount -t tmpfs -o size=100m t $PLACE/cache\n\
         cp -r $PLACE/had/v1 $PLACE/cache/\n\
         liveiso && exit 9 || code=$?\n\
         ls -A $PLACE/cache/v1/work; ls -A $PLACE/out 2>/dev/null || true\n\
         mount -o remount,size=2g $PLACE/cache; liveiso > $PLACE/paths 2>/dev/null\n\
         exit $code",
    );
    let (code, stdout, stderr) = found;
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.starts_with("error: cannot build tiny-1.0-i386.iso\n  caused by: "), "{stderr}");
    assert!(stderr.ends_with("  caused by: No space left on device (os error 28)\n"), "{stderr}");
    assert_eq!(digests(&place.out()), reference().1);
}

#[test]
fn an_output_directory_that_cannot_be_written_is_named() {
    let place = Place::warm();
    fs::write(place.out(), "mine").unwrap();
    let found = place.shown(ran(place.build().output().unwrap()));
    assert_eq!(
        found,
        failed(
            1,
            "error: cannot build tiny-1.0-i386.iso\n  caused by: the output directory DIR/out is not a directory; \
             name another one with --out\n"
        )
    );
    assert_eq!(fs::read_to_string(place.out()).unwrap(), "mine");

    fs::remove_file(place.out()).unwrap();
    let found = place.namespace(
        "mkdir $PLACE/out; mount -t tmpfs -o ro t $PLACE/out; liveiso && exit 9 || code=$?\n\
         ls -A $PLACE/out; exit $code",
    );
    assert_eq!(
        found,
        failed(
            1,
            "error: cannot build tiny-1.0-i386.iso\n  caused by: creating a file in DIR/out\n  \
             caused by: Read-only file system (os error 30)\n"
        )
    );
    place.builds_the_same();
}

#[test]
fn a_missing_tool_is_named_with_its_package() {
    let place = Place::warm();
    fs::remove_dir_all(place.cache().join("v1/stages/iso")).unwrap();
    let found = place.namespace(
        "mount --bind /dev/null \"$(command -v xorriso)\"; liveiso && exit 9 || code=$?\n\
         ls -A $PLACE/cache/v1/work; ls -A $PLACE/out 2>/dev/null || true; exit $code",
    );
    assert_eq!(
        found,
        failed(
            1,
            "error: cannot build tiny-1.0-i386.iso\n  caused by: writing the ISO\n  \
             caused by: writing DIR/cache/v1/work/WORK/medium.iso\n  caused by: xorriso is not installed, but is needed for writing the ISO; install it with \
             `sudo apt-get install xorriso`\n"
        )
    );
    place.builds_the_same();
}

#[test]
fn a_mirror_that_does_not_answer_is_named() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody listens on the port of a listener that is gone.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let text = format!("iso-name = \"x\"\n[debian]\nmirror = \"http://127.0.0.1:{port}/debian\"\n");
    fs::write(dir.path().join("profile.toml"), text).unwrap();
    let words: [&OsStr; 6] = [
        "build".as_ref(),
        dir.path().as_ref(),
        "-o".as_ref(),
        &dir.path().join("out").into_os_string(),
        "--cache-dir".as_ref(),
        &dir.path().join("cache").into_os_string(),
    ];
    let (code, stdout, stderr) = ran(liveiso(words).output().unwrap());
    let stderr = stderr.replace(&format!(":{port}"), ":PORT");
    let expected = "error: suite bookworm of http://127.0.0.1:PORT/debian: the mirror does not answer (Could not \
                    connect to 127.0.0.1:PORT (127.0.0.1). - connect (111: Connection refused)); check the network, \
                    the proxy settings of apt, and the mirror's name\n";
    assert_eq!((code, stdout, stderr), failed(4, expected));
    assert!(!dir.path().join("out").exists());
}
