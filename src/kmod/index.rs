//! The modules of one kernel: by name, by alias, with their dependencies.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};

use super::fnmatch::fnmatch;
use super::module::{Module, decompressed, normalized_name};
use crate::tree::{InodeId, Kind, Tree, display_path};

/// Where kernels keep their modules; the second is the place before merged /usr.
const MODULE_DIRS: [&str; 2] = ["usr/lib/modules", "lib/modules"];

/// Position of a module in its [`ModuleIndex`]; the order is that of modules.order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(pub(super) usize);

/// One module file of a tree.
#[derive(Clone, Debug)]
pub struct IndexedModule {
    /// Name with `_`, from the file name.
    pub name: String,
    /// Path below `lib/modules/<version>`: `kernel/fs/ext4/ext4.ko.xz`.
    pub path: String,
    /// The file.
    pub inode: InodeId,
    /// What it says of itself.
    pub module: Module,
    /// The modules whose symbols it uses, sorted.
    pub depends: Vec<ModuleId>,
    /// Names in `depends=` that are neither in the tree nor built in.
    pub missing_depends: Vec<String>,
}

impl IndexedModule {
    /// The path without the suffix of its compression: `kernel/fs/ext4/ext4.ko`.
    pub fn plain_path(&self) -> &str {
        plain_path(&self.path)
    }
}

/// The modules of one kernel version in one tree.
#[derive(Clone, Debug)]
pub struct ModuleIndex {
    /// Kernel release, `6.1.0-50-686`.
    pub version: String,
    /// Path of its directory in the tree, `usr/lib/modules/6.1.0-50-686`.
    pub directory: String,
    /// Names of what is compiled into the kernel, with `_`.
    pub builtin: BTreeSet<String>,
    /// Aliases of what is compiled in, as written, each with its module.
    pub builtin_aliases: Vec<(String, String)>,
    modules: Vec<IndexedModule>,
    by_name: BTreeMap<String, ModuleId>,
}

/// Kernel releases that have a module directory in this tree, sorted.
pub fn kernel_versions(tree: &Tree) -> Vec<String> {
    let directories = MODULE_DIRS.iter().filter_map(|dir| tree.entries(tree.get(dir.as_bytes())?));
    let names = directories.flatten().filter(|(_, id)| tree.entries(**id).is_some());
    let versions: BTreeSet<String> =
        names.map(|(name, _)| String::from_utf8_lossy(name.as_bytes()).into_owned()).collect();
    versions.into_iter().collect()
}

impl ModuleIndex {
    /// Reads every module of `version` in `usr/lib/modules` (or `lib/modules`).
    /// Of two files with one name the one below `updates/` counts, else the
    /// first path in byte order.
    ///
    /// # Errors
    /// No such kernel, and modules that cannot be read, by path.
    pub fn read(tree: &Tree, version: &str) -> Result<ModuleIndex> {
        let found = MODULE_DIRS.iter().map(|dir| format!("{dir}/{version}"));
        let Some(directory) = found.into_iter().find(|dir| tree.get(dir.as_bytes()).is_some()) else {
            let known = kernel_versions(tree).join(", ");
            bail!("kernel {version} has no modules in the tree (there are: {known})");
        };
        let mut files = module_files(tree, &directory)?;
        sort_files(&mut files, &text_lines(tree, &format!("{directory}/modules.order"))?);
        let modules = parse_all(tree, &files, &directory)?;
        let builtin_lines = text_lines(tree, &format!("{directory}/modules.builtin"))?;
        let mut index = ModuleIndex {
            version: version.to_string(),
            builtin: builtin_lines.iter().map(|path| module_name(path)).collect(),
            builtin_aliases: builtin_aliases(tree, &format!("{directory}/modules.builtin.modinfo"))?,
            directory,
            by_name: modules.iter().enumerate().map(|(n, m)| (m.name.clone(), ModuleId(n))).collect(),
            modules,
        };
        index.link();
        Ok(index)
    }

    /// Every module, in order.
    pub fn modules(&self) -> impl Iterator<Item = (ModuleId, &IndexedModule)> {
        self.modules.iter().enumerate().map(|(n, module)| (ModuleId(n), module))
    }

