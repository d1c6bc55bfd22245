//! Debian packages: resolution, download and unpacking against dpkg-deb and a signed archive of our own.

use std::path::PathBuf;
use std::process::Command;

use liveiso::cache::Cache;
use liveiso::plan::{Arch, Package, RootMode};
use liveiso::source::{self, Archive, SecurityPolicy, Wanted};

use crate::archive::listing_by_python;

/// One cache for all tests that use the real archive, kept between runs.
fn real_cache() -> Cache {
    Cache::open(&PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("debian-cache")).unwrap()
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
        let mut dpkg = Command::new("dpkg-deb");
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
    let tree =
        source::configured_tree(&cache, Arch::I386, "bookworm", &packages, 1_700_000_000, &excludes).unwrap();
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
