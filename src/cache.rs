//! What was done before, keyed by the digest of a stage's inputs.
//!
//! ```text
//! <cache>/v1/stages/<stage>/<key>/…   the stage's output files and stage.json
//! <cache>/v1/locks/<stage>-<key>.make held by the one build that makes an entry
//! <cache>/v1/locks/<stage>-<key>.use  shared by builds that use it, so that a prune spares it
//! <cache>/v1/debs/<sha256>.deb        packages, content-addressed
//! <cache>/v1/apt/…                    apt's private state
//! <cache>/v1/work/<pid>-<n>/          being written; swept when its owner is gone
//! ```
//!
//! A directory under `stages/` appears by one rename when it is complete, so a
//! killed build leaves nothing that could be taken for a result. A look-up costs
//! one small read; the bytes of an entry are compared with their digest when they
//! are consumed ([`StageOutput::open`]), and a damaged entry is removed and made
//! anew ([`retry_damaged`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Raised when the meaning of any stage's files changes.
const CACHE_FORMAT: u32 = 1;

/// A cache directory, safe to share between concurrent builds.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    next_work: AtomicU32,
    reports: Mutex<Vec<StageReport>>,
}

/// What one stage did in this run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StageReport {
    /// Stage name.
    pub stage: String,
    /// Whether the cache had it.
    pub hit: bool,
    /// Wall-clock seconds, waiting for a concurrent build included.
    pub seconds: f64,
    /// Bytes of all output files.
    pub bytes: u64,
}

/// Size and digest of one output file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Bytes.
    pub size: u64,
    /// Lower-case hex SHA-256.
    pub sha256: String,
}

/// A stage's finished output; while a value lives, no prune removes the entry.
#[derive(Clone, Debug)]
pub struct StageOutput {
    dir: PathBuf,
    /// Every file of the entry by name.
    pub files: BTreeMap<String, FileDigest>,
    _in_use: Arc<File>,
}

/// A cache entry whose bytes are not what was recorded. It has been removed, so
/// doing the same work again makes it anew.
#[derive(Debug)]
pub struct DamagedEntry(pub PathBuf);

impl std::fmt::Display for DamagedEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is damaged and is made anew", self.0.display())
    }
}

impl std::error::Error for DamagedEntry {}

/// Does `work` again when it met a damaged cache entry, which is gone by then.
///
/// # Errors
/// What `work` returns; a damaged entry only when new ones turn up again and again.
pub fn retry_damaged<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let mut left = 8;
    loop {
        match work() {
            Err(e) if left > 0 && e.is::<DamagedEntry>() => {
                left -= 1;
                crate::output::warn(&e.to_string());
            }
            result => return result,
        }
    }
}

impl StageOutput {
    /// Path of one output file, after comparing its bytes with its digest.
    ///
    /// # Errors
    /// [`DamagedEntry`], see [`retry_damaged`].
    pub fn open(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        match digest_file(&path) {
            Ok(found) if Some(&found) == self.files.get(name) => Ok(path),
            _ => {
                remove_tree(&self.dir);
                Err(DamagedEntry(path).into())
            }
        }
    }

    /// Path of one output file whose reader checks the bytes itself, as [`crate::output::publish`] does.
    pub fn unchecked_path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Digest of one output file.
    ///
    /// # Panics
    /// When the stage does not write a file of that name: a bug in the stage.
    pub fn digest(&self, name: &str) -> &FileDigest {
        &self.files[name]
    }

    /// Removes the entry, after a reader found it damaged.
    pub fn discard(&self) {
        remove_tree(&self.dir);
    }
}

#[derive(Serialize, Deserialize)]
struct StageRecord {
    files: BTreeMap<String, FileDigest>,
}

/// SHA-256 in lower-case hex.
pub fn hex_sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 and size of a file on disk.
///
/// # Errors
/// When it cannot be read.
pub fn digest_file(path: &Path) -> Result<FileDigest> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    digest_reader(&mut file).with_context(|| format!("reading {}", path.display()))
}

/// SHA-256 and size of everything a reader has left.
///
/// # Errors
/// The reader's.
pub fn digest_reader(reader: &mut impl Read) -> io::Result<FileDigest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(FileDigest { size, sha256: hex(&hasher.finalize()) }),
            n => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
        }
    }
}

