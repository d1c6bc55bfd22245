//! `bootmodes` and `[boot]`.

use super::value::{choose, line, number, without_duplicates};
use crate::diagnostic::{Diagnostics, Spanned};
use crate::plan::{Boot, BootMode, EfiArch};
use crate::profile::{Profile, Text};

/// The serial console when the profile names none.
const DEFAULT_SERIAL: &str = "ttyS0,115200";

/// [`Boot`] before the default title is known.
pub(super) struct BootDraft {
    pub bootmodes: Vec<BootMode>,
    pub secure_boot: Vec<EfiArch>,
    title: Option<String>,
    timeout: u32,
    kernel_parameters: String,
    serial: Option<String>,
}

impl BootDraft {
    pub(super) fn finish(self, name: &str, version: &str) -> Boot {
        Boot {
            bootmodes: self.bootmodes,
            title: self.title.unwrap_or_else(|| format!("{name} {version}")),
            timeout: self.timeout,
            kernel_parameters: self.kernel_parameters,
            serial: self.serial,
            secure_boot: self.secure_boot,
        }
    }
}

pub(super) fn boot(profile: &Profile, diagnostics: &mut Diagnostics) -> BootDraft {
    let table = &profile.boot;
    let timeout = table.timeout.as_ref().and_then(|t| number(t, "timeout", 0..=3600, diagnostics));
    BootDraft {
        bootmodes: bootmodes(profile.bootmodes.as_ref(), diagnostics),
        title: line(table.title.as_ref(), "title", 60, diagnostics),
        timeout: timeout.unwrap_or(5),
        // The kernel's COMMAND_LINE_SIZE is 2048 on x86; the menus need their share.
        kernel_parameters: line(table.kernel_parameters.as_ref(), "kernel-parameters", 1024, diagnostics)
            .unwrap_or_default(),
        serial: serial(table.serial.as_ref(), diagnostics),
        secure_boot: Vec::new(),
    }
}

fn bootmodes(written: Option<&Spanned<Vec<Text>>>, diagnostics: &mut Diagnostics) -> Vec<BootMode> {
    let choices = [("bios.syslinux", BootMode::BiosSyslinux), ("uefi.grub", BootMode::UefiGrub)];
    let Some(written) = written else {
        return choices.map(|(_, mode)| mode).to_vec();
    };
    if written.value.is_empty() {
        diagnostics
            .error(&written.place, "`bootmodes` is empty: nothing could start the medium")
            .help("leave it out to get `bios.syslinux` and `uefi.grub`");
    }
    without_duplicates(&written.value, "boot mode", diagnostics);
    let chosen: Vec<BootMode> =
        written.value.iter().filter_map(|mode| bootmode(mode, &choices, diagnostics)).collect();
    choices.map(|(_, mode)| mode).into_iter().filter(|mode| chosen.contains(mode)).collect()
}

/// archiso's older and other names are recognised to say what became of them.
fn bootmode(written: &Text, choices: &[(&str, BootMode)], diagnostics: &mut Diagnostics) -> Option<BootMode> {
    let name = written.value.as_str();
    let (family, loader) = name.split_once('.').unwrap_or((name, ""));
    let new_name = match (family, loader) {
        ("bios", "syslinux.mbr" | "syslinux.eltorito") => "bios.syslinux",
        ("uefi-x64" | "uefi-ia32", "grub.esp" | "grub.eltorito") => "uefi.grub",
        ("uefi" | "uefi-x64" | "uefi-ia32", loader) if loader.starts_with("systemd-boot") => {
            diagnostics
                .error(&written.place, format!("boot mode `{name}` is not supported"))
                .help("use `uefi.grub`; systemd-boot would need the kernel on the medium twice");
            return None;
        }
        _ => return choose(written, "boot mode", choices, diagnostics),
    };
    diagnostics
        .error(&written.place, format!("boot mode `{name}` is an old name"))
        .help(format!("use `{new_name}`"));
    None
}

/// The kernel's `console=` syntax for a PC's serial port, or `none`.
fn serial(written: Option<&Text>, diagnostics: &mut Diagnostics) -> Option<String> {
    match written {
        None => Some(DEFAULT_SERIAL.to_string()),
        Some(text) if text.value == "none" => None,
        Some(text) if is_serial(&text.value) => Some(text.value.clone()),
        Some(text) => {
            diagnostics
                .error(&text.place, format!("`{}` is no serial console", text.value))
                .help(format!("write port and speed as in `{DEFAULT_SERIAL}` (ttyS0 to ttyS3), or `none`"));
            None
        }
    }
}

/// `ttyS<0-3>,<speed>[n|o|e[7|8]]`
fn is_serial(text: &str) -> bool {
    let Some((port, speed)) = text.strip_prefix("ttyS").and_then(|t| t.split_once(',')) else {
        return false;
    };
    let known = ["9600", "19200", "38400", "57600", "115200"];
    let frame = known.iter().find_map(|s| speed.strip_prefix(s));
    ["0", "1", "2", "3"].contains(&port)
        && frame.is_some_and(|f| ["", "n", "n8", "n7", "o", "o7", "o8", "e", "e7", "e8"].contains(&f))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_consoles_are_a_port_and_a_speed() {
        for good in ["ttyS0,115200", "ttyS1,9600n8", "ttyS3,38400e7"] {
            assert!(is_serial(good), "{good}");
        }
        for bad in ["ttyS0", "ttyS4,9600", "ttyS0,115201", "ttyUSB0,9600", "ttyS0,115200 quiet", ""] {
            assert!(!is_serial(bad), "{bad}");
        }
    }
}
