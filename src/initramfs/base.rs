//! The tree of the base archive.

use anyhow::{Context, Result, bail, ensure};

use super::INIT;
use super::modprobe;
use super::module_list::requests;
use crate::kmod::{Elf, ModuleIndex, kernel_versions};
use crate::plan::{Arch, Plan};
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
/// tree of the target's busybox-static package.
/// Modules are stored plain, so that busybox can load them, each with its
/// signature.
///
/// # Errors
/// No kernel or several in `root`, modules it lacks (all at once, by name),
/// modules that cannot be read, a busybox that is missing, dynamically linked
/// or of another architecture, and a plan whose names do not fit /init.
pub fn base_tree(plan: &Plan, root: &Tree, busybox: &Tree) -> Result<Tree> {
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
    for (path, text) in INIT {
        let mode = if *path == "init" { 0o755 } else { 0o644 };
        tree.add_file(path.as_bytes(), Content::bytes(*text), meta(mode), origin)?;
    }
    tree.add_file(b"etc/liveiso/medium", Content::bytes(medium(plan)?), meta(0o644), origin)?;
    add_modules(plan, root, &mut tree)?;
    Ok(tree)
}

/// What /init must know of the medium, as shell assignments.
fn medium(plan: &Plan) -> Result<String> {
    let arch = plan.arch.debian_name();
    let (dir, label) = (&plan.install_dir, &plan.iso_label);
    for value in [dir, label] {
        let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        ensure!(plain, "`{value}` cannot be a name on the medium: /init takes letters, digits and _");
    }
    Ok(format!("INSTALL_DIR={dir}\nIMAGE={arch}/airootfs.sfs\nVOLUME={label}\n"))
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
    let [version] = &versions[..] else {
        bail!("the root has modules of {} kernels, not of one: {}", versions.len(), versions.join(", "));
    };
    let index = ModuleIndex::read(root, version)?;
    let wishes = requests(&plan.initramfs.modules, &plan.initramfs.optional_modules);
    let closure = index.closure(&wishes)?;
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
    let texts = [
        ("modules.dep", modprobe::modules_dep(&index, &sorted)?),
        ("modules.alias", modprobe::modules_alias(&index, &sorted)?),
        ("modules.softdep", modprobe::modules_softdep(&index, &sorted)),
    ];
    for (name, text) in texts {
        tree.add_file(format!("{directory}/{name}").as_bytes(), Content::bytes(text), file_meta, origin)?;
    }
    copy_builtin(root, &index, tree, &directory, file_meta, origin)
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
