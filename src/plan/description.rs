//! Files described in the words of gen_init_cpio, for the root and for the initramfs.

use serde::{Deserialize, Serialize};

use super::InputFile;

/// One line of a gen_init_cpio description.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DescriptionEntry {
    /// Path without leading slash.
    pub name: String,
    /// The twelve permission bits.
    pub mode: u16,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Type and content.
    #[serde(flatten)]
    pub kind: DescriptionKind,
}

/// The types of a gen_init_cpio description, in its words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum DescriptionKind {
    /// A directory.
    Dir,
    /// A regular file.
    File {
        /// Its bytes.
        content: InputFile,
        /// More names of the same file.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        links: Vec<String>,
    },
    /// A device node.
    Nod {
        /// Whether it is a block device; else a character device.
        block: bool,
        /// Driver.
        major: u32,
        /// Unit.
        minor: u32,
    },
    /// A symbolic link.
    Slink {
        /// Target as written.
        target: String,
    },
    /// A named pipe.
    Pipe,
    /// A Unix socket.
    Sock,
}

/// The profile's files among the entries.
pub(super) fn described_files(entries: &mut [DescriptionEntry]) -> impl Iterator<Item = &mut InputFile> {
    entries.iter_mut().filter_map(|entry| match &mut entry.kind {
        DescriptionKind::File { content, .. } => Some(content),
        _ => None,
    })
}
