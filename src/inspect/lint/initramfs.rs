//! Whether an initramfs has the drivers for finding its own medium.

use std::collections::BTreeSet;

use super::{Inspection, Verdict, judge, not_applicable};
use crate::inspect::initramfs::builtin_names;
use crate::inspect::root::Root;
use crate::inspect::{Initramfs, menu};

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

/// Drivers of the file systems that an ISO file may lie on.
pub(super) fn carrier_modules(it: &Inspection) -> Verdict {
    let can_be_a_file = it.files.iter().any(|file| file.path == "/boot/grub/loopback.cfg");
    let searching = it.initramfs.iter().filter(|one| one.contents.system.is_some());
    let (mut problems, mut lacks, mut judged) = (Vec::new(), BTreeSet::new(), false);
    for initramfs in searching.filter(|_| can_be_a_file) {
        let Some(builtin) = builtin(it, initramfs) else { continue };
        let has = |name: &&str| initramfs.contents.modules.contains(*name) || builtin.contains(*name);
        judged = true;
        let without: Vec<&str> = ["vfat", "ext4", "loop"].into_iter().filter(|name| !has(name)).collect();
        if !without.is_empty() {
            problems.push(format!("{} lacks {}", initramfs.file.path, without.join(", ")));
        }
        lacks.extend(["exfat"].into_iter().filter(|name| !has(name)));
        if it.is_ours() && lacks.contains("exfat") {
            problems.push(format!("{} lacks exfat", initramfs.file.path));
        }
        lacks.extend((!["ntfs3", "ntfs"].iter().any(has)).then_some("ntfs3"));
    }
    if !judged {
        return not_applicable(
            "no initramfs is known to look for an ISO file, or to have its drivers as modules",
        );
    }
    let remedy = "add the file systems of other people's disks to the initramfs";
    let good = match lacks.is_empty() {
        true => "FAT, exFAT, NTFS and ext4 can be read".to_string(),
        false => format!(
            "FAT and ext4 can be read; there is no {}",
            lacks.into_iter().collect::<Vec<_>>().join(", ")
        ),
    };
    match (problems.is_empty(), it.is_ours()) {
        (true, _) => super::pass(good),
        (false, true) => {
            super::fail(format!("{}: no ISO file on such a disk is found", problems.join("; ")), remedy)
        }
        (false, false) => {
            super::warn(format!("{}: no ISO file on such a disk is found", problems.join("; ")), remedy)
        }
    }
}

/// The file that only this build has, and what its initramfs looks for, are the same.
pub(super) fn build_id(it: &Inspection) -> Verdict {
    let ours: Vec<&Initramfs> =
        it.initramfs.iter().filter(|one| one.contents.system == Some("liveiso")).collect();
    if ours.is_empty() {
        return not_applicable("it has no initramfs of liveiso's");
    }
    let is_id = |name: &str| name.len() == 24 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let marker = |file: &crate::inspect::FileEntry| {
        let name = file.path.rsplit('/').next().and_then(|name| name.strip_suffix(".id"));
        name.filter(|name| is_id(name)).map(str::to_string)
    };
    let found: Vec<(String, String)> =
        it.files.iter().filter_map(|file| Some((marker(file)?, file.path.clone()))).collect();
    let mut problems = Vec::new();
    let [(id, path)] = &found[..] else {
        return super::fail(
            format!("there are {} files NAME.id instead of one", found.len()),
            "build the medium again",
        );
    };
    let text = it.file(path).and_then(|content| content.read_all().ok());
    if text.as_deref() != Some(format!("{id}\n").as_bytes()) {
        problems.push(format!("{path} does not hold its own name"));
    }
    for initramfs in ours.iter().filter(|one| one.contents.id.as_ref() != Some(id)) {
        let says = initramfs.contents.id.as_deref().unwrap_or("nothing");
        problems.push(format!("{} looks for {says}, the medium is {id}", initramfs.file.path));
    }
    judge(problems, "build the medium again: its parts are of different builds", format!("{id} everywhere"))
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
        let mut modules = contents.files.keys().map(|path| path.rsplit('/').next().unwrap_or(path));
        if let Some(packed) =
            modules.find(|name| matches!(*name, "dm-mod.ko.xz" | "dm-mod.ko.zst" | "dm-mod.ko.gz"))
        {
            problems.push(format!("{path} has {packed}, which Ventoy cannot unpack"));
        }
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
    for image in &it.images {
        let Ok(mut reader) = Root::open(image) else { continue };
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
