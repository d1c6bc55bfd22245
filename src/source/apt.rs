//! apt with private state: rootless, without the host's dpkg database.
//!
//! ```text
//! <cache>/v1/apt/<digest>/     one directory per architecture and sources
//!   lock  apt.conf  status (empty)  etc/sources.list.d/  state/lists/  cache/
//! ```
//! `APT_CONFIG` names our apt.conf; it points every directory here, so the
//! host's sources, preferences, hooks and lists have no say. Kept from the host
//! are the settings about reaching a mirror (proxies, retries, certificates)
//! and the user's passwords for it. Valid-Until is always checked. apt does not
//! count itself as essential here (`ForceEssential`): a live root needs none.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::deb822::stanzas;
use super::failure;
use crate::cache::{Cache, digest_file, hex_sha256};
use crate::format::civil::parse_rfc1123;
use crate::host::Tool;
use crate::plan::{AptSource, Arch, TIMESTAMPS};

/// Prefixes of host settings that say how to reach a mirror.
const NETWORK_SETTINGS: &[&str] =
    &["Acquire::http", "Acquire::https", "Acquire::socks", "Acquire::Retries", "Acquire::ForceIPv"];

/// What the indexes of a release and its updates take, unpacked and as apt's binary cache (bytes).
const INDEX_SPACE: u64 = 200 << 20;

/// apt's private state for one architecture and list of sources, locked while this lives.
#[derive(Debug)]
pub struct Apt {
    dir: PathBuf,
    sources: Vec<AptSource>,
    _lock: File,
}

impl Apt {
    /// Makes (or finds) the state directory and waits until no other build uses it.
    ///
    /// # Errors
    /// Illegal sources, a missing apt, trouble with the cache directory.
    pub fn open(cache: &Cache, arch: Arch, sources: &[AptSource]) -> Result<Apt> {
        sources.iter().try_for_each(check_source)?;
        let key = serde_json::to_vec(&(arch, sources)).context("serialising the sources")?;
        let dir = cache.subdir("apt").join(&hex_sha256(&key)[..32]);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let lock_path = dir.join("lock");
        let lock = File::create(&lock_path).with_context(|| format!("creating {}", lock_path.display()))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive)
            .with_context(|| format!("locking {}", lock_path.display()))?;
        write_state(&dir, arch, sources)?;
        Ok(Apt { dir, sources: sources.to_vec(), _lock: lock })
    }

    /// The sources this state was made for.
    pub fn sources(&self) -> &[AptSource] {
        &self.sources
    }

    /// An apt program that sees only this state.
    ///
    /// # Errors
    /// When it is not installed.
    pub fn tool(&self, program: &str, purpose: &str) -> Result<Tool> {
        Ok(Tool::bound(program, purpose)?.env("APT_CONFIG", self.dir.join("apt.conf")))
    }

    /// Brings the indexes up to date, verified by apt; any failure is an error.
    ///
    /// # Errors
    /// [`failure::ArchiveError`].
    pub fn update(&self) -> Result<()> {
        check_space(&self.dir, INDEX_SPACE)?;
        let tool = self.tool("apt-get", "reading the package index")?;
        // The binary cache is made when something is looked up, not before.
        let output = tool.args(["update", "-qq", "--error-on=any", "-o", "pkgCacheFile::Generate=false"]);
        let output = output.capture()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(failure::of_update(&stderr, &self.sources).into());
        }
        Ok(())
    }

    /// Newest `Date` of the Release files of all sources, in seconds since 1970-01-01 UTC.
    /// The lists are of no other source: the state's directory is named after its sources.
    ///
    /// # Errors
    /// When there is no Release file, or one without a legal date.
    pub fn released(&self) -> Result<i64> {
        let releases = self.releases()?;
        let dates = releases.iter().map(|path| release_date(path)).collect::<Result<Vec<_>>>()?;
        dates.into_iter().max().context("apt left no Release file")
    }

    /// SHA-256 of each Release file by name. They are signed, and name the digests
    /// of all indexes: as long as these stay, so does every answer.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn release_digests(&self) -> Result<BTreeMap<String, String>> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.releases()?.iter().map(|path| Ok((name(path), digest_file(path)?.sha256))).collect()
    }

    /// The Release files of all sources, sorted.
    fn releases(&self) -> Result<Vec<PathBuf>> {
        let lists = self.dir.join("state/lists");
        let mut found = Vec::new();
        for entry in fs::read_dir(&lists).with_context(|| format!("reading {}", lists.display()))? {
            let path = entry.with_context(|| format!("reading {}", lists.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with("_InRelease") || name.ends_with("_Release") {
                found.push(path);
            }
        }
        found.sort();
        Ok(found)
    }

    /// Makes apt choose these versions wherever the index has them (apt_preferences(5)).
    ///
    /// # Errors
    /// Trouble with writing.
    pub fn prefer(&self, versions: &[(&str, &str)]) -> Result<()> {
        let path = self.dir.join("etc/preferences.d/locked.pref");
        // More than 1000: also when that is a downgrade of what apt would choose.
        let pin = |(name, version): &(&str, &str)| {
            format!("Package: {name}\nPin: version {version}\nPin-Priority: 1001\n\n")
        };
        let text: String = versions.iter().map(pin).collect();
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Path and suite of every Packages index, in the order of the sources.
    ///
    /// # Errors
    /// When apt does not list them.
    pub fn indexes(&self) -> Result<Vec<(PathBuf, String)>> {
        let tool = self.tool("apt-get", "finding the package index")?;
        let format = "$(FILENAME)\t$(RELEASE)";
        let listed = tool.args(["indextargets", "--format", format, "Created-By: Packages"]).output()?;
        let listed = String::from_utf8(listed).context("reading the list of indexes")?;
        let rows = listed.lines().filter_map(|line| line.split_once('\t'));
        let mut found: Vec<(PathBuf, String)> =
            rows.map(|(path, suite)| (PathBuf::from(path), suite.to_string())).collect();
        // A source without a Packages file for a component is legal; the file is then absent.
        found.retain(|(path, _)| path.is_file());
        let rank = |suite: &str| self.sources.iter().position(|s| s.suite == suite);
        found.sort_by(|a, b| (rank(&a.1), &a.0).cmp(&(rank(&b.1), &b.0)));
        Ok(found)
    }
}

fn release_date(path: &Path) -> Result<i64> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    // In an InRelease file the first stanza is the signature's header.
    let date = stanzas(&text).find_map(|stanza| stanza.get("Date")).unwrap_or_default();
    parse_rfc1123(date).filter(|time| TIMESTAMPS.contains(time)).with_context(|| {
        format!("{}: `{}` is no date of a Release file", path.display(), date.escape_debug())
    })
}

/// Refuses to start a download of `bytes` that has no room: on a full disk
/// apt 2.6 waits for its http method for ever.
///
/// # Errors
/// [`failure::ArchiveError`] of kind `DiskFull`.
pub fn check_space(dir: &Path, bytes: u64) -> Result<()> {
    let found =
        rustix::fs::statvfs(dir).with_context(|| format!("reading the free space of {}", dir.display()))?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free >= bytes {
        return Ok(());
    }
    Err(failure::no_space(dir, free, bytes).into())
}

/// Writes apt.conf, an empty dpkg database and the sources below `dir`; returns the path of apt.conf.
///
/// # Errors
/// A directory apt cannot work in, trouble with writing.
pub fn write_state(dir: &Path, arch: Arch, sources: &[AptSource]) -> Result<PathBuf> {
    // apt warns about each of these that is missing.
    for sub in ["state/lists/partial", "cache/archives/partial", "log"].into_iter().chain([
        "etc/apt.conf.d",
        "etc/preferences.d",
        "etc/sources.list.d",
        "etc/trusted.gpg.d",
    ]) {
        let path = dir.join(sub);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
    }
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    };
    write("status", "")?;
    write("etc/sources.list.d/liveiso.sources", &sources_text(sources))?;
    write("apt.conf", &configuration(dir, arch)?)?;
    Ok(dir.join("apt.conf"))
}

