//! The files of one image, in memory: the currency of the whole program.
//!
//! A [`Tree`] is a flat table of inodes. Directories map names to inode
//! numbers in byte order, so every writer that walks a tree meets names in the
//! same order on every host. A hard link is a second name of an inode.
//! Ownership, modes, device numbers and xattrs exist only here, never on the
//! host's disk, which is why a build needs no privileges.

mod archive;
mod content;
mod edit;
mod listing;

mod name;
mod rules;
mod sealed;
pub mod store;

mod walk;

pub use archive::read_tar;
pub use content::{Content, ContentReader};
pub use edit::Meta;
pub use listing::{listing, parse_listing};
pub use name::{InvalidName, Name, components};

pub use rules::{exclude, set_permissions};
pub use sealed::{CHUNK, ChunkDigest, Sealed, SealedReader, ZEROS, chunk_digest, is_zero};
pub use walk::Entry;

use std::collections::BTreeMap;

/// Index of an inode in its [`Tree`]; the root directory is [`Tree::ROOT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub(crate) u32);

impl InodeId {
    /// Position in the inode table, for side tables of writers.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where an inode came from (`/etc/fstab of package mount 2.38`, `airootfs/etc/fstab`), for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginId(u32);

/// One file of the image, whatever number of names it has.
#[derive(Clone, Debug)]
pub struct Inode {
    /// The twelve permission bits (`07777`); the file type is [`Inode::kind`].
    pub mode: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time in seconds since 1970-01-01 UTC.
    pub mtime: i64,
    /// Extended attributes by full name (`security.capability`, `user.x`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Type and content.
    pub kind: Kind,
    /// Number of names; 0 means removed, writers skip it.
    pub links: u32,
    /// Who brought it.
    pub origin: OriginId,
}

/// What an inode is, with the content only that type has.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A directory and its entries in byte order.
    Directory(BTreeMap<Name, InodeId>),
    /// A regular file.
    File(Content),
    /// A symbolic link and its target, as written.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

impl Kind {
    /// The word the listing uses: `dir`, `file`, `slink`, `nod`, `pipe`, `sock`.
    pub fn word(&self) -> &'static str {
        match self {
            Kind::Directory(_) => "dir",
            Kind::File(_) => "file",
            Kind::Symlink(_) => "slink",
            Kind::CharDevice(_) | Kind::BlockDevice(_) => "nod",
            Kind::Fifo => "pipe",
            Kind::Socket => "sock",
        }
    }

    /// The `S_IFMT` bits of `st_mode` for this type.
    pub fn file_type_bits(&self) -> u32 {
        match self {
            Kind::Fifo => 0o010000,
            Kind::CharDevice(_) => 0o020000,
            Kind::Directory(_) => 0o040000,
            Kind::BlockDevice(_) => 0o060000,
            Kind::File(_) => 0o100000,
            Kind::Symlink(_) => 0o120000,
            Kind::Socket => 0o140000,
        }
    }
}

/// A device number as the kernel splits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Driver, 12 bits in the formats we write.
    pub major: u32,
    /// Unit, 20 bits in the formats we write.
    pub minor: u32,
}

/// A file tree; see the module for the rules.
#[derive(Clone, Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    origins: Vec<String>,
}

/// Why a tree refused an edit; the caller adds who asked for it.
#[derive(Debug, PartialEq, Eq)]
pub enum TreeError {
    /// A name that no file system carries, or that leads out of the tree.
    Name(InvalidName),
    /// A path component exists and is not a directory; holds that component's path and origin.
    #[allow(missing_docs, reason = "the variant says it")]
    NotADirectory { path: String, origin: String },
    /// Something is there that must not be replaced; both origins are named.
    #[allow(missing_docs, reason = "the variant says it")]
    Conflict { path: String, existing: String, existing_origin: String, new: String, new_origin: String },
    /// Nothing has this path.
    Missing(String),
    /// A symbolic link on the way leads to nothing in the tree.
    #[allow(missing_docs, reason = "the variant says it")]
    DanglingLink { target: String, origin: String },
    /// Symbolic links on the way lead in a circle or out of bounds.
    LinkLoop(String),
}

/// Shows a byte path in messages: UTF-8 as is, anything else and control characters escaped.
pub fn display_path(path: &[u8]) -> String {
    let mut shown = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' { shown.extend(c.escape_default()) } else { shown.push(c) }
        }
        for b in chunk.invalid() {
            shown.push_str(&format!("\\x{b:02x}"));
        }
    }
    shown
}

impl std::fmt::Display for TreeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TreeError::Name(e) => e.fmt(f),
            TreeError::NotADirectory { path, origin } => {
                write!(f, "`{path}` (from {origin}) is not a directory, yet a file below it is wanted")
            }
            TreeError::Conflict { path, existing, existing_origin, new, new_origin } => write!(
                f,
                "`{path}` is a {existing} from {existing_origin} and a {new} from {new_origin}; remove one of them"
            ),
            TreeError::Missing(path) => write!(f, "`{path}` does not exist in the tree"),
            TreeError::DanglingLink { target, origin } => write!(
                f,
                "a symbolic link on the way, from {origin}, leads to `{target}`, which is not in the tree; \
                 add that or remove the link"
            ),
            TreeError::LinkLoop(path) => {
                write!(f, "`{path}` runs through symbolic links in a circle")
            }
        }
    }
}

impl std::error::Error for TreeError {}
