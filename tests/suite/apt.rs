//! Debian packages: resolution, download and unpacking against dpkg-deb and a signed archive of our own.

use std::path::PathBuf;

use liveiso::cache::Cache;
use liveiso::host::Tool;
use liveiso::plan::{Arch, Package, RootMode};
use liveiso::source::{self, Archive, SecurityPolicy, Wanted};

use crate::archive::listing_by_python;

/// One cache for all tests that use the real archive, kept between runs.
pub(crate) fn real_cache_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("debian-cache")
}

fn real_cache() -> Cache {
    Cache::open(&real_cache_dir()).unwrap()
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

fn names(packages: &[Package]) -> Vec<&str> {
    packages.iter().map(|p| p.name.as_str()).collect()
}

#[test]
fn real_packages_are_resolved_fetched_and_unpacked_as_dpkg_deb_does() {
    let cache = real_cache();
    let found =
        source::host_sources("bookworm", &strings(&["main"]), SecurityPolicy::Preferred, None, None).unwrap();
    let archive = Archive::open(&cache, Arch::I386, &found.sources, SecurityPolicy::Preferred).unwrap();
    let wanted = Wanted {
        root: &strings(&["kmod", "file"]),
        mode: RootMode::Unpacked,
        with_dependencies: false,
        kernel: &strings(&["linux-image-686"]),
        loaders: &strings(&["isolinux"]),
        initramfs: &strings(&["busybox-static"]),
    };
    let packages = archive.resolve(&wanted).unwrap();
    assert_eq!(names(&packages.root), ["file", "kmod"]);
    assert_eq!(names(&packages.loaders), ["isolinux"]);
    assert_eq!(names(&packages.initramfs), ["busybox-static"]);
    let [kernel] = &packages.kernel[..] else { panic!("one kernel, not {:?}", names(&packages.kernel)) };
    assert!(kernel.name.starts_with("linux-image-6.") && kernel.name.ends_with("-686"), "{}", kernel.name);

    let all = [&packages.root[..], &packages.loaders, &packages.initramfs].concat();
    let sources = archive.sources().to_vec();
    let paths = source::fetch(&cache, Arch::I386, &sources, &all, false).unwrap();
    assert_eq!(paths.len(), 4);
    let again = source::fetch(&cache, Arch::I386, &[], &all, true).unwrap();
    assert_eq!(again, paths, "cached packages need neither sources nor network");

    for package in &all {
        let mut tree = liveiso::tree::Tree::new();
        source::unpack_into(&mut tree, &cache, std::slice::from_ref(package)).unwrap();
        let tar = tempfile::NamedTempFile::new().unwrap();
        let mut dpkg = Tool::new("dpkg-deb", "unpacking a second time").unwrap().into_command();
        dpkg.arg("--fsys-tarfile").arg(&paths[&package.sha256]).stdout(tar.reopen().unwrap());
        assert!(dpkg.status().unwrap().success());
        assert_eq!(liveiso::tree::listing(&tree).unwrap(), listing_by_python(tar.path()), "{}", package.name);
    }

    let tree = source::unpacked_tree(&cache, Arch::I386, &all).unwrap();
    for path in ["usr/bin/busybox", "usr/bin/kmod", "usr/sbin/modprobe", "usr/lib/ISOLINUX/isolinux.bin"] {
        assert!(tree.get(path.as_bytes()).is_some(), "{path}");
    }
    let listed = liveiso::tree::listing(&tree).unwrap();
    assert!(listed.contains("slink /bin 0777 0 0 usr/bin mtime=0\n"), "{listed}");
}

#[test]
fn a_configured_root_has_exactly_the_pinned_packages() {
    let cache = real_cache();
    let found =
        source::host_sources("bookworm", &strings(&["main"]), SecurityPolicy::Preferred, None, None).unwrap();
    let archive = Archive::open(&cache, Arch::I386, &found.sources, SecurityPolicy::Preferred).unwrap();
    let wanted = Wanted {
        root: &strings(&["kmod", "dropbear-bin"]),
        mode: RootMode::Configured,
        with_dependencies: true,
        kernel: &[],
        loaders: &[],
        initramfs: &[],
    };
    let packages = archive.resolve(&wanted).unwrap().root;
    let sources = archive.sources().to_vec();
    drop(archive);
    for name in ["kmod", "dropbear-bin", "libc6", "dpkg", "usr-is-merged"] {
        assert!(names(&packages).contains(&name), "{name}");
    }
    for name in ["apt", "perl", "usrmerge"] {
        assert!(!names(&packages).contains(&name), "{name}");
    }
    source::fetch(&cache, Arch::I386, &sources, &packages, false).unwrap();
    let excludes = strings(&["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*"]);
    let root =
        source::configured_root(&cache, Arch::I386, "bookworm", &packages, 1_700_000_000, &excludes).unwrap();
    let tree = source::read_configured(&root).unwrap();
    let listed = liveiso::tree::listing(&tree).unwrap();
    for line in [
        "slink /lib 0777 0 0 usr/lib mtime=1700000000\n",
        "file /usr/bin/su 4755 0 0 ",
        "nod /dev/null 0666 0 0 c 1 3 ",
        "file /etc/passwd 0644 0 0 ",
        "file /etc/ld.so.cache 0644 0 0 ",
    ] {
        assert!(listed.contains(line), "{line}");
    }
    for path in
        ["liveiso", "etc/apt/sources.list", "etc/hostname", "etc/resolv.conf", "usr/share/man/man8/kmod.8.gz"]
    {
        assert_eq!(tree.get(path.as_bytes()), None, "{path}");
    }
}

/// A signed archive with the suites `t` and `t-security` and three tiny packages, below `$PWD`.
const PUBLISH: &str = r#"
umask 022
export GNUPGHOME="$PWD/gpg" LC_ALL=C
key() {
    mkdir -p -m 700 gpg
    gpg --batch --quiet --passphrase '' --quick-gen-key "$1" ed25519 sign never 2>/dev/null
    gpg --batch --export "$1" > "$1.gpg"
}
package() { # name, further control lines, version after the epoch
    mkdir -p "build/DEBIAN" build/usr/bin pool
    printf 'Package: %s\nVersion: 1:%s\nArchitecture: i386\nMaintainer: t\nDescription: t\n%b' "$1" "${3:-1-1}" "$2" > build/DEBIAN/control
    echo "$1" > build/usr/bin/tool
    dpkg-deb --root-owner-group -Zxz --build build "pool/$1_${3:-1-1}_i386.deb" > /dev/null
    rm -r build
}
index() { # suite, packages, each with _version when that is not 1-1
    d="dists/$1/main/binary-i386"; mkdir -p "$d"; : > "$d/Packages"; shift
    for p in "$@"; do
        case "$p" in *_*) ;; *) p="${p}_1-1" ;; esac
        f="pool/${p}_i386.deb"
        dpkg-deb -f "$f" >> "$d/Packages"
        printf 'Filename: %s\nSize: %s\nSHA256: %s\n\n' "$f" "$(stat -c %s "$f")" "$(sha256sum "$f" | cut -c1-64)" >> "$d/Packages"
    done
}
release() { # suite, key, further lines, date
    d="dists/$1"; p=main/binary-i386/Packages
    printf 'Origin: t\nSuite: %s\nCodename: %s\nDate: %s\nArchitectures: i386\nComponents: main\n%bSHA256:\n %s %s %s\n' \
        "$1" "$1" "${4:-Thu, 01 Jan 2026 00:00:00 UTC}" "$3" "$(sha256sum "$d/$p" | cut -c1-64)" "$(stat -c %s "$d/$p")" "$p" > "$d/Release"
    gpg --batch --quiet --yes --local-user "$2" --clearsign --output "$d/InRelease" "$d/Release"
}
key good; key other
package alpha ''; package beta 'Depends: alpha (>= 9:9)\n'; package gamma 'Depends: alpha\n'
index t alpha beta gamma; release t good ''
index t-security alpha; release t-security good ''
"#;

