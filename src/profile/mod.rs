//! What the user wrote: `profile.toml` and the package list files beside it,
//! as written. Everything is optional, every value knows its place, nothing is
//! decided here; see [`crate::resolve`] for that.
//!
//! The text is TOML 1.0. Keys are archiso's words where it has one, in kebab-case.

mod table;
pub(crate) use table::type_name;

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::diagnostic::{Diagnostics, Place, Spanned};
use table::Table;

/// A string of the profile.
pub type Text = Spanned<String>;

/// The keys of `profile.toml` outside any table, and the tables.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the keys are explained where they are resolved, in plan.rs")]
pub struct Profile {
    /// The directory the user named.
    pub dir: PathBuf,
    /// Where to point for what is missing; the first line that says something.
    pub start: Option<Place>,
    /// Whether `iso-name` is there in some form, if only misspelt or of a wrong type.
    pub has_iso_name: bool,
    pub iso_name: Option<Text>,
    pub iso_version: Option<Text>,
    pub iso_label: Option<Text>,
    pub iso_publisher: Option<Text>,
    pub iso_application: Option<Text>,
    pub iso_layout: Option<Text>,
    pub disk_image: Option<Text>,
    pub install_dir: Option<Text>,
    pub arch: Option<Text>,
    pub bootmodes: Option<Spanned<Vec<Text>>>,
    /// The `packages` key, then the files `packages` and `packages.<arch>`.
    pub packages: Vec<Text>,
    /// How many of these, from the first on, are for a second root too: those of no architecture.
    pub shared_packages: usize,
    /// What the second root has besides: its own key, then the file `packages.amd64`.
    pub second_packages: Vec<Text>,
    pub debian: DebianTable,
    pub root: RootTable,
    pub file_permissions: Vec<(Text, Text)>,
    pub kernel: KernelTable,
    pub initramfs: InitramfsTable,
    pub boot: BootTable,
    pub budget: BudgetTable,
}

/// `[debian]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "as in Profile")]
pub struct DebianTable {
    pub suite: Option<Text>,
    pub mirror: Option<Text>,
    pub security_mirror: Option<Text>,
    pub components: Option<Spanned<Vec<Text>>>,
    pub security: Option<Text>,
    pub updates: Option<Spanned<bool>>,
}

/// `[root]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "as in Profile")]
pub struct RootTable {
    pub mode: Option<Text>,
    pub exclude: Option<Spanned<Vec<Text>>>,
    pub description: Option<Text>,
    pub format: Option<Text>,
    pub compression: Option<Text>,
    pub level: Option<Spanned<i64>>,
    pub block_size: Option<Text>,
    pub verity: Option<Spanned<bool>>,
    /// The second root's table, by its name in the header.
    pub amd64: Option<Place>,
}

/// `[kernel]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "as in Profile")]
pub struct KernelTable {
    pub package: Option<Text>,
    pub amd64: Option<SecondKernelTable>,
}

/// `[kernel.amd64]`
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "as in Profile")]
pub struct SecondKernelTable {
    /// The table's name in its header.
    pub place: Place,
    pub package: Option<Text>,
    pub suite: Option<Text>,
}

/// `[initramfs]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "as in Profile")]
pub struct InitramfsTable {
    pub compression: Option<Text>,
    pub default_modules: Option<Spanned<bool>>,
    pub modules: Option<Spanned<Vec<Text>>>,
    pub optional_modules: Option<Spanned<Vec<Text>>>,
    pub layout: Option<Text>,
    pub description: Option<Text>,
    pub microcode: Option<Spanned<SwitchOrFiles>>,
    pub programs: Option<Spanned<Vec<Text>>>,
    pub hooks: HooksTable,
}

/// `[initramfs.hooks]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "as in Profile")]
pub struct HooksTable {
    pub media: Option<Spanned<Vec<Text>>>,
    pub mount: Option<Spanned<Vec<Text>>>,
    pub bottom: Option<Spanned<Vec<Text>>>,
}

/// `true`, `false`, or names of files.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the variants say it")]
pub enum SwitchOrFiles {
    Switch(bool),
    Files(Vec<Text>),
}

/// `[boot]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "as in Profile")]
pub struct BootTable {
    pub title: Option<Text>,
    pub timeout: Option<Spanned<i64>>,
    pub kernel_parameters: Option<Text>,
    pub serial: Option<Text>,
    pub secure_boot: Option<Spanned<bool>>,
}

