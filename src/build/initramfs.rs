//! A kernel and its initramfs; once for each kernel of the medium.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::SOURCE_DIGEST;
use super::root::digests;
use crate::cache::{Cache, StageOutput};
use crate::format::squashfs;
use crate::initramfs::{self, Sizes};
use crate::inspect::signers;
use crate::kmod;
use crate::plan::{Arch, Initramfs, Layout, Plan};
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
    /// Digests of the root's packages, where programs come from them.
    programs: Vec<&'p str>,
    /// Digest of the root image and its compression, where they matter.
    root: Option<&'p str>,
    root_compression: crate::plan::Compression,
}

/// Makes the initramfs of the kernel for `arch` without the build id, and takes
/// that kernel out of its package. `plan` is that of the root which the kernel starts. The layout `resident` is made of `root`, which
/// others do not need.
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
            true => Vec::new(),
            false => digests(&plan.packages.root),
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
            false => source::unpacked_tree(cache, plan.arch, &plan.packages.root)?,
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
    initramfs::add_description(plan, &mut tree)?;
    initramfs::check_kernel(plan, arch, kernel, &tree)
        .context("comparing the kernel with what the image needs")?;
    let compression = plan.initramfs.compression;
    if plan.initramfs.layout != Layout::Squashed {
        return initramfs::pack(&tree, compression).context("packing the initramfs");
    }
    let modules = Sizes::of(&tree).modules;
    let (loader, squashed) = initramfs::squash(plan, &tree)?;
    let mut packed = initramfs::pack(&loader, compression).context("packing the initramfs")?;
    (packed.sizes.modules, packed.sizes.squashed) = (modules, squashed);
    Ok(packed)
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
    initramfs::add_description(plan, &mut tree)?;
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
