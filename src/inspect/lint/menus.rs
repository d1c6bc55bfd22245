//! Boot menus: how they find the medium, and whether what they name is there.

use super::{Inspection, Verdict, fail, judge, not_applicable, pass, warn};
use crate::inspect::menu::{self, word};
use crate::inspect::{Config, Entry, Format};
use crate::manifest::FirmwareReads;

/// Words by which live systems take the place of an ISO file.
const ISO_FILE_WORDS: [&str; 5] = ["findiso=", "iso-scan/filename=", "img_loop=", "fromiso=", "isofrom="];

/// Why some checks do not apply to disk images.
const NO_ISO: &str = "Ventoy and GRUB start ISOs as files, not disk images";

/// First words of the lines in which Rufus replaces the volume id.
const REPLACED: [&str; 7] = ["options", "append", "linux", "linuxefi", "$linux", "search", "for"];

/// Lines that are not comments, with their places.
fn lines(it: &Inspection) -> impl Iterator<Item = (&Config, usize, &str)> {
    it.configs.iter().flat_map(|config| {
        let numbered = config.text.lines().enumerate().map(|(n, line)| (n + 1, line.trim()));
        numbered.filter(|(_, line)| !line.starts_with('#')).map(move |(n, line)| (config, n, line))
    })
}

fn is_kernel_line(first: &str) -> bool {
    let first = first.to_ascii_lowercase();
    first.starts_with("linux") || matches!(first.as_str(), "append" | "options" | "$linux" | "kernel")
}

/// Whether a line looks for a file system by its label.
fn searches_by_label(line: &str) -> bool {
    let (first, rest) = word(line);
    if first == "search" {
        return rest.split_whitespace().any(|word| matches!(word, "--label" | "-l" | "--fs-label"));
    }
    is_kernel_line(first)
        && rest.split_whitespace().any(|word| {
            let lower = word.to_ascii_lowercase();
            let (key, value) = lower.split_once('=').unwrap_or((&lower, ""));
            let persistence = matches!(key, "cow_label" | "persistence-label");
            (key.ends_with("label") && !persistence && !value.is_empty())
                || value.contains("label=")
                || value.contains("/by-label/")
        })
}

pub(super) fn label_search(it: &Inspection) -> Verdict {
    if it.configs.is_empty() {
        return not_applicable("there are no menus");
    }
    let found = lines(it).filter(|(.., line)| searches_by_label(line));
    let found: Vec<String> = found.map(|(config, n, _)| format!("{}:{n}", config.path)).collect();
    let Some(first) = found.first() else {
        return pass("no menu goes by a label");
    };
    let lines = match found.len() {
        1 => format!("{first} looks"),
        more => format!("{first} and {} more look", more - 1),
    };
    fail(
        format!("{lines} for a label, which copies cut and other sticks share"),
        "look for a file that only this build has: search --file, archisosearchuuid=",
    )
}

pub(super) fn volume_id(it: &Inspection) -> Verdict {
    let id = it.volume.as_ref().map(|volume| &volume.id).filter(|id| !id.is_empty());
    let Some(id) = id.filter(|_| !it.configs.is_empty()) else {
        return not_applicable("there are no menus, or no volume id");
    };
    let replaced =
        lines(it).filter(|(.., line)| REPLACED.contains(&word(line).0) && line.contains(id.as_str()));
    let found = replaced.map(|(config, n, _)| format!("{}:{n} contains `{id}`", config.path));
    let problems: Vec<String> = found.take(3).collect();
    let remedy = "choose a volume id that is part of no path and no kernel parameter: Rufus replaces it wherever it stands";
    judge(problems, remedy, "in no line that Rufus changes")
}

/// A kernel or initramfs that a menu names and the medium does not have.
pub(super) fn files(it: &Inspection) -> Verdict {
    if it.menu.iter().all(|entry| entry.kernel.is_empty()) {
        return not_applicable("no menu starts a kernel");
    }
    let mut problems = Vec::new();
    for entry in it.menu.iter().filter(|entry| !entry.elsewhere && is_on_medium(entry)) {
        for path in std::iter::once(&entry.kernel).chain(&entry.initrds) {
            let Some(path) = menu::literal_path(entry, path) else { continue };
            if is_relative_for_grub(it, entry) {
                problems.push(format!(
                    "{}:{} names {}, no absolute path",
                    entry.config, entry.line, entry.kernel
                ));
                break;
            }
            if it.file(&path).is_none() && !is_guarded(it, entry, &path) {
                problems.push(format!("{}:{} names {path}", entry.config, entry.line));
            }
        }
    }
    problems.truncate(5);
    judge(
        problems,
        "the medium has no such file: mend the menu or add the file",
        "every file that menus name is there",
    )
}