/// `[budget]`
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "as in Profile")]
pub struct BudgetTable {
    pub initramfs: Option<Text>,
    pub memory: Option<Text>,
    pub iso_size: Option<Text>,
    pub min_ram: Option<Text>,
    pub available_at_128: Option<Text>,
}

/// Reads a profile directory. `None` when there is nothing to go on with: no
/// `profile.toml`, or one that is no TOML; the diagnostics say why.
pub fn load(dir: &Path, diagnostics: &mut Diagnostics) -> Option<Profile> {
    let path = dir.join("profile.toml");
    if let Some((message, help)) = why_no_profile(dir, &path) {
        diagnostics.path_error(&path, message).help(help);
        return None;
    }
    let text = read_text(&path, diagnostics)?;
    let file = diagnostics.add_file(&path, text.clone());
    let mut profile = parse(&text, file, diagnostics)?;
    profile.dir = dir.to_path_buf();
    let arch = profile.arch.as_ref().map_or("i386".to_string(), |a| a.value.clone());
    profile.packages.extend(package_file(dir, "packages", diagnostics));
    profile.shared_packages = profile.packages.len();
    profile.packages.extend(package_file(dir, &format!("packages.{arch}"), diagnostics));
    if profile.root.amd64.is_some() && arch != "amd64" {
        profile.second_packages.extend(package_file(dir, "packages.amd64", diagnostics));
    }
    Some(profile)
}

fn why_no_profile(dir: &Path, path: &Path) -> Option<(&'static str, &'static str)> {
    if !dir.exists() {
        Some(("there is no such profile", "a profile is a directory with a file `profile.toml`"))
    } else if !dir.is_dir() {
        Some(("a profile is a directory, but this is a file", "name the directory that holds profile.toml"))
    } else if path.symlink_metadata().is_err() {
        Some(("the profile has no file `profile.toml`", "the smallest one is the line `iso-name = \"name\"`"))
    } else {
        None
    }
}

/// Reads a UTF-8 file; `None` after a report.
pub(crate) fn read_text(path: &Path, diagnostics: &mut Diagnostics) -> Option<String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            diagnostics.path_error(path, format!("`{name}` cannot be read: {error}"));
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let good = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..good].iter().filter(|&&b| b == b'\n').count() + 1;
            diagnostics
                .path_error(path, format!("`{name}` is not UTF-8 in line {line}"))
                .help("save the file with the encoding UTF-8");
            None
        }
    }
}

/// Reads the text of a `profile.toml` that is registered as `file`.
pub fn parse(text: &str, file: usize, diagnostics: &mut Diagnostics) -> Option<Profile> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        diagnostics.error(&Place::new(file, span), syntax_message(error.message()));
    }
    // After a real syntax error the rest of the document is guesswork.
    if errors.iter().any(|e| !e.message().starts_with("duplicate key")) {
        return None;
    }
    let mut top = Table::new("", document.into_inner(), file, diagnostics);
    let mut profile = Profile {
        dir: PathBuf::new(),
        start: Some(Place::new(file, first_line(text))),
        has_iso_name: top.resembles("iso-name"),
        iso_name: top.string("iso-name"),
        iso_version: top.string("iso-version"),
        iso_label: top.string("iso-label"),
        iso_publisher: top.string("iso-publisher"),
        iso_application: top.string("iso-application"),
        iso_layout: top.string("iso-layout"),
        disk_image: top.string("disk-image"),
        install_dir: top.string("install-dir"),
        arch: top.string("arch"),
        bootmodes: top.strings("bootmodes"),
        packages: top.strings("packages").map(|list| list.value).unwrap_or_default(),
        shared_packages: 0,
        second_packages: Vec::new(),
        debian: top.table("debian", debian_table).unwrap_or_default(),
        root: RootTable::default(),
        file_permissions: top.table("file-permissions", |t| t.string_pairs()).unwrap_or_default(),
        kernel: top.table("kernel", kernel_table).unwrap_or_default(),
        initramfs: top.table("initramfs", initramfs_table).unwrap_or_default(),
        boot: top.table("boot", boot_table).unwrap_or_default(),
        budget: top.table("budget", budget_table).unwrap_or_default(),
    };
    if let Some((root, packages)) = top.table("root", root_table) {
        profile.root = root;
        profile.second_packages = packages;
    }
    top.finish();
    Some(profile)
}

