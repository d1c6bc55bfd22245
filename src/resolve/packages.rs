//! Which packages are wanted, and the report on those that do not exist.

use std::collections::BTreeSet;

use serde::Serialize;

use super::UnknownPackage;
use super::boot::BootDraft;
use super::debian::ArchiveRequest;
use super::foreign::{ForeignRequest, ForeignRoot, usual_kernel};
use super::initramfs::{MICROCODE_PACKAGES, wants_microcode_packages};
use super::value::without_duplicates;
use crate::boot::{loader_packages, signed_packages};
use crate::diagnostic::{Diagnostics, Place};
use crate::plan::{Arch, DiskImage, RootMode};
use crate::profile::{InitramfsTable, Profile, Text};

/// What the package resolver is asked: names only, each list sorted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PackageRequest {
    /// The root's architecture.
    pub arch: Arch,
    /// Where to look.
    pub archive: ArchiveRequest,
    /// Whether maintainer scripts will run; a configured root has Debian's essential packages besides.
    pub mode: RootMode,
    /// The profile's packages.
    pub root: Vec<String>,
    /// The kernel's meta package.
    pub kernel: Vec<String>,
    /// Packages of which only boot loader files are used.
    pub loaders: Vec<String>,
    /// The initramfs' own.
    pub initramfs: Vec<String>,
    /// What is wanted of the other architecture's archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<ForeignRequest>,
}

pub(super) fn request(
    profile: &Profile,
    arch: Arch,
    mode: RootMode,
    archive: ArchiveRequest,
    mut foreign: Option<ForeignRequest>,
    (boot, disk): (&BootDraft, Option<DiskImage>),
    diagnostics: &mut Diagnostics,
) -> PackageRequest {
    let kernel = kernel(profile, arch, diagnostics);
    let root = root(&profile.packages, &kernel, diagnostics);
    if profile.root.amd64.is_some()
        && let Some(foreign) = &mut foreign
    {
        // What is wrong with those that both roots have was said above.
        let shared = &profile.packages[..profile.shared_packages];
        let mut packages = self::root(shared, &kernel, &mut Diagnostics::default());
        let kernel = foreign.kernel.first().map_or("", String::as_str);
        packages.extend(self::root(&profile.second_packages, kernel, diagnostics));
        let packages = packages.into_iter().collect();
        foreign.root = Some(ForeignRoot { mode, packages, initramfs: initramfs(&profile.initramfs) });
    }
    let mut loaders = loader_packages(&boot.bootmodes, disk, &boot.secure_boot, &archive.suite);
    loaders.extend(signed_packages(arch, &boot.secure_boot));
    loaders.sort_unstable();
    PackageRequest {
        arch,
        archive,
        mode,
        root: root.into_iter().collect(),
        kernel: vec![kernel],
        loaders: loaders.into_iter().map(String::from).collect(),
        initramfs: initramfs(&profile.initramfs),
        foreign,
    }
}

/// The names of a root's packages without its kernel.
fn root(written: &[Text], kernel: &str, diagnostics: &mut Diagnostics) -> BTreeSet<String> {
    let mut root = BTreeSet::new();
    for (name, place) in without_duplicates(written, "package", diagnostics) {
        if name == kernel {
            diagnostics
                .warning(
                    &place,
                    format!("package `{name}` is the kernel, which is there without being listed"),
                )
                .help("remove it here; [kernel] decides which one it is");
        } else if is_name(&name, &place, diagnostics) {
            root.insert(name);
        }
    }
    root
}

fn initramfs(table: &InitramfsTable) -> Vec<String> {
    let microcode: &[&str] = if wants_microcode_packages(table) { &MICROCODE_PACKAGES } else { &[] };
    let mut names: Vec<String> = microcode.iter().map(|name| name.to_string()).collect();
    names.push("busybox-static".to_string());
    names.sort();
    names
}

fn kernel(profile: &Profile, arch: Arch, diagnostics: &mut Diagnostics) -> String {
    match &profile.kernel.package {
        Some(written) if is_name(&written.value, &written.place, diagnostics) => written.value.clone(),
        _ => usual_kernel(arch).to_string(),
    }
}

/// Debian policy §5.6.1, without the trailing `-` that means removal to apt.
pub(super) fn is_name(name: &str, place: &Place, diagnostics: &mut Diagnostics) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if name.len() >= 2 && starts_well && name.chars().all(allowed) && !name.ends_with('-') {
        return true;
    }
    let help = match name {
        n if n.contains(':') => "leave out `:arch`; every package has the profile's architecture",
        n if n.contains(['=', '/', '<', '>']) => "leave out the version; the suite decides it",
        n if n.contains(char::is_whitespace) => "write one name a string",
        _ => "names are at least two of a-z, 0-9 and + - . and start with a letter or digit",
    };
    diagnostics.error(place, format!("`{name}` is no package name")).help(help);
    false
}

/// One report a place that names an unknown package; for a package the profile
/// does not name, at the key that brought it in.
pub(super) fn report_unknown(
    profile: &Profile,
    request: &PackageRequest,
    unknown: &[UnknownPackage],
    diagnostics: &mut Diagnostics,
) {
    for package in unknown {
        let foreign = request.foreign.as_ref().filter(|foreign| foreign.arch == package.arch);
        let suite = &foreign.map_or(&request.archive, |foreign| &foreign.archive).suite;
        let message = format!("no package `{}` for {} in {suite}", package.name, package.arch.debian_name());
        let place = match foreign {
            Some(_) => foreign_place(profile, &package.name),
            None => place_of(profile, &package.name),
        };
        let Some(place) = place else {
            continue;
        };
        let diagnostic = diagnostics.error(place, message);
        let is_second = package.name == usual_kernel(Arch::Amd64) && package.arch == Arch::I386;
        match package.suggestions.as_slice() {
            _ if is_second => {
                diagnostic.help("for a second, 64-bit kernel write the table [kernel.amd64]");
            }
            [] if request.archive.components == ["main"] => {
                diagnostic.help("if it is not free software, add its component to [debian] `components`");
            }
            [] => {}
            names => diagnostic.help(format!("did you mean `{}`?", names.join("` or `"))),
        }
    }
}

/// Where the profile asks for a package of the other architecture.
fn foreign_place<'a>(profile: &'a Profile, name: &str) -> Option<&'a Place> {
    let listed = profile.second_packages.iter().chain(&profile.packages[..profile.shared_packages]);
    let listed = listed.filter(|_| profile.root.amd64.is_some()).find(|package| package.value == name);
    let second = profile.kernel.amd64.as_ref().filter(|_| name.starts_with("linux-image"));
    let package = second.and_then(|second| second.package.as_ref()).map(|p| &p.place);
    let secure_boot = profile.boot.secure_boot.as_ref().map(|s| &s.place);
    let listed = listed.map(|package| &package.place);
    listed.or(package).or(second.map(|second| &second.place)).or(secure_boot).or(profile.start.as_ref())
}

/// Where the profile asks for a package, if only indirectly.
pub(super) fn place_of<'a>(profile: &'a Profile, name: &str) -> Option<&'a Place> {
    let text = |t: &'a Option<Text>| t.as_ref().map(|t| &t.place);
    let listed = profile.packages.iter().find(|p| p.value == name).map(|p| &p.place);
    let kernel = profile.kernel.package.as_ref().filter(|k| k.value == name).map(|k| &k.place);
    listed
        .or(kernel)
        .or(profile.bootmodes.as_ref().map(|b| &b.place).filter(|_| !name.starts_with("linux-image")))
        .or(text(&profile.debian.suite))
        .or(text(&profile.arch))
        .or(profile.start.as_ref())
}