impl Cache {
    /// Opens (and makes) a cache directory and sweeps what killed builds left.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub fn open(dir: &Path) -> Result<Cache> {
        let dir = std::path::absolute(dir).context("finding the current directory")?;
        let dir = dir.join(format!("v{CACHE_FORMAT}"));
        for sub in ["stages", "locks", "debs", "apt", "work"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub)
                .with_context(|| format!("creating the cache directory {}", sub.display()))?;
        }
        let cache = Cache { dir, next_work: AtomicU32::new(0), reports: Mutex::default() };
        cache.sweep()?;
        Ok(cache)
    }

    /// The directory for one kind of long-lived file (`debs`, `apt`).
    pub fn subdir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A fresh scratch directory on the cache's file system, locked while this process lives.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn work_dir(&self) -> Result<WorkDir> {
        let n = self.next_work.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join("work").join(format!("{}-{n}", std::process::id()));
        let lock_path = path.with_extension("lock");
        // Held until the directory is known: an interrupted build must not overlook it.
        let mut active = active_work_dirs();
        let lock = File::create(&lock_path).with_context(|| format!("creating {}", lock_path.display()))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).context("locking the work directory")?;
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        active.insert(path.clone());
        Ok(WorkDir { path, lock_path, _lock: lock })
    }

    /// Removes work directories whose owner is gone (their lock is free).
    fn sweep(&self) -> Result<()> {
        let work = self.dir.join("work");
        for entry in fs::read_dir(&work).with_context(|| format!("reading {}", work.display()))? {
            let path = entry.with_context(|| format!("reading {}", work.display()))?.path();
            if path.extension().is_none_or(|e| e != "lock") {
                continue;
            }
            // Gone already: another build swept it.
            let Ok(lock) = File::open(&path) else { continue };
            if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
                remove_work_dir(&path.with_extension(""), &path);
            }
        }
        Ok(())
    }

    /// Runs a stage, or finds what an earlier run with equal `inputs` made.
    ///
    /// `inputs` is everything that may influence the output, serialised; `build`
    /// writes files into the directory it is given. Of two builds that want the
    /// same entry at once, one makes it and the other waits.
    ///
    /// # Errors
    /// What `build` returns, and trouble with the cache directory.
    pub fn stage(
        &self,
        name: &str,
        inputs: &impl Serialize,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<StageOutput> {
        let started = Instant::now();
        let key = serde_json::to_vec(&(CACHE_FORMAT, name, inputs)).context("serialising stage inputs")?;
        let key = hex_sha256(&key);
        let dir = self.dir.join("stages").join(name).join(&key);
        let in_use = Arc::new(self.lock_file(name, &key, "use")?);
        flock(&in_use, FlockOperation::LockShared)?;
        let mut files = load(&dir);
        let hit = files.is_some();
        if !hit {
            let making = self.lock_file(name, &key, "make")?;
            flock(&making, FlockOperation::LockExclusive)?;
            files = load(&dir);
            if files.is_none() {
                files = Some(self.produce(name, &dir, build)?);
            }
        }
        let files = files.expect("loaded or produced above");
        mark_used(&dir);
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).push(StageReport {
            stage: name.to_string(),
            hit,
            seconds: started.elapsed().as_secs_f64(),
            bytes: files.values().map(|f| f.size).sum(),
        });
        Ok(StageOutput { dir, files, _in_use: in_use })
    }

    /// What every stage of this run did, in order of completion.
    pub fn stage_reports(&self) -> Vec<StageReport> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock_file(&self, stage: &str, key: &str, purpose: &str) -> Result<File> {
        let path = self.dir.join("locks").join(format!("{stage}-{key}.{purpose}"));
        File::create(&path).with_context(|| format!("creating {}", path.display()))
    }

    fn produce(
        &self,
        name: &str,
        dir: &Path,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<BTreeMap<String, FileDigest>> {
        let work = self.work_dir()?;
        build(&work.path)?;
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&work.path).with_context(|| format!("reading {}", work.path.display()))? {
            let entry = entry.with_context(|| format!("reading {}", work.path.display()))?;
            let file_name = entry.file_name().to_string_lossy().into_owned();
            files.insert(file_name, digest_file(&entry.path())?);
        }
        let record = StageRecord { files };
        let json = serde_json::to_vec_pretty(&record).context("serialising stage.json")?;
        let path = work.path.join("stage.json");
        fs::write(&path, json).with_context(|| format!("writing {}", path.display()))?;
        let parent = dir.parent().expect("a stage directory has a parent");
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        remove_tree(dir);
        fs::rename(&work.path, dir)
            .with_context(|| format!("publishing stage {name} as {}", dir.display()))?;
        Ok(record.files)
    }
}

