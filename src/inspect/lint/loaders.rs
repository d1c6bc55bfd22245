//! UEFI loaders, Secure Boot, SBAT.

use std::collections::BTreeMap;

use super::{Inspection, Verdict, fail, judge, not_applicable, pass, warn};
use crate::inspect::{FileEntry, Format, Loader, Place, menu};

/// Generations below these are revoked (shim's SbatLevel 2025051000).
const SBAT_LEVEL: [(&str, u32); 3] = [("shim", 4), ("grub", 5), ("grub.proxmox", 2)];
const ARCHES: [&str; 2] = ["x64", "ia32"];

/// Files of `/EFI/BOOT` by their names in small letters: FAT ignores case.
fn boot_files(it: &Inspection, place: Place) -> BTreeMap<String, &FileEntry> {
    let files = match place {
        Place::Medium => &it.files[..],
        Place::Esp => it.esp_files(),
    };
    let named = files.iter().filter_map(|file| {
        let lower = file.path.to_ascii_lowercase();
        let name = lower.strip_prefix("/efi/boot/").filter(|name| !name.contains('/'))?;
        Some((name.to_string(), file))
    });
    named.collect()
}

fn loader<'i>(it: &'i Inspection, place: Place, name: &str) -> Option<&'i Loader> {
    let path = format!("/efi/boot/{name}");
    it.loaders.iter().find(|loader| loader.place == place && loader.file.path.eq_ignore_ascii_case(&path))
}

fn has_loader(it: &Inspection, arch: &str) -> bool {
    let name = format!("boot{arch}.efi");
    let has = |place| boot_files(it, place).contains_key(&name);
    if it.esp.is_some() { has(Place::Esp) } else { has(Place::Medium) }
}

fn of_arch(it: &Inspection, arch: &str, other: &str, who: &str) -> Verdict {
    if !it.serves_uefi() {
        return not_applicable("UEFI is not meant to start it");
    }
    match (has_loader(it, arch), has_loader(it, other)) {
        (true, _) => pass(format!("/EFI/BOOT/BOOT{}.EFI is there", arch.to_uppercase())),
        (false, true) => fail(
            format!("/EFI/BOOT/BOOT{}.EFI is missing: {who} ignore the medium", arch.to_uppercase()),
            "put both BOOTX64.EFI and BOOTIA32.EFI on the medium; one kernel can serve both",
        ),
        (false, false) => not_applicable("it has no loader for PCs in /EFI/BOOT"),
    }
}

pub(super) fn x64(it: &Inspection) -> Verdict {
    of_arch(it, "x64", "ia32", "64-bit PCs")
}

pub(super) fn ia32(it: &Inspection) -> Verdict {
    of_arch(it, "ia32", "x64", "tablets and small PCs with 32-bit UEFI")
}

/// What is in the ESP must be in the ISO, or a stick made by copying files does not boot.
pub(super) fn in_iso(it: &Inspection) -> Verdict {
    if it.format == Format::Disk {
        return not_applicable("it is no ISO, whose files a stick would be copied from");
    }
    let esp = boot_files(it, Place::Esp);
    let counts = |name: &str| {
        ["boot", "grub", "mm"].iter().any(|start| name.starts_with(start)) && name.ends_with(".efi")
    };
    let needed: Vec<&String> = esp.keys().filter(|name| counts(name) && *name != "boot.efi").collect();
    if needed.is_empty() {
        return not_applicable("the ESP has no loader");
    }
    let iso = boot_files(it, Place::Medium);
    let remedy = "put the files of the ESP into the ISO's tree too, under the same names";
    let missing: Vec<&str> =
        needed.iter().filter(|name| !iso.contains_key(**name)).map(|name| name.as_str()).collect();
    if !missing.is_empty() {
        return fail(
            format!(
                "{} in the ESP's /EFI/BOOT but not in the ISO's: a copy of the files does not boot",
                missing.join(", ")
            ),
            remedy,
        );
    }
    let differ = needed.iter().find(|name| {
        let digest = |place| loader(it, place, name).map(|loader| &loader.sha256);
        digest(Place::Esp) != digest(Place::Medium)
    });
    match differ {
        Some(name) => warn(format!("{name} differs between the ESP and the ISO"), remedy),
        None => pass("the ISO has the ESP's loaders"),
    }
}

