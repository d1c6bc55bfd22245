//! The build on one page: from a plan to finished artifacts.
//!
//! 1. Packages are in the cache; each is compared with its pinned digest when it is unpacked.
//! 2. [`base`]: packages + kernel modules → tree; [`root`]: that + overlays + rules → squashfs or EROFS;
//!    for each root.
//! 3. [`initramfs`]: /init + modules + busybox → newc cpio, compressed; for each kernel.
//! 4. The build id: a digest of all that, and the name of the medium's marker file.
//! 5. [`iso`]: menus and loaders → ESP (FAT) → hybrid ISO.
//!    [`disk`]: the same files as a disk image, if the profile wants one.
//! 6. Manifest, package list and checksum; everything is published, or nothing.
//!
//! 2 and 3 run side by side. Each stage is a plain function whose result the
//! cache keeps under the digest of its inputs; a hit never changes a byte.

pub mod base;
mod description;
pub mod disk;
mod init_system;
pub mod initramfs;
pub mod iso;
pub mod root;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;

use crate::cache::{Cache, FileDigest, StageOutput, hex_sha256, retry_damaged};
use crate::initramfs::Kernel;
use crate::manifest::{FirmwareReads, InitramfsReport, Manifest, Measured, package_list};
use crate::output::{Artifact, prepare, publish};
use crate::plan::{Arch, Budget, Layout, Package, Plan};
use crate::source;

/// Part of every stage key that our own code decides: another version of the program, another key.
const SOURCE_DIGEST: &str = env!("LIVEISO_SOURCE_DIGEST");

/// Every stage in the order of this page; the first four are made for others.
pub const STAGES: [&str; 8] =
    ["resolution", "configured-root", "data-tar", "base-tree", "root", "initramfs", "iso", "disk"];

/// What a caller chooses that no byte of the result may depend on.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Directory of the artifacts.
    pub out: PathBuf,
    /// Threads for compression.
    pub jobs: NonZeroUsize,
    /// Whether packages may be downloaded.
    pub offline: bool,
}

/// What a build made.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Built {
    /// Paths of the artifacts; the ISO comes first.
    pub artifacts: Vec<PathBuf>,
    /// The id by which /init finds its medium.
    pub build_id: String,
    /// What a user should know and could overlook.
    pub notes: Vec<String>,
    /// Sizes of what matters on small machines, by name, in bytes.
    pub sizes: BTreeMap<String, u64>,
    /// What unpacking the initramfs takes.
    pub initramfs: InitramfsReport,
    /// What a BIOS reads before the kernel runs.
    pub firmware_reads: FirmwareReads,
    /// The same for the second kernel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_initramfs: Option<InitramfsReport>,
}

/// Builds everything a plan asks for and publishes it under `options.out`.
///
/// # Errors
/// The world's failures, as chains that begin with the object.
pub fn build(plan: &Plan, cache: &Cache, options: &BuildOptions) -> Result<Built> {
    prepare(&options.out)
        .and_then(|()| retry_damaged(|| build_once(plan, cache, options)))
        .with_context(|| format!("cannot build {}.iso", plan.artifact_stem()))
}

fn build_once(plan: &Plan, cache: &Cache, options: &BuildOptions) -> Result<Built> {
    let plan_identity = plan.identity();
    fetch_packages(plan, cache, options)?;
    let (roots, kernels) = images(plan, &plan_identity, cache, options.jobs)?;
    check_budget(plan, &kernels)?;
    let build_id = build_id(&plan_identity, &roots, &kernels)?;
    let iso = iso::stage(plan, cache, &build_id, &roots, &kernels)?;
    iso::check_size(iso.digest(iso::ISO).size, &plan.budget)?;
    let disk =
        plan.disk_image.map(|table| disk::stage(plan, cache, &build_id, table, (&roots, &kernels, &iso)));
    let outputs = Outputs { roots, kernels, iso, disk: disk.transpose()? };
    finish(plan, plan_identity, options, build_id, &outputs)
}

/// The stages whose files are published.
struct Outputs {
    roots: Roots,
    kernels: Kernels,
    iso: StageOutput,
    disk: Option<StageOutput>,
}

/// Every kernel and its initramfs by architecture, the root's own first.
pub type Kernels = Vec<(Arch, StageOutput)>;

/// Every root by architecture, the main one first.
pub type Roots = Vec<(Arch, StageOutput)>;

/// Machines that take the second kernel are not the small ones the memory budget is for.
fn check_budget(plan: &Plan, kernels: &Kernels) -> Result<()> {
    for (arch, initramfs) in kernels {
        let memory = plan.budget.memory.filter(|_| *arch == plan.arch);
        initramfs::sizes(initramfs)?.check(Kernel::of(plan, *arch), &Budget { memory, ..plan.budget })?;
    }
    Ok(())
}

/// Roots and initramfs side by side, or, where the initramfs is the root, one after the other.
fn images(plan: &Plan, identity: &Plan, cache: &Cache, jobs: NonZeroUsize) -> Result<(Roots, Kernels)> {
    let kernels = |root| -> Result<Kernels> {
        let stage = |arch| {
            let plan = plan.of_root(plan.root_of(arch));
            Ok((arch, initramfs::stage(&plan, identity, cache, arch, root)?))
        };
        plan.kernels().map(stage).collect()
    };
    let roots = || -> Result<Roots> {
        let stage = |arch| Ok((arch, root::stage(&plan.of_root(arch), identity, cache, jobs)?));
        plan.roots().map(stage).collect()
    };
    if plan.initramfs.layout == Layout::Resident {
        let roots = roots()?;
        let kernels = kernels(roots.first().map(|(_, root)| root))?;
        return Ok((roots, kernels));
    }
    std::thread::scope(|scope| {
        let kernels = scope.spawn(|| kernels(None));
        let roots = roots();
        let kernels = kernels.join().unwrap_or_else(|_| Err(anyhow!("the initramfs stage panicked")));
        Ok((roots?, kernels?))
    })
}