    /// One module.
    pub fn get(&self, id: ModuleId) -> &IndexedModule {
        &self.modules[id.0]
    }

    /// Number of modules.
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// Whether there is no module at all.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    /// The module of this name, `-` and `_` being equal.
    pub fn find(&self, name: &str) -> Option<ModuleId> {
        self.by_name.get(&normalized_name(name)).copied()
    }

    /// Names of all modules, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// The modules one of whose aliases matches, in order. `-` and `_` are equal outside brackets.
    pub fn find_alias(&self, alias: &str) -> Vec<ModuleId> {
        let wanted = normalized_name(alias);
        let matches = |m: &IndexedModule| m.module.aliases.iter().any(|a| alias_matches(a, &wanted));
        self.modules().filter(|(_, m)| matches(m)).map(|(id, _)| id).collect()
    }

    /// Whether something compiled into the kernel has this name or alias.
    pub fn is_builtin(&self, name_or_alias: &str) -> bool {
        let wanted = normalized_name(name_or_alias);
        self.builtin.contains(&wanted) || self.builtin_aliases.iter().any(|(a, _)| alias_matches(a, &wanted))
    }

    fn link(&mut self) {
        for n in 0..self.modules.len() {
            let (mut depends, mut missing) = (Vec::new(), Vec::new());
            for name in &self.modules[n].module.depends {
                match self.by_name.get(name) {
                    Some(&id) => depends.push(id),
                    None if self.builtin.contains(name) => {}
                    None => missing.push(name.clone()),
                }
            }
            depends.sort();
            depends.dedup();
            self.modules[n].depends = depends;
            self.modules[n].missing_depends = missing;
        }
    }
}

fn alias_matches(alias: &str, wanted: &str) -> bool {
    // Most of the tens of thousands of aliases differ in the bus before the colon.
    let first_differs = match (alias.as_bytes().first(), wanted.as_bytes().first()) {
        (Some(a), Some(w)) => a != w && !b"*?[\\-".contains(a),
        _ => false,
    };
    !first_differs && fnmatch(normalized_alias(alias).as_bytes(), wanted.as_bytes())
}

/// An alias as kmod indexes it: `-` becomes `_`, but not inside brackets.
pub(super) fn normalized_alias(alias: &str) -> String {
    let mut in_brackets = false;
    let replaced = alias.chars().map(|c| {
        in_brackets = (in_brackets || c == '[') && c != ']';
        if c == '-' && !in_brackets { '_' } else { c }
    });
    replaced.collect()
}

struct ModuleFile {
    name: String,
    path: String,
    inode: InodeId,
}

fn module_files(tree: &Tree, directory: &str) -> Result<Vec<ModuleFile>> {
    let top = tree.get(directory.as_bytes()).context("finding the module directory")?;
    let mut by_name: HashMap<String, ModuleFile> = HashMap::new();
    let mut pending = vec![(String::new(), top)];
    while let Some((path, id)) = pending.pop() {
        match &tree.inode(id).kind {
            Kind::Directory(entries) => {
                for (name, &child) in entries {
                    let word = std::str::from_utf8(name.as_bytes()).ok().filter(|n| is_plain_word(n));
                    let name = word.with_context(|| {
                        let name = display_path(name.as_bytes());
                        format!("`{directory}/{path}` has a file whose name is not plain ASCII without blanks: `{name}`")
                    })?;
                    let below = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
                    pending.push((below, child));
                }
            }
            Kind::File(_) if is_module(&path) => {
                let file = ModuleFile { name: module_name(&path), path, inode: id };
                match by_name.get(&file.name) {
                    Some(known) if priority(&known.path) <= priority(&file.path) => {}
                    _ => drop(by_name.insert(file.name.clone(), file)),
                }
            }
            _ => {}
        }
    }
    Ok(by_name.into_values().collect())
}

/// Module paths become words of lines in modules.dep.
fn is_plain_word(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_graphic())
}

fn priority(path: &str) -> (bool, &str) {
    (!path.starts_with("updates/"), path)
}

fn is_module(path: &str) -> bool {
    plain_path(path).ends_with(".ko")
}

