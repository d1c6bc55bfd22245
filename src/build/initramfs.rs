//! The initramfs and the kernel it belongs to.

use std::fs;

use anyhow::{Context, Result};
use serde::Serialize;

use super::SOURCE_DIGEST;
use super::root::digests;
use crate::cache::{Cache, StageOutput};
use crate::initramfs;
use crate::kmod;
use crate::plan::{Initramfs, Plan};
use crate::source;
use crate::tree::{Kind, Tree};

/// The compressed archive, without the build's id.
pub const BASE: &str = "initrd-base.img";
/// The kernel image.
pub const KERNEL: &str = "vmlinuz";
const SIZES: &str = "sizes.json";

#[derive(Serialize)]
struct Inputs<'p> {
    source: &'static str,
    arch: &'p str,
    names: [&'p str; 3],
    initramfs: &'p Initramfs,
    packages: [Vec<&'p str>; 2],
}

/// Makes the initramfs without the build id, and takes the kernel out of its package.
///
/// # Errors
/// Missing modules by name, a kernel package without a kernel.
pub fn stage(plan: &Plan, cache: &Cache) -> Result<StageOutput> {
    let inputs = Inputs {
        source: SOURCE_DIGEST,
        arch: plan.arch.debian_name(),
        names: [&plan.install_dir, &plan.iso_label, plan.root.image.format.file_name()],
        initramfs: &plan.initramfs,
        packages: [digests(&plan.packages.kernel), digests(&plan.packages.initramfs)],
    };
    cache.stage("initramfs", &inputs, |dir| {
        let kernel = source::unpacked_tree(cache, plan.arch, &plan.packages.kernel)?;
        let busybox = source::unpacked_tree(cache, plan.arch, &plan.packages.initramfs)?;
        let tree = initramfs::base_tree(plan, &kernel, &busybox, initramfs::INIT)
            .context("making the initramfs tree")?;
        let packed = initramfs::pack(&tree, plan.initramfs.compression).context("packing the initramfs")?;
        fs::write(dir.join(BASE), &packed.bytes).context("writing the initramfs")?;
        let sizes = serde_json::to_vec(&packed.sizes).context("serialising the initramfs sizes")?;
        fs::write(dir.join(SIZES), sizes).context("writing the initramfs sizes")?;
        fs::write(dir.join(KERNEL), kernel_image(&kernel)?).context("writing the kernel")
    })
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

/// Sizes for the manifest.
///
/// # Errors
/// A damaged cache entry.
pub fn sizes(output: &StageOutput) -> Result<serde_json::Value> {
    let json = fs::read(output.open(SIZES)?).context("reading the initramfs sizes")?;
    serde_json::from_slice(&json).context("parsing the initramfs sizes")
}
