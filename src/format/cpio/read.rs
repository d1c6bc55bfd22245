//! Reading archives the way the kernel unpacks them, but strictly.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};

use super::{HEADER_LEN, PATH_MAX, TRAILER, padding};
use crate::tree::{Content, Device, Kind, Meta, OriginId, Tree, components, display_path};

/// Reads one or several archives with zeros between them into a fresh tree.
///
/// # Errors
/// Anything the kernel would refuse, skip or cut: see [`read_into`].
pub fn read(bytes: &[u8]) -> Result<Tree> {
    let mut tree = Tree::new();
    let origin = tree.add_origin("cpio archive");
    read_into(&mut tree, bytes, origin)?;
    Ok(tree)
}

/// Lays archives over a tree: a later member replaces an earlier one of the
/// same name, a directory keeps its contents, as in the kernel's `init/initramfs.c`.
///
/// # Errors
/// Damaged headers, members that run past the end, a missing trailer, bytes
/// between archives that are not zero or not at a multiple of 4, names that lead
/// out of the tree, members before their directory, a non-empty directory
/// against another type, checksums (070702) that do not fit.
pub fn read_into(tree: &mut Tree, bytes: &[u8], origin: OriginId) -> Result<()> {
    let mut at = 0;
    let mut open = false;
    let mut links = HashMap::new();
    while at < bytes.len() {
        if bytes[at] == 0 {
            at += 1;
            continue;
        }
        if bytes[at] != b'0' || at % 4 != 0 {
            bail!("byte {at} of the archive is not zero, yet no member begins there");
        }
        let member = Member::parse(bytes, at).with_context(|| format!("cpio member at byte {at}"));
        let member = member.map_err(one_line)?;
        at = member.end;
        open = member.name != TRAILER;
        if open {
            let name = display_path(member.name);
            member.insert(tree, &mut links, origin).with_context(|| format!("cpio member `{name}`"))?;
        } else {
            links.clear();
        }
    }
    ensure!(!open, "cpio archive has no TRAILER!!!: it is cut short");
    Ok(())
}

/// Joins a chain, so that a place and its reason are one message.
fn one_line(error: anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

/// What the kernel compares to find an earlier name of the same file.
type LinkKey = (u32, u32, u32, u32);

struct Member<'a> {
    fields: [u32; 13],
    name: &'a [u8],
    data: &'a [u8],
    /// 070702: the last field is the sum of the data's bytes.
    summed: bool,
    /// Offset of what follows.
    end: usize,
}

