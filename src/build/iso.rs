//! The medium: initramfs with its id, menus and loaders, ESP, ISO.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Kernels, Roots, SOURCE_DIGEST, initramfs as initramfs_stage, root};
use crate::boot;
use crate::cache::{Cache, StageOutput};
use crate::format::{fat, iso9660};
use crate::initramfs;
use crate::plan::{Arch, Budget, Layout, Plan};
use crate::resolve::{Blame, BudgetKey, Mistake, Mistakes};
use crate::source;
use crate::tree::{Content, Kind, Meta, Tree};

/// The finished medium.
pub const ISO: &str = "medium.iso";
/// The EFI system partition, also appended to the medium.
pub const ESP: &str = "efiboot.img";
/// A kernel's initramfs as it lies on the medium.
pub fn initrd(arch: Arch) -> String {
    format!("initrd-{}.img", arch.debian_name())
}

/// Makes the ISO. The build id covers everything that goes in, so it is the key.
///
/// # Errors
/// Bad templates, loader packages without their files, a missing or failing xorriso.
pub fn stage(
    plan: &Plan,
    cache: &Cache,
    build_id: &str,
    roots: &Roots,
    kernels: &Kernels,
) -> Result<StageOutput> {
    cache.stage("iso", &(SOURCE_DIGEST, build_id), |dir| {
        let verity = root_hash(roots)?;
        let plan = &with_root_hash(plan, verity.as_ref());
        let loaders = source::unpacked_tree(cache, plan.arch, &plan.packages.loaders)?;
        let boot = boot::files(plan, build_id, &loaders).context("making the boot menus")?;
        let ids = boot::Identity::new(build_id, plan.timestamp);
        if let Some(esp) = &boot.esp {
            let options = fat::Options {
                label: "LIVEISO_EFI".to_string(),
                volume_id: ids.fat_serial,
                timestamp: plan.timestamp,
                kind: fat::FatKind::Fat16,
            };
            write_esp(esp, &options, &dir.join(ESP)).context("writing efiboot.img")?;
        }
        for (arch, initramfs) in kernels {
            let path = dir.join(initrd(*arch));
            let wanted = plan.root_of(*arch);
            let root = roots.iter().find(|(arch, _)| *arch == wanted).map(|(_, root)| root);
            let root = root.context("a kernel has no root")?;
            write_initrd(plan, root, verity.as_ref(), initramfs, build_id, &path)
                .context("writing initrd.img")?;
        }
        let initrds = |arch| Ok(dir.join(initrd(arch)));
        let tree = medium_tree(plan, boot.iso, initrds, roots, kernels)?;
        let efi_image = boot.esp.is_some().then(|| dir.join(ESP));
        let options = iso_options(plan, ids, boot.isohybrid_mbr, efi_image);
        let work = cache.work_dir()?;
        iso9660::write(&tree, &options, &work.path, &dir.join(ISO)).context("writing the ISO")
    })
}

/// The root hash; of two roots none has one.
pub(super) fn root_hash(roots: &Roots) -> Result<Option<root::VerityWords>> {
    match &roots[..] {
        [(_, root)] => root::verity(root),
        _ => Ok(None),
    }
}

/// The root hash becomes a word of every boot entry, also in menus of the profile's own.
pub(super) fn with_root_hash(plan: &Plan, verity: Option<&root::VerityWords>) -> Plan {
    let mut plan = plan.clone();
    if let Some(verity) = verity {
        let parameters = &mut plan.boot.kernel_parameters;
        *parameters = format!("{parameters} liveiso.verity={}", verity.root_hash).trim_start().to_string();
    }
    plan
}

/// Compares the finished medium with the profile's limit.
///
/// # Errors
/// A [`Mistakes`] with the figures.
pub fn check_size(size: u64, budget: &Budget) -> Result<(), Mistakes> {
    let Some(limit) = budget.iso_size.filter(|limit| size > *limit) else {
        return Ok(());
    };
    Err(Mistakes(vec![Mistake {
        blame: Blame::Budget(BudgetKey::IsoSize),
        message: format!(
            "the ISO is {}, beyond the budget of {}",
            initramfs::mebibytes(size),
            initramfs::mebibytes(limit)
        ),
        help: "name fewer packages, exclude files, or name a larger `iso-size` under [budget]".to_string(),
    }]))
}

