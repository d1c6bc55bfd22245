//! Pinned packages into the content-addressed store `<cache>/v1/debs/<sha256>.deb`.
//!
//! apt downloads by URI and hash (`apt-helper download-file`), so a package
//! that newer ones have replaced in the index is still found while the mirror
//! has the file. Every file is compared with its pin when it arrives and again
//! before it is unpacked ([`verified_deb`]); a build whose stages are all in the
//! cache reads no package.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::apt::{check_space, write_state};
use super::failure;
use super::host::with_mirrors;
use crate::cache::{Cache, DamagedEntry, digest_file};
use crate::host::Tool;
use crate::plan::{AptSource, Arch, Package};

const APT_HELPER: &str = "/usr/lib/apt/apt-helper";
/// Packages per call, so that the command line stays far below the kernel's limit.
const BATCH: usize = 100;

/// A package that is needed, not in the cache, and not to be downloaded.
#[derive(Debug)]
pub struct NotCached(pub String);

impl std::fmt::Display for NotCached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotCached {}

/// Path of a package in the cache.
pub(super) fn deb_path(cache: &Cache, package: &Package) -> PathBuf {
    cache.subdir("debs").join(format!("{}.deb", package.sha256))
}

/// Path of a package in the cache, after comparing its bytes with its pin.
///
/// # Errors
/// [`DamagedEntry`] after removing a file that is not what was pinned, so that
/// [`fetch`] downloads it again.
pub(super) fn verified_deb(cache: &Cache, package: &Package) -> Result<PathBuf> {
    let path = deb_path(cache, package);
    ensure!(
        path.exists(),
        "package {} {}: it is no longer in the cache; start the build again",
        package.name,
        package.version
    );
    match is_intact(&path, package)? {
        true => Ok(path),
        false => Err(DamagedEntry(path).into()),
    }
}

/// Makes sure every package is in the cache at its pinned size; returns paths by SHA-256.
///
/// Without missing packages nothing is asked of the network, nor of the host, whose
/// apt configuration names the mirrors of sources without a URI; with `offline`
/// a missing package is an error.
///
/// # Errors
/// [`super::ArchiveError`], a package of an unknown suite, trouble with the cache directory.
pub fn fetch(
    cache: &Cache,
    arch: Arch,
    sources: &[AptSource],
    packages: &[Package],
    offline: bool,
) -> Result<BTreeMap<String, PathBuf>> {
    let mut wanted: BTreeMap<&str, &Package> = BTreeMap::new();
    for package in packages {
        wanted.insert(&package.sha256, package);
    }
    cache.use_debs(wanted.keys().copied())?;
    let mut missing = Vec::new();
    for package in wanted.values() {
        if !is_present(&deb_path(cache, package), package)? {
            missing.push(*package);
        }
    }
    missing.sort();
    if let (true, Some(first)) = (offline, missing.first()) {
        bail!(NotCached(format!(
            "package {} {}: it is not in the cache (nor are {} others), and downloading was not allowed; build once with a network",
            first.name,
            first.version,
            missing.len() - 1
        )));
    }
    let sources = if missing.is_empty() { Vec::new() } else { with_mirrors(sources)? };
    if !missing.is_empty() {
        check_space(&cache.subdir("debs"), missing.iter().map(|p| p.size).sum())?;
    }
    for batch in missing.chunks(BATCH) {
        download(cache, arch, &sources, batch)?;
    }
    Ok(wanted.into_values().map(|p| (p.sha256.clone(), deb_path(cache, p))).collect())
}

/// Whether the file exists and has the right size; one of another size is removed.
fn is_present(path: &Path, package: &Package) -> Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() == package.size => Ok(true),
        Ok(_) => is_intact(path, package),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("reading {}", path.display())),
    }
}

/// Whether the file exists and matches; a damaged one is removed.
fn is_intact(path: &Path, package: &Package) -> Result<bool> {
    if !path.exists() {
        return Ok(false);
    }
    let found = digest_file(path)?;
    if found.sha256 == package.sha256 && found.size == package.size {
        return Ok(true);
    }
    fs::remove_file(path).with_context(|| format!("removing the damaged {}", path.display()))?;
    Ok(false)
}

fn download(cache: &Cache, arch: Arch, sources: &[AptSource], packages: &[&Package]) -> Result<()> {
    let work = cache.work_dir()?;
    let config = write_state(&work.path, arch, &[])?;
    let mut tool = Tool::bound(APT_HELPER, "downloading packages")?.env("APT_CONFIG", config);
    tool = tool.args(["-qq", "download-file"]);
    for package in packages {
        let target = work.path.join(format!("{}.deb", package.sha256));
        tool = tool.arg(uri(sources, package)?).arg(target).arg(format!("SHA256:{}", package.sha256));
    }
    let output = tool.capture()?;
    // What did arrive is worth keeping even when another package failed.
    let mut failed = None;
    for package in packages {
        let arrived = work.path.join(format!("{}.deb", package.sha256));
        own_copy(&arrived)?;
        if is_intact(&arrived, package)? {
            let target = deb_path(cache, package);
            fs::rename(&arrived, &target)
                .with_context(|| format!("moving a package to {}", target.display()))?;
        } else {
            failed = failed.or(Some(package));
        }
    }
    let Some(package) = failed else {
        return Ok(());
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(failure::of_download(
        &about(&stderr, package),
        &format!("package {} {}", package.name, package.version),
    )
    .into())
}

/// From a `file:` mirror apt gives a link to the mirror's file; the store holds files of its own.
fn own_copy(path: &Path) -> Result<()> {
    if !path.is_symlink() {
        return Ok(());
    }
    let copy = path.with_extension("copy");
    fs::copy(path, &copy).with_context(|| format!("copying {}", path.display()))?;
    fs::rename(&copy, path).with_context(|| format!("renaming {}", copy.display()))
}

/// The part of apt's messages that is about one package, or all of them.
fn about(stderr: &str, package: &Package) -> String {
    let name = encoded(package.filename.rsplit('/').next().unwrap_or_default());
    let mut kept = String::new();
    let mut ours = false;
    for line in stderr.lines() {
        if !line.starts_with(' ') {
            ours = line.contains(&name);
        }
        if ours {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    if kept.is_empty() { stderr.to_string() } else { kept }
}

fn uri(sources: &[AptSource], package: &Package) -> Result<String> {
    let source = sources.iter().find(|source| source.suite == package.suite).with_context(|| {
        format!(
            "package {} {}: no source for its suite {} is known",
            package.name, package.version, package.suite
        )
    })?;
    Ok(format!("{}/{}", source.uri.trim_end_matches('/'), encoded(&package.filename)))
}

/// Percent-encodes as apt does in its URIs.
fn encoded(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
    path.bytes().map(|b| if plain(b) { (b as char).to_string() } else { format!("%{b:02x}") }).collect()
}
