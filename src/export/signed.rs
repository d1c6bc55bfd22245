//! Secure Boot over the network: firmware loads shim, and shim loads GRUB from the
//! same directory of the same server, by the name it uses on media too. shim and
//! MokManager are the medium's; its GRUB has no network, so Debian's other build
//! of the signed GRUB stands in for it.

use super::Files;
use crate::boot;
use crate::plan::EfiArch;
use crate::qemu::Subject;
use crate::tree::{Kind, Tree};

/// What firmware that enforces Secure Boot is told to load.
pub fn shim(efi: EfiArch) -> &'static str {
    match efi {
        EfiArch::X64 => "shimx64.efi",
        EfiArch::Ia32 => "shimia32.efi",
    }
}

/// Adds the signed chain of every UEFI architecture for which the image has one;
/// returns what a user must do for those whose GRUB is not in `packages`.
pub(super) fn add(subject: &Subject, packages: Option<&Tree>, files: &mut Files) -> Vec<String> {
    let mut notes = Vec::new();
    for efi in [EfiArch::X64, EfiArch::Ia32] {
        let chain = boot::chain(efi);
        let (Some(first), true) = (subject.file(&chain.shim), subject.is_signed(efi)) else { continue };
        files.insert(shim(efi).to_string(), first.clone());
        if let Some(manager) = subject.file(&chain.mok_manager) {
            files.insert(file_name(&chain.mok_manager).to_string(), manager.clone());
        }
        let (package, path) = boot::signed_grub_for_networks(efi);
        let grub = packages.and_then(|tree| Some(&tree.inode(tree.get(path.as_bytes())?).kind));
        match grub {
            Some(Kind::File(content)) => {
                files.insert(file_name(&chain.grub).to_string(), content.clone());
            }
            _ => notes.push(format!(
                "for Secure Boot put /{path} of Debian's package {package} beside {} as {}, or export the profile",
                shim(efi),
                file_name(&chain.grub)
            )),
        }
    }
    notes
}

/// The last part of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
