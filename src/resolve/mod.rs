//! From what the user wrote to what will be built: [`Profile`] to [`Plan`].
//!
//! Every default is filled, every value checked, every overlay file pinned by
//! digest. One function a table; each reports what is wrong and goes on with the
//! default, so that one run shows every mistake. Nothing of the host reaches the
//! plan but the profile's files and what the package resolver finds.

mod archive;
mod boot;
mod boot_order;
mod debian;
mod description;
mod embedded;
mod foreign;
mod hooks;
mod image;
mod initramfs;
mod iso;
mod locked;
mod mistake;
mod overlay;
mod packages;
mod permissions;
mod root;
mod value;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostics;
use crate::lock::Lock;
use crate::plan::{Overlay, Package, Packages, Plan};
use crate::profile::{self, Profile};

pub use archive::find_packages;
pub use boot_order::{BOOT_ORDER, boot_order_text};
pub use debian::ArchiveRequest;
pub use embedded::{Embedded, EmbeddedKind, airootfs};
pub use foreign::{ForeignRequest, ForeignRoot};
pub use mistake::{Blame, BudgetKey, Mistake, Mistakes, report};
pub use overlay::{BUILT_IN, input_content};
pub use packages::PackageRequest;

/// Layout of the plan this program writes and reads.
pub const PLAN_VERSION: u32 = 1;

/// The build's time when neither the caller nor the archive gives one: the day
/// Debian bookworm was released, 2023-06-10 00:00 UTC.
pub const DEFAULT_TIMESTAMP: i64 = 1_686_355_200;

/// What decides a plan besides the profile.
#[derive(Clone, Debug)]
pub struct Options {
    /// The build's time in seconds since 1970-01-01 UTC (`SOURCE_DATE_EPOCH`), if it is given.
    pub timestamp: Option<i64>,
    /// The files laid over every root.
    pub airootfs: &'static [Embedded],
}

impl Options {
    /// With the files built into this program.
    pub fn new(timestamp: Option<i64>) -> Options {
        Options { timestamp, airootfs: airootfs() }
    }
}

/// What is done with the profile's lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockUse<'a> {
    /// Nothing.
    Ignore,
    /// It answers; a stale one is resolved anew, keeping its versions.
    Follow,
    /// It answers; a missing or stale one is an error.
    Frozen,
    /// Packages of these names move to their current version, of no name: all.
    Update(&'a [String]),
}

/// A plan, and the lock file it belongs to.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The plan.
    pub plan: Plan,
    /// The lock that gives this plan.
    pub lock: Lock,
    /// The lock that was there.
    pub old: Option<Lock>,
}

/// What the package resolver found for a [`PackageRequest`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FoundPackages {
    /// The suites that were really used.
    pub debian: crate::plan::Debian,
    /// Every package with its dependencies, by role.
    pub packages: Packages,
    /// Newest `Date` of the used suites' Release files, seconds since 1970-01-01 UTC.
    pub released: Option<i64>,
}

/// A package name the archive does not have.
#[derive(Clone, Debug)]
pub struct UnknownPackage {
    /// As in the request.
    pub name: String,
    /// The architecture it was asked for.
    pub arch: crate::plan::Arch,
    /// Names that may have been meant.
    pub suggestions: Vec<String>,
}

/// Why the package resolver gave up.
#[derive(Debug)]
pub enum FindError {
    /// The profile's mistake.
    Unknown(Vec<UnknownPackage>),
    /// The world's.
    Failed(anyhow::Error),
}

/// Why there is no plan.
#[derive(Debug)]
pub enum NoPlan {
    /// The diagnostics say it.
    Invalid,
    /// The package resolver failed; there may be diagnostics as well.
    Failed(anyhow::Error),
}

/// Resolves a profile directory. `find` is the package resolver; it is asked
/// even when other parts of the profile are wrong, as long as the request itself
/// makes sense, so that unknown packages are reported in the same run.
///
/// # Errors
/// [`NoPlan`]; read `diagnostics` in any case, there may be warnings.
pub fn resolve(
    dir: &Path,
    options: &Options,
    find: impl FnOnce(&PackageRequest) -> Result<FoundPackages, FindError>,
    diagnostics: &mut Diagnostics,
) -> Result<Plan, NoPlan> {
    let ignored = LockUse::Ignore;
    resolve_locked(dir, options, ignored, |request, _| find(request), diagnostics).map(|r| r.plan)
}

/// The same with the profile's lock file: `find` is asked only when there is no
/// lock, when it is stale, or when packages are to move; it gets the packages
/// whose versions it should keep as far as the archive still offers them.
///
/// Writes nothing; see [`Resolved`].
///
/// # Errors
/// As [`resolve`]; also for a damaged lock, or one that [`LockUse::Frozen`] cannot use.
pub fn resolve_locked(
    dir: &Path,
    options: &Options,
    lock_use: LockUse<'_>,
    find: impl FnOnce(&PackageRequest, &[&Package]) -> Result<FoundPackages, FindError>,
    diagnostics: &mut Diagnostics,
) -> Result<Resolved, NoPlan> {
    let (profile, draft) = draft(dir, options, diagnostics).ok_or(NoPlan::Invalid)?;
    let (Ok(old), true) = (load(dir, lock_use, diagnostics), draft.request_is_valid) else {
        return Err(NoPlan::Invalid);
    };
    let answer = match locked::answer(&profile, &draft.request, old.as_ref(), lock_use, diagnostics)? {
        locked::Answer::Locked(found) => Ok(found),
        locked::Answer::Ask(keep) => find(&draft.request, &keep),
    };
    let found = match answer {
        Ok(found) => found,
        Err(FindError::Unknown(unknown)) => {
            packages::report_unknown(&profile, &draft.request, &unknown, diagnostics);
            return Err(NoPlan::Invalid);
        }
        Err(FindError::Failed(error)) => return Err(NoPlan::Failed(error)),
    };
    if diagnostics.has_errors() {
        return Err(NoPlan::Invalid);
    }
    let lock = Lock::new(&draft.request, &found);
    Ok(Resolved { plan: finish(draft, found, options.timestamp), lock, old })
}

