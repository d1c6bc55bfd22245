//! A root whose packages are configured: maintainer scripts run.
//!
//! mmdebstrap installs in an unshared namespace (as root: a mount namespace, as
//! a user: a user namespace with the subordinate ids of subuid(5)), offline, from
//! a flat repository of exactly the pinned packages. Their digests were checked
//! against the signed index, so that repository needs no signature of its own.
//!
//! The pins reach the namespace through mmdebstrap's `sync-in` hook: its user
//! cannot read the caller's private directories. `setpriv --pdeathsig` ends
//! mmdebstrap with us, however we die; on SIGTERM it removes its own tree. Only a
//! SIGKILL of mmdebstrap itself leaves that tree, in the cache's work directory
//! (swept by the next run of the same user if that is root) or, where others
//! cannot enter that, in /var/tmp; `mmdebstrap --unshare-helper rm -rf` removes it.
//!
//! Left out: undoing what differs from run to run; see [`volatile_paths`].

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use super::ar::Deb;
use super::deb822::stanzas;
use super::fetch::verified_deb;
use crate::cache::{Cache, StageOutput, digest_file, hex_sha256};
use crate::host::Tool;
use crate::plan::{Arch, Package};
use crate::tree::{Tree, read_tar};

/// Raised when the way of installing changes what comes out.
const RECIPE: u32 = 1;
/// The archive in the output of the stage.
pub const ROOT_TAR: &str = "root.tar";
const PURPOSE: &str = "installing packages with their maintainer scripts";

/// Runs its arguments; on SIGTERM passes that to the whole process group (which
/// is ours alone) and waits for mmdebstrap to remove its tree.
const SUPERVISE: &str = r#"trap 'trap "" TERM; kill -TERM 0; wait; exit 143' TERM; "$0" "$@" & wait $!"#;

/// What decides the result; the key of the cached stage.
#[derive(Serialize)]
struct Inputs<'a> {
    recipe: u32,
    installer: String,
    arch: Arch,
    suite: &'a str,
    timestamp: i64,
    path_excludes: &'a [String],
    packages: Vec<(&'a str, &'a str, &'a str, &'a str)>,
}

/// Installs `packages` (with all dependencies and the essential set, as
/// [`super::Archive::resolve`] gives them); [`read_configured`] reads the stage's [`ROOT_TAR`].
///
/// `timestamp` becomes SOURCE_DATE_EPOCH (seconds since 1970-01-01 UTC);
/// `path_excludes` are dpkg `path-exclude` patterns such as `/usr/share/man/*`.
///
/// # Errors
/// A missing tool, no permission for namespaces (with what to change), a
/// failing maintainer script, an installed set that differs from the pins.
pub fn configured_root(
    cache: &Cache,
    arch: Arch,
    suite: &str,
    packages: &[Package],
    timestamp: i64,
    path_excludes: &[String],
) -> Result<StageOutput> {
    let pins = packages.iter().map(|p| (&*p.name, &*p.version, &*p.arch, &*p.sha256)).collect();
    let installer = installer()?;
    let inputs = Inputs { recipe: RECIPE, installer, arch, suite, timestamp, path_excludes, packages: pins };
    cache.stage("configured-root", &inputs, |dir| {
        let tar = dir.join(ROOT_TAR);
        install(cache, &inputs, packages, &tar)?;
        check_installed(&tar, packages)
    })
}

/// Reads what [`configured_root`] made.
///
/// # Errors
/// A damaged cache entry.
pub fn read_configured(output: &StageOutput) -> Result<Tree> {
    let mut tree = Tree::new();
    read_tar(&mut tree, &output.open(ROOT_TAR)?, "configured packages")?;
    Ok(tree)
}

/// SHA-256 of the host's mmdebstrap, one script: another version of it may make
/// another root of the same packages. (To ask it for its version takes a hundred times as long.)
///
/// # Errors
/// When it is not installed.
pub fn installer() -> Result<String> {
    Ok(digest_file(&crate::host::find_tool("mmdebstrap", PURPOSE)?)?.sha256)
}

