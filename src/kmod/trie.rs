//! The binary index files of kmod (`modules.dep.bin` and its like).
//!
//! ```text
//! file:  magic 0xB007F457, version 0x00020001, reference to the root     (all u32, big-endian)
//! node:  [prefix NUL] [first last, a reference for each byte first..=last]
//!        [count, count × (priority, value NUL)]
//! reference: offset of a node in the low 28 bits; 0x80000000 it has a prefix,
//!        0x20000000 children, 0x40000000 values; 0 for no node
//! ```
//! Keys are spelt out from the root: the byte that selects a child, then the
//! child's prefix. Nodes follow their children (`libkmod/libkmod-index.h`).

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};

const MAGIC: u32 = 0xB007_F457;
const VERSION: u32 = 0x0002_0001;
const HAS_PREFIX: u32 = 0x8000_0000;
const HAS_VALUES: u32 = 0x4000_0000;
const HAS_CHILDREN: u32 = 0x2000_0000;
const OFFSET_MASK: u32 = 0x0FFF_FFFF;
/// kmod keeps keys in buffers of this many bytes.
const MAX_KEY: usize = 4095;

/// Keys and their values, about to become an index file.
#[derive(Debug, Default)]
pub(super) struct Trie {
    entries: BTreeMap<Vec<u8>, Vec<(u32, String)>>,
}

type Entry<'t> = (&'t [u8], &'t [(u32, String)]);

impl Trie {
    /// Adds a value; values of one key come out by ascending priority, of equal ones the last first.
    ///
    /// # Errors
    /// Keys that are not 7-bit or too long, values with a NUL.
    pub(super) fn insert(&mut self, key: &str, value: &str, priority: usize) -> Result<()> {
        ensure!(key.is_ascii() && !key.contains('\0'), "module index key `{key}` is not ASCII");
        ensure!(key.len() <= MAX_KEY, "module index key of {} bytes is longer than {MAX_KEY}", key.len());
        ensure!(!value.contains('\0'), "module index value for `{key}` has a NUL");
        let priority = u32::try_from(priority)?;
        let values = self.entries.entry(key.as_bytes().to_vec()).or_default();
        let at = values.partition_point(|(known, _)| *known < priority);
        values.insert(at, (priority, value.to_string()));
        Ok(())
    }

    /// The bytes of the file.
    ///
    /// # Errors
    /// An index over 256 MiB.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for word in [MAGIC, VERSION, 0] {
            out.extend(word.to_be_bytes());
        }
        let entries: Vec<Entry> = self.entries.iter().map(|(k, v)| (&k[..], &v[..])).collect();
        let root = write_node(&entries, 0, 0, &mut out)?;
        out[8..12].copy_from_slice(&root.to_be_bytes());
        Ok(out)
    }
}

/// Writes the node of `entries`, whose keys agree in their first `end` bytes;
/// those from `start` on are its prefix. Returns the reference to it.
fn write_node(entries: &[Entry], start: usize, end: usize, out: &mut Vec<u8>) -> Result<u32> {
    let (values, below) = match entries.split_first() {
        Some(((key, values), below)) if key.len() == end => (*values, below),
        _ => (&[][..], entries),
    };
    let mut children = Vec::new();
    for child in below.chunk_by(|(a, _), (b, _)| a[end] == b[end]) {
        let common = common_prefix(child);
        children.push((child[0].0[end], write_node(child, end + 1, common, out)?));
    }
    let offset = u32::try_from(out.len()).ok().filter(|offset| *offset <= OFFSET_MASK);
    let Some(mut reference) = offset else {
        bail!("module index is larger than 256 MiB");
    };
    if end > start {
        out.extend(&entries[0].0[start..end]);
        out.push(0);
        reference |= HAS_PREFIX;
    }
    if let (Some(&(first, _)), Some(&(last, _))) = (children.first(), children.last()) {
        out.extend([first, last]);
        let mut slots = children.iter().peekable();
        for byte in first..=last {
            let child = slots.next_if(|(b, _)| *b == byte).map_or(0, |(_, reference)| *reference);
            out.extend(child.to_be_bytes());
        }
        reference |= HAS_CHILDREN;
    }
    if !values.is_empty() {
        out.extend(u32::try_from(values.len())?.to_be_bytes());
        for (priority, value) in values {
            out.extend(priority.to_be_bytes());
            out.extend(value.as_bytes());
            out.push(0);
        }
        reference |= HAS_VALUES;
    }
    Ok(reference)
}

/// Bytes in which the sorted keys agree; the first and the last differ most.
fn common_prefix(entries: &[Entry]) -> usize {
    let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else {
        return 0;
    };
    first.iter().zip(*last).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_small_index() {
        let mut trie = Trie::default();
        for (key, value, priority) in [("abc", "two", 2), ("abc", "one", 1), ("ad", "x", 7)] {
            trie.insert(key, value, priority).unwrap();
        }
        let mut expected: Vec<u8> = vec![0xB0, 0x07, 0xF4, 0x57, 0, 2, 0, 1, 0x20, 0, 0, 0x42];
        // At 12: the child `b` of `a`, prefix `c`, two values.
        expected.extend(b"c\0\0\0\0\x02\0\0\0\x01one\0\0\0\0\x02two\0");
        // At 34: the child `d`, one value.
        expected.extend(b"\0\0\0\x01\0\0\0\x07x\0");
        // At 44: `a`, children b to d with a hole.
        expected.extend(b"bd\xC0\0\0\x0C\0\0\0\0\x40\0\0\x22");
        // At 58: the root, one child.
        expected.extend(b"aa\x20\0\0\x2C");
        expected[11] = 58;
        assert_eq!(trie.to_bytes().unwrap(), expected);
    }

    #[test]
    fn an_empty_index_has_an_empty_root() {
        let expected = [0xB0, 0x07, 0xF4, 0x57, 0, 2, 0, 1, 0, 0, 0, 12];
        assert_eq!(Trie::default().to_bytes().unwrap(), expected);
    }

    #[test]
    fn keys_that_kmod_cannot_hold_are_refused() {
        let mut trie = Trie::default();
        assert!(trie.insert("ä", "x", 0).is_err());
        assert!(trie.insert(&"a".repeat(4096), "x", 0).is_err());
        // The deepest possible index: every node has a value and one child.
        for len in 0..=4095 {
            trie.insert(&"a".repeat(len), "x", 0).unwrap();
        }
        assert!(trie.to_bytes().is_ok());
    }
}
