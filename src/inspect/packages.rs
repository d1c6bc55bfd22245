//! What is installed: the root image's package database, else a list on the medium.
//!
//! dpkg's status file, pacman's and apk's databases, and the lists that
//! live-build (`*.packages`) and archiso (`pkglist.*.txt`) put on their media.

use anyhow::Result;
use serde::Serialize;

use super::Inspection;
use super::root::Root;
use crate::source::deb822::stanzas;

/// No package database is larger (bytes).
const MAX_DATABASE: u64 = 64 << 20;
const MAX_LIST: u64 = 4 << 20;

/// Installed packages and where the list comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Packages {
    /// The file that was read.
    pub source: String,
    /// Sorted by name.
    pub list: Vec<Package>,
}

/// One package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version; empty if the list has none.
    pub version: String,
    /// Architecture; empty if the list has none.
    pub arch: String,
}

/// The first list that is there.
pub(super) fn find(inspection: &mut Inspection) -> Option<Packages> {
    let mut damage = Vec::new();
    let mut found = None;
    for image in &inspection.images {
        match Root::open(image).and_then(|mut root| database(&mut root)) {
            Ok(Some((path, list))) => {
                found = Some(Packages { source: format!("{}:{path}", image.file.path), list });
                break;
            }
            Ok(None) => {}
            Err(error) => damage.push(format!("{}: {error:#}", image.file.path)),
        }
    }
    let found = found.or_else(|| on_medium(inspection)).map(|mut packages| {
        packages.list.sort();
        packages
    });
    inspection.damage.extend(damage);
    found
}

fn database(reader: &mut Root) -> Result<Option<(&'static str, Vec<Package>)>> {
    const DPKG: &str = "var/lib/dpkg/status";
    if let Some(bytes) = reader.read_file(DPKG.as_bytes(), MAX_DATABASE)? {
        return Ok(Some(("/var/lib/dpkg/status", dpkg(&String::from_utf8_lossy(&bytes)))));
    }
    let names = reader.names(b"var/lib/pacman/local")?;
    if !names.is_empty() {
        return Ok(Some(("/var/lib/pacman/local", names.iter().filter_map(|name| pacman(name)).collect())));
    }
    for path in ["lib/apk/db/installed", "usr/lib/apk/db/installed"] {
        if let Some(bytes) = reader.read_file(path.as_bytes(), MAX_DATABASE)? {
            return Ok(Some(("/lib/apk/db/installed", apk(&String::from_utf8_lossy(&bytes)))));
        }
    }
    Ok(None)
}

fn dpkg(text: &str) -> Vec<Package> {
    let installed = |status: &str| status.ends_with(" installed");
    let packages = stanzas(text).filter(|stanza| stanza.get("Status").is_none_or(installed));
    let field = |value: Option<&str>| value.unwrap_or_default().to_string();
    packages
        .map(|stanza| Package {
            name: field(stanza.get("Package")),
            version: field(stanza.get("Version")),
            arch: field(stanza.get("Architecture")),
        })
        .filter(|package| !package.name.is_empty())
        .collect()
}

/// `name-version-release`, a directory of pacman's database.
fn pacman(name: &str) -> Option<Package> {
    let mut parts = name.rsplitn(3, '-');
    let (release, version, name) = (parts.next()?, parts.next()?, parts.next()?);
    Some(Package { name: name.to_string(), version: format!("{version}-{release}"), arch: String::new() })
}

fn apk(text: &str) -> Vec<Package> {
    let field = |block: &str, key: &str| {
        block.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().to_string()
    };
    let blocks = text.split("\n\n").filter(|block| block.lines().any(|line| line.starts_with("P:")));
    let package =
        |block| Package { name: field(block, "P:"), version: field(block, "V:"), arch: field(block, "A:") };
    blocks.map(package).collect()
}

/// Lists beside the root image: a name and a version a line.
fn on_medium(inspection: &Inspection) -> Option<Packages> {
    let is_list = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        name.ends_with(".packages") || (name.starts_with("pkglist.") && name.ends_with(".txt"))
    };
    let file = inspection.files.iter().find(|file| is_list(&file.path) && file.length <= MAX_LIST)?;
    let text = String::from_utf8_lossy(&inspection.file(&file.path)?.read_all().ok()?).into_owned();
    let package = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, arch) = words.next().map(|name| name.split_once(':').unwrap_or((name, "")))?;
        let version = words.next().unwrap_or_default();
        let arch = words.next().unwrap_or(arch);
        Some(Package { name: name.to_string(), version: version.to_string(), arch: arch.to_string() })
    };
    Some(Packages { source: file.path.clone(), list: text.lines().filter_map(package).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, arch: &str) -> Package {
        let [name, version, arch] = [name, version, arch].map(str::to_string);
        Package { name, version, arch }
    }

    #[test]
    fn reads_the_databases() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: i386\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n";
        assert_eq!(dpkg(status), [package("a", "1:2-3", "i386")]);
        assert_eq!(pacman("lib-x-1.0-2"), Some(package("lib-x", "1.0-2", "")));
        assert_eq!(pacman("ALPM_DB_VERSION"), None);
        assert_eq!(apk("C:x\nP:musl\nV:1.2\nA:x86\n\nF:lib\n"), [package("musl", "1.2", "x86")]);
    }
}