/// Paths (globs against `/path`) that must not reach an image: they differ from
/// run to run, name one machine, or record the installation. Nothing needs them.
///
/// Of the rescue set installed twice, as root and as a user, only the two files
/// of nvme-cli differed; mmdebstrap itself removes logs, machine-id and caches.
/// The rest is what other packages are known to leave.
pub fn volatile_paths() -> &'static [&'static str] {
    &[
        // The identity of one machine.
        "/etc/machine-id",
        "/etc/nvme/hostid",
        "/etc/nvme/hostnqn",
        "/etc/ssh/ssh_host_*_key*",
        "/etc/dropbear/dropbear_*_host_key*",
        "/etc/ssl/private/ssl-cert-snakeoil.key",
        "/etc/ssl/certs/ssl-cert-snakeoil.pem",
        "/var/lib/dbus/machine-id",
        "/var/lib/systemd/random-seed",
        "/var/lib/urandom/random-seed",
        // Has ACLs, which squashfs cannot hold; without it journald keeps its journal, capped, in RAM,
        // which is where it would be anyway.
        "/var/log/journal",
        // Caches with inode numbers, times or the order of directories inside.
        "/var/cache/ldconfig/aux-cache",
        "/var/cache/apt/*.bin",
        "/var/cache/fontconfig/*",
        "/var/cache/man/*",
        // Copies of what stood there before the last change: their state
        // depends on the order in which packages were configured.
        "/etc/passwd-",
        "/etc/group-",
        "/etc/shadow-",
        "/etc/gshadow-",
        "/etc/subuid-",
        "/etc/subgid-",
        "/var/cache/debconf/*-old",
        "/var/lib/dpkg/*-old",
        // Whoever may, gives them to the host's user _apt; apt makes them where they are missing.
        "/var/cache/apt/archives/partial",
        "/var/lib/apt/lists/partial",
        // Locks and records of the installation.
        "/var/cache/apt/archives/lock",
        "/var/lib/apt/extended_states",
        "/var/lib/apt/lists/lock",
        "/var/lib/dpkg/lock*",
        "/var/lib/dpkg/triggers/Lock",
        "/var/log/*.log",
        "/var/log/apt/*",
        "/var/log/bootstrap.log",
        // From the building host.
        "/etc/hostname",
        "/etc/resolv.conf",
    ]
}

fn install(cache: &Cache, inputs: &Inputs<'_>, packages: &[Package], tar: &Path) -> Result<()> {
    let work = cache.work_dir()?;
    let repository = work.path.join("repository");
    flat_repository(cache, inputs, packages, &repository)?;
    let tool = command(inputs, packages, &repository, &temporary_dir(&work.path)?, tar)?;
    // A file, not a pipe: writing to a pipe nobody reads would end mmdebstrap before it cleaned up.
    let log_path = work.path.join("log");
    let log = File::create(&log_path).with_context(|| format!("creating {}", log_path.display()))?;
    let mut command = tool.into_command();
    let status = command.process_group(0).stdout(Stdio::null()).stderr(log).status();
    let status = status.context("starting mmdebstrap")?;
    if status.success() {
        return Ok(());
    }
    let log = fs::read(&log_path).with_context(|| format!("reading {}", log_path.display()))?;
    let mut words = failure_words(&String::from_utf8_lossy(&log));
    let setting = |name: &str| fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok();
    for obstacle in namespace_obstacles(setting) {
        write!(words, "\n{obstacle}").expect("writing to a String");
    }
    bail!("installing {} packages with mmdebstrap failed ({status}):\n{words}", packages.len())
}

