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

use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::failure;
use crate::cache::{Cache, hex_sha256};
use crate::host::Tool;
use crate::plan::{AptSource, Arch};

/// Prefixes of host settings that say how to reach a mirror.
const NETWORK_SETTINGS: &[&str] =
    &["Acquire::http", "Acquire::https", "Acquire::socks", "Acquire::Retries", "Acquire::ForceIPv"];

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
        Ok(Tool::new(program, purpose)?.env("APT_CONFIG", self.dir.join("apt.conf")))
    }

    /// Brings the indexes up to date, verified by apt; any failure is an error.
    ///
    /// # Errors
    /// [`failure::ArchiveError`].
    pub fn update(&self) -> Result<()> {
        let tool = self.tool("apt-get", "reading the package index")?;
        let output = tool.args(["update", "-qq", "--error-on=any"]).capture()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            return Err(failure::of_update(&stderr, &self.sources).into());
        }
        Ok(())
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
