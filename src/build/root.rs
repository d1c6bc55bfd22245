//! The live root: the base, overlays and rules, as a squashfs or EROFS image.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::init_system::InitSystem;
use super::{SOURCE_DIGEST, base, description};
use crate::cache::{Cache, StageOutput};
use crate::format::erofs;
use crate::format::squashfs::{self, BlockCache};
use crate::format::verity;
use crate::kmod;
use crate::plan::{Overlay, OverlayEntry, Package, Plan, Root, RootFormat, RootMode};
use crate::resolve::{self, BUILT_IN, Blame, Mistake, Mistakes};
use crate::source;
use crate::tree::{Content, InodeId, Meta, Tree, display_path, set_permissions};

/// Every file of the root with its origin, one a line.
pub const FILES: &str = "files.txt";
/// With `verity`, how the image is opened: root hash, and the device mapper's words.
pub const VERITY: &str = "verity.txt";
/// What a user should know about the root, one a line.
const NOTES: &str = "notes.txt";

/// Where kernels have their modules, a directory a version.
const MODULES: &str = "usr/lib/modules/";

/// Compressed blocks of earlier images are kept up to this many bytes.
const BLOCK_CACHE_SIZE: u64 = 2 << 30;

#[derive(Serialize)]
struct Inputs<'p> {
    source: &'static str,
    arch: &'p str,
    timestamp: i64,
    names: [&'p str; 2],
    root: &'p Root,
    installer: Option<String>,
    packages: [Vec<&'p str>; 2],
    overlays: &'p [Overlay],
}

/// Makes the root image, or finds it in the cache.
///
/// # Errors
/// Conflicts between packages and overlays, what the format cannot carry, failing tools.
pub fn stage(plan: &Plan, identity: &Plan, cache: &Cache, jobs: NonZeroUsize) -> Result<StageOutput> {
    let inputs = Inputs {
        source: SOURCE_DIGEST,
        arch: plan.arch.debian_name(),
        timestamp: plan.timestamp,
        names: [&plan.iso_name, &plan.iso_version],
        root: &identity.root,
        installer: match plan.root.mode {
            RootMode::Configured => Some(source::installer()?),
            RootMode::Unpacked => None,
        },
        packages: [digests(&plan.packages.root), digests(&plan.packages.kernel)],
        overlays: &identity.overlays,
    };
    cache.stage("root", &inputs, |dir| {
        let (tree, mut notes) = tree(plan, cache).context("making the root tree")?;
        let name = plan.root.image.format.file_name();
        match plan.root.image.format {
            RootFormat::Squashfs => {
                let first = boot_files(&tree, &plan.root.boot_order, &mut notes);
                write_squashfs(&tree, &first, plan, cache, jobs, dir)
            }
            RootFormat::Erofs => write_erofs(&tree, plan, cache, &mut notes, dir),
        }
        .with_context(|| format!("writing {name}"))?;
        if plan.root.verity {
            add_hash_tree(&dir.join(name), &dir.join(VERITY))
                .with_context(|| format!("adding the hash tree to {name}"))?;
        }
        fs::write(dir.join(FILES), origins(&tree)).context("writing the list of files")?;
        fs::write(dir.join(NOTES), notes).context("writing the notes")
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

/// The tree and what a user should know about it, one a line.
fn tree(plan: &Plan, cache: &Cache) -> Result<(Tree, String)> {
    let (mut tree, notes) = base::tree(plan, cache)?;
    let init = InitSystem::of(&tree);
    for overlay in &plan.overlays {
        let selected = (overlay.origin == BUILT_IN).then(|| init.select(overlay));
        let overlay = selected.as_ref().unwrap_or(overlay);
        lay_over(&mut tree, overlay).with_context(|| format!("laying {} over the root", overlay.origin))?;
    }
    description::add(&plan.root.description, "root description", plan.timestamp, &mut tree)?;
    init.complete(&mut tree)?;
    describe(&mut tree, plan)?;
    let missing = set_permissions(&mut tree, &plan.root.file_permissions);
    // A typing error here could leave a secret readable, so it is no mere note.
    if !missing.is_empty() {
        return Err(Mistakes(missing.into_iter().map(no_such_path).collect()).into());
    }
    tree.clamp_mtimes(plan.timestamp);
    Ok((tree, notes))
}

fn no_such_path(path: String) -> Mistake {
    let message = format!("the root has no `{path}`, so its owner and mode cannot be set");
    Mistake { blame: Blame::FilePermission(path), message, help: "correct the path".to_string() }
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

/// The files a boot reads, in that order. Module directories are named for the
/// kernel's version, so an order recorded with another kernel is read for this one.
fn boot_files(tree: &Tree, order: &[String], notes: &mut String) -> Vec<InodeId> {
    let versions = kmod::kernel_versions(tree);
    let find = |path: &String| {
        let path = path.strip_prefix('/').unwrap_or(path);
        tree.get(path.as_bytes()).or_else(|| {
            let (_, module) = path.strip_prefix(MODULES)?.split_once('/')?;
            versions.iter().find_map(|v| tree.get(format!("{MODULES}{v}/{module}").as_bytes()))
        })
    };
    let found: Vec<InodeId> = order.iter().filter_map(find).collect();
    let lost = order.len() - found.len();
    if lost > 0 {
        notes.push_str(&format!(
            "{lost} of the {} files in boot-order do not exist; \
             record it again with `liveiso test PROFILE --record-boot-order`\n",
            order.len()
        ));
    }
    found
}

fn write_squashfs(
    tree: &Tree,
    first: &[InodeId],
    plan: &Plan,
    cache: &Cache,
    jobs: NonZeroUsize,
    dir: &Path,
) -> Result<()> {
    let image = &plan.root.image;
    let blocks = BlockCache::open(&cache.subdir("blocks"), BLOCK_CACHE_SIZE)?.with_scratch(dir);
    let options = squashfs::Options {
        compression: image.compression,
        level: image.level,
        block_size: image.block_size,
        jobs,
        timestamp: plan.timestamp,
        block_cache: Some(&blocks),
        first,
    };
    let path = dir.join(RootFormat::Squashfs.file_name());
    let mut out = File::create_new(&path).with_context(|| format!("creating {}", path.display()))?;
    squashfs::write(tree, &options, &mut out)?;
    Ok(())
}

fn write_erofs(tree: &Tree, plan: &Plan, cache: &Cache, notes: &mut String, dir: &Path) -> Result<()> {
    if !plan.root.boot_order.is_empty() {
        notes.push_str("boot-order is not applied: mkfs.erofs has an order of its own\n");
    }
    let image = &plan.root.image;
    let options =
        erofs::Options { level: image.level, cluster_size: image.block_size, timestamp: plan.timestamp };
    let work = cache.work_dir()?;
    erofs::write(tree, &options, &work.path, &dir.join(RootFormat::Erofs.file_name()))
}

fn add_hash_tree(image: &Path, text: &Path) -> Result<()> {
    let mut file = File::options().read(true).write(true).open(image).context("opening the image")?;
    let verity = verity::append(&mut file)?;
    fs::write(text, format!("{}\n{}\n", verity.root_hash_hex(), verity.table()))
        .context("writing the root hash")
}

/// How the image is checked while it is read; `None` without `verity`.
///
/// # Errors
/// A damaged cache entry.
pub fn verity(output: &StageOutput) -> Result<Option<VerityWords>> {
    if !output.files.contains_key(VERITY) {
        return Ok(None);
    }
    let text = fs::read_to_string(output.open(VERITY)?).context("reading the root hash")?;
    let (root_hash, table) = text.trim_end().split_once('\n').context("parsing the root hash")?;
    Ok(Some(VerityWords { root_hash: root_hash.to_string(), table: table.to_string() }))
}

/// What boot entries and initramfs say about the hash tree of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerityWords {
    /// Lower-case hex, for the boot entries.
    pub root_hash: String,
    /// What the device mapper is told behind the devices' names.
    pub table: String,
}

fn origins(tree: &Tree) -> String {
    tree.walk()
        .filter(|entry| !entry.path.is_empty())
        .map(|entry| format!("/{} [{}]\n", display_path(&entry.path), tree.origin(entry.inode.origin)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::parse_listing;

    #[test]
    fn boot_files_survive_another_kernel() {
        let tree = parse_listing(
            "file /usr/bin/b 0755 0 0\nfile /usr/bin/a 0755 0 0\ndir /usr/lib/modules/6.1.0-51 0755 0 0\n\
             file /usr/lib/modules/6.1.0-51/kernel/x.ko 0644 0 0",
        )
        .unwrap();
        let order = ["/usr/lib/modules/6.1.0-50/kernel/x.ko", "/usr/bin/b", "/gone", "/usr/bin/a"];
        let mut notes = String::new();
        let found = boot_files(&tree, &order.map(String::from), &mut notes);
        let expected = ["usr/lib/modules/6.1.0-51/kernel/x.ko", "usr/bin/b", "usr/bin/a"];
        assert_eq!(found, expected.map(|path| tree.get(path.as_bytes()).unwrap()));
        assert_eq!(
            notes,
            "1 of the 4 files in boot-order do not exist; \
             record it again with `liveiso test PROFILE --record-boot-order`\n"
        );
    }
}
