//! The files modprobe reads, as `depmod` would write them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use super::index::{IndexedModule, ModuleId, ModuleIndex, normalized_alias};
use super::trie::Trie;
use crate::tree::{Content, Meta, Tree};

/// Writes `modules.dep`, `.alias`, `.softdep`, `.symbols`, `.devname` and the
/// `.bin` indexes next to the modules of one kernel, all with `mtime`: what a
/// kernel package's maintainer script has `depmod` do.
///
/// # Errors
/// As [`ModuleIndex::read`], and modules that need each other in a circle.
pub fn depmod(tree: &mut Tree, version: &str, mtime: i64) -> Result<()> {
    let index = ModuleIndex::read(tree, version)?;
    let origin = tree.add_origin("depmod");
    for (name, bytes) in index_files(&index).with_context(|| format!("indexing the modules of {version}"))? {
        let path = format!("{}/{name}", index.directory);
        tree.add_file(path.as_bytes(), Content::bytes(bytes), Meta { mtime, ..Meta::mode(0o644) }, origin)?;
    }
    Ok(())
}

/// Every file by name.
fn index_files(index: &ModuleIndex) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let edges: Edges = index.modules().map(|(id, module)| (id, module.depends.clone())).collect();
    let dep = dep_text(index, &edges, |id| index.get(id).path.clone())?;
    let symbols = symbols(index);
    Ok(vec![
        ("modules.alias", alias_text(index).into_bytes()),
        ("modules.alias.bin", alias_trie(index)?.to_bytes()?),
        ("modules.builtin.alias.bin", builtin_alias_trie(index)?.to_bytes()?),
        ("modules.builtin.bin", builtin_trie(index)?.to_bytes()?),
        ("modules.dep.bin", dep_trie(index, &dep)?.to_bytes()?),
        ("modules.dep", dep.into_bytes()),
        ("modules.devname", devname_text(index).into_bytes()),
        ("modules.softdep", softdep_text(index).into_bytes()),
        ("modules.symbols", symbol_text(index, &symbols).into_bytes()),
        ("modules.symbols.bin", symbol_trie(index, &symbols)?.to_bytes()?),
    ])
}

fn alias_text(index: &ModuleIndex) -> String {
    let lines = index
        .modules()
        .flat_map(|(_, m)| m.module.aliases.iter().map(|alias| format!("alias {alias} {}\n", m.name)));
    std::iter::once("# What devices and programs may ask for, and the module that serves it.\n".to_string())
        .chain(lines)
        .collect()
}

fn alias_trie(index: &ModuleIndex) -> Result<Trie> {
    let mut trie = Trie::default();
    for (ModuleId(n), module) in index.modules() {
        for alias in &module.module.aliases {
            trie.insert(&normalized_alias(alias), &module.name, n)?;
        }
    }
    Ok(trie)
}

fn builtin_alias_trie(index: &ModuleIndex) -> Result<Trie> {
    let mut trie = Trie::default();
    for (alias, module) in &index.builtin_aliases {
        trie.insert(&normalized_alias(alias), module, 0)?;
    }
    Ok(trie)
}

fn builtin_trie(index: &ModuleIndex) -> Result<Trie> {
    let mut trie = Trie::default();
    for name in &index.builtin {
        trie.insert(name, "", 0)?;
    }
    Ok(trie)
}

/// Each line of modules.dep by the name of its module.
fn dep_trie(index: &ModuleIndex, dep: &str) -> Result<Trie> {
    let mut trie = Trie::default();
    for ((ModuleId(n), module), line) in index.modules().zip(dep.lines()) {
        trie.insert(&module.name, line, n)?;
    }
    Ok(trie)
}

fn softdep_text(index: &ModuleIndex) -> String {
    let lines = index.modules().flat_map(|(_, m)| {
        m.module.softdeps.iter().map(|softdep| format!("softdep {} {}\n", m.name, softdep.text))
    });
    std::iter::once("# Modules to load before or after others, where there are any.\n".to_string())
        .chain(lines)
        .collect()
}

/// Exported symbols and who exports them; of two the later module counts, as in kmod.
fn symbols(index: &ModuleIndex) -> BTreeMap<&str, ModuleId> {
    let exports = index.modules().flat_map(|(id, m)| m.module.exports.iter().map(move |s| (s.as_str(), id)));
    exports.collect()
}

fn symbol_text(index: &ModuleIndex, symbols: &BTreeMap<&str, ModuleId>) -> String {
    let lines = symbols.iter().map(|(symbol, &id)| format!("alias symbol:{symbol} {}\n", index.get(id).name));
    std::iter::once("# Who exports what, for the kernel's symbol_request().\n".to_string())
        .chain(lines)
        .collect()
}

fn symbol_trie(index: &ModuleIndex, symbols: &BTreeMap<&str, ModuleId>) -> Result<Trie> {
    let mut trie = Trie::default();
    for (symbol, &id) in symbols {
        trie.insert(&format!("symbol:{symbol}"), &index.get(id).name, id.0)?;
    }
    Ok(trie)
}

/// Device nodes whose opening loads a module; `kmod static-nodes` makes them at boot.
fn devname_text(index: &ModuleIndex) -> String {
    let mut text = String::new();
    for (_, module) in index.modules() {
        if let Some((name, node)) = device_node(module) {
            if text.is_empty() {
                text.push_str("# Device nodes to make at boot: opening one loads its module.\n");
            }
            text.push_str(&format!("{} {name} {node}\n", module.name));
        }
    }
    text
}