/// The archive above, changed by `script`; the key agent ends with it.
pub(crate) struct Published(pub(crate) tempfile::TempDir);

impl Published {
    pub(crate) fn new(script: &str) -> Published {
        let dir = tempfile::tempdir().unwrap();
        crate::archive::run(dir.path(), &format!("{PUBLISH}\n{script}\ngpgconf --kill all"));
        Published(dir)
    }

    /// Changes the archive later on.
    pub(crate) fn change(&self, script: &str) {
        let (functions, _) = PUBLISH.split_once("\nkey good;").unwrap();
        crate::archive::run(self.0.path(), &format!("{functions}\n{script}\ngpgconf --kill all"));
    }

    pub(crate) fn cache(&self) -> Cache {
        Cache::open(&self.0.path().join("cache")).unwrap()
    }

    pub(crate) fn sources(&self) -> Vec<liveiso::plan::AptSource> {
        ["t", "t-security"].map(|suite| self.source(suite)).to_vec()
    }

    fn source(&self, suite: &str) -> liveiso::plan::AptSource {
        liveiso::plan::AptSource {
            uri: format!("file:{}", self.0.path().display()),
            suite: suite.to_string(),
            components: strings(&["main"]),
            signed_by: self.0.path().join("good.gpg"),
        }
    }

