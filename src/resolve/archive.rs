//! The package resolver of a real build: Debian's archive through [`crate::source`].
//!
//! What was found is remembered in the cache under the digest of the request,
//! so that a build without a network gets the packages of the last one with it;
//! and under the digests of the signed indexes, so that one with a network only
//! asks whether those have changed.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;

use super::{FindError, FoundPackages, PackageRequest, UnknownPackage};
use crate::cache::{Cache, hex_sha256, retry_damaged};
use crate::plan::{AptSource, Debian, Package};
use crate::source::{Archive, UnreadArchive, Wanted, host_sources};

/// The answer in the output of its stage.
const ANSWER: &str = "found.json";

/// Asks the archive, or, `offline`, what an earlier run was told. The versions in
/// `keep` are preferred as far as the archive's index still has them.
///
/// # Errors
/// [`FindError::Unknown`] with every unknown name; trouble with the archive or the cache.
pub fn find_packages(
    cache: &Cache,
    offline: bool,
    request: &PackageRequest,
    keep: &[&Package],
) -> Result<FoundPackages, FindError> {
    if offline {
        return remembered(cache, request).map_err(FindError::Failed);
    }
    let found = ask_all(cache, request, keep)?;
    remember(cache, request, &found).map_err(FindError::Failed)?;
    Ok(found)
}

/// Asks the archive of the root's architecture, then that of the other one.
fn ask_all(cache: &Cache, request: &PackageRequest, keep: &[&Package]) -> Result<FoundPackages, FindError> {
    let own = PackageRequest { foreign: None, ..request.clone() };
    let Some(foreign) = &request.foreign else {
        return ask(cache, &own, keep);
    };
    let mut unknown = Vec::new();
    let mut asked = |request| match ask(cache, request, keep) {
        Err(FindError::Unknown(names)) => {
            unknown.extend(names);
            Ok(None)
        }
        answer => answer.map(Some),
    };
    let (own, other) = (asked(&own)?, asked(&foreign.alone())?);
    match own.zip(other) {
        Some((own, other)) => Ok(joined(own, other, foreign.arch.debian_name())),
        None => Err(FindError::Unknown(unknown)),
    }
}

/// Both answers as one: a suite is a source whatever the architecture.
fn joined(mut own: FoundPackages, other: FoundPackages, other_arch: &str) -> FoundPackages {
    for source in other.debian.sources {
        if !own.debian.sources.iter().any(|known| known.suite == source.suite) {
            own.debian.sources.push(source);
        }
    }
    own.debian.left_out.extend(other.debian.left_out.iter().map(|reason| format!("{other_arch}: {reason}")));
    own.packages.kernel.extend(other.packages.kernel);
    own.packages.kernel.sort();
    own.packages.loaders.extend(other.packages.loaders);
    own.packages.loaders.sort();
    own.packages.initramfs.extend(other.packages.initramfs);
    own.packages.initramfs.sort();
    own.packages.second_root = other.packages.root;
    own.released = own.released.max(other.released);
    own
}

/// What decides an answer.
#[derive(Serialize)]
struct Inputs<'a> {
    source: &'static str,
    request: &'a PackageRequest,
    keep: &'a [&'a Package],
    sources: &'a [AptSource],
    left_out: &'a [String],
    releases: BTreeMap<String, String>,
}

