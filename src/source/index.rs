//! The packages an archive offers: its verified Packages indexes, parsed.
//!
//! Packages files are defined in the Debian Repository Format. apt has checked
//! their hashes against the signed InRelease file; they are still parsed as
//! bytes from outside: a stanza without its required fields is an error, and
//! nothing here becomes a path or a command without [`legal_name`] and friends.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};

use super::deb822::{Stanza, stanzas};
use crate::plan::Package;

/// One version of a package, with what resolution needs beyond the pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The pinned package.
    pub package: Package,
    /// `Depends` and `Pre-Depends` as written, joined by commas.
    pub depends: String,
}

/// Every package of an archive by name.
#[derive(Clone, Debug, Default)]
pub struct Index {
    packages: BTreeMap<String, Vec<Candidate>>,
    provided: BTreeMap<String, BTreeSet<String>>,
}

impl Index {
    /// Adds one Packages file of `suite`.
    ///
    /// # Errors
    /// Stanzas that lack a required field or hold an illegal one, by number.
    pub fn add(&mut self, text: &str, suite: &str) -> Result<()> {
        for (number, stanza) in stanzas(text).enumerate() {
            self.add_stanza(stanza, suite)
                .with_context(|| format!("reading stanza {} of the Packages index of {suite}", number + 1))?;
        }
        Ok(())
    }

    fn add_stanza(&mut self, stanza: Stanza<'_>, suite: &str) -> Result<()> {
        let candidate = candidate(stanza, suite)?;
        let name = candidate.package.name.clone();
        for provided in names(&stanza.folded("Provides").unwrap_or_default()) {
            self.provided.entry(provided.to_string()).or_default().insert(name.clone());
        }
        self.packages.entry(name).or_default().push(candidate);
        Ok(())
    }

    /// Whether a real (not only provided) package of this name exists.
    pub fn contains(&self, name: &str) -> bool {
        self.packages.contains_key(name)
    }

    /// Number of names.
    pub fn len(&self) -> usize {
        self.packages.len()
    }

    /// Whether no package is known.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// All versions of a package, in the order of the sources.
    pub fn candidates(&self, name: &str) -> &[Candidate] {
        self.packages.get(name).map_or(&[], Vec::as_slice)
    }

    /// One version, from the first suite that has it.
    pub fn find(&self, name: &str, version: &str, arch: &str) -> Option<&Candidate> {
        let ours = |c: &&Candidate| c.package.version == version && c.package.arch == arch;
        self.candidates(name).iter().find(ours)
    }

    /// What the user may have meant: packages that provide `name`, else the
    /// nearest name; empty when nothing comes near.
    pub fn suggest(&self, name: &str) -> Vec<String> {
        if let Some(providers) = self.provided.get(name) {
            return providers.iter().take(3).cloned().collect();
        }
        // Two names that begin alike are likelier a typing error than two that do not.
        let distance = |known: &str| {
            let first_differs = known.as_bytes().first() != name.as_bytes().first();
            strsim::damerau_levenshtein(known, name) * 2 + usize::from(first_differs)
        };
        let budget = (name.chars().count() / 3).clamp(1, 3);
        let near = |known: &&String| known.len().abs_diff(name.len()) <= budget;
        let nearest = self.packages.keys().filter(near).map(|known| (distance(known), known)).min();
        nearest.filter(|(d, _)| *d <= budget * 2 + 1).map(|(_, known)| known.clone()).into_iter().collect()
    }
}

fn candidate(stanza: Stanza<'_>, suite: &str) -> Result<Candidate> {
    let required = |field: &str| stanza.get(field).with_context(|| format!("it has no field {field}"));
    let name = required("Package")?;
    ensure!(legal_name(name), "`{}` is no package name", name.escape_debug());
    let checked = || -> Result<Candidate> {
        let (version, arch) = (required("Version")?, required("Architecture")?);
        ensure!(legal_version(version), "`{}` is no version", version.escape_debug());
        ensure!(legal_name(arch), "`{}` is no architecture", arch.escape_debug());
        let sha256 = required("SHA256")?.to_ascii_lowercase();
        let hex = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
        ensure!(hex, "`{}` is no SHA-256", sha256.escape_debug());
        let size = required("Size")?;
        let filename = required("Filename")?;
        ensure!(legal_filename(filename), "`{}` is no file name in an archive", filename.escape_debug());
        let source = stanza.get("Source").unwrap_or(name).split(' ').next().unwrap_or(name);
        let depends = ["Pre-Depends", "Depends"].map(|field| stanza.get(field).unwrap_or_default());
        Ok(Candidate {
            package: Package {
                name: name.to_string(),
                version: version.to_string(),
                arch: arch.to_string(),
                source: source.to_string(),
                sha256,
                size: size.parse().with_context(|| format!("`{}` is no size", size.escape_debug()))?,
                filename: filename.strip_prefix("./").unwrap_or(filename).to_string(),
                suite: suite.to_string(),
            },
            depends: depends.into_iter().filter(|d| !d.is_empty()).collect::<Vec<_>>().join(", "),
        })
    };
    checked().with_context(|| format!("reading package {name}"))
}

