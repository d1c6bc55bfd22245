//! From the modules one asks for to all the modules one needs.

use std::collections::BTreeSet;

use super::fnmatch::fnmatch;
use super::index::{ModuleId, ModuleIndex};
use super::module::normalized_name;

/// One wish: a name (`usb-storage`), an alias (`crypto-crc32c`), or a path or
/// pattern below `kernel/` without suffix (`drivers/ata/pata_*`). In a path
/// `*` and `?` do not match `/`; `-` and `_` are the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Name, alias or pattern.
    pub pattern: String,
    /// Whether a kernel without it is fine.
    pub optional: bool,
}

/// The result of [`ModuleIndex::closure`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// What was asked for and what that needs, each after everything it needs.
    pub modules: Vec<ModuleId>,
    /// Requests that are compiled into the kernel.
    pub builtin: Vec<String>,
    /// Optional requests this kernel does not have.
    pub absent: Vec<String>,
}

/// Modules that must be there and are not, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingModules {
    /// The kernel they are missing from.
    pub version: String,
    /// In the order of the requests.
    pub missing: Vec<MissingModule>,
}

/// One module that must be there and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingModule {
    /// Name or pattern.
    pub request: String,
    /// The module whose `depends=` names it, if nobody asked for it.
    pub needed_by: Option<String>,
    /// The most similar name this kernel has, with `_`.
    pub suggestion: Option<String>,
}

impl std::fmt::Display for MissingModules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let several = self.missing.len() > 1;
        let word = if several { "modules" } else { "module" };
        write!(f, "kernel {} lacks the {word} ", self.version)?;
        for (n, missing) in self.missing.iter().enumerate() {
            write!(f, "{}`{}`", if n > 0 { ", " } else { "" }, missing.request)?;
            if let Some(user) = &missing.needed_by {
                write!(f, " (needed by `{user}`)")?;
            }
            if let Some(suggestion) = &missing.suggestion {
                write!(f, " (did you mean `{suggestion}`?)")?;
            }
        }
        let (s, them) = if several { ("s", "them") } else { ("", "it") };
        write!(f, "; correct the name{s} or make {them} optional")
    }
}

impl std::error::Error for MissingModules {}

impl ModuleIndex {
    /// Everything `requests` need: `depends=`, and what `softdep pre:` names,
    /// as far as this kernel has it. What is compiled into the kernel is there
    /// already.
    ///
    /// # Errors
    /// All modules that must be there and are not, at once.
    pub fn closure(&self, requests: &[Request]) -> Result<Closure, MissingModules> {
        let mut closure = Closure::default();
        let mut missing = Vec::new();
        let mut seen = BTreeSet::new();
        for request in requests {
            let found = self.matches(&request.pattern);
            if found.is_empty() {
                let pattern = request.pattern.clone();
                if self.is_builtin(&pattern) {
                    closure.builtin.push(pattern);
                } else if request.optional {
                    closure.absent.push(pattern);
                } else {
                    let suggestion = self.similar_name(&pattern);
                    missing.push(MissingModule { request: pattern, needed_by: None, suggestion });
                }
            }
            for id in found {
                self.collect(id, &mut seen, &mut closure.modules);
            }
        }
        missing.extend(self.missing_depends(&closure.modules));
        if missing.is_empty() {
            Ok(closure)
        } else {
            Err(MissingModules { version: self.version.clone(), missing })
        }
    }

    /// The modules a name, alias, path or pattern stands for; empty when there are none.
    pub fn matches(&self, pattern: &str) -> Vec<ModuleId> {
        if pattern.contains('/') || pattern.contains(['*', '?', '[']) {
            let wanted = normalized_name(pattern);
            let fits = |path: &str| {
                let path = normalized_name(path);
                let depth = |p: &str| p.matches('/').count();
                let text =
                    if wanted.contains('/') { &path[..] } else { path.rsplit('/').next().unwrap_or(&path) };
                depth(text) == depth(&wanted) && fnmatch(wanted.as_bytes(), text.as_bytes())
            };
            let modules = self.modules().filter(|(_, m)| {
                let path = m.plain_path().strip_suffix(".ko").unwrap_or(&m.path);
                fits(path.strip_prefix("kernel/").unwrap_or(path))
            });
            return modules.map(|(id, _)| id).collect();
        }
        match self.find(pattern) {
            Some(id) => vec![id],
            None if self.builtin.contains(&normalized_name(pattern)) => Vec::new(),
            None => self.find_alias(pattern),
        }
    }

    /// The modules `softdep pre:` of one module stands for.
    pub fn soft_dependencies(&self, id: ModuleId) -> Vec<ModuleId> {
        let names = self.get(id).module.softdeps.iter().flat_map(|softdep| &softdep.pre);
        let mut found: Vec<ModuleId> = names.flat_map(|name| self.matches(name)).collect();
        found.sort();
        found.dedup();
        found.retain(|&other| other != id);
        found
    }

