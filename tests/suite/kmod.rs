//! Kernel modules against Debian's kmod, on Debian's own kernels.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use liveiso::host::Tool;
use liveiso::kmod::{ModuleIndex, Request, depmod};
use liveiso::tree::{Content, Kind, Meta, Tree};

/// Trees of real packages, downloaded once into target/test-cache. To be
/// replaced by `liveiso::source` when that is there.
pub mod packages {
    use super::*;

    /// The kernel package `linux-image-<flavour>` depends on, and its release.
    pub fn kernel(arch: &str, flavour: &str) -> (Tree, String) {
        let apt = Apt::new(arch);
        let meta = format!("linux-image-{flavour}");
        let depends = Tool::new("apt-cache", "tests").unwrap().args(apt.options());
        let depends = depends.args(["depends", &meta]).output().unwrap();
        let depends = String::from_utf8(depends).unwrap();
        let name =
            depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-")).unwrap();
        (apt.package(&format!("linux-image-{name}")), name.to_string())
    }

    /// busybox-static.
    pub fn busybox(arch: &str) -> Tree {
        package(arch, "busybox-static")
    }

    /// The regular files of a package.
    pub fn package(arch: &str, name: &str) -> Tree {
        Apt::new(arch).package(name)
    }

    fn one_at_a_time() -> std::sync::MutexGuard<'static, ()> {
        static DOWNLOADING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        DOWNLOADING.lock().unwrap_or_else(|e| e.into_inner())
    }

    struct Apt {
        arch: String,
        dir: PathBuf,
    }

    impl Apt {
        /// Private state over the host's sources; an index that is out of step does not matter here.
        fn new(arch: &str) -> Apt {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-cache/apt").join(arch);
            let apt = Apt { arch: arch.to_string(), dir };
            let _guard = one_at_a_time();
            if !apt.dir.join("updated").exists() {
                for sub in ["state/lists/partial", "cache/archives/partial", "debs"] {
                    std::fs::create_dir_all(apt.dir.join(sub)).unwrap();
                }
                std::fs::write(apt.dir.join("status"), "").unwrap();
                let update = Tool::new("apt-get", "tests").unwrap().args(apt.options()).arg("update");
                update.capture().unwrap();
                std::fs::write(apt.dir.join("updated"), "").unwrap();
            }
            apt
        }

        fn options(&self) -> Vec<String> {
            let dir = self.dir.display();
            let options = [
                format!("APT::Architecture={}", self.arch),
                format!("APT::Architectures::={}", self.arch),
                format!("Dir::State={dir}/state"),
                format!("Dir::State::status={dir}/status"),
                format!("Dir::Cache={dir}/cache"),
                "APT::Sandbox::User=".to_string(),
            ];
            options.into_iter().flat_map(|option| ["-o".to_string(), option]).collect()
        }

        fn package(&self, name: &str) -> Tree {
            let debs = self.dir.join("debs").join(name);
            let guard = one_at_a_time();
            if !debs.exists() {
                let fresh = self.dir.join("debs").join(format!("{name}.new-{}", std::process::id()));
                std::fs::create_dir_all(&fresh).unwrap();
                let download = Tool::new("apt-get", "tests").unwrap().current_dir(&fresh);
                download.args(self.options()).args(["download", name]).output().unwrap();
                std::fs::rename(&fresh, &debs).unwrap();
            }
            drop(guard);
            let deb = std::fs::read_dir(&debs).unwrap().next().unwrap().unwrap().path();
            let tar =
                Tool::new("dpkg-deb", "tests").unwrap().arg("--fsys-tarfile").arg(&deb).output().unwrap();
            untar(&tar, name)
        }
    }

    fn untar(tar: &[u8], name: &str) -> Tree {
        let mut tree = Tree::new();
        let origin = tree.add_origin(name);
        for entry in tar::Archive::new(tar).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path_bytes().into_owned();
            if entry.header().entry_type().is_file() {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                let mode = entry.header().mode().unwrap() as u16;
                tree.add_file(&path, Content::bytes(bytes), Meta::mode(mode), origin).unwrap();
            }
        }
        tree
    }
}

