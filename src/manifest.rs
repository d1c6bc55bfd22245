//! What was built: artifacts and images by digest, the packages, the plan.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::cache::FileDigest;
use crate::initramfs::{Kernel, Sizes};
use crate::output::{Artifact, publish};
use crate::plan::{Arch, BootMode, Package, Plan};

/// The content of `manifest.json`. Equal for equal builds: no host, no clock; only
/// what was measured of the very same image is carried over.
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
    /// With `verity`, what the root image's hash tree leads to, in lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_hash: Option<String>,
    /// What unpacking the initramfs takes.
    pub initramfs: InitramfsReport,
    /// The same for the second kernel's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub second_initramfs: Option<InitramfsReport>,
    /// What a BIOS reads before the kernel runs.
    pub firmware_reads: FirmwareReads,
    /// Things a user should know and could overlook in a long log.
    pub notes: &'p [String],
    /// What tests found out about this image, see [`record_least_ram`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<Value>,
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

    /// What to know when that is too much for the machines of this architecture.
    pub fn note(&self, arch: Arch, bootmodes: &[BootMode]) -> Option<String> {
        let is_for_old = arch == Arch::I386 && bootmodes.contains(&BootMode::BiosSyslinux);
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
    /// The figures for one kernel.
    pub fn new(sizes: Sizes, kernel: Kernel) -> InitramfsReport {
        InitramfsReport { sizes, predicted_ram: sizes.predicted_ram(kernel), summary: sizes.summary(kernel) }
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

/// What was measured of an earlier build, by the manifest it left.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    /// Nothing, or there is no manifest of ours.
    Nothing,
    /// Of the same image: it still holds.
    Same(Value),
    /// Of another image, in words.
    Other(String),
}

impl Measured {
    /// What the manifest at `path` says about the image called `iso`, which has this digest now.
    /// A file that is no manifest is about to be replaced, whatever is wrong with it.
    pub fn of(path: &Path, iso: &str, digest: &FileDigest) -> Measured {
        let text = std::fs::read(path).unwrap_or_default();
        let value: Value = serde_json::from_slice(&text).unwrap_or_default();
        let Some(least) = value["measured"]["least-ram-mib"].as_object() else {
            return Measured::Nothing;
        };
        if value["artifacts"][iso]["sha256"] == digest.sha256.as_str() {
            return Measured::Same(value["measured"].clone());
        }
        let machines: Vec<String> =
            least.iter().map(|(machine, mib)| format!("{machine} {mib} MiB")).collect();
        Measured::Other(machines.join(", "))
    }

    /// What to put into the new manifest, and what to tell the user.
    pub fn kept(self) -> (Option<Value>, Option<String>) {
        match self {
            Measured::Nothing => (None, None),
            Measured::Same(measured) => (Some(measured), None),
            Measured::Other(least) => {
                let note = format!(
                    "the measured least RAM ({least}) was another image's and is no longer in the manifest; \
                     measure this one with `liveiso test --min-ram`"
                );
                (None, Some(note))
            }
        }
    }
}

/// Writes the least RAM that reached the login, in MiB by machine, into a finished manifest.
/// The next build keeps it if its image is the same, see [`Measured`].
///
/// # Errors
/// A file that is no manifest, or cannot be written.
pub fn record_least_ram(manifest: &Path, machine: &str, mib: u32) -> Result<()> {
    let reading = || format!("reading {}", manifest.display());
    let text = std::fs::read(manifest).with_context(reading)?;
    let mut value: Value = serde_json::from_slice(&text).with_context(reading)?;
    ensure!(value["manifest-version"] == 1, "{} is no manifest of this program", manifest.display());
    value["measured"]["least-ram-mib"][machine] = mib.into();
    let mut json = serde_json::to_vec_pretty(&value).context("serialising the manifest")?;
    json.push(b'\n');
    let name = manifest.file_name().context("the manifest has no name")?.to_string_lossy();
    let dir = manifest.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    publish(dir, &[Artifact::bytes(name, json)]).map(drop)
}

/// RAM in MiB the initramfs of a finished manifest is predicted to take.
pub fn predicted_ram_mib(manifest: &Path) -> Option<u32> {
    let value: Value = serde_json::from_slice(&std::fs::read(manifest).ok()?).ok()?;
    let bytes = value["initramfs"]["predicted-ram"].as_u64()?;
    u32::try_from(bytes.div_ceil(1 << 20)).ok()
}

/// The package list, one `name version arch` a line, as `dpkg-query` users know it.
pub fn package_list(plan: &Plan) -> String {
    let mut lines: Vec<String> = plan.packages.lists().into_iter().flatten().map(line).collect();
    lines.sort();
    lines.dedup();
    lines.concat()
}

fn line(package: &Package) -> String {
    format!("{} {} {}\n", package.name, package.version, package.arch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_of_the_same_image_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.manifest.json");
        let digest = |sha256: &str| FileDigest { sha256: sha256.to_string(), size: 1 };
        let measured = |sha256: &str| Measured::of(&path, "x.iso", &digest(sha256)).kept();
        assert_eq!(measured("aa"), (None, None));
        std::fs::write(&path, "no JSON").unwrap();
        assert_eq!(measured("aa"), (None, None));
        let before = r#"{ "manifest-version": 1, "artifacts": { "x.iso": { "sha256": "aa", "size": 1 } } }"#;
        std::fs::write(&path, before).unwrap();
        assert_eq!(measured("aa"), (None, None));
        record_least_ram(&path, "bios-cd", 37).unwrap();
        record_least_ram(&path, "uefi-x64-cd", 99).unwrap();
        let kept = serde_json::json!({ "least-ram-mib": { "bios-cd": 37, "uefi-x64-cd": 99 } });
        assert_eq!(measured("aa"), (Some(kept), None));
        let note = "the measured least RAM (bios-cd 37 MiB, uefi-x64-cd 99 MiB) was another image's and is no longer \
                    in the manifest; measure this one with `liveiso test --min-ram`";
        assert_eq!(measured("bb"), (None, Some(note.to_string())));
    }

    #[test]
    fn too_much_to_read_is_said_of_old_machines_alone() {
        let both = [BootMode::BiosSyslinux, BootMode::UefiGrub];
        let limit = FirmwareReads { kernel: 6_000_000, initramfs: 4_000_000 };
        let beyond = FirmwareReads { initramfs: 4_000_001, ..limit };
        let note = "firmware reads 10.0 MB: kernel 6.0 MB, initramfs 4.0 MB; beyond 10 MB a BIOS with USB 1.1 takes \
                    longer than 10 s: leave modules out";
        for (reads, arch, modes, expected) in [
            (limit, Arch::I386, &both[..], None),
            (beyond, Arch::I386, &both, Some(note)),
            (beyond, Arch::I386, &both[1..], None),
            (beyond, Arch::Amd64, &both, None),
        ] {
            assert_eq!(reads.note(arch, modes).as_deref(), expected, "{arch:?} {modes:?}");
        }
    }

    #[test]
    fn least_ram_is_added_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.manifest.json");
        let before = r#"{ "manifest-version": 1, "initramfs": { "predicted-ram": 44040193 }, "plan": {} }"#;
        std::fs::write(&path, before).unwrap();
        assert_eq!(predicted_ram_mib(&path), Some(43));
        for (machine, mib) in [("bios-cd", 50), ("uefi-x64-usb", 130), ("bios-cd", 48)] {
            record_least_ram(&path, machine, mib).unwrap();
        }
        let expected = r#"{
  "initramfs": {
    "predicted-ram": 44040193
  },
  "manifest-version": 1,
  "measured": {
    "least-ram-mib": {
      "bios-cd": 48,
      "uefi-x64-usb": 130
    }
  },
  "plan": {}
}
"#;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        std::fs::write(&path, "{}").unwrap();
        let error = record_least_ram(&path, "bios-cd", 48).unwrap_err().to_string();
        assert!(error.ends_with("x.manifest.json is no manifest of this program"), "{error}");
    }
}
