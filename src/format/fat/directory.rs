//! Directory tables: 32-byte entries, long names before the short one.

use std::collections::BTreeSet;

use crate::tree::{InodeId, Kind, Tree};

const DIRECTORY: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
const LABEL: u8 = 0x08;
const LONG_NAME: u8 = 0x0f;
/// UTF-16 units a long-name entry holds, and where.
const UNITS: usize = 13;
const UNIT_OFFSETS: [usize; UNITS] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// One name of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub inode: InodeId,
    short: [u8; 11],
    /// UTF-16; empty when the short name says it all.
    long: Vec<u16>,
    attributes: u8,
    size: u32,
}

/// The records of a directory in the order of the tree.
pub(super) fn records(tree: &Tree, directory: InodeId) -> Vec<Record> {
    let entries: Vec<(String, InodeId)> = tree
        .entries(directory)
        .into_iter()
        .flatten()
        .map(|(name, &id)| (String::from_utf8_lossy(name.as_bytes()).into_owned(), id))
        .collect();
    let mut taken: BTreeSet<[u8; 11]> = entries.iter().filter_map(|(name, _)| plain_short(name)).collect();
    entries
        .into_iter()
        .map(|(name, inode)| {
            let (attributes, size) = match &tree.inode(inode).kind {
                // A file of 4 GiB is refused.
                Kind::File(content) => (ARCHIVE, u32::try_from(content.len()).unwrap_or(u32::MAX)),
                _ => (DIRECTORY, 0),
            };
            let short = plain_short(&name).unwrap_or_else(|| numbered_short(&name, &mut taken));
            let exact = shown(&short) == name;
            let long = if exact { Vec::new() } else { name.encode_utf16().collect() };
            Record { inode, short, long, attributes, size }
        })
        .collect()
}

impl Record {
    /// Number of 32-byte entries.
    pub(super) fn entries(&self) -> u64 {
        1 + self.long.len().div_ceil(UNITS) as u64
    }