/// An apt.conf that keeps everything below `dir`.
fn configuration(dir: &Path, arch: Arch) -> Result<String> {
    let shown = dir.to_str().filter(|d| !d.contains(['"', '\\', '\n']));
    let dir = shown.with_context(|| {
        format!(
            "{}: apt cannot work in a directory of this name; choose another cache directory",
            dir.display()
        )
    })?;
    let arch = arch.debian_name();
    let mut text = format!(
        r#"Dir "{dir}";
Dir::State "{dir}/state";
Dir::State::status "{dir}/status";
Dir::Cache "{dir}/cache";
Dir::Log "{dir}/log";
Dir::Etc "{dir}/etc";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
APT::Architecture "{arch}";
#clear APT::Architectures;
APT::Architectures {{ "{arch}"; }};
APT::Sandbox::User "";
APT::Install-Recommends "false";
pkgCacheGen::ForceEssential ",";
Acquire::Languages "none";
Acquire::GzipIndexes "false";
Acquire::Check-Valid-Until "true";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
"#
    );
    text.push_str(&network_settings()?);
    Ok(text)
}

/// The host's settings about reaching mirrors, as apt.conf lines.
fn network_settings() -> Result<String> {
    let dump = Tool::new("apt-config", "reading the host's proxy settings")?.arg("dump").output()?;
    let dump = String::from_utf8_lossy(&dump);
    let ours = |line: &&str| {
        let plain = line.ends_with("\";") && line.matches('"').count() == 2;
        plain && NETWORK_SETTINGS.iter().any(|prefix| line.starts_with(prefix))
    };
    Ok(dump.lines().filter(ours).fold(String::new(), |text, line| text + line + "\n"))
}

fn check_source(source: &AptSource) -> Result<()> {
    let word = |s: &str| !s.is_empty() && s.chars().all(|c| !c.is_whitespace() && !c.is_control());
    let suite = |s: &str| word(s) && !s.starts_with(['-', '/']) && !s.ends_with('/') && !s.contains("..");
    let AptSource { uri, components, signed_by, .. } = source;
    ensure!(word(uri) && uri.contains(':'), "`{}` is no URI of a Debian mirror", uri.escape_debug());
    ensure!(suite(&source.suite), "`{}` is no suite", source.suite.escape_debug());
    ensure!(!components.is_empty(), "suite {}: no component is named; `main` is the usual one", source.suite);
    for component in components {
        ensure!(suite(component), "`{}` is no component", component.escape_debug());
    }
    let keyring = signed_by.to_str().filter(|path| word(path) && path.starts_with('/'));
    ensure!(
        keyring.is_some_and(|_| signed_by.is_file()),
        "the keyring {} of suite {} does not exist; install debian-archive-keyring or name another one",
        signed_by.display(),
        source.suite
    );
    Ok(())
}

/// deb822-style sources (sources.list(5)).
fn sources_text(sources: &[AptSource]) -> String {
    let mut text = String::new();
    for AptSource { uri, suite, components, signed_by } in sources {
        let components = components.join(" ");
        writeln!(
            text,
            "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {components}\nSigned-By: {}\n",
            signed_by.display()
        )
        .expect("writing to a String");
    }
    text
}