fn plain_path(path: &str) -> &str {
    let suffixes = [".xz", ".zst", ".gz"];
    let stripped = suffixes.iter().find_map(|suffix| path.strip_suffix(suffix));
    stripped.filter(|p| p.ends_with(".ko")).unwrap_or(path)
}

/// `kernel/fs/nls/nls_iso8859-1.ko.xz` is module `nls_iso8859_1`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    normalized_name(file.split('.').next().unwrap_or(file))
}

fn sort_files(files: &mut [ModuleFile], order: &[String]) {
    let rank: HashMap<&str, usize> = order.iter().enumerate().map(|(n, path)| (path.as_str(), n)).collect();
    let key = |file: &ModuleFile| {
        let rank = rank.get(plain_path(&file.path)).copied().unwrap_or(usize::MAX);
        (rank, file.path.clone())
    };
    files.sort_by_cached_key(key);
}

/// Parses on every processor; the result keeps the order of `files`.
fn parse_all(tree: &Tree, files: &[ModuleFile], directory: &str) -> Result<Vec<IndexedModule>> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let share = files.len().div_ceil(workers).max(1);
    let parse_share = |share: &[ModuleFile]| -> Result<Vec<IndexedModule>> {
        share.iter().map(|file| parse_file(tree, file, directory)).collect()
    };
    std::thread::scope(|scope| {
        let shares: Vec<_> =
            files.chunks(share).map(|share| scope.spawn(move || parse_share(share))).collect();
        let mut modules = Vec::with_capacity(files.len());
        for share in shares {
            modules.extend(share.join().expect("parsing a module does not panic")?);
        }
        Ok(modules)
    })
}

fn parse_file(tree: &Tree, file: &ModuleFile, directory: &str) -> Result<IndexedModule> {
    let module = plain_module(tree, file.inode).and_then(|ko| Module::parse(&ko));
    let module = module.with_context(|| format!("reading module `{directory}/{}`", file.path))?;
    let (name, path) = (file.name.clone(), file.path.clone());
    Ok(IndexedModule {
        name,
        path,
        inode: file.inode,
        module,
        depends: Vec::new(),
        missing_depends: Vec::new(),
    })
}

/// The unpacked bytes of a module file.
fn plain_module(tree: &Tree, id: InodeId) -> Result<Vec<u8>> {
    let Kind::File(content) = &tree.inode(id).kind else {
        bail!("it is not a regular file");
    };
    decompressed(content.read_all()?)
}

impl ModuleIndex {
    /// The plain `.ko` of a module, unpacked when the tree has it compressed;
    /// a signature at its end stays.
    ///
    /// # Errors
    /// When it cannot be read or unpacked, by path.
    pub fn plain_module(&self, tree: &Tree, id: ModuleId) -> Result<Vec<u8>> {
        let module = self.get(id);
        plain_module(tree, module.inode)
            .with_context(|| format!("reading module `{}/{}`", self.directory, module.path))
    }
}

/// Lines of a small text file; a missing file has none.
fn text_lines(tree: &Tree, path: &str) -> Result<Vec<String>> {
    let bytes = file_bytes(tree, path)?;
    let text = std::str::from_utf8(&bytes).with_context(|| format!("`{path}` is not text"))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_string).collect())
}

fn file_bytes(tree: &Tree, path: &str) -> Result<Vec<u8>> {
    let Some(id) = tree.get(path.as_bytes()) else {
        return Ok(Vec::new());
    };
    let Kind::File(content) = &tree.inode(id).kind else {
        bail!("`{path}` is not a regular file");
    };
    content.read_all().with_context(|| format!("reading `{path}`"))
}

