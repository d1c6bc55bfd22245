//! From package names to pinned packages, with apt as the resolver.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use super::apt::Apt;
use super::failure::{self, ArchiveError, FailureKind};
use super::host::SecurityPolicy;
use super::index::{self, Index};
use crate::cache::Cache;
use crate::host::Tool;
use crate::plan::{AptSource, Arch, Package, Packages, RootMode};

/// An archive whose index was brought up to date and verified.
///
/// It holds the lock of its state in the cache: open a second one for the same
/// sources only after dropping the first.
#[derive(Debug)]
pub struct Archive {
    apt: Apt,
    arch: Arch,
    index: Index,
    released: i64,
    left_out: Vec<String>,
}

/// The same before its index is read, which nobody needs whose question has
/// been answered from an index with the same [`UnreadArchive::release_digests`].
#[derive(Debug)]
pub struct UnreadArchive {
    apt: Apt,
    arch: Arch,
    left_out: Vec<String>,
}

/// What a profile asks for, by name.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Packages of the root.
    pub root: &'a [String],
    /// How they become files; `Configured` adds dependencies and the essential set.
    pub mode: RootMode,
    /// Whether an unpacked root gets dependencies too.
    pub with_dependencies: bool,
    /// Kernel images or metapackages that depend on one (`linux-image-686`).
    pub kernel: &'a [String],
    /// Packages with loader files, without dependencies.
    pub loaders: &'a [String],
    /// Packages for the initramfs, without dependencies.
    pub initramfs: &'a [String],
}

/// A name that no package has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPackage {
    /// The name as asked for.
    pub name: String,
    /// Debian's name of the architecture.
    pub arch: String,
    /// The suites that were searched.
    pub suites: Vec<String>,
    /// Names that may have been meant.
    pub suggestions: Vec<String>,
}

impl std::fmt::Display for UnknownPackage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no package `{}` for {} in {}", self.name, self.arch, self.suites.join(", "))?;
        match self.suggestions.as_slice() {
            [] => Ok(()),
            names => write!(f, "; did you mean `{}`?", names.join("` or `")),
        }
    }
}

impl std::error::Error for UnknownPackage {}

impl UnreadArchive {
    /// Downloads and verifies the indexes of `sources`.
    ///
    /// With a policy other than [`SecurityPolicy::Required`], a `-security` or
    /// `-updates` suite whose index does not match its signed hash is tried a
    /// second time and then left out; [`Archive::left_out`] says so. Data that
    /// fails verification is never used.
    ///
    /// # Errors
    /// [`ArchiveError`], illegal sources, trouble with the cache directory.
    pub fn open(
        cache: &Cache,
        arch: Arch,
        sources: &[AptSource],
        security: SecurityPolicy,
    ) -> Result<UnreadArchive> {
        let mut sources = sources.to_vec();
        let mut left_out = Vec::new();
        loop {
            let apt = Apt::open(cache, arch, &sources)?;
            let Err(error) = apt.update().or_else(|error| retry(&apt, error)) else {
                return Ok(UnreadArchive { apt, arch, left_out });
            };
            let failed = droppable(&error, security);
            if failed.is_empty() {
                return Err(error);
            }
            sources.retain(|source| !failed.contains(&source.suite));
            left_out.extend(failed.iter().map(|suite| format!("{suite}: {}", reason(&error))));
        }
    }

    /// The sources that are really used.
    pub fn sources(&self) -> &[AptSource] {
        self.apt.sources()
    }

    /// As [`Archive::left_out`].
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// SHA-256 of each source's signed Release file, by its name.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn release_digests(&self) -> Result<BTreeMap<String, String>> {
        self.apt.release_digests()
    }

    /// Reads the index.
    ///
    /// # Errors
    /// An index that cannot be read.
    pub fn read(self) -> Result<Archive> {
        let (index, released) = (read_index(&self.apt)?, self.apt.released()?);
        let UnreadArchive { apt, arch, left_out } = self;
        Ok(Archive { apt, arch, index, released, left_out })
    }
}

impl Archive {
    /// Downloads, verifies and reads the indexes of `sources`; see [`UnreadArchive::open`].
    ///
    /// # Errors
    /// As [`UnreadArchive::open`].
    pub fn open(
        cache: &Cache,
        arch: Arch,
        sources: &[AptSource],
        security: SecurityPolicy,
    ) -> Result<Archive> {
        UnreadArchive::open(cache, arch, sources, security)?.read()
    }