/// The files of a complete entry, by their recorded digests; sizes are compared, bytes later.
fn load(dir: &Path) -> Option<BTreeMap<String, FileDigest>> {
    let record: StageRecord = serde_json::from_slice(&fs::read(dir.join("stage.json")).ok()?).ok()?;
    let complete = record
        .files
        .iter()
        .all(|(name, want)| fs::metadata(dir.join(name)).is_ok_and(|m| m.is_file() && m.len() == want.size));
    complete.then_some(record.files)
}

/// Notes the use of an entry in its modification time, for least-recently-used eviction.
fn mark_used(dir: &Path) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    // A cache on a read-only file system still serves; only its order of eviction is lost.
    let _ = rustix::fs::utimensat(
        CWD,
        dir,
        &Timestamps { last_access: now, last_modification: now },
        AtFlags::empty(),
    );
}

fn flock(file: &File, operation: FlockOperation) -> Result<()> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation)).context("locking a cache entry")
}

fn remove_tree(path: &Path) {
    // Best effort: what cannot be removed now is removed by a later run.
    let _ = fs::remove_dir_all(path);
}

fn active_work_dirs() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    static ACTIVE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    ACTIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the scratch directories of this process, for a build that is
/// interrupted. From now on no thread can make another one: whoever tries waits
/// for the end of the process.
pub fn remove_active_work_dirs() {
    let active = active_work_dirs();
    for path in active.iter() {
        // A thread that is still writing can get in the way of the removal.
        for _ in 0..100 {
            remove_work_dir(path, &path.with_extension("lock"));
            if !path.exists() {
                break;
            }
        }
    }
    std::mem::forget(active);
}

/// The lock goes last: as long as it is there, a later run knows what to sweep.
fn remove_work_dir(path: &Path, lock: &Path) {
    remove_tree(path);
    if !path.exists() {
        let _ = fs::remove_file(lock);
    }
}

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
        active_work_dirs().remove(&self.path);
        remove_work_dir(&self.path, &self.lock_path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> impl FnOnce(&Path) -> Result<()> + use<'_> {
        move |dir| Ok(fs::write(dir.join("out"), text)?)
    }

    fn hits(cache: &Cache) -> Vec<bool> {
        cache.stage_reports().iter().map(|r| r.hit).collect()
    }

    #[test]
    fn equal_inputs_are_built_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let first = cache.stage("s", &("a", 1), write("one")).unwrap();
        let again = cache.stage("s", &("a", 1), |_| panic!("built twice")).unwrap();
        cache.stage("s", &("a", 2), write("two")).unwrap();
        assert_eq!(first.files, again.files);
        assert_eq!(fs::read_to_string(again.open("out").unwrap()).unwrap(), "one");
        assert_eq!(hits(&cache), [false, true, false]);
    }

    #[test]
    fn a_damaged_entry_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let first = cache.stage("s", &1, write("good")).unwrap();
        fs::write(first.unchecked_path("out"), "evil").unwrap();
        let text = retry_damaged(|| {
            let output = cache.stage("s", &1, write("good"))?;
            Ok(fs::read_to_string(output.open("out")?)?)
        });
        assert_eq!(text.unwrap(), "good");
        assert_eq!(hits(&cache), [false, true, false]);
    }

    #[test]
    fn a_failed_stage_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let failed = cache.stage("s", &1, |dir| {
            fs::write(dir.join("out"), "half")?;
            anyhow::bail!("compressor exploded")
        });
        assert_eq!(failed.unwrap_err().to_string(), "compressor exploded");
        assert_eq!(fs::read_dir(cache.subdir("work")).unwrap().count(), 0);
        assert!(!cache.subdir("stages").join("s").exists());
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
