//! The top of the profile: names, labels, architecture.

use super::value::{choose, line, word};
use crate::boot::is_rewritten_word;
use crate::diagnostic::Diagnostics;
use crate::plan::{Arch, BootMode, DiskImage, IsoLayout};
use crate::profile::{Profile, Text};

/// Directories of the medium's root that the loaders need.
const RESERVED_DIRS: &[&str] = &["boot", "efi", "isolinux", "syslinux"];

/// What the medium is made for.
pub(super) struct Media {
    pub layout: IsoLayout,
    pub disk_image: Option<DiskImage>,
}

/// `iso-layout` and `disk-image`.
pub(super) fn media(profile: &Profile, modes: &[BootMode], diagnostics: &mut Diagnostics) -> Media {
    let layouts = [("hybrid", IsoLayout::Hybrid), ("gpt", IsoLayout::Gpt), ("cd-only", IsoLayout::CdOnly)];
    let tables = [("mbr", DiskImage::Mbr), ("gpt", DiskImage::Gpt), ("usb-zip", DiskImage::UsbZip)];
    let written = profile.iso_layout.as_ref();
    let layout = written.and_then(|written| choose(written, "ISO layout", &layouts, diagnostics));
    if let Some(written) =
        written.filter(|_| layout == Some(IsoLayout::Gpt) && !modes.contains(&BootMode::UefiGrub))
    {
        let message = "a GPT is for UEFI, which `bootmodes` leaves out";
        diagnostics.error(&written.place, message).help("use `hybrid`, or add `uefi.grub` to `bootmodes`");
    }
    let written = profile.disk_image.as_ref();
    let disk_image = written.and_then(|written| choose(written, "disk image", &tables, diagnostics));
    if let Some(written) =
        written.filter(|_| disk_image == Some(DiskImage::UsbZip) && !modes.contains(&BootMode::BiosSyslinux))
    {
        let message = "a Zip drive is started by a BIOS, which `bootmodes` leaves out";
        diagnostics.error(&written.place, message).help("use `mbr`, or add `bios.syslinux` to `bootmodes`");
    }
    Media { layout: layout.unwrap_or_default(), disk_image }
}

/// Everything the artifacts and the volume are called.
pub(super) struct Names {
    pub name: String,
    /// `None` means: the date of the build's timestamp.
    pub version: Option<String>,
    pub label: String,
    pub publisher: String,
    pub application: String,
    pub install_dir: String,
}

pub(super) fn names(profile: &Profile, diagnostics: &mut Diagnostics) -> Names {
    let name = name(profile, diagnostics).unwrap_or_default();
    let version = profile.iso_version.as_ref().and_then(|v| version(v, diagnostics));
    let label = match &profile.iso_label {
        Some(written) => label(written, diagnostics).unwrap_or_default(),
        None => label_from(&name),
    };
    check_rewritten(profile, &label, diagnostics);
    let install_dir = profile.install_dir.as_ref().and_then(|d| install_dir(d, diagnostics));
    Names {
        version,
        label,
        publisher: line(profile.iso_publisher.as_ref(), "iso-publisher", 128, diagnostics)
            .unwrap_or_default(),
        application: line(profile.iso_application.as_ref(), "iso-application", 128, diagnostics)
            .unwrap_or_else(|| format!("{name} live system")),
        install_dir: install_dir.unwrap_or_else(|| "liveiso".to_string()),
        name,
    }
}

fn name(profile: &Profile, diagnostics: &mut Diagnostics) -> Option<String> {
    let Some(written) = &profile.iso_name else {
        if let Some(start) = profile.start.as_ref().filter(|_| !profile.has_iso_name) {
            diagnostics
                .error(start, "the profile has no `iso-name`")
                .help("add a line such as `iso-name = \"rescue\"` before the first [table]; the ISO's file name starts with it");
        }
        return None;
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let rule = "1 to 64 characters of a-z, 0-9 and -";
    let fixed: String =
        written.value.to_lowercase().chars().map(|c| if allowed(c) { c } else { '-' }).take(64).collect();
    let checked = word(written, "iso-name", 64, allowed, rule, diagnostics);
    propose(checked, &fixed)
}

fn version(written: &Text, diagnostics: &mut Diagnostics) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._~+-".contains(c);
    let rule = "1 to 32 characters of A-Z, a-z, 0-9 and . _ ~ + -";
    word(written, "iso-version", 32, allowed, rule, diagnostics).ok()
}

