//! The files built into the program, so that an installed `liveiso` needs no
//! checkout: `airootfs/` of the source tree. `build.rs` lists
//! them with their execute bits and link targets, which `include_dir` loses.

/// One built-in file.
#[derive(Clone, Copy, Debug)]
pub struct Embedded {
    /// Path below the directory, without leading slash.
    pub path: &'static str,
    /// Type and content.
    pub kind: EmbeddedKind,
}

/// What a built-in file is; directories exist through their files.
#[derive(Clone, Copy, Debug)]
pub enum EmbeddedKind {
    /// A regular file.
    File {
        /// Whether the owner may execute it.
        executable: bool,
        /// Its content.
        bytes: &'static [u8],
    },
    /// A symbolic link and its target.
    Symlink(&'static str),
}

impl Embedded {
    /// The content of a regular file.
    pub fn bytes(&self) -> Option<&'static [u8]> {
        match self.kind {
            EmbeddedKind::File { bytes, .. } => Some(bytes),
            EmbeddedKind::Symlink(_) => None,
        }
    }
}

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The files laid over every root, in order of their paths.
pub fn airootfs() -> &'static [Embedded] {
    AIROOTFS
}
