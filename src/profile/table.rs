//! One TOML table being read: every value is taken out by its key and type,
//! and what is left over at the end is unknown.
//!
//! This replaces serde, which stops at the first value of a wrong type; a
//! profile's mistakes are all reported in one run.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{SwitchOrFiles, Text};
use crate::diagnostic::{Diagnostics, Place, Spanned, alternatives, closest};

/// Every key a profile may have, by table; the empty name is the top.
const KEYS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "iso-name",
            "iso-version",
            "iso-label",
            "iso-publisher",
            "iso-application",
            "iso-layout",
            "disk-image",
            "install-dir",
            "arch",
            "bootmodes",
            "packages",
            "debian",
            "root",
            "file-permissions",
            "kernel",
            "initramfs",
            "boot",
            "budget",
        ],
    ),
    ("debian", &["suite", "mirror", "security-mirror", "components", "security", "updates"]),
    (
        "root",
        &[
            "mode",
            "exclude",
            "description",
            "format",
            "compression",
            "level",
            "block-size",
            "verity",
            "amd64",
        ],
    ),
    ("root.amd64", &["packages"]),
    ("kernel", &["package", "amd64"]),
    ("kernel.amd64", &["package", "suite"]),
    (
        "initramfs",
        &[
            "layout",
            "compression",
            "default-modules",
            "modules",
            "optional-modules",
            "description",
            "microcode",
            "programs",
            "hooks",
        ],
    ),
    ("initramfs.hooks", &["media", "mount", "bottom"]),
    ("boot", &["title", "timeout", "kernel-parameters", "serial", "secure-boot"]),
    ("budget", &["initramfs", "memory", "iso-size", "min-ram", "available-at-128"]),
];

/// A table and where its mistakes go.
pub(super) struct Table<'i, 'd> {
    name: &'static str,
    file: usize,
    entries: BTreeMap<String, Entry<'i>>,
    diagnostics: &'d mut Diagnostics,
}

struct Entry<'i> {
    key: Range<usize>,
    value: DeValue<'i>,
    span: Range<usize>,
}

impl<'i, 'd> Table<'i, 'd> {
    /// Wraps a parsed table; `name` is how the profile's format calls it.
    pub(super) fn new(
        name: &'static str,
        table: DeTable<'i>,
        file: usize,
        diagnostics: &'d mut Diagnostics,
    ) -> Table<'i, 'd> {
        let entry = |(key, value): (toml::Spanned<_>, toml::Spanned<DeValue<'i>>)| {
            let (key_span, span) = (key.span(), value.span());
            let name: std::borrow::Cow<str> = key.into_inner();
            (name.into_owned(), Entry { key: key_span, value: value.into_inner(), span })
        };
        Table { name, file, entries: table.into_iter().map(entry).collect(), diagnostics }
    }

    /// Whether there is such a key, or one that is probably meant to be it.
    pub(super) fn resembles(&self, key: &str) -> bool {
        let known = keys_of(self.name);
        let meant = |name: &String| name == key || closest(name, known.iter().copied()) == Some(key);
        self.entries.keys().any(meant)
    }

    /// Takes out a string.
    pub(super) fn string(&mut self, key: &str) -> Option<Text> {
        let entry = self.entries.remove(key)?;
        self.as_string(&format!("`{key}`"), entry.value, entry.span)
    }

    /// Takes out an array of strings; what is no string in it is reported and left out.
    pub(super) fn strings(&mut self, key: &str) -> Option<Spanned<Vec<Text>>> {
        let entry = self.entries.remove(key)?;
        let DeValue::Array(items) = entry.value else {
            self.wrong_type(&format!("`{key}`"), "an array of strings", &entry.value, entry.span);
            return None;
        };
        let mut strings = Vec::new();
        for item in items {
            let span = item.span();
            strings.extend(self.as_string(&format!("every element of `{key}`"), item.into_inner(), span));
        }
        Some(Spanned { value: strings, place: Place::new(self.file, entry.span) })
    }

    /// Takes out a truth value or an array of strings.
    pub(super) fn switch_or_files(&mut self, key: &str) -> Option<Spanned<SwitchOrFiles>> {
        match self.entries.get(key)?.value {
            DeValue::Array(_) => {
                let Spanned { value, place } = self.strings(key)?;
                Some(Spanned { value: SwitchOrFiles::Files(value), place })
            }
            DeValue::Boolean(_) => {
                let Spanned { value, place } = self.boolean(key)?;
                Some(Spanned { value: SwitchOrFiles::Switch(value), place })
            }
            _ => {
                let entry = self.entries.remove(key)?;
                let wanted = "true, false or an array of file names";
                self.wrong_type(&format!("`{key}`"), wanted, &entry.value, entry.span);
                None
            }
        }
    }

    /// Takes out an integer.
    pub(super) fn integer(&mut self, key: &str) -> Option<Spanned<i64>> {
        let entry = self.entries.remove(key)?;
        let place = Place::new(self.file, entry.span.clone());
        let DeValue::Integer(digits) = &entry.value else {
            self.wrong_type(&format!("`{key}`"), "an integer", &entry.value, entry.span);
            return None;
        };
        match i64::from_str_radix(digits.as_str(), digits.radix()) {
            Ok(value) => Some(Spanned { value, place }),
            Err(_) => {
                self.diagnostics.error(&place, format!("`{key}` is too large a number"));
                None
            }
        }
    }