    /// Depth-first, dependencies before their users; a circle ends where it began.
    fn collect(&self, top: ModuleId, seen: &mut BTreeSet<ModuleId>, out: &mut Vec<ModuleId>) {
        let mut pending = vec![(top, false)];
        while let Some((id, needs_are_out)) = pending.pop() {
            if needs_are_out {
                out.push(id);
            } else if seen.insert(id) {
                pending.push((id, true));
                let soft = self.soft_dependencies(id);
                pending.extend(soft.into_iter().rev().map(|id| (id, false)));
                pending.extend(self.get(id).depends.iter().rev().map(|&id| (id, false)));
            }
        }
    }

    fn missing_depends(&self, modules: &[ModuleId]) -> Vec<MissingModule> {
        let modules = modules.iter().map(|&id| self.get(id));
        let missing = modules.flat_map(|m| m.missing_depends.iter().map(move |name| (m, name)));
        let missing = missing.map(|(module, name)| MissingModule {
            request: name.clone(),
            needed_by: Some(module.name.clone()),
            suggestion: None,
        });
        missing.collect()
    }

    fn similar_name(&self, wanted: &str) -> Option<String> {
        if wanted.contains(['*', '?', '[']) {
            return None;
        }
        let wanted = normalized_name(wanted.rsplit('/').next().unwrap_or(wanted));
        let limit = (wanted.len() / 3).max(1);
        let builtin = self.builtin.iter().map(String::as_str);
        let distances =
            self.names().chain(builtin).map(|name| (strsim::damerau_levenshtein(&wanted, name), name));
        distances.filter(|(distance, _)| *distance <= limit).min().map(|(_, name)| name.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmod::testing::{add_text, kernel};

    fn index() -> ModuleIndex {
        let mut tree = kernel(&[
            ("kernel/fs/ext4/ext4.ko", "depends=jbd2,mbcache|softdep=pre: crypto-crc32c nothing"),
            ("kernel/fs/jbd2/jbd2.ko", "depends=|softdep=pre: crypto-crc32c"),
            ("kernel/fs/mbcache.ko", ""),
            ("kernel/crypto/crc32c_generic.ko", "alias=crypto-crc32c"),
            ("kernel/arch/x86/crc32c-intel.ko", "alias=crypto-crc32c|alias=cpu:type:x86*"),
            ("kernel/drivers/ata/libata.ko", "depends=scsi_mod"),
            ("kernel/drivers/ata/pata_via.ko", "depends=libata"),
            ("kernel/drivers/ata/pata_pcmcia.ko", "depends=libata,pcmcia"),
            ("kernel/drivers/scsi/scsi_mod.ko", ""),
            ("kernel/drivers/usb/a.ko", "softdep=pre: b"),
            ("kernel/drivers/usb/b.ko", "softdep=pre: a"),
        ]);
        add_text(&mut tree, "modules.builtin", "kernel/drivers/virtio/virtio_pci.ko\n");
        ModuleIndex::read(&tree, "6.1.0-t").unwrap()
    }

    fn closure(wishes: &[&str]) -> Result<Vec<String>, String> {
        let index = index();
        let requests: Vec<Request> = wishes
            .iter()
            .map(|wish| Request {
                pattern: wish.trim_start_matches('?').to_string(),
                optional: wish.starts_with('?'),
            })
            .collect();
        let closure = index.closure(&requests).map_err(|e| e.to_string())?;
        Ok(closure.modules.iter().map(|&id| index.get(id).name.clone()).collect())
    }

    #[test]
    fn modules_come_after_all_they_need() {
        let cases: [(&[&str], &[&str]); 6] = [
            (&["ext4"], &["crc32c_intel", "crc32c_generic", "jbd2", "mbcache", "ext4"]),
            (&["drivers/ata/pata_[!p]*"], &["scsi_mod", "libata", "pata_via"]),
            (&["scsi-mod", "fs/*", "scsi_mod"], &["scsi_mod", "mbcache"]),
            (&["crypto-crc32c"], &["crc32c_intel", "crc32c_generic"]),
            (&["virtio-pci", "?ntfs3"], &[]),
            (&["a"], &["b", "a"]),
        ];
        for (wishes, expected) in cases {
            assert_eq!(closure(wishes).unwrap(), expected, "{wishes:?}");
        }
    }

    #[test]
    fn everything_missing_is_named_at_once() {
        let cases: [(&[&str], &str); 3] = [
            (
                &["libatta", "ext4", "fs/nope*", "pata_pcmcia"],
                "kernel 6.1.0-t lacks the modules `libatta` (did you mean `libata`?), `fs/nope*`, \
                 `pcmcia` (needed by `pata_pcmcia`); correct the names or make them optional",
            ),
            (
                &["virtio_pc"],
                "kernel 6.1.0-t lacks the module `virtio_pc` (did you mean `virtio_pci`?); \
                 correct the name or make it optional",
            ),
            (
                &["zzzzzzzzz"],
                "kernel 6.1.0-t lacks the module `zzzzzzzzz`; correct the name or make it optional",
            ),
        ];
        for (wishes, message) in cases {
            assert_eq!(closure(wishes).unwrap_err(), message);
        }
    }
}
