//! The module list: data for people to read and change.

use anyhow::{Result, ensure};

use crate::kmod::Request;

/// Wishes of a module list, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModuleList {
    /// Must exist or be compiled into the kernel.
    pub required: Vec<String>,
    /// May be missing.
    pub optional: Vec<String>,
}

impl ModuleList {
    /// Reads one wish a line; `?` marks optional ones, `#` begins a comment.
    ///
    /// # Errors
    /// Lines with several words, by number.
    pub fn parse(text: &str) -> Result<ModuleList> {
        let mut list = ModuleList::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let (wish, group) = match line.strip_prefix('?') {
                Some(rest) => (rest.trim(), &mut list.optional),
                None => (line, &mut list.required),
            };
            let one_word = !wish.contains(char::is_whitespace) && (line.is_empty() || !wish.is_empty());
            ensure!(one_word, "module list, line {}: `{line}` is not one name or pattern", number + 1);
            if !wish.is_empty() {
                group.push(wish.to_string());
            }
        }
        Ok(list)
    }

    /// The wishes as [`crate::kmod::ModuleIndex::closure`] takes them.
    pub fn requests(&self) -> Vec<Request> {
        requests(&self.required, &self.optional)
    }
}

pub(super) fn requests(required: &[String], optional: &[String]) -> Vec<Request> {
    let required = required.iter().map(|pattern| (pattern, false));
    let all = required.chain(optional.iter().map(|pattern| (pattern, true)));
    all.map(|(pattern, optional)| Request { pattern: pattern.clone(), optional }).collect()
}

/// The modules an initramfs has unless the profile says otherwise.
pub fn default_modules() -> ModuleList {
    ModuleList::parse(include_str!("modules.list")).expect("a test parses the embedded module list")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_list_parses_and_repeats_nothing() {
        let list = default_modules();
        assert_eq!(list.optional, ["ntfs3", "xen-blkfront", "a100u2w"]);
        let mut sorted = list.required.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), list.required.len());
        assert!(list.required.len() > 60, "{list:?}");
    }

    #[test]
    fn marks_and_comments() {
        let list = ModuleList::parse("# c\n\n a # b\n?b\n  ?  c\ndrivers/x/*\n").unwrap();
        assert_eq!(list.required, ["a", "drivers/x/*"]);
        assert_eq!(list.optional, ["b", "c"]);
        for (text, message) in [
            ("a\nb c", "module list, line 2: `b c` is not one name or pattern"),
            ("?", "module list, line 1: `?` is not one name or pattern"),
        ] {
            assert_eq!(ModuleList::parse(text).unwrap_err().to_string(), message);
        }
    }
}
