//! `[kernel.amd64]` and `boot.secure-boot`: what comes from the archive's other
//! architecture, a second kernel and the signed loaders of the other UEFI.

use serde::Serialize;

use super::PackageRequest;
use super::debian::{ArchiveRequest, suite};
use super::packages::is_name;
use crate::boot::signed_packages;
use crate::diagnostic::Diagnostics;
use crate::plan::{Arch, BootMode, EfiArch, Layout, RootMode};
use crate::profile::Profile;

/// Releases whose i386 archive has a shim.
const SUITES_WITH_SHIM_IA32: [&str; 1] = ["bookworm"];

/// What the package resolver is asked besides, in the other architecture: names only, each list sorted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForeignRequest {
    /// The architecture.
    pub arch: Arch,
    /// Where to look.
    pub archive: ArchiveRequest,
    /// The second kernel's meta package, if there is a second kernel.
    pub kernel: Vec<String>,
    /// Packages of which only boot loader files are used.
    pub loaders: Vec<String>,
    /// The second root's, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<ForeignRoot>,
}

/// What a second root takes: names only, each list sorted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ForeignRoot {
    /// As of the first root.
    pub mode: RootMode,
    /// The profile's packages for it.
    pub packages: Vec<String>,
    /// Its initramfs' own.
    pub initramfs: Vec<String>,
}

impl ForeignRequest {
    /// The same as a request of its own.
    pub fn alone(&self) -> PackageRequest {
        let none = ForeignRoot { mode: RootMode::Unpacked, packages: Vec::new(), initramfs: Vec::new() };
        let root = self.root.clone().unwrap_or(none);
        PackageRequest {
            arch: self.arch,
            archive: self.archive.clone(),
            mode: root.mode,
            root: root.packages,
            kernel: self.kernel.clone(),
            loaders: self.loaders.clone(),
            initramfs: root.initramfs,
            foreign: None,
        }
    }
}

/// The meta package of an architecture's usual kernel.
pub(super) fn usual_kernel(arch: Arch) -> &'static str {
    match arch {
        Arch::I386 => "linux-image-686",
        Arch::Amd64 => "linux-image-amd64",
    }
}

/// The UEFI architectures that boot under Secure Boot.
pub(super) fn secure_boot(
    profile: &Profile,
    arch: Arch,
    suite: &str,
    bootmodes: &[BootMode],
    diagnostics: &mut Diagnostics,
) -> Vec<EfiArch> {
    let Some(written) = profile.boot.secure_boot.as_ref().filter(|s| s.value) else {
        return Vec::new();
    };
    // Boot modes that are wrong in another way are reported at their own place.
    let wrong = profile.bootmodes.as_ref().is_some_and(|modes| modes.value.len() != bootmodes.len());
    if !bootmodes.contains(&BootMode::UefiGrub) && !wrong {
        diagnostics
            .error(&written.place, "Secure Boot is a matter of UEFI, but `bootmodes` has no `uefi.grub`")
            .help("add `uefi.grub` to `bootmodes`, or remove this line");
    }
    if arch == Arch::I386 && profile.kernel.amd64.is_none() {
        diagnostics
            .warning(&written.place, "PCs with 64-bit UEFI and Secure Boot do not start a 32-bit kernel")
            .help("add the table [kernel.amd64], an empty one will do, for a second kernel");
    }
    let second = profile.kernel.amd64.as_ref().and_then(|second| second.package.as_ref());
    for package in profile.kernel.package.iter().chain(second) {
        if let Some(signed) = package.value.strip_suffix("-unsigned") {
            diagnostics
                .error(
                    &package.place,
                    format!("kernel package `{}` is not signed: Secure Boot refuses it", package.value),
                )
                .help(format!("take `{signed}`, or remove `secure-boot` from [boot]"));
        }
    }
    if suite.is_empty() || SUITES_WITH_SHIM_IA32.contains(&suite) {
        return vec![EfiArch::X64, EfiArch::Ia32];
    }
    diagnostics
        .warning(
            &written.place,
            format!("Debian {suite} has no shim for 32-bit UEFI, which boots with Secure Boot off only"),
        )
        .help("the suite `bookworm` has one");
    vec![EfiArch::X64]
}

/// The architecture of a second kernel.
pub(super) fn second_kernel(
    profile: &Profile,
    arch: Option<Arch>,
    layout: Layout,
    diagnostics: &mut Diagnostics,
) -> Option<Arch> {
    let table = profile.kernel.amd64.as_ref()?;
    if arch == Some(Arch::Amd64) {
        diagnostics
            .error(&table.place, "[kernel.amd64] is a second kernel, but the profile is for amd64 already")
            .help(
                "name its one kernel under [kernel], or set `arch = \"i386\"`: that root serves both kernels",
            );
        return None;
    }
    if layout == Layout::Resident {
        diagnostics
            .error(
                &table.place,
                "the layout `resident` would put the whole root on the medium for each kernel",
            )
            .help("remove [kernel.amd64], or take another `layout` under [initramfs]");
    }
    Some(Arch::Amd64)
}

/// Whether the second kernel has a root of its own; reports why it cannot.
pub(super) fn has_second_root(
    profile: &Profile,
    second_kernel: Option<Arch>,
    diagnostics: &mut Diagnostics,
) -> bool {
    let Some(place) = &profile.root.amd64 else { return false };
    if profile.kernel.amd64.is_none() {
        diagnostics
            .error(
                place,
                "[root.amd64] is a second root for the second kernel, but there is no [kernel.amd64]",
            )
            .help("add the table [kernel.amd64], an empty one will do; its `suite` is the root's too");
    }
    if profile.root.verity.as_ref().is_some_and(|wanted| wanted.value) {
        diagnostics
            .error(place, "with `verity` the boot entries carry the root hash of one root, not of two")
            .help("remove `verity`, or [root.amd64]");
    }
    second_kernel.is_some()
}

/// What is wanted of the other architecture; the second value is whether asking makes sense.
pub(super) fn request(
    profile: &Profile,
    arch: Arch,
    archive: &ArchiveRequest,
    second_kernel: Option<Arch>,
    secure_boot: &[EfiArch],
    diagnostics: &mut Diagnostics,
) -> (Option<ForeignRequest>, bool) {
    let mut kernel = Vec::new();
    let mut archive = archive.clone();
    let mut is_valid = true;
    if let (Some(arch), Some(table)) = (second_kernel, &profile.kernel.amd64) {
        kernel.push(match &table.package {
            Some(written) if is_name(&written.value, &written.place, diagnostics) => written.value.clone(),
            _ => usual_kernel(arch).to_string(),
        });
        if let Some(written) = &table.suite {
            let chosen = suite(written, diagnostics);
            is_valid = chosen.is_some();
            archive.suite = chosen.unwrap_or_default().to_string();
        }
    }
    let other = arch.other();
    let loaders = signed_packages(other, secure_boot);
    let loaders: Vec<String> = loaders.into_iter().map(String::from).collect();
    let is_wanted = !kernel.is_empty() || !loaders.is_empty();
    (is_wanted.then_some(ForeignRequest { arch: other, archive, kernel, loaders, root: None }), is_valid)
}