    /// A message without this run's directory.
    pub(crate) fn shown(&self, message: &impl ToString) -> String {
        message.to_string().replace(&self.0.path().display().to_string(), "DIR")
    }
}

/// Key ids and spans of time, which differ from run to run, as `KEY` and `SPAN`.
fn steady(message: &str) -> String {
    let key = |word: &str| word.len() >= 16 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let words = message.split(' ').map(|word| match word.trim_end_matches([')', ';']) {
        bare if key(bare) => word.replace(bare, "KEY"),
        _ => word.to_string(),
    });
    let mut text = words.collect::<Vec<_>>().join(" ");
    for (before, after) in [("invalid since ", ")"), ("invalid for another ", ")")] {
        if let Some(start) = text.find(before).map(|at| at + before.len()) {
            let end = start + text[start..].find(after).unwrap();
            text.replace_range(start..end, "SPAN");
        }
    }
    text
}

#[test]
fn every_failure_of_an_archive_has_its_own_message() {
    let signature =
        "; install debian-archive-keyring, or name the keyring that signs this archive in the profile";
    let mismatch = "what the mirror sends does not match the signed hash (Hash Sum mismatch); the mirror is being updated or is broken: try again later or name another mirror";
    let preferred = ", or set `security = \"preferred\"` to build without this suite until then";
    let unsigned = "suite t of file:DIR: the signature is missing, wrong or from an unknown key";
    let cases = [
        (
            "release t other ''",
            format!("{unsigned} (GPG error: file:DIR t InRelease: The following signatures couldn't be verified because the public key is not available: NO_PUBKEY KEY){signature}"),
        ),
        (
            "sed -i 's/^Origin: t/Origin: x/' dists/t/InRelease",
            format!("{unsigned} (GPG error: file:DIR t InRelease: The following signatures were invalid: BADSIG KEY good){signature}"),
        ),
        ("rm dists/t/InRelease", format!("{unsigned} (The repository 'file:DIR t Release' is not signed){signature}")),
        ("echo >> dists/t/main/binary-i386/Packages", format!("suite t of file:DIR: {mismatch}")),
        (
            "sed -i 's/^Maintainer: t/Maintainer: x/' dists/t/main/binary-i386/Packages",
            format!("suite t of file:DIR: {mismatch}"),
        ),
        (
            "echo >> dists/t-security/main/binary-i386/Packages",
            format!("suite t-security of file:DIR: {mismatch}{preferred}"),
        ),
        (
            "release t good 'Valid-Until: Fri, 02 Jan 2026 00:00:00 UTC\\n'",
            "suite t of file:DIR: the signed index has expired (Release file for file:DIR/dists/t/InRelease is expired (invalid since SPAN). Updates for this repository will not be applied); name a mirror that is up to date, and check this computer's clock".to_string(),
        ),
        (
            "release t good '' 'Fri, 01 Jan 2999 00:00:00 UTC'",
            "suite t of file:DIR: the signed index comes from the future (Release file for file:DIR/dists/t/InRelease is not valid yet (invalid for another SPAN). Updates for this repository will not be applied); check this computer's clock".to_string(),
        ),
        (
            "rm -r dists/t",
            "suite t of file:DIR: the mirror does not have it (The repository 'file:DIR t Release' does not have a Release file); check suite and mirror in the profile".to_string(),
        ),
    ];
    for (script, expected) in cases {
        let published = Published::new(script);
        let result =
            Archive::open(&published.cache(), Arch::I386, &published.sources(), SecurityPolicy::Required);
        assert_eq!(steady(&published.shown(&result.unwrap_err())), expected, "{script}");
    }
}

#[test]
fn a_mirror_that_does_not_answer_is_named() {
    let published = Published::new("");
    let silent =
        liveiso::plan::AptSource { uri: "http://127.0.0.1:1/debian".to_string(), ..published.source("t") };
    let result = Archive::open(&published.cache(), Arch::I386, &[silent], SecurityPolicy::Required);
    assert_eq!(
        result.unwrap_err().to_string(),
        "suite t of http://127.0.0.1:1/debian: the mirror does not answer (Could not connect to 127.0.0.1:1 (127.0.0.1). - connect (111: Connection refused)); check the network, the proxy settings of apt, and the mirror's name"
    );
}