fn fetch_packages(plan: &Plan, cache: &Cache, options: &BuildOptions) -> Result<()> {
    let all: Vec<Package> = plan.packages.lists().into_iter().flatten().cloned().collect();
    source::fetch(cache, plan.arch, &plan.debian.sources, &all, options.offline)
        .context("fetching packages")?;
    Ok(())
}

/// 96 bits from everything that makes this build what it is: two builds share it
/// only when they are the same build. 24 digits plus suffix stay within what
/// plain ISO 9660 level 3 names can hold.
fn build_id(plan: &Plan, roots: &Roots, kernels: &Kernels) -> Result<String> {
    let initramfs: Vec<_> = kernels.iter().map(|(_, initramfs)| &initramfs.files).collect();
    let roots: Vec<_> = roots.iter().map(|(_, root)| &root.files).collect();
    let parts = (SOURCE_DIGEST, plan, roots, initramfs);
    let digest = hex_sha256(&serde_json::to_vec(&parts).context("serialising the plan")?);
    Ok(digest[..24].to_string())
}

fn finish(
    plan: &Plan,
    plan_identity: Plan,
    options: &BuildOptions,
    build_id: String,
    Outputs { roots, kernels, iso, disk }: &Outputs,
) -> Result<Built> {
    let stem = plan.artifact_stem();
    let iso_name = format!("{stem}.iso");
    let iso_digest = iso.digest(iso::ISO).clone();
    let mut notes = plan.debian.left_out.clone();
    // The only one needs no name, and neither does the first of two.
    let prefix =
        |arch: Arch| if arch == plan.arch { String::new() } else { format!("{}/", arch.debian_name()) };
    let mut images: BTreeMap<String, FileDigest> = BTreeMap::new();
    for (arch, root) in roots {
        notes.extend(root::notes(root)?);
        // A resident root is in the initramfs.
        if plan.initramfs.layout != Layout::Resident {
            let name = plan.root.image.format.file_name();
            images.insert(format!("{}{name}", prefix(*arch)), root.digest(name).clone());
        }
    }
    let mut reports = Vec::new();
    for (arch, initramfs) in kernels {
        notes.extend(initramfs::notes(initramfs)?);
        let initrd = iso::initrd(*arch);
        let prefix = prefix(*arch);
        images.insert(format!("{prefix}initrd.img"), iso.digest(&initrd).clone());
        images.insert(format!("{prefix}vmlinuz"), initramfs.digest(initramfs::KERNEL).clone());
        reports.push(InitramfsReport::new(initramfs::sizes(initramfs)?, Kernel::of(plan, *arch)));
    }
    let mut reports = reports.into_iter();
    let initramfs = reports.next().context("a plan has a kernel")?;
    let second_initramfs = reports.next();
    if let Some(esp) = iso.files.get(iso::ESP) {
        images.insert("efiboot.img".to_string(), esp.clone());
    }
    let (disk_name, disk) = (format!("{stem}.img"), disk.as_ref());
    let mut finished = BTreeMap::from([(iso_name.clone(), iso_digest.clone())]);
    finished.extend(disk.map(|disk| (disk_name.clone(), disk.digest(disk::IMAGE).clone())));
    let firmware_reads =
        FirmwareReads { kernel: images["vmlinuz"].size, initramfs: images["initrd.img"].size };
    notes.extend(firmware_reads.note(plan.arch, &plan.boot.bootmodes));
    let manifest_name = format!("{stem}.manifest.json");
    let earlier = Measured::of(&options.out.join(&manifest_name), &iso_name, &iso_digest);
    let (measured, lost) = earlier.kept();
    let manifest = Manifest {
        manifest_version: 1,
        liveiso_version: env!("CARGO_PKG_VERSION"),
        build_id: &build_id,
        artifacts: finished.clone(),
        images: images.clone(),
        root_hash: iso::root_hash(roots)?.map(|verity| verity.root_hash),
        initramfs: initramfs.clone(),
        second_initramfs: second_initramfs.clone(),
        firmware_reads,
        notes: &notes,
        measured,
        plan: plan_identity,
    };
    let manifest = manifest.to_json()?;
    notes.extend(lost);
    let checksum = |name: &str| {
        let line = format!("{}  {name}\n", finished[name].sha256);
        Artifact::bytes(format!("{name}.sha256"), line.into_bytes())
    };
    let mut artifacts = vec![Artifact::file(&iso_name, iso, iso::ISO), checksum(&iso_name)];
    if let Some(disk) = disk {
        artifacts.extend([Artifact::file(&disk_name, disk, disk::IMAGE), checksum(&disk_name)]);
    }
    artifacts.extend([
        Artifact::bytes(manifest_name, manifest),
        Artifact::bytes(format!("{stem}.packages.txt"), package_list(plan).into_bytes()),
    ]);
    artifacts.extend(roots.iter().map(|(arch, root)| {
        let of = prefix(*arch).replace('/', ".");
        Artifact::file(format!("{stem}.{of}files.txt"), root, root::FILES)
    }));
    let paths = publish(&options.out, &artifacts)?;
    let sizes = images.into_iter().map(|(name, digest)| (name, digest.size));
    let sizes = sizes
        .chain([("iso".to_string(), iso_digest.size)])
        .chain(disk.map(|disk| ("disk".to_string(), disk.digest(disk::IMAGE).size)))
        .collect();
    Ok(Built { artifacts: paths, build_id, notes, sizes, initramfs, second_initramfs, firmware_reads })
}
