//! The text files busybox's modprobe reads, for the modules that are in.
//!
//! busybox 1.35 (`modutils/modprobe.c`) reads modules.dep, modules.builtin and,
//! when a name is not in modules.dep, modules.alias. Three of its habits shape
//! these files:
//! - it never reads modules.softdep: `softdep pre:` becomes a dependency here,
//!   unless the module serves certain processors only (`alias cpu:…`): that one
//!   fails to load on others, and busybox gives up on the first failure;
//! - it loads a line's dependencies from last to first and looks up none of theirs;
//! - it turns every `-` of an alias into `_`, also in `[0-9]`: ranges are
//!   spelt out here, so that they match.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::kmod::{Edges, ModuleId, ModuleIndex, dep_text, reachable};

/// The files for these modules, which are sorted, by name.
///
/// # Errors
/// Modules that need each other in a circle, aliases that are none.
pub fn module_texts(index: &ModuleIndex, modules: &[ModuleId]) -> Result<[(&'static str, String); 3]> {
    Ok([
        ("modules.dep", modules_dep(index, modules)?),
        ("modules.alias", modules_alias(index, modules)?),
        ("modules.softdep", modules_softdep(index, modules)),
    ])
}

/// `modules.dep`: paths of plain modules, soft dependencies made hard unless
/// that would close a circle.
fn modules_dep(index: &ModuleIndex, modules: &[ModuleId]) -> Result<String> {
    let included: BTreeSet<ModuleId> = modules.iter().copied().collect();
    let hard = |id: ModuleId| index.get(id).depends.iter().copied().filter(|other| included.contains(other));
    let mut edges: Edges = modules.iter().map(|&id| (id, hard(id).collect())).collect();
    for &id in modules {
        for soft in index.soft_dependencies(id) {
            let usable = included.contains(&soft) && !serves_some_processors(index, soft);
            if usable && !reachable(soft, &edges).contains(&id) {
                edges.entry(id).or_default().push(soft);
            }
        }
    }
    dep_text(index, &edges, |id| index.get(id).plain_path().to_string())
}

fn serves_some_processors(index: &ModuleIndex, id: ModuleId) -> bool {
    index.get(id).module.aliases.iter().any(|alias| alias.starts_with("cpu:"))
}

/// `modules.alias` without what no device or kernel request can ask for here.
fn modules_alias(index: &ModuleIndex, modules: &[ModuleId]) -> Result<String> {
    let mut text = String::new();
    for &id in modules {
        let module = index.get(id);
        for alias in &module.module.aliases {
            text.push_str(&format!("alias {} {}\n", without_ranges(alias)?, module.name));
        }
    }
    Ok(text)
}

/// `modules.softdep`, for people and for kmod; busybox does not read it.
fn modules_softdep(index: &ModuleIndex, modules: &[ModuleId]) -> String {
    let modules = modules.iter().map(|&id| index.get(id));
    let lines = modules.flat_map(|m| {
        m.module.softdeps.iter().map(|softdep| format!("softdep {} {}\n", m.name, softdep.text))
    });
    lines.collect()
}

/// `[0-3]` as `[0123]`; everything else as it is.
fn without_ranges(alias: &str) -> Result<String> {
    let mut out = String::with_capacity(alias.len());
    let mut rest = alias;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((set, tail)) = after.split_once(']') else {
            bail!("module alias `{alias}` has a `[` without `]`");
        };
        out.push_str(before);
        out.push('[');
        let set: Vec<char> = set.chars().collect();
        let mut at = 0;
        while at < set.len() {
            match (set.get(at + 1), set.get(at + 2)) {
                (Some('-'), Some(&last)) => {
                    out.extend(set[at]..=last);
                    at += 3;
                }
                _ => {
                    out.push(set[at]);
                    at += 1;
                }
            }
        }
        out.push(']');
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmod::testing::kernel;

    #[test]
    fn soft_dependencies_become_hard_where_that_is_safe() {
        let tree = kernel(&[
            ("kernel/crc32c-intel.ko", "alias=crypto-crc32c|alias=cpu:type:x86*"),
            ("kernel/crc32c_generic.ko.zst", "alias=crypto-crc32c"),
            ("kernel/ext4.ko", "depends=jbd2|softdep=pre: crypto-crc32c"),
            ("kernel/jbd2.ko", "softdep=pre: crypto-crc32c post: ext4"),
            ("kernel/ring1.ko", "softdep=pre: ring2"),
            ("kernel/ring2.ko", "softdep=pre: ring1"),
            ("kernel/uhci-hcd.ko", "depends=usbcore|softdep=pre: ehci_pci"),
            ("kernel/usbcore.ko", ""),
        ]);
        let index = ModuleIndex::read(&tree, "6.1.0-t").unwrap();
        let modules: Vec<ModuleId> = index.modules().map(|(id, _)| id).collect();
        let expected = "\
kernel/crc32c-intel.ko:
kernel/crc32c_generic.ko:
kernel/ext4.ko: kernel/jbd2.ko kernel/crc32c_generic.ko
kernel/jbd2.ko: kernel/crc32c_generic.ko
kernel/ring1.ko: kernel/ring2.ko
kernel/ring2.ko:
kernel/uhci-hcd.ko: kernel/usbcore.ko
kernel/usbcore.ko:
";
        assert_eq!(modules_dep(&index, &modules).unwrap(), expected);
        let expected = "softdep ext4 pre: crypto-crc32c\nsoftdep jbd2 pre: crypto-crc32c post: ext4\n";
        assert_eq!(modules_softdep(&index, &modules[..4]), expected);
    }

    #[test]
    fn ranges_are_spelt_out() {
        for (alias, expected) in [
            ("pci:v00001*", "pci:v00001*"),
            ("usb:d0[0-3]*", "usb:d0[0123]*"),
            ("usb:d[1-2][a-c]x", "usb:d[12][abc]x"),
            ("usb:d[0-1a-b-]", "usb:d[01ab-]"),
            ("crypto-crc32c", "crypto-crc32c"),
        ] {
            assert_eq!(without_ranges(alias).unwrap(), expected);
        }
        assert!(without_ranges("a[b").is_err());
    }
}