    /// The entries; `time` is the time and the date.
    pub(super) fn bytes(&self, cluster: u32, time: [u8; 4]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let sum = checksum(&self.short);
        for (number, part) in self.long.chunks(UNITS).enumerate().rev() {
            let last = (number + 1) * UNITS >= self.long.len();
            let ordinal = (number + 1) as u8 | if last { 0x40 } else { 0 };
            let mut entry = [0; 32];
            (entry[0], entry[11], entry[13]) = (ordinal, LONG_NAME, sum);
            let units = part.iter().copied().chain([0]).chain(std::iter::repeat(0xffff));
            for (at, unit) in UNIT_OFFSETS.into_iter().zip(units) {
                entry[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
            bytes.extend(entry);
        }
        bytes.extend(short_entry(&self.short, self.attributes, cluster, self.size, time));
        bytes
    }
}

/// The entries `.` and `..` every directory but the root begins with.
pub(super) fn dots(own: u32, parent: u32, time: [u8; 4]) -> Vec<u8> {
    let mut bytes = short_entry(b".          ", DIRECTORY, own, 0, time).to_vec();
    bytes.extend(short_entry(b"..         ", DIRECTORY, parent, 0, time));
    bytes
}

/// The entry that holds the volume label.
pub(super) fn label(label: &[u8; 11], time: [u8; 4]) -> [u8; 32] {
    short_entry(label, LABEL, 0, 0, time)
}

fn short_entry(name: &[u8; 11], attributes: u8, cluster: u32, size: u32, time: [u8; 4]) -> [u8; 32] {
    let mut entry = [0; 32];
    entry[..11].copy_from_slice(name);
    entry[11] = attributes;
    entry[14..18].copy_from_slice(&time);
    entry[18..20].copy_from_slice(&time[2..]);
    entry[22..26].copy_from_slice(&time);
    let [low, middle, high, highest] = cluster.to_le_bytes();
    entry[20..22].copy_from_slice(&[high, highest]);
    entry[26..28].copy_from_slice(&[low, middle]);
    entry[28..32].copy_from_slice(&size.to_le_bytes());
    entry
}

/// Ties long-name entries to their short one.
fn checksum(short: &[u8; 11]) -> u8 {
    short.iter().fold(0u8, |sum, b| sum.rotate_right(1).wrapping_add(*b))
}

fn legal_short(b: u8) -> bool {
    b.is_ascii_uppercase() || b.is_ascii_digit() || b"$%'-_@~`!(){}^#&".contains(&b)
}

/// The name in upper case, if it is of the form 8.3.
fn plain_short(name: &str) -> Option<[u8; 11]> {
    let upper = name.to_ascii_uppercase();
    let (base, extension) = upper.split_once('.').unwrap_or((&upper, ""));
    let dot_needs_more = upper.contains('.') && extension.is_empty();
    let fits = (1..=8).contains(&base.len()) && extension.len() <= 3 && !dot_needs_more;
    (fits && base.bytes().chain(extension.bytes()).all(legal_short)).then(|| packed(base, extension))
}

/// Six characters of the name, `~` and the first number that is free.
fn numbered_short(name: &str, taken: &mut BTreeSet<[u8; 11]>) -> [u8; 11] {
    let upper = name.to_ascii_uppercase();
    let trimmed = upper.trim_start_matches('.');
    let (base, extension) = trimmed.rsplit_once('.').unwrap_or((trimmed, ""));
    let clean = |text: &str| -> String {
        let kept = text.chars().filter(|c| *c != ' ' && *c != '.');
        kept.map(|c| if c.is_ascii() && legal_short(c as u8) { c } else { '_' }).collect()
    };
    let (base, extension) = (clean(base), clean(extension));
    let extension = &extension[..extension.len().min(3)];
    for number in 1u32.. {
        let tail = format!("~{number}");
        let short = packed(&format!("{}{tail}", &base[..base.len().min(8 - tail.len())]), extension);
        if taken.insert(short) {
            return short;
        }
    }
    unreachable!("a directory has fewer names than there are numbers")
}

fn packed(base: &str, extension: &str) -> [u8; 11] {
    let mut short = [b' '; 11];
    short[..base.len()].copy_from_slice(base.as_bytes());
    short[8..8 + extension.len()].copy_from_slice(extension.as_bytes());
    short
}

/// The short name as a reader without long names shows it.
fn shown(short: &[u8; 11]) -> String {
    let text = |part: &[u8]| String::from_utf8_lossy(part).trim_end().to_string();
    let (base, extension) = (text(&short[..8]), text(&short[8..]));
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Content, Meta};

    #[test]
    fn short_names_are_plain_where_they_can_be_and_numbered_where_not() {
        let mut tree = Tree::new();
        let origin = tree.add_origin("test");
        let cases = [
            (".disk", "DISK~1", true),
            ("BOOTX64.EFI", "BOOTX64.EFI", false),
            ("LONGNA~1.TXT", "LONGNA~1.TXT", false),
            ("a.tar.gz", "ATAR~1.GZ", true),
            ("grub.cfg", "GRUB.CFG", true),
            ("long name 1.txt", "LONGNA~2.TXT", true),
            ("long name 2.txt", "LONGNA~3.TXT", true),
            ("ä+b", "__B~1", true),
        ];
        for (name, ..) in cases {
            tree.add_file(name.as_bytes(), Content::bytes("x"), Meta::default(), origin).unwrap();
        }
        let found: Vec<(String, bool)> =
            records(&tree, Tree::ROOT).iter().map(|r| (shown(&r.short), !r.long.is_empty())).collect();
        let expected: Vec<(String, bool)> =
            cases.iter().map(|(_, short, long)| (short.to_string(), *long)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_long_name_is_split_backwards_and_padded() {
        let mut tree = Tree::new();
        let origin = tree.add_origin("test");
        tree.add_file(b"abcdefghijklmno", Content::bytes("x"), Meta::default(), origin).unwrap();
        let bytes = records(&tree, Tree::ROOT)[0].bytes(7, [1, 2, 3, 4]);
        assert_eq!(bytes.len(), 96);
        let sum = checksum(b"ABCDEF~1   ");
        let second = [
            [0x42, b'n', 0, b'o', 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, sum, 0xff, 0xff],
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff],
        ];
        assert_eq!(bytes[..32], second.concat());
        assert_eq!(bytes[32], 1);
        let short =
            [b"ABCDEF~1   \x20\0\0".as_slice(), &[1, 2, 3, 4, 3, 4, 0, 0, 1, 2, 3, 4, 7, 0, 1, 0, 0, 0]];
        assert_eq!(bytes[64..], short.concat());
    }
}
