//! Scratch directories outside the cache: they go when dropped, and on an interrupt.
//! (Those of [`crate::cache`] survive a kill too, until the next run.)

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

/// A directory that goes with this value.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new directory below the system's directory for temporary files, closed to others.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(purpose: &str) -> Result<Scratch> {
        // An interrupt that comes now waits until it can know the directory.
        let mut active = active();
        let made = tempfile::Builder::new().prefix(&format!("liveiso-{purpose}-")).tempdir();
        let below = || format!("creating a directory in {}", std::env::temp_dir().display());
        let path = made.with_context(below)?.keep();
        active.insert(path.clone());
        Ok(Scratch(path))
    }

    /// The new directory `path`, which goes unless it is renamed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn at(path: PathBuf) -> Result<Scratch> {
        let mut active = active();
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        active.insert(path.clone());
        Ok(Scratch(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // An interrupt that comes now waits until the directory is gone.
        let mut active = active();
        // Nothing more can be done here.
        let _ = fs::remove_dir_all(&self.0);
        active.remove(&self.0);
    }
}

/// Removes the scratch directories of this process, for a run that is interrupted. From now
/// on nobody can make another one: who tries waits for the end of the process.
pub fn remove_all() {
    let active = active();
    for path in active.iter() {
        // A thread that is still writing can get in the way.
        for _ in 0..10 {
            if fs::remove_dir_all(path).is_ok() || !path.exists() {
                break;
            }
        }
    }
    std::mem::forget(active);
}

fn active() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    static ACTIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    ACTIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_value() {
        let scratch = Scratch::new("scratch").unwrap();
        let path = scratch.path().to_path_buf();
        fs::write(path.join("x"), "x").unwrap();
        let inside = Scratch::at(path.join("inside")).unwrap();
        assert!(Scratch::at(path.join("inside")).is_err());
        fs::rename(inside.path(), path.join("kept")).unwrap();
        drop(inside);
        assert!(path.join("kept").exists());
        drop(scratch);
        assert!(!path.exists());
    }
}