/// `devname:` and `char-major-…` aliases of one module, `("fuse", "c10:229")`.
fn device_node(module: &IndexedModule) -> Option<(&str, String)> {
    let aliases = || module.module.aliases.iter();
    let name = aliases().find_map(|alias| alias.strip_prefix("devname:"))?;
    let number = |alias: &str| {
        let (class, rest) = match alias.strip_prefix("char-major-") {
            Some(rest) => ('c', rest),
            None => ('b', alias.strip_prefix("block-major-")?),
        };
        let (major, minor) = rest.split_once('-')?;
        Some(format!("{class}{}:{}", major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
    };
    Some((name, aliases().find_map(|alias| number(alias))?))
}
/// Modules and what each needs directly.
pub type Edges = BTreeMap<ModuleId, Vec<ModuleId>>;

/// The text of modules.dep: a line each, `path: needed…`, all that is needed in
/// it, what must be loaded first at its end. `path` is the name in the file.
///
/// # Errors
/// Modules that need each other in a circle.
pub fn dep_text(index: &ModuleIndex, edges: &Edges, path: impl Fn(ModuleId) -> String) -> Result<String> {
    let rank = load_order(index, edges)?;
    let mut text = String::new();
    for &id in edges.keys() {
        text.push_str(&path(id));
        text.push(':');
        let mut needed = reachable(id, edges);
        needed.sort_by_key(|other| std::cmp::Reverse(rank[other]));
        for other in needed {
            text.push(' ');
            text.push_str(&path(other));
        }
        text.push('\n');
    }
    Ok(text)
}

/// Ranks modules so that each comes after all it needs.
fn load_order(index: &ModuleIndex, edges: &Edges) -> Result<BTreeMap<ModuleId, usize>> {
    // Depth-first with an explicit stack of (module, next edge).
    let mut rank = BTreeMap::new();
    for &top in edges.keys() {
        let mut path = if rank.contains_key(&top) { vec![] } else { vec![(top, 0)] };
        while let Some((id, next)) = path.last_mut() {
            let id = *id;
            let edge = edges.get(&id).and_then(|e| e.get(*next)).copied();
            *next += 1;
            match edge {
                None => {
                    rank.insert(id, rank.len());
                    path.pop();
                }
                Some(other) if rank.contains_key(&other) => {}
                Some(other) => {
                    if let Some(start) = path.iter().position(|(id, _)| *id == other) {
                        let names: Vec<_> =
                            path[start..].iter().map(|(id, _)| &index.get(*id).name[..]).collect();
                        bail!("kernel modules need each other in a circle: {}", names.join(", "));
                    }
                    path.push((other, 0));
                }
            }
        }
    }
    Ok(rank)
}

/// Everything a module needs, directly or not, without itself.
pub fn reachable(id: ModuleId, edges: &Edges) -> Vec<ModuleId> {
    let mut seen = BTreeSet::from([id]);
    let mut pending = vec![id];
    while let Some(id) = pending.pop() {
        for &other in edges.get(&id).into_iter().flatten() {
            if seen.insert(other) {
                pending.push(other);
            }
        }
    }
    seen.remove(&id);
    seen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmod::testing::kernel;
    use crate::tree::Kind;

    #[test]
    fn the_texts_of_a_small_kernel() {
        let mut tree = kernel(&[
            ("kernel/a.ko.zst", "depends=b,c|alias=x:*|alias=char-major-10-229|alias=devname:net/a"),
            ("kernel/b.ko", "depends=c|softdep=pre: a"),
            ("kernel/c.ko", "alias=block-major-9-*|alias=devname:c"),
            ("kernel/d.ko", ""),
        ]);
        depmod(&mut tree, "6.1.0-t", 5).unwrap();
        let text = |name: &str| {
            let inode = tree.inode(tree.get(format!("usr/lib/modules/6.1.0-t/{name}").as_bytes()).unwrap());
            let Kind::File(content) = &inode.kind else { panic!("{name}") };
            assert_eq!((inode.mode, inode.mtime), (0o644, 5));
            String::from_utf8(content.read_all().unwrap()).unwrap()
        };
        let dep = "kernel/a.ko.zst: kernel/b.ko kernel/c.ko\nkernel/b.ko: kernel/c.ko\nkernel/c.ko:\nkernel/d.ko:\n";
        assert_eq!(text("modules.dep"), dep);
        assert_eq!(text("modules.softdep").lines().last(), Some("softdep b pre: a"));
        assert_eq!(text("modules.devname").lines().skip(1).collect::<Vec<_>>(), ["a net/a c10:229"]);
        let aliases = ["x:* a", "char-major-10-229 a", "devname:net/a a", "block-major-9-* c", "devname:c c"];
        let aliases = aliases.map(|alias| format!("alias {alias}"));
        assert_eq!(text("modules.alias").lines().skip(1).collect::<Vec<_>>(), aliases);
    }

    #[test]
    fn circles_are_named() {
        let mut tree = kernel(&[
            ("kernel/a.ko", "depends=b"),
            ("kernel/b.ko", "depends=c"),
            ("kernel/c.ko", "depends=b"),
        ]);
        let error = format!("{:#}", depmod(&mut tree, "6.1.0-t", 0).unwrap_err());
        assert_eq!(
            error,
            "indexing the modules of 6.1.0-t: kernel modules need each other in a circle: b, c"
        );
    }
}