fn command(
    inputs: &Inputs<'_>,
    packages: &[Package],
    repository: &Path,
    temporary: &Path,
    tar: &Path,
) -> Result<Tool> {
    let program = crate::host::find_tool("mmdebstrap", PURPOSE)?;
    if !rustix::process::geteuid().is_root() {
        crate::host::find_tool("newuidmap", PURPOSE)?;
        check_subordinate_ids()?;
    }
    let repository =
        repository.to_str().filter(|path| path.bytes().all(plain_path_byte)).with_context(|| {
            format!(
                "{}: mmdebstrap cannot work in a directory of this name; choose another cache directory",
                repository.display()
            )
        })?;
    let pins: Vec<String> = packages.iter().map(|p| format!("{}={}", p.name, p.version)).collect();
    let links = r#"set -e; mkdir "$1/liveiso"; for d in bin sbin lib; do mkdir -p "$1/usr/$d"; ln -s "usr/$d" "$1/$d"; done"#;
    let lib64 = r#"mkdir -p "$1/usr/lib64"; ln -s usr/lib64 "$1/lib64""#;
    let sources = r#"echo "deb [trusted=yes] copy:$1/liveiso ./" > "$1/etc/apt/sources.list""#;
    // The last two come from the host.
    let clean = r#"rm -rf "$1/liveiso" "$1/etc/apt/sources.list" "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$1/etc/resolv.conf" "$1/etc/hostname""#;
    let mut tool = Tool::new("setpriv", PURPOSE)?
        .env("SOURCE_DATE_EPOCH", inputs.timestamp.max(0).to_string())
        .env("TMPDIR", temporary)
        .args(["--pdeathsig", "TERM", "sh", "-c", SUPERVISE])
        .arg(program)
        .args(["--mode=unshare", "--variant=essential", "--format=tar", "--dpkgopt=force-unsafe-io"])
        .arg(format!("--architectures={}", inputs.arch.debian_name()))
        .arg(format!("--include={}", pins.join(",")))
        .arg(format!("--setup-hook={links}"));
    if inputs.arch == Arch::Amd64 {
        tool = tool.arg(format!("--setup-hook={lib64}"));
    }
    for pattern in inputs.path_excludes {
        ensure!(
            pattern.starts_with('/') && !pattern.contains(|c: char| c.is_control()),
            "`{}` is no path pattern; it begins with a slash",
            pattern.escape_debug()
        );
        tool = tool.arg(format!("--dpkgopt=path-exclude={pattern}"));
    }
    Ok(tool
        .arg(format!("--setup-hook=sync-in {repository} /liveiso"))
        .arg(format!("--setup-hook={sources}"))
        .arg(format!("--customize-hook={clean}"))
        .arg(inputs.suite)
        .arg(tar)
        // Sources from standard input, which is empty: the hook above writes them.
        .arg("-"))
}

fn plain_path_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_./+,:=@".contains(&b)
}

/// The packages under apt's file names, with Packages and Release files.
fn flat_repository(cache: &Cache, inputs: &Inputs<'_>, packages: &[Package], dir: &Path) -> Result<()> {
    fs::create_dir(dir).with_context(|| format!("creating {}", dir.display()))?;
    let mut index = String::new();
    for package in packages {
        let deb = verified_deb(cache, package)?;
        let file = format!("{}.deb", package.sha256);
        let target = dir.join(&file);
        fs::hard_link(&deb, &target)
            .with_context(|| format!("linking {} to {}", deb.display(), target.display()))?;
        let control = Deb::open(&deb)?.control()?;
        let Package { size, sha256, .. } = package;
        writeln!(index, "{}\nFilename: ./{file}\nSize: {size}\nSHA256: {sha256}\n", control.trim_end())
            .expect("writing to a String");
    }
    // apt finds the essential set by the code name of a Release file.
    let release = format!(
        "Suite: {suite}\nCodename: {suite}\nDate: Thu, 01 Jan 1970 00:00:00 UTC\nArchitectures: {arch} all\nSHA256:\n {digest} {size} Packages\n",
        suite = inputs.suite,
        arch = inputs.arch.debian_name(),
        digest = hex_sha256(index.as_bytes()),
        size = index.len()
    );
    for (name, text) in [("Packages", &index), ("Release", &release)] {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// A directory in which mmdebstrap's namespace user may work: below `work` where
/// others can get there (or we are root), else /var/tmp, which is on disk.
fn temporary_dir(work: &Path) -> Result<PathBuf> {
    let dir = work.join("tmp");
    fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o1777))
        .with_context(|| format!("opening {} to others", dir.display()))?;
    let enterable = |path: &Path| fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o001 != 0);
    if rustix::process::geteuid().is_root() || dir.ancestors().all(enterable) {
        return Ok(dir);
    }
    Ok(PathBuf::from("/var/tmp"))
}

/// The pins are what is installed: nothing more, nothing less.
fn check_installed(tar: &Path, packages: &[Package]) -> Result<()> {
    let mut tree = Tree::new();
    read_tar(&mut tree, tar, "mmdebstrap's output")?;
    let id = tree.get(b"var/lib/dpkg/status").context("mmdebstrap's output has no /var/lib/dpkg/status")?;
    let crate::tree::Kind::File(content) = &tree.inode(id).kind else {
        bail!("/var/lib/dpkg/status in mmdebstrap's output is no file")
    };
    let text = content.read_all()?;
    let text = String::from_utf8_lossy(&text);
    let mut installed = BTreeSet::new();
    for stanza in stanzas(&text) {
        let field = |name| stanza.get(name).unwrap_or_default().to_string();
        let status = field("Status");
        let known = format!("{} {} {}", field("Package"), field("Version"), field("Architecture"));
        ensure!(status == "install ok installed", "package {known} is `{status}` after the installation");
        installed.insert(known);
    }
    let pinned: BTreeSet<String> =
        packages.iter().map(|p| format!("{} {} {}", p.name, p.version, p.arch)).collect();
    let list = |set: Vec<&String>| set.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    ensure!(
        installed == pinned,
        "the installed packages are not the pinned ones; missing: {}; too many: {}",
        list(pinned.difference(&installed).collect()),
        list(installed.difference(&pinned).collect())
    );
    Ok(())
}

