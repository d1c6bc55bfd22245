//! `[initramfs]` and `[budget]`.

use std::path::Path;

use globset::GlobBuilder;

use super::description::{self, Whose, pin};
use super::hooks;
use super::value::{bytes_of, choose, without_duplicates};
use crate::diagnostic::{Diagnostics, Spanned};
use crate::initramfs::{ModuleList, default_modules, microcode_vendor};
use crate::plan::{Budget, Compression, Initramfs, InputFile, Layout, Microcode, RootFormat};
use crate::profile::{BudgetTable, InitramfsTable, Profile, RootTable, SwitchOrFiles, Text};

/// What unpacking may take when the profile does not say: the machine this
/// program is made for. A resident root is as large as it is.
const DEFAULT_MEMORY_BUDGET: u64 = 128 << 20;

/// What mounts an EROFS root; the default set, made for squashfs, lacks it.
const EROFS_MODULE: &str = "erofs";

pub(super) fn initramfs(
    dir: &Path,
    profile: &Profile,
    format: RootFormat,
    diagnostics: &mut Diagnostics,
) -> Initramfs {
    let table = &profile.initramfs;
    let layouts = [("plain", Layout::Plain), ("squashed", Layout::Squashed), ("resident", Layout::Resident)];
    let layout = table.layout.as_ref().and_then(|l| choose(l, "layout", &layouts, diagnostics));
    if let (RootFormat::Erofs, Some(Layout::Resident), Some(written)) = (format, layout, &profile.root.format)
    {
        let message = "`format` is of no use here: with `layout = \"resident\"` there is no root image";
        diagnostics.error(&written.place, message).help("leave `format` out");
    }
    let choices = [("zstd", Compression::Zstd), ("xz", Compression::Xz)];
    let written = table.compression.as_ref();
    let mut required = modules(table.modules.as_ref(), diagnostics);
    if format == RootFormat::Erofs && !required.iter().any(|name| name == EROFS_MODULE) {
        required.push(EROFS_MODULE.to_string());
    }
    let optional = modules(table.optional_modules.as_ref(), diagnostics);
    // A machine with little memory is short of it while the archive is unpacked,
    // so a profile for such machines names its few modules itself.
    let wants_defaults = table.default_modules.as_ref().is_none_or(|wanted| wanted.value);
    let defaults = if wants_defaults { default_modules() } else { ModuleList::default() };
    let mut optional_defaults = defaults.optional;
    // What the profile insists on is no longer optional.
    optional_defaults.retain(|name| !required.contains(name));
    Initramfs {
        layout: layout.unwrap_or_default(),
        compression: written
            .and_then(|c| choose(c, "initramfs compression", &choices, diagnostics))
            .unwrap_or(Compression::Xz),
        modules: with_defaults(defaults.required, required),
        optional_modules: with_defaults(optional_defaults, optional),
        description: description::description(dir, table.description.as_ref(), Whose::Initramfs, diagnostics),
        microcode: microcode(dir, table.microcode.as_ref(), diagnostics),
        programs: hooks::programs(table.programs.as_ref(), diagnostics),
        hooks: hooks::hooks(dir, &table.hooks, layout.unwrap_or_default(), diagnostics),
    }
}

/// What opens an image by its hash tree. The device mapper asks for the digest by
/// name while it is opened, so that no dependency of a module mentions it.
const VERITY_MODULES: [&str; 2] = ["dm-verity", "sha256_generic"];

/// Adds what `verity` under [root] takes.
pub(super) fn for_verity(table: &RootTable, initramfs: &mut Initramfs, diagnostics: &mut Diagnostics) {
    let Some(written) = table.verity.as_ref().filter(|wanted| wanted.value) else {
        return;
    };
    if initramfs.layout == Layout::Resident {
        diagnostics
            .error(
                &written.place,
                "`verity` checks an image on the medium, but the layout `resident` has none",
            )
            .help("remove it, or choose another `layout` under [initramfs]");
        return;
    }
    for name in VERITY_MODULES {
        initramfs.optional_modules.retain(|optional| optional != name);
        if !initramfs.modules.iter().any(|module| module == name) {
            initramfs.modules.push(name.to_string());
        }
    }
}

/// The default modules, then the profile's.
fn with_defaults(defaults: Vec<String>, extra: Vec<String>) -> Vec<String> {
    let new: Vec<String> = extra.into_iter().filter(|name| !defaults.contains(name)).collect();
    defaults.into_iter().chain(new).collect()
}

