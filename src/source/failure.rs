//! What can go wrong between us and an archive, told apart by reading apt's words.
//!
//! apt has one exit code (100) for every failure. It runs in the C locale, so
//! its messages are fixed strings; what is not recognised is passed on as it is.

use std::path::Path;

use crate::plan::AptSource;

/// The kinds of failure that callers or users react to differently, gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// The disk of the cache is full: no fault of the archive.
    DiskFull,
    /// Not signed, badly signed, or signed by an unknown or expired key.
    Signature,
    /// A downloaded file is not what the signed index (or index list) says.
    Mismatch,
    /// The signed Release file is older than it says it may be.
    Expired,
    /// The signed Release file comes from the future.
    NotYetValid,
    /// The archive answers and does not have the file or suite.
    NotFound,
    /// The archive answers and has this version of a package no longer.
    PackageGone,
    /// No answer: name, network, proxy or server.
    NoAnswer,
    /// Packages that cannot be installed together.
    Dependencies,
    /// Anything else, in apt's words.
    Other,
}

/// A failure of an archive. Its message names the object, the reason in apt's words and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveError {
    /// What happened.
    pub kind: FailureKind,
    /// The suite or package concerned, with its URI where known.
    pub object: String,
    /// apt's own words, on one line.
    pub words: String,
    /// Suites whose index mismatched, for [`super::Archive::open`]'s policy.
    pub(super) suites: Vec<String>,
}

impl FailureKind {
    fn reason(self) -> &'static str {
        match self {
            FailureKind::DiskFull => "there is no space left for the download",
            FailureKind::Signature => "the signature is missing, wrong or from an unknown key",
            FailureKind::Mismatch => "what the mirror sends does not match the signed hash",
            FailureKind::Expired => "the signed index has expired",
            FailureKind::NotYetValid => "the signed index comes from the future",
            FailureKind::NotFound | FailureKind::PackageGone => "the mirror does not have it",
            FailureKind::NoAnswer => "the mirror does not answer",
            FailureKind::Dependencies => "the packages cannot be installed together",
            FailureKind::Other => "apt failed",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            FailureKind::DiskFull => "free some space or choose another cache directory",
            FailureKind::Signature => {
                "install debian-archive-keyring, or name the keyring that signs this archive in the profile"
            }
            FailureKind::Mismatch => {
                "the mirror is being updated or is broken: try again later or name another mirror"
            }
            FailureKind::Expired => "name a mirror that is up to date, and check this computer's clock",
            FailureKind::NotYetValid => "check this computer's clock",
            FailureKind::NotFound => "check suite and mirror in the profile",
            FailureKind::PackageGone => {
                "move it to the current version with `liveiso lock PROFILE --update` and its name, or name a mirror that keeps old versions"
            }
            FailureKind::NoAnswer => "check the network, the proxy settings of apt, and the mirror's name",
            FailureKind::Dependencies => {
                "remove one of them from the profile, or add the suite that has what is missing"
            }
            FailureKind::Other => "try again, or name another mirror",
        }
    }
}

impl std::fmt::Display for ArchiveError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} ({}); {}", self.object, self.kind.reason(), self.words, self.kind.remedy())?;
        if self.kind == FailureKind::Mismatch && self.suites.iter().any(|suite| suite.ends_with("-security"))
        {
            write!(f, ", or set `security = \"preferred\"` to build without this suite until then")?;
        }
        Ok(())
    }
}

impl std::error::Error for ArchiveError {}

