//! The medium: initramfs with its id, menus and loaders, ESP, ISO.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{SOURCE_DIGEST, initramfs as initramfs_stage, root};
use crate::boot;
use crate::cache::{Cache, StageOutput};
use crate::format::{fat, iso9660};
use crate::initramfs;
use crate::plan::{Layout, Plan};
use crate::source;
use crate::tree::{Content, Kind, Meta, Tree};

/// The finished medium.
pub const ISO: &str = "medium.iso";
/// The EFI system partition, also appended to the medium.
pub const ESP: &str = "efiboot.img";
/// The initramfs as it lies on the medium.
pub const INITRD: &str = "initrd.img";

/// Makes the ISO. The build id covers everything that goes in, so it is the key.
///
/// # Errors
/// Bad templates, loader packages without their files, a missing or failing xorriso.
pub fn stage(
    plan: &Plan,
    cache: &Cache,
    build_id: &str,
    root: &StageOutput,
    initramfs: &StageOutput,
) -> Result<StageOutput> {
    cache.stage("iso", &(SOURCE_DIGEST, build_id), |dir| {
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
        write_initrd(plan, root, initramfs, build_id, &dir.join(INITRD)).context("writing initrd.img")?;
        let tree = medium_tree(plan, boot.iso, &dir.join(INITRD), root, initramfs)?;
        let efi_image = boot.esp.is_some().then(|| dir.join(ESP));
        let options = iso_options(plan, ids, boot.isohybrid_mbr, efi_image);
        let work = cache.work_dir()?;
        iso9660::write(&tree, &options, &work.path, &dir.join(ISO)).context("writing the ISO")
    })
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
    initramfs: &StageOutput,
    build_id: &str,
    path: &Path,
) -> Result<()> {
    let mut image =
        fs::read(initramfs.open(initramfs_stage::BASE)?).context("reading the cached initramfs")?;
    image.extend(initramfs::id_archive(build_id, root.digest(root::IMAGE), plan.timestamp)?);
    fs::write(path, image).with_context(|| format!("writing {}", path.display()))
}

/// Everything that lies on a medium: the boot files, kernel, initramfs, root, digests.
///
/// # Errors
/// Damaged cache entries and unreadable files.
pub(super) fn medium_tree(
    plan: &Plan,
    mut tree: Tree,
    initrd: &Path,
    root: &StageOutput,
    initramfs: &StageOutput,
) -> Result<Tree> {
    let origin = tree.add_origin("liveiso");
    let arch = plan.arch.debian_name();
    let top = &plan.install_dir;
    let mut files = vec![
        (format!("{top}/boot/{arch}/vmlinuz"), initramfs.open(initramfs_stage::KERNEL)?),
        (format!("{top}/boot/{arch}/initrd.img"), initrd.to_path_buf()),
    ];
    // A resident root is in the initramfs already.
    if plan.initramfs.layout != Layout::Resident {
        files.push((format!("{top}/{arch}/airootfs.sfs"), root.open(root::IMAGE)?));
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