    /// Takes out a truth value.
    pub(super) fn boolean(&mut self, key: &str) -> Option<Spanned<bool>> {
        let entry = self.entries.remove(key)?;
        let DeValue::Boolean(value) = entry.value else {
            self.wrong_type(&format!("`{key}`"), "true or false", &entry.value, entry.span);
            return None;
        };
        Some(Spanned { value, place: Place::new(self.file, entry.span) })
    }

    /// Where a key stands.
    pub(super) fn place_of(&self, key: &str) -> Option<Place> {
        self.entries.get(key).map(|entry| Place::new(self.file, entry.key.clone()))
    }

    /// Takes out a table and reads it to its end; `name` is its whole name, `kernel.amd64` in `kernel`.
    pub(super) fn table<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Table) -> T) -> Option<T> {
        let key = name.rsplit('.').next().unwrap_or(name);
        let entry = self.entries.remove(key)?;
        let DeValue::Table(table) = entry.value else {
            self.wrong_type(&format!("`{key}`"), "a table", &entry.value, entry.span);
            return None;
        };
        let name = if self.name.is_empty() { key } else { path_of(self.name, key) };
        let mut inner = Table::new(name, table, self.file, self.diagnostics);
        let value = read(&mut inner);
        inner.finish();
        Some(value)
    }

    /// Takes out everything, as keys the user chose with strings.
    pub(super) fn string_pairs(&mut self) -> Vec<(Text, Text)> {
        let mut pairs = Vec::new();
        for (name, entry) in std::mem::take(&mut self.entries) {
            let value = self.as_string(&format!("`{name}`"), entry.value, entry.span);
            let key = Spanned { value: name, place: Place::new(self.file, entry.key) };
            pairs.extend(value.map(|value| (key, value)));
        }
        pairs
    }

    fn as_string(&mut self, what: &str, value: DeValue, span: Range<usize>) -> Option<Text> {
        let DeValue::String(text) = value else {
            self.wrong_type(what, "a string", &value, span);
            return None;
        };
        Some(Spanned { value: text.into_owned(), place: Place::new(self.file, span) })
    }

    fn wrong_type(&mut self, what: &str, wanted: &str, found: &DeValue, span: Range<usize>) {
        let message = format!("{what} must be {wanted}, but this is {}", type_name(found));
        let place = Place::new(self.file, span);
        let instead = self.diagnostics.text(&place).and_then(|text| converted(text, found, wanted));
        let diagnostic = self.diagnostics.error(&place, message);
        if let Some(instead) = instead {
            diagnostic.help(format!("write `{instead}`"));
        }
    }

    /// Reports every key that nobody took.
    pub(super) fn finish(self) {
        let known = keys_of(self.name);
        for (name, entry) in self.entries {
            let (close, home) = (closest(&name, known.iter().copied()), home_of(&name));
            // A long list hides the one word that matters.
            let message = match close.is_some() || home.is_some() {
                true if known.len() > 8 => format!("unknown field `{name}`"),
                _ => format!("unknown field `{name}`, expected {}", alternatives(known)),
            };
            let diagnostic = self.diagnostics.error(&Place::new(self.file, entry.key), message);
            match (close, home) {
                (Some(close), _) => diagnostic.help(format!("did you mean `{close}`?")),
                (None, Some("")) => diagnostic.help(format!("move `{name}` up, before the first [table]")),
                (None, Some(table)) => diagnostic.help(format!("`{name}` belongs in the table [{table}]")),
                (None, None) => {}
            }
        }
    }
}

/// The name of a table in a table.
fn path_of(outer: &str, key: &'static str) -> &'static str {
    let is_it = |name: &str| name.strip_prefix(outer).and_then(|rest| rest.strip_prefix('.')) == Some(key);
    KEYS.iter().map(|(name, _)| *name).find(|name| is_it(name)).unwrap_or(key)
}

fn keys_of(table: &str) -> &'static [&'static str] {
    KEYS.iter().find(|(name, _)| *name == table).map_or(&[], |(_, keys)| keys)
}

/// The table a key is known in: keys end up in the wrong one when lines are moved.
fn home_of(key: &str) -> Option<&'static str> {
    KEYS.iter().find(|(_, keys)| keys.contains(&key)).map(|(name, _)| *name)
}

/// A short value written as what is wanted of it, where it is clear what was meant.
fn converted(text: &str, found: &DeValue, wanted: &str) -> Option<String> {
    if text.len() > 60 || text.contains('\n') {
        return None;
    }
    let number = matches!(found, DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_));
    match (wanted, found) {
        ("a string", _) if number => Some(format!("\"{text}\"")),
        ("a string", DeValue::Array(items)) if items.len() == 1 => match items[0].get_ref() {
            DeValue::String(item) => Some(format!("\"{item}\"")),
            _ => None,
        },
        ("an array of strings", DeValue::String(_)) => Some(format!("[{text}]")),
        ("an array of strings", _) if number => Some(format!("[\"{text}\"]")),
        ("an integer", DeValue::String(digits)) => digits.parse::<i64>().ok().map(|n| n.to_string()),
        ("true or false", DeValue::String(word)) => match &**word {
            "true" | "yes" | "on" => Some("true".to_string()),
            "false" | "no" | "off" => Some("false".to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// What a TOML value is, in words.
pub(crate) fn type_name(value: &DeValue) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
