//! The live root: packages, kernel modules, overlays and rules, as a squashfs image.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::SOURCE_DIGEST;
use crate::cache::{Cache, StageOutput};
use crate::format::squashfs::{self, BlockCache};
use crate::kmod;
use crate::plan::{Overlay, OverlayEntry, Package, Plan, Root, RootMode};
use crate::resolve::{self, Blame, Mistake, Mistakes};
use crate::source;
use crate::tree::{Content, Meta, Tree, display_path, exclude, set_permissions};

/// The squashfs image in the stage's output.
pub const IMAGE: &str = "airootfs.sfs";
/// Every file of the root with its origin, one a line.
pub const FILES: &str = "files.txt";
/// What a user should know about the root, one a line.
const NOTES: &str = "notes.txt";

/// Compressed blocks of earlier images are kept up to this many bytes.
const BLOCK_CACHE_SIZE: u64 = 2 << 30;

#[derive(Serialize)]
struct Inputs<'p> {
    source: &'static str,
    arch: &'p str,
    timestamp: i64,
    names: [&'p str; 2],
    root: &'p Root,
    packages: [Vec<&'p str>; 2],
    overlays: &'p [Overlay],
}

/// Makes the root image, or finds it in the cache.
///
/// # Errors
/// Conflicts between packages and overlays, what squashfs cannot carry, failing tools.
pub fn stage(plan: &Plan, identity: &Plan, cache: &Cache, jobs: NonZeroUsize) -> Result<StageOutput> {
    let inputs = Inputs {
        source: SOURCE_DIGEST,
        arch: plan.arch.debian_name(),
        timestamp: plan.timestamp,
        names: [&plan.iso_name, &plan.iso_version],
        root: &plan.root,
        packages: [digests(&plan.packages.root), digests(&plan.packages.kernel)],
        overlays: &identity.overlays,
    };
    cache.stage("root", &inputs, |dir| {
        let mut notes = Vec::new();
        let tree = tree(plan, cache, &mut notes).context("making the root tree")?;
        write(&tree, plan, cache, jobs, dir).context("writing airootfs.sfs")?;
        fs::write(dir.join(FILES), origins(&tree)).context("writing the list of files")?;
        fs::write(dir.join(NOTES), notes.concat()).context("writing the notes")
    })
}

pub(super) fn digests(packages: &[Package]) -> Vec<&str> {
    packages.iter().map(|p| p.sha256.as_str()).collect()
}

/// What the stage has to tell a user, kept with its result so that a cached build says it too.
///
/// # Errors
/// A damaged cache entry.
pub fn notes(output: &StageOutput) -> Result<Vec<String>> {
    let text = fs::read_to_string(output.open(NOTES)?).context("reading the notes of the root")?;
    Ok(text.lines().map(str::to_string).collect())
}

fn tree(plan: &Plan, cache: &Cache, notes: &mut Vec<String>) -> Result<Tree> {
    let packages = &plan.packages;
    let mut tree = match plan.root.mode {
        RootMode::Configured => {
            // No dpkg excludes: the tree is filtered below, where a change costs no new installation.
            source::configured_tree(
                cache,
                plan.arch,
                &plan.debian.suite,
                &packages.root,
                plan.timestamp,
                &[],
            )?
        }
        RootMode::Unpacked => source::unpacked_tree(cache, plan.arch, &packages.root)?,
    };
    source::unpack_into(&mut tree, cache, &packages.kernel)?;
    remove_build_traces(&mut tree)?;
    for unused in exclude(&mut tree, &plan.root.exclude)? {
        notes.push(format!("exclude pattern `{unused}` matches nothing\n"));
    }
    for version in kmod::kernel_versions(&tree) {
        kmod::depmod(&mut tree, &version, plan.timestamp)
            .with_context(|| format!("indexing the modules of kernel {version}"))?;
    }
    for overlay in &plan.overlays {
        lay_over(&mut tree, overlay).with_context(|| format!("laying {} over the root", overlay.origin))?;
    }
    describe(&mut tree, plan)?;
    let missing = set_permissions(&mut tree, &plan.root.file_permissions);
    // A typing error here could leave a secret readable, so it is no mere note.
    if !missing.is_empty() {
        return Err(Mistakes(missing.into_iter().map(no_such_path).collect()).into());
    }
    tree.clamp_mtimes(plan.timestamp);
    Ok(tree)
}

fn no_such_path(path: String) -> Mistake {
    let message = format!("the root has no `{path}`, so its owner and mode cannot be set");
    Mistake { blame: Blame::FilePermission(path), message, help: "correct the path".to_string() }
}

/// The kernel is read from the medium by the loader, never from the root; and
/// what maintainer scripts leave differently each time would change the image.
fn remove_build_traces(tree: &mut Tree) -> Result<()> {
    let mut patterns = vec!["/boot/*".to_string()];
    patterns.extend(source::volatile_paths().iter().map(|p| p.to_string()));
    exclude(tree, &patterns)?;
    Ok(())
}

/// Adds an overlay to a tree, over what is there already.
///
/// # Errors
/// A file where the tree has a directory and the reverse, links that lead nowhere.
pub fn lay_over(tree: &mut Tree, overlay: &Overlay) -> Result<()> {
    let origin = tree.add_origin(&overlay.origin);
    for (path, entry) in &overlay.files {
        let bytes = path.as_bytes();
        match entry {
            OverlayEntry::Directory => tree.add_directory(bytes, Meta::mode(0o755), origin),
            OverlayEntry::Symlink { target } => {
                tree.add_symlink(bytes, target.as_bytes(), Meta::default(), origin)
            }
            OverlayEntry::File { executable, content } => {
                let content = resolve::input_content(content, resolve::airootfs(), path)?;
                let mode = if *executable { 0o755 } else { 0o644 };
                tree.add_file(bytes, content, Meta::mode(mode), origin)
            }
        }
        .with_context(|| format!("adding /{path}"))?;
    }
    Ok(())
}

/// What this system calls itself, in the os-release vocabulary.
fn describe(tree: &mut Tree, plan: &Plan) -> Result<()> {
    let origin = tree.add_origin("liveiso");
    let text = format!("IMAGE_ID={}\nIMAGE_VERSION={}\n", plan.iso_name, plan.iso_version);
    let mut release = match tree.resolve(b"usr/lib/os-release").map(|id| tree.inode(id).kind.clone()) {
        Ok(crate::tree::Kind::File(content)) => content.read_all().context("reading /usr/lib/os-release")?,
        _ => format!(
            "NAME=liveiso\nID={}\nPRETTY_NAME=\"{} {}\"\n",
            plan.iso_name, plan.iso_name, plan.iso_version
        )
        .into_bytes(),
    };
    release.extend_from_slice(text.as_bytes());
    tree.add_file(b"usr/lib/os-release", Content::bytes(release), Meta::default(), origin)?;
    if tree.get(b"etc/os-release").is_none() {
        tree.add_symlink(b"etc/os-release", b"../usr/lib/os-release", Meta::default(), origin)?;
    }
    Ok(())
}

fn write(tree: &Tree, plan: &Plan, cache: &Cache, jobs: NonZeroUsize, dir: &Path) -> Result<()> {
    let image = &plan.root.image;
    let blocks = BlockCache::open(&cache.subdir("blocks"), BLOCK_CACHE_SIZE)?;
    let options = squashfs::Options {
        compression: image.compression,
        level: image.level,
        block_size: image.block_size,
        jobs,
        timestamp: plan.timestamp,
        block_cache: Some(&blocks),
    };
    let path = dir.join(IMAGE);
    let mut out = File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
    squashfs::write(tree, &options, &mut out)?;
    Ok(())
}

fn origins(tree: &Tree) -> String {
    tree.walk()
        .filter(|entry| !entry.path.is_empty())
        .map(|entry| format!("/{} [{}]\n", display_path(&entry.path), tree.origin(entry.inode.origin)))
        .collect()
}
