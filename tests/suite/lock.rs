//! The lock file: its text, what makes it stale, what moves it, what damages it,
//! and builds that need nothing but it and the cache.

mod damaged;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use liveiso::cache::Cache;
use liveiso::diagnostic::Diagnostics;
use liveiso::lock::Lock;
use liveiso::plan::{Arch, Debian, RootMode};
use liveiso::resolve::{
    FindError, FoundPackages, LockUse, NoPlan, Options, PackageRequest, Resolved, resolve_locked,
};
use liveiso::source::{Archive, SecurityPolicy, UnreadArchive, Wanted};

use crate::apt::{Published, real_cache_dir};

/// `gamma` depends on `alpha`; `t-security` is the suite published last.
const PUBLISH: &str = "package delta ''
index t alpha beta gamma delta; release t good ''
release t-security good '' 'Fri, 02 Jan 2026 03:04:05 UTC'";

/// Newer `alpha` and `gamma` besides the old ones.
const UPDATES: &str = "package alpha '' 2-1; package gamma 'Depends: alpha\\n' 2-1
index t-security alpha_2-1 gamma_2-1; release t-security good '' 'Sat, 03 Jan 2026 00:00:00 UTC'";

/// A profile in the archive's directory.
struct Profile {
    published: Published,
    cache: Cache,
}

impl Profile {
    fn new(packages: &str) -> Profile {
        let published = Published::new(PUBLISH);
        let profile = Profile { cache: published.cache(), published };
        fs::create_dir(profile.dir()).unwrap();
        profile.write(packages);
        profile
    }

    fn dir(&self) -> PathBuf {
        self.published.0.path().join("p")
    }

    fn write(&self, packages: &str) {
        let text = format!("iso-name = \"x\"\npackages = [{packages}]\n[root]\nmode = \"unpacked\"\n");
        fs::write(self.dir().join("profile.toml"), text).unwrap();
    }

    fn lock_text(&self) -> String {
        fs::read_to_string(self.dir().join("liveiso.lock")).unwrap()
    }

    /// The published archive's answer; it has neither kernel nor loaders, but `alpha` in two roles.
    fn find(
        &self,
        request: &PackageRequest,
        keep: &[&liveiso::plan::Package],
    ) -> anyhow::Result<FoundPackages> {
        let sources = self.published.sources();
        let archive = Archive::open(&self.cache, Arch::I386, &sources, SecurityPolicy::Required)?;
        let initramfs = ["alpha".to_string()];
        let wanted = Wanted {
            root: &request.root,
            mode: RootMode::Unpacked,
            with_dependencies: true,
            kernel: &[],
            loaders: &[],
            initramfs: &initramfs,
        };
        Ok(FoundPackages {
            packages: archive.resolve_keeping(&wanted, keep)?,
            released: Some(archive.released()),
            debian: Debian {
                suite: "bookworm".to_string(),
                sources,
                left_out: vec!["t-updates: \"no\" mirror".to_string()],
            },
        })
    }

    /// Messages, and what was resolved.
    fn resolve(&self, lock_use: LockUse) -> (String, Option<Resolved>) {
        let find =
            |request: &PackageRequest, keep: &[&_]| self.find(request, keep).map_err(FindError::Failed);
        let mut diagnostics = Diagnostics::default();
        let result = resolve_locked(&self.dir(), &Options::new(None), lock_use, find, &mut diagnostics);
        let messages = diagnostics.render(false, self.published.0.path());
        match result {
            Ok(resolved) => (messages, Some(resolved)),
            Err(NoPlan::Invalid) => (messages, None),
            Err(NoPlan::Failed(error)) => panic!("{error:#}"),
        }
    }

    /// What an update would change, package by package.
    fn changes(&self, lock_use: LockUse) -> Vec<String> {
        let resolved = self.resolve(lock_use).1.unwrap();
        resolved.old.unwrap().changes(&resolved.lock)
    }

    fn lock(&self) -> Lock {
        let (messages, resolved) = self.resolve(LockUse::Follow);
        assert_eq!(messages, "");
        let lock = resolved.unwrap().lock;
        lock.save(&self.dir()).unwrap();
        lock
    }
}

fn parse(text: &str) -> (Option<Lock>, String) {
    let mut diagnostics = Diagnostics::default();
    let file = diagnostics.add_file(Path::new("p/liveiso.lock"), text.to_string());
    let lock = Lock::parse(text, file, &mut diagnostics);
    assert_eq!(lock.is_none(), diagnostics.has_errors());
    (lock, diagnostics.render(false, Path::new("/")))
}