fn modules(written: Option<&Spanned<Vec<Text>>>, diagnostics: &mut Diagnostics) -> Vec<String> {
    let Some(written) = written else {
        return Vec::new();
    };
    let names = without_duplicates(&written.value, "module", diagnostics);
    let mut kept = Vec::new();
    for (name, place) in names {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_/*?[]{},!.+".contains(c);
        if name.is_empty() || !name.chars().all(allowed) || GlobBuilder::new(&name).build().is_err() {
            diagnostics
                .error(&place, format!("`{name}` is no module name or pattern"))
                .help("write `pata_via`, or a glob below the kernel's directory: `drivers/ata/pata_*`");
        } else if let Some(bare) =
            [".ko.xz", ".ko.zst", ".ko.gz", ".ko"].iter().find_map(|s| name.strip_suffix(s))
        {
            diagnostics
                .error(&place, format!("module `{name}` is written with the ending of its file"))
                .help(format!("write `{bare}`"));
        } else {
            kept.push(name);
        }
    }
    kept
}

/// Packages that carry the microcode of both vendors.
pub(super) const MICROCODE_PACKAGES: [&str; 2] = ["amd64-microcode", "intel-microcode"];
/// Debian's component that has them since bookworm.
const MICROCODE_COMPONENT: &str = "non-free-firmware";

/// Whether the packages are wanted.
pub(super) fn wants_microcode_packages(table: &InitramfsTable) -> bool {
    matches!(table.microcode.as_ref().map(|m| &m.value), Some(SwitchOrFiles::Switch(true)))
}

/// Reports microcode that no wanted component of the archive has.
pub(super) fn check_microcode_component(
    table: &InitramfsTable,
    components: &[String],
    diagnostics: &mut Diagnostics,
) {
    if let Some(written) = table.microcode.as_ref().filter(|_| wants_microcode_packages(table))
        && !components.is_empty()
        && !components.iter().any(|c| c == MICROCODE_COMPONENT || c == "non-free")
    {
        diagnostics
            .error(&written.place, "microcode is not free software, and [debian] `components` does not allow for it")
            .help(format!(
                "set components = [\"main\", \"{MICROCODE_COMPONENT}\"] under [debian], or name files of your own here"
            ));
    }
}

fn microcode(
    dir: &Path,
    written: Option<&Spanned<SwitchOrFiles>>,
    diagnostics: &mut Diagnostics,
) -> Option<Microcode> {
    match &written?.value {
        SwitchOrFiles::Switch(false) => None,
        SwitchOrFiles::Switch(true) => Some(Microcode::Packages),
        SwitchOrFiles::Files(names) => {
            let files: Vec<InputFile> =
                names.iter().filter_map(|name| microcode_file(dir, name, diagnostics)).collect();
            (!names.is_empty()).then_some(Microcode::Files { files })
        }
    }
}

fn microcode_file(dir: &Path, name: &Text, diagnostics: &mut Diagnostics) -> Option<InputFile> {
    let file = match pin(dir, &name.value) {
        Ok(file) => file,
        Err((message, help)) => {
            diagnostics.error(&name.place, message).help(help);
            return None;
        }
    };
    let head = file.path.as_ref().map(std::fs::read).and_then(Result::ok).unwrap_or_default();
    if microcode_vendor(&head).is_none() {
        diagnostics
            .error(&name.place, format!("`{}` is no microcode of Intel or AMD", name.value))
            .help("name files as in /lib/firmware/intel-ucode and /lib/firmware/amd-ucode");
        return None;
    }
    Some(file)
}

pub(super) fn budget(table: &BudgetTable, layout: Layout, diagnostics: &mut Diagnostics) -> Budget {
    let mut size = |key: &str, written: Option<&Text>| {
        let written = written?;
        let bytes = bytes_of(&written.value).filter(|bytes| *bytes > 0);
        if bytes.is_none() {
            let message = format!("`{key}` must be a size, but this is `{}`", written.value);
            diagnostics.error(&written.place, message).help("write it as `4M` or `3500K`");
        }
        bytes
    };
    let default = (layout != Layout::Resident).then_some(DEFAULT_MEMORY_BUDGET);
    Budget {
        initramfs: size("initramfs", table.initramfs.as_ref()),
        memory: size("memory", table.memory.as_ref()).or(default),
        iso_size: size("iso-size", table.iso_size.as_ref()),
        min_ram: size("min-ram", table.min_ram.as_ref()),
        available_at_128: size("available-at-128", table.available_at_128.as_ref()),
    }
}
