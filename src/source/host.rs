//! Which mirrors the host's apt configuration names for a Debian suite.
//!
//! `apt-get indextargets` knows each source's origin and code name once indexes
//! were downloaded; before that the sources.list files are read as text.
//! Third-party archives are no mirrors of Debian and are left alone. No mirror
//! is built in: without configuration the profile has to name one.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::deb822::stanzas;
use crate::host::Tool;
use crate::plan::AptSource;

/// The keyring of Debian's archives, from the package debian-archive-keyring.
pub const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What becomes of `<suite>-security` (and `<suite>-updates`) when its index is out of step with its signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecurityPolicy {
    /// It is an error.
    Required,
    /// The suite is left out with a warning.
    #[default]
    Preferred,
    /// The security suite is not used at all.
    None,
}

/// The sources found, and what was asked for and not found.
#[derive(Clone, Debug, PartialEq)]
pub struct HostSources {
    /// `<suite>`, `<suite>-updates`, `<suite>-security`, as far as wanted and found.
    pub sources: Vec<AptSource>,
    /// Suites without a mirror, with the reason in words.
    pub left_out: Vec<String>,
}

/// One suite at one mirror, as the host knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    uri: String,
    suite: String,
}

/// Sources for a suite and its updates: from the profile's `mirror`, or the host's apt configuration.
///
/// With a `mirror` but no `security_mirror`, security updates are expected
/// beside it, as Debian's own mirrors have them: `…/debian` and `…/debian-security`.
///
/// # Errors
/// When no mirror is known, or no security mirror although it is required.
pub fn host_sources(
    suite: &str,
    components: &[String],
    security: SecurityPolicy,
    mirror: Option<&str>,
    security_mirror: Option<&str>,
) -> Result<HostSources> {
    let known = match (mirror, security_mirror) {
        (Some(_), Some(_)) => Vec::new(),
        _ => known_to_host()?,
    };
    choose(&known, suite, components, security, mirror, security_mirror)
}

/// Sources of a lock file, which names no mirror: from the profile's, else without
/// a URI, so that [`super::fetch`] asks the host should it have to download.
pub fn locked_sources(
    suites: &[(String, Vec<String>)],
    mirror: Option<&str>,
    security_mirror: Option<&str>,
) -> Vec<AptSource> {
    let beside = mirror.map(|m| format!("{}-security", m.trim_end_matches('/')));
    let security = security_mirror.or(beside.as_deref());
    let source = |(suite, components): &(String, Vec<String>)| AptSource {
        uri: if suite.ends_with("-security") { security } else { mirror }.unwrap_or_default().to_string(),
        suite: suite.clone(),
        components: components.clone(),
        signed_by: PathBuf::from(DEBIAN_KEYRING),
    };
    suites.iter().map(source).collect()
}

/// Fills in the host's mirrors where a source has no URI.
pub(super) fn with_mirrors(sources: &[AptSource]) -> Result<Vec<AptSource>> {
    if sources.iter().all(|source| !source.uri.is_empty()) {
        return Ok(sources.to_vec());
    }
    let known = known_to_host()?;
    let mut sources = sources.to_vec();
    for source in sources.iter_mut().filter(|source| source.uri.is_empty()) {
        let mirror = mirror_of(&known, &source.suite).with_context(|| {
            format!("suite {}: apt's sources name no mirror of it; name one in the profile", source.suite)
        })?;
        source.uri = mirror.trim_end_matches('/').to_string();
    }
    Ok(sources)
}

fn choose(
    known: &[Known],
    suite: &str,
    components: &[String],
    security: SecurityPolicy,
    mirror: Option<&str>,
    security_mirror: Option<&str>,
) -> Result<HostSources> {
    let source = |uri: &str, suite: &str| AptSource {
        uri: uri.trim_end_matches('/').to_string(),
        suite: suite.to_string(),
        components: components.to_vec(),
        signed_by: PathBuf::from(DEBIAN_KEYRING),
    };
    let main = mirror.or_else(|| mirror_of(known, suite)).with_context(|| {
        format!("suite {suite}: apt's sources name no Debian mirror; name one in the profile, `mirror = \"http://…/debian\"`")
    })?;
    let updates = format!("{suite}-updates");
    let mut found =
        HostSources { sources: vec![source(main, suite), source(main, &updates)], left_out: Vec::new() };
    if security == SecurityPolicy::None {
        return Ok(found);
    }
    let wanted = format!("{suite}-security");
    let beside = mirror.map(|m| format!("{}-security", m.trim_end_matches('/')));
    match security_mirror.or(beside.as_deref()).or_else(|| mirror_of(known, &wanted)) {
        Some(uri) => found.sources.push(source(uri, &wanted)),
        None if security == SecurityPolicy::Required => bail!(
            "suite {wanted}: apt's sources name no mirror of it, and the profile says `security = \"required\"`; name one with `security-mirror`"
        ),
        None => found.left_out.push(format!("{wanted}: apt's sources name no mirror of it")),
    }
    Ok(found)
}