/// Asks the archive, unless the same was asked of the same signed indexes before.
fn ask(cache: &Cache, request: &PackageRequest, keep: &[&Package]) -> Result<FoundPackages, FindError> {
    let (archive, mut left_out) = open(cache, request).map_err(FindError::Failed)?;
    left_out.extend_from_slice(archive.left_out());
    let releases = archive.release_digests().map_err(FindError::Failed)?;
    let sources = archive.sources().to_vec();
    let inputs = Inputs {
        source: env!("LIVEISO_SOURCE_DIGEST"),
        request,
        keep,
        sources: &sources,
        left_out: &left_out,
        releases,
    };
    let mut archive = Some(archive);
    let mut unknown = Vec::new();
    let answer = retry_damaged(|| {
        let output = cache.stage("resolution", &inputs, |dir| {
            let archive = match archive.take() {
                Some(archive) => archive,
                None => open(cache, request)?.0,
            };
            let found = find(archive.read()?, request, keep, &left_out, &mut unknown)?;
            let json = serde_json::to_vec(&found).context("serialising the found packages")?;
            fs::write(dir.join(ANSWER), json).context("writing the found packages")
        })?;
        let json = fs::read(output.open(ANSWER)?).context("reading the found packages")?;
        serde_json::from_slice(&json).context("reading the found packages")
    });
    match answer {
        Err(_) if !unknown.is_empty() => Err(FindError::Unknown(unknown)),
        answer => answer.map_err(FindError::Failed),
    }
}

/// Fills `unknown`, and fails, when there are names that no package has.
fn find(
    archive: Archive,
    request: &PackageRequest,
    keep: &[&Package],
    left_out: &[String],
    unknown: &mut Vec<UnknownPackage>,
) -> Result<FoundPackages> {
    let names = [&request.root, &request.kernel, &request.loaders, &request.initramfs];
    let missing = names.into_iter().flatten().filter(|name| !archive.index().contains(name));
    *unknown = missing
        .map(|name| UnknownPackage {
            name: name.clone(),
            arch: request.arch,
            suggestions: archive.index().suggest(name),
        })
        .collect();
    ensure!(unknown.is_empty(), "{} packages are unknown", unknown.len());
    let packages = archive.resolve_keeping(&wanted(request), keep)?;
    let debian = Debian {
        suite: request.archive.suite.clone(),
        sources: archive.sources().to_vec(),
        left_out: left_out.to_vec(),
    };
    Ok(FoundPackages { debian, packages, released: Some(archive.released()) })
}

fn open(cache: &Cache, request: &PackageRequest) -> Result<(UnreadArchive, Vec<String>)> {
    let wanted = &request.archive;
    let host = host_sources(
        &wanted.suite,
        &wanted.components,
        wanted.security,
        wanted.mirror.as_deref(),
        wanted.security_mirror.as_deref(),
    )?;
    let updates = format!("{}-updates", wanted.suite);
    let mut sources = host.sources;
    sources.retain(|source| wanted.updates || source.suite != updates);
    Ok((UnreadArchive::open(cache, request.arch, &sources, wanted.security)?, host.left_out))
}

fn wanted(request: &PackageRequest) -> Wanted<'_> {
    Wanted {
        root: &request.root,
        mode: request.mode,
        with_dependencies: true,
        kernel: &request.kernel,
        loaders: &request.loaders,
        initramfs: &request.initramfs,
    }
}

fn memory(cache: &Cache, request: &PackageRequest) -> Result<PathBuf> {
    let key =
        serde_json::to_vec(&(super::PLAN_VERSION, request)).context("serialising the package request")?;
    Ok(cache.subdir("apt").join(format!("{}.found.json", &hex_sha256(&key)[..32])))
}

/// Renamed when it is complete: a killed run leaves the old answer.
fn remember(cache: &Cache, request: &PackageRequest, found: &FoundPackages) -> Result<()> {
    let path = memory(cache, request)?;
    let json = serde_json::to_vec(found).context("serialising the found packages")?;
    let work = cache.work_dir()?;
    let new = work.path.join("found.json");
    std::fs::write(&new, json).with_context(|| format!("writing {}", new.display()))?;
    std::fs::rename(&new, &path).with_context(|| format!("writing {}", path.display()))?;
    Ok(())
}

fn remembered(cache: &Cache, request: &PackageRequest) -> Result<FoundPackages> {
    let path = memory(cache, request)?;
    let json = std::fs::read(&path).map_err(|_| {
        anyhow!("offline: this cache has not resolved these packages yet; run it once without --offline")
    })?;
    serde_json::from_slice(&json).with_context(|| format!("reading {}", path.display()))
}
