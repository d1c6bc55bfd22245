//! Reading a lock file: every value is checked before it becomes a path, a URI
//! or a command's argument, and one run reports every mistake.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::de::{DeTable, DeValue};
use toml::value::Offset;

use super::{LOCK_VERSION, Lock, ROLES, lists_mut};
use crate::diagnostic::{Diagnostics, Place, alternatives, closest};
use crate::format::civil::{CivilTime, unix_time};
use crate::plan::{Package, Packages, TIMESTAMPS};
use crate::profile::type_name;
use crate::source::{legal_filename, legal_name, legal_version};

const HELP: &str =
    "take back the change, or remove the file and run `liveiso lock` to write it anew with current versions";

pub(super) fn parse(text: &str, file: usize, diagnostics: &mut Diagnostics) -> Option<Lock> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let message = error.message().lines().map(str::trim).collect::<Vec<_>>().join(", ");
        diagnostics.error(&Place::new(file, error.span().unwrap_or(0..0)), message).help(HELP);
    }
    if errors.iter().any(|e| !e.message().starts_with("duplicate key")) {
        return None;
    }
    let top = Fields::new(document.into_inner(), 0..0);
    let mut reader = Reader { file, diagnostics, is_damaged: !errors.is_empty() };
    let lock = reader.lock(top);
    if reader.is_damaged { None } else { lock }
}

/// One table being read, by key; what is left over at the end is unknown.
struct Fields<'i> {
    entries: BTreeMap<String, (Range<usize>, DeValue<'i>, Range<usize>)>,
    /// Where to point for what is missing.
    start: Range<usize>,
}

impl<'i> Fields<'i> {
    fn new(table: DeTable<'i>, start: Range<usize>) -> Fields<'i> {
        let entry = |(key, value): (toml::Spanned<std::borrow::Cow<'i, str>>, toml::Spanned<DeValue<'i>>)| {
            let (key_span, span) = (key.span(), value.span());
            (key.into_inner().into_owned(), (key_span, value.into_inner(), span))
        };
        Fields { entries: table.into_iter().map(entry).collect(), start }
    }
}

struct Reader<'d> {
    file: usize,
    diagnostics: &'d mut Diagnostics,
    is_damaged: bool,
}