impl<'a> Member<'a> {
    fn parse(bytes: &'a [u8], at: usize) -> Result<Member<'a>> {
        let header = bytes.get(at..at + HEADER_LEN).context("header is cut short")?;
        let magic = &header[..6];
        ensure!(
            magic == b"070701" || magic == b"070702",
            "magic `{}` is not 070701 or 070702",
            display_path(magic)
        );
        let mut fields = [0; 13];
        for (field, digits) in fields.iter_mut().zip(header[6..].chunks_exact(8)) {
            *field = hexadecimal(digits)?;
        }
        let name_len = fields[11] as usize;
        ensure!((2..=PATH_MAX).contains(&name_len), "name length {name_len} is not 2 to {PATH_MAX}");
        let name_at = at + HEADER_LEN;
        let name = bytes.get(name_at..name_at + name_len).context("name is cut short")?;
        let length = name.iter().position(|&b| b == 0).unwrap_or(name_len);
        let (name, nuls) = name.split_at(length);
        // Several NULs align the data of early microcode; the kernel reads a C string.
        let terminated = !nuls.is_empty() && nuls.iter().all(|&b| b == 0);
        ensure!(terminated && !name.is_empty(), "name is not a NUL-terminated string");
        let data_at = name_at + name_len + padding((name_at + name_len) as u64, 4);
        let size = fields[6] as usize;
        let data_end = data_at.checked_add(size).context("data is too long")?;
        let data = bytes.get(data_at..data_end);
        let data =
            data.with_context(|| format!("its {size} bytes of data run past the end of the archive"))?;
        let end = data_end + padding(data_end as u64, 4);
        Ok(Member { fields, name, data, summed: magic == b"070702", end })
    }

    fn insert(&self, tree: &mut Tree, links: &mut HashMap<LinkKey, Vec<u8>>, origin: OriginId) -> Result<()> {
        let [ino, mode, uid, gid, nlink, mtime, _, major, minor, rmajor, rminor, _, sum] = self.fields;
        // Only files are summed; GNU cpio writes 0 for links.
        if self.summed && mode & 0o170000 == 0o100000 {
            let found = self.data.iter().fold(0u32, |sum, &b| sum.wrapping_add(u32::from(b)));
            ensure!(found == sum, "data sums to {found:08x}, the header says {sum:08x}");
        }
        let meta = Meta { mode: (mode & 0o7777) as u16, uid, gid, mtime: i64::from(mtime) };
        let device = Device { major: rmajor, minor: rminor };
        let kind = match mode & 0o170000 {
            0o010000 => Kind::Fifo,
            0o020000 => Kind::CharDevice(device),
            0o040000 => Kind::Directory(Default::default()),
            0o060000 => Kind::BlockDevice(device),
            0o100000 => Kind::File(Content::bytes(self.data)),
            0o120000 => Kind::Symlink(self.link_target()?),
            0o140000 => Kind::Socket,
            other => bail!("mode {other:o} has no file type"),
        };
        ensure!(
            self.data.is_empty() || matches!(kind, Kind::File(_) | Kind::Symlink(_)),
            "a {} has {} bytes of data",
            kind.word(),
            self.data.len()
        );
        require_directory(tree, self.name)?;
        let is_root = components(self.name)?.is_empty();
        ensure!(!is_root || matches!(kind, Kind::Directory(_)), "the root is no {}", kind.word());
        if nlink >= 2 && !matches!(kind, Kind::Directory(_) | Kind::Symlink(_)) {
            let key = (major, minor, ino, mode & 0o170000);
            if let Some(first) = links.get(&key) {
                return self.link(tree, first, kind, meta, origin);
            }
            links.insert(key, self.name.to_vec());
        }
        place(tree, self.name, kind, meta, origin)
    }

    fn link_target(&self) -> Result<Vec<u8>> {
        // gen_init_cpio counts the NUL as data, everybody else does not.
        let target = self.data.strip_suffix(&[0]).unwrap_or(self.data);
        ensure!(
            !target.is_empty() && target.len() < PATH_MAX && !target.contains(&0),
            "its link target is empty, longer than {} bytes or has a NUL",
            PATH_MAX - 1
        );
        Ok(target.to_vec())
    }

    /// A second name; whichever name carries data sets the content, the last one the attributes.
    fn link(&self, tree: &mut Tree, first: &[u8], kind: Kind, meta: Meta, origin: OriginId) -> Result<()> {
        if components(first)? != components(self.name)? {
            make_room(tree, self.name, None)?;
            tree.add_hard_link(self.name, first, origin)?;
        }
        let id = tree.get(self.name).context("its first name is gone")?;
        let inode = tree.inode_mut(id);
        (inode.mode, inode.uid, inode.gid, inode.mtime) = (meta.mode, meta.uid, meta.gid, meta.mtime);
        if !self.data.is_empty() {
            inode.kind = kind;
        }
        Ok(())
    }
}

/// Eight hex digits without sign or blank, which `from_str_radix` alone would let in.
fn hexadecimal(digits: &[u8]) -> Result<u32> {
    let text = std::str::from_utf8(digits).ok().filter(|t| t.bytes().all(|b| b.is_ascii_hexdigit()));
    text.and_then(|t| u32::from_str_radix(t, 16).ok())
        .with_context(|| format!("`{}` is no hexadecimal number", display_path(digits)))
}

/// The kernel makes no parents: a member without its directory is lost. Following
/// links, as the kernel would, is refused: no sane archive has such members.
fn require_directory(tree: &Tree, path: &[u8]) -> Result<()> {
    let names = components(path)?;
    let Some((_, parents)) = names.split_last() else {
        return Ok(()); // the root itself
    };
    let parent = parents.iter().map(|n| n.as_bytes()).collect::<Vec<_>>().join(&b'/');
    let directory = tree.get(&parent).and_then(|id| tree.entries(id));
    ensure!(directory.is_some(), "its directory `{}` did not come before it", display_path(&parent));
    Ok(())
}

/// Removes what has this name now unless it has the type that is wanted.
fn make_room(tree: &mut Tree, path: &[u8], wanted: Option<&Kind>) -> Result<()> {
    let Some(existing) = tree.get(path).map(|id| tree.inode(id)) else {
        return Ok(());
    };
    if wanted.is_some_and(|k| k.file_type_bits() == existing.kind.file_type_bits()) {
        return Ok(());
    }
    if let Kind::Directory(entries) = &existing.kind {
        ensure!(entries.is_empty(), "it would replace a directory that is not empty");
    }
    tree.remove(path);
    Ok(())
}

/// Makes the file, or updates one of the same type in place, with all its names.
fn place(tree: &mut Tree, path: &[u8], kind: Kind, meta: Meta, origin: OriginId) -> Result<()> {
    let links_are_replaced = matches!(kind, Kind::Symlink(_));
    make_room(tree, path, Some(&kind).filter(|_| !links_are_replaced))?;
    let Some(id) = tree.get(path).filter(|_| !matches!(kind, Kind::Directory(_))) else {
        tree.insert(path, kind, meta, origin)?;
        return Ok(());
    };
    let inode = tree.inode_mut(id);
    (inode.mode, inode.uid, inode.gid, inode.mtime) = (meta.mode, meta.uid, meta.gid, meta.mtime);
    inode.origin = origin;
    match (&inode.kind, kind) {
        (_, kind @ Kind::File(_)) => inode.kind = kind,
        (Kind::CharDevice(old) | Kind::BlockDevice(old), Kind::CharDevice(new) | Kind::BlockDevice(new)) => {
            ensure!(*old == new, "the kernel would keep the earlier device number");
        }
        _ => {}
    }
    Ok(())
}

/// Bytes up to the end of the first archive's trailer: what follows is padding
/// or another archive, perhaps a compressed one.
///
/// # Errors
/// Damaged members, and an archive without trailer.
pub fn archive_length(bytes: &[u8]) -> Result<usize> {
    let mut at = 0;
    while at < bytes.len() {
        let member = Member::parse(bytes, at).with_context(|| format!("cpio member at byte {at}"));
        let member = member.map_err(one_line)?;
        at = member.end.min(bytes.len());
        if member.name == TRAILER {
            return Ok(at);
        }
    }
    bail!("cpio archive has no TRAILER!!!: it is cut short")
}

/// One member as it stands.
#[derive(Clone, Copy, Debug)]
pub struct RawMember<'a> {
    /// Its name, as written.
    pub name: &'a [u8],
    /// `st_mode`, file type included.
    pub mode: u32,
    /// Numeric owner and group.
    pub owner: (u32, u32),
    /// Its content, or the target of a link.
    pub data: &'a [u8],
}

/// The members of the first archive, without judging their names or order as
/// [`read_into`] does: for looking at what other makers wrote. Returns the bytes
/// up to the end of the trailer too.
///
/// # Errors
/// Damaged members, and an archive without trailer.
pub fn members(bytes: &[u8]) -> Result<(Vec<RawMember<'_>>, usize)> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let member = Member::parse(bytes, at).with_context(|| format!("cpio member at byte {at}"));
        let member = member.map_err(one_line)?;
        at = member.end.min(bytes.len());
        if member.name == TRAILER {
            return Ok((found, at));
        }
        let [_, mode, uid, gid, ..] = member.fields;
        found.push(RawMember { name: member.name, mode, owner: (uid, gid), data: member.data });
    }
    bail!("cpio archive has no TRAILER!!!: it is cut short")
}
