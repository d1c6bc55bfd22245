//! Whether an ISO boots everywhere: a list of checks, each with its reason.
//!
//! What is checked are bytes, because emulators forgive what firmware does not:
//! OVMF boots a stick without an ESP through El Torito, SeaBIOS one without an
//! active partition. A check *fails* when a way of booting is broken, *warns*
//! when it is slow or depends on lenient firmware, and does not apply when the
//! medium never meant to offer that way. Other makers' layouts are judged by the
//! same rules; what only liveiso promises is a warning for them.

mod files;
mod initramfs;
mod loaders;
mod menus;
mod search;
mod sectors;
mod tables;

use std::fmt::Write;

use serde::Serialize;

use super::{FileEntry, Format, Inspection};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// As it should be.
    Pass,
    /// The medium does not offer what is checked.
    NotApplicable,
    /// Works, but not well or not everywhere.
    Warn,
    /// A way of booting is broken.
    Fail,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// The check's name; scripts may rely on it.
    pub check: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found.
    pub reason: String,
    /// What to do; empty when nothing is to be done.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub remedy: &'static str,
}

/// What a check says; its name is added by [`lint`].
struct Verdict {
    outcome: Outcome,
    reason: String,
    remedy: &'static str,
}

fn pass(reason: impl Into<String>) -> Verdict {
    Verdict { outcome: Outcome::Pass, reason: reason.into(), remedy: "" }
}

fn not_applicable(reason: impl Into<String>) -> Verdict {
    Verdict { outcome: Outcome::NotApplicable, reason: reason.into(), remedy: "" }
}

fn warn(reason: impl Into<String>, remedy: &'static str) -> Verdict {
    Verdict { outcome: Outcome::Warn, reason: reason.into(), remedy }
}

fn fail(reason: impl Into<String>, remedy: &'static str) -> Verdict {
    Verdict { outcome: Outcome::Fail, reason: reason.into(), remedy }
}

/// Passes without problems, fails with all of them.
fn judge(problems: Vec<String>, remedy: &'static str, good: impl Into<String>) -> Verdict {
    if problems.is_empty() { pass(good) } else { fail(problems.join("; "), remedy) }
}

type Check = fn(&Inspection) -> Verdict;

const CHECKS: [(&str, Check); 47] = [
    ("readable", tables::readable),
    ("length", tables::length),
    ("volume-id", tables::volume_id),
    ("partition-table", tables::partition_table),
    ("active-flag", tables::active_flag),
    ("partition-bounds", tables::partition_bounds),
    ("partition-overlap", sectors::overlap),
    ("iso-partition", sectors::iso_partition),
    ("mbr-loader", sectors::mbr_loader),
    ("geometry", tables::geometry),
    ("gpt", tables::gpt),
    ("esp-partition", tables::esp_partition),
    ("esp-format", sectors::esp_format),
    ("el-torito-bios", tables::el_torito_bios),
    ("el-torito-efi-size", tables::el_torito_efi_size),
    ("isolinux-files", files::isolinux),
    ("x64-loader", loaders::x64),
    ("ia32-loader", loaders::ia32),
    ("loader-names", loaders::names),
    ("loaders-in-iso", loaders::in_iso),
    ("disk-info", loaders::disk_info),
    ("shim-authority", loaders::authority),
    ("mok-manager", loaders::mok_manager),
    ("shim-neighbours", loaders::shim_neighbours),
    ("signed-kernels", loaders::signed_kernels),
    ("lockdown", search::lockdown),
    ("sbat", loaders::sbat),
    ("symlinks", files::symlinks),
    ("large-files", files::large_files),
    ("names", files::names),
    ("foreign-marks", files::foreign_marks),
    ("checksum-lists", files::checksum_lists),
    ("label-search", menus::label_search),
    ("search-file", search::search_file),
    ("build-id", initramfs::build_id),
    ("volume-id-in-menus", menus::volume_id),
    ("menu-files", menus::files),
    ("menu-places", menus::places),
    ("rdinit", menus::rdinit),
    ("literal-initrd", menus::literal_initrd),
    ("loopback", menus::loopback),
    ("safe-entry", search::safe_entry),
    ("old-processors", menus::old_processors),
    ("firmware-reads", menus::firmware_reads),
    ("search-modules", initramfs::search_modules),
    ("carrier-modules", initramfs::carrier_modules),
    ("ventoy-hook", initramfs::ventoy_hook),
];

/// Checks a medium; one finding a check, in a fixed order.
pub fn lint(inspection: &Inspection) -> Vec<Finding> {
    let finding = |(check, run): (&'static str, Check)| {
        let Verdict { outcome, reason, remedy } = run(inspection);
        Finding { check, outcome, reason, remedy }
    };
    CHECKS.into_iter().map(finding).collect()
}

/// The findings for people, failures with their remedies, and a line that counts them.
pub fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let word = match finding.outcome {
            Outcome::Pass => "pass",
            Outcome::NotApplicable => "n/a",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        };
        // Writing into a string cannot fail.
        let _ = writeln!(out, "{word:<4} {:<18} {}", finding.check, finding.reason);
        if !finding.remedy.is_empty() {
            let _ = writeln!(out, "     {:<18} remedy: {}", "", finding.remedy);
        }
    }
    let count = |outcome| findings.iter().filter(|finding| finding.outcome == outcome).count();
    let _ = writeln!(
        out,
        "{} checks: {} passed, {} failed, {} warnings, {} not applicable",
        findings.len(),
        count(Outcome::Pass),
        count(Outcome::Fail),
        count(Outcome::Warn),
        count(Outcome::NotApplicable)
    );
    out
}

impl Inspection {
    /// Whether a BIOS is meant to start the medium.
    fn serves_bios(&self) -> bool {
        let is_syslinux = |file: &FileEntry| file.path.to_ascii_lowercase().ends_with("/ldlinux.sys");
        self.boot_code
            || self.el_torito.iter().any(|entry| entry.platform == 0 && entry.bootable)
            || (self.format == Format::Disk && self.files.iter().any(is_syslinux))
    }

    /// Whether UEFI is meant to start the medium.
    fn serves_uefi(&self) -> bool {
        self.esp.is_some() || self.el_torito.iter().any(|entry| entry.platform == super::UEFI)
    }

    /// Whether it is one of ours, and has to keep what only we promise.
    fn is_ours(&self) -> bool {
        self.initramfs.iter().any(|initramfs| initramfs.contents.system == Some("liveiso"))
    }
}
