//! What starts a machine, and Debian's files for it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::machine::Arguments;

/// Where Debian's ovmf packages keep their images.
const OVMF_DIR: &str = "/usr/share/OVMF";

/// The firmware a machine starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Firmware {
    /// SeaBIOS, on a PC of the late nineties (i440FX, PIIX IDE).
    Bios,
    /// 64-bit UEFI (OVMF), on a Q35 board with AHCI.
    UefiX64,
    /// 32-bit UEFI (OVMF), on a Q35 board with AHCI.
    UefiIa32,
    /// 64-bit UEFI (OVMF) that enforces Secure Boot with Microsoft's keys, on a Q35 board with SMM.
    SecureBoot,
}

impl Firmware {
    /// Every firmware that any image boots on, in the order of the test table.
    pub const ALL: [Firmware; 3] = [Firmware::Bios, Firmware::UefiX64, Firmware::UefiIa32];

    /// The name used in options, tables and directories.
    pub fn name(self) -> &'static str {
        match self {
            Firmware::Bios => "bios",
            Firmware::UefiX64 => "uefi-x64",
            Firmware::UefiIa32 => "uefi-ia32",
            Firmware::SecureBoot => "secure-boot",
        }
    }

    /// Memory in MiB that `liveiso test` gives a machine unless told otherwise.
    ///
    /// A BIOS machine gets what the product promises; OVMF itself takes about
    /// 64 MiB (ia32) and more (x64), so UEFI machines need that much above it.
    pub fn default_memory_mib(self) -> u32 {
        match self {
            Firmware::Bios => 128,
            Firmware::UefiX64 | Firmware::UefiIa32 => 256,
            // shim and GRUB check in memory what they start, and the kernel is a 64-bit one.
            Firmware::SecureBoot => 512,
        }
    }

    /// Word size in bits the kernel reports in `/sys/firmware/efi/fw_platform_size`.
    pub fn efi_bits(self) -> Option<u32> {
        match self {
            Firmware::Bios => None,
            Firmware::UefiX64 | Firmware::SecureBoot => Some(64),
            Firmware::UefiIa32 => Some(32),
        }
    }

    /// The arguments for it; `vars` is the machine's own copy of the UEFI variables.
    pub(super) fn arguments(self, args: &mut Arguments, vars: &Path) {
        let Some(flash) = self.flash() else {
            return;
        };
        let code = Path::new(OVMF_DIR).join(flash.code);
        args.words(&["-drive"]).path("if=pflash,unit=0,format=raw,readonly=on,file=", &code);
        args.words(&["-drive"]).path("if=pflash,unit=1,format=raw,file=", vars);
        if matches!(self, Firmware::UefiIa32 | Firmware::SecureBoot) {
            args.words(&["-global", "driver=cfi.pflash01,property=secure,value=on"])
                .words(&["-global", "ICH9-LPC.disable_s3=1"]);
        }
    }

    /// Makes a machine's own copy of the UEFI variables in `dir` and returns its path.
    ///
    /// # Errors
    /// A firmware that is not installed, with its Debian package.
    pub(super) fn prepare(self, dir: &Path) -> Result<PathBuf> {
        let vars = dir.join("vars.fd");
        let Some(flash) = self.flash() else {
            return Ok(vars);
        };
        self.check_installed()?;
        // Not fs::copy: the copy must be writable whatever the original's mode.
        let content = std::fs::read(Path::new(OVMF_DIR).join(flash.vars))?;
        std::fs::write(&vars, content)?;
        Ok(vars)
    }

    /// Whether its files are there.
    ///
    /// # Errors
    /// A firmware that is not installed, with its Debian package.
    pub(super) fn check_installed(self) -> Result<()> {
        let Some(flash) = self.flash() else {
            return Ok(());
        };
        for file in [flash.code, flash.vars] {
            let path = Path::new(OVMF_DIR).join(file);
            if !path.is_file() {
                bail!(
                    "{} is not installed, but is needed for {} machines; install it with `sudo apt-get install {}`",
                    path.display(),
                    self.name(),
                    flash.package
                );
            }
        }
        Ok(())
    }

    /// The flash images, or `None` where QEMU brings the firmware itself.
    fn flash(self) -> Option<Flash> {
        match self {
            Firmware::Bios => None,
            Firmware::UefiX64 => {
                Some(Flash { code: "OVMF_CODE_4M.fd", vars: "OVMF_VARS_4M.fd", package: "ovmf" })
            }
            // Debian builds the 32-bit firmware only with Secure Boot, hence with SMM; no keys are enrolled.
            Firmware::UefiIa32 => Some(Flash {
                code: "OVMF32_CODE_4M.secboot.fd",
                vars: "OVMF32_VARS_4M.fd",
                package: "ovmf-ia32",
            }),
            Firmware::SecureBoot => {
                Some(Flash { code: "OVMF_CODE_4M.secboot.fd", vars: "OVMF_VARS_4M.ms.fd", package: "ovmf" })
            }
        }
    }
}

/// A firmware's files in Debian.
struct Flash {
    code: &'static str,
    vars: &'static str,
    package: &'static str,
}
