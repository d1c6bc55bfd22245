//! Tar archives read into a tree.
//!
//! Reads the ustar, PAX (POSIX.1-2017, pax Interchange Format) and GNU headers
//! that dpkg-deb, GNU tar and mmdebstrap write. The archive is an uncompressed
//! file on disk; the bytes of its members stay there and the tree refers to
//! them by offset. The `tar` crate iterates and checks the headers; extension
//! records are read here, because the crate splits PAX records at newlines,
//! which binary attributes contain, and reads them without a bound.
//!
//! Refused, by path and origin: sparse members, volume headers and other types
//! no file has, ACLs, and archives that end early. Access and change times,
//! user and group names are left out on purpose.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use tar::{Entry, EntryType};

use super::{Content, Device, Kind, Meta, OriginId, Tree, display_path};

/// A long name or PAX header larger than this is damage, not a name (bytes).
const MAX_EXTENSION: u64 = 1 << 20;
/// Linux takes no longer path or link target (bytes, `PATH_MAX` less the NUL).
const MAX_PATH: usize = 4095;
const BLOCK: u64 = 512;

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

/// Reads the uncompressed tar archive at `path` into `tree`, over what is
/// there already; `origin` names it in messages. The file must stay as it is
/// while the tree lives.
///
/// # Errors
/// A damaged archive, a member no tree carries or that would leave it, a
/// conflict with what the tree has; each with member path and origin.
pub fn read_tar(tree: &mut Tree, path: &Path, origin: &str) -> Result<()> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let length = file.metadata().with_context(|| format!("reading {}", path.display()))?.len();
    let id = tree.add_origin(origin);
    let backing = Arc::new(path.to_path_buf());
    let reader = Reader { tree, origin: id, backing, length, end: 0, pending: Extensions::default() };
    reader.read(file).with_context(|| format!("reading {origin} from {}", path.display()))
}

struct Reader<'t> {
    tree: &'t mut Tree,
    origin: OriginId,
    backing: Arc<PathBuf>,
    /// Size of the archive in bytes.
    length: u64,
    /// First byte after the last member.
    end: u64,
    pending: Extensions,
}

/// What extension headers say about the member that follows.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<i64>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Why the file cannot be taken; said once its path is known.
    refusal: Option<String>,
    any: bool,
}