    /// All packages on offer.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Newest `Date` of the used suites' Release files, seconds since 1970-01-01 UTC.
    pub fn released(&self) -> i64 {
        self.released
    }

    /// The sources that are really used.
    pub fn sources(&self) -> &[AptSource] {
        self.apt.sources()
    }

    /// Suites that were asked for and left out, with the reason: `bookworm-security: …`.
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Pins every package of a profile. Lists are sorted by name.
    ///
    /// # Errors
    /// [`UnknownPackage`], or [`ArchiveError`] of kind `Dependencies`.
    pub fn resolve(&self, wanted: &Wanted<'_>) -> Result<Packages> {
        self.resolve_keeping(wanted, &[])
    }

    /// The same with the versions in `keep`, as far as the index still has them
    /// and they can be installed together with the rest.
    ///
    /// # Errors
    /// As [`Archive::resolve`].
    pub fn resolve_keeping(&self, wanted: &Wanted<'_>, keep: &[&Package]) -> Result<Packages> {
        self.apt.prefer(&self.preferences(wanted, keep))?;
        match self.choose(wanted) {
            Err(e) if !keep.is_empty() && is_conflict(&e) => {
                self.apt.prefer(&[])?;
                self.choose(wanted)
            }
            chosen => chosen,
        }
    }

    /// Name and version of what is kept, and of the metapackages that lead to a kept kernel.
    fn preferences<'a>(&'a self, wanted: &Wanted<'_>, keep: &[&'a Package]) -> Vec<(&'a str, &'a str)> {
        let kept = |p: &&&Package| self.index.find(&p.name, &p.version, &p.arch).is_some();
        let mut versions: Vec<_> =
            keep.iter().filter(kept).map(|p| (p.name.as_str(), p.version.as_str())).collect();
        for name in wanted.kernel {
            let leads_to_kept = |candidate: &&index::Candidate| {
                index::names(&candidate.depends).any(|n| versions.iter().any(|(kept, _)| *kept == n))
            };
            if let Some(meta) = self.index.candidates(name).iter().find(leads_to_kept) {
                versions.push((meta.package.name.as_str(), meta.package.version.as_str()));
            }
        }
        versions
    }

    fn choose(&self, wanted: &Wanted<'_>) -> Result<Packages> {
        let configured = wanted.mode == RootMode::Configured;
        let root = if configured || wanted.with_dependencies {
            self.with_dependencies(wanted.root, configured)?
        } else {
            self.alone(wanted.root)?
        };
        Ok(Packages {
            root,
            kernel: self.kernel(wanted.kernel)?,
            loaders: self.alone(wanted.loaders)?,
            initramfs: self.alone(wanted.initramfs)?,
            second_root: Vec::new(),
        })
    }

    /// The error for a name the index does not have.
    pub fn unknown(&self, name: &str) -> UnknownPackage {
        UnknownPackage {
            name: name.to_string(),
            arch: self.arch.debian_name().to_string(),
            suites: self.sources().iter().map(|source| source.suite.clone()).collect(),
            suggestions: self.index.suggest(name),
        }
    }

    fn check_names(&self, names: &[String]) -> Result<()> {
        match names.iter().find(|name| !self.index.contains(name)) {
            Some(name) => Err(self.unknown(name).into()),
            None => Ok(()),
        }
    }

    fn with_dependencies(&self, names: &[String], essential: bool) -> Result<Vec<Package>> {
        self.check_names(names)?;
        if names.is_empty() && !essential {
            return Ok(Vec::new());
        }
        let mut wishes: Vec<&str> = names.iter().map(String::as_str).collect();
        if essential {
            wishes.push("?essential");
            // The root is merged from the start; the package that merges a running
            // system would bring all of perl.
            let merged = ["usr-is-merged", "usrmerge"].map(|name| self.index.contains(name));
            if merged == [true, true] && !names.iter().any(|name| name == "usrmerge") {
                wishes.extend(["usr-is-merged", "usrmerge-"]);
            }
        }
        let install = |how: [&str; 2]| -> Result<Tool> {
            let tool = self.apt.tool("apt-get", "resolving dependencies")?;
            Ok(tool.args(["install", "--yes", "--no-install-recommends"]).args(how).args(&wishes))
        };
        // Quiet enough to be parsed, apt does not say what conflicts; ask again.
        self.printed(install(["--print-uris", "-qq"])?, || install(["--simulate", "-q"]))
    }

    /// The newest version of each package, without dependencies.
    fn alone(&self, names: &[String]) -> Result<Vec<Package>> {
        self.check_names(names)?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let download = || -> Result<Tool> {
            let tool = self.apt.tool("apt-get", "choosing package versions")?;
            Ok(tool.args(["download", "--print-uris", "-qq"]).args(names))
        };
        self.printed(download()?, download)
    }

    /// Follows kernel metapackages to the images they stand for.
    fn kernel(&self, names: &[String]) -> Result<Vec<Package>> {
        let mut images = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut pending = names.to_vec();
        while !pending.is_empty() {
            let mut next = Vec::new();
            for package in self.alone(&pending)? {
                let candidate = self.index.find(&package.name, &package.version, &package.arch);
                let depends = candidate.map_or("", |c| c.depends.as_str());
                let behind = index::names(depends).filter(|name| name.starts_with("linux-image-"));
                let behind: Vec<String> = behind.map(str::to_string).collect();
                if behind.is_empty() {
                    let image = package.name.starts_with("linux-image-");
                    ensure!(
                        image,
                        "kernel package {}: it is no linux-image and depends on none",
                        package.name
                    );
                    images.insert(package);
                } else {
                    next.extend(behind);
                }
            }
            next.retain(|name| seen.insert(name.clone()));
            pending = next;
        }
        Ok(images.into_iter().collect())
    }

    /// Runs apt with `--print-uris` and looks up what it chose; `explain` is the
    /// call that tells why it could not choose.
    fn printed(&self, tool: Tool, explain: impl Fn() -> Result<Tool>) -> Result<Vec<Package>> {
        let output = tool.capture()?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let output = explain()?.capture()?;
            let all = [output.stdout, b"\n".to_vec(), output.stderr].concat();
            let all = String::from_utf8_lossy(&all);
            let object = format!("packages for {}", self.arch.debian_name());
            return Err(failure::of_resolution(&all, &object).into());
        }
        let mut packages = BTreeSet::new();
        for line in stdout.lines().filter(|line| line.starts_with('\'')) {
            packages
                .insert(self.printed_package(line).with_context(|| format!("reading apt's answer {line}"))?);
        }
        Ok(packages.into_iter().collect())
    }

    /// `'URI' name_version_arch.deb size hash`, with `%3a` for the colon of an epoch.
    fn printed_package(&self, line: &str) -> Result<Package> {
        let file = line.split(' ').nth(1).and_then(|f| f.strip_suffix(".deb")).context("it names no .deb")?;
        let file = file.replace("%3a", ":");
        let [name, version, arch] = file.split('_').collect::<Vec<_>>()[..] else {
            bail!("`{file}` is not name_version_arch")
        };
        let found = self.index.find(name, version, arch);
        Ok(found.context("the index has no such version")?.package.clone())
    }
}

