//! Builds by a plain user: an unpacked root where the kernel forbids user
//! namespaces, a configured one with subordinate ids, killed on the way, and what
//! is said where these are missing. Needs root, to become that user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use super::killed::{programs, programs_end};
use super::{
    Place, QUICK, Subject, digests, ended_within, entries, names, open_way, sha256, shared_cache, snapshot,
    written_profile,
};
use crate::support::{Ran, is_root, liveiso, ran};

/// A root of the essential packages, and little else.
static CONFIGURED: LazyLock<Subject> = LazyLock::new(|| Subject {
    profile: written_profile(
        "configured",
        "iso-name = \"configured\"\niso-version = \"1\"\npackages = [\"busybox-static\"]\n\
         [debian]\nsecurity = \"none\"\nupdates = false\n\
         [root]\nmode = \"configured\"\nexclude = [\"/usr/lib/modules/*/kernel/{drivers,net,sound}/**\"]\n\
         [initramfs]\ndefault-modules = false\ncompression = \"zstd\"\nmodules = [\"isofs\", \"loop\", \"overlay\", \"squashfs\"]\n",
    ),
    stem: "configured-1-i386",
    reference: OnceLock::new(),
});

/// The ISO as root builds it, in the shared cache.
fn configured_by_root() -> &'static Path {
    static ISO: OnceLock<PathBuf> = OnceLock::new();
    ISO.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("images").join("configured");
        let _ = fs::remove_dir_all(&out);
        let mut command = liveiso(["build", "-o"]);
        let (code, _, stderr) = ran(command.arg(&out).arg(&CONFIGURED.profile).output().unwrap());
        assert_eq!(code, Some(0), "{stderr}");
        out.join(format!("{}.iso", CONFIGURED.stem))
    })
}

/// A place for [`CONFIGURED`] with its packages and no stage.
fn configured_place() -> Place {
    let place = Place::new(&CONFIGURED);
    snapshot(configured_by_root(), &place.cache());
    place
}

/// A shell script in whose mount namespace the user `builder` exists, with `$IDS`
/// as the rest of his line in /etc/subuid and /etc/subgid. `builder COMMAND…` ends
/// the script by becoming him; `build` is a build in the place.
const BUILDER: &str = r#"
for file in passwd group subuid subgid; do
    cp "/etc/$file" "$PLACE/$file" 2>/dev/null || : > "$PLACE/$file"
done
echo 'builder:x:4711:4711::/:/bin/sh' >> "$PLACE/passwd"
echo 'builder:x:4711:' >> "$PLACE/group"
if [ "$IDS" ]; then
    echo "builder:$IDS" | tee "$PLACE/subuid" > "$PLACE/subgid"
fi
mkdir -p "$PLACE/home"
chown -R 4711:4711 "$PLACE/home" "$PLACE/cache"
chown 4711:4711 "$PLACE"
for file in passwd group subuid subgid; do
    mount --bind "$PLACE/$file" "/etc/$file"
done
builder() {
    exec setpriv --reuid 4711 --regid 4711 --clear-groups \
        env -i PATH="$PATH" HOME="$PLACE/home" USER=builder LOGNAME=builder "$@"
}
"#;

/// As above; then nobody in the script's user namespace, in which every id is what it is
/// outside, may make another one. A step needs files to wait for the other process.
const NO_NAMESPACES: &str = r#"
mkfifo "$PLACE/ready" "$PLACE/go"
chmod 666 "$PLACE/ready" "$PLACE/go"
export PLACE
unshare --user sh -c ': > "$PLACE/ready"; : < "$PLACE/go"; exec sh -euc "$0"' "
    echo 0 > /proc/sys/user/max_user_namespaces
    exec setpriv --reuid 4711 --regid 4711 --clear-groups env HOME='$PLACE/home' USER=builder sh -euc '
        if unshare --user true 2> /dev/null; then exit 99; fi
        exec $BUILD'" & pid=$!
: < "$PLACE/ready"
echo '0 0 4294967295' > /proc/$pid/uid_map
echo '0 0 4294967295' > /proc/$pid/gid_map
: > "$PLACE/go"
wait $pid
"#;

/// A script as the builder, with a copy of the program where he can reach it.
fn script(place: &Place, ids: &str, rest: &str) -> String {
    open_way(place.path());
    let program = place.path().join("liveiso");
    fs::copy(env!("CARGO_BIN_EXE_liveiso"), &program).unwrap();
    // None of these paths has a character that means something to a shell.
    let build = [vec![program.display().to_string()], place.words()].concat().join(" ");
    format!("IDS='{ids}'\nBUILD='{build}'\n{BUILDER}\n{rest}")
}

fn runs(place: &Place, ids: &str, rest: &str) -> Ran {
    place.namespace(&script(place, ids, rest))
}

