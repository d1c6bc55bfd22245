//! What was built: artifacts and images by digest, the packages, the plan.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cache::FileDigest;
use crate::initramfs::Sizes;
use crate::plan::{Arch, Package, Plan};

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
    /// The same for the second kernel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_initramfs: Option<InitramfsReport>,
    /// Things a user should know and could overlook in a long log.
    pub notes: &'p [String],
    /// The resolved plan without host-specific places.
    pub plan: Plan,
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
