//! File names as bytes, checked once at the door.

use super::display_path;

/// One path component: 1 to 255 bytes, no `/`, no NUL, not `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

/// A path or component that must not enter a tree.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidName {
    /// The path as it came, escaped for display.
    pub path: String,
    /// What is wrong with it, as a clause.
    pub reason: &'static str,
}

impl std::fmt::Display for InvalidName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "path `{}` {}", self.path, self.reason)
    }
}

impl std::error::Error for InvalidName {}

impl Name {
    /// Checks one component.
    pub fn new(bytes: &[u8]) -> Result<Name, InvalidName> {
        let reason = match bytes {
            [] => "has an empty component",
            b"." => "has a `.` component",
            b".." => "has a `..` component, which could leave the tree",
            b if b.len() > 255 => "has a component longer than 255 bytes",
            b if b.contains(&0) => "contains a NUL byte",
            b if b.contains(&b'/') => "contains a slash inside a component",
            _ => return Ok(Name(bytes.into())),
        };
        Err(InvalidName { path: display_path(bytes), reason })
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Splits a path into checked components. One leading `/` or `./` and trailing
/// slashes are accepted, as archives write them; everything else that is not a
/// plain name is refused. The root itself gives an empty list.
pub fn components(path: &[u8]) -> Result<Vec<Name>, InvalidName> {
    let mut rest = path;
    if rest == b"." {
        return Ok(Vec::new());
    }
    rest = rest.strip_prefix(b"./").unwrap_or(rest);
    rest = rest.strip_prefix(b"/").unwrap_or(rest);
    while let Some(shorter) = rest.strip_suffix(b"/") {
        rest = shorter;
    }
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    rest.split(|&b| b == b'/')
        .map(|part| Name::new(part).map_err(|e| InvalidName { path: display_path(path), reason: e.reason }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(path: &str) -> Result<Vec<String>, &'static str> {
        components(path.as_bytes())
            .map(|v| v.iter().map(|n| String::from_utf8(n.as_bytes().to_vec()).unwrap()).collect())
            .map_err(|e| e.reason)
    }

    #[test]
    fn splits_paths_as_archives_write_them() {
        let usr_bin = Ok(vec!["usr".to_string(), "bin".to_string()]);
        for path in ["usr/bin", "/usr/bin", "./usr/bin", "./usr/bin/", "usr/bin//"] {
            assert_eq!(split(path), usr_bin, "{path}");
        }
        for root in ["", ".", "./", "/"] {
            assert_eq!(split(root), Ok(vec![]), "{root}");
        }
    }

    #[test]
    fn refuses_what_could_leave_the_tree() {
        assert_eq!(split("a/../b"), Err("has a `..` component, which could leave the tree"));
        assert_eq!(split("a//b"), Err("has an empty component"));
        assert_eq!(split("a/./b"), Err("has a `.` component"));
        assert_eq!(split("a\0b"), Err("contains a NUL byte"));
        assert_eq!(split(&"x".repeat(256)), Err("has a component longer than 255 bytes"));
        assert!(split(&"x".repeat(255)).is_ok());
    }
}