#[test]
fn a_lock_is_a_sorted_text_that_reads_back() {
    let profile = Profile::new("\"gamma\"");
    let lock = profile.lock();
    let mut text = profile.lock_text();
    assert_eq!(parse(&text).0, Some(lock.clone()));
    let names: BTreeSet<_> =
        fs::read_dir(profile.dir()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, ["liveiso.lock", "profile.toml"].map(String::from).into());

    // xz and dpkg-deb decide the bytes of the packages; everything else is ours.
    text = text.replace(&lock.request, "REQUEST");
    for package in lock.every_package() {
        let (size, sha256) = (format!("size = {}\n", package.size), &package.sha256);
        text = text.replace(&size, "size = SIZE\n").replace(sha256, &format!("SHA256 of {}", package.name));
    }
    assert_eq!(
        text,
        format!(
            r#"# The exact packages of this profile, written by `liveiso lock`.
# Keep it under version control; change it with `liveiso lock PROFILE --update`.
lock-version = 1
request = "REQUEST"
timestamp = 2026-01-02T03:04:05Z
left-out = [
    't-updates: "no" mirror',
]

[[source]]
suite = "t"
components = ["main"]

[[source]]
suite = "t-security"
components = ["main"]

{}
{}"#,
            package("alpha", "\"root\", \"initramfs\"", "SIZE", "SHA256 of alpha"),
            package("gamma", "\"root\"", "SIZE", "SHA256 of gamma"),
        )
    );
}

#[test]
fn a_current_lock_answers_alone_and_a_mirror_does_not_make_it_stale() {
    let profile = Profile::new("\"gamma\"");
    let first = profile.resolve(LockUse::Ignore).1.unwrap().plan;
    profile.lock();
    profile.published.change(UPDATES);
    for (mirror, uris) in [
        ("", ["", ""]),
        ("[debian]\nmirror = \"http://m/debian\"\n", ["http://m/debian", "http://m/debian-security"]),
    ] {
        let path = profile.dir().join("profile.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}{mirror}")).unwrap();
        for lock_use in [LockUse::Follow, LockUse::Frozen] {
            let nobody = |_: &PackageRequest, _: &[&_]| panic!("the archive was asked");
            let mut diagnostics = Diagnostics::default();
            let options = Options::new(None);
            let resolved =
                resolve_locked(&profile.dir(), &options, lock_use, nobody, &mut diagnostics).unwrap();
            assert_eq!(resolved.plan.identity(), first.identity());
            assert_eq!(resolved.plan.debian.sources.iter().map(|s| s.uri.as_str()).collect::<Vec<_>>(), uris);
            assert_eq!(resolved.old, Some(resolved.lock));
            assert!(diagnostics.is_empty());
        }
    }
    assert_eq!(first.timestamp, 1_767_323_045);
}

#[test]
fn only_what_must_or_is_named_moves() {
    let profile = Profile::new("\"gamma\"");
    let (messages, resolved) = profile.resolve(LockUse::Frozen);
    assert!(resolved.is_none());
    assert_eq!(
        messages,
        "error: the profile has no liveiso.lock, and --locked asks for one\n--> p/liveiso.lock\n = help: run `liveiso lock` to write it\n"
    );
    profile.lock();
    let before = profile.lock_text();
    profile.published.change(UPDATES);
    assert_eq!(profile.changes(LockUse::Update(&["gamma".to_string()])), ["changed gamma 1:1-1 -> 1:2-1"]);
    assert_eq!(
        profile.changes(LockUse::Update(&[])),
        ["changed alpha 1:1-1 -> 1:2-1", "changed gamma 1:1-1 -> 1:2-1"]
    );
    let (messages, resolved) = profile.resolve(LockUse::Update(&["gama".to_string()]));
    assert!(resolved.is_none());
    assert_eq!(
        messages,
        "error: package `gama` is not in liveiso.lock\n--> p/liveiso.lock\n = help: did you mean `gamma`?\n"
    );

    // The other six are the loaders and the busybox this archive does not have.
    profile.write("\"gamma\", \"delta\"");
    let (messages, resolved) = profile.resolve(LockUse::Follow);
    assert_eq!(
        messages,
        "warning: liveiso.lock is stale: it lacks `delta` and 6 more\n --> p/profile.toml:2:22\n  |\n2 | packages = [\"gamma\", \"delta\"]\n  |                      ^^^^^^^\n  |\n  = help: it is resolved anew, keeping the versions that the archive still offers\n"
    );
    let resolved = resolved.unwrap();
    assert_eq!(resolved.old.unwrap().changes(&resolved.lock), ["added delta 1:1-1"]);
    assert_eq!(resolved.plan.timestamp, 1_767_398_400);
    let (messages, resolved) = profile.resolve(LockUse::Frozen);
    assert!(resolved.is_none());
    assert!(messages.starts_with(
        "error: liveiso.lock is stale: it lacks `delta` and 6 more\n --> p/profile.toml:2:22\n"
    ));
    assert!(messages.ends_with("= help: run `liveiso lock` to bring it up to date; --locked refuses to\n"));
    assert_eq!(profile.lock_text(), before, "resolving writes nothing");

    // What the index no longer offers cannot be kept together with its dependencies.
    profile
        .published
        .change("index t alpha gamma_2-1 delta; release t good '' 'Sun, 04 Jan 2026 00:00:00 UTC'");
    assert_eq!(profile.changes(LockUse::Follow), ["added delta 1:1-1", "changed gamma 1:1-1 -> 1:2-1"]);
    profile.write("\"delta\"");
    assert_eq!(profile.changes(LockUse::Follow), ["added delta 1:1-1", "removed gamma 1:1-1"]);
}

