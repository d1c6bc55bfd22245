//! The text form of a tree: one line a name, the words of gensquashfs pack files.
//!
//! ```text
//! dir /etc 0755 0 0 mtime=0
//! file /etc/hostname 0644 0 0 mtime=0 size=7 sha256=9ca3…
//! link /etc/name /etc/hostname
//! slink /bin 0777 0 0 usr/bin mtime=0
//! nod /dev/console 0600 0 0 c 5 1 mtime=0 xattr.user.x=0001
//! ```
//! Bytes outside printable ASCII, blanks and backslashes are `\xHH`, so a line
//! never breaks and two trees are equal exactly when their listings are.

use std::collections::HashMap;
use std::fmt::Write;

use anyhow::{Context, Result, bail};

use super::{Content, Device, Inode, InodeId, Kind, Meta, Tree};
use crate::cache::hex;

/// The whole tree as text, content by digest.
///
/// # Errors
/// When file content cannot be read.
pub fn listing(tree: &Tree) -> Result<String> {
    let mut text = String::new();
    let mut first_names: HashMap<InodeId, Vec<u8>> = HashMap::new();
    for entry in tree.walk() {
        if entry.inode.links > 1 && !matches!(entry.inode.kind, Kind::Directory(_)) {
            if let Some(first) = first_names.get(&entry.id) {
                writeln!(text, "link /{} /{}", escaped(&entry.path), escaped(first))
                    .expect("writing to a String");
                continue;
            }
            first_names.insert(entry.id, entry.path.clone());
        }
        let line =
            line(&entry.path, entry.inode).with_context(|| format!("listing /{}", escaped(&entry.path)))?;
        text.push_str(&line);
        text.push('\n');
    }
    Ok(text)
}

fn line(path: &[u8], inode: &Inode) -> Result<String> {
    let mut line =
        format!("{} /{} {:04o} {} {}", inode.kind.word(), escaped(path), inode.mode, inode.uid, inode.gid);
    match &inode.kind {
        Kind::Symlink(target) => write!(line, " {}", escaped(target))?,
        Kind::CharDevice(d) => write!(line, " c {} {}", d.major, d.minor)?,
        Kind::BlockDevice(d) => write!(line, " b {} {}", d.major, d.minor)?,
        _ => {}
    }
    write!(line, " mtime={}", inode.mtime)?;
    if let Kind::File(content) = &inode.kind {
        write!(line, " size={} sha256={}", content.len(), content.sha256()?)?;
    }
    for (name, value) in &inode.xattrs {
        write!(line, " xattr.{}={}", escaped(name), hex(value))?;
    }
    Ok(line)
}

fn escaped(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &b in bytes {
        if (0x21..0x7f).contains(&b) && b != b'\\' {
            out.push(b as char);
        } else {
            write!(out, "\\x{b:02x}").expect("writing to a String");
        }
    }
    out
}

fn unescaped(word: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        if b == b'\\' {
            let digits =
                tail.strip_prefix(b"x").and_then(|t| t.get(..2)).context("a `\\` is not followed by xHH")?;
            out.push(u8::from_str_radix(std::str::from_utf8(digits)?, 16)?);
            rest = &tail[3..];
        } else {
            out.push(b);
            rest = tail;
        }
    }
    Ok(out)
}

/// A tree from text, for tests. Files are filled with `size=` bytes derived from
/// their path (`text=` gives the content itself); a `sha256=` is ignored.
///
/// # Errors
/// Lines that do not follow the format, by number.
pub fn parse_listing(text: &str) -> Result<Tree> {
    let mut tree = Tree::new();
    for (number, line) in text.lines().enumerate() {
        if !line.trim().is_empty() {
            parse_line(&mut tree, line).with_context(|| format!("line {}: {line}", number + 1))?;
        }
    }
    Ok(tree)
}

