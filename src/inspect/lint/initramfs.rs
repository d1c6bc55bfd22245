//! Whether an initramfs has the drivers for finding its own medium.

use std::collections::BTreeSet;

use super::{Inspection, Verdict, judge, not_applicable};
use crate::format::squashfs;
use crate::inspect::initramfs::builtin_names;
use crate::inspect::{Initramfs, menu};
use crate::tree::Content;

/// Disks, USB sticks, discs, the ISO's own file system, files as devices.
const ALWAYS: [&str; 5] = ["sd_mod", "usb_storage", "sr_mod", "isofs", "loop"];
const MAX_LIST: u64 = 1 << 20;

pub(super) fn search_modules(it: &Inspection) -> Verdict {
    let searching: Vec<&Initramfs> =
        it.initramfs.iter().filter(|one| one.contents.system.is_some()).collect();
    if searching.is_empty() {
        return not_applicable("no initramfs is one that is known to search for a medium");
    }
    let (mut problems, mut judged) = (Vec::new(), false);
    for initramfs in searching {
        let path = &initramfs.file.path;
        if let Some(release) = unserved(it, initramfs) {
            problems.push(format!("{path} has no modules for kernel {release}, which is started with it"));
        }
        let Some(builtin) = builtin(it, initramfs) else {
            continue;
        };
        judged = true;
        let missing = missing(it, initramfs, &builtin);
        if !missing.is_empty() {
            problems.push(format!("{path} lacks {}", missing.join(", ")));
        }
    }
    if problems.is_empty() && !judged {
        return not_applicable("nothing on the medium tells which drivers are built into the kernel");
    }
    judge(
        problems,
        "add the modules to the initramfs: it cannot find its medium everywhere",
        "every driver of the search is there",
    )
}

/// Ventoy puts its own program before the line `mountroot` of a Debian-like /init,
/// and loads dm-mod to make the ISO on its disk a block device.
pub(super) fn ventoy_hook(it: &Inspection) -> Verdict {
    let like_debians =
        |one: &&Initramfs| matches!(one.contents.system, Some("liveiso" | "live-boot" | "casper"));
    let mut problems = Vec::new();
    let mut judged = false;
    for initramfs in it.initramfs.iter().filter(like_debians) {
        let (path, contents) = (&initramfs.file.path, &initramfs.contents);
        judged = true;
        if !contents.calls_mountroot {
            problems.push(format!("/init of {path} has no line `mountroot`"));
        }
        if let Some(builtin) = builtin(it, initramfs)
            && !contents.modules.contains("dm_mod")
            && !builtin.contains("dm_mod")
        {
            problems.push(format!("{path} has no module dm-mod"));
        }
    }
    if !judged {
        return not_applicable("no initramfs is of the kind that Ventoy hooks this way");
    }
    let remedy = "keep Debian's line `mountroot` in /init, add the module dm-mod";
    match (problems.is_empty(), it.is_ours()) {
        (true, _) => super::pass("Ventoy finds its place in /init"),
        (false, true) => super::fail(format!("{}: Ventoy cannot start it", problems.join("; ")), remedy),
        (false, false) => super::warn(format!("{}: Ventoy may not start it", problems.join("; ")), remedy),
    }
}

fn missing(it: &Inspection, initramfs: &Initramfs, builtin: &BTreeSet<String>) -> Vec<String> {
    let contents = &initramfs.contents;
    let has = |name: &str| contents.modules.contains(name) || builtin.contains(name);
    let mut needed: Vec<&str> = ALWAYS.to_vec();
    if contents.system != Some("dracut") {
        needed.push("overlay");
    }
    needed.extend(it.images.iter().map(|image| image.format));
    let can_be_copied = it.files.iter().any(|file| file.path.to_ascii_lowercase().starts_with("/efi/boot/"));
    needed.extend(can_be_copied.then_some("vfat"));
    let mut missing: BTreeSet<String> =
        needed.iter().filter(|name| !has(name)).map(|name| name.to_string()).collect();
    for name in needed.iter().filter_map(|name| contents.depends.get(*name)).flatten() {
        if !has(name) {
            missing.insert(name.clone());
        }
    }
    missing.into_iter().collect()
}

/// What is compiled into the kernel: by the initramfs's own list, else by the root image's.
fn builtin(it: &Inspection, initramfs: &Initramfs) -> Option<BTreeSet<String>> {
    let contents = &initramfs.contents;
    if contents.builtin.is_some() {
        return contents.builtin.clone();
    }
    let release = contents.releases.first()?;
    for image in it.images.iter().filter(|image| image.squashfs.is_some()) {
        let Content::Slice { file, offset, length } = &image.content else { continue };
        let Ok(mut reader) = squashfs::Reader::open(file, *offset, *length) else { continue };
        for top in ["usr/lib", "lib"] {
            let path = format!("{top}/modules/{release}/modules.builtin");
            if let Ok(Some(text)) = reader.read_file(path.as_bytes(), MAX_LIST) {
                return Some(builtin_names(&String::from_utf8_lossy(&text)));
            }
        }
    }
    None
}

/// The release of a kernel that a menu starts with this initramfs, and for which it has no modules.
fn unserved<'i>(it: &'i Inspection, initramfs: &Initramfs) -> Option<&'i str> {
    let releases = &initramfs.contents.releases;
    if releases.is_empty() {
        return None;
    }
    let uses = |entry: &&crate::inspect::Entry| {
        let mut paths = entry.initrds.iter().filter_map(|path| menu::literal_path(entry, path));
        // With several initramfs files the modules may lie in any of them.
        entry.initrds.len() == 1 && paths.any(|path| path == initramfs.file.path)
    };
    let kernels = it.menu.iter().filter(uses).filter_map(|entry| menu::literal_path(entry, &entry.kernel));
    let kernels: Vec<String> = kernels.collect();
    let started = it.kernels.iter().filter(|kernel| kernels.contains(&kernel.file.path));
    started.map(|kernel| kernel.header.release()).find(|release| !releases.contains(*release))
}