/// Every module is read, is who its file name says, and finds what it needs.
#[test]
fn the_index_knows_every_module_of_a_kernel() {
    for (arch, flavour) in [("i386", "686"), ("amd64", "amd64")] {
        let (tree, version) = packages::kernel(arch, flavour);
        let index = ModuleIndex::read(&tree, &version).unwrap();
        let files = tree.walk().filter(|e| e.path.ends_with(b".ko")).count();
        assert_eq!(index.len(), files);
        assert!(files > 3000, "{files}");
        let odd = |m: &liveiso::kmod::IndexedModule| {
            let foreign = !m.module.vermagic.starts_with(&format!("{version} "));
            m.name != m.module.name || !m.missing_depends.is_empty() || foreign
        };
        let odd: Vec<_> = index.modules().filter(|(_, m)| odd(m)).map(|(_, m)| &m.path).collect();
        assert!(odd.is_empty(), "{odd:?}");
    }
}

#[test]
fn depmod_agrees_with_kmod() {
    let (mut tree, version) = packages::kernel("i386", "686");
    let scratch = tempfile::tempdir().unwrap();
    let (theirs, ours) = (scratch.path().join("theirs"), scratch.path().join("ours"));
    export(&tree, &theirs);
    kmod("depmod").arg("-b").arg(&theirs).arg("-C").arg(scratch.path()).arg(&version).output().unwrap();
    depmod(&mut tree, &version, 0).unwrap();
    // modprobe wants to see the modules, too; a link spares the second copy.
    let mut indexes = tree.clone();
    let kernel = format!("lib/modules/{version}/kernel");
    indexes.remove(kernel.as_bytes());
    export(&indexes, &ours);
    std::os::unix::fs::symlink(theirs.join(&kernel), ours.join(&kernel)).unwrap();
    let read =
        |root: &Path, name: &str| std::fs::read(root.join("lib/modules").join(&version).join(name)).unwrap();
    // One module a line, in the same order: nothing to sort.
    for name in ["modules.alias", "modules.softdep", "modules.devname"] {
        assert_eq!(lines(&read(&ours, name)), lines(&read(&theirs, name)), "{name}");
    }
    let sorted = |root: &Path| {
        let mut lines = lines(&read(root, "modules.symbols"));
        lines.sort();
        lines
    };
    assert_eq!(sorted(&ours), sorted(&theirs));
    let dep = |root: &Path| needs(&read(root, "modules.dep"));
    assert_eq!(dep(&ours), dep(&theirs));
    // Only modules.dep.bin has that freedom, too.
    for name in ["alias", "builtin", "builtin.alias", "symbols"].map(|n| format!("modules.{n}.bin")) {
        assert!(read(&ours, &name) == read(&theirs, &name), "{name} differs");
    }
    let index = ModuleIndex::read(&tree, &version).unwrap();
    same_dependencies(&index, &ours, &theirs);
}

fn kmod(program: &str) -> Tool {
    Tool::new(program, "tests").unwrap()
}

/// Lines without comments.
fn lines(text: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(text).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_string).collect()
}

/// modules.dep as sets: the order within a line is free where no module needs the other.
fn needs(text: &[u8]) -> Vec<(String, BTreeSet<String>)> {
    let split = |line: &String| {
        let (path, needed) = line.split_once(':').unwrap();
        (path.to_string(), needed.split_whitespace().map(str::to_string).collect())
    };
    lines(text).iter().map(split).collect()
}