/// What an earlier answer for the same releases is worth depends on it.
#[test]
fn releases_change_exactly_when_the_archive_does() {
    let published = Published::new(PUBLISH);
    let cache = published.cache();
    let releases = || {
        let sources = published.sources();
        let archive = UnreadArchive::open(&cache, Arch::I386, &sources, SecurityPolicy::Required).unwrap();
        archive.release_digests().unwrap()
    };
    let before = releases();
    assert_eq!(before.len(), 2);
    assert_eq!(releases(), before);
    published.change(UPDATES);
    assert_ne!(releases(), before);
}

#[test]
fn versions_that_no_longer_fit_together_give_way() {
    let profile = Profile::new("\"gamma\"");
    profile.lock();
    profile.published.change(
        "package alpha '' 2-1; package epsilon 'Depends: alpha (>= 1:2-1)\\n'
         index t alpha alpha_2-1 beta gamma epsilon; release t good '' 'Sun, 04 Jan 2026 00:00:00 UTC'",
    );
    profile.write("\"gamma\", \"epsilon\"");
    assert_eq!(profile.changes(LockUse::Follow), ["changed alpha 1:1-1 -> 1:2-1", "added epsilon 1:1-1"]);
}

/// One package of a lock at the version every package of the archive has first.
fn package(name: &str, roles: &str, size: &str, sha256: &str) -> String {
    format!(
        r#"[[package]]
name = "{name}"
version = "1:1-1"
arch = "i386"
source = "{name}"
roles = [{roles}]
suite = "t"
filename = "pool/{name}_1-1_i386.deb"
size = {size}
sha256 = "{sha256}"
"#
    )
}

/// Runs the program, optionally without any network interface that is up.
#[allow(clippy::disallowed_methods, reason = "the program under test is started directly")]
fn liveiso(network: bool, dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let program = env!("CARGO_BIN_EXE_liveiso");
    let mut command = if network {
        std::process::Command::new(program)
    } else {
        let mut command = std::process::Command::new("unshare");
        let root = rustix::process::geteuid().is_root();
        command.args(if root { &["--net"][..] } else { &["--net", "--map-current-user"] }).arg(program);
        command
    };
    let output = command
        .args(arguments)
        .arg("--cache-dir")
        .arg(real_cache_dir())
        .env_remove("SOURCE_DATE_EPOCH")
        .current_dir(dir)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    // Every build says what its initramfs takes and what a firmware reads.
    let figures = ["initramfs: ", "firmware reads "];
    let is_figure = |line: &str| figures.iter().any(|start| line.starts_with(start));
    let said: String =
        stderr.lines().filter(|line| !is_figure(line)).map(|line| format!("{line}\n")).collect();
    (output.status.code(), said)
}

