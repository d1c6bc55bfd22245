//! What the root is before anything of the user's is laid over it: packages,
//! kernel modules and their indexes, less what the profile excludes.
//!
//! Kept as a tree whose files refer to the packages' archives by place and
//! digest. So a changed overlay reads no package: unchanged blocks of the image
//! come from the block cache by their digests alone, and the archives are read,
//! and verified, only for the few that do not.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde::Serialize;

use super::SOURCE_DIGEST;
use crate::cache::{Cache, CachedFile, Fingerprint, StageOutput};
use crate::kmod;
use crate::plan::{Plan, RootMode};
use crate::source;
use crate::tree::{Tree, exclude, store};

const TREE: &str = "tree";
/// What a user should know about it, one a line.
const NOTES: &str = "notes.txt";

#[derive(Serialize)]
struct Inputs<'p> {
    source: &'static str,
    arch: &'p str,
    mode: RootMode,
    timestamp: i64,
    exclude: &'p [String],
    archives: Vec<&'p Fingerprint>,
}

/// The unpacked packages.
struct Archives {
    root: Vec<StageOutput>,
    kernel: Vec<StageOutput>,
    root_name: &'static str,
}

/// Makes the tree, or finds it in the cache; with it, notes for the user, one a line.
///
/// # Errors
/// Conflicts between packages, failing tools.
pub fn tree(plan: &Plan, cache: &Cache) -> Result<(Tree, String)> {
    let archives = Archives::new(plan, cache)?;
    let inputs = Inputs {
        source: SOURCE_DIGEST,
        arch: plan.arch.debian_name(),
        mode: plan.root.mode,
        timestamp: plan.timestamp,
        exclude: &plan.root.exclude,
        archives: archives.each(StageOutput::fingerprint),
    };
    let files = archives.each(StageOutput::file);
    let output = cache.stage("base-tree", &inputs, |dir| make(plan, &archives, &files, dir))?;
    let bytes = fs::read(output.open(TREE)?).context("reading the tree of packages")?;
    let notes = fs::read_to_string(output.open(NOTES)?).context("reading the notes of the packages")?;
    Ok((store::load(&bytes, &files)?, notes))
}

impl Archives {
    fn new(plan: &Plan, cache: &Cache) -> Result<Archives> {
        let packages = &plan.packages;
        let kernel = source::data_tars(cache, &packages.kernel)?;
        Ok(match plan.root.mode {
            RootMode::Configured => {
                // No dpkg excludes: the tree is filtered below, where a change costs no new installation.
                let suite = &plan.debian.suite;
                let root =
                    source::configured_root(cache, plan.arch, suite, &packages.root, plan.timestamp, &[])?;
                Archives { root: vec![root], kernel, root_name: source::ROOT_TAR }
            }
            RootMode::Unpacked => {
                let root = source::data_tars(cache, &packages.root)?;
                Archives { root, kernel, root_name: source::DATA_TAR }
            }
        })
    }

    fn each<'a, T>(&'a self, of: impl Fn(&'a StageOutput, &str) -> T) -> Vec<T> {
        let root = self.root.iter().map(|output| of(output, self.root_name));
        root.chain(self.kernel.iter().map(|output| of(output, source::DATA_TAR))).collect()
    }
}

fn make(plan: &Plan, archives: &Archives, files: &[Arc<CachedFile>], dir: &Path) -> Result<()> {
    let mut tree = match plan.root.mode {
        RootMode::Configured => source::read_configured(&archives.root[0])?,
        RootMode::Unpacked => {
            let mut tree = source::merged_root(plan.arch)?;
            source::lay_over(&mut tree, &plan.packages.root, &archives.root)?;
            tree
        }
    };
    source::lay_over(&mut tree, &plan.packages.kernel, &archives.kernel)?;
    remove_build_traces(&mut tree)?;
    let unused = exclude(&mut tree, &plan.root.exclude)?;
    let notes = unused.iter().map(|unused| format!("exclude pattern `{unused}` matches nothing\n"));
    fs::write(dir.join(NOTES), notes.collect::<String>()).context("writing the notes")?;
    for version in kmod::kernel_versions(&tree) {
        kmod::depmod(&mut tree, &version, plan.timestamp)
            .with_context(|| format!("indexing the modules of kernel {version}"))?;
    }
    store::seal(&mut tree, files)?;
    fs::write(dir.join(TREE), store::save(&tree, files)?).context("writing the tree of packages")
}

/// The kernel is read from the medium by the loader, never from the root; and
/// what maintainer scripts leave differently each time would change the image.
fn remove_build_traces(tree: &mut Tree) -> Result<()> {
    let mut patterns = vec!["/boot/*".to_string()];
    patterns.extend(source::volatile_paths().iter().map(|p| p.to_string()));
    exclude(tree, &patterns)?;
    Ok(())
}