/// Where Rufus, Ventoy and a GRUB on a copied stick look for menus.
pub(super) fn places(it: &Inspection) -> Verdict {
    const GRUB: [&str; 4] =
        ["/boot/grub/grub.cfg", "/efi/boot/grub.cfg", "/efi/debian/grub.cfg", "/grub/grub.cfg"];
    const SYSLINUX: [&str; 5] = ["isolinux.cfg", "syslinux.cfg", "extlinux.conf", "txt.cfg", "live.cfg"];
    let paths: Vec<String> = it.files.iter().map(|file| file.path.to_ascii_lowercase()).collect();
    let has_file = |name: &str| paths.iter().any(|path| path.rsplit('/').next() == Some(name));
    let grub = paths.iter().any(|path| path.starts_with("/efi/boot/boot") || path.starts_with("/boot/grub/"));
    let systemd_boot = paths.iter().any(|path| path.starts_with("/loader/entries/"));
    let isolinux = has_file("isolinux.bin");
    if it.kernels.is_empty() || !(grub || isolinux) {
        return not_applicable("it holds no boot loader's files with a kernel");
    }
    let mut problems = Vec::new();
    if grub && !systemd_boot && !GRUB.iter().any(|place| paths.iter().any(|path| path == place)) {
        problems.push(format!(
            "there is no {}: a stick of copied files and Ventoy's GRUB 2 mode find no menu",
            GRUB[0]
        ));
    }
    if isolinux && !SYSLINUX.iter().any(|name| has_file(name)) {
        problems.push("there is no isolinux.cfg: Rufus does not offer to copy files for BIOS".to_string());
    }
    judge(problems, "put the menus where these programs look", "menus are where Rufus, Ventoy and GRUB look")
}

/// Ventoy's GRUB 2 mode starts its own program by this word.
pub(super) fn rdinit(it: &Inspection) -> Verdict {
    let kernel_lines = lines(it).filter(|(.., line)| is_kernel_line(word(line).0));
    let kernel_lines: Vec<_> = kernel_lines.collect();
    if kernel_lines.is_empty() {
        return not_applicable("no menu starts a kernel");
    }
    let with = |line: &str| line.split_whitespace().any(|word| word.starts_with("rdinit="));
    let problems = kernel_lines.iter().filter(|(.., line)| with(line));
    let problems =
        problems.map(|(config, n, _)| format!("{}:{n} says rdinit=", config.path)).take(3).collect();
    judge(problems, "name the program /init: Ventoy needs rdinit= for its own", "no menu says rdinit=")
}

/// SYSLINUX modules and boot sectors have search rules of their own.
fn is_on_medium(entry: &Entry) -> bool {
    entry.kernel.starts_with(['/', '(']) || !entry.initrds.is_empty()
}

/// GRUB knows no current directory.
fn is_relative_for_grub(it: &Inspection, entry: &Entry) -> bool {
    let config = it.configs.iter().find(|config| config.path == entry.config);
    !entry.kernel.starts_with(['/', '('])
        && config.is_some_and(|config| config.loader() == menu::Loader::Grub)
}

/// Whether the menu asks first whether the file is there.
fn is_guarded(it: &Inspection, entry: &Entry, path: &str) -> bool {
    let config = it.configs.iter().find(|config| config.path == entry.config);
    config.is_some_and(|config| {
        ["-f ", "-e ", "-s "].iter().any(|test| {
            ["", "'", "\""].iter().any(|mark| config.text.contains(&format!("{test}{mark}{path}")))
        })
    })
}

/// Ventoy finds the initramfs by reading menus as text.
pub(super) fn literal_initrd(it: &Inspection) -> Verdict {
    if it.format == Format::Disk {
        return not_applicable(NO_ISO);
    }
    let with: Vec<&Entry> = it.menu.iter().filter(|entry| !entry.initrds.is_empty()).collect();
    if with.is_empty() {
        return not_applicable("no menu names an initramfs");
    }
    if with.iter().any(|entry| entry.initrds.iter().any(|path| !path.contains('$'))) {
        return pass("menus name the initramfs in plain text");
    }
    fail(
        format!(
            "{}:{} hides the initramfs behind a variable: Ventoy does not find it",
            with[0].config, with[0].line
        ),
        "write the path of the initramfs literally",
    )
}

