//! What was done before, keyed by the digest of a stage's inputs.
//!
//! ```text
//! <cache>/v1/stages/<stage>/<key>/…   the stage's output files and stage.json
//! <cache>/v1/locks/<stage>-<key>.make held by the one build that makes an entry
//! <cache>/v1/locks/<stage>-<key>.use  shared by builds that use it, so that a prune spares it
//! <cache>/v1/debs/<sha256>.deb        packages, content-addressed
//! <cache>/v1/locks/{debs,data-tar}.use  the same for all packages, and all unpacked ones, at once
//! <cache>/v1/apt/…                    apt's private state
//! <cache>/v1/blocks/<digest>.pack     compressed squashfs blocks
//! <cache>/v1/work/<pid>-<n>/          being written; swept when its owner is gone
//! ```
//!
//! A directory under `stages/` appears by one rename when it is complete, so a
//! killed build leaves nothing that could be taken for a result. A look-up costs
//! one small read; the bytes of an entry are compared with their digest when they
//! are consumed ([`StageOutput::open`]), and a damaged entry is removed and made
//! anew ([`retry_damaged`]). [`Cache::entries`], [`Cache::prune`] and
//! [`Cache::verify`] are what `liveiso cache` does.

mod digest;
mod entry;
mod lock;
mod prune;
mod verify;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

pub use digest::{FileDigest, Fingerprint, digest_file, digest_reader, fingerprint_file, hex, hex_sha256};
pub use entry::Entry;
pub use prune::Pruned;
pub use verify::{Damage, Verified};
pub use work::{WorkDir, remove_active_work_dirs};

/// Raised when the meaning of any stage's files changes.
const CACHE_FORMAT: u32 = 1;

/// What a stage's files must be, beside them.
const RECORD: &str = "stage.json";

/// Kinds of entries of which a root uses one for each of its packages. All of a
/// kind share one lock: an open file for each would go beyond a session's limit.
const DEBS: &str = "debs";
const DATA_TAR: &str = "data-tar";

/// A cache directory, safe to share between concurrent builds.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    reports: Mutex<Vec<StageReport>>,
    /// Locks of every entry used in this run, by path.
    in_use: Mutex<BTreeMap<PathBuf, Arc<File>>>,
    debs: Mutex<SharedUse>,
    data_tars: Mutex<SharedUse>,
}

