//! The only door through which artifacts appear.
//!
//! A file is written without a name (`O_TMPFILE`), synced, compared with the
//! digest it must have, and only then given its name by one rename. A build that
//! is interrupted, killed or out of space leaves nothing behind. File systems
//! without `O_TMPFILE` (FAT, some network ones) get a hidden temporary name
//! instead; a leftover of that kind is removed by the next build.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::cache::{DamagedEntry, Fingerprint, fingerprint_file};
use crate::tree::Content;

/// Tells the user something that does not stop the build, on standard error.
pub fn warn(message: &str) {
    eprintln!("warning: {message}");
}

/// One artifact that is ready to be written.
#[derive(Debug)]
pub struct Artifact {
    /// File name in the output directory.
    pub name: String,
    /// Its bytes.
    pub content: Content,
    /// What the bytes must be.
    pub fingerprint: Fingerprint,
}

impl Artifact {
    /// An artifact held in memory.
    pub fn bytes(name: impl Into<String>, bytes: Vec<u8>) -> Artifact {
        let fingerprint = Fingerprint::of(&bytes);
        Artifact { name: name.into(), content: Content::bytes(bytes), fingerprint }
    }

    /// An artifact that is a finished file of the cache.
    pub fn file(name: impl Into<String>, path: &Path, fingerprint: Fingerprint) -> Artifact {
        Artifact { name: name.into(), content: Content::file(path, fingerprint.size), fingerprint }
    }
}

/// Makes the output directory and a trial file in it: what would stop the last
/// step of a build is better known before the first.
///
/// # Errors
/// When the directory cannot be made or written.
pub fn prepare(dir: &Path) -> Result<()> {
    ensure!(
        dir.is_dir() || !dir.exists(),
        "the output directory {} is not a directory; name another one with --out",
        dir.display()
    );
    fs::create_dir_all(dir).with_context(|| format!("creating the output directory {}", dir.display()))?;
    remove_leftovers(dir)?;
    // Goes away with the value.
    Staged::create(dir, "trial").map(drop)
}

/// Writes all artifacts, or none: every one is complete and checked before the
/// first gets its name. One that is there already with the right bytes is left
/// alone. Returns the paths in the order given. `damaged` is called when a file of
/// the cache is not what was recorded, so that its owner can discard it.
/// The directory is there, see [`prepare`].
///
/// # Errors
/// When the directory cannot be made or written, or the content is not what the digest says.
pub fn publish(dir: &Path, artifacts: &[Artifact], damaged: impl Fn()) -> Result<Vec<PathBuf>> {
    remove_leftovers(dir)?;
    let mut pending = Vec::new();
    for artifact in artifacts {
        let path = dir.join(&artifact.name);
        if !is_current(&path, &artifact.fingerprint) {
            let staged =
                stage(dir, artifact, &damaged).with_context(|| format!("writing {}", path.display()))?;
            pending.push((staged, path));
        }
    }
    for (staged, path) in pending {
        staged.name(&path).with_context(|| format!("giving {} its name", path.display()))?;
    }
    Ok(artifacts.iter().map(|a| dir.join(&a.name)).collect())
}

fn is_current(path: &Path, wanted: &Fingerprint) -> bool {
    let same_size = fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == wanted.size);
    same_size && fingerprint_file(path).is_ok_and(|found| found == *wanted)
}

/// A complete file that has no final name yet.
struct Staged {
    file: File,
    temporary: PathBuf,
    /// Whether `temporary` exists on disk and goes away with this value.
    named: bool,
}

const PREFIX: &str = ".liveiso-";

fn stage(dir: &Path, artifact: &Artifact, damaged: &impl Fn()) -> Result<Staged> {
    let mut staged = Staged::create(dir, &artifact.name)?;
    let mut reader = artifact.content.open()?;
    let mut hasher = blake3::Hasher::new();
    let mut size = 0;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        staged.file.write_all(&buffer[..n])?;
        size += n as u64;
    }
    let found = Fingerprint { size, blake3: hasher.finalize().to_hex().to_string() };
    if found != artifact.fingerprint {
        damaged();
        return Err(DamagedEntry(PathBuf::from(&artifact.name)).into());
    }
    staged.file.sync_all().context("syncing to disk")?;
    Ok(staged)
}

impl Staged {
    fn create(dir: &Path, name: &str) -> Result<Staged> {
        let temporary = dir.join(format!("{PREFIX}{}-{name}", std::process::id()));
        let mode = Mode::from_raw_mode(0o644);
        match rustix::fs::open(dir, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
            Ok(fd) => Ok(Staged { file: File::from(fd), temporary, named: false }),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
                let file =
                    File::create(&temporary).with_context(|| format!("creating {}", temporary.display()))?;
                Ok(Staged { file, temporary, named: true })
            }
            Err(e) => Err(e).with_context(|| format!("creating a file in {}", dir.display())),
        }
    }

    /// A link cannot replace an existing file, a rename can: hence two steps.
    fn name(mut self, path: &Path) -> Result<()> {
        if !self.named {
            let descriptor = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            rustix::fs::linkat(CWD, descriptor, CWD, &self.temporary, AtFlags::SYMLINK_FOLLOW)?;
            self.named = true;
        }
        fs::rename(&self.temporary, path)?;
        self.named = false;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.named {
            // Nothing more can be done here; the next build removes it by its prefix.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Removes temporaries of builds that were killed: their process is gone.
fn remove_leftovers(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner =
            name.strip_prefix(PREFIX).and_then(|r| r.split('-').next()).and_then(|p| p.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            fs::remove_file(entry.path()).with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn all_artifacts_appear_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let good = Artifact::bytes("a.iso", b"new".to_vec());
        let mut bad = Artifact::bytes("b.txt", b"x".to_vec());
        bad.fingerprint.blake3 = "0".repeat(64);
        fs::write(dir.path().join("a.iso"), "old").unwrap();
        let error = publish(dir.path(), &[good, bad], || ()).unwrap_err();
        assert!(error.is::<DamagedEntry>(), "{error:#}");
        assert_eq!(names(dir.path()), ["a.iso"]);
        assert_eq!(fs::read(dir.path().join("a.iso")).unwrap(), b"old");
    }

    #[test]
    fn an_artifact_replaces_an_older_one_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.iso"), "old").unwrap();
        fs::write(dir.path().join(".liveiso-4294967295-a.iso"), "half").unwrap();
        publish(dir.path(), &[Artifact::bytes("a.iso", b"new".to_vec())], || ()).unwrap();
        assert_eq!(names(dir.path()), ["a.iso"]);
        assert_eq!(fs::read(dir.path().join("a.iso")).unwrap(), b"new");
    }
}