pub(super) fn loopback(it: &Inspection) -> Verdict {
    if it.format == Format::Disk {
        return not_applicable(NO_ISO);
    }
    if it.kernels.is_empty() || it.initramfs.is_empty() {
        return not_applicable("it holds no Linux with an initramfs");
    }
    const PATH: &str = "/boot/grub/loopback.cfg";
    let config = |path: &str| it.configs.iter().find(|config| config.path == path);
    let Some(first) = config(PATH) else {
        return fail(
            format!("{PATH} is missing: GRUB on another disk cannot start the ISO as a file"),
            "add one, see supergrubdisk.org/wiki/Loopback.cfg",
        );
    };
    let mut texts = vec![first];
    let mut next = 0;
    while let Some(text) = texts.get(next).map(|config| &config.text) {
        let sourced =
            text.lines().map(word).filter(|(first, _)| matches!(*first, "source" | "configfile" | "."));
        let found: Vec<&Config> =
            sourced.filter_map(|(_, path)| config(path.trim_matches(['"', '\'']))).collect();
        for config in found {
            if !texts.iter().any(|known| known.path == config.path) {
                texts.push(config);
            }
        }
        next += 1;
    }
    let has = |word: &str| texts.iter().any(|config| config.text.contains(word));
    if has("iso_path") && ISO_FILE_WORDS.iter().any(|word| has(word)) {
        return pass("loopback.cfg hands the ISO's path on");
    }
    fail(
        "loopback.cfg does not hand ${iso_path} to the kernel: it boots and then finds no medium",
        "add findiso=${iso_path}, or what the live system calls it, to every entry",
    )
}

/// A kernel with PAE does not start on a Pentium M, nor on many VIA and AMD processors of its time.
pub(super) fn old_processors(it: &Inspection) -> Verdict {
    let old: Vec<&str> =
        it.kernels.iter().filter(|k| k.header.arch == "i386").map(|k| k.header.release()).collect();
    if old.is_empty() {
        return not_applicable("it has no 32-bit kernel");
    }
    match old.iter().find(|release| !release.contains("pae")) {
        Some(release) => pass(format!("{release} needs no PAE")),
        None => warn(
            format!("{} needs PAE: a Pentium M does not start it", old[0]),
            "add a kernel without PAE, Debian's linux-image-686, and start it first",
        ),
    }
}

pub(super) fn firmware_reads(it: &Inspection) -> Verdict {
    if !it.serves_bios() {
        return not_applicable("no BIOS is meant to start it");
    }
    let size = |entry: &Entry| {
        let named = std::iter::once(&entry.kernel).chain(&entry.initrds);
        let files = named.filter_map(|path| it.file(&menu::literal_path(entry, path)?));
        files.map(|content| content.len()).sum::<u64>()
    };
    let largest = it.menu.iter().map(|entry| (size(entry), entry)).max_by_key(|(size, _)| *size);
    let Some((most, entry)) = largest.filter(|(size, _)| *size > 0) else {
        return not_applicable("no menu starts a kernel that is on the medium");
    };
    let reason = format!("{most} bytes of kernel and initramfs at most ({}:{})", entry.config, entry.line);
    if most <= FirmwareReads::LIMIT {
        return pass(reason);
    }
    let remedy = "keep kernel and initramfs below 10 MB: a BIOS with USB 1.1 reads 1 MB a second or less";
    // PCs with 64-bit processors have USB 2: what they alone start may be larger.
    let is_old = |path: &str| it.kernels.iter().any(|k| k.file.path == path && k.header.arch == "i386");
    let too_large = it.menu.iter().any(|entry| {
        size(entry) > FirmwareReads::LIMIT
            && menu::literal_path(entry, &entry.kernel).is_some_and(|path| is_old(&path))
    });
    if it.is_ours() && too_large { fail(reason, remedy) } else { warn(reason, remedy) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_recognised_where_they_decide() {
        for (line, expected) in [
            ("search --no-floppy --set=root --label ARCH_2026", true),
            ("search -l ARCH --set root", true),
            ("search --file --set=root /a.id", false),
            ("linux /v archisobasedir=arch archisolabel=ARCH_2026", true),
            ("linux /v archisobasedir=arch archisosearchuuid=2026-01-01", false),
            ("append initrd=/i root=live:CDLABEL=Fedora-Live rd.live.image", true),
            ("options root=LABEL=x", true),
            ("linux /v live-media=/dev/disk/by-label/X", true),
            ("linux /v cow_label=persist boot=live persistence-label=p", false),
            ("menu label ^Live", false),
            ("linux /v boot=live components quiet splash findiso=${iso_path}", false),
        ] {
            assert_eq!(searches_by_label(line), expected, "{line}");
        }
    }
}
