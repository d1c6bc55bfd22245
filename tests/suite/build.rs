//! Whole builds by the real program, without a network: their packages come from
//! a snapshot that is taken once a run. [`TINY`] is profiles/tiny; [`QUICK`] is as
//! much of it as a build needs that is done many times.
//!
//! Needs xorriso, squashfs-tools, xz, cpio, mtools, dosfstools, fdisk, faketime,
//! and the right to make a mount namespace.

mod artifacts;
mod circumstances;
mod failures;
pub mod killed;
mod unprivileged;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{LazyLock, OnceLock};
use std::time::{Duration, Instant};

use liveiso::host::Tool;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use crate::support::{Ran, liveiso, profile, ran, tiny};

const ARTIFACTS: [&str; 5] = [".iso", ".iso.sha256", ".manifest.json", ".packages.txt", ".files.txt"];

/// A profile, and one cold build of it, the measure of all others.
struct Subject {
    profile: PathBuf,
    stem: &'static str,
    reference: OnceLock<Reference>,
}

struct Reference {
    place: Place,
    /// SHA-256 of every artifact.
    artifacts: BTreeMap<String, String>,
    /// SHA-256 of every output of every stage.
    stages: BTreeMap<String, String>,
    took: Duration,
}

static TINY: LazyLock<Subject> =
    LazyLock::new(|| Subject { profile: profile("tiny"), stem: "tiny-1.0-i386", reference: OnceLock::new() });

static QUICK: LazyLock<Subject> = LazyLock::new(|| Subject {
    profile: written_profile(
        "quick",
        "iso-name = \"quick\"\niso-version = \"1\"\npackages = [\"busybox-static\"]\n[root]\nmode = \"unpacked\"\n\
         exclude = [\"/usr/lib/modules/*/kernel/{drivers,net,sound}/**\"]\n\
         [initramfs]\ndefault-modules = false\ncompression = \"zstd\"\nmodules = [\"isofs\", \"loop\", \"overlay\", \"squashfs\"]\n",
    ),
    stem: "quick-1-i386",
    reference: OnceLock::new(),
});

/// A profile of one file, the same for the whole run.
fn written_profile(name: &str, text: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("profiles").join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("profile.toml"), text).unwrap();
    dir
}

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

/// The cache that every test shares, version 1.
fn shared_cache() -> PathBuf {
    PathBuf::from(liveiso::host::environment("HOME").unwrap()).join(".cache/liveiso/v1")
}

/// A cache with tiny's packages and what was resolved, and no stage; a later run adds to it.
fn packages() -> &'static Path {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    PLACE.get_or_init(|| {
        let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
        snapshot(tiny(), &to);
        to
    })
}

/// Copies the packages of a build in the shared cache, and all that was ever resolved, to a cache of its own.
/// Files appear whole there, for other runs.
fn snapshot(iso: &Path, to: &Path) {
    let (from, to) = (shared_cache(), to.join("v1"));
    for sub in ["apt", "debs"] {
        fs::create_dir_all(to.join(sub)).unwrap();
    }
    let manifest = json(&iso.with_extension("manifest.json"));
    let packages = manifest["plan"]["packages"].as_object().unwrap().values();
    for package in packages.flat_map(|list| list.as_array().unwrap()) {
        let name = format!("debs/{}.deb", package["sha256"].as_str().unwrap());
        if !to.join(&name).exists() {
            copy_whole(&from.join(&name), &to.join(&name));
        }
    }
    let resolved = |path: &PathBuf| path.to_string_lossy().ends_with(".found.json");
    for path in entries(&from.join("apt")).into_iter().filter(resolved) {
        copy_whole(&path, &to.join("apt").join(path.file_name().unwrap()));
    }
}

