//! `liveiso.lock`: the exact packages of a profile, beside its `profile.toml`.
//!
//! ```text
//! PackageRequest ─find_packages→ FoundPackages ─Lock::new→ Lock ⇄ liveiso.lock
//!       └──── digest tells whether the lock is stale ───────┘
//! ```
//! The file is TOML 1.0, sorted, one `[[package]]` a package with the roles it
//! has, so that a diff shows what moved. It pins versions, SHA-256 and archive
//! file names, the suites that were used, and the build's timestamp. It names no
//! mirror and no place of this machine: mirrors do not influence a build.

mod read;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache::hex_sha256;
use crate::diagnostic::Diagnostics;
use crate::output::{Artifact, publish};
use crate::plan::{Debian, Package, Packages};
use crate::resolve::{DEFAULT_TIMESTAMP, FoundPackages, PackageRequest};
use crate::source::locked_sources;

/// Name of the file in the profile's directory.
pub const FILE_NAME: &str = "liveiso.lock";

/// Layout of the file this program writes and reads.
const LOCK_VERSION: i64 = 1;

/// The names of the lists of [`Packages`], in their order.
const ROLES: [&str; 5] = ["root", "kernel", "loaders", "initramfs", "second-root"];

/// The content of a lock file.
#[derive(Clone, Debug, PartialEq)]
pub struct Lock {
    /// Lower-case hex SHA-256 of the request it answers, see [`request_digest`].
    pub request: String,
    /// The build's time: newest `Date` of the suites' Release files, seconds since 1970-01-01 UTC.
    pub timestamp: i64,
    /// Suites with their components, in the order in which they were searched.
    pub sources: Vec<(String, Vec<String>)>,
    /// Suites that were asked for and left out, with the reason in words.
    pub left_out: Vec<String>,
    /// Every package by role.
    pub packages: Packages,
}

/// Path of a profile's lock file.
pub fn path(profile_dir: &Path) -> PathBuf {
    profile_dir.join(FILE_NAME)
}

/// SHA-256 of what was asked for. Mirrors do not count: they may not change the answer.
pub fn request_digest(request: &PackageRequest) -> String {
    let mut request = request.clone();
    request.archive.mirror = None;
    request.archive.security_mirror = None;
    let json = serde_json::to_vec(&(LOCK_VERSION, request)).expect("a request holds nothing but strings");
    hex_sha256(&json)
}

impl Lock {
    /// What the resolver found, as a lock.
    pub fn new(request: &PackageRequest, found: &FoundPackages) -> Lock {
        let sources = found.debian.sources.iter();
        let mut packages = found.packages.clone();
        for list in lists_mut(&mut packages) {
            list.sort();
        }
        Lock {
            request: request_digest(request),
            timestamp: found.released.unwrap_or(DEFAULT_TIMESTAMP),
            sources: sources.map(|s| (s.suite.clone(), s.components.clone())).collect(),
            left_out: found.debian.left_out.clone(),
            packages,
        }
    }

    /// Reads a profile's lock. `Ok(None)` when there is no file.
    ///
    /// # Errors
    /// [`Damaged`]; the diagnostics say every mistake.
    pub fn load(profile_dir: &Path, diagnostics: &mut Diagnostics) -> Result<Option<Lock>, Damaged> {
        let path = path(profile_dir);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let text = crate::profile::read_text(&path, diagnostics).ok_or(Damaged)?;
        let file = diagnostics.add_file(&path, text.clone());
        Lock::parse(&text, file, diagnostics).map(Some).ok_or(Damaged)
    }

    /// Reads the text that is registered as `file`; `None` when it is damaged, after reports.
    pub fn parse(text: &str, file: usize, diagnostics: &mut Diagnostics) -> Option<Lock> {
        read::parse(text, file, diagnostics)
    }

    /// Writes it beside the profile, whole or not at all.
    ///
    /// # Errors
    /// A profile directory that cannot be written.
    pub fn save(&self, profile_dir: &Path) -> Result<()> {
        let artifact = Artifact::bytes(FILE_NAME, self.to_text().into_bytes());
        publish(profile_dir, &[artifact])
            .map(drop)
            .with_context(|| format!("{}: it could not be written", path(profile_dir).display()))
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        write::text(self)
    }

    /// Whether it answers this request.
    pub fn fits(&self, request: &PackageRequest) -> bool {
        self.request == request_digest(request)
    }

    /// The answer to the request it was made for, without asking anybody.
    pub fn found(&self, request: &PackageRequest) -> FoundPackages {
        let archive = &request.archive;
        FoundPackages {
            debian: Debian {
                suite: archive.suite.clone(),
                sources: locked_sources(
                    &self.sources,
                    archive.mirror.as_deref(),
                    archive.security_mirror.as_deref(),
                ),
                left_out: self.left_out.clone(),
            },
            packages: self.packages.clone(),
            released: Some(self.timestamp),
        }
    }

    /// Every package once, whatever its roles, sorted.
    pub fn every_package(&self) -> Vec<&Package> {
        self.with_roles().into_keys().collect()
    }

    /// Whether any role has a package of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.every_package().iter().any(|p| p.name == name)
    }

    /// Every package with its roles.
    fn with_roles(&self) -> BTreeMap<&Package, Vec<&'static str>> {
        let mut all: BTreeMap<&Package, Vec<&'static str>> = BTreeMap::new();
        for (list, role) in self.packages.lists().into_iter().zip(ROLES) {
            for package in list {
                all.entry(package).or_default().push(role);
            }
        }
        all
    }

    /// What is different in `new`, one line a package.
    pub fn changes(&self, new: &Lock) -> Vec<String> {
        let (before, after) = (self.by_name(), new.by_name());
        let mut names: Vec<&str> = before.keys().chain(after.keys()).copied().collect();
        names.sort_unstable();
        names.dedup();
        names.into_iter().filter_map(|name| change(name, before.get(name), after.get(name))).collect()
    }

    fn by_name(&self) -> BTreeMap<&str, Vec<&Package>> {
        let mut packages: BTreeMap<&str, Vec<&Package>> = BTreeMap::new();
        for package in self.every_package() {
            packages.entry(&package.name).or_default().push(package);
        }
        packages
    }
}

fn change(name: &str, old: Option<&Vec<&Package>>, new: Option<&Vec<&Package>>) -> Option<String> {
    let versions = |list: &[&Package]| list.iter().map(|p| p.version.as_str()).collect::<Vec<_>>().join(", ");
    match (old, new) {
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new)) => Some(format!("changed {name} {} -> {}", versions(old), versions(new))),
        (Some(old), None) => Some(format!("removed {name} {}", versions(old))),
        (None, new) => Some(format!("added {name} {}", versions(new?))),
    }
}

/// A lock file that cannot be used; the diagnostics say why.
#[derive(Clone, Copy, Debug)]
pub struct Damaged;

fn lists_mut(packages: &mut Packages) -> [&mut Vec<Package>; 5] {
    let Packages { root, kernel, loaders, initramfs, second_root } = packages;
    [root, kernel, loaders, initramfs, second_root]
}
