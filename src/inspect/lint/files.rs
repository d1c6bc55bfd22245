//! Whether the ISO's files survive being copied to a FAT32 stick, and mean no other system.

use std::collections::{BTreeMap, BTreeSet};

use super::{Inspection, Verdict, fail, judge, not_applicable, pass, warn};
use crate::inspect::{FileEntry, Format, menu};
use crate::tree::{Kind, display_path};

/// FAT32 holds files of one byte less.
const FAT_LIMIT: u64 = 4 << 30;
/// Characters of a name in Joliet.
const JOLIET: usize = 64;
/// Larger lists of checksums are not read (bytes).
const MAX_LIST: u64 = 4 << 20;
/// More names than this are counted, not listed.
const SHOWN: usize = 5;

fn listed(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &rest
}

/// Paths without which nothing starts.
fn needed(it: &Inspection) -> BTreeSet<String> {
    let mut paths: BTreeSet<String> = it.images.iter().map(|image| image.file.path.clone()).collect();
    for entry in &it.menu {
        let named = std::iter::once(&entry.kernel).chain(&entry.initrds);
        paths.extend(named.filter_map(|path| menu::literal_path(entry, path)));
    }
    paths
}

pub(super) fn symlinks(it: &Inspection) -> Verdict {
    let links = it.tree.walk().filter(|entry| matches!(entry.inode.kind, Kind::Symlink(_)));
    let links: Vec<String> = links.map(|entry| format!("/{}", display_path(&entry.path))).collect();
    let needed = needed(it);
    let boots = |link: &&String| {
        let lower = link.to_ascii_lowercase();
        let below = format!("{link}/");
        ["/efi/", "/boot/", "/isolinux/", "/syslinux/"].iter().any(|start| lower.starts_with(start))
            || needed.iter().any(|path| path == *link || path.starts_with(&below))
    };
    let booting: Vec<String> = links.iter().filter(boots).cloned().collect();
    let remedy = "put the file itself there: FAT has no links";
    if !booting.is_empty() {
        return fail(format!("{}: a copy on FAT loses the link, and does not boot", listed(booting)), remedy);
    }
    if !links.is_empty() {
        return warn(format!("{}: a copy on FAT loses the link", listed(links)), remedy);
    }
    pass("none")
}

pub(super) fn large_files(it: &Inspection) -> Verdict {
    let problems = too_large(&it.files);
    judge(problems, "split the image, or compress it more", "every file fits on FAT32")
}

fn too_large(files: &[FileEntry]) -> Vec<String> {
    let large = files.iter().filter(|file| file.length >= FAT_LIMIT);
    large.map(|file| format!("{} has {} bytes, FAT32 takes 4294967295", file.path, file.length)).collect()
}

pub(super) fn names(it: &Inspection) -> Verdict {
    let (mut problems, mut long) = (Vec::new(), Vec::new());
    let mut folded: BTreeMap<String, String> = BTreeMap::new();
    for entry in it.tree.walk().skip(1) {
        let path = format!("/{}", display_path(&entry.path));
        let name = entry.path.rsplit(|&b| b == b'/').next().unwrap_or_default();
        if name.iter().any(|b| b.is_ascii_control() || b"\"*:<>?\\|".contains(b)) || name.ends_with(b".") {
            problems.push(format!("{path} cannot be a name on FAT"));
        }
        if name.len() > JOLIET && String::from_utf8_lossy(name).encode_utf16().count() > JOLIET {
            long.push(path.clone());
        }
        let upper = String::from_utf8_lossy(&entry.path).to_uppercase();
        if let Some(other) = folded.insert(upper, path.clone()) {
            problems.push(format!("{path} and {other} are one name on FAT"));
        }
    }
    if problems.len() > SHOWN {
        problems = vec![listed(problems)];
    }
    if problems.is_empty() && !long.is_empty() && it.format == Format::Iso {
        let reason = format!("{}: longer than 64 characters, which Joliet and Rufus cut", listed(long));
        return if it.is_ours() { fail(reason, "rename them") } else { warn(reason, "rename them") };
    }
    judge(problems, "rename them", "none collide, all are legal on FAT")
}