fn copy_whole(from: &Path, to: &Path) {
    let mut new = tempfile::NamedTempFile::new_in(to.ancestors().nth(3).unwrap()).unwrap();
    std::io::copy(&mut fs::File::open(from).unwrap(), &mut new).unwrap();
    fs::set_permissions(new.path(), fs::Permissions::from_mode(0o644)).unwrap();
    new.persist(to).unwrap();
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

impl Subject {
    /// A place with packages and no stage.
    fn cold(&'static self) -> Place {
        let place = Place::new(self);
        copy(packages(), &place.cache());
        place
    }

    /// A place with everything the reference build left in its cache.
    fn warm(&'static self) -> Place {
        let place = Place::new(self);
        copy(&self.reference().place.cache(), &place.cache());
        place
    }

    /// A cold place, but for the packages: they are unpacked.
    fn unpacked(&'static self) -> Place {
        let place = self.cold();
        fs::create_dir(place.v1().join("stages")).unwrap();
        copy(&self.reference().place.v1().join("stages/data-tar"), &place.v1().join("stages"));
        place
    }

    fn reference(&'static self) -> &'static Reference {
        self.reference.get_or_init(|| {
            let place = self.cold();
            let started = Instant::now();
            let (code, stdout, stderr) = ran(place.build().output().unwrap());
            let took = started.elapsed();
            assert_eq!(code, Some(0), "{stderr}");
            assert_eq!(stdout, place.paths_on_stdout());
            let artifacts = digests(&place.out());
            let mut expected = ARTIFACTS.map(|end| format!("{}{end}", self.stem));
            expected.sort();
            assert!(artifacts.keys().eq(&expected), "{artifacts:?}");
            let stages = stages(&place.cache());
            Reference { place, artifacts, stages, took }
        })
    }
}

/// A directory with a cache and room for artifacts.
struct Place {
    dir: tempfile::TempDir,
    subject: &'static Subject,
}

impl Place {
    fn new(subject: &'static Subject) -> Place {
        Place { dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(), subject }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn cache(&self) -> PathBuf {
        self.path().join("cache")
    }

    fn v1(&self) -> PathBuf {
        self.cache().join("v1")
    }

    fn out(&self) -> PathBuf {
        self.path().join("out")
    }

    /// The arguments of a build here.
    fn words(&self) -> Vec<String> {
        let word = |path: &Path| path.to_str().unwrap().to_string();
        let (profile, out, cache) = (word(&self.subject.profile), word(&self.out()), word(&self.cache()));
        ["build", "--offline", &profile, "-o", &out, "--cache-dir", &cache].map(str::to_string).to_vec()
    }

    fn build(&self) -> Command {
        liveiso(self.words())
    }

    fn paths_on_stdout(&self) -> String {
        ARTIFACTS.iter().map(|end| format!("{}/{}{end}\n", self.out().display(), self.subject.stem)).collect()
    }

    /// Builds, and compares every artifact and stage with the reference.
    fn builds_the_same(&self) {
        self.finishes();
        self.is_the_same();
    }

    /// Builds, and compares every artifact with the reference.
    fn finishes(&self) {
        let (code, stdout, stderr) = ran(self.build().output().unwrap());
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(stdout, self.paths_on_stdout());
        assert_eq!(digests(&self.out()), self.subject.reference().artifacts);
        self.nothing_is_left();
    }

    fn is_the_same(&self) {
        let reference = self.subject.reference();
        assert_eq!(digests(&self.out()), reference.artifacts);
        assert_eq!(stages(&self.cache()), reference.stages);
        self.nothing_is_left();
    }

    /// No scratch file, no temporary name.
    fn nothing_is_left(&self) {
        assert_eq!(names(&self.v1().join("work")), [""; 0]);
        let temporary = |sub: &str, end: &str| {
            let dir = self.v1().join(sub);
            names(&dir).into_iter().filter(|name| !name.ends_with(end)).collect::<Vec<_>>()
        };
        assert_eq!(temporary("blocks", ".pack"), [""; 0]);
        assert_eq!(temporary("apt", ".found.json"), [""; 0]);
        assert_eq!(temporary("debs", ".deb"), [""; 0]);
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

    /// A shell script in a mount namespace of its own, with `$PLACE` and
    /// `liveiso` standing for a build here.
    fn namespace_tool(&self, script: &str) -> Tool {
        let words = self.words().iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let program = env!("CARGO_BIN_EXE_liveiso");
        let script = format!(
            "set -eu\nPLACE='{}'\nliveiso() {{ '{program}' {words}; }}\n{script}",
            self.path().display()
        );
        let kind = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
        Tool::new("unshare", "tests").unwrap().args([kind, "sh", "-c"]).arg(script)
    }

    /// Runs such a script.
    fn namespace(&self, script: &str) -> Ran {
        self.shown(ran(self.namespace_tool(script).capture().unwrap()))
    }
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

/// Lets other users reach a directory below this one's temporary directory.
fn open_way(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Waits for the end of a process, at most this long; returns whether it ended.
pub fn ended_within(child: &Child, time: Duration) -> bool {
    pid_ended_within(Pid::from_child(child), time)
}

/// The same for one that need not be a child, and may have ended before.
fn pid_ended_within(pid: Pid, time: Duration) -> bool {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let limit = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).unwrap() == 1
}
