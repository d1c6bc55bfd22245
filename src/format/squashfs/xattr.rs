//! Extended attributes: each different set is stored once and inodes hold its number.
//!
//! A value of more than eight bytes that several sets have (an IMA key, an
//! SELinux label) is stored in the first of them; the others refer to it.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use anyhow::{Result, ensure};

use super::compress::Codec;
use super::layout::{MetadataRef, NO_TABLE, XATTR_OUT_OF_LINE, XATTR_PREFIXES};
use super::metadata::{MetadataWriter, Output};

type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Bytes of a reference, which take the place of a longer value.
const REFERENCE: usize = 8;

/// The table under construction.
pub(super) struct XattrTable {
    pairs: MetadataWriter,
    sets: HashMap<Xattrs, u32>,
    values: HashMap<Vec<u8>, MetadataRef>,
    /// Reference, count and size of every set, 16 bytes each.
    descriptors: Vec<u8>,
}

impl XattrTable {
    pub fn new() -> XattrTable {
        XattrTable {
            pairs: MetadataWriter::new(),
            sets: HashMap::new(),
            values: HashMap::new(),
            descriptors: Vec::new(),
        }
    }

    /// The number of a set, which is added when new; `None` for the empty one.
    ///
    /// # Errors
    /// A name without a prefix squashfs knows; the compressor's.
    pub fn index(&mut self, codec: &mut Codec, xattrs: &Xattrs) -> Result<Option<u32>> {
        if xattrs.is_empty() {
            return Ok(None);
        }
        if let Some(&index) = self.sets.get(xattrs) {
            return Ok(Some(index));
        }
        let at = self.pairs.position();
        let mut size = 0;
        for (name, value) in xattrs {
            size += self.write_pair(codec, name, value)?;
        }
        let index = self.sets.len() as u32;
        self.descriptors.extend(at.packed().to_le_bytes());
        self.descriptors.extend((xattrs.len() as u32).to_le_bytes());
        self.descriptors.extend(size.to_le_bytes());
        self.sets.insert(xattrs.clone(), index);
        Ok(Some(index))
    }

    /// Returns the pair's uncompressed size.
    fn write_pair(&mut self, codec: &mut Codec, name: &[u8], value: &[u8]) -> Result<u32> {
        let prefix = XATTR_PREFIXES.iter().position(|prefix| name.starts_with(prefix));
        ensure!(prefix.is_some(), "squashfs has no such xattrs as `{}`", crate::tree::display_path(name));
        let prefix = prefix.unwrap_or_default();
        let suffix = &name[XATTR_PREFIXES[prefix].len()..];
        let known = self.values.get(value).copied();
        let type_bits = prefix as u16 | if known.is_some() { XATTR_OUT_OF_LINE } else { 0 };
        let mut pair = Vec::with_capacity(8 + suffix.len() + value.len());
        pair.extend(type_bits.to_le_bytes());
        pair.extend((suffix.len() as u16).to_le_bytes());
        pair.extend(suffix);
        match known {
            Some(reference) => {
                pair.extend((REFERENCE as u32).to_le_bytes());
                pair.extend(reference.packed().to_le_bytes());
                self.pairs.write(codec, &pair)?;
            }
            None => {
                self.pairs.write(codec, &pair)?;
                let at = self.pairs.position();
                pair.extend((value.len() as u32).to_le_bytes());
                pair.extend(value);
                self.pairs.write(codec, &pair[4 + suffix.len()..])?;
                if value.len() > REFERENCE {
                    self.values.insert(value.to_vec(), at);
                }
            }
        }
        Ok(pair.len() as u32)
    }

    /// Writes the table, the last of the image. Returns the position the superblock wants.
    ///
    /// # Errors
    /// The writer's and the compressor's.
    pub fn write<W: Write>(self, codec: &mut Codec, out: &mut Output<W>) -> Result<u64> {
        if self.sets.is_empty() {
            return Ok(NO_TABLE);
        }
        let mut header = out.position.to_le_bytes().to_vec();
        header.extend((self.sets.len() as u32).to_le_bytes());
        header.extend(0_u32.to_le_bytes());
        out.write(&self.pairs.finish(codec)?)?;
        out.write_table(codec, &self.descriptors, &header)
    }
}
