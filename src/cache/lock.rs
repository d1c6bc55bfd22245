//! Lock files (flock(2)) that may be removed while others wait for them.
//!
//! Whoever holds a lock exclusively may remove its file. A lock on a file that
//! has lost its name protects nothing, so after each locking the name is
//! compared with what was locked.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

/// Waits for a lock that any number of processes may hold.
pub(super) fn shared(path: &Path) -> Result<File> {
    Ok(lock(path, FlockOperation::LockShared)?.expect("a lock that is waited for is got"))
}

/// Waits for a lock that only one process holds.
pub(super) fn exclusive(path: &Path) -> Result<File> {
    Ok(lock(path, FlockOperation::LockExclusive)?.expect("a lock that is waited for is got"))
}

/// The exclusive lock, or `None` while anybody, this process included, holds it.
pub(super) fn try_exclusive(path: &Path) -> Result<Option<File>> {
    lock(path, FlockOperation::NonBlockingLockExclusive)
}

fn lock(path: &Path, operation: FlockOperation) -> Result<Option<File>> {
    loop {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation)) {
            Ok(()) if has_name(&file, path) => return Ok(Some(file)),
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(e).with_context(|| format!("locking {}", path.display())),
        }
    }
}

fn has_name(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}
