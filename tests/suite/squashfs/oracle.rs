//! Independent readers, each turned into the tree's listing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use backhand::{FilesystemReader, InnerNode, Node, SquashfsFileReader};
use liveiso::cli::dev::read_directory;
use liveiso::format::squashfs::read;
use liveiso::host::{Tool, environment};
use liveiso::tree::{Content, Device, Kind, Meta, OriginId, Tree, listing};

/// The same tree without xattrs, for readers that do not show them.
pub fn without_xattrs(tree: &Tree) -> Tree {
    let mut plain = tree.clone();
    let ids: Vec<_> = plain.walk().map(|e| e.id).collect();
    ids.into_iter().for_each(|id| plain.inode_mut(id).xattrs.clear());
    plain
}

/// The same tree without file capabilities.
pub fn without_capabilities(tree: &Tree) -> Tree {
    let mut plain = tree.clone();
    let ids: Vec<_> = plain.walk().map(|e| e.id).collect();
    for id in ids {
        plain.inode_mut(id).xattrs.remove(&b"security.capability"[..]);
    }
    plain
}

/// The listing as if every name were a file of its own, for readers that do not show links.
pub fn without_links(tree: &Tree) -> String {
    without_links_but_xattrs(&without_xattrs(tree))
}

/// As [`without_links`], xattrs kept.
pub fn without_links_but_xattrs(tree: &Tree) -> String {
    let mut copy = Tree::new();
    let origin = copy.add_origin("copy");
    for e in tree.walk() {
        let meta = Meta { mode: e.inode.mode, uid: e.inode.uid, gid: e.inode.gid, mtime: e.inode.mtime };
        let kind = match &e.inode.kind {
            Kind::Directory(_) => Kind::Directory(BTreeMap::new()),
            kind => kind.clone(),
        };
        let id = copy.insert(&e.path, kind, meta, origin).unwrap();
        copy.inode_mut(id).xattrs = e.inode.xattrs.clone();
    }
    listing(&copy).unwrap()
}