#[test]
fn after_one_build_no_network_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("p")).unwrap();
    let profile = "iso-name = \"x\"\niso-version = \"1\"\npackages = [\"busybox-static\"]\n[root]\nmode = \"unpacked\"\n[debian]\nsecurity = \"none\"\n";
    fs::write(dir.join("p/profile.toml"), profile).unwrap();
    let iso = |out: &str| fs::read(dir.join(out).join("x-1-i386.iso")).unwrap();
    let done = (Some(0), String::new());

    assert_eq!(liveiso(true, dir, &["build", "p", "-o", "first"]), done);
    let first = iso("first");
    assert!(!dir.join("p/liveiso.lock").exists(), "build writes no lock unasked");
    assert_eq!(liveiso(false, dir, &["build", "p", "-o", "offline", "--offline"]), done);
    assert!(iso("offline") == first);
    let (code, stderr) = liveiso(false, dir, &["build", "p", "-o", "unreachable"]);
    assert_eq!(code, Some(4), "the network is reachable: {stderr}");
    assert!(!dir.join("unreachable").exists());

    let (code, stderr) = liveiso(false, dir, &["lock", "p", "--offline"]);
    assert!(code == Some(0) && stderr.starts_with("p/liveiso.lock pins "), "{stderr}");
    let lock = fs::read_to_string(dir.join("p/liveiso.lock")).unwrap();
    assert!(!lock.contains("://"), "a lock names no mirror");
    for arguments in [
        &["build", "p", "-o", "locked"][..],
        &["build", "p", "-o", "locked", "--locked"],
        &["plan", "p", "--locked"],
        &["check", "p"],
    ] {
        assert_eq!(liveiso(false, dir, arguments), done, "{arguments:?}");
    }
    assert!(iso("locked") == first);
    let up_to_date = (Some(0), "p/liveiso.lock is up to date\n".to_string());
    assert_eq!(liveiso(false, dir, &["lock", "p"]), up_to_date);
    assert_eq!(liveiso(true, dir, &["lock", "p", "--update", "busybox-static"]).0, Some(0));

    fs::write(dir.join("p/profile.toml"), profile.replace("-static\"]", "-static\", \"kmod\"]")).unwrap();
    for arguments in [&["build", "p", "--locked"][..], &["check", "p", "--locked", "--offline"]] {
        let (code, stderr) = liveiso(false, dir, arguments);
        assert_eq!(code, Some(3), "{arguments:?}");
        assert!(stderr.starts_with("error: liveiso.lock is stale: it lacks `kmod`\n --> p/profile.toml:3:"));
    }
    let (code, stderr) = liveiso(true, dir, &["build", "p", "-o", "renewed"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.starts_with("warning: liveiso.lock is stale: it lacks `kmod`\n"), "{stderr}");
    assert!(stderr.contains("p/liveiso.lock is renewed\n") && stderr.contains("  added kmod "), "{stderr}");

    fs::write(dir.join("p/liveiso.lock"), "lock-version = 1\nsize = x\n").unwrap();
    for arguments in [&["build", "p"][..], &["lock", "p"], &["check", "p", "--offline"]] {
        let (code, stderr) = liveiso(false, dir, arguments);
        assert_eq!(code, Some(3), "{arguments:?} {stderr}");
        assert!(stderr.contains(" --> p/liveiso.lock:2:8\n"), "{stderr}");
    }
}

/// A second kernel and signed loaders come from another architecture, and here another release.
#[test]
fn a_lock_pins_what_comes_from_another_architecture_and_suite() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("p")).unwrap();
    let profile = "iso-name = \"x\"\npackages = [\"busybox-static\"]\n[root]\nmode = \"unpacked\"\n[debian]\nsecurity = \"none\"\n\
                   [boot]\nsecure-boot = true\n[kernel.amd64]\nsuite = \"trixie\"\n";
    fs::write(dir.join("p/profile.toml"), profile).unwrap();
    let (code, stderr) = liveiso(true, dir, &["lock", "p"]);
    assert!(code == Some(0) && stderr.starts_with("p/liveiso.lock pins "), "{stderr}");
    let text = fs::read_to_string(dir.join("p/liveiso.lock")).unwrap();
    let lock = parse(&text).0.unwrap();
    let suites: BTreeSet<&str> = lock.sources.iter().map(|(suite, _)| suite.as_str()).collect();
    assert!(suites.contains("bookworm") && suites.contains("trixie"), "{suites:?}");
    let of = |arch: &str| {
        let packages = lock.every_package().into_iter().filter(move |p| p.arch == arch);
        packages.map(|p| (p.name.split("-6").next().unwrap(), p.suite.as_str())).collect::<Vec<_>>()
    };
    let names =
        |packages: &[(&str, &str)]| packages.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>();
    let amd64 = of("amd64");
    assert_eq!(
        names(&amd64),
        ["grub-efi-amd64-signed", "linux-image", "shim-helpers-amd64-signed", "shim-signed"]
    );
    assert!(amd64.iter().all(|(_, suite)| suite.starts_with("trixie")), "{amd64:?}");
    let i386 = of("i386");
    for name in ["linux-image", "shim-signed", "busybox-static"] {
        assert!(i386.iter().any(|(n, suite)| *n == name && suite.starts_with("bookworm")), "{i386:?}");
    }

    // Nobody is asked again, until the second kernel's suite is another.
    for arguments in [&["plan", "p", "--locked"][..], &["check", "p", "--locked"]] {
        assert_eq!(liveiso(false, dir, arguments), (Some(0), String::new()), "{arguments:?}");
    }
    assert_eq!(liveiso(false, dir, &["lock", "p"]), (Some(0), "p/liveiso.lock is up to date\n".to_string()));
    fs::write(dir.join("p/profile.toml"), profile.replace("suite = \"trixie\"\n", "")).unwrap();
    let (code, stderr) = liveiso(false, dir, &["check", "p", "--locked"]);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.starts_with("error: liveiso.lock is stale: "), "{stderr}");
}
