//! The disk image beside the ISO: the same files on a FAT32 partition, with
//! SYSLINUX instead of ISOLINUX.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Kernels, Roots, SOURCE_DIGEST, iso};
use crate::boot::{self, syslinux::Syslinux};
use crate::cache::{Cache, StageOutput};
use crate::format::{disk, fat};
use crate::plan::{DiskImage, Plan};
use crate::source;
use crate::tree::{Content, Kind};

/// The finished image.
pub const IMAGE: &str = "disk.img";

/// Makes the disk image with this partition table. The build id covers all that goes in.
///
/// # Errors
/// As the ISO's; files of 4 GiB, which FAT32 does not take.
pub fn stage(
    plan: &Plan,
    cache: &Cache,
    build_id: &str,
    table: DiskImage,
    (roots, kernels, iso): (&Roots, &Kernels, &StageOutput),
) -> Result<StageOutput> {
    cache.stage("disk", &(SOURCE_DIGEST, build_id), |dir| {
        let plan = &iso::with_root_hash(plan, iso::root_hash(roots)?.as_ref());
        let loaders = source::unpacked_tree(cache, plan.arch, &plan.packages.loaders)?;
        let boot = boot::disk_files(plan, build_id, &loaders, table).context("making the boot menus")?;
        let ids = boot::Identity::new(build_id, plan.timestamp);
        let initrds = |arch| iso.open(&iso::initrd(arch));
        let tree = iso::medium_tree(plan, boot.files, initrds, roots, kernels)?;
        let options = disk::Options {
            table,
            boot_code: boot.boot_code,
            signature: ids.fat_serial,
            disk_guid: ids.disk_guid,
            fat: fat::Options {
                label: plan.iso_label.clone(),
                volume_id: ids.fat_serial,
                timestamp: plan.timestamp,
                kind: fat::FatKind::Fat32 { hidden_sectors: disk::START },
            },
        };
        let image = dir.join(IMAGE);
        disk::write(&tree, &options, &image).context("writing the disk image")?;
        match boot.syslinux {
            Some(syslinux) => install(&syslinux, &image).context("installing SYSLINUX in the disk image"),
            None => Ok(()),
        }
    })
}

/// The file's place is known once it is written.
fn install(syslinux: &Syslinux, image: &Path) -> Result<()> {
    let volume = u64::from(disk::START) * disk::BLOCK;
    let length = std::fs::metadata(image).context("asking for its size")?.len();
    let (_, tree) = fat::read(image, volume, length - volume)?;
    let found = tree.get(boot::LDLINUX_SYS.as_bytes()).map(|id| &tree.inode(id).kind);
    let Some(Kind::File(Content::Slice { offset, .. })) = found else {
        bail!("/{} does not lie in one piece", boot::LDLINUX_SYS);
    };
    syslinux.install(image, volume, *offset, "/syslinux")
}