/// `module.key=value` records with NULs between them.
fn builtin_aliases(tree: &Tree, path: &str) -> Result<Vec<(String, String)>> {
    let mut aliases = Vec::new();
    for record in file_bytes(tree, path)?.split(|&b| b == 0) {
        let Ok(text) = std::str::from_utf8(record) else {
            continue; // authors' names may be in Latin-1
        };
        let Some((module, alias)) = text.split_once(".alias=") else {
            continue;
        };
        ensure!(
            alias.is_ascii(),
            "`{path}` has an alias that is not ASCII: {}",
            display_path(alias.as_bytes())
        );
        if !module.contains(['.', '=']) {
            aliases.push((alias.to_string(), module.to_string()));
        }
    }
    Ok(aliases)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmod::testing::{add_text, kernel};

    fn paths(index: &ModuleIndex) -> Vec<&str> {
        index.modules().map(|(_, m)| m.path.as_str()).collect()
    }

    #[test]
    fn modules_come_in_the_order_of_modules_order() {
        let mut tree = kernel(&[
            ("kernel/a.ko", ""),
            ("kernel/b-x.ko.zst", ""),
            ("kernel/c.ko", ""),
            ("build/d.txt", ""),
            ("misc/z.ko", ""),
        ]);
        add_text(&mut tree, "modules.order", "kernel/c.ko\nkernel/b-x.ko\n");
        let index = ModuleIndex::read(&tree, "6.1.0-t").unwrap();
        assert_eq!(paths(&index), ["kernel/c.ko", "kernel/b-x.ko.zst", "kernel/a.ko", "misc/z.ko"]);
        assert_eq!(index.names().collect::<Vec<_>>(), ["a", "b_x", "c", "z"]);
        let found = index.find("b-x").unwrap();
        assert_eq!(found, index.find("b_x").unwrap());
        assert_eq!(index.get(found).plain_path(), "kernel/b-x.ko");
        assert!(index.plain_module(&tree, found).unwrap().starts_with(b"\x7fELF"));
    }

    #[test]
    fn updates_come_before_the_kernels_own() {
        let tree = kernel(&[("kernel/net/r-x.ko", ""), ("updates/r_x.ko", ""), ("extra/r_x.ko", "")]);
        assert_eq!(paths(&ModuleIndex::read(&tree, "6.1.0-t").unwrap()), ["updates/r_x.ko"]);
        let tree = kernel(&[("kernel/net/r-x.ko", ""), ("extra/r_x.ko", "")]);
        assert_eq!(paths(&ModuleIndex::read(&tree, "6.1.0-t").unwrap()), ["extra/r_x.ko"]);
    }

    #[test]
    fn aliases_match_devices_and_names() {
        let mut tree = kernel(&[
            ("kernel/a.ko", "alias=pci:v00001000d*|alias=crypto-x-y"),
            ("kernel/b.ko", "alias=pci:v0000100[0-3]d*"),
        ]);
        add_text(&mut tree, "modules.builtin", "kernel/fs/in-side.ko\n");
        add_text(
            &mut tree,
            "modules.builtin.modinfo",
            "inside.license=GPL\0inside.alias=fs-inside\0in.author=\u{e9}\0",
        );
        let index = ModuleIndex::read(&tree, "6.1.0-t").unwrap();
        let names = |alias: &str| {
            let found = index.find_alias(alias).into_iter();
            found.map(|id| index.get(id).name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(names("pci:v00001000d00000001"), ["a", "b"]);
        assert_eq!(names("pci:v00001002d00000001"), ["b"]);
        assert_eq!(names("crypto_x-y"), ["a"]);
        assert_eq!(names("usb:x"), Vec::<&str>::new());
        for name in ["in_side", "in-side", "fs-inside"] {
            assert!(index.is_builtin(name), "{name}");
        }
        assert!(!index.is_builtin("inside2"));
        assert_eq!(index.builtin_aliases, [("fs-inside".to_string(), "inside".to_string())]);
    }

    #[test]
    fn mistakes_name_the_kernel_or_the_file() {
        let mut tree = kernel(&[("kernel/a.ko", "")]);
        let refusal =
            |tree: &Tree, version: &str| format!("{:#}", ModuleIndex::read(tree, version).unwrap_err());
        assert_eq!(refusal(&tree, "5.0"), "kernel 5.0 has no modules in the tree (there are: 6.1.0-t)");
        add_text(&mut tree, "kernel/b.ko", "junk");
        assert_eq!(
            refusal(&tree, "6.1.0-t"),
            "reading module `usr/lib/modules/6.1.0-t/kernel/b.ko`: it is too short for an ELF file"
        );
        let spaced = kernel(&[("kernel/a b.ko", "")]);
        assert_eq!(
            refusal(&spaced, "6.1.0-t"),
            "`usr/lib/modules/6.1.0-t/kernel` has a file whose name is not plain ASCII without blanks: `a b.ko`"
        );
    }
}
