//! Eviction: the least recently used entries go until a cache is small enough.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result};

use super::entry::{APT_PARTS, Entry, EntryKind};
use super::{Cache, DATA_TAR, DEBS, SharedUse, lock, locked};

/// What a prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// What is gone, in the order of removal.
    pub removed: Vec<Entry>,
    /// Bytes that stay.
    pub kept: u64,
    /// Bytes of entries that had to go but are used by a running build.
    pub in_use: u64,
}

impl Cache {
    /// Removes entries, the least recently used first, until at most `max_size`
    /// bytes stay. Spared is what running builds use, and what this one used.
    ///
    /// # Errors
    /// When the cache cannot be read or an entry cannot be removed.
    pub fn prune(&self, max_size: u64) -> Result<Pruned> {
        let mut entries = self.entries()?;
        entries.sort_by(|a, b| {
            let order = |e: &Entry| (e.last_used, e.nanoseconds);
            order(a).cmp(&order(b)).then_with(|| (&a.stage, &a.key).cmp(&(&b.stage, &b.key)))
        });
        let debs = self.freed(&self.debs, DEBS)?;
        let data_tars = self.freed(&self.data_tars, DATA_TAR)?;
        let mut pruned = Pruned { kept: entries.iter().map(|e| e.size).sum(), ..Pruned::default() };
        for entry in entries {
            if pruned.kept <= max_size {
                break;
            }
            let removed = self
                .remove(&entry, debs.is_some(), data_tars.is_some())
                .with_context(|| format!("removing {}", entry.path.display()))?;
            if removed {
                pruned.kept -= entry.size;
                pruned.removed.push(entry);
            } else {
                pruned.in_use += entry.size;
            }
        }
        self.remove_stale_locks()?;
        Ok(pruned)
    }

    /// The lock of all entries of a kind, when no other build uses any; our own run's are known by name.
    fn freed(&self, uses: &Mutex<SharedUse>, kind: &str) -> Result<Option<File>> {
        locked(uses).lock = None;
        lock::try_exclusive(&self.shared_lock_path(kind))
    }

    /// Whether the entry could be removed.
    fn remove(&self, entry: &Entry, debs_are_free: bool, data_tars_are_free: bool) -> Result<bool> {
        let used = |uses| locked::<SharedUse>(uses).used.contains(&entry.key);
        match entry.kind {
            EntryKind::Stage if entry.stage == DATA_TAR => {
                if !data_tars_are_free || used(&self.data_tars) {
                    return Ok(false);
                }
                self.take_away(&entry.path)?;
                Ok(true)
            }
            EntryKind::Stage => self.remove_stage(entry),
            EntryKind::Deb if !debs_are_free || used(&self.debs) => Ok(false),
            // A build that has a pack open keeps reading it.
            EntryKind::Deb | EntryKind::Blocks => {
                fs::remove_file(&entry.path)?;
                Ok(true)
            }
            EntryKind::Apt => remove_indexes(&entry.path),
        }
    }

    /// Both locks are held while the entry and then they go.
    fn remove_stage(&self, entry: &Entry) -> Result<bool> {
        let paths = ["use", "make"].map(|purpose| self.lock_path(&entry.stage, &entry.key, purpose));
        let Some(_in_use) = lock::try_exclusive(&paths[0])? else { return Ok(false) };
        let Some(_making) = lock::try_exclusive(&paths[1])? else { return Ok(false) };
        self.take_away(&entry.path)?;
        for path in paths {
            fs::remove_file(path).context("removing its lock")?;
        }
        Ok(true)
    }

    /// An entry vanishes at once, by a rename, however long its removal takes.
    pub(super) fn take_away(&self, path: &Path) -> Result<()> {
        let work = self.work_dir()?;
        match fs::rename(path, work.path.join("removed")) {
            // Found damaged and removed by its user.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.context("moving it away"),
        }
    }