/// The entries of one kind that this run uses, and the lock they share.
#[derive(Debug, Default)]
struct SharedUse {
    lock: Option<File>,
    used: BTreeSet<String>,
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

/// A stage's finished output; while a value or its cache lives, no prune removes the entry.
#[derive(Clone, Debug)]
pub struct StageOutput {
    dir: PathBuf,
    /// Every file of the entry by name.
    pub files: BTreeMap<String, FileDigest>,
    fingerprints: BTreeMap<String, Fingerprint>,
    is_fresh: bool,
    /// `None` where the cache itself holds a lock that many entries share.
    _in_use: Option<Arc<File>>,
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

/// Whether an error was caused by a [`DamagedEntry`].
pub fn is_damaged(error: &anyhow::Error) -> bool {
    damaged(error).is_some()
}

/// A reader can only say it inside an [`std::io::Error`].
fn damaged(error: &anyhow::Error) -> Option<&DamagedEntry> {
    error.chain().find_map(|cause| {
        let io = || cause.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref();
        cause.downcast_ref().or_else(io)
    })
}

/// A file of the cache whose readers compare what they read with digests of their own.
#[derive(Debug)]
pub struct CachedFile {
    path: PathBuf,
    entry: PathBuf,
    _in_use: Option<Arc<File>>,
}

impl CachedFile {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the cache entry, after a reader found the file damaged.
    pub fn damaged(&self) -> DamagedEntry {
        remove_tree(&self.entry);
        DamagedEntry(self.path.clone())
    }
}

/// Does `work` again when it met a damaged cache entry, which is gone by then.
///
/// # Errors
/// What `work` returns; a damaged entry only when new ones turn up again and again.
pub fn retry_damaged<T>(mut work: impl FnMut() -> Result<T>) -> Result<T> {
    let mut left = 8;
    loop {
        let result = work();
        match result.as_ref().err().and_then(damaged) {
            Some(entry) if left > 0 => crate::output::warn(&entry.to_string()),
            _ => return result,
        }
        left -= 1;
    }
}

impl StageOutput {
    /// Path of one output file, after comparing its bytes with its digest,
    /// which was taken a moment ago when this run made it.
    ///
    /// # Errors
    /// [`DamagedEntry`], see [`retry_damaged`].
    pub fn open(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        if self.is_fresh && self.fingerprints.contains_key(name) {
            return Ok(path);
        }
        match fingerprint_file(&path) {
            Ok(found) if Some(&found) == self.fingerprints.get(name) => Ok(path),
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

    /// One output file, unread, for readers with digests of their own.
    pub fn file(&self, name: &str) -> Arc<CachedFile> {
        let (path, entry) = (self.dir.join(name), self.dir.clone());
        Arc::new(CachedFile { path, entry, _in_use: self._in_use.clone() })
    }

    /// What the bytes of one output file are compared with.
    ///
    /// # Panics
    /// As [`StageOutput::digest`].
    pub fn fingerprint(&self, name: &str) -> &Fingerprint {
        &self.fingerprints[name]
    }

    /// Digest of one output file.
    ///
    /// # Panics
    /// When the stage does not write a file of that name: a bug in the stage.
    pub fn digest(&self, name: &str) -> &FileDigest {
        &self.files[name]
    }

    /// Whether this run made it, and has read and digested it just now.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Removes the entry, after a reader found it damaged.
    pub fn discard(&self) {
        remove_tree(&self.dir);
    }
}

#[derive(Serialize, Deserialize)]
struct StageRecord {
    files: BTreeMap<String, FileDigest>,
    fingerprints: BTreeMap<String, Fingerprint>,
}

impl Cache {
    /// Opens (and makes) a cache directory and sweeps what killed builds left.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub fn open(dir: &Path) -> Result<Cache> {
        let dir = std::path::absolute(dir).context("finding the current directory")?;
        let dir = dir.join(format!("v{CACHE_FORMAT}"));
        for sub in ["stages", "locks", "debs", "apt", "blocks", "work"] {
            let sub = dir.join(sub);
            fs::create_dir_all(&sub)
                .with_context(|| format!("creating the cache directory {}", sub.display()))?;
        }
        let cache = Cache {
            dir,
            reports: Mutex::default(),
            in_use: Mutex::default(),
            debs: Mutex::default(),
            data_tars: Mutex::default(),
        };
        cache.sweep()?;
        Ok(cache)
    }

    /// The directory for one kind of long-lived file (`debs`, `apt`, `blocks`).
    pub fn subdir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
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
        let in_use = self.hold(name, &key)?;
        let mut record = load(&dir);
        let hit = record.is_some();
        let mut is_fresh = false;
        if !hit {
            let _making = lock::exclusive(&self.lock_path(name, &key, "make"))?;
            record = load(&dir);
            if record.is_none() {
                record = Some(self.produce(name, &dir, build)?);
                is_fresh = true;
            }
        }
        let StageRecord { files, fingerprints } = record.expect("loaded or produced above");
        mark_used(&dir);
        locked(&self.reports).push(StageReport {
            stage: name.to_string(),
            hit,
            seconds: started.elapsed().as_secs_f64(),
            bytes: files.values().map(|f| f.size).sum(),
        });
        Ok(StageOutput { dir, files, fingerprints, is_fresh, _in_use: in_use })
    }

    /// What every stage of this run did, in order of completion.
    pub fn stage_reports(&self) -> Vec<StageReport> {
        locked(&self.reports).clone()
    }

    /// Marks packages, by SHA-256, as used by this run: no prune removes them before it ends.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn use_debs<'d>(&self, digests: impl IntoIterator<Item = &'d str>) -> Result<()> {
        for digest in digests {
            if self.hold_shared(&self.debs, DEBS, digest)? {
                mark_used(&self.dir.join("debs").join(format!("{digest}.deb")));
            }
        }
        Ok(())
    }