/// `modprobe --show-depends` for every module: the same modules, each after what it needs.
fn same_dependencies(index: &ModuleIndex, ours: &Path, theirs: &Path) {
    let names: Vec<&str> = index.names().collect();
    let by_path: BTreeMap<&str, _> = index.modules().map(|(id, m)| (m.path.as_str(), id)).collect();
    for names in names.chunks(500) {
        let show = |root: &Path| {
            let modprobe =
                kmod("modprobe").arg("-d").arg(root).args(["-S", &index.version, "-C", "/dev/null"]);
            let text = modprobe.args(["-a", "--show-depends"]).args(names).output().unwrap();
            let root = format!("insmod {}/lib/modules/{}/", root.display(), index.version);
            let text = String::from_utf8(text).unwrap();
            let path = |line: &str| line.strip_prefix(&root).unwrap_or(line).trim().to_string();
            text.lines().map(path).collect::<Vec<String>>()
        };
        let (ours, theirs) = (show(ours), show(theirs));
        let (mut ours, mut theirs) = (ours.into_iter(), theirs.into_iter());
        for name in names {
            let module = index.get(index.find(name).unwrap());
            let upto = |lines: &mut std::vec::IntoIter<String>| {
                let mut shown = Vec::new();
                for line in lines.by_ref() {
                    let last = line == module.path;
                    shown.push(line);
                    if last {
                        break;
                    }
                }
                shown
            };
            let (mine, reference) = (upto(&mut ours), upto(&mut theirs));
            let mut loaded = BTreeSet::new();
            // `builtin x` stands for what the kernel has compiled in.
            for path in mine.iter().filter(|line| !line.starts_with("builtin ")) {
                let module = index.get(by_path[path.as_str()]);
                let ready = |id: &_| loaded.contains(index.get(*id).path.as_str());
                assert!(module.depends.iter().all(ready), "{name}: {path} comes too early in {mine:?}");
                loaded.insert(path.as_str());
            }
            let set = |paths: &[String]| paths.iter().cloned().collect::<BTreeSet<_>>();
            assert_eq!(set(&mine), set(&reference), "{name}");
        }
    }
}

/// Writes directories and files of a tree below a host directory.
fn export(tree: &Tree, root: &Path) {
    for entry in tree.walk() {
        let path = root.join(std::str::from_utf8(&entry.path).unwrap());
        match &entry.inode.kind {
            Kind::Directory(_) => std::fs::create_dir_all(path).unwrap(),
            Kind::File(content) => std::fs::write(path, content.read_all().unwrap()).unwrap(),
            _ => {}
        }
    }
}

#[test]
fn closures_of_a_real_kernel() {
    let (tree, version) = packages::kernel("i386", "686");
    let index = ModuleIndex::read(&tree, &version).unwrap();
    let wish = |pattern: &str, optional| Request { pattern: pattern.to_string(), optional };
    let names = |wishes: &[Request]| {
        let closure = index.closure(wishes).unwrap();
        closure.modules.iter().map(|&id| index.get(id).name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[wish("squashfs", false)]), ["squashfs"]);
    // Through `softdep pre: crypto-crc32c`, an alias of two modules.
    let ext4 = ["crc16", "crc32c_intel", "crc32c_generic", "jbd2", "mbcache", "ext4"];
    let mut found = names(&[wish("ext4", false)]);
    assert_eq!(found.last().map(String::as_str), Some("ext4"));
    found.sort();
    let mut expected = ext4.map(str::to_string);
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(names(&[wish("nls-iso8859_1", false)]), ["nls_iso8859_1"]);
    assert_eq!(names(&[wish("drivers/hid/hid-appl?", false)]).last().unwrap(), "hid_apple");

    let closure = index.closure(&[wish("zswap", false), wish("ntfs3", true)]).unwrap();
    assert_eq!((closure.builtin, closure.absent), (vec!["zswap".to_string()], vec!["ntfs3".to_string()]));

    let wishes =
        [wish("sqashfs", false), wish("loop", false), wish("drivers/atta/*", false), wish("qqqqqqq", false)];
    let error = index.closure(&wishes).unwrap_err();
    let expected = format!(
        "kernel {version} lacks the modules `sqashfs` (did you mean `squashfs`?), `drivers/atta/*`, `qqqqqqq`; \
         correct the names or make them optional"
    );
    assert_eq!(error.to_string(), expected);
}