/// A mirror of exactly this suite, else of another release's counterpart: Debian's mirrors carry all.
fn mirror_of<'k>(known: &'k [Known], suite: &str) -> Option<&'k str> {
    let security = suite.ends_with("-security");
    let exact = known.iter().find(|k| k.suite == suite);
    let alike = || known.iter().find(|k| k.suite.ends_with("-security") == security);
    exact.or_else(alike).map(|k| k.uri.as_str())
}

fn known_to_host() -> Result<Vec<Known>> {
    let tool = Tool::new("apt-get", "finding the Debian mirror")?;
    let format = "$(ORIGIN)\t$(REPO_URI)\t$(CODENAME)";
    let listed = tool.args(["indextargets", "--format", format, "Created-By: Packages"]).capture()?;
    let known = from_index_targets(&String::from_utf8_lossy(&listed.stdout));
    if !known.is_empty() {
        return Ok(known);
    }
    from_files(Path::new("/etc/apt"))
}

fn from_index_targets(listed: &str) -> Vec<Known> {
    let row = |line: &str| {
        let mut columns = line.split('\t');
        let (origin, uri, suite) = (columns.next()?, columns.next()?, columns.next()?);
        let debian = origin == "Debian" && !uri.starts_with("cdrom:") && !suite.is_empty();
        debian.then(|| Known { uri: uri.to_string(), suite: suite.to_string() })
    };
    listed.lines().filter_map(row).collect()
}

/// Reads `sources.list`, `sources.list.d/*.list` and `*.sources` below `etc`.
fn from_files(etc: &Path) -> Result<Vec<Known>> {
    let parts = etc.join("sources.list.d");
    let mut paths = vec![etc.join("sources.list")];
    if parts.is_dir() {
        let entries = std::fs::read_dir(&parts).with_context(|| format!("reading {}", parts.display()))?;
        let mut found = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        found.sort();
        paths.extend(found);
    }
    let mut known = Vec::new();
    for path in paths.iter().filter(|path| path.is_file()) {
        let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let text = String::from_utf8_lossy(&text);
        match path.extension().and_then(|e| e.to_str()) {
            Some("list") => known.extend(from_lines(&text)),
            Some("sources") => known.extend(from_stanzas(&text)),
            _ => {}
        }
    }
    Ok(known)
}

/// One-line style: `deb [ option=value … ] uri suite component …`.
fn from_lines(text: &str) -> Vec<Known> {
    let parse = |line: &str| {
        let line = line.split('#').next()?.trim();
        let mut rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
        let mut signed_by = String::new();
        if let Some(inner) = rest.strip_prefix('[') {
            let (options, after) = inner.split_once(']')?;
            let option = |o: &str| o.strip_prefix("signed-by=").map(str::to_string);
            signed_by = options.split_whitespace().find_map(option).unwrap_or_default();
            rest = after;
        }
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        let main = words.any(|component| component == "main");
        (main && looks_like_debian(uri, &signed_by))
            .then(|| Known { uri: uri.to_string(), suite: suite.to_string() })
    };
    text.lines().filter_map(parse).collect()
}

fn from_stanzas(text: &str) -> Vec<Known> {
    let mut known = Vec::new();
    for stanza in stanzas(text) {
        let words = |field: &str| stanza.folded(field).unwrap_or_default();
        let has = |field: &str, word: &str| words(field).split(' ').any(|w| w == word);
        let enabled =
            !matches!(words("Enabled").as_str(), "no" | "false" | "off" | "0" | "without" | "disable");
        if !enabled || !has("Types", "deb") || !has("Components", "main") {
            continue;
        }
        for uri in words("URIs").split_whitespace().filter(|uri| looks_like_debian(uri, &words("Signed-By")))
        {
            let suites = words("Suites");
            let suites = suites.split_whitespace();
            known.extend(suites.map(|suite| Known { uri: uri.to_string(), suite: suite.to_string() }));
        }
    }
    known
}