impl Reader<'_> {
    fn read(mut self, file: File) -> Result<()> {
        let mut archive = tar::Archive::new(&file);
        let entries = archive.entries_with_seek().context("reading the first header")?.raw(true);
        for entry in entries {
            let mut entry = entry.with_context(|| format!("reading the header at byte {}", self.end))?;
            self.check_extent(&entry)?;
            if self.take_extension(&mut entry)? {
                continue;
            }
            let extensions = std::mem::take(&mut self.pending);
            let path = extensions.path.clone().unwrap_or_else(|| entry.header().path_bytes().into_owned());
            self.add(&entry, &path, extensions)
                .with_context(|| format!("adding `{}`", display_path(&path)))?;
        }
        ensure!(!self.pending.any, "the archive ends where a name or attribute announced a file");
        self.check_end(&file)
    }

    /// The member's bytes must lie inside the archive.
    fn check_extent(&mut self, entry: &Entry<'_, impl Read>) -> Result<()> {
        let (start, size) = (entry.raw_file_position(), entry.size());
        let end = start.checked_add(size).and_then(|end| end.checked_next_multiple_of(BLOCK));
        match end.filter(|&end| end <= self.length) {
            Some(end) => self.end = end,
            None => bail!(
                "`{}` claims {size} bytes at byte {start}, yet the archive has {} bytes; it is cut short or damaged",
                display_path(&entry.path_bytes()),
                self.length
            ),
        }
        Ok(())
    }

    /// After the last member stands a block of zeros; without it the archive was cut.
    fn check_end(&self, file: &File) -> Result<()> {
        let mut block = [0xff; BLOCK as usize];
        let complete = file.read_exact_at(&mut block, self.end).is_ok() && block == [0; BLOCK as usize];
        ensure!(complete, "the archive has no end mark at byte {}; it is cut short or damaged", self.end);
        Ok(())
    }

    /// Remembers a long name or PAX header; false for a member.
    fn take_extension(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<bool> {
        let kind = entry.header().entry_type();
        match kind {
            EntryType::GNULongName | EntryType::GNULongLink => {
                let mut name = extension_bytes(entry)?;
                while name.last() == Some(&0) {
                    name.pop();
                }
                let slot =
                    if kind.is_gnu_longname() { &mut self.pending.path } else { &mut self.pending.link };
                ensure!(slot.is_none(), "two long names announce one file at byte {}", self.end);
                *slot = Some(name);
            }
            EntryType::XHeader => {
                let bytes = extension_bytes(entry)?;
                for (key, value) in pax_records(&bytes)? {
                    self.pending.set(key, value)?;
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
        self.pending.any = true;
        Ok(true)
    }

    fn add(&mut self, entry: &Entry<'_, impl Read>, path: &[u8], extensions: Extensions) -> Result<()> {
        ensure!(path.len() <= MAX_PATH, "its path is longer than {MAX_PATH} bytes");
        if let Some(refusal) = extensions.refusal {
            bail!(refusal);
        }
        let header = entry.header();
        if let Some(size) = extensions.size {
            ensure!(
                size == entry.size(),
                "its two headers disagree about its size ({} and {size} bytes); files of 8 GiB and more are not supported",
                entry.size()
            );
        }
        let meta = Meta {
            mode: (header.mode().context("reading its mode")? & 0o7777) as u16,
            uid: owner("user", extensions.uid.map_or_else(|| header.uid(), Ok))?,
            gid: owner("group", extensions.gid.map_or_else(|| header.gid(), Ok))?,
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => {
                    let mtime = header.mtime().context("reading its modification time")?;
                    i64::try_from(mtime).ok().context("its modification time is out of range")?
                }
            },
        };
        let link = extensions.link.or_else(|| header.link_name_bytes().map(|l| l.into_owned()));
        let id = match self.kind(entry, path, link.unwrap_or_default())? {
            Member::Link(target) => {
                ensure!(entry.size() == 0, "is a hard link with content of its own");
                return self.tree.add_hard_link(path, &target, self.origin).map(drop).map_err(Into::into);
            }
            Member::Own(Kind::Symlink(target)) => self.tree.add_symlink(path, &target, meta, self.origin)?,
            Member::Own(kind) => self.tree.insert(path, kind, meta, self.origin)?,
        };
        self.tree.inode_mut(id).xattrs.extend(extensions.xattrs);
        Ok(())
    }

    fn kind(&self, entry: &Entry<'_, impl Read>, path: &[u8], link: Vec<u8>) -> Result<Member> {
        let header = entry.header();
        let kind = match header.entry_type() {
            // V7 archives mark a directory by its trailing slash only.
            EntryType::Regular if path.ends_with(b"/") => Kind::Directory(BTreeMap::new()),
            EntryType::Regular | EntryType::Continuous => {
                let offset = entry.raw_file_position();
                return Ok(Member::Own(Kind::File(if entry.size() == 0 {
                    Content::bytes([])
                } else {
                    Content::Slice { file: self.backing.clone(), offset, length: entry.size() }
                })));
            }
            EntryType::Link => return Ok(Member::Link(link_target(link)?)),
            EntryType::Symlink => Kind::Symlink(link_target(link)?),
            EntryType::Directory => Kind::Directory(BTreeMap::new()),
            EntryType::Char => Kind::CharDevice(device(header)?),
            EntryType::Block => Kind::BlockDevice(device(header)?),
            EntryType::Fifo => Kind::Fifo,
            EntryType::GNUSparse => bail!("is a sparse member; write the archive without --sparse"),
            other => bail!("has type `{}`, which no file has", other.as_byte().escape_ascii()),
        };
        ensure!(entry.size() == 0, "is a {} with content", kind.word());
        Ok(Member::Own(kind))
    }
}

enum Member {
    /// An inode of its own.
    Own(Kind),
    /// A second name for the file at this path.
    Link(Vec<u8>),
}

impl Extensions {
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

fn owner(what: &str, id: std::io::Result<u64>) -> Result<u32> {
    let id = id.with_context(|| format!("reading its {what}"))?;
    u32::try_from(id).ok().with_context(|| format!("its {what} {id} does not fit 32 bits"))
}

fn device(header: &tar::Header) -> Result<Device> {
    let number = |n: std::io::Result<Option<u32>>| n.ok().flatten().context("has no device number");
    Ok(Device { major: number(header.device_major())?, minor: number(header.device_minor())? })
}

fn link_target(target: Vec<u8>) -> Result<Vec<u8>> {
    ensure!(!target.is_empty(), "is a link to nothing");
    ensure!(!target.contains(&0), "is a link whose target contains a NUL byte");
    ensure!(target.len() <= MAX_PATH, "is a link whose target is longer than {MAX_PATH} bytes");
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::listing;

    fn header(name: &[u8], kind: u8, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(0o100644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(3);
        header.set_size(size);
        header.set_cksum();
        header
    }

    fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = header(name.as_bytes(), kind, content.len() as u64).as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = 1 + key.len() + 1 + value.len() + 1;
            let length =
                (1..9).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n).unwrap();
            bytes.extend(format!("{length} {key}=").bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        member("pax", b'x', &bytes)
    }

    fn altered(name: &str, kind: u8, alter: impl Fn(&mut tar::Header)) -> Vec<u8> {
        let mut header = header(name.as_bytes(), kind, 0);
        alter(&mut header);
        header.set_cksum();
        header.as_bytes().to_vec()
    }

    fn read_bytes(bytes: &[u8]) -> Result<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        std::fs::write(&path, bytes).unwrap();
        let mut tree = Tree::new();
        read_tar(&mut tree, &path, "package x")?;
        listing(&tree)
    }

    fn read(parts: &[Vec<u8>]) -> Result<String> {
        read_bytes(&[parts.concat(), vec![0; 1024]].concat())
    }

    #[test]
    fn binary_attributes_and_long_values_are_read() {
        let attribute: &[u8] = b"\x01\n\x00=\n5 a=b\n";
        let records: &[(&str, &[u8])] = &[
            ("SCHILY.xattr.security.capability", attribute),
            ("path", b"bin/ping"),
            ("uid", b"4000000000"),
            ("gid", b"7"),
            ("mtime", b"-1.5"),
            ("uname", b"someone"),
        ];
        let listed = read(&[pax(records), member("short", b'0', b"hello")]).unwrap();
        let digest = crate::cache::hex_sha256(b"hello");
        let attribute = crate::cache::hex(attribute);
        let expected = format!(
            "dir / 0755 0 0 mtime=0\ndir /bin 0755 0 0 mtime=-2\nfile /bin/ping 0644 4000000000 7 mtime=-2 size=5 sha256={digest} xattr.security.capability={attribute}\n"
        );
        assert_eq!(listed, expected);
    }

    #[test]
    fn hostile_archives_are_refused_with_path_and_reason() {
        let huge = |kind| {
            let mut bytes = header(b"huge", kind, 1 << 40).as_bytes().to_vec();
            bytes.resize(4096, 0);
            bytes
        };
        let link = |name: &str, kind, target: &str| {
            altered(name, kind, |h| h.set_link_name_literal(target).unwrap())
        };
        let file = || member("a", b'0', b"x");
        let long = "l".repeat(MAX_PATH + 1);
        let too_long = format!("adding `{long}`: its path is longer than 4095 bytes");
        let cases: Vec<(Vec<Vec<u8>>, &str)> = vec![
            (
                vec![member("a/../../etc/passwd", b'0', b"x")],
                "adding `a/../../etc/passwd`: path `a/../../etc/passwd` has a `..` component, which could leave the tree",
            ),
            (vec![member("a//b", b'0', b"x")], "adding `a//b`: path `a//b` has an empty component"),
            (
                vec![pax(&[("path", b"a\0b")]), file()],
                "adding `a\\u{0}b`: path `a\\u{0}b` contains a NUL byte",
            ),
            (vec![member("././@LongLink", b'L', long.as_bytes()), file()], &too_long),
            (vec![link("a", b'2', "")], "adding `a`: is a link to nothing"),
            (
                vec![pax(&[("linkpath", b"x\0y")]), link("a", b'2', "t")],
                "adding `a`: is a link whose target contains a NUL byte",
            ),
            (
                vec![member("././@LongLink", b'K', long.as_bytes()), link("a", b'2', "t")],
                "adding `a`: is a link whose target is longer than 4095 bytes",
            ),
            (
                vec![link("a", b'1', "../../etc/shadow")],
                "adding `a`: path `../../etc/shadow` has a `..` component, which could leave the tree",
            ),
            (vec![link("a", b'1', "missing")], "adding `a`: `missing` does not exist in the tree"),
            (
                vec![file(), member("a/b", b'0', b"x")],
                "adding `a/b`: `a` (from package x) is not a directory, yet a file below it is wanted",
            ),
            (
                vec![file(), member("a", b'5', b"")],
                "adding `a`: `a` is a file from package x and a dir from package x; remove one of them",
            ),
            (
                vec![link("d", b'2', "d"), member("d/x", b'0', b"")],
                "adding `d/x`: `d` runs through symbolic links in a circle",
            ),
            (
                vec![member("s", b'S', b"")],
                "adding `s`: is a sparse member; write the archive without --sparse",
            ),
            (vec![member("a", b'V', b"")], "adding `a`: has type `V`, which no file has"),
            (vec![member("a", 0xff, b"")], "adding `a`: has type `\\xff`, which no file has"),
            (vec![member("a", b'5', b"x")], "adding `a`: is a dir with content"),
            (
                vec![huge(b'0')],
                "`huge` claims 1099511627776 bytes at byte 512, yet the archive has 5120 bytes; it is cut short or damaged",
            ),
            (
                vec![huge(b'L')],
                "`huge` claims 1099511627776 bytes at byte 512, yet the archive has 5120 bytes; it is cut short or damaged",
            ),
            (
                vec![member("l", b'L', &vec![b'a'; (1 << 20) + 1]), file()],
                "the extension header at byte 0 has 1048577 bytes; more than 1048576 are not believed",
            ),
            (
                vec![member("l", b'L', b"a"), member("l", b'L', b"b"), file()],
                "two long names announce one file at byte 2048",
            ),
            (vec![member("l", b'L', b"a")], "the archive ends where a name or attribute announced a file"),
            (
                vec![pax(&[("size", b"99")]), file()],
                "adding `a`: its two headers disagree about its size (1 and 99 bytes); files of 8 GiB and more are not supported",
            ),
            (
                vec![pax(&[("uid", b"4294967296")]), file()],
                "adding `a`: its user 4294967296 does not fit 32 bits",
            ),
            (vec![pax(&[("mtime", b"soon")]), file()], "the PAX record `mtime=soon`: is no decimal number"),
            (
                vec![pax(&[("GNU.sparse.major", b"1")]), file()],
                "adding `a`: its PAX record `GNU.sparse.major` is not supported",
            ),
            (
                vec![pax(&[("SCHILY.acl.access", b"user::rwx")]), file()],
                "adding `a`: has an ACL, which no image holds; write the archive without --acls",
            ),
            (vec![pax(&[("SCHILY.xattr.", b"1")]), file()], "`` is no name for an attribute"),
            (
                vec![member("g", b'g', b"9 uid=77\n"), file()],
                "the PAX record `uid` for all files is not supported",
            ),
            (vec![member("p", b'x', b"99 a=b\n"), file()], "a PAX record is malformed"),
            (vec![member("p", b'x', b"0 a=b\n"), file()], "a PAX record is malformed"),
            (vec![member("p", b'x', b"99999999999999999999 a=b\n"), file()], "a PAX record is malformed"),
            (vec![member("p", b'x', b"no blank"), file()], "a PAX record is malformed"),
            (vec![vec![b'z'; 512]], "reading the header at byte 0"),
        ];
        for (parts, expected) in cases {
            let error = read(&parts).unwrap_err();
            let shown = error.chain().skip(1).map(|e| e.to_string()).collect::<Vec<_>>().join(": ");
            let shown =
                if expected.starts_with("reading the header") { &shown[..expected.len()] } else { &shown };
            assert_eq!(shown, expected);
            assert!(error.to_string().starts_with("reading package x from "), "{error}");
        }
    }

    #[test]
    fn every_cut_and_many_flipped_bytes_are_survived() {
        let whole =
            [pax(&[("path", b"long")]), member("a", b'0', b"hello"), member("d/", b'5', b"")].concat();
        let whole = [whole, vec![0; 1024]].concat();
        assert!(read_bytes(&whole).is_ok());
        for cut in (0..whole.len() - 512).step_by(7) {
            assert!(read_bytes(&whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in (0..whole.len()).step_by(3) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << (at % 8);
            // Whatever it says, it says it without a panic.
            let _ = read_bytes(&damaged);
        }
    }

    #[test]
    fn merged_usr_links_survive_a_package() {
        let mut tree =
            crate::tree::parse_listing("dir /usr/lib 0755 0 0\nslink /lib 0777 0 0 usr/lib\n").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let parts = [member("./", b'5', b""), member("./lib/", b'5', b""), member("./lib/a", b'0', b"x")];
        let link = altered("./lib/b", b'1', |h| h.set_link_name_literal("./lib/a").unwrap());
        std::fs::write(&path, [parts.concat(), link, vec![0; 1024]].concat()).unwrap();
        read_tar(&mut tree, &path, "package x").unwrap();
        assert_eq!(tree.get(b"usr/lib/a"), tree.get(b"usr/lib/b"));
        assert!(tree.get(b"usr/lib/a").is_some());
        assert!(matches!(tree.inode(tree.get(b"lib").unwrap()).kind, Kind::Symlink(_)));
    }
}