/// apt's phrases by kind, looked up in this order.
const PHRASES: &[(FailureKind, &[&str])] = &[
    (FailureKind::DiskFull, &["No space left on device", "enough free space", "Disk quota exceeded"]),
    (
        FailureKind::Signature,
        &[
            "NO_PUBKEY",
            "BADSIG",
            "EXPKEYSIG",
            "REVKEYSIG",
            "is not signed",
            "GPG error",
            "Clearsigned file isn't valid",
            "no longer signed",
            "signatures were invalid",
            "couldn't be verified",
        ],
    ),
    (FailureKind::Mismatch, &["unexpected size", "Hash Sum mismatch", "Mirror sync in progress"]),
    (FailureKind::Expired, &["is expired"]),
    (FailureKind::NotYetValid, &["is not valid yet", "not yet valid"]),
    (
        FailureKind::NotFound,
        &[
            "404",
            "does not have a Release file",
            "File not found",
            "No such file or directory",
            "doesn't have the component",
            "doesn't support architecture",
        ],
    ),
    (
        FailureKind::NoAnswer,
        &[
            "Could not resolve",
            "Temporary failure resolving",
            "Something wicked happened resolving",
            "Could not connect",
            "Cannot initiate the connection",
            "Unable to connect",
            "connection failed",
            "Connection failed",
            "Connection refused",
            "Connection timed out",
            "Connection reset",
            "Connection closed",
            "Error reading from server",
            "Could not handshake",
            "Network is unreachable",
            "No route to host",
            "403",
            "407",
            "500",
            "502",
            "503",
            "504",
        ],
    ),
];

fn kind_of(words: &str) -> FailureKind {
    // URIs are full of digits; an HTTP status stands between blanks.
    let padded = format!(" {words} ");
    let says = |phrase: &&str| match phrase.bytes().all(|b| b.is_ascii_digit()) {
        true => padded.contains(&format!(" {phrase} ")),
        false => padded.contains(phrase),
    };
    PHRASES.iter().find(|(_, phrases)| phrases.iter().any(says)).map_or(FailureKind::Other, |(kind, _)| *kind)
}

/// One `E:` or `W:` message with its continuation lines.
fn messages(stderr: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in stderr.lines() {
        match line
            .strip_prefix("E: ")
            .or_else(|| line.strip_prefix("W: "))
            .or_else(|| line.strip_prefix("Err: "))
        {
            Some(text) => found.push(text.trim().to_string()),
            None => {
                if let Some(last) = found.last_mut().filter(|_| line.starts_with(' ')) {
                    last.push_str("; ");
                    last.push_str(line.trim());
                }
            }
        }
    }
    found.retain(|m| !m.starts_with("Some index files failed to download") && m != "Download Failed");
    found
}

/// Reads a failed `apt-get update` for these sources.
pub fn of_update(stderr: &str, sources: &[AptSource]) -> ArchiveError {
    let mut messages = messages(stderr);
    // Warnings about the host say nothing about an archive.
    messages.retain(|m| kind_of(m) != FailureKind::Other || sources.iter().any(|s| concerns(m, s)));
    let kinds: Vec<FailureKind> = messages.iter().map(|m| kind_of(m)).collect();
    let kind = kinds.iter().copied().min().unwrap_or(FailureKind::Other);
    let gravest = messages.iter().zip(&kinds).find(|(_, k)| **k == kind).map(|(m, _)| m.as_str());
    let words = gravest.unwrap_or_else(|| stderr.trim()).to_string();
    let source = |message: &str| sources.iter().find(|s| concerns(message, s));
    // Only when every complaint is a mismatch of a known suite may a suite be left out.
    let suites: Option<Vec<String>> = messages
        .iter()
        .zip(&kinds)
        .map(|(m, k)| source(m).filter(|_| *k == FailureKind::Mismatch).map(|s| s.suite.clone()))
        .collect();
    ArchiveError {
        kind,
        object: source(&words)
            .map_or_else(|| "apt-get update".to_string(), |s| format!("suite {} of {}", s.suite, s.uri)),
        words: shortened(&words),
        suites: suites.unwrap_or_default(),
    }
}

/// Reads a failed download of packages.
pub fn of_download(stderr: &str, object: &str) -> ArchiveError {
    let messages = messages(stderr);
    let kind = messages.iter().map(|m| kind_of(m)).min().unwrap_or(FailureKind::Other);
    let words = messages.iter().find(|m| kind_of(m) == kind).map_or("no message", String::as_str);
    let kind = if kind == FailureKind::NotFound { FailureKind::PackageGone } else { kind };
    ArchiveError { kind, object: object.to_string(), words: shortened(words), suites: Vec::new() }
}

/// A download that would not fit.
pub fn no_space(dir: &Path, free: u64, wanted: u64) -> ArchiveError {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    ArchiveError {
        kind: FailureKind::DiskFull,
        object: dir.display().to_string(),
        words: format!("{} MiB are free, {} MiB are needed", free >> 20, mib(wanted)),
        suites: Vec::new(),
    }
}

