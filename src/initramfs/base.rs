//! The tree of the base archive.

use anyhow::{Context, Result, bail, ensure};

use super::ioctl::ioctl_program;
use super::modprobe;
use super::module_list::requests;
use crate::kmod::{Elf, MissingModules, ModuleIndex, kernel_versions};
use crate::plan::{Arch, Plan};
use crate::resolve::{Blame, Mistake, Mistakes};
use crate::tree::{Content, Device, Kind, Meta, OriginId, Tree};

/// Directories with their modes: mount points, and what /init and the kernel expect.
const DIRECTORIES: [(&str, u16); 11] = [
    ("", 0o755),
    ("bin", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/liveiso", 0o755),
    ("newroot", 0o755),
    ("proc", 0o555),
    ("run", 0o755),
    ("sbin", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
];

/// Everything of the initramfs but the build id.
///
/// `root` has one kernel's modules below `usr/lib/modules`; `busybox` is the
/// tree of the target's busybox-static package; `init` is /init and its parts
/// by path, [`super::INIT`] in a build. Modules are stored plain, so that busybox can load them, each with its
/// signature.
///
/// # Errors
/// No kernel or several in `root`, modules it lacks (all at once, by name),
/// modules that cannot be read, a busybox that is missing, dynamically linked
/// or of another architecture, and a plan whose names do not fit /init.
pub fn base_tree(plan: &Plan, root: &Tree, busybox: &Tree, init: &[(&str, &[u8])]) -> Result<Tree> {
    let mut tree = Tree::new();
    let meta = |mode| Meta { mtime: plan.timestamp, ..Meta::mode(mode) };
    let origin = tree.add_origin("initramfs");
    for (path, mode) in DIRECTORIES {
        tree.add_directory(path.as_bytes(), meta(mode), origin)?;
    }
    // Debian's kernels bring this node themselves; others may not.
    tree.add_char_device(b"dev/console", Device { major: 5, minor: 1 }, meta(0o600), origin)?;
    let shell = tree.add_origin("busybox-static");
    tree.add_file(b"bin/busybox", static_busybox(plan, busybox)?, meta(0o755), shell)?;
    tree.add_symlink(b"bin/sh", b"busybox", meta(0o777), origin)?;
    // The kernel itself calls /sbin/modprobe for code pages, ciphers and the like.
    tree.add_symlink(b"sbin/modprobe", b"../bin/busybox", meta(0o777), origin)?;
    for (path, text) in init {
        let mode = if *path == "init" { 0o755 } else { 0o644 };
        tree.add_file(path.as_bytes(), Content::bytes(*text), meta(mode), origin)?;
    }
    if plan.root.verity {
        tree.add_file(b"bin/ioctl", Content::bytes(ioctl_program(plan.arch)), meta(0o755), origin)?;
    }
    tree.add_file(b"etc/liveiso/medium", Content::bytes(medium(plan)?), meta(0o644), origin)?;
    add_modules(plan, root, &mut tree)?;
    Ok(tree)
}

/// What /init must know of the medium, as shell assignments.
fn medium(plan: &Plan) -> Result<String> {
    let arch = plan.arch.debian_name();
    let (dir, label) = (&plan.install_dir, &plan.iso_label);
    let image = plan.root.image.format.file_name();
    for value in [dir, label] {
        let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        ensure!(plain, "`{value}` cannot be a name on the medium: /init takes letters, digits and _");
    }
    Ok(format!("INSTALL_DIR={dir}\nIMAGE={arch}/{image}\nVOLUME={label}\n"))
}

fn static_busybox(plan: &Plan, busybox: &Tree) -> Result<Content> {
    let found = ["bin/busybox", "usr/bin/busybox"].iter().find_map(|p| busybox.resolve(p.as_bytes()).ok());
    let id = found.context("busybox-static has no bin/busybox")?;
    let Kind::File(content) = &busybox.inode(id).kind else {
        bail!("bin/busybox of busybox-static is not a regular file");
    };
    let bytes = content.read_all()?;
    let elf = Elf::parse(&bytes).map_err(|e| anyhow::anyhow!("bin/busybox of busybox-static {e}"))?;
    ensure!(
        !elf.wants_interpreter().map_err(|e| anyhow::anyhow!("bin/busybox of busybox-static {e}"))?,
        "bin/busybox is dynamically linked; the initramfs needs the one of busybox-static"
    );
    let machine = elf.machine();
    ensure!(
        machine == elf_machine(plan.arch),
        "bin/busybox is for ELF machine {machine}, not for {}",
        plan.arch.debian_name()
    );
    Ok(content.clone())
}

/// `e_machine` of the gABI.
fn elf_machine(arch: Arch) -> u16 {
    match arch {
        Arch::I386 => 3,
        Arch::Amd64 => 62,
    }
}

fn add_modules(plan: &Plan, root: &Tree, tree: &mut Tree) -> Result<()> {
    let versions = kernel_versions(root);
    let version = match &versions[..] {
        [] => bail!("the root has modules of no kernel"),
        [version] => version,
        several => bail!("the root has modules of several kernels: {}; keep one", several.join(", ")),
    };
    let index = ModuleIndex::read(root, version)?;
    let wishes = requests(&plan.initramfs.modules, &plan.initramfs.optional_modules);
    let closure = index.closure(&wishes).map_err(|missing| mistakes(&missing))?;
    let directory = format!("lib/modules/{version}");
    let file_meta = Meta { mtime: plan.timestamp, ..Meta::mode(0o644) };
    let origin = tree.add_origin(format!("kernel {version}"));
    for &id in &closure.modules {
        let path = format!("{directory}/{}", index.get(id).plain_path());
        let ko = Content::bytes(index.plain_module(root, id)?);
        tree.add_file(path.as_bytes(), ko, file_meta, origin)?;
    }
    let mut sorted = closure.modules.clone();
    sorted.sort();
    for (name, text) in modprobe::module_texts(&index, &sorted)? {
        tree.add_file(format!("{directory}/{name}").as_bytes(), Content::bytes(text), file_meta, origin)?;
    }
    copy_builtin(root, &index, tree, &directory, file_meta, origin)
}

/// The profile names modules, so their absence is its mistake.
fn mistakes(missing: &MissingModules) -> Mistakes {
    let version = &missing.version;
    let mistake = |module: &crate::kmod::MissingModule| {
        let name = &module.request;
        let needed = module.needed_by.as_ref().map(|user| format!(", which `{user}` needs"));
        let help = match &module.suggestion {
            Some(close) => format!("did you mean `{close}`?"),
            None => "correct the name, or move it to `optional-modules`".to_string(),
        };
        Mistake {
            blame: Blame::Module(name.clone()),
            message: format!("kernel {version} has no module `{name}`{}", needed.unwrap_or_default()),
            help,
        }
    };
    Mistakes(missing.missing.iter().map(mistake).collect())
}

/// modules.builtin keeps modprobe quiet about what the kernel has compiled in.
fn copy_builtin(
    root: &Tree,
    index: &ModuleIndex,
    tree: &mut Tree,
    directory: &str,
    meta: Meta,
    origin: OriginId,
) -> Result<()> {
    let source = format!("{}/modules.builtin", index.directory);
    let id = root.get(source.as_bytes()).with_context(|| format!("`{source}` is missing"))?;
    let Kind::File(content) = &root.inode(id).kind else {
        bail!("`{source}` is not a regular file");
    };
    let path = format!("{directory}/modules.builtin");
    tree.add_file(path.as_bytes(), content.clone(), meta, origin)?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::kmod::testing::{Bits, add_text, kernel, ko};
    use crate::tree::listing;

    /// A plan as the resolver would make it, for these modules.
    pub(crate) fn plan(arch: &str, modules: &[&str]) -> Plan {
        let plan = serde_json::json!({
            "plan-version": 1, "iso-name": "t", "iso-version": "1", "iso-label": "LIVEISO_T",
            "iso-publisher": "", "iso-application": "", "install-dir": "liveiso", "arch": arch,
            "timestamp": 1000,
            "debian": {"suite": "bookworm", "sources": [], "left-out": []},
            "packages": {"root": [], "kernel": [], "loaders": [], "initramfs": []},
            "root": {"mode": "unpacked", "exclude": [], "file-permissions": {},
                     "image": {"compression": "zstd", "level": 15, "block-size": 131_072}},
            "initramfs": {"compression": "zstd", "modules": modules, "optional-modules": ["ntfs3"]},
            "boot": {"bootmodes": [], "title": "", "timeout": 0, "kernel-parameters": "", "serial": null},
            "overlays": [], "efiboot": {},
        });
        serde_json::from_value(plan).unwrap()
    }

    fn root() -> Tree {
        let mut root = kernel(&[
            ("kernel/fs/fat/vfat.ko", "depends=fat|alias=fs-vfat"),
            ("kernel/fs/fat/fat.ko.zst", ""),
            ("kernel/fs/xfs.ko", "alias=fs-xfs"),
        ]);
        add_text(&mut root, "modules.builtin", "kernel/fs/ramfs.ko\n");
        root
    }

    fn busybox(program: Vec<u8>) -> Tree {
        let mut tree = Tree::new();
        let origin = tree.add_origin("busybox-static");
        tree.add_file(b"usr/bin/busybox", Content::bytes(program), Meta::mode(0o755), origin).unwrap();
        tree
    }

    /// A whole small base tree.
    pub(crate) fn small_base() -> Tree {
        let busybox = busybox(ko(Bits::Elf32, &[], &[]));
        base_tree(&plan("i386", &["vfat", "ramfs"]), &root(), &busybox, &[("init", b"#!/bin/sh\n")]).unwrap()
    }

    #[test]
    fn the_whole_base() {
        let tree = small_base();
        let listing = listing(&tree).unwrap();
        let shown: String =
            listing.lines().map(|line| format!("{}\n", line.split(" sha256").next().unwrap())).collect();
        let expected = "\
dir / 0755 0 0 mtime=1000
dir /bin 0755 0 0 mtime=1000
file /bin/busybox 0755 0 0 mtime=1000 size=289
slink /bin/sh 0777 0 0 busybox mtime=1000
dir /dev 0755 0 0 mtime=1000
nod /dev/console 0600 0 0 c 5 1 mtime=1000
dir /etc 0755 0 0 mtime=1000
dir /etc/liveiso 0755 0 0 mtime=1000
file /etc/liveiso/medium 0644 0 0 mtime=1000 size=61
file /init 0755 0 0 mtime=1000 size=10
dir /lib 0755 0 0 mtime=1000
dir /lib/modules 0755 0 0 mtime=1000
dir /lib/modules/6.1.0-t 0755 0 0 mtime=1000
dir /lib/modules/6.1.0-t/kernel 0755 0 0 mtime=1000
dir /lib/modules/6.1.0-t/kernel/fs 0755 0 0 mtime=1000
dir /lib/modules/6.1.0-t/kernel/fs/fat 0755 0 0 mtime=1000
file /lib/modules/6.1.0-t/kernel/fs/fat/fat.ko 0644 0 0 mtime=1000 size=289
file /lib/modules/6.1.0-t/kernel/fs/fat/vfat.ko 0644 0 0 mtime=1000 size=315
file /lib/modules/6.1.0-t/modules.alias 0644 0 0 mtime=1000 size=19
file /lib/modules/6.1.0-t/modules.builtin 0644 0 0 mtime=1000 size=19
file /lib/modules/6.1.0-t/modules.dep 0644 0 0 mtime=1000 size=66
file /lib/modules/6.1.0-t/modules.softdep 0644 0 0 mtime=1000 size=0
dir /newroot 0755 0 0 mtime=1000
dir /proc 0555 0 0 mtime=1000
dir /run 0755 0 0 mtime=1000
dir /sbin 0755 0 0 mtime=1000
slink /sbin/modprobe 0777 0 0 ../bin/busybox mtime=1000
dir /sys 0555 0 0 mtime=1000
dir /tmp 1777 0 0 mtime=1000
";
        assert_eq!(shown, expected);
        let text = |path: &str| {
            let Kind::File(content) = &tree.inode(tree.get(path.as_bytes()).unwrap()).kind else {
                panic!("{path}")
            };
            String::from_utf8(content.read_all().unwrap()).unwrap()
        };
        assert_eq!(
            text("etc/liveiso/medium"),
            "INSTALL_DIR=liveiso\nIMAGE=i386/airootfs.sfs\nVOLUME=LIVEISO_T\n"
        );
        let dep = "kernel/fs/fat/fat.ko:\nkernel/fs/fat/vfat.ko: kernel/fs/fat/fat.ko\n";
        assert_eq!(text("lib/modules/6.1.0-t/modules.dep"), dep);
        assert_eq!(text("lib/modules/6.1.0-t/modules.alias"), "alias fs-vfat vfat\n");
    }

    #[test]
    fn what_would_not_boot_is_refused() {
        let good = || ko(Bits::Elf32, &[], &[]);
        let refusal = |plan: &Plan, root: &Tree, program: Vec<u8>, init: &[(&str, &[u8])]| {
            format!("{:#}", base_tree(plan, root, &busybox(program), init).unwrap_err())
        };
        let init: &[(&str, &[u8])] = &[("init", b"#!/bin/sh\n")];
        let plain = plan("i386", &["vfat"]);
        let mut dynamic = good();
        // One program header of type PT_INTERP at the end of the file.
        let at = (dynamic.len() as u32).to_le_bytes();
        dynamic[28..32].copy_from_slice(&at);
        dynamic[42..46].copy_from_slice(&[32, 0, 1, 0]);
        dynamic.extend([3, 0, 0, 0]);
        dynamic.extend([0; 28]);
        let mut two = root();
        let origin = two.add_origin("other kernel");
        two.add_directory(b"usr/lib/modules/6.9", Meta::mode(0o755), origin).unwrap();
        let mut spaced = plain.clone();
        spaced.iso_label = "LIVE ISO".to_string();
        let cases = [
            (
                refusal(&plain, &root(), b"#!/bin/sh".to_vec(), init),
                "bin/busybox of busybox-static is too short for an ELF file",
            ),
            (
                refusal(&plain, &root(), dynamic, init),
                "bin/busybox is dynamically linked; the initramfs needs the one of busybox-static",
            ),
            (
                refusal(&plan("amd64", &[]), &root(), good(), init),
                "bin/busybox is for ELF machine 3, not for amd64",
            ),
            (refusal(&plain, &Tree::new(), good(), init), "the root has modules of no kernel"),
            (
                refusal(&plain, &two, good(), init),
                "the root has modules of several kernels: 6.1.0-t, 6.9; keep one",
            ),
            (
                refusal(&spaced, &root(), good(), init),
                "`LIVE ISO` cannot be a name on the medium: /init takes letters, digits and _",
            ),
            (
                refusal(&plan("i386", &["vfatt", "xffs"]), &root(), good(), init),
                "kernel 6.1.0-t has no module `vfatt`; did you mean `vfat`?\n\
                 kernel 6.1.0-t has no module `xffs`; did you mean `xfs`?",
            ),
        ];
        for (found, expected) in cases {
            assert_eq!(found, expected);
        }
        let error = base_tree(&plain, &root(), &Tree::new(), init).unwrap_err();
        assert_eq!(error.to_string(), "busybox-static has no bin/busybox");
    }
}
