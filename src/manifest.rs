//! What was built: artifacts and images by digest, the packages, the plan.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cache::FileDigest;
use crate::initramfs::Sizes;
use crate::plan::{Arch, BootMode, Package, Plan};

/// The content of `manifest.json`. Equal for equal builds: no host, no clock.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest<'p> {
    /// Version of this document's layout.
    pub manifest_version: u32,
    /// Version of liveiso.
    pub liveiso_version: &'static str,
    /// The id by which /init finds its medium.
    pub build_id: &'p str,
    /// Finished files beside the manifest.
    pub artifacts: BTreeMap<String, FileDigest>,
    /// Files inside the ISO, by their path there.
    pub images: BTreeMap<String, FileDigest>,
    /// What unpacking the initramfs takes.
    pub initramfs: InitramfsReport,
    /// What a BIOS reads before the kernel runs.
    pub firmware_reads: FirmwareReads,
    /// Things a user should know and could overlook in a long log.
    pub notes: &'p [String],
    /// The resolved plan without host-specific places.
    pub plan: Plan,
}

/// What a boot loader has firmware read, in bytes: slow on old PCs, whose BIOS
/// reads a USB stick at 1 MB a second or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct FirmwareReads {
    /// The kernel.
    pub kernel: u64,
    /// The initramfs.
    pub initramfs: u64,
}

impl FirmwareReads {
    /// Beyond this a 32-bit PC waits too long (bytes); `inspect --lint` has the same limit.
    pub const LIMIT: u64 = 10_000_000;

    /// One line for people.
    pub fn summary(&self) -> String {
        let megabytes = |bytes: u64| format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000);
        format!(
            "firmware reads {}: kernel {}, initramfs {}",
            megabytes(self.kernel + self.initramfs),
            megabytes(self.kernel),
            megabytes(self.initramfs)
        )
    }

    /// What to know when that is too much for the plan's machines.
    pub fn note(&self, plan: &Plan) -> Option<String> {
        let is_for_old = plan.arch == Arch::I386 && plan.boot.bootmodes.contains(&BootMode::BiosSyslinux);
        (is_for_old && self.kernel + self.initramfs > Self::LIMIT).then(|| {
            format!(
                "{}; beyond 10 MB a BIOS with USB 1.1 takes longer than 10 s: leave modules out",
                self.summary()
            )
        })
    }
}

/// What the initramfs weighs and takes.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct InitramfsReport {
    /// Bytes of its parts.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// Bytes of RAM a machine must have to unpack it, as predicted.
    pub predicted_ram: u64,
    /// The same in words.
    #[serde(skip)]
    pub summary: String,
}

impl InitramfsReport {
    /// The figures for one architecture's kernel.
    pub fn new(sizes: Sizes, arch: Arch) -> InitramfsReport {
        InitramfsReport { sizes, predicted_ram: sizes.predicted_ram(arch), summary: sizes.summary(arch) }
    }
}

impl Manifest<'_> {
    /// The document as it is written.
    ///
    /// # Errors
    /// None in practice; serialisation is fallible by type.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut json = serde_json::to_vec_pretty(self).context("serialising the manifest")?;
        json.push(b'\n');
        Ok(json)
    }
}

/// The package list, one `name version arch` a line, as `dpkg-query` users know it.
pub fn package_list(plan: &Plan) -> String {
    let lists =
        [&plan.packages.root, &plan.packages.kernel, &plan.packages.loaders, &plan.packages.initramfs];
    let mut lines: Vec<String> = lists.iter().flat_map(|list| list.iter()).map(line).collect();
    lines.sort();
    lines.dedup();
    lines.concat()
}

fn line(package: &Package) -> String {
    format!("{} {} {}\n", package.name, package.version, package.arch)
}
