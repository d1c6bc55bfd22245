//! Kernel modules against Debian's kmod, on Debian's own kernels.

use std::io::Read;
use std::path::{Path, PathBuf};

use liveiso::host::Tool;
use liveiso::kmod::ModuleIndex;
use liveiso::tree::{Content, Meta, Tree};

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
        Apt::new(arch).package("busybox-static")
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

#[test]
fn the_index_knows_every_module_of_a_kernel() {
    let (tree, version) = packages::kernel("i386", "686");
    let index = ModuleIndex::read(&tree, &version).unwrap();
    let files = tree.walk().filter(|e| e.path.ends_with(b".ko")).count();
    assert_eq!(index.len(), files);
    assert!(files > 3000, "{files}");
    let wrong: Vec<_> =
        index.modules().filter(|(_, m)| m.name != m.module.name).map(|(_, m)| &m.path).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    let missing: Vec<_> = index.modules().filter(|(_, m)| !m.missing_depends.is_empty()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