/// Names by which Ventoy and Rufus take a medium for something else.
pub(super) fn foreign_marks(it: &Inspection) -> Verdict {
    let mut problems = Vec::new();
    for file in &it.files {
        let meaning = match file.path.to_ascii_lowercase().as_str() {
            "/bootmgr" | "/bootmgr.efi" | "/boot/bcd" | "/sources/boot.wim" => "Ventoy takes it for Windows",
            "/ventoy.dat" => "Ventoy leaves finding the ISO to the system in it",
            "/.miso" => "Rufus does not offer to copy files",
            path if path.starts_with("/proxmox/")
                || (path.starts_with("/casper") && path.contains("pop-os")) =>
            {
                "Rufus does not offer to copy files"
            }
            _ => continue,
        };
        problems.push(format!("{}: {meaning}", file.path));
    }
    let ids = it.volume.iter().flat_map(|volume| [&volume.publisher, &volume.preparer, &volume.application]);
    if ids.into_iter().any(|id| id.to_ascii_uppercase().contains("VENTOY COMPATIBLE")) {
        problems.push(
            "the volume says VENTOY COMPATIBLE: Ventoy leaves finding the ISO to the system in it"
                .to_string(),
        );
    }
    if it.files.is_empty() {
        return not_applicable("there are no files");
    }
    judge(problems, "use other names", "none")
}

/// ISOLINUX 5 and later is in two pieces: the second has to be where the first looks for it.
pub(super) fn isolinux(it: &Inspection) -> Verdict {
    let is_first = |file: &&FileEntry| file.path.to_ascii_lowercase().ends_with("/isolinux.bin");
    let Some(first) = it.files.iter().find(is_first) else {
        return not_applicable("there is no ISOLINUX");
    };
    let bytes = it.file(&first.path).filter(|_| first.length <= MAX_LIST).map(|content| content.read_all());
    let Some(Ok(bytes)) = bytes else {
        return fail(format!("{} cannot be read", first.path), "put SYSLINUX's isolinux.bin there");
    };
    let mark = b"ISOLINUX ";
    let version = bytes.windows(mark.len() + 4).find(|window| window.starts_with(mark));
    let version = version.map(|window| String::from_utf8_lossy(&window[mark.len()..]).into_owned());
    let Some(version) = version.filter(|version| version.as_bytes()[0].is_ascii_digit()) else {
        return not_applicable("its version cannot be told");
    };
    if version.starts_with(['1', '2', '3', '4']) {
        return pass(format!("version {version} is in one piece"));
    }
    let directory = first.path.rsplit_once('/').map_or("", |(directory, _)| directory).to_ascii_lowercase();
    let places = [directory.as_str(), "/boot/isolinux", "/isolinux", "/boot/syslinux", "/syslinux", ""];
    let has = |place: &&str| {
        it.files.iter().any(|file| file.path.to_ascii_lowercase() == format!("{place}/ldlinux.c32"))
    };
    match places.iter().any(has) {
        true => pass(format!("version {version} with its ldlinux.c32")),
        false => fail(
            format!("ldlinux.c32 is missing beside {}: it stops at once", first.path),
            "put ldlinux.c32 of the same version there",
        ),
    }
}

/// Rufus offers to check the list at the root and writes the menus' new sums into it; ours, which the
/// running system checks, must not have them.
pub(super) fn checksum_lists(it: &Inspection) -> Verdict {
    let is_list = |file: &&FileEntry| {
        matches!(file.path.as_str(), "/md5sum.txt" | "/MD5SUMS" | "/sha256sum.txt")
            || file.path.ends_with("/sha256sums")
    };
    let lists: Vec<&FileEntry> =
        it.files.iter().filter(is_list).filter(|file| file.length <= MAX_LIST).collect();
    if lists.is_empty() {
        return not_applicable("there is no list of checksums");
    }
    let mut problems = Vec::new();
    for list in lists {
        let bytes = it.file(&list.path).map(|content| content.read_all());
        let Some(Ok(bytes)) = bytes else {
            problems.push(format!("{} cannot be read", list.path));
            continue;
        };
        let text = String::from_utf8_lossy(&bytes);
        let directory = list.path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let names =
            text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once("  "));
        for (_, name) in names {
            let name = name.trim_start_matches("./").trim_start_matches('/');
            let path = format!("{directory}/{name}");
            if it.file(&path).is_none() {
                problems.push(format!("{} lists {path}, which is not there", list.path));
            } else if it.is_ours() && path.ends_with(".cfg") {
                problems.push(format!("{} lists {path}, which Rufus changes", list.path));
            }
        }
    }
    if problems.len() > SHOWN {
        problems = vec![listed(problems)];
    }
    judge(problems, "make the list again from the finished files", "every file of the lists is there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_four_gibibytes_is_too_large() {
        let file = |length| FileEntry { path: "/live/root.sfs".to_string(), length };
        assert_eq!(too_large(&[file(FAT_LIMIT - 1)]), Vec::<String>::new());
        let expected = "/live/root.sfs has 4294967296 bytes, FAT32 takes 4294967295";
        assert_eq!(too_large(&[file(FAT_LIMIT)]), [expected]);
    }
}
