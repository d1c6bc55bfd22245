//! The package resolver of a real build: Debian's archive through [`crate::source`].
//!
//! What was found is remembered in the cache under the digest of the request,
//! so that a build without a network gets the packages of the last one with it.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use super::{FindError, FoundPackages, PackageRequest, UnknownPackage};
use crate::cache::{Cache, hex_sha256};
use crate::plan::{Debian, Package};
use crate::source::{Archive, Wanted, host_sources};

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
    let (archive, mut left_out) = open(cache, request).map_err(FindError::Failed)?;
    let names = [&request.root, &request.kernel, &request.loaders, &request.initramfs];
    let unknown: Vec<UnknownPackage> = names
        .into_iter()
        .flatten()
        .filter(|name| !archive.index().contains(name))
        .map(|name| UnknownPackage { name: name.clone(), suggestions: archive.index().suggest(name) })
        .collect();
    if !unknown.is_empty() {
        return Err(FindError::Unknown(unknown));
    }
    let packages = archive.resolve_keeping(&wanted(request), keep).map_err(FindError::Failed)?;
    left_out.extend_from_slice(archive.left_out());
    let debian =
        Debian { suite: request.archive.suite.clone(), sources: archive.sources().to_vec(), left_out };
    let found = FoundPackages { debian, packages, released: Some(archive.released()) };
    remember(cache, request, &found).map_err(FindError::Failed)?;
    Ok(found)
}

fn open(cache: &Cache, request: &PackageRequest) -> Result<(Archive, Vec<String>)> {
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
    Ok((Archive::open(cache, request.arch, &sources, wanted.security)?, host.left_out))
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