/// The names in a dependency field: `a (>= 1), b | c:any` gives `a`, `b`, `c`.
pub fn names(relations: &str) -> impl Iterator<Item = &str> {
    let name = |relation| str::trim(relation).split([' ', '(', ':', '[', '<']).next();
    relations.split([',', '|']).filter_map(name).filter(|name| !name.is_empty())
}

/// Debian Policy 5.6.7, one-letter names tolerated.
pub fn legal_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    name.len() <= 128
        && name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && name.bytes().all(legal)
}

/// Debian Policy 5.6.12.
pub fn legal_version(version: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b".+-:~".contains(&b);
    (1..=128).contains(&version.len()) && version.bytes().all(legal)
}

/// A relative path of plain components.
pub fn legal_filename(filename: &str) -> bool {
    let relative = filename.strip_prefix("./").unwrap_or(filename);
    let part = |p: &str| !p.is_empty() && p != "." && p != "..";
    relative.len() <= 1024
        && relative.bytes().all(|b| b.is_ascii_graphic() && !b"'\"\\`$".contains(&b))
        && relative.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanza(name: &str, more: &str) -> String {
        let sha = "ab".repeat(32);
        format!(
            "Package: {name}\nVersion: 1:2-3\nArchitecture: i386\nSHA256: {sha}\nSize: 7\nFilename: pool/{name}.deb\n{more}\n"
        )
    }

    #[test]
    fn a_stanza_becomes_a_pinned_package() {
        let mut index = Index::default();
        let more =
            "Source: src (1.0)\nPre-Depends: d\nDepends: a (>= 1), b | c:any\nProvides: mta, x (= 1)\n";
        index.add(&stanza("exim4", more), "bookworm").unwrap();
        index.add(&stanza("exim4", ""), "bookworm-updates").unwrap();
        let found = index.find("exim4", "1:2-3", "i386").unwrap();
        let expected = Candidate {
            package: Package {
                name: "exim4".into(),
                version: "1:2-3".into(),
                arch: "i386".into(),
                source: "src".into(),
                sha256: "ab".repeat(32),
                size: 7,
                filename: "pool/exim4.deb".into(),
                suite: "bookworm".into(),
            },
            depends: "d, a (>= 1), b | c:any".into(),
        };
        assert_eq!(*found, expected);
        assert_eq!(names(&found.depends).collect::<Vec<_>>(), ["d", "a", "b", "c"]);
        assert_eq!(index.candidates("exim4").len(), 2);
        assert_eq!(index.find("exim4", "2", "i386"), None);
        assert_eq!(index.suggest("mta"), ["exim4"]);
    }

    #[test]
    fn the_nearest_name_is_suggested() {
        let mut index = Index::default();
        for name in ["gdisk", "fdisk", "e2fsprogs", "xfsprogs", "nano", "less"] {
            index.add(&stanza(name, ""), "s").unwrap();
        }
        for (typed, expected) in [
            ("gdisc", Some("gdisk")),
            ("fdsik", Some("fdisk")),
            ("e2fsprog", Some("e2fsprogs")),
            ("xfsprog", Some("xfsprogs")),
            ("nanoo", Some("nano")),
            ("postgresql", None),
            ("", None),
        ] {
            assert_eq!(index.suggest(typed), expected.into_iter().collect::<Vec<_>>(), "{typed}");
        }
    }

    #[test]
    fn illegal_stanzas_are_refused() {
        let good = stanza("a", "");
        for (from, to, expected) in [
            ("Package: a", "Package: ../a", "`../a` is no package name"),
            ("Package: a", "Package:", "`` is no package name"),
            ("Package: a", "Packag: a", "it has no field Package"),
            ("Version: 1:2-3", "Version: 1 2", "reading package a: `1 2` is no version"),
            ("Version", "Versio", "reading package a: it has no field Version"),
            ("Size: 7", "Size: -7", "reading package a: `-7` is no size: invalid digit found in string"),
            ("pool/a", "pool/../../a", "reading package a: `pool/../../a.deb` is no file name in an archive"),
            ("pool/a", "/etc/a", "reading package a: `/etc/a.deb` is no file name in an archive"),
            ("pool/a", "a b", "reading package a: `a b.deb` is no file name in an archive"),
            ("i386", "i386/x", "reading package a: `i386/x` is no architecture"),
            ("SHA256: ab", "SHA256: ", &format!("reading package a: `{}` is no SHA-256", "ab".repeat(31))),
        ] {
            let error = Index::default().add(&good.replace(from, to), "bookworm").unwrap_err();
            let expected = format!("reading stanza 1 of the Packages index of bookworm: {expected}");
            assert_eq!(format!("{error:#}"), expected);
        }
    }
}