/// Reports every mistake that can be found without a package index. Returns
/// whether there is none.
pub fn check(dir: &Path, options: &Options, diagnostics: &mut Diagnostics) -> bool {
    check_locked(dir, options, LockUse::Ignore, diagnostics)
}

/// The same, the lock file included: whether it can be read and is current.
pub fn check_locked(
    dir: &Path,
    options: &Options,
    lock_use: LockUse<'_>,
    diagnostics: &mut Diagnostics,
) -> bool {
    let draft = draft(dir, options, diagnostics);
    if let (Some((profile, draft)), Ok(lock)) = (draft, load(dir, lock_use, diagnostics))
        && draft.request_is_valid
    {
        // What is wrong with the lock is in the diagnostics.
        let _ = locked::answer(&profile, &draft.request, lock.as_ref(), lock_use, diagnostics);
    }
    !diagnostics.has_errors()
}

fn load(
    dir: &Path,
    lock_use: LockUse<'_>,
    diagnostics: &mut Diagnostics,
) -> Result<Option<Lock>, crate::lock::Damaged> {
    if lock_use == LockUse::Ignore { Ok(None) } else { Lock::load(dir, diagnostics) }
}

/// A plan without its packages.
struct Draft {
    names: iso::Names,
    media: iso::Media,
    second_kernel: Option<crate::plan::Arch>,
    second_root: Option<String>,
    request: PackageRequest,
    request_is_valid: bool,
    root: crate::plan::Root,
    initramfs: crate::plan::Initramfs,
    boot: boot::BootDraft,
    overlays: Vec<Overlay>,
    efiboot: std::collections::BTreeMap<String, crate::plan::InputFile>,
    budget: crate::plan::Budget,
}

fn draft(dir: &Path, options: &Options, diagnostics: &mut Diagnostics) -> Option<(Profile, Draft)> {
    let profile = profile::load(dir, diagnostics)?;
    let names = iso::names(&profile, diagnostics);
    let arch = iso::arch(&profile, diagnostics);
    let mode = root::mode(&profile.root, diagnostics);
    let (archive, archive_is_valid) = debian::archive(&profile.debian, diagnostics);
    let overlays = overlay::overlays(dir, options.airootfs, diagnostics);
    let file_permissions = permissions::file_permissions(&profile, &overlays, diagnostics);
    let boot_order = boot_order::boot_order(dir, diagnostics);
    let root = root::root(dir, &profile.root, mode, file_permissions, boot_order, diagnostics);
    let mut initramfs = initramfs::initramfs(dir, &profile, root.image.format, diagnostics);
    initramfs::for_verity(&profile.root, &mut initramfs, diagnostics);
    let mut boot = boot::boot(&profile, diagnostics);
    let media = iso::media(&profile, &boot.bootmodes, diagnostics);
    let second_kernel = foreign::second_kernel(&profile, arch, initramfs.layout, diagnostics);
    let of_root = arch.unwrap_or_default();
    let has_second_root = foreign::has_second_root(&profile, second_kernel, diagnostics);
    boot.secure_boot = foreign::secure_boot(&profile, of_root, &archive.suite, &boot.bootmodes, diagnostics);
    let (foreign, foreign_is_valid) =
        foreign::request(&profile, of_root, &archive, second_kernel, &boot.secure_boot, diagnostics);
    let request =
        packages::request(&profile, of_root, mode, archive, foreign, (&boot, media.disk_image), diagnostics);
    initramfs::check_microcode_component(&profile.initramfs, &request.archive.components, diagnostics);
    let budget = initramfs::budget(&profile.budget, initramfs.layout, diagnostics);
    let second_suite = request.foreign.as_ref().map(|foreign| foreign.archive.suite.clone());
    let second_root = second_suite.filter(|_| has_second_root);
    let efiboot = overlay::efiboot(dir, diagnostics);
    overlay::misnamed(dir, diagnostics);
    let request_is_valid = archive_is_valid && foreign_is_valid && arch.is_some();
    let draft = Draft {
        names,
        media,
        second_kernel,
        second_root,
        request,
        request_is_valid,
        root,
        initramfs,
        boot,
        overlays,
        efiboot,
        budget,
    };
    Some((profile, draft))
}

fn finish(draft: Draft, found: FoundPackages, timestamp: Option<i64>) -> Plan {
    let timestamp = timestamp.or(found.released).unwrap_or(DEFAULT_TIMESTAMP);
    let names = draft.names;
    let iso_version = names.version.unwrap_or_else(|| iso::default_version(timestamp));
    let boot = draft.boot.finish(&names.name, &iso_version);
    Plan {
        plan_version: PLAN_VERSION,
        iso_name: names.name,
        iso_version,
        iso_label: names.label,
        iso_publisher: names.publisher,
        iso_application: names.application,
        iso_layout: draft.media.layout,
        disk_image: draft.media.disk_image,
        install_dir: names.install_dir,
        arch: draft.request.arch,
        second_kernel: draft.second_kernel,
        second_root: draft.second_root,
        timestamp,
        debian: found.debian,
        packages: found.packages,
        root: draft.root,
        initramfs: draft.initramfs,
        boot,
        overlays: draft.overlays,
        efiboot: draft.efiboot,
        budget: draft.budget,
    }
}