/// Debian's removable GRUB looks for this file when its own file system has no `/boot/grub`.
pub(super) fn disk_info(it: &Inspection) -> Verdict {
    let wants = it.loaders.iter().find(|loader| it.is_in_esp(loader) && loader.wants_disk_info);
    let Some(loader) = wants else {
        return not_applicable("no loader looks for /.disk/info");
    };
    let menu = |file: &FileEntry| file.path.eq_ignore_ascii_case("/boot/grub/grub.cfg");
    if it.esp_files().iter().any(menu) {
        return pass("the ESP has a menu of its own");
    }
    match it.files.iter().any(|file| matches!(file.path.as_str(), "/.disk/info" | "/.disk/mini-info")) {
        true => pass("/.disk/info is there"),
        false => fail(
            format!(
                "{} looks for /.disk/info, which is missing: it finds no menu on a stick",
                loader.file.path
            ),
            "put a file /.disk/info on the medium",
        ),
    }
}

/// The first loaders that a machine with Secure Boot starts: place, architecture.
pub(super) fn secure(it: &Inspection) -> Vec<(Place, &'static str)> {
    let mut found = Vec::new();
    for place in [Place::Esp, Place::Medium] {
        for arch in ARCHES {
            let first = loader(it, place, &format!("boot{arch}.efi"));
            if first
                .is_some_and(|loader| loader.program.signers.iter().any(|s| s.issuer.contains("Microsoft")))
            {
                found.push((place, arch));
            }
        }
    }
    found
}

pub(super) const UNSIGNED: &str =
    "no first loader is signed by Microsoft: it boots with Secure Boot off only";

/// Which of Microsoft's authorities signed the first loaders. The one of 2011 ran out in June 2026;
/// what it signed still starts where firmware knows it, but firmware of today may know only that of 2023.
pub(super) fn authority(it: &Inspection) -> Verdict {
    let secure = secure(it);
    if secure.is_empty() {
        return not_applicable(UNSIGNED);
    }
    let mut old = Vec::new();
    for (place, arch) in secure {
        let first = loader(it, place, &format!("boot{arch}.efi"));
        let signers = first.map(|loader| &loader.program.signers[..]).unwrap_or_default();
        if !signers.iter().any(|signer| signer.issuer.contains("2023")) {
            old.push(format!("boot{arch}.efi of the {}", it.place_name(place)));
        }
    }
    if old.is_empty() {
        return pass("Microsoft's authority of 2023 signed the first loaders");
    }
    warn(
        format!(
            "{}: signed by Microsoft's authority of 2011 only, which new firmware may not know",
            old.join(", ")
        ),
        "use a shim with both signatures, as Debian's since 16.1",
    )
}

/// Some firmware compares names letter by letter: `/EFI/BOOT/BOOTX64.EFI`, or the
/// specification's own `BOOTx64.EFI` (UEFI 2.10 §3.5.1.1).
pub(super) fn names(it: &Inspection) -> Verdict {
    let is_first = |file: &&FileEntry| {
        let lower = file.path.to_ascii_lowercase();
        lower.starts_with("/efi/boot/boot") && lower.ends_with(".efi")
    };
    let files = it.esp_files().iter().chain(&it.files);
    let first: Vec<&str> = files.filter(is_first).map(|file| file.path.as_str()).collect();
    if first.is_empty() {
        return not_applicable("it has no loader in /EFI/BOOT");
    }
    let is_right = |path: &str| path.to_ascii_uppercase() == path.replace("BOOTx64.", "BOOTX64.");
    let mut wrong: Vec<String> =
        first.iter().filter(|path| !is_right(path)).map(|path| path.to_string()).collect();
    wrong.sort();
    wrong.dedup();
    if wrong.is_empty() {
        return pass("in capitals, as every firmware wants them");
    }
    let remedy = "call them /EFI/BOOT/BOOTX64.EFI and BOOTIA32.EFI";
    let reason = format!("{}: some firmware looks for capitals only", wrong.join(", "));
    if it.is_ours() { fail(reason, remedy) } else { warn(reason, remedy) }
}