fn debian_table(table: &mut Table) -> DebianTable {
    DebianTable {
        suite: table.string("suite"),
        mirror: table.string("mirror"),
        security_mirror: table.string("security-mirror"),
        components: table.strings("components"),
        security: table.string("security"),
        updates: table.boolean("updates"),
    }
}

/// The table, and the packages of its second root.
fn root_table(table: &mut Table) -> (RootTable, Vec<Text>) {
    let place = table.place_of("amd64");
    let second = table.table("root.amd64", |t| t.strings("packages"));
    let amd64 = place.filter(|_| second.is_some());
    let root = RootTable {
        mode: table.string("mode"),
        exclude: table.strings("exclude"),
        description: table.string("description"),
        format: table.string("format"),
        compression: table.string("compression"),
        level: table.integer("level"),
        block_size: table.string("block-size"),
        verity: table.boolean("verity"),
        amd64,
    };
    (root, second.flatten().map(|list| list.value).unwrap_or_default())
}

fn initramfs_table(table: &mut Table) -> InitramfsTable {
    InitramfsTable {
        compression: table.string("compression"),
        default_modules: table.boolean("default-modules"),
        modules: table.strings("modules"),
        optional_modules: table.strings("optional-modules"),
        layout: table.string("layout"),
        description: table.string("description"),
        microcode: table.switch_or_files("microcode"),
        programs: table.strings("programs"),
        hooks: table.table("hooks", hooks_table).unwrap_or_default(),
    }
}

fn hooks_table(table: &mut Table) -> HooksTable {
    HooksTable {
        media: table.strings("media"),
        mount: table.strings("mount"),
        bottom: table.strings("bottom"),
    }
}

fn kernel_table(table: &mut Table) -> KernelTable {
    let place = table.place_of("amd64");
    let package = table.string("package");
    let second = table.table("kernel.amd64", |t| (t.string("package"), t.string("suite")));
    let amd64 = second.zip(place);
    let amd64 = amd64.map(|((package, suite), place)| SecondKernelTable { place, package, suite });
    KernelTable { package, amd64 }
}

fn budget_table(table: &mut Table) -> BudgetTable {
    BudgetTable {
        initramfs: table.string("initramfs"),
        memory: table.string("memory"),
        iso_size: table.string("iso-size"),
        min_ram: table.string("min-ram"),
        available_at_128: table.string("available-at-128"),
    }
}

fn boot_table(table: &mut Table) -> BootTable {
    BootTable {
        title: table.string("title"),
        timeout: table.integer("timeout"),
        kernel_parameters: table.string("kernel-parameters"),
        serial: table.string("serial"),
        secure_boot: table.boolean("secure-boot"),
    }
}

/// The TOML library's message on one line.
fn syntax_message(message: &str) -> String {
    message.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(", ")
}

/// The first line that says something, as the place of what is missing.
fn first_line(text: &str) -> Range<usize> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let content = line.trim();
        if !content.is_empty() && !content.starts_with('#') {
            return start..start + line.trim_end().len();
        }
        start += line.len();
    }
    0..0
}

/// archiso's habit: names one a line, `#` starts a comment, in a file for every
/// architecture and one for this.
fn package_file(dir: &Path, file_name: &str, diagnostics: &mut Diagnostics) -> Vec<Text> {
    let path = dir.join(file_name);
    // The arch is still as written: it must not lead to another directory.
    if file_name.contains('/') || path.symlink_metadata().is_err() {
        return Vec::new();
    }
    let Some(text) = read_text(&path, diagnostics) else { return Vec::new() };
    let file = diagnostics.add_file(&path, text.clone());
    package_lines(&text, file)
}

fn package_lines(text: &str, file: usize) -> Vec<Text> {
    let mut names = Vec::new();
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let content = line.split('#').next().unwrap_or_default();
        let mut at = 0;
        for word in content.split_whitespace() {
            let start = at + content[at..].find(word).expect("split_whitespace yields parts of its input");
            at = start + word.len();
            let place = Place::new(file, offset + start..offset + at);
            names.push(Spanned { value: word.to_string(), place });
        }
        offset += line.len();
    }
    names
}
