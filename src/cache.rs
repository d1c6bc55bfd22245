//! What was done before, keyed by the digest of a stage's inputs.
//!
//! ```text
//! <cache>/v1/stages/<stage>/<key>/…   the stage's output files and stage.json
//! <cache>/v1/debs/<sha256>.deb        packages, content-addressed
//! <cache>/v1/apt/…                    apt's private state
//! <cache>/v1/work/<pid>-<n>/          being written; swept when its owner is gone
//! ```
//!
//! A directory under `stages/` appears by one rename when it is complete, so a
//! killed build leaves nothing that could be taken for a result.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Raised when the meaning of any stage's files changes.
const CACHE_FORMAT: u32 = 1;

/// A cache directory.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
    work: AtomicU32,
    report: std::sync::Mutex<Vec<StageReport>>,
}

/// What one stage did in this run.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StageReport {
    /// Stage name.
    pub stage: String,
    /// Whether the cache had it.
    pub hit: bool,
    /// Wall-clock seconds.
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

/// A stage's finished output.
#[derive(Clone, Debug)]
pub struct StageOutput {
    /// Directory with the files.
    pub dir: PathBuf,
    /// Every file in it by name.
    pub files: BTreeMap<String, FileDigest>,
}

impl StageOutput {
    /// Path of one output file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Digest of one output file.
    ///
    /// # Panics
    /// When the stage does not write a file of that name: a bug in the stage.
    pub fn digest(&self, name: &str) -> &FileDigest {
        &self.files[name]
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
        let dir = std::path::absolute(dir)
            .context("finding the current directory")?
            .join(format!("v{CACHE_FORMAT}"));
        for sub in ["stages", "debs", "apt", "work"] {
            fs::create_dir_all(dir.join(sub))
                .with_context(|| format!("creating {}", dir.join(sub).display()))?;
        }
        let cache = Cache { dir, work: AtomicU32::new(0), report: Default::default() };
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
        let n = self.work.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join("work").join(format!("{}-{n}", std::process::id()));
        let lock_path = path.with_extension("lock");
        let lock = File::create(&lock_path).with_context(|| format!("creating {}", lock_path.display()))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .context("locking the work directory")?;
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(WorkDir { path, lock_path, _lock: lock })
    }

    /// Removes work directories whose owner is gone (their lock is free).
    fn sweep(&self) -> Result<()> {
        let work = self.dir.join("work");
        for entry in fs::read_dir(&work).with_context(|| format!("reading {}", work.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "lock") {
                let Ok(lock) = File::open(&path) else {
                    continue;
                };
                if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
                    remove_tree(&path.with_extension(""));
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok(())
    }

    /// Runs a stage, or finds what an earlier run with equal `inputs` made.
    ///
    /// `inputs` is everything that may influence the output, serialised; `build`
    /// writes files into the directory it is given. Every file of a hit is read
    /// and compared with its digest first when `verify` is set; a damaged entry is
    /// made anew.
    ///
    /// # Errors
    /// What `build` returns, and trouble with the cache directory.
    pub fn stage(
        &self,
        name: &str,
        inputs: &impl Serialize,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<StageOutput> {
        let started = std::time::Instant::now();
        let key = hex_sha256(
            &serde_json::to_vec(&(CACHE_FORMAT, name, inputs)).context("serialising stage inputs")?,
        );
        let dir = self.dir.join("stages").join(name).join(&key);
        let (output, hit) = match self.load(&dir) {
            Some(output) => (output, true),
            None => (self.produce(name, &dir, build)?, false),
        };
        self.report.lock().expect("no panic holds this lock").push(StageReport {
            stage: name.to_string(),
            hit,
            seconds: started.elapsed().as_secs_f64(),
            bytes: output.files.values().map(|f| f.size).sum(),
        });
        Ok(output)
    }

    /// What every stage of this run did, in order of completion.
    pub fn stage_reports(&self) -> Vec<StageReport> {
        self.report.lock().expect("no panic holds this lock").clone()
    }

    fn load(&self, dir: &Path) -> Option<StageOutput> {
        let record: StageRecord = serde_json::from_slice(&fs::read(dir.join("stage.json")).ok()?).ok()?;
        let intact = record
            .files
            .iter()
            .all(|(name, want)| digest_file(&dir.join(name)).is_ok_and(|found| found == *want));
        if !intact {
            remove_tree(dir);
            return None;
        }
        Some(StageOutput { dir: dir.to_path_buf(), files: record.files })
    }

    fn produce(
        &self,
        name: &str,
        dir: &Path,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<StageOutput> {
        let work = self.work_dir()?;
        build(&work.path)?;
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&work.path).with_context(|| format!("reading {}", work.path.display()))? {
            let entry = entry?;
            let file_name = entry.file_name().to_string_lossy().into_owned();
            files.insert(file_name, digest_file(&entry.path())?);
        }
        let record = serde_json::to_vec_pretty(&StageRecord { files: files.clone() })
            .context("serialising stage.json")?;
        let mut out = File::create(work.path.join("stage.json")).context("creating stage.json")?;
        out.write_all(&record).context("writing stage.json")?;
        let parent = dir.parent().expect("a stage directory has a parent");
        fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        if let Err(e) = fs::rename(&work.path, dir) {
            // Another build finished the same stage first; its result is the same.
            if self.load(dir).is_none() {
                return Err(e).with_context(|| format!("publishing stage {name} as {}", dir.display()));
            }
        }
        Ok(StageOutput { dir: dir.to_path_buf(), files })
    }
}

fn remove_tree(path: &Path) {
    // Best effort: what cannot be removed now is removed by a later run.
    let _ = fs::remove_dir_all(path);
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
        remove_tree(&self.path);
        let _ = fs::remove_file(&self.lock_path);
    }
}