#[test]
fn only_a_mismatching_security_suite_is_left_out_where_the_profile_allows_it() {
    let spoil_security = "echo >> dists/t-security/main/binary-i386/Packages";
    let published = Published::new(spoil_security);
    let archive =
        Archive::open(&published.cache(), Arch::I386, &published.sources(), SecurityPolicy::Preferred)
            .unwrap();
    assert_eq!(
        archive.left_out(),
        [
            "t-security: its index does not match its signed hash (Hash Sum mismatch); the image lacks this suite's updates"
        ]
    );
    assert_eq!(archive.sources(), [published.source("t")]);
    assert_eq!(archive.index().len(), 3);

    for more in ["echo >> dists/t/main/binary-i386/Packages", "release t other ''"] {
        let published = Published::new(&format!("{spoil_security}\n{more}"));
        let result =
            Archive::open(&published.cache(), Arch::I386, &published.sources(), SecurityPolicy::Preferred);
        assert!(published.shown(&result.unwrap_err()).starts_with("suite t of file:DIR: "), "{more}");
    }
}

fn unpacked<'a>(root: &'a [String], with_dependencies: bool) -> Wanted<'a> {
    Wanted { root, mode: RootMode::Unpacked, with_dependencies, kernel: &[], loaders: &[], initramfs: &[] }
}

#[test]
fn wishes_that_cannot_be_met_are_told_apart() {
    let published = Published::new("");
    let archive =
        Archive::open(&published.cache(), Arch::I386, &published.sources(), SecurityPolicy::Required)
            .unwrap();
    let resolve = |names: &[&str], deps| archive.resolve(&unpacked(&strings(names), deps));
    let packages = resolve(&["gamma"], true).unwrap().root;
    assert_eq!(names(&packages), ["alpha", "gamma"]);
    assert_eq!(packages[0].version, "1:1-1");
    assert_eq!(names(&resolve(&["gamma"], false).unwrap().root), ["gamma"]);
    for (wanted, expected) in [
        ("gama", "no package `gama` for i386 in t, t-security; did you mean `gamma`?"),
        ("postgresql", "no package `postgresql` for i386 in t, t-security"),
        ("-o=x", "no package `-o=x` for i386 in t, t-security"),
        (
            "beta",
            "packages for i386: the packages cannot be installed together (beta : Depends: alpha (>= 9:9) but it is not going to be installed); remove one of them from the profile, or add the suite that has what is missing",
        ),
    ] {
        assert_eq!(resolve(&[wanted], true).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_package_that_does_not_match_its_pin_is_named_and_leaves_nothing() {
    let published = Published::new("");
    let cache = published.cache();
    let archive = Archive::open(&cache, Arch::I386, &published.sources(), SecurityPolicy::Required).unwrap();
    let packages = archive.resolve(&unpacked(&strings(&["gamma"]), true)).unwrap().root;
    let fetch = |offline| source::fetch(&cache, Arch::I386, archive.sources(), &packages, offline);
    let message = |result: anyhow::Result<_>| published.shown(&result.unwrap_err());
    assert_eq!(
        message(fetch(true)),
        "package alpha 1:1-1: it is not in the cache (nor are 1 others), and downloading was not allowed; build once with a network"
    );

    let deb = published.0.path().join("pool/gamma_1-1_i386.deb");
    let intact = std::fs::read(&deb).unwrap();
    let mut damaged = intact.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&deb, damaged).unwrap();
    assert_eq!(
        message(fetch(false)),
        "package gamma 1:1-1: what the mirror sends does not match the signed hash (Hash Sum mismatch); the mirror is being updated or is broken: try again later or name another mirror"
    );
    let kept = |dir: &str| {
        let mut found: Vec<String> = std::fs::read_dir(cache.subdir(dir))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        found
    };
    assert_eq!(kept("debs"), [format!("{}.deb", packages[0].sha256)], "what matched is kept");
    assert_eq!(kept("work"), [""; 0]);

    std::fs::remove_file(&deb).unwrap();
    assert_eq!(
        message(fetch(false)),
        "package gamma 1:1-1: the mirror does not have it (File not found - DIR/pool/gamma_1-1_i386.deb (2: No such file or directory)); move it to the current version with `liveiso lock PROFILE --update` and its name, or name a mirror that keeps old versions"
    );

    std::fs::write(&deb, &intact).unwrap();
    let paths = fetch(false).unwrap();
    std::fs::write(&paths[&packages[1].sha256], "damaged in the cache").unwrap();
    assert_eq!(fetch(false).unwrap(), paths);
    assert_eq!(std::fs::read(&paths[&packages[1].sha256]).unwrap(), intact);
    fetch(true).unwrap();

    // Damage that leaves the size is found where the package is used.
    let mut flipped = intact.clone();
    *flipped.last_mut().unwrap() ^= 1;
    std::fs::write(&paths[&packages[1].sha256], flipped).unwrap();
    assert_eq!(fetch(true).unwrap(), paths);
    let unpack = || source::unpacked_tree(&cache, Arch::I386, &packages);
    assert!(unpack().unwrap_err().is::<liveiso::cache::DamagedEntry>());
    fetch(false).unwrap();
    unpack().unwrap();
}
