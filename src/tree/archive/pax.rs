//! Extension headers: GNU long names and PAX records (POSIX.1-2017, pax Interchange Format).
//!
//! Read here and not by the `tar` crate, which splits PAX records at newlines,
//! which binary attributes contain, and reads them without a bound.

use std::collections::BTreeMap;
use std::io::Read;

use anyhow::{Context, Result, bail, ensure};
use tar::{Entry, EntryType};

use crate::tree::display_path;

/// A long name or PAX header larger than this is damage, not a name (bytes).
const MAX_EXTENSION: u64 = 1 << 20;
/// PAX keywords that say nothing a tree keeps.
const IGNORED_KEYS: &[&[u8]] = &[
    b"atime",
    b"ctime",
    b"uname",
    b"gname",
    b"comment",
    b"charset",
    b"hdrcharset",
    b"SCHILY.dev",
    b"SCHILY.ino",
    b"SCHILY.nlink",
    b"LIBARCHIVE.creationtime",
];

/// What extension headers say about the member that follows.
#[derive(Default)]
pub(super) struct Extensions {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<i64>,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Why the file cannot be taken; said once its path is known.
    pub(super) refusal: Option<String>,
    pub(super) any: bool,
}

impl Extensions {
    /// Remembers what a long name or PAX header says; false for a member, which ends at byte `at`.
    pub(super) fn take(&mut self, entry: &mut Entry<'_, impl Read>, at: u64) -> Result<bool> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName | EntryType::GNULongLink => {
                let mut name = extension_bytes(entry)?;
                while name.last() == Some(&0) {
                    name.pop();
                }
                let slot = if kind.is_gnu_longname() { &mut self.path } else { &mut self.link };
                ensure!(slot.is_none(), "two long names announce one file at byte {at}");
                *slot = Some(name);
            }
            EntryType::XHeader => {
                let bytes = extension_bytes(entry)?;
                for (key, value) in pax_records(&bytes)? {
                    self.set(key, value)?;
                }
            }
            EntryType::XGlobalHeader => {
                let bytes = extension_bytes(entry)?;
                for (key, _) in pax_records(&bytes)? {
                    ensure!(
                        IGNORED_KEYS.contains(&key),
                        "the PAX record `{}` for all files is not supported",
                        display_path(key)
                    );
                }
                return Ok(true);
            }
            _ => return Ok(false),
        }
        self.any = true;
        Ok(true)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let shown = || format!("the PAX record `{}={}`", display_path(key), display_path(value));
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value).with_context(shown)?),
            b"uid" => self.uid = Some(decimal(value).with_context(shown)?),
            b"gid" => self.gid = Some(decimal(value).with_context(shown)?),
            b"mtime" => self.mtime = Some(seconds(value).with_context(shown)?),
            key if IGNORED_KEYS.contains(&key) || key.starts_with(b"LIBARCHIVE.xattr.") => {}
            key => match key.strip_prefix(b"SCHILY.xattr.") {
                Some(name) if !name.is_empty() && name.len() <= 255 && !name.contains(&0) => {
                    ensure!(value.len() <= 1 << 16, "the attribute `{}` is over 64 KiB", display_path(name));
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                }
                Some(name) => bail!("`{}` is no name for an attribute", display_path(name)),
                None if key.starts_with(b"SCHILY.acl.") => {
                    self.refusal = Some(
                        "has an ACL, which no image holds; write the archive without --acls".to_string(),
                    );
                }
                None => {
                    self.refusal = Some(format!("its PAX record `{}` is not supported", display_path(key)));
                }
            },
        }
        Ok(())
    }
}

/// The content of an extension header, within bounds.
fn extension_bytes(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>> {
    let size = entry.size();
    ensure!(
        size <= MAX_EXTENSION,
        "the extension header at byte {} has {size} bytes; more than {MAX_EXTENSION} are not believed",
        entry.raw_header_position()
    );
    let mut bytes = vec![0; size as usize];
    entry.read_exact(&mut bytes).context("reading an extension header")?;
    Ok(bytes)
}

/// Splits PAX records: decimal length of the whole record, blank, `key=value`, newline.
fn pax_records(mut bytes: &[u8]) -> Result<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let record = pax_record(bytes).context("a PAX record is malformed")?;
        records.push((record.0, record.1));
        bytes = &bytes[record.2..];
    }
    Ok(records)
}

/// Key, value and length of the first record.
fn pax_record(bytes: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let blank = bytes.iter().take(20).position(|&b| b == b' ')?;
    let length = usize::try_from(decimal(&bytes[..blank]).ok()?).ok()?;
    let body = bytes.get(blank + 1..length)?.strip_suffix(b"\n")?;
    let equals = body.iter().position(|&b| b == b'=')?;
    Some((&body[..equals], &body[equals + 1..], length))
}

fn decimal(digits: &[u8]) -> Result<u64> {
    ensure!(!digits.is_empty() && digits.iter().all(u8::is_ascii_digit), "is no decimal number");
    Ok(std::str::from_utf8(digits)?.parse()?)
}

/// Whole seconds of a PAX time, towards the past.
fn seconds(value: &[u8]) -> Result<i64> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |&b| b == b'.');
    let whole = i64::try_from(decimal(parts.next().unwrap_or_default())?)?;
    let fraction = parts.next().unwrap_or_default();
    ensure!(fraction.iter().all(u8::is_ascii_digit), "is no time");
    let past = negative && fraction.iter().any(|&b| b != b'0');
    Ok(if negative { -whole - i64::from(past) } else { whole })
}