    /// Holds the lock of all entries of a kind and notes the use of one; returns whether that is new.
    fn hold_shared(&self, uses: &Mutex<SharedUse>, kind: &str, key: &str) -> Result<bool> {
        let mut uses = locked(uses);
        if uses.lock.is_none() {
            uses.lock = Some(lock::shared(&self.shared_lock_path(kind))?);
        }
        Ok(uses.used.insert(key.to_string()))
    }

    /// The shared lock of an entry, kept until this cache is dropped.
    fn hold(&self, stage: &str, key: &str) -> Result<Option<Arc<File>>> {
        if stage == DATA_TAR {
            self.hold_shared(&self.data_tars, DATA_TAR, key)?;
            return Ok(None);
        }
        let path = self.lock_path(stage, key, "use");
        if let Some(held) = locked(&self.in_use).get(&path) {
            return Ok(Some(held.clone()));
        }
        // Not under the mutex: a prune in another process may hold the lock for a moment.
        let file = Arc::new(lock::shared(&path)?);
        Ok(Some(locked(&self.in_use).entry(path).or_insert(file).clone()))
    }

    fn shared_lock_path(&self, kind: &str) -> PathBuf {
        self.dir.join("locks").join(format!("{kind}.use"))
    }

    /// The lock that spares an entry from a prune.
    fn use_lock_path(&self, stage: &str, key: &str) -> PathBuf {
        if stage == DATA_TAR { self.shared_lock_path(DATA_TAR) } else { self.lock_path(stage, key, "use") }
    }

    fn lock_path(&self, stage: &str, key: &str, purpose: &str) -> PathBuf {
        self.dir.join("locks").join(format!("{stage}-{key}.{purpose}"))
    }

    fn produce(
        &self,
        name: &str,
        dir: &Path,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<StageRecord> {
        let work = self.work_dir()?;
        build(&work.path)?;
        let mut record = StageRecord { files: BTreeMap::new(), fingerprints: BTreeMap::new() };
        for entry in fs::read_dir(&work.path).with_context(|| format!("reading {}", work.path.display()))? {
            let entry = entry.with_context(|| format!("reading {}", work.path.display()))?;
            let file_name = entry.file_name().to_string_lossy().into_owned();
            let (digest, fingerprint) = digest::digests_of_file(&entry.path())?;
            record.files.insert(file_name.clone(), digest);
            record.fingerprints.insert(file_name, fingerprint);
        }
        let json = serde_json::to_vec_pretty(&record).context("serialising stage.json")?;
        let path = work.path.join(RECORD);
        fs::write(&path, json).with_context(|| format!("writing {}", path.display()))?;
        let parent = dir.parent().expect("a stage directory has a parent");
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        remove_tree(dir);
        fs::rename(&work.path, dir)
            .with_context(|| format!("publishing stage {name} as {}", dir.display()))?;
        Ok(record)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What `stage.json` says of an entry.
fn record(dir: &Path) -> Option<StageRecord> {
    serde_json::from_slice(&fs::read(dir.join(RECORD)).ok()?).ok()
}

/// The record of a complete entry; sizes are compared, bytes later.
fn load(dir: &Path) -> Option<StageRecord> {
    let record = record(dir)?;
    let complete = record
        .files
        .iter()
        .all(|(name, want)| fs::metadata(dir.join(name)).is_ok_and(|m| m.is_file() && m.len() == want.size));
    complete.then_some(record)
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

fn remove_tree(path: &Path) {
    // Best effort: what cannot be removed now is removed by a later run.
    let _ = fs::remove_dir_all(path);
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
    fn thousands_of_packages_need_a_handful_of_open_files() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let outputs: Vec<_> = (0..300)
            .map(|n| {
                cache.use_debs([&*n.to_string()]).unwrap();
                cache.stage(DATA_TAR, &n, write("x")).unwrap()
            })
            .collect();
        let ours = |entry: std::io::Result<fs::DirEntry>| {
            fs::read_link(entry.unwrap().path()).is_ok_and(|target| target.starts_with(dir.path()))
        };
        let open = fs::read_dir("/proc/self/fd").unwrap().map(ours).filter(|ours| *ours).count();
        assert_eq!((outputs.len(), open), (300, 2));
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
}
