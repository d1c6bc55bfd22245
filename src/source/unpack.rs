//! Packages read straight into a tree: no maintainer script runs.
//!
//! Each data.tar is decompressed once into the cache; file content in the tree
//! refers to it by offset. Directories and links follow the merged /usr of
//! Debian since bookworm, which packages themselves do not ship.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use super::ar::Deb;
use super::fetch::verified_deb;
use crate::cache::{Cache, StageOutput};
use crate::plan::{Arch, Package};
use crate::tree::{Meta, Tree, TreeError, read_tar};

/// The archive in the output of a package's stage.
pub const DATA_TAR: &str = "data.tar";

/// A tree with the links of merged /usr and the packages in the order given.
/// Where packages share a file the later one wins.
///
/// # Errors
/// A package that is not in the cache (see [`super::fetch`]) or is damaged, and
/// conflicts between packages, which name both.
pub fn unpacked_tree(cache: &Cache, arch: Arch, packages: &[Package]) -> Result<Tree> {
    let mut tree = merged_root(arch)?;
    unpack_into(&mut tree, cache, packages)?;
    Ok(tree)
}

/// A tree of nothing but the links of merged /usr.
///
/// # Errors
/// Never in practice: the links are ours.
pub fn merged_root(arch: Arch) -> Result<Tree> {
    let mut tree = Tree::new();
    merged_usr(&mut tree, arch).context("preparing the merged /usr")?;
    Ok(tree)
}

/// Lays packages over what `tree` has already, in the order given; as [`unpacked_tree`] otherwise.
///
/// # Errors
/// As [`unpacked_tree`].
pub fn unpack_into(tree: &mut Tree, cache: &Cache, packages: &[Package]) -> Result<()> {
    lay_over(tree, packages, &data_tars(cache, packages)?)
}

/// Lays packages over what `tree` has already, from their unpacked archives.
///
/// # Errors
/// As [`unpacked_tree`].
pub fn lay_over(tree: &mut Tree, packages: &[Package], tars: &[StageOutput]) -> Result<()> {
    for (package, tar) in packages.iter().zip(tars) {
        let about = || format!("package {} {}", package.name, package.version);
        let path = tar.open(DATA_TAR).with_context(|| format!("unpacking {}", about()))?;
        read_tar(tree, &path, &about())?;
    }
    Ok(())
}

/// The links that usrmerge makes in a running Debian (hier and `usr-is-merged`).
fn merged_usr(tree: &mut Tree, arch: Arch) -> Result<(), TreeError> {
    let origin = tree.add_origin("merged /usr");
    let names: &[&str] = match arch {
        Arch::I386 => &["bin", "lib", "sbin"],
        Arch::Amd64 => &["bin", "lib", "lib64", "sbin"],
    };
    for name in names {
        let target = format!("usr/{name}");
        tree.add_directory(target.as_bytes(), Meta::mode(0o755), origin)?;
        tree.add_symlink(name.as_bytes(), target.as_bytes(), Meta::default(), origin)?;
    }
    Ok(())
}

/// The stage with the decompressed [`DATA_TAR`] of each package, made on all cores.
///
/// # Errors
/// As [`unpacked_tree`].
pub fn data_tars(cache: &Cache, packages: &[Package]) -> Result<Vec<StageOutput>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<StageOutput>>>> =
        Mutex::new(packages.iter().map(|_| None).collect());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(packages.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(package) = packages.get(i) else {
                        return;
                    };
                    let result = data_tar(cache, package);
                    results.lock().expect("no panic holds this lock")[i] = Some(result);
                }
            });
        }
    });
    let results = results.into_inner().expect("no panic holds this lock");
    results.into_iter().map(|r| r.expect("every package was taken by a thread")).collect()
}

fn data_tar(cache: &Cache, package: &Package) -> Result<StageOutput> {
    cache
        .stage("data-tar", &package.sha256, |dir| write_data(&verified_deb(cache, package)?, dir))
        .with_context(|| format!("unpacking package {} {}", package.name, package.version))
}

fn write_data(deb: &Path, dir: &Path) -> Result<()> {
    let path = dir.join(DATA_TAR);
    let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let mut out = std::io::BufWriter::with_capacity(256 << 10, file);
    Deb::open(deb)?.write_data(&mut out)?;
    out.flush().with_context(|| format!("writing {}", path.display()))
}