/// Without an index nobody knows an archive's origin; Debian's mirrors end in
/// `debian` or `debian-security` and are signed by Debian's keys. A wrong guess
/// fails at the signature.
fn looks_like_debian(uri: &str, signed_by: &str) -> bool {
    let last = uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let ours = signed_by.is_empty() || signed_by.contains("debian-archive");
    ours && !uri.starts_with("cdrom:") && uri.contains(':') && matches!(last, "debian" | "debian-security")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(pairs: &[(&str, &str)]) -> Vec<Known> {
        pairs.iter().map(|(uri, suite)| Known { uri: uri.to_string(), suite: suite.to_string() }).collect()
    }

    #[test]
    fn one_line_sources_are_read() {
        for (line, expected) in [
            ("deb http://m/debian bookworm main", Some(("http://m/debian", "bookworm"))),
            ("  deb\thttp://m/debian/ bookworm contrib main # note", Some(("http://m/debian/", "bookworm"))),
            (
                "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] https://m/debian-security s main",
                Some(("https://m/debian-security", "s")),
            ),
            ("deb [ signed-by=/etc/apt/keyrings/docker.asc ] https://d/linux/debian bookworm main", None),
            ("deb https://d/linux/debian bookworm stable", None),
            ("deb https://p/apt cloud main", None),
            ("deb cdrom:[Debian 12]/debian bookworm main", None),
            ("deb-src http://m/debian bookworm main", None),
            ("# deb http://m/debian bookworm main", None),
            ("deb [unclosed http://m/debian bookworm main", None),
            ("deb", None),
            ("deb http://m/debian", None),
            ("", None),
        ] {
            assert_eq!(from_lines(line), known(expected.as_slice()), "{line}");
        }
    }

    #[test]
    fn deb822_sources_are_read() {
        let text = "\
# comment
Types: deb deb-src
URIs: http://m/debian
 http://n/debian
Suites: bookworm
# in between
 bookworm-updates
Components: main contrib

Enabled: no
Types: deb
URIs: http://off/debian
Suites: x
Components: main

Types: deb
URIs: https://third/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
";
        let expected = known(&[
            ("http://m/debian", "bookworm"),
            ("http://m/debian", "bookworm-updates"),
            ("http://n/debian", "bookworm"),
            ("http://n/debian", "bookworm-updates"),
        ]);
        assert_eq!(from_stanzas(text), expected);
    }

    #[test]
    fn files_are_read_in_apts_order() {
        let etc = tempfile::tempdir().unwrap();
        let parts = etc.path().join("sources.list.d");
        assert_eq!(from_files(etc.path()).unwrap(), []);
        std::fs::create_dir(&parts).unwrap();
        std::fs::write(etc.path().join("sources.list"), "deb http://a/debian s main").unwrap();
        std::fs::write(parts.join("z.list"), "deb http://z/debian s main").unwrap();
        std::fs::write(
            parts.join("b.sources"),
            "Types: deb\nURIs: http://b/debian\nSuites: s\nComponents: main",
        )
        .unwrap();
        std::fs::write(parts.join("old.save"), "deb http://x/debian s main").unwrap();
        let expected = known(&[("http://a/debian", "s"), ("http://b/debian", "s"), ("http://z/debian", "s")]);
        assert_eq!(from_files(etc.path()).unwrap(), expected);
    }

    #[test]
    fn only_debian_counts_among_index_targets() {
        let listed = "Debian\thttp://m/debian/\tbookworm\nNode\thttp://n/\tnodistro\nDebian\tcdrom:[x]/\tbookworm\nDebian\n";
        assert_eq!(from_index_targets(listed), known(&[("http://m/debian/", "bookworm")]));
    }

    #[test]
    fn mirrors_are_chosen_by_suite_then_by_kind() {
        use SecurityPolicy::{None as Without, Preferred, Required};
        let bookworm =
            known(&[("http://m/debian/", "bookworm"), ("http://m/debian-security/", "bookworm-security")]);
        let trixie = known(&[("http://t/debian", "trixie"), ("http://t/sec", "trixie-security")]);
        let plain = known(&[("http://m/debian", "bookworm")]);
        let (m, u, s) = ("http://m/debian bookworm", "http://m/debian bookworm-updates", "bookworm-security");
        for (known, policy, mirror, security_mirror, expected, left_out) in [
            (
                &bookworm,
                Preferred,
                None,
                None,
                vec![m.into(), u.into(), format!("http://m/debian-security {s}")],
                "",
            ),
            (&bookworm, Without, None, None, vec![m.into(), u.into()], ""),
            (
                &trixie,
                Required,
                None,
                None,
                vec![
                    "http://t/debian bookworm".into(),
                    "http://t/debian bookworm-updates".into(),
                    format!("http://t/sec {s}"),
                ],
                "",
            ),
            (
                &plain,
                Preferred,
                None,
                None,
                vec![m.into(), u.into()],
                "bookworm-security: apt's sources name no mirror of it",
            ),
            (
                &trixie,
                Required,
                Some("http://m/debian/"),
                None,
                vec![m.into(), u.into(), format!("http://m/debian-security {s}")],
                "",
            ),
            (
                &trixie,
                Required,
                Some("http://m/debian"),
                Some("http://s"),
                vec![m.into(), u.into(), format!("http://s {s}")],
                "",
            ),
        ] {
            let found = choose(known, "bookworm", &["main".into()], policy, mirror, security_mirror).unwrap();
            let shown: Vec<String> = found.sources.iter().map(|s| format!("{} {}", s.uri, s.suite)).collect();
            assert_eq!((shown, found.left_out.join("")), (expected, left_out.to_string()));
        }
        let refused = |known: &[Known], policy| {
            choose(known, "bookworm", &["main".into()], policy, None, None).unwrap_err().to_string()
        };
        assert_eq!(
            refused(&[], Without),
            "suite bookworm: apt's sources name no Debian mirror; name one in the profile, `mirror = \"http://…/debian\"`"
        );
        assert_eq!(
            refused(&plain, Required),
            "suite bookworm-security: apt's sources name no mirror of it, and the profile says `security = \"required\"`; name one with `security-mirror`"
        );
    }
}
