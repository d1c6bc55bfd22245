//! A kernel and its initramfs; once for each kernel of the medium.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::SOURCE_DIGEST;
use super::description;
use super::root::{digests, lay_over};
use crate::cache::{Cache, StageOutput};
use crate::format::squashfs;
use crate::initramfs::{self, Sizes};
use crate::inspect::signers;
use crate::kmod;
use crate::plan::{Arch, Initramfs, Layout, Overlay, OverlayEntry, Plan};
use crate::resolve::{Blame, Mistake, Mistakes};
use crate::source;
use crate::tree::{Kind, Tree};

/// The archives, without the build's id.
pub const BASE: &str = "initrd-base.img";
/// The kernel image.
pub const KERNEL: &str = "vmlinuz";
const SIZES: &str = "sizes.json";
/// What a user should know about the initramfs, one a line.
const NOTES: &str = "notes.txt";
/// More than this in a root is no initramfs for anybody (bytes).
const MAX_RESIDENT: u64 = 2 << 30;

#[derive(Serialize)]
struct Inputs<'p> {
    source: &'static str,
    arch: &'p str,
    kernel_arch: &'p str,
    secure_boot: bool,
    timestamp: i64,
    names: [&'p str; 3],
    initramfs: &'p Initramfs,
    packages: [Vec<&'p str>; 2],
    /// Digests of the root's packages, and what of the overlays counts, where programs come from them.
    programs: (Vec<&'p str>, Vec<Overlay>),
    /// Digest of the root image and its compression, where they matter.
    root: Option<&'p str>,
    root_compression: crate::plan::Compression,
}

/// Makes the initramfs of the kernel for `arch` without the build id, and takes
/// that kernel out of its package. `plan` is that of the root which the kernel
/// starts. The layout `resident` is made of `root`, which others do not need.
///
/// # Errors
/// Missing modules by name, what the kernel cannot do, a kernel package without a
/// kernel, or, for Secure Boot, without a signed one.
pub fn stage(
    plan: &Plan,
    identity: &Plan,
    cache: &Cache,
    arch: Arch,
    root: Option<&StageOutput>,
) -> Result<StageOutput> {
    let image = plan.root.image.format.file_name();
    let kernel_packages = plan.kernel_packages(arch);
    let secure_boot = !plan.boot.secure_boot.is_empty();
    let inputs = Inputs {
        source: SOURCE_DIGEST,
        arch: plan.arch.debian_name(),
        kernel_arch: arch.debian_name(),
        secure_boot,
        timestamp: plan.timestamp,
        names: [&plan.install_dir, &plan.iso_label, image],
        initramfs: &identity.initramfs,
        packages: [digests(&kernel_packages), digests(&plan.packages.initramfs)],
        programs: match identity.initramfs.programs.is_empty() {
            true => Default::default(),
            false => (digests(&plan.packages.root), program_files(identity)),
        },
        root: root.map(|root| root.digest(image).sha256.as_str()),
        root_compression: plan.root.image.compression,
    };
    cache.stage("initramfs", &inputs, |dir| {
        let kernel = source::unpacked_tree(cache, arch, &kernel_packages)?;
        let packages = source::unpacked_tree(cache, plan.arch, &plan.packages.initramfs)?;
        // Kept apart from the base's packages: these give single programs only.
        let programs = match identity.initramfs.programs.is_empty() {
            true => Tree::new(),
            false => programs_tree(plan, cache)?,
        };
        let mut notes = String::new();
        let vmlinuz = kernel_image(&kernel)?;
        if secure_boot {
            let package = kernel_packages.first().map_or("", |package| package.name.as_str());
            let blame = if arch == identity.arch { Blame::Kernel } else { Blame::SecondKernel };
            check_signature(package, blame, &vmlinuz, &mut notes)?;
        }
        let image = match root {
            Some(root) => {
                let work = cache.work_dir()?;
                resident(plan, &kernel, root, &work.path, &mut notes)?
            }
            None => searching(plan, arch, &kernel, &packages, &programs)?,
        };
        let mut bytes = initramfs::microcode_archive(plan, &packages).context("packing the microcode")?;
        let microcode = bytes.len() as u64;
        bytes.extend(image.bytes);
        let sizes = Sizes { microcode, unpacked: image.sizes.unpacked + microcode, ..image.sizes };
        fs::write(dir.join(BASE), &bytes).context("writing the initramfs")?;
        let sizes = serde_json::to_vec(&sizes).context("serialising the initramfs sizes")?;
        fs::write(dir.join(SIZES), sizes).context("writing the initramfs sizes")?;
        fs::write(dir.join(NOTES), notes).context("writing the notes")?;
        fs::write(dir.join(KERNEL), vmlinuz).context("writing the kernel")
    })
}

/// The root's packages and what of its overlays could be a program. Nothing is excluded yet, so that
/// a program may be in the initramfs alone.
fn programs_tree(plan: &Plan, cache: &Cache) -> Result<Tree> {
    let mut tree = source::unpacked_tree(cache, plan.arch, &plan.packages.root)?;
    for overlay in program_files(plan) {
        lay_over(&mut tree, &overlay)
            .with_context(|| format!("laying {} over the packages", overlay.origin))?;
    }
    Ok(tree)
}

/// Of the overlays what is a program, or what one may need: executable files, shared libraries, links,
/// and whatever `programs` names. Other files may change without a new initramfs.
fn program_files(plan: &Plan) -> Vec<Overlay> {
    let programs = &plan.initramfs.programs;
    let counts = |path: &str, entry: &OverlayEntry| match entry {
        OverlayEntry::Directory => false,
        OverlayEntry::Symlink { .. } => true,
        OverlayEntry::File { executable, .. } => {
            let name = path.rsplit('/').next().unwrap_or_default();
            let is_library = name.ends_with(".so") || name.contains(".so.");
            *executable || is_library || programs.iter().any(|p| p.trim_start_matches('/') == path)
        }
    };
    let of = |overlay: &Overlay| {
        let files = overlay.files.iter().filter(|(path, entry)| counts(path, entry));
        let files = files.map(|(path, entry)| (path.clone(), entry.clone()));
        Overlay { origin: overlay.origin.clone(), files: files.collect() }
    };
    plan.overlays.iter().map(of).filter(|overlay| !overlay.files.is_empty()).collect()
}

/// /init with its modules, plain or squashed.
fn searching(
    plan: &Plan,
    arch: Arch,
    kernel: &Tree,
    packages: &Tree,
    programs: &Tree,
) -> Result<initramfs::Packed> {
    let mut tree =
        initramfs::base_tree(plan, kernel, packages, initramfs::INIT).context("making the initramfs tree")?;
    initramfs::add_programs(plan, programs, &mut tree)?;
    initramfs::add_hooks(plan, &mut tree)?;
    describe(plan, &mut tree)?;
    initramfs::check_kernel(plan, arch, kernel, &tree)
        .context("comparing the kernel with what the image needs")?;
    let compression = plan.initramfs.compression;
    if plan.initramfs.layout != Layout::Squashed {
        return initramfs::pack(&tree, compression).context("packing the initramfs");
    }
    let modules = Sizes::of(&tree).modules;
    let (loader, squashed) = initramfs::squash(&tree, compression, plan.timestamp)?;
    let mut packed = initramfs::pack(&loader, compression).context("packing the initramfs")?;
    (packed.sizes.modules, packed.sizes.squashed) = (modules, squashed);
    Ok(packed)
}

fn describe(plan: &Plan, tree: &mut Tree) -> Result<()> {
    description::add(&plan.initramfs.description, "initramfs description", plan.timestamp, tree)
}

/// The root as it is in its image.
fn resident(
    plan: &Plan,
    kernel: &Tree,
    root: &StageOutput,
    work: &Path,
    notes: &mut String,
) -> Result<initramfs::Packed> {
    let scratch = work.join("root");
    let image = root.open(plan.root.image.format.file_name())?;
    let mut tree = squashfs::read(&image, &scratch, MAX_RESIDENT).context("reading the root")?;
    for path in initramfs::make_resident(plan, &mut tree)? {
        notes.push_str(&format!("{path} lost its capabilities: an initramfs has no extended attributes\n"));
    }
    describe(plan, &mut tree)?;
    initramfs::check_kernel(plan, plan.arch, kernel, &tree)
        .context("comparing the kernel with what the image needs")?;
    initramfs::pack(&tree, plan.initramfs.compression).context("packing the initramfs")
}

fn kernel_image(tree: &Tree) -> Result<Vec<u8>> {
    let version = kmod::kernel_versions(tree).pop().context("the kernel package has no modules")?;
    let path = format!("boot/vmlinuz-{version}");
    let id = tree.get(path.as_bytes()).with_context(|| format!("the kernel package has no /{path}"))?;
    match &tree.inode(id).kind {
        Kind::File(content) => content.read_all(),
        other => anyhow::bail!("/{path} in the kernel package is a {}, not a file", other.word()),
    }
}

/// shim trusts Debian's certificate; any other signer's must be enrolled on every machine.
const TRUSTED: &str = "Debian Secure Boot CA";

/// Refuses the kernel of a package that no firmware with Secure Boot would start.
fn check_signature(package: &str, blame: Blame, vmlinuz: &[u8], notes: &mut String) -> Result<()> {
    let reason = match signers(vmlinuz) {
        Ok(signers) if signers.iter().any(|signer| signer.issuer == TRUSTED) => return Ok(()),
        Ok(signers) => {
            let names: Vec<&str> = signers.iter().map(|signer| signer.subject.as_str()).collect();
            notes.push_str(&format!(
                "kernel package {package} is signed by {}: under Secure Boot it starts only where that \
                 certificate was enrolled by MokManager\n",
                names.join(", ")
            ));
            return Ok(());
        }
        Err(reason) => reason,
    };
    let help = match package.strip_suffix("-unsigned") {
        Some(signed) => format!("take `{signed}`, or remove `secure-boot` from [boot]"),
        None => "take one of Debian's signed kernels, or remove `secure-boot` from [boot]".to_string(),
    };
    let message = format!("the kernel of package `{package}` {reason}: Secure Boot refuses it");
    Err(Mistakes(vec![Mistake { blame, message, help }]).into())
}

/// What the initramfs weighs.
///
/// # Errors
/// A damaged cache entry.
pub fn sizes(output: &StageOutput) -> Result<Sizes> {
    let json = fs::read(output.open(SIZES)?).context("reading the initramfs sizes")?;
    serde_json::from_slice(&json).context("parsing the initramfs sizes")
}

/// What the stage has to tell a user, kept with its result so that a cached build says it too.
///
/// # Errors
/// A damaged cache entry.
pub fn notes(output: &StageOutput) -> Result<Vec<String>> {
    let text = fs::read_to_string(output.open(NOTES)?).context("reading the notes of the initramfs")?;
    Ok(text.lines().map(str::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::initramfs::test_plan;
    use crate::kmod::testing::{Bits, program};
    use crate::plan::InputFile;
    use crate::tree::listing;

    /// A program of airootfs with a library of airootfs, behind a link; what is no program does not count.
    #[test]
    fn programs_of_airootfs_come_with_their_libraries() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: Vec<u8>, executable| {
            let path = dir.path().join(name);
            fs::write(&path, &bytes).unwrap();
            let (size, sha256) = (bytes.len() as u64, crate::cache::hex_sha256(&bytes));
            let content = InputFile { path: Some(path), size, sha256 };
            OverlayEntry::File { executable, content }
        };
        let tool = program(Bits::Elf32, "/lib/ld.so.2", &["libours.so.1"], None);
        let library = program(Bits::Elf32, "/lib/ld.so.2", &[], None);
        let link = OverlayEntry::Symlink { target: "tool-1".to_string() };
        let files = [
            ("usr/local/bin/tool", link),
            ("usr/local/bin/tool-1", file("tool", tool, true)),
            ("usr/local/lib/libours.so.1", file("library", library.clone(), false)),
            ("usr/lib/ld.so.2", file("loader", library, true)),
            ("etc/tool.conf", file("conf", b"x".to_vec(), false)),
            ("etc/motd", file("motd", b"y".to_vec(), false)),
            ("srv/", OverlayEntry::Directory),
        ];
        let mut plan = test_plan("i386", &[]);
        let files = files.map(|(path, entry)| (path.to_string(), entry));
        plan.overlays = vec![Overlay { origin: "airootfs".to_string(), files: files.into() }];
        plan.initramfs.programs = vec!["/usr/local/bin/tool".to_string(), "/etc/tool.conf".to_string()];
        let chosen = program_files(&plan);
        let names: Vec<&str> = chosen[0].files.keys().map(String::as_str).collect();
        let expected = [
            "etc/tool.conf",
            "usr/lib/ld.so.2",
            "usr/local/bin/tool",
            "usr/local/bin/tool-1",
            "usr/local/lib/libours.so.1",
        ];
        assert_eq!(names, expected);

        let mut root = source::merged_root(Arch::I386).unwrap();
        lay_over(&mut root, &chosen[0]).unwrap();
        let mut tree = Tree::new();
        initramfs::add_programs(&plan, &root, &mut tree).unwrap();
        let listing = listing(&tree).unwrap();
        let files: Vec<&str> = listing.lines().filter_map(|line| line.strip_prefix("file ")).collect();
        let files: Vec<&str> = files.iter().map(|line| line.split(" 0 0").next().unwrap()).collect();
        let expected = [
            "/etc/tool.conf 0644",
            "/lib/ld.so.2 0755",
            "/lib/libours.so.1 0644",
            "/usr/local/bin/tool 0755",
        ];
        assert_eq!(files, expected);
    }

    #[test]
    fn an_unsigned_kernel_is_refused_by_the_name_of_its_package() {
        for (package, help) in [
            ("linux-image-own", "take one of Debian's signed kernels"),
            ("linux-image-6.1.0-50-686-unsigned", "take `linux-image-6.1.0-50-686`"),
        ] {
            let mut notes = String::new();
            let error = check_signature(package, Blame::Kernel, b"MZ", &mut notes).unwrap_err();
            let expected = format!(
                "the kernel of package `{package}` is no EFI program: Secure Boot refuses it; {help}, \
                 or remove `secure-boot` from [boot]"
            );
            assert_eq!((error.to_string(), notes), (expected, String::new()));
        }
    }
}