/// Mounts the image and looks at it. A plain user cannot mount: then nothing is
/// looked at, which CI (where `CI` is set) does not accept.
pub fn with_mount(image: &Path, look: impl FnOnce(&Path)) {
    if !may_mount() {
        return;
    }
    struct Mount(PathBuf);
    impl Drop for Mount {
        fn drop(&mut self) {
            Tool::new("umount", "tests").unwrap().arg(&self.0).output().unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = Tool::new("mount", "tests").unwrap();
    mount.args(["-t", "squashfs", "-o", "loop,ro"]).arg(image).arg(dir.path()).output().unwrap();
    let mounted = Mount(dir.path().to_path_buf());
    look(dir.path());
    drop(mounted);
}

fn may_mount() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    assert!(is_root || environment("CI").is_none(), "CI must run these tests as root: they mount images");
    is_root
}

/// What the kernel shows; nothing for a plain user.
pub fn kernel(image: &Path) -> Option<String> {
    let mut shown = None;
    with_mount(image, |root| shown = Some(listing(&read_directory(root).unwrap()).unwrap()));
    shown
}

/// What `unsquashfs` and `rdsquashfs` unpack, each under its name; nothing for a
/// plain user. The first line, the root, is left out: rdsquashfs does not touch
/// the directory it unpacks into.
pub fn unpacked(image: &Path, with_xattrs: bool) -> Vec<(&'static str, String)> {
    if !may_mount() {
        return Vec::new();
    }
    let dir = tempfile::tempdir().unwrap();
    let [first, second] = ["unsquashfs", "rdsquashfs"].map(|name| dir.path().join(name));
    let xattrs = if with_xattrs { "-xattrs" } else { "-no-xattrs" };
    let tool = Tool::new("unsquashfs", "tests").unwrap();
    tool.args(["-quiet", "-no-progress", xattrs, "-d"]).arg(&first).arg(image).output().unwrap();
    std::fs::create_dir(&second).unwrap();
    let tool = Tool::new("rdsquashfs", "tests").unwrap().args(["-q", "-O", "-T", "-C"]);
    let tool = if with_xattrs { tool.arg("-X") } else { tool };
    tool.args(["-u", "/", "-p"]).arg(&second).arg(image).output().unwrap();
    let shown = |dir: &Path| below_root(&listing(&read_directory(dir).unwrap()).unwrap());
    vec![("unsquashfs", shown(&first)), ("rdsquashfs", shown(&second))]
}

/// A listing without its first line.
pub fn below_root(listing: &str) -> String {
    listing.split_once('\n').map_or(String::new(), |(_, rest)| rest.to_string())
}

/// What our own reader finds.
pub fn ours(image: &Path) -> Result<String> {
    let dir = tempfile::tempdir().unwrap();
    listing(&read(image, &dir.path().join("content"), 1 << 30)?)
}

/// What backhand shows: no xattrs, no links.
pub fn backhand(image: &Path) -> String {
    let reader = std::io::BufReader::new(std::fs::File::open(image).unwrap());
    let archive = FilesystemReader::from_reader(reader).unwrap();
    let mut tree = Tree::new();
    let origin = tree.add_origin("backhand");
    for node in archive.files() {
        add_backhand(&mut tree, &archive, node, origin);
    }
    listing(&tree).unwrap()
}

fn add_backhand(
    tree: &mut Tree,
    archive: &FilesystemReader,
    node: &Node<SquashfsFileReader>,
    origin: OriginId,
) {
    let device =
        |number: u32| Device { major: number >> 8 & 0xfff, minor: number & 0xff | number >> 12 & 0xf_ff00 };
    let kind = match &node.inner {
        InnerNode::Dir(_) => Kind::Directory(BTreeMap::new()),
        InnerNode::File(file) => {
            let mut bytes = Vec::new();
            archive.file(file).reader().read_to_end(&mut bytes).unwrap();
            Kind::File(Content::bytes(bytes))
        }
        InnerNode::Symlink(link) => Kind::Symlink(os_bytes(&link.link)),
        InnerNode::CharacterDevice(d) => Kind::CharDevice(device(d.device_number)),
        InnerNode::BlockDevice(d) => Kind::BlockDevice(device(d.device_number)),
        InnerNode::NamedPipe => Kind::Fifo,
        InnerNode::Socket => Kind::Socket,
    };
    let header = &node.header;
    let meta =
        Meta { mode: header.permissions, uid: header.uid, gid: header.gid, mtime: i64::from(header.mtime) };
    tree.insert(&os_bytes(&node.fullpath), kind, meta, origin).unwrap();
}

fn os_bytes(path: &Path) -> Vec<u8> {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec()
}

/// `rdsquashfs -d`: types, modes, owners, link targets and devices of the whole image.
pub fn rdsquashfs(image: &Path) -> String {
    let bytes = Tool::new("rdsquashfs", "tests").unwrap().arg("-d").arg(image).output().unwrap();
    bytes.escape_ascii().to_string().replace("\\n", "\n")
}

/// What `rdsquashfs -d` should print: a name a line, quoted when it has blanks, root left out.
pub fn as_rdsquashfs(tree: &Tree) -> String {
    let mut lines: Vec<u8> = Vec::new();
    for e in tree.walk().filter(|e| !e.path.is_empty()) {
        let inode = e.inode;
        let quoted = e.path.contains(&b' ');
        lines.extend(inode.kind.word().as_bytes());
        lines.extend(if quoted { &b" \""[..] } else { b" " });
        lines.extend(&e.path);
        lines.extend(if quoted { &b"\""[..] } else { b"" });
        let mut rest = format!(" 0{:o} {} {}", inode.mode, inode.uid, inode.gid);
        match &inode.kind {
            Kind::CharDevice(d) => write!(rest, " c {} {}", d.major, d.minor).unwrap(),
            Kind::BlockDevice(d) => write!(rest, " b {} {}", d.major, d.minor).unwrap(),
            _ => {}
        }
        lines.extend(rest.as_bytes());
        if let Kind::Symlink(target) = &inode.kind {
            lines.push(b' ');
            lines.extend(target);
        }
        lines.push(b'\n');
    }
    lines.escape_ascii().to_string().replace("\\n", "\n")
}

/// The pseudo file unsquashfs makes: everything but xattrs, as text followed by the files' bytes.
pub fn unsquashfs(image: &Path) -> String {
    const START: &[u8] = b"#\n# START OF DATA - DO NOT MODIFY\n#\n";
    let dir = tempfile::tempdir().unwrap();
    let pseudo = Arc::new(dir.path().join("pseudo"));
    let tool = Tool::new("unsquashfs", "tests").unwrap();
    tool.args(["-quiet", "-no-progress", "-pf"]).arg(pseudo.as_path()).arg(image).output().unwrap();
    let bytes = std::fs::read(pseudo.as_path()).unwrap();
    let data = bytes.windows(START.len()).position(|w| w == START).map_or(bytes.len(), |at| at + START.len());
    let mut tree = Tree::new();
    let origin = tree.add_origin("unsquashfs");
    for line in bytes[..data].split(|&b| b == b'\n').filter(|l| !l.is_empty() && !l.starts_with(b"#")) {
        add_pseudo(&mut tree, line, &pseudo, data as u64, origin);
    }
    listing(&tree).unwrap()
}

/// One line: `path type mtime mode uid gid …`, blanks inside a path escaped by a backslash.
fn add_pseudo(tree: &mut Tree, line: &[u8], pseudo: &Arc<PathBuf>, data: u64, origin: OriginId) {
    let end = (0..line.len()).find(|&i| line[i] == b' ' && line[i - 1] != b'\\').unwrap();
    let unescaped = |part: &[u8]| part.iter().copied().filter(|&b| b != b'\\').collect::<Vec<u8>>();
    let path = unescaped(&line[..end]);
    let words: Vec<&[u8]> = line[end + 1..].split(|&b| b == b' ').collect();
    let text = |i: usize| std::str::from_utf8(words[i]).unwrap();
    // Owners and device numbers are shown as signed numbers.
    let number = |i: usize| text(i).parse::<i64>().unwrap();
    if words[0] == b"L" {
        tree.add_hard_link(&path, &unescaped(&line[end + 3..]), origin).unwrap();
        return;
    }
    // It shows device numbers split as 24 and 8 bits.
    let device = || {
        let number = (number(5) << 8 | number(6)) as u32;
        Device { major: number >> 8 & 0xfff, minor: number & 0xff | number >> 12 & 0xf_ff00 }
    };
    let kind = match words[0] {
        b"D" => Kind::Directory(BTreeMap::new()),
        b"R" => {
            let (length, offset) = (number(5) as u64, data + number(6) as u64);
            Kind::File(Content::Slice { file: pseudo.clone(), offset, length })
        }
        b"S" => Kind::Symlink(words[5..].join(&b' ')),
        b"C" => Kind::CharDevice(device()),
        b"B" => Kind::BlockDevice(device()),
        b"I" if words[5] == b"f" => Kind::Fifo,
        b"I" => Kind::Socket,
        other => panic!("unknown pseudo file type {}", other.escape_ascii()),
    };
    let mode = u16::from_str_radix(text(2), 8).unwrap();
    let meta = Meta { mode, uid: number(3) as u32, gid: number(4) as u32, mtime: number(1) };
    tree.insert(&path, kind, meta, origin).unwrap();
}