/// Reads a failed resolution: the listed conflicts, else apt's error.
pub fn of_resolution(output: &str, object: &str) -> ArchiveError {
    let unmet: Vec<String> = output
        .lines()
        .skip_while(|line| !line.contains("unmet dependencies"))
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    let (kind, words) = if unmet.is_empty() {
        (FailureKind::Other, messages(output).join("; "))
    } else {
        (FailureKind::Dependencies, unmet.join("; "))
    };
    ArchiveError { kind, object: object.to_string(), words, suites: Vec::new() }
}

/// Whether a message of apt names this source: `URI/dists/SUITE/…` or `URI SUITE InRelease`.
fn concerns(message: &str, source: &AptSource) -> bool {
    let uri = source.uri.trim_end_matches('/');
    message.contains(&format!("{uri}/dists/{}/", source.suite))
        || message.contains(&format!("{uri} {} ", source.suite))
        || message.contains(&format!("{uri}/ {} ", source.suite))
}

/// Without the list of hashes and addresses, which the object names or nobody needs.
fn shortened(words: &str) -> String {
    let words = match words.strip_prefix("Failed to fetch ") {
        Some(rest) => rest.split_once(' ').map_or(rest, |(_uri, reason)| reason),
        None => words,
    };
    let end = [" [IP: ", "; Hashes of expected file"].iter().filter_map(|cut| words.find(cut)).min();
    let words = &words[..end.unwrap_or(words.len())];
    words.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Vec<AptSource> {
        ["bookworm", "bookworm-updates", "bookworm-security"]
            .map(|suite| AptSource {
                uri: format!("http://m/debian{}", if suite.ends_with("security") { "-security" } else { "" }),
                suite: suite.to_string(),
                components: vec!["main".to_string()],
                signed_by: "/k.gpg".into(),
            })
            .to_vec()
    }

    const MISMATCH: &str = "\
E: Failed to fetch http://m/debian-security/dists/bookworm-security/main/binary-i386/Packages.xz  File has unexpected size (346968 != 364028). Mirror sync in progress? [IP: 203.0.113.80 80]
   Hashes of expected file:
    - Filesize:364028 [weak]
    - SHA256:6e157f1958194f9c7838034860b1b3b58cdde3797653c03239134b98ec99cec6
   Release file created at: Fri, 20 Nov 2026 00:12:41 +0000
E: Some index files failed to download. They have been ignored, or old ones used instead.
";

    #[test]
    fn phrases_that_no_test_can_provoke_are_known() {
        let fetch = "E: Failed to fetch http://m/debian/dists/bookworm/InRelease  ";
        for (words, kind) in [
            ("Error writing to file - write (28: No space left on device)", FailureKind::DiskFull),
            ("Could not resolve 'm'", FailureKind::NoAnswer),
            ("Temporary failure resolving 'm'", FailureKind::NoAnswer),
            ("Connection timed out [IP: 192.0.2.1 80]", FailureKind::NoAnswer),
            ("503  Service Unavailable [IP: 192.0.2.1 80]", FailureKind::NoAnswer),
            ("404  Not Found [IP: 192.0.2.1 80]", FailureKind::NotFound),
            (
                "File has unexpected size (1 != 2). Mirror sync in progress? [IP: 192.0.2.1 80]",
                FailureKind::Mismatch,
            ),
            ("something new", FailureKind::Other),
        ] {
            assert_eq!(of_update(&format!("{fetch}{words}\n"), &sources()).kind, kind, "{words}");
        }
        assert_eq!(
            no_space(Path::new("/c"), 3 << 20, (4 << 20) + 1).to_string(),
            "/c: there is no space left for the download (3 MiB are free, 5 MiB are needed); free some space or choose another cache directory"
        );
    }

    #[test]
    fn a_mismatch_names_the_suites_it_is_about() {
        let other = "E: Failed to fetch http://m/debian/dists/bookworm/InRelease  Could not resolve 'm'\n";
        assert_eq!(of_update(MISMATCH, &sources()).suites, ["bookworm-security"]);
        assert_eq!(of_update(&format!("{MISMATCH}{other}"), &sources()).suites, [""; 0]);
    }
}
