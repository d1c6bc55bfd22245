//! Input bytes as a file, for parsers that open files themselves.

use std::io::Write;
use std::path::PathBuf;

/// A directory that holds `input` with these bytes, on a file system in memory
/// where there is one.
pub struct OnDisk {
    dir: tempfile::TempDir,
}

impl OnDisk {
    /// Writes the bytes.
    pub fn new(bytes: &[u8]) -> OnDisk {
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        let mut file = std::fs::File::create(dir.path().join("input")).expect("a file");
        file.write_all(bytes).expect("room for the input");
        OnDisk { dir }
    }

    /// The file with the input.
    pub fn input(&self) -> PathBuf {
        self.dir.path().join("input")
    }

    /// A place for a parser's output.
    pub fn output(&self) -> PathBuf {
        self.dir.path().join("output")
    }
}