fn parse_line(tree: &mut Tree, line: &str) -> Result<()> {
    let origin = tree.add_origin("listing");
    let mut words = line.split_whitespace();
    let mut next = || words.next().context("too few words");
    let word = next()?;
    let path = unescaped(next()?)?;
    if word == "link" {
        tree.add_hard_link(&path, &unescaped(next()?)?, origin)?;
        return Ok(());
    }
    let mode = u16::from_str_radix(next()?, 8)?;
    let (uid, gid) = (next()?.parse()?, next()?.parse()?);
    let mut kind = match word {
        "dir" => Kind::Directory(Default::default()),
        "file" => Kind::File(Content::bytes([])),
        "slink" => Kind::Symlink(unescaped(next()?)?),
        "pipe" => Kind::Fifo,
        "sock" => Kind::Socket,
        "nod" => {
            let class = next()?;
            let device = Device { major: next()?.parse()?, minor: next()?.parse()? };
            if class == "c" { Kind::CharDevice(device) } else { Kind::BlockDevice(device) }
        }
        other => bail!("`{other}` is no listing word"),
    };
    let mut meta = Meta { mode, uid, gid, mtime: 0 };
    let mut xattrs = Vec::new();
    for pair in words {
        match pair.split_once('=').context("expected key=value")? {
            ("mtime", value) => meta.mtime = value.parse()?,
            ("size", value) => kind = Kind::File(Content::bytes(filler(&path, value.parse()?))),
            ("text", value) => kind = Kind::File(Content::bytes(unescaped(value)?)),
            ("sha256", _) => {}
            (key, value) => {
                let name = key.strip_prefix("xattr.").with_context(|| format!("unknown key `{key}`"))?;
                let bytes: Result<Vec<u8>, _> =
                    (0..value.len() / 2).map(|i| u8::from_str_radix(&value[2 * i..2 * i + 2], 16)).collect();
                xattrs.push((unescaped(name)?, bytes?));
            }
        }
    }
    let id = tree.insert(&path, kind, meta, origin)?;
    tree.inode_mut(id).xattrs.extend(xattrs);
    Ok(())
}

/// `size` bytes that differ from path to path and compress somewhat.
fn filler(path: &[u8], size: usize) -> Vec<u8> {
    let mut state = path.iter().fold(0x9e37_79b9_u32, |s, &b| s.rotate_left(5) ^ u32::from(b));
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b'a' + (state >> 28) as u8
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::hex_sha256;

    #[test]
    fn a_listing_survives_the_round_trip() {
        let text = "\
dir / 0755 0 0 mtime=0
dir /dev 0755 0 0 mtime=0
nod /dev/console 0600 0 5 c 5 1 mtime=7
nod /dev/sda 0660 0 6 b 8 0 mtime=0
dir /etc 0755 0 0 mtime=0
file /etc/hostname 0644 0 0 mtime=0 size=6 sha256=c3a0717e8a1a1e1e8a2e33f2a9a7d1ad5a7d7a2b0e2d3bd0d6b1d9d7f9f3c1aa
link /etc/name /etc/hostname
slink /lib 0777 0 0 usr/lib mtime=0
pipe /p\\x20x 0600 1000 1000 mtime=0
sock /s 0600 0 0 mtime=0 xattr.user.a=00ff
";
        let tree = parse_listing(text).unwrap();
        let again = listing(&tree).unwrap();
        let digest = hex_sha256(&filler(b"/etc/hostname", 6));
        let expected =
            text.replace("c3a0717e8a1a1e1e8a2e33f2a9a7d1ad5a7d7a2b0e2d3bd0d6b1d9d7f9f3c1aa", &digest);
        assert_eq!(again, expected);
    }

    #[test]
    fn a_directory_over_a_link_to_a_directory_keeps_the_link() {
        let mut tree = parse_listing("dir /usr/lib 0755 0 0\nslink /lib 0777 0 0 usr/lib\n").unwrap();
        let origin = tree.add_origin("package");
        tree.add_directory(b"lib", Meta::mode(0o755), origin).unwrap();
        tree.add_file(b"lib/modules/x", Content::bytes("x"), Meta::default(), origin).unwrap();
        assert!(tree.get(b"usr/lib/modules/x").is_some());
        assert!(matches!(tree.inode(tree.get(b"lib").unwrap()).kind, Kind::Symlink(_)));
    }

    #[test]
    fn a_directory_against_a_file_names_both_origins() {
        let mut tree = Tree::new();
        let (one, two) = (tree.add_origin("package a"), tree.add_origin("package b"));
        tree.add_file(b"etc/x", Content::bytes("x"), Meta::default(), one).unwrap();
        let error = tree.add_directory(b"etc/x", Meta::mode(0o755), two).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`etc/x` is a file from package a and a dir from package b; remove one of them"
        );
    }
}
