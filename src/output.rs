//! The only door through which artifacts appear.
//!
//! A file is written without a name (`O_TMPFILE`), compared with the digest it
//! must have (unless that was taken in this run), synced, and only then given its name by one rename. A build that
//! is interrupted, killed or out of space leaves nothing behind. File systems
//! without `O_TMPFILE` (FAT, some network ones) get a hidden temporary name
//! instead; a leftover of that kind is removed by the next build.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use crate::cache::{DamagedEntry, Fingerprint, StageOutput, fingerprint_file};
use crate::scratch::Scratch;
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
    /// The cache entry that has the bytes.
    pub stage: Option<StageOutput>,
}

impl Artifact {
    /// An artifact held in memory.
    pub fn bytes(name: impl Into<String>, bytes: Vec<u8>) -> Artifact {
        let fingerprint = Fingerprint::of(&bytes);
        Artifact { name: name.into(), content: Content::bytes(bytes), fingerprint, stage: None }
    }

    /// An artifact that is a finished file of the cache.
    pub fn file(name: impl Into<String>, stage: &StageOutput, file: &str) -> Artifact {
        let fingerprint = stage.fingerprint(file).clone();
        let content = Content::file(&stage.unchecked_path(file), fingerprint.size);
        Artifact { name: name.into(), content, fingerprint, stage: Some(stage.clone()) }
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
/// alone. Returns the paths in the order given. A cache entry that is not what
/// was recorded is discarded.
/// The directory is there, see [`prepare`].
///
/// # Errors
/// When the directory cannot be made or written, or the content is not what the digest says.
pub fn publish(dir: &Path, artifacts: &[Artifact]) -> Result<Vec<PathBuf>> {
    remove_leftovers(dir)?;
    let mut pending = Vec::new();
    for artifact in artifacts {
        let path = dir.join(&artifact.name);
        if !is_current(&path, artifact) {
            let staged = stage(dir, artifact).with_context(|| format!("writing {}", path.display()))?;
            pending.push((staged, path));
        }
    }
    for (staged, path) in pending {
        staged.name(&path).with_context(|| format!("giving {} its name", path.display()))?;
    }
    Ok(artifacts.iter().map(|a| dir.join(&a.name)).collect())
}

/// Makes a directory of these files, by path in it, that appears under its name only
/// when all are written and synced. Modes are 0644 and 0755 whatever the umask.
///
/// # Errors
/// When there is something at `dir` but an empty directory, or the disk is full.
pub fn publish_directory(dir: &Path, files: &BTreeMap<String, Content>) -> Result<()> {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = dir.file_name().with_context(|| format!("{} is no name for a directory", dir.display()))?;
    let taken = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(e).with_context(|| format!("looking at {}", dir.display())),
    };
    ensure!(!taken, "{} is there already and not empty; remove it or name another directory", dir.display());
    fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    remove_leftovers(parent)?;
    // After a kill the next run removes it by its prefix.
    let staged =
        Scratch::at(parent.join(format!("{PREFIX}{}-{}", std::process::id(), name.to_string_lossy())))?;
    open_to_all(staged.path())?;
    for (path, content) in files {
        write_below(staged.path(), path, content)
            .with_context(|| format!("writing {}", dir.join(path).display()))?;
    }
    fs::rename(staged.path(), dir).with_context(|| format!("giving {} its name", dir.display()))
}

/// Gives a directory its mode, whatever the umask was.
fn open_to_all(path: &Path) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(0o755))
        .with_context(|| format!("changing the mode of {}", path.display()))
}

fn write_below(top: &Path, path: &str, content: &Content) -> Result<()> {
    let mut place = top.to_path_buf();
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        ensure!(!name.is_empty() && name != "." && name != "..", "`{path}` is no path in a directory");
        place.push(name);
        if names.peek().is_some() && !place.is_dir() {
            fs::create_dir(&place)?;
            open_to_all(&place)?;
        }
    }
    let mut file = File::create_new(&place)?;
    let copied = std::io::copy(&mut content.open()?, &mut file)?;
    ensure!(copied == content.len(), "{content} gave {copied} bytes");
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.sync_all().context("syncing to disk")
}

fn is_current(path: &Path, artifact: &Artifact) -> bool {
    let wanted = &artifact.fingerprint;
    let same_size = fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() == wanted.size);
    // A medium of another build tells by its first bytes, which saves reading it all.
    let alike = || Some(beginning(File::open(path).ok()?) == beginning(artifact.content.open().ok()?));
    same_size && alike() == Some(true) && fingerprint_file(path).is_ok_and(|found| found == *wanted)
}

/// The first 64 KiB, as far as they can be read: enough to hold an ISO's dates and ids.
fn beginning(reader: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What cannot be read is met again, and reported, when it is copied.
    let _ = reader.take(64 << 10).read_to_end(&mut bytes);
    bytes
}

/// A complete file that has no final name yet.
struct Staged {
    file: File,
    temporary: PathBuf,
    /// Whether `temporary` exists on disk and goes away with this value.
    named: bool,
}

const PREFIX: &str = ".liveiso-";