pub(super) fn mok_manager(it: &Inspection) -> Verdict {
    let secure = secure(it);
    if secure.is_empty() {
        return not_applicable(UNSIGNED);
    }
    let missing =
        secure.iter().filter(|(place, arch)| !boot_files(it, *place).contains_key(&format!("mm{arch}.efi")));
    let problems = missing
        .map(|(place, arch)| {
            format!(
                "mm{arch}.efi is missing beside shim in the {}: a pending key request stops the boot",
                it.place_name(*place)
            )
        })
        .collect();
    judge(problems, "put MokManager (mmx64.efi, mmia32.efi) beside shim", "MokManager is beside shim")
}

/// What shim starts or reads of its own accord.
pub(super) fn shim_neighbours(it: &Inspection) -> Verdict {
    let secure = secure(it);
    if secure.is_empty() {
        return not_applicable(UNSIGNED);
    }
    let mut problems = Vec::new();
    for (place, arch) in secure {
        let files = boot_files(it, place);
        let grub = format!("grub{arch}.efi");
        match loader(it, place, &grub) {
            None => problems.push(format!("{grub} is missing beside shim in the {}", it.place_name(place))),
            Some(loader) if loader.program.signers.is_empty() => {
                problems
                    .push(format!("{grub} in the {} is not signed: shim refuses it", it.place_name(place)));
            }
            Some(_) => {}
        }
        let fallback = format!("fb{arch}.efi");
        let stray = |name: &&String| {
            **name == fallback
                || matches!(name.as_str(), "revocations_sbat.efi" | "options.csv")
                || name.starts_with("shim_certificate")
        };
        problems.extend(files.keys().filter(stray).map(|name| {
            format!("{name} beside shim in the {} changes the machine it is started on", it.place_name(place))
        }));
    }
    problems.dedup();
    judge(
        problems,
        "beside shim belong a signed grubx64.efi and MokManager, nothing else",
        "as they should be",
    )
}

pub(super) fn signed_kernels(it: &Inspection) -> Verdict {
    if secure(it).is_empty() {
        return not_applicable(UNSIGNED);
    }
    let started = |path: &str| {
        let grub = it.menu.iter().filter(|entry| entry.config.to_ascii_lowercase().contains("grub"));
        grub.filter_map(|entry| menu::literal_path(entry, &entry.kernel)).any(|kernel| kernel == path)
    };
    let unsigned = it.kernels.iter().filter(|kernel| kernel.signers.is_empty() && started(&kernel.file.path));
    let problems =
        unsigned.map(|kernel| format!("{} is not signed: shim refuses it", kernel.file.path)).collect();
    judge(problems, "use the distribution's signed kernel", "the kernels of GRUB's menu are signed")
}

pub(super) fn sbat(it: &Inspection) -> Verdict {
    let with: Vec<&Loader> = it.loaders.iter().filter(|loader| !loader.program.sbat.is_empty()).collect();
    if with.is_empty() {
        return not_applicable("no loader has an SBAT section");
    }
    let mut problems = Vec::new();
    for loader in with {
        for line in &loader.program.sbat {
            let level = SBAT_LEVEL.iter().find(|(component, _)| *component == line.component);
            if let Some((component, least)) = level.filter(|(_, least)| line.generation < *least) {
                let path = &loader.file.path;
                problems.push(format!("{path} is {component},{}; below {least} is revoked", line.generation));
            }
        }
    }
    problems.sort();
    problems.dedup();
    judge(
        problems,
        "update shim and GRUB: PCs that had Windows updates refuse the old ones",
        "no revoked generation",
    )
}