fn write_esp(esp: &Tree, options: &fat::Options, path: &Path) -> Result<()> {
    let mut image = Vec::new();
    fat::write(esp, options, &mut image)?;
    fat::verify(&image, esp)?;
    fs::write(path, image).with_context(|| format!("writing {}", path.display()))
}

/// The kernel takes any number of archives in a row: the cached base, then the
/// id and the sentinel by which /init knows that everything was unpacked.
fn write_initrd(
    plan: &Plan,
    root: &StageOutput,
    verity: Option<&root::VerityWords>,
    initramfs: &StageOutput,
    build_id: &str,
    path: &Path,
) -> Result<()> {
    let mut image =
        fs::read(initramfs.open(initramfs_stage::BASE)?).context("reading the cached initramfs")?;
    let table = verity.map(|verity| verity.table.as_str());
    let image_digest = root.digest(plan.root.image.format.file_name());
    image.extend(initramfs::id_archive(build_id, image_digest, table, plan.timestamp)?);
    fs::write(path, image).with_context(|| format!("writing {}", path.display()))
}

/// Everything that lies on a medium: the boot files, kernels, their initramfs (`initrds` says where each is), roots, digests.
///
/// # Errors
/// Damaged cache entries and unreadable files.
pub(super) fn medium_tree(
    plan: &Plan,
    mut tree: Tree,
    initrds: impl Fn(Arch) -> Result<PathBuf>,
    roots: &Roots,
    kernels: &Kernels,
) -> Result<Tree> {
    let origin = tree.add_origin("liveiso");
    let top = &plan.install_dir;
    let mut files = Vec::new();
    for (arch, initramfs) in kernels {
        let directory = format!("{top}/boot/{}", arch.debian_name());
        files.push((format!("{directory}/vmlinuz"), initramfs.open(initramfs_stage::KERNEL)?));
        files.push((format!("{directory}/initrd.img"), initrds(*arch)?));
    }
    // A resident root is in the initramfs already.
    if plan.initramfs.layout != Layout::Resident {
        let image = plan.root.image.format.file_name();
        for (arch, root) in roots {
            files.push((format!("{top}/{}/{image}", arch.debian_name()), root.open(image)?));
        }
    }
    for (path, file) in files {
        let size = fs::metadata(&file).with_context(|| format!("reading {}", file.display()))?.len();
        tree.add_file(path.as_bytes(), Content::file(&file, size), Meta::mode(0o444), origin)?;
    }
    let digests = Content::bytes(digest_list(&tree, top)?);
    tree.add_file(format!("{top}/sha256sums").as_bytes(), digests, Meta::mode(0o444), origin)?;
    Ok(tree)
}

/// What `verify` checks: SHA-256 and name of every file below `top`, in the form
/// of sha256sum and relative to `top`. Menus, which Rufus rewrites and people
/// edit, lie elsewhere.
fn digest_list(tree: &Tree, top: &str) -> Result<String> {
    let mut list = String::new();
    for entry in tree.walk() {
        let path = std::str::from_utf8(&entry.path).context("reading the names on the medium")?;
        let Some(name) = path.strip_prefix(top).and_then(|rest| rest.strip_prefix('/')) else { continue };
        if let Kind::File(content) = &entry.inode.kind {
            writeln!(list, "{}  {name}", content.sha256()?).expect("writing to a String");
        }
    }
    Ok(list)
}

fn iso_options(
    plan: &Plan,
    ids: boot::Identity,
    isohybrid_mbr: Option<Vec<u8>>,
    efi_image: Option<PathBuf>,
) -> iso9660::Options {
    iso9660::Options {
        volume_id: plan.iso_label.clone(),
        publisher: plan.iso_publisher.clone(),
        application: plan.iso_application.clone(),
        timestamp: plan.timestamp,
        layout: plan.iso_layout,
        volume_date: ids.volume_date,
        disk_guid: ids.disk_guid,
        bios: isohybrid_mbr.map(|mbr| iso9660::Bios { image: boot::ISOLINUX_IMAGE.to_string(), mbr }),
        efi_image,
    }
}