const IDS: &str = "200000:65536";

#[test]
fn an_unpacked_root_needs_no_user_namespace() {
    if !is_root() {
        return;
    }
    let place = QUICK.unpacked();
    let (code, _, stderr) = runs(&place, "", NO_NAMESPACES);
    assert_eq!(code, Some(0), "{stderr}");
    place.is_the_same();
}

#[test]
fn what_a_configured_root_lacks_is_said_with_its_remedy() {
    if !is_root() {
        return;
    }
    let place = configured_place();
    let failed = |(code, stdout, stderr): Ran| {
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        let chain =
            "error: cannot build configured-1-i386.iso\n  caused by: making the root tree\n  caused by: ";
        stderr.strip_prefix(chain).unwrap_or_else(|| panic!("{stderr}")).to_string()
    };
    let ids = |count: &str| {
        format!(
            "{count} gives the user builder no subordinate ids, which a configured root needs; run \
             `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 builder`, or use `mode = \"unpacked\"`\n"
        )
    };
    for few in ["", "200000:1000"] {
        assert_eq!(failed(runs(&place, few, "builder $BUILD")), ids("/etc/subuid"), "{few}");
    }
    assert_eq!(
        failed(runs(&place, IDS, "mount --bind /dev/null \"$(command -v newuidmap)\"; builder $BUILD")),
        "newuidmap is not installed, but is needed for installing packages with their maintainer scripts; \
         install it with `sudo apt-get install uidmap`\n"
    );
    let told = failed(runs(&place, IDS, NO_NAMESPACES));
    assert!(told.starts_with("installing "), "{told}");
    assert!(
        told.ends_with(
            "\nthis kernel restricts user namespaces (user.max_user_namespaces = 0); if that is the reason, run \
             `sudo sysctl user.max_user_namespaces=10000`, build as root, or use `mode = \"unpacked\"`\n"
        ),
        "{told}"
    );
    assert!(names(&place.out()).is_empty());
    assert_eq!(names(&place.v1().join("work")), [""; 0]);
}

/// Starts a build as the builder and waits until mmdebstrap's tree has this file.
fn started_until(place: &Place, file: &str) -> Child {
    let tool = place.namespace_tool(&script(place, IDS, "builder $BUILD"));
    let mut child = tool.into_command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let work = place.v1().join("work");
    let reached = || {
        let dirs = fs::read_dir(&work).into_iter().flatten().flatten().map(|entry| entry.path().join("tmp"));
        let trees = dirs.flat_map(|tmp| fs::read_dir(tmp).into_iter().flatten().flatten());
        trees.into_iter().any(|tree| tree.path().join(file).exists())
    };
    while !reached() {
        assert!(!ended_within(&child, Duration::from_millis(5)), "{:?}", child.wait());
    }
    // The script has become the program, in the script's namespaces.
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", child.id())).unwrap();
    let ours = mounts.lines().filter(|line| line.contains(place.path().to_str().unwrap())).count();
    assert_eq!(ours, 4, "no more than what the script mounted: {mounts}");
    child
}

#[test]
fn a_configured_root_of_a_plain_user_is_that_of_root_also_after_kills() {
    if !is_root() {
        return;
    }
    let expected = digests(configured_by_root().parent().unwrap());
    let place = configured_place();
    // Unpacking has begun; packages are being configured, and mmdebstrap itself is killed.
    for (file, all) in [("liveiso/Release", false), ("var/lib/dpkg/info/libc6:i386.postinst", true)] {
        let mut child = started_until(&place, file);
        if all {
            for (pid, _) in programs(place.path()) {
                // Some end with another one.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let _ = child.kill();
        assert_eq!(child.wait().unwrap().code(), None, "{file}");
        programs_end(place.path());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(place.path().to_str().unwrap()), "{mounts}");
        assert!(!place.out().exists() || names(&place.out()).is_empty(), "{file}");
        assert!(!place.v1().join("stages/configured-root").exists(), "{file}");
    }
    let (code, _, stderr) = runs(&place, IDS, "builder $BUILD");
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(digests(&place.out()), expected);
    place.nothing_is_left();
    let stages = place.v1().join("stages");
    // The archive of the configured root also has what `volatile_paths` removes, apt's directories of
    // host users; the tree of the packages refers to that archive by its digest.
    let no_image = |stage: &PathBuf| stage.ends_with("configured-root") || stage.ends_with("base-tree");
    let images = entries(&stages).into_iter().filter(|stage| !no_image(stage));
    for key in images.flat_map(|stage| entries(&stage)) {
        for path in entries(&key) {
            let by_root = shared_cache().join("stages").join(path.strip_prefix(&stages).unwrap());
            assert_eq!(sha256(&path), sha256(&by_root), "{}", path.display());
        }
    }
}