/// The last lines that say something, without mmdebstrap's own progress.
fn failure_words(stderr: &str) -> String {
    let telling =
        |line: &&str| !line.trim().is_empty() && !line.starts_with("I: ") && !line.starts_with("Get:");
    let lines: Vec<String> = stderr.lines().filter(telling).map(|l| l.chars().take(300).collect()).collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

/// A user needs a line in /etc/subuid and /etc/subgid.
fn check_subordinate_ids() -> Result<()> {
    let user = Tool::new("id", "finding the user's name")?.arg("-un").output()?;
    let user = String::from_utf8_lossy(&user).trim().to_string();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        ensure!(
            has_subordinate_ids(&text, &user),
            "{file} gives the user {user} no subordinate ids, which a configured root needs; run `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}`, or use `mode = \"unpacked\"`"
        );
    }
    Ok(())
}

/// subuid(5): `user:first:count`; Debian's packages need the ids 0 to 65534.
fn has_subordinate_ids(text: &str, user: &str) -> bool {
    text.lines().any(|line| {
        let mut parts = line.splitn(3, ':');
        let ours = parts.next() == Some(user);
        let count = parts.nth(1).and_then(|count| count.trim().parse::<u32>().ok());
        ours && count.is_some_and(|count| count >= 65535)
    })
}

/// Kernel settings that forbid namespaces, each with what to change; `read` knows their values.
fn namespace_obstacles(read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let settings = [
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
    ];
    let mut found = Vec::new();
    for (name, forbids, allows) in settings {
        if read(name).is_some_and(|value| value.trim() == forbids) {
            found.push(format!(
                "this kernel restricts user namespaces ({name} = {forbids}); if that is the reason, run `sudo sysctl {name}={allows}`, build as root, or use `mode = \"unpacked\"`"
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_ids_must_be_the_users_and_enough() {
        for (text, expected) in [
            ("", false),
            ("user:100000:65536\n", true),
            ("other:1:1\nuser:100000:65535", true),
            ("user:100000:1000\n", false),
            ("user:100000\nuser", false),
            ("userx:100000:65536\n", false),
        ] {
            assert_eq!(has_subordinate_ids(text, "user"), expected, "{text}");
        }
    }

    #[test]
    fn a_failure_shows_what_dpkg_said_and_not_mmdebstraps_progress() {
        let long = format!("E: {}", "x".repeat(400));
        let stderr = format!("I: unpacking\nGet:1 copy: x\n\ndpkg: error processing package x\n{long}\n");
        assert_eq!(failure_words(&stderr), format!("dpkg: error processing package x\n{}", &long[..300]));
    }

    #[test]
    fn a_kernel_that_forbids_namespaces_is_named_with_the_remedy() {
        let on = |name: &'static str, value: &'static str| {
            namespace_obstacles(move |asked| (asked == name).then(|| value.to_string()))
        };
        let told = |setting: &str, remedy: &str| {
            vec![format!(
                "this kernel restricts user namespaces ({setting}); if that is the reason, run `sudo sysctl {remedy}`, build as root, or use `mode = \"unpacked\"`"
            )]
        };
        for (name, forbids, allows, remedy) in [
            ("kernel.apparmor_restrict_unprivileged_userns", "1", "0", "0"),
            ("kernel.unprivileged_userns_clone", "0", "1", "1"),
            ("user.max_user_namespaces", "0", "31337", "10000"),
        ] {
            assert_eq!(on(name, forbids), told(&format!("{name} = {forbids}"), &format!("{name}={remedy}")));
            assert_eq!(on(name, allows), [""; 0]);
        }
        assert_eq!(namespace_obstacles(|_| None), [""; 0]);
    }
}
