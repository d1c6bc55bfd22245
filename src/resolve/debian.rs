//! `[debian]`: the archive the packages come from.

use serde::Serialize;

use super::value::{choose, without_duplicates};
use crate::diagnostic::{Diagnostics, alternatives};
use crate::profile::{DebianTable, Text};
use crate::source::SecurityPolicy;

/// Releases whose boot loader packages are known and whose keys Debian's keyring has; sid has neither security nor updates.
const SUITES: &[(&str, &str)] =
    &[("bookworm", "bookworm"), ("trixie", "trixie"), ("forky", "forky"), ("sid", "sid")];

/// Names that mean another release every two years.
const MOVING_SUITES: &[&str] = &["stable", "oldstable", "oldoldstable", "testing", "unstable"];

/// Which archive is asked, before it is known what the mirror really has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ArchiveRequest {
    /// Code name of the release.
    pub suite: String,
    /// Base URI, or `None` for the one of the host's apt configuration.
    pub mirror: Option<String>,
    /// Base URI of the security archive, or `None` for the one beside the mirror or the host's.
    pub security_mirror: Option<String>,
    /// `main`, `contrib`, …, in the order written.
    pub components: Vec<String>,
    /// What to do about `<suite>-security`.
    pub security: SecurityPolicy,
    /// Whether `<suite>-updates` is used as well.
    pub updates: bool,
}

/// The request, and whether it makes sense to ask it.
pub(super) fn archive(table: &DebianTable, diagnostics: &mut Diagnostics) -> (ArchiveRequest, bool) {
    let suite = match &table.suite {
        Some(written) => suite(written, diagnostics),
        None => Some("bookworm"),
    };
    let address = |key: &str, written: &Option<Text>, diagnostics: &mut Diagnostics| match written {
        Some(written) => address(key, written, diagnostics).map(Some),
        None => Some(None),
    };
    let mirror = address("mirror", &table.mirror, diagnostics);
    let security_mirror = address("security-mirror", &table.security_mirror, diagnostics);
    let components = match &table.components {
        Some(written) => components(&written.value, &written.place, diagnostics),
        None => Some(vec!["main".to_string()]),
    };
    let choices = [
        ("preferred", SecurityPolicy::Preferred),
        ("required", SecurityPolicy::Required),
        ("none", SecurityPolicy::None),
    ];
    let written = table.security.as_ref();
    let security = written.and_then(|s| choose(s, "value of `security`", &choices, diagnostics));
    let is_valid = suite.is_some() && mirror.is_some() && security_mirror.is_some() && components.is_some();
    let request = ArchiveRequest {
        suite: suite.unwrap_or_default().to_string(),
        mirror: mirror.flatten(),
        security_mirror: security_mirror.flatten(),
        components: components.unwrap_or_default(),
        security: security.unwrap_or(SecurityPolicy::Preferred),
        updates: table.updates.as_ref().is_none_or(|u| u.value),
    };
    (request, is_valid)
}

pub(super) fn suite(written: &Text, diagnostics: &mut Diagnostics) -> Option<&'static str> {
    if MOVING_SUITES.contains(&written.value.as_str()) {
        let names: Vec<&str> = SUITES.iter().map(|(name, _)| *name).collect();
        diagnostics
            .error(&written.place, format!("`{}` means another release every few years", written.value))
            .help(format!("name the release: {}", alternatives(&names)));
        return None;
    }
    choose(written, "suite", SUITES, diagnostics)
}

/// The address ends up in a sources list, where spaces and brackets would be
/// options such as `[trusted=yes]`, and in the manifest, which strangers read.
fn address(key: &str, written: &Text, diagnostics: &mut Diagnostics) -> Option<String> {
    let text = written.value.as_str();
    let rest = ["http://", "https://", "file:///"].iter().find_map(|scheme| text.strip_prefix(scheme));
    let (message, help) = match rest {
        None => (format!("`{key}` must start with http://, https:// or file:///"), None),
        Some("") => (format!("`{key}` names no host or directory"), None),
        Some(rest) if rest.split('/').next().is_some_and(|host| host.contains('@')) => (
            format!("`{key}` must not hold a user name or password: it is printed in the plan"),
            Some("put them into apt's /etc/apt/auth.conf.d/"),
        ),
        Some(rest) => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~/:%+@".contains(c);
            let Some(bad) = rest.chars().find(|&c| !allowed(c)) else {
                return Some(text.trim_end_matches('/').to_string());
            };
            (format!("`{key}` must be a plain address, but {bad:?} is not allowed"), None)
        }
    };
    let diagnostic = diagnostics.error(&written.place, message);
    if let Some(help) = help {
        diagnostic.help(help);
    }
    None
}

fn components(
    written: &[Text],
    place: &crate::diagnostic::Place,
    diagnostics: &mut Diagnostics,
) -> Option<Vec<String>> {
    let choices = ["main", "contrib", "non-free", "non-free-firmware"].map(|c| (c, ()));
    let known = written.iter().filter(|c| choose(c, "component", &choices, diagnostics).is_some()).count();
    if written.is_empty() {
        diagnostics.error(place, "`components` is empty").help("leave it out to get `main`");
        return None;
    }
    let names = without_duplicates(written, "component", diagnostics);
    (known == written.len()).then(|| names.into_iter().map(|(name, _)| name).collect())
}
