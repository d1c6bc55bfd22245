//! Scratch directories: removed when dropped, on an interrupt or, after a kill, by the next run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};

use super::{Cache, lock, remove_tree};
use crate::host::Tool;
use crate::output::warn;

/// A scratch directory, removed when dropped or, after a kill, by the next run.
#[derive(Debug)]
pub struct WorkDir {
    /// Where to write.
    pub path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        // An interrupt that comes now waits until the directory is gone.
        let mut active = active();
        remove(&self.path, &self.lock_path);
        active.remove(&self.path);
    }
}

impl Cache {
    /// A fresh scratch directory on the cache's file system, locked while this process lives.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn work_dir(&self) -> Result<WorkDir> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = self.dir.join("work").join(format!("{}-{n}", std::process::id()));
            let lock_path = path.with_extension("lock");
            // An interrupt that comes now waits until it can know the directory.
            let mut active = active();
            // Taken: a process of another container, with its own numbering, shares this cache.
            let Some(lock) = lock::try_exclusive(&lock_path)? else { continue };
            match fs::create_dir(&path) {
                Ok(()) => {}
                // What a killed process of the same number left; a later run sweeps it.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(e).with_context(|| format!("creating {}", path.display())),
            }
            active.insert(path.clone());
            return Ok(WorkDir { path, lock_path, _lock: lock });
        }
    }

    /// Removes work directories whose owner is gone (their lock is free).
    pub(super) fn sweep(&self) -> Result<()> {
        let work = self.dir.join("work");
        for entry in fs::read_dir(&work).with_context(|| format!("reading {}", work.display()))? {
            let path = entry.with_context(|| format!("reading {}", work.display()))?.path();
            if path.extension().is_none_or(|e| e != "lock") {
                continue;
            }
            if let Some(_lock) = lock::try_exclusive(&path)? {
                let dir = path.with_extension("");
                remove_foreign(&dir);
                remove(&dir, &path);
            }
        }
        Ok(())
    }
}

/// Removes the scratch directories of this process, for a build that is
/// interrupted. From now on nobody can make another one: who tries waits for
/// the end of the process.
pub fn remove_active_work_dirs() {
    let active = active();
    for path in active.iter() {
        // A thread that is still writing can get in the way.
        for _ in 0..10 {
            remove(path, &path.with_extension("lock"));
            if !path.exists() {
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

/// The lock goes last: as long as it is there, a later run knows what to sweep.
fn remove(path: &Path, lock: &Path) {
    remove_tree(path);
    if !path.exists() {
        // A lock without a directory does no harm; the next run removes it.
        let _ = fs::remove_file(lock);
    }
}

/// What a killed mmdebstrap left as a plain user belongs to subordinate ids,
/// which only a namespace that maps them can remove.
fn remove_foreign(dir: &Path) {
    remove_tree(dir);
    if !dir.exists() || rustix::process::geteuid().is_root() {
        return;
    }
    let tool = Tool::new("mmdebstrap", "removing what a killed build left").map(|tool| {
        tool.args(["--unshare-helper", "/usr/bin/rm", "-rf", "--one-file-system", "--"]).arg(dir)
    });
    // It ends with an error always: the outermost directories are ours and left for us to remove.
    let ended = tool.and_then(Tool::capture);
    remove_tree(dir);
    if dir.exists() {
        let reason = match ended {
            Ok(output) => crate::host::last_lines(&output.stderr),
            Err(error) => format!("{error:#}"),
        };
        warn(&format!("{}, left by a killed build, cannot be removed: {reason}", dir.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_caches_of_one_process_do_not_wait_for_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let caches = [Cache::open(dir.path()).unwrap(), Cache::open(dir.path()).unwrap()];
        let dirs = caches.each_ref().map(|cache| cache.work_dir().unwrap());
        assert_ne!(dirs[0].path, dirs[1].path);
    }

    #[test]
    fn a_number_that_another_container_uses_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let mine = cache.work_dir().unwrap();
        let (pid, n) = mine.path.file_name().unwrap().to_str().unwrap().split_once('-').unwrap();
        let number = |ahead: u32| n.parse::<u32>().unwrap() + ahead;
        let theirs: Vec<_> =
            (1..4).map(|a| cache.subdir("work").join(format!("{pid}-{}.lock", number(a)))).collect();
        let _held: Vec<_> = theirs.iter().map(|path| lock::exclusive(path).unwrap()).collect();
        let next = cache.work_dir().unwrap();
        assert!(!theirs.contains(&next.lock_path));
    }

    #[test]
    fn what_a_killed_build_left_is_swept_and_a_living_one_is_spared() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let mine = cache.work_dir().unwrap();
        let dead = cache.subdir("work").join("1-0");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("half"), "x").unwrap();
        fs::write(dead.with_extension("lock"), "").unwrap();
        Cache::open(dir.path()).unwrap();
        assert!(!dead.exists() && !dead.with_extension("lock").exists());
        assert!(mine.path.exists());
    }
}