    /// Removes locks nobody holds of entries that are no more.
    fn remove_stale_locks(&self) -> Result<()> {
        let locks = self.dir.join("locks");
        for file in fs::read_dir(&locks).with_context(|| format!("reading {}", locks.display()))? {
            let path = file.with_context(|| format!("reading {}", locks.display()))?.path();
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let Some((stage, key)) = stem.rsplit_once('-').filter(|_| stem != DATA_TAR) else { continue };
            if self.dir.join("stages").join(stage).join(key).exists() {
                continue;
            }
            if let Some(_lock) = lock::try_exclusive(&path)? {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// The directory and its lock stay, for builds that wait for them.
fn remove_indexes(dir: &Path) -> Result<bool> {
    let Some(_lock) = lock::try_exclusive(&dir.join("lock"))? else { return Ok(false) };
    for part in APT_PARTS {
        match fs::remove_dir_all(dir.join(part)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn make(cache: &Cache, key: u32) -> std::path::PathBuf {
        let output = cache.stage("s", &key, |dir| Ok(fs::write(dir.join("out"), [0; 1000])?)).unwrap();
        output.unchecked_path("")
    }

    fn set_used(path: &Path, seconds: u64) {
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_least_recently_used_go_first_and_used_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let paths = {
            let cache = Cache::open(dir.path()).unwrap();
            [1, 2, 3].map(|key| make(&cache, key))
        };
        let cache = Cache::open(dir.path()).unwrap();
        let deb = cache.subdir("debs").join(format!("{}.deb", "a".repeat(64)));
        fs::write(&deb, [0; 500]).unwrap();
        let size = cache.entries().unwrap()[1].size;
        make(&cache, 2);
        for (path, seconds) in [(&paths[0], 30), (&paths[1], 10), (&paths[2], 20), (&deb, 40)] {
            set_used(path, seconds);
        }
        let other = Cache::open(dir.path()).unwrap();
        let pruned = other.prune(2 * size + 500).unwrap();
        assert_eq!(pruned.removed.iter().map(|e| e.path.clone()).collect::<Vec<_>>(), [paths[2].clone()]);
        assert_eq!((pruned.kept, pruned.in_use), (2 * size + 500, size));
        assert!(paths[0].exists() && paths[1].exists() && !paths[2].exists() && deb.exists());

        cache.use_debs([&*"a".repeat(64)]).unwrap();
        let pruned = other.prune(0).unwrap();
        assert_eq!((pruned.removed.len(), pruned.kept, pruned.in_use), (1, size + 500, size + 500));
        // Our own use counts after our own build too.
        assert_eq!(cache.prune(0).unwrap().removed, []);
        drop(cache);
        assert_eq!(other.prune(0).unwrap().kept, 0);
        assert_eq!(names(&other.subdir("locks")), ["data-tar.use", "debs.use"]);
        assert_eq!(names(&other.subdir("work")), [""; 0]);
        assert_eq!(other.entries().unwrap(), []);
    }

    #[test]
    fn unpacked_packages_of_a_running_build_stay() {
        let dir = tempfile::tempdir().unwrap();
        let data_tar = |cache: &Cache, key: u32| {
            cache.stage(DATA_TAR, &key, |dir| Ok(fs::write(dir.join("data.tar"), "x")?)).unwrap();
        };
        data_tar(&Cache::open(dir.path()).unwrap(), 1);
        let [building, other] = [(); 2].map(|()| Cache::open(dir.path()).unwrap());
        data_tar(&building, 2);
        assert_eq!(other.prune(0).unwrap().removed.len(), 0, "another build may use either");
        assert_eq!(building.prune(0).unwrap().removed.len(), 1, "it knows its own");
        data_tar(&building, 2);
        assert_eq!(building.stage_reports().iter().map(|r| r.hit).collect::<Vec<_>>(), [false, true]);
        drop(building);
        assert_eq!(other.prune(0).unwrap().removed.len(), 1);
    }

    #[test]
    fn an_entry_removed_while_a_build_waits_for_it_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        make(&Cache::open(dir.path()).unwrap(), 1);
        let pruning = Cache::open(dir.path()).unwrap();
        let entry = pruning.entries().unwrap().remove(0);
        let lock_path = pruning.lock_path("s", &entry.key, "use");
        let held = lock::exclusive(&lock_path).unwrap();
        std::thread::scope(|scope| {
            let building = scope.spawn(|| make(&Cache::open(dir.path()).unwrap(), 1));
            // Whether the build waits by now or not, it must not trust the lock that is removed.
            pruning.take_away(&entry.path).unwrap();
            fs::remove_file(&lock_path).unwrap();
            drop(held);
            assert!(building.join().unwrap().join("out").exists());
        });
        assert!(lock_path.exists());
    }
}