fn label(written: &Text, diagnostics: &mut Diagnostics) -> Option<String> {
    let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let rule = "1 to 11 characters of A-Z, 0-9 and _";
    let fixed = label_from(&written.value);
    propose(word(written, "iso-label", 11, allowed, rule, diagnostics), &fixed)
}

/// Rufus replaces the volume id wherever it stands in a line of the menus, so it
/// must not be a word that is there for another reason.
fn check_rewritten(profile: &Profile, label: &str, diagnostics: &mut Diagnostics) {
    let parameters = profile.boot.kernel_parameters.as_ref().map_or("", |p| p.value.as_str());
    let written = profile.iso_label.as_ref().or(profile.iso_name.as_ref());
    if let Some(written) = written.filter(|_| !label.is_empty() && is_rewritten_word(label, parameters)) {
        let message = format!(
            "the volume id `{label}` is a word of the boot menus, which a copy by Rufus would replace"
        );
        diagnostics.error(&written.place, message).help("choose another `iso-label`");
    }
}

/// The volume id nearest to a name: FAT and ISO 9660 share its first 11 characters.
fn label_from(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_uppercase() || c.is_ascii_digit() { c } else { '_' };
    name.to_uppercase().chars().map(legal).take(11).collect()
}

fn install_dir(written: &Text, diagnostics: &mut Diagnostics) -> Option<String> {
    if RESERVED_DIRS.contains(&written.value.as_str()) {
        let message =
            format!("`install-dir` cannot be `{}`: the boot loaders' files are there", written.value);
        diagnostics.error(&written.place, message).help("leave it out to get `liveiso`");
        return None;
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let rule = "1 to 8 characters of a-z and 0-9";
    word(written, "install-dir", 8, allowed, rule, diagnostics).ok()
}

/// The checked value, or the repaired one as a help of the report.
fn propose(checked: Result<String, &mut crate::diagnostic::Diagnostic>, fixed: &str) -> Option<String> {
    match checked {
        Ok(value) => Some(value),
        Err(diagnostic) => {
            if !fixed.is_empty() {
                diagnostic.help(format!("for example `{fixed}`"));
            }
            None
        }
    }
}

/// The architecture, i386 when none is named, `None` when it is unknown.
pub(super) fn arch(profile: &Profile, diagnostics: &mut Diagnostics) -> Option<Arch> {
    let Some(written) = &profile.arch else {
        return Some(Arch::I386);
    };
    let choices = [("i386", Arch::I386), ("amd64", Arch::Amd64)];
    let other_names = [
        ("x86_64", "amd64"),
        ("x86-64", "amd64"),
        ("x64", "amd64"),
        ("i486", "i386"),
        ("i586", "i386"),
        ("i686", "i386"),
        ("x86", "i386"),
    ];
    if let Some((_, debian_name)) = other_names.iter().find(|(name, _)| *name == written.value) {
        diagnostics
            .error(
                &written.place,
                format!("unknown architecture `{}`, expected `i386` or `amd64`", written.value),
            )
            .help(format!("Debian calls it `{debian_name}`"));
        return None;
    }
    choose(written, "architecture", &choices, diagnostics)
}

/// The date of the timestamp as `2026.11.21` (archiso's habit), UTC.
pub(super) fn default_version(timestamp: i64) -> String {
    let (year, month, day) = civil_date(timestamp.div_euclid(86_400));
    format!("{year}.{month:02}.{day:02}")
}

/// Gregorian date of a day number since 1970-01-01, counting years from March so
/// that the leap day is a year's last.
fn civil_date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_version_is_the_date() {
        for (timestamp, date) in [
            (0, "1970.01.01"),
            (951_782_399, "2000.02.28"),
            (951_782_400, "2000.02.29"),
            (951_868_800, "2000.03.01"),
            (1_686_355_200, "2023.06.10"),
            (4_102_444_799, "2099.12.31"),
            (4_107_542_400, "2100.03.01"),
        ] {
            assert_eq!(default_version(timestamp), date);
        }
    }
}
