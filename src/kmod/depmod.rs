//! The files modprobe reads.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use super::index::{ModuleId, ModuleIndex};
use crate::tree::Tree;

/// placeholder
pub fn depmod(_tree: &mut Tree, _version: &str) -> Result<()> {
    Ok(())
}

/// The text of modules.dep for some modules: a line each, `path: needed…`, all
/// that is needed in it, what must be loaded first at its end. `edges` gives
/// the direct dependencies and `path` the name in the file.
///
/// # Errors
/// Modules that need each other in a circle.
pub fn dep_text(
    index: &ModuleIndex,
    modules: &[ModuleId],
    edges: impl Fn(ModuleId) -> Vec<ModuleId>,
    path: impl Fn(ModuleId) -> String,
) -> Result<String> {
    let edges: BTreeMap<ModuleId, Vec<ModuleId>> = modules.iter().map(|&id| (id, edges(id))).collect();
    let rank = load_order(index, &edges)?;
    let mut text = String::new();
    for &id in modules {
        text.push_str(&path(id));
        text.push(':');
        let mut needed = reachable(id, &edges);
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
pub(super) fn load_order(
    index: &ModuleIndex,
    edges: &BTreeMap<ModuleId, Vec<ModuleId>>,
) -> Result<BTreeMap<ModuleId, usize>> {
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
pub(super) fn reachable(id: ModuleId, edges: &BTreeMap<ModuleId, Vec<ModuleId>>) -> Vec<ModuleId> {
    let mut seen = std::collections::BTreeSet::from([id]);
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
