//! Reading everything again: an entry that is not what was recorded goes.
//!
//! Left out: apt's indexes, which apt verifies, and packs of blocks, whose
//! records carry their own checksums.

use std::fs;

use anyhow::{Context, Result};

use super::digest::digests_of_file;
use super::entry::{Entry, EntryKind};
use super::{Cache, RECORD, digest_file, lock, record};

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verified {
    /// Entries read.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Entries that were damaged and are removed.
    pub damaged: Vec<Damage>,
}

/// A damaged entry.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Damage {
    /// As in [`Entry`].
    pub stage: String,
    /// As in [`Entry`].
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Cache {
    /// Reads every stage output and package and removes what is damaged; builds make it anew.
    ///
    /// # Errors
    /// When the cache cannot be read or a damaged entry cannot be removed.
    pub fn verify(&self) -> Result<Verified> {
        let mut verified = Verified::default();
        for entry in self.entries()? {
            let reason = match entry.kind {
                EntryKind::Stage => self.verify_stage(&entry)?,
                EntryKind::Deb => verify_deb(&entry),
                EntryKind::Apt | EntryKind::Blocks => continue,
            };
            verified.entries += 1;
            verified.bytes += entry.size;
            if let Some(reason) = reason {
                self.take_away(&entry.path)
                    .with_context(|| format!("removing the damaged {}", entry.path.display()))?;
                verified.damaged.push(Damage { stage: entry.stage, key: entry.key, reason });
            }
        }
        Ok(verified)
    }

    fn verify_stage(&self, entry: &Entry) -> Result<Option<String>> {
        // Shared like a build's: a prune must not look like damage.
        let _in_use = lock::shared(&self.use_lock_path(&entry.stage, &entry.key))?;
        if !entry.path.exists() {
            return Ok(None);
        }
        let Some(record) = record(&entry.path) else {
            return Ok(Some(format!("{RECORD} is missing or no record")));
        };
        let intact = |name: &String| -> Result<bool> {
            let (digest, fingerprint) = digests_of_file(&entry.path.join(name))?;
            let recorded = (record.files.get(name), record.fingerprints.get(name));
            Ok(recorded == (Some(&digest), Some(&fingerprint)))
        };
        let damaged = record.files.keys().find_map(|name| match intact(name) {
            Ok(true) => None,
            Ok(false) => Some(format!("{name} is not what was recorded")),
            Err(error) => Some(format!("{name}: {}", error.root_cause())),
        });
        Ok(damaged)
    }
}

fn verify_deb(entry: &Entry) -> Option<String> {
    match digest_file(&entry.path) {
        Ok(found) if found.sha256 == entry.key => None,
        Ok(_) => Some("its bytes do not have the digest it is named by".to_string()),
        Err(_) if !fs::exists(&entry.path).unwrap_or(true) => None,
        Err(error) => Some(error.root_cause().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_entries_are_named_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let outputs = [1, 2, 3, 4]
            .map(|key| cache.stage("s", &key, |dir| Ok(fs::write(dir.join("out"), [key; 100])?)).unwrap());
        let path = |n: usize, name| outputs[n].unchecked_path(name);
        fs::write(path(1, "out"), [9; 100]).unwrap();
        fs::remove_file(path(2, "out")).unwrap();
        fs::write(path(3, RECORD), "{").unwrap();
        let deb = |name: &str| cache.subdir("debs").join(format!("{name}.deb"));
        let intact = deb(&super::super::hex_sha256(b"x"));
        fs::write(&intact, "x").unwrap();
        fs::write(deb("0"), "x").unwrap();
        let verified = cache.verify().unwrap();
        let mut reasons: Vec<&str> = verified.damaged.iter().map(|d| &*d.reason).collect();
        reasons.sort_unstable();
        let expected = [
            "its bytes do not have the digest it is named by",
            "out is not what was recorded",
            "out: No such file or directory (os error 2)",
            "stage.json is missing or no record",
        ];
        assert_eq!((verified.entries, reasons), (6, expected.to_vec()));
        assert!(path(0, "out").exists() && intact.exists());
        assert_eq!([1, 2, 3].map(|n| path(n, "").exists()), [false; 3]);
        assert!(!deb("0").exists());
        assert_eq!(cache.verify().unwrap().damaged, []);
    }
}
