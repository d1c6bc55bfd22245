//! Whether the lock file answers the request, and what is asked when it does not.

use super::{FoundPackages, LockUse, NoPlan, PackageRequest, packages};
use crate::diagnostic::{Diagnostic, Diagnostics, Severity, closest};
use crate::lock::{FILE_NAME, Lock};
use crate::plan::Package;
use crate::profile::Profile;

/// Where the packages come from.
pub(super) enum Answer<'l> {
    /// The lock.
    Locked(FoundPackages),
    /// The package resolver, which keeps these.
    Ask(Vec<&'l Package>),
}

pub(super) fn answer<'l>(
    profile: &Profile,
    request: &PackageRequest,
    lock: Option<&'l Lock>,
    lock_use: LockUse<'_>,
    diagnostics: &mut Diagnostics,
) -> Result<Answer<'l>, NoPlan> {
    let frozen = lock_use == LockUse::Frozen;
    let Some(lock) = lock else {
        if frozen {
            let message = format!("the profile has no {FILE_NAME}, and --locked asks for one");
            diagnostics
                .path_error(&crate::lock::path(&profile.dir), message)
                .help("run `liveiso lock` to write it");
            return Err(NoPlan::Invalid);
        }
        return Ok(Answer::Ask(Vec::new()));
    };
    if let LockUse::Update(names) = lock_use {
        return updated(profile, lock, names, diagnostics);
    }
    if lock.fits(request) {
        return Ok(Answer::Locked(lock.found(request)));
    }
    let severity = if frozen { Severity::Error } else { Severity::Warning };
    report_stale(profile, request, lock, severity, diagnostics);
    if frozen { Err(NoPlan::Invalid) } else { Ok(Answer::Ask(lock.every_package())) }
}

/// Keeps everything but the named packages; without names, nothing.
fn updated<'l>(
    profile: &Profile,
    lock: &'l Lock,
    names: &[String],
    diagnostics: &mut Diagnostics,
) -> Result<Answer<'l>, NoPlan> {
    if names.is_empty() {
        return Ok(Answer::Ask(Vec::new()));
    }
    let all = lock.every_package();
    let mut is_known = true;
    for name in names.iter().filter(|name| !lock.contains(name)) {
        is_known = false;
        let message = format!("package `{}` is not in {FILE_NAME}", name.escape_debug());
        let diagnostic = diagnostics.path_error(&crate::lock::path(&profile.dir), message);
        if let Some(close) = closest(name, all.iter().map(|p| p.name.as_str())) {
            diagnostic.help(format!("did you mean `{close}`?"));
        }
    }
    if !is_known {
        return Err(NoPlan::Invalid);
    }
    Ok(Answer::Ask(all.into_iter().filter(|p| !names.contains(&p.name)).collect()))
}

fn report_stale(
    profile: &Profile,
    request: &PackageRequest,
    lock: &Lock,
    severity: Severity,
    diagnostics: &mut Diagnostics,
) {
    // A kernel is asked for by its metapackage, which no lock has.
    let second_root = request.foreign.iter().filter_map(|foreign| foreign.root.as_ref());
    let second_root = second_root.flat_map(|root| root.packages.iter().chain(&root.initramfs));
    let foreign = request.foreign.iter().flat_map(|foreign| &foreign.loaders).chain(second_root);
    let wanted = [&request.root, &request.loaders, &request.initramfs].into_iter().flatten().chain(foreign);
    let missing: Vec<&String> = wanted.filter(|name| !lock.contains(name)).collect();
    let place = missing.first().and_then(|name| packages::place_of(profile, name)).or(profile.start.as_ref());
    let message = match missing.as_slice() {
        [] => format!("{FILE_NAME} is stale: this profile asks for other packages than it was made for"),
        [one] => format!("{FILE_NAME} is stale: it lacks `{one}`"),
        [first, more @ ..] => format!("{FILE_NAME} is stale: it lacks `{first}` and {} more", more.len()),
    };
    let help = match severity {
        Severity::Error => "run `liveiso lock` to bring it up to date; --locked refuses to",
        Severity::Warning => "it is resolved anew, keeping the versions that the archive still offers",
    };
    let report: &mut Diagnostic = match (place, severity) {
        (Some(place), Severity::Error) => diagnostics.error(place, message),
        (Some(place), Severity::Warning) => diagnostics.warning(place, message),
        (None, Severity::Error) => diagnostics.path_error(&profile.dir, message),
        (None, Severity::Warning) => diagnostics.path_warning(&profile.dir, message),
    };
    report.help(help);
}
