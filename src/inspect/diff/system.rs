//! Tables, packages, menus, loaders, kernels and initramfs.

use std::collections::{BTreeMap, BTreeSet};

use similar::{ChangeTag, TextDiff};

use super::{Change, added, attributes, changed, changed_value, compare, removed, sizes};
use crate::format::iso9660::Volume;
use crate::inspect::{Inspection, Member, Place};

pub(super) fn tables(old: &Inspection, new: &Inspection) -> Vec<Change> {
    let values = |it: &Inspection| -> [(&'static str, String); 9] {
        let volume =
            |field: fn(&Volume) -> &String| it.volume.as_ref().map(field).cloned().unwrap_or_default();
        let mbr = it.mbr.as_ref().map(|partitions| {
            let shown = partitions.iter().map(|p| {
                let active = if p.entry.status == 0x80 { " active" } else { "" };
                format!(
                    "{}: type {:02x} block {} +{}{active}",
                    p.slot, p.entry.kind, p.entry.start, p.entry.blocks
                )
            });
            shown.collect::<Vec<_>>().join(", ")
        });
        let gpt = it.gpt.as_ref().map(|gpt| {
            let shown = gpt.partitions.iter().map(|p| format!("{} block {} +{}", p.kind, p.start, p.blocks));
            let valid = if gpt.is_valid() { "valid" } else { "invalid" };
            format!("{valid} {} {}", gpt.disk, shown.collect::<Vec<_>>().join(", "))
        });
        let catalog = it.el_torito.iter().map(|entry| {
            format!("platform {:02x} sector {} +{}", entry.platform, entry.sector, entry.blocks)
        });
        let file_systems = it.file_systems.iter().map(|found| {
            format!(
                "{}: {} block {} +{} `{}`",
                found.place, found.format, found.start, found.blocks, found.label
            )
        });
        let none = || "none".to_string();
        [
            ("length", format!("{} bytes", it.length)),
            ("volume id", format!("`{}`", volume(|v| &v.id))),
            ("publisher", format!("`{}`", volume(|v| &v.publisher))),
            ("application", format!("`{}`", volume(|v| &v.application))),
            ("volume date", volume(|v| &v.modified)),
            ("MBR", mbr.unwrap_or_else(none)),
            ("GPT", gpt.unwrap_or_else(none)),
            ("El Torito", catalog.collect::<Vec<_>>().join(", ")),
            ("file systems", file_systems.collect::<Vec<_>>().join(", ")),
        ]
    };
    let pairs = values(old).into_iter().zip(values(new));
    pairs.filter_map(|((name, old), (_, new))| changed_value("table", name, old, new)).collect()
}

pub(super) fn packages(old: &Inspection, new: &Inspection) -> Vec<Change> {
    let versions = |it: &Inspection| -> BTreeMap<String, String> {
        let list = it.packages.iter().flat_map(|packages| &packages.list);
        let name = |name: &str, arch: &str| {
            if arch.is_empty() { name.to_string() } else { format!("{name}:{arch}") }
        };
        list.map(|package| (name(&package.name, &package.arch), package.version.clone())).collect()
    };
    let mut changes = Vec::new();
    for (name, one, other) in compare(&versions(old), &versions(new)) {
        match (one, other) {
            (Some(one), Some(other)) => {
                changes.extend(changed_value("package", name, one.clone(), other.clone()));
            }
            (None, Some(version)) => changes.push(added("package", format!("{name} {version}"))),
            (Some(version), None) => changes.push(removed("package", format!("{name} {version}"))),
            (None, None) => {}
        }
    }
    changes
}

/// Lines of configuration files that are in both.
pub(super) fn menus(old: &Inspection, new: &Inspection) -> Vec<Change> {
    let texts = |it: &Inspection| -> BTreeMap<String, String> {
        it.configs.iter().map(|config| (config.path.clone(), config.text.clone())).collect()
    };
    let mut changes = Vec::new();
    for (path, one, other) in compare(&texts(old), &texts(new)) {
        let (Some(one), Some(other)) = (one, other) else { continue };
        for change in TextDiff::from_lines(one, other).iter_all_changes() {
            let (make, line): (fn(&'static str, String) -> Change, _) = match change.tag() {
                ChangeTag::Equal => continue,
                ChangeTag::Delete => (removed, change.old_index()),
                ChangeTag::Insert => (added, change.new_index()),
            };
            let line = line.map(|line| line + 1).unwrap_or_default();
            changes.push(make("menu", format!("{path}:{line} {}", change.value().trim())));
        }
    }
    changes
}

pub(super) fn loaders(old: &Inspection, new: &Inspection) -> Vec<Change> {
    let described = |it: &Inspection| -> BTreeMap<String, String> {
        let described = it.loaders.iter().map(|loader| {
            let place = it.place_name(loader.place);
            let program = &loader.program;
            let signers: Vec<&str> = program.signers.iter().map(|signer| signer.subject.as_str()).collect();
            let sbat: Vec<String> =
                program.sbat.iter().map(|line| format!("{},{}", line.component, line.generation)).collect();
            let signed = if signers.is_empty() { "unsigned".to_string() } else { signers.join(" and ") };
            let text = format!("{} {signed} {}", program.machine, sbat.join(" "));
            (format!("{place} {}", loader.file.path), text.trim_end().to_string())
        });
        described.collect()
    };
    both("loader", &described(old), &described(new))
}

pub(super) fn kernels(old: &Inspection, new: &Inspection) -> Vec<Change> {
    let described = |it: &Inspection| -> BTreeMap<String, String> {
        let described = it.kernels.iter().map(|kernel| {
            let signers: Vec<&str> = kernel.signers.iter().map(|signer| signer.subject.as_str()).collect();
            let signed = if signers.is_empty() { "unsigned".to_string() } else { signers.join(" and ") };
            let place = if kernel.place == Place::Medium { "" } else { "ESP:" };
            (
                format!("{place}{}", kernel.file.path),
                format!("{} {} {signed}", kernel.header.arch, kernel.header.version),
            )
        });
        described.collect()
    };
    both("kernel", &described(old), &described(new))
}

/// What is in both; that something came or went is told by its file.
fn both(area: &'static str, old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Change> {
    let pairs = compare(old, new);
    pairs.filter_map(|(name, one, other)| changed_value(area, name, one?.clone(), other?.clone())).collect()
}

/// Modules and files of initramfs files with the same path.
pub(super) fn initramfs(old: &Inspection, new: &Inspection) -> Vec<Change> {
    let mut changes = Vec::new();
    for one in &old.initramfs {
        let Some(other) = new.initramfs.iter().find(|other| other.file.path == one.file.path) else {
            continue;
        };
        let path = &one.file.path;
        let (one, other) = (&one.contents, &other.contents);
        let parts = |contents: &crate::inspect::Contents| {
            contents.parts.iter().map(|part| part.compression).collect::<Vec<_>>().join("+")
        };
        changes.extend(changed_value("initramfs", path, parts(one), parts(other)));
        let came: BTreeSet<_> = other.modules.difference(&one.modules).collect();
        let went: BTreeSet<_> = one.modules.difference(&other.modules).collect();
        changes.extend(went.iter().map(|module| removed("module", format!("{module} in {path}"))));
        changes.extend(came.iter().map(|module| added("module", format!("{module} in {path}"))));
        let is_other_module = |name: &str| {
            let file = name.rsplit('/').next().unwrap_or(name).split(".ko").next().unwrap_or_default();
            let module = crate::kmod::normalized_name(file);
            name.contains(".ko") && (came.contains(&module) || went.contains(&module))
        };
        for (name, one, other) in compare(&one.files, &other.files) {
            if is_other_module(name) {
                continue;
            }
            let shown = format!("{path}:/{name}");
            match (one, other) {
                (Some(one), Some(other)) => {
                    let detail = members(one, other);
                    changes
                        .extend((!detail.is_empty()).then(|| changed("initramfs", shown, detail.join(", "))));
                }
                (None, _) => changes.push(added("initramfs", shown)),
                (_, None) => changes.push(removed("initramfs", shown)),
            }
        }
    }
    changes
}

fn members(old: &Member, new: &Member) -> Vec<String> {
    let mut detail = attributes((old.mode & 0o7777, old.owner), (new.mode & 0o7777, new.owner));
    if old.mode & 0o170000 != new.mode & 0o170000 {
        detail.push("type".to_string());
    } else if old.digest != new.digest {
        detail.push(sizes(old.length, new.length));
    }
    detail
}