fn is_conflict(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ArchiveError>().is_some_and(|e| e.kind == FailureKind::Dependencies)
}

/// A mismatch may be the moment a mirror is updated: ask once more.
fn retry(apt: &Apt, error: anyhow::Error) -> Result<()> {
    match error.downcast_ref::<ArchiveError>() {
        Some(e) if e.kind == FailureKind::Mismatch => apt.update(),
        _ => Err(error),
    }
}

/// The suites this failure is about, when the policy allows to leave them out.
fn droppable(error: &anyhow::Error, security: SecurityPolicy) -> Vec<String> {
    let Some(error) = error.downcast_ref::<ArchiveError>() else {
        return Vec::new();
    };
    let minor = |suite: &String| suite.ends_with("-security") || suite.ends_with("-updates");
    let allowed = security != SecurityPolicy::Required && error.suites.iter().all(minor);
    if allowed { error.suites.clone() } else { Vec::new() }
}

fn reason(error: &anyhow::Error) -> String {
    let words = error.downcast_ref::<ArchiveError>().map(|e| e.words.clone()).unwrap_or_default();
    format!("its index does not match its signed hash ({words}); the image lacks this suite's updates")
}

fn read_index(apt: &Apt) -> Result<Index> {
    let mut index = Index::default();
    for (path, suite) in apt.indexes()? {
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        index.add(&String::from_utf8_lossy(&bytes), &suite)?;
    }
    Ok(index)
}