impl Reader<'_> {
    fn lock(&mut self, mut top: Fields) -> Option<Lock> {
        let (version, span) = self.integer(&mut top, "lock-version")?;
        if version != LOCK_VERSION {
            self.error(
                span,
                format!("this program reads lock files of version {LOCK_VERSION}, but this is {version}"),
            );
            return None;
        }
        let request = self.digest(&mut top, "request");
        let timestamp = self.timestamp(&mut top);
        let left_out = self.strings(&mut top, "left-out");
        let sources = self.sources(&mut top);
        let suites: Vec<&str> = sources.iter().map(|(suite, _)| suite.as_str()).collect();
        let packages = self.packages(&mut top, &suites);
        self.finish(top, &["lock-version", "request", "timestamp", "left-out", "source", "package"]);
        let left_out = left_out?.into_iter().map(|(text, _)| text).collect();
        Some(Lock { request: request?, timestamp: timestamp?, sources, left_out, packages })
    }

    fn timestamp(&mut self, top: &mut Fields) -> Option<i64> {
        let (value, span) = self.take(top, "timestamp")?;
        let seconds = match &value {
            DeValue::Datetime(t) if t.offset == Some(Offset::Z) => {
                t.date.zip(t.time).and_then(|(date, time)| {
                    unix_time(CivilTime {
                        year: i64::from(date.year),
                        month: date.month,
                        day: date.day,
                        hour: time.hour,
                        minute: time.minute,
                        second: time.second.unwrap_or(0),
                    })
                })
            }
            _ => None,
        };
        let legal = seconds.filter(|s| TIMESTAMPS.contains(s));
        if legal.is_none() {
            self.error(
                span,
                "`timestamp` must be a time in UTC such as 2026-01-31T12:00:00Z, from 1980 to 2105",
            );
        }
        legal
    }

    fn sources(&mut self, top: &mut Fields) -> Vec<(String, Vec<String>)> {
        let mut sources: Vec<(String, Vec<String>)> = Vec::new();
        for mut fields in self.tables(top, "source") {
            let suite = self.checked(&mut fields, "suite", "a suite", legal_name);
            let components = self.strings(&mut fields, "components");
            for (name, span) in components.iter().flatten().filter(|(name, _)| !legal_name(name)) {
                self.error(span.clone(), format!("`{}` is no component", name.escape_debug()));
            }
            let start = fields.start.clone();
            self.finish(fields, &["suite", "components"]);
            let Some((suite, components)) = suite.zip(components) else { continue };
            if sources.iter().any(|(known, _)| *known == suite) {
                self.error(start, format!("suite `{suite}` is listed twice"));
            }
            sources.push((suite, components.into_iter().map(|(name, _)| name).collect()));
        }
        sources
    }

    fn packages(&mut self, top: &mut Fields, suites: &[&str]) -> Packages {
        let mut packages = Packages::default();
        let mut seen = BTreeSet::new();
        for mut fields in self.tables(top, "package") {
            let start = fields.start.clone();
            let roles = self.roles(&mut fields);
            let Some(package) = self.package(fields, suites) else { continue };
            for role in roles {
                if !seen.insert((package.name.clone(), package.arch.clone(), role)) {
                    let message = format!("package `{}` is listed twice as {}", package.name, ROLES[role]);
                    self.error(start.clone(), message);
                }
                lists_mut(&mut packages)[role].push(package.clone());
            }
        }
        lists_mut(&mut packages).into_iter().for_each(|list| list.sort());
        packages
    }

    fn package(&mut self, mut fields: Fields, suites: &[&str]) -> Option<Package> {
        let f = &mut fields;
        let name = self.checked(f, "name", "a package name", legal_name);
        let version = self.checked(f, "version", "a version", legal_version);
        let arch = self.checked(f, "arch", "an architecture", legal_name);
        let source = self.checked(f, "source", "a package name", legal_name);
        let suite = self.checked(f, "suite", "the suite of a [[source]]", |suite| suites.contains(&suite));
        let filename = self.checked(f, "filename", "a file name in an archive", legal_filename);
        let size = self.size(f);
        let sha256 = self.digest(f, "sha256");
        self.finish(
            fields,
            &["name", "version", "arch", "source", "roles", "suite", "filename", "size", "sha256"],
        );
        Some(Package {
            name: name?,
            version: version?,
            arch: arch?,
            source: source?,
            sha256: sha256?,
            size: size?,
            filename: filename?,
            suite: suite?,
        })
    }

    /// Indexes into [`ROLES`].
    fn roles(&mut self, fields: &mut Fields) -> BTreeSet<usize> {
        let mut roles = BTreeSet::new();
        let start = fields.start.clone();
        let Some(words) = self.strings(fields, "roles") else { return roles };
        if words.is_empty() {
            self.error(start, "`roles` is empty");
        }
        for (word, span) in words {
            match ROLES.iter().position(|role| *role == word) {
                Some(role) if roles.insert(role) => {}
                Some(_) => self.error(span, format!("role `{word}` is listed twice")),
                None => {
                    let message =
                        format!("unknown role `{}`, expected {}", word.escape_debug(), alternatives(&ROLES));
                    self.error(span, message);
                }
            }
        }
        roles
    }

    fn size(&mut self, fields: &mut Fields) -> Option<u64> {
        let (size, span) = self.integer(fields, "size")?;
        let legal = u64::try_from(size).ok();
        if legal.is_none() {
            self.error(span, "`size` must not be negative");
        }
        legal
    }

    fn digest(&mut self, fields: &mut Fields, key: &str) -> Option<String> {
        let hex =
            |text: &str| text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        self.checked(fields, key, "a SHA-256 of 64 lower-case hex digits", hex)
    }

    fn checked(
        &mut self,
        fields: &mut Fields,
        key: &str,
        rule: &str,
        legal: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let (value, span) = self.take(fields, key)?;
        let text = self.string(&format!("`{key}`"), value, &span)?;
        if !legal(&text) {
            self.error(span, format!("`{key}` must be {rule}, but is `{}`", text.escape_debug()));
            return None;
        }
        Some(text)
    }

    fn string(&mut self, what: &str, value: DeValue, span: &Range<usize>) -> Option<String> {
        match value {
            DeValue::String(text) => Some(text.into_owned()),
            other => {
                self.error(
                    span.clone(),
                    format!("{what} must be a string, but this is {}", type_name(&other)),
                );
                None
            }
        }
    }

    fn strings(&mut self, fields: &mut Fields, key: &str) -> Option<Vec<(String, Range<usize>)>> {
        let (value, span) = self.take(fields, key)?;
        let DeValue::Array(items) = value else {
            self.error(
                span,
                format!("`{key}` must be an array of strings, but this is {}", type_name(&value)),
            );
            return None;
        };
        let mut strings = Vec::new();
        for item in items {
            let span = item.span();
            let text = self.string(&format!("every element of `{key}`"), item.into_inner(), &span);
            strings.extend(text.map(|text| (text, span)));
        }
        Some(strings)
    }

    fn integer(&mut self, fields: &mut Fields, key: &str) -> Option<(i64, Range<usize>)> {
        let (value, span) = self.take(fields, key)?;
        let number = match &value {
            DeValue::Integer(digits) => i64::from_str_radix(digits.as_str(), digits.radix()).ok(),
            _ => None,
        };
        if number.is_none() {
            self.error(span.clone(), format!("`{key}` must be a 64-bit integer"));
        }
        number.map(|number| (number, span))
    }

    /// The tables of an array of tables; none is fine.
    fn tables<'i>(&mut self, top: &mut Fields<'i>, key: &str) -> Vec<Fields<'i>> {
        let Some((_, value, span)) = top.entries.remove(key) else { return Vec::new() };
        let wanted = format!("`{key}` must be written as [[{key}]]");
        let DeValue::Array(items) = value else {
            self.error(span, wanted);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items {
            let span = item.span();
            match item.into_inner() {
                DeValue::Table(table) => tables.push(Fields::new(table, span)),
                _ => self.error(span, wanted.clone()),
            }
        }
        tables
    }

    fn take<'i>(&mut self, fields: &mut Fields<'i>, key: &str) -> Option<(DeValue<'i>, Range<usize>)> {
        let Some((_, value, span)) = fields.entries.remove(key) else {
            self.error(fields.start.clone(), format!("`{key}` is missing"));
            return None;
        };
        Some((value, span))
    }

    fn finish(&mut self, fields: Fields, known: &[&str]) {
        for (name, (key, ..)) in fields.entries {
            let message = match closest(&name, known.iter().copied()) {
                Some(close) => format!("unknown field `{}`; did you mean `{close}`?", name.escape_debug()),
                None => format!("unknown field `{}`", name.escape_debug()),
            };
            self.error(key, message);
        }
    }

    fn error(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.is_damaged = true;
        self.diagnostics.error(&Place::new(self.file, span), message).help(HELP);
    }
}
