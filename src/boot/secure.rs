//! The Secure Boot chain: firmware starts shim, shim starts GRUB, GRUB starts the
//! kernel, each signed by Debian (shim by Microsoft).
//!
//! Names are those shim looks for beside itself (README.fallback, MokManager):
//! `grub<arch>.efi` and `mm<arch>.efi`. The fallback program `fb<arch>.efi` stays
//! out: from a removable medium it would write boot entries into the machine.
//! GRUB is `gcd*`, whose prefix is `/boot/grub` of the file system it starts from;
//! the ESP's menu there keeps it from taking any disk with `/.disk/info` for ours.

use anyhow::{Result, bail};

use super::{Loader, loader};
use crate::plan::{Arch, EfiArch};

const SHIM: &str = "shim-signed";

/// The archive's architecture that has the loaders of a UEFI architecture.
fn archive(efi: EfiArch) -> Arch {
    match efi {
        EfiArch::X64 => Arch::Amd64,
        EfiArch::Ia32 => Arch::I386,
    }
}

/// The package with MokManager, and the one with GRUB.
fn packages(efi: EfiArch) -> (&'static str, &'static str) {
    match efi {
        EfiArch::X64 => ("shim-helpers-amd64-signed", "grub-efi-amd64-signed"),
        EfiArch::Ia32 => ("shim-helpers-i386-signed", "grub-efi-ia32-signed"),
    }
}

/// The packages of one architecture with its signed loaders, sorted.
pub fn signed_packages(arch: Arch, secure: &[EfiArch]) -> Vec<&'static str> {
    let own = secure.iter().filter(|efi| archive(**efi) == arch);
    let mut names: Vec<&str> = own
        .flat_map(|efi| {
            let (helpers, grub) = packages(*efi);
            [SHIM, helpers, grub]
        })
        .collect();
    names.sort_unstable();
    names
}

/// Where a medium's loaders lie.
const DIRECTORY: &str = "EFI/BOOT";

/// The chain of one UEFI architecture on a medium, by paths without leading slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// What firmware starts.
    pub shim: String,
    /// What shim starts.
    pub grub: String,
    /// What shim starts to enrol a certificate.
    pub mok_manager: String,
}

/// The chain of a UEFI architecture, on media that are made for Secure Boot.
pub fn chain(efi: EfiArch) -> Chain {
    let first = match efi {
        EfiArch::X64 => "BOOTX64.EFI",
        EfiArch::Ia32 => "BOOTIA32.EFI",
    };
    let name = name(efi);
    Chain {
        shim: format!("{DIRECTORY}/{first}"),
        grub: format!("{DIRECTORY}/grub{name}.efi"),
        mok_manager: format!("{DIRECTORY}/mm{name}.efi"),
    }
}

/// As in the file names of loaders.
fn name(efi: EfiArch) -> &'static str {
    match efi {
        EfiArch::X64 => "x64",
        EfiArch::Ia32 => "ia32",
    }
}

/// Debian's build of the signed GRUB that reads a file system of this `kind`: `gcd` of media, `grubnet` of
/// a TFTP server. The package, and the path without leading slash.
fn signed_grub(efi: EfiArch, kind: &str) -> (&'static str, String) {
    let directory = match efi {
        EfiArch::X64 => "x86_64-efi-signed",
        EfiArch::Ia32 => "i386-efi-signed",
    };
    (packages(efi).1, format!("usr/lib/grub/{directory}/{kind}{}.efi.signed", name(efi)))
}

/// The signed GRUB for network boots: its package, and its path without leading slash.
pub fn signed_grub_for_networks(efi: EfiArch) -> (&'static str, String) {
    signed_grub(efi, "grubnet")
}

/// The signed loaders of one UEFI architecture.
pub(super) fn images(efi: EfiArch) -> [Loader; 3] {
    let (helpers, _) = packages(efi);
    let (grub, path) = signed_grub(efi, "gcd");
    let (chain, name) = (chain(efi), name(efi));
    [
        loader(SHIM, format!("usr/lib/shim/shim{name}.efi.signed"), chain.shim),
        loader(grub, path, chain.grub),
        loader(helpers, format!("usr/lib/shim/mm{name}.efi.signed"), chain.mok_manager),
    ]
}

/// Refuses what a locked GRUB refuses: modules and fonts that are files. What
/// stands below a condition on `$lockdown` is the author's own affair.
///
/// # Errors
/// The first line with such a command.
pub(super) fn check_lockdown(file: &str, text: &str) -> Result<()> {
    let mut conditions: Vec<bool> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let is_file = match first {
            "insmod" => true,
            "loadfont" => words.next().is_some_and(|font| font.contains(['/', '$'])),
            _ => false,
        };
        if is_file && !conditions.contains(&true) {
            bail!(
                "{file}: line {} of its result is `{}`, which GRUB refuses under Secure Boot; remove it (Debian's \
                 signed GRUB has its modules and the font `unicode` built in), or put it below \
                 `if [ \"$lockdown\" != \"y\" ]; then`",
                number + 1,
                line.trim()
            );
        }
        match first {
            "if" => conditions.push(line.contains("lockdown")),
            "fi" => drop(conditions.pop()),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_come_from_the_architecture_that_has_them() {
        let both = [EfiArch::X64, EfiArch::Ia32];
        let x64 = ["grub-efi-amd64-signed", "shim-helpers-amd64-signed", "shim-signed"];
        let ia32 = ["grub-efi-ia32-signed", "shim-helpers-i386-signed", "shim-signed"];
        assert_eq!(signed_packages(Arch::Amd64, &both), x64);
        assert_eq!(signed_packages(Arch::I386, &both), ia32);
        assert_eq!(signed_packages(Arch::I386, &[EfiArch::X64]), [""; 0]);
        assert_eq!(signed_packages(Arch::Amd64, &[]), [""; 0]);
    }

    #[test]
    fn files_a_locked_grub_refuses_are_named() {
        let guarded = "if [ \"$lockdown\" != \"y\" ]; then\n  if true; then\n insmod png\n  fi\nfi\n";
        for (text, line) in [
            ("loadfont unicode\nsearch --file /insmod\n# insmod\n", None),
            (guarded, None),
            ("insmod part_gpt\n", Some("1 of its result is `insmod part_gpt`")),
            (
                "a\n  loadfont $prefix/fonts/x.pf2\n",
                Some("2 of its result is `loadfont $prefix/fonts/x.pf2`"),
            ),
            (&format!("{guarded}insmod png\n"), Some("6 of its result is `insmod png`")),
        ] {
            let found = check_lockdown("grub.cfg", text).map_err(|e| e.to_string());
            match (line, found) {
                (None, found) => assert_eq!(found, Ok(()), "{text}"),
                (Some(line), found) => {
                    let message = found.unwrap_err();
                    assert!(message.starts_with(&format!("grub.cfg: line {line}, which GRUB")), "{message}");
                }
            }
        }
    }
}