fn stage(dir: &Path, artifact: &Artifact) -> Result<Staged> {
    let mut staged = Staged::create(dir, &artifact.name)?;
    let found = match (&artifact.content, artifact.stage.as_ref().is_some_and(StageOutput::is_fresh)) {
        (Content::Slice { file, .. }, true) => copy_fresh(file, artifact, &mut staged.file)?,
        _ => copy(artifact, &mut staged.file)?,
    };
    if found != artifact.fingerprint {
        artifact.stage.iter().for_each(StageOutput::discard);
        return Err(DamagedEntry(PathBuf::from(&artifact.name)).into());
    }
    staged.file.sync_all().context("syncing to disk")?;
    Ok(staged)
}

/// The kernel copies; only the size can still be wrong.
fn copy_fresh(from: &Path, artifact: &Artifact, to: &mut File) -> Result<Fingerprint> {
    let mut from = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    let size = std::io::copy(&mut from, to)?;
    Ok(Fingerprint { size, ..artifact.fingerprint.clone() })
}

fn copy(artifact: &Artifact, to: &mut File) -> Result<Fingerprint> {
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
        to.write_all(&buffer[..n])?;
        size += n as u64;
    }
    Ok(Fingerprint { size, blake3: hasher.finalize().to_hex().to_string() })
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
            let path = entry.path();
            let removed =
                if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.with_context(|| format!("removing {}", path.display()))?;
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
        let error = publish(dir.path(), &[good, bad]).unwrap_err();
        assert!(error.is::<DamagedEntry>(), "{error:#}");
        assert_eq!(names(dir.path()), ["a.iso"]);
        assert_eq!(fs::read(dir.path().join("a.iso")).unwrap(), b"old");
    }

    #[test]
    fn a_file_of_the_cache_is_compared_unless_this_run_made_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = crate::cache::Cache::open(&dir.path().join("cache")).unwrap();
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let made = || cache.stage("s", &1, |dir| Ok(fs::write(dir.join("f"), vec![5; 100_000])?)).unwrap();
        let (fresh, hit) = (made(), made());
        assert_eq!((fresh.is_fresh(), hit.is_fresh()), (true, false));
        for (stage, name) in [(&fresh, "fresh"), (&hit, "hit"), (&hit, "hit")] {
            publish(&out, &[Artifact::file(name, stage, "f")]).unwrap();
            assert_eq!(fs::read(out.join(name)).unwrap(), [5; 100_000], "{name}");
        }
        // Same size; the difference is behind what is compared first.
        for (damage, name) in [(out.join("hit"), "hit"), (hit.unchecked_path("f"), "other")] {
            let mut bytes = vec![5; 100_000];
            bytes[99_999] = 6;
            fs::write(damage, bytes).unwrap();
            let published = publish(&out, &[Artifact::file(name, &hit, "f")]);
            match name {
                "hit" => assert_eq!(fs::read(&published.unwrap()[0]).unwrap(), [5; 100_000]),
                _ => assert!(published.unwrap_err().is::<DamagedEntry>()),
            }
        }
        assert_eq!(names(&out), ["fresh", "hit"]);
    }

    #[test]
    fn a_directory_appears_complete_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("netboot");
        let mut files = BTreeMap::from([
            ("a/b/c".to_string(), Content::bytes("c")),
            ("a/d".to_string(), Content::bytes("")),
        ]);
        fs::create_dir(dir.path().join(".liveiso-4294967295-netboot")).unwrap();
        files.insert("z".to_string(), Content::file(&dir.path().join("missing"), 5));
        publish_directory(&to, &files).unwrap_err();
        assert_eq!(names(dir.path()), Vec::<String>::new());
        for bad in ["../x", "a//b", "/x"] {
            let error = publish_directory(&to, &BTreeMap::from([(bad.to_string(), Content::bytes("x"))]));
            assert!(format!("{:#}", error.unwrap_err()).ends_with("is no path in a directory"), "{bad}");
        }
        files.remove("z");
        fs::create_dir(&to).unwrap();
        publish_directory(&to, &files).unwrap();
        assert_eq!(
            (names(&to), names(&to.join("a")), names(&to.join("a/b"))),
            (vec!["a".to_string()], vec!["b".to_string(), "d".to_string()], vec!["c".to_string()])
        );
        assert_eq!(fs::metadata(to.join("a/d")).unwrap().permissions().mode() & 0o777, 0o644);
        let error = publish_directory(&to, &files).unwrap_err().to_string();
        assert!(
            error.ends_with("is there already and not empty; remove it or name another directory"),
            "{error}"
        );
        assert_eq!(names(dir.path()), ["netboot"]);
    }

    #[test]
    fn an_artifact_replaces_an_older_one_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.iso"), "old").unwrap();
        fs::write(dir.path().join(".liveiso-4294967295-a.iso"), "half").unwrap();
        publish(dir.path(), &[Artifact::bytes("a.iso", b"new".to_vec())]).unwrap();
        assert_eq!(names(dir.path()), ["a.iso"]);
        assert_eq!(fs::read(dir.path().join("a.iso")).unwrap(), b"new");
    }
}
