//! The profile's mistakes that only a build can see, such as a module that the
//! kernel's package turns out not to have. A stage knows which key is to blame,
//! not where it is written; [`report`] finds the place.

use std::path::Path;

use super::packages;
use crate::diagnostic::{Diagnostics, Place};
use crate::profile::{self, Profile, Text};

/// What of the profile is to blame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The kernel.
    Kernel,
    /// The second kernel.
    SecondKernel,
    /// A name or pattern in `initramfs.modules`; without it there, the kernel.
    Module(String),
    /// `initramfs.modules` as a whole.
    Modules,
    /// A path in `file-permissions`, as the plan has it.
    FilePermission(String),
    /// `initramfs.compression`
    InitramfsCompression,
    /// `initramfs.microcode`
    Microcode,
    /// `root.format`
    RootFormat,
    /// A path in `initramfs.programs`.
    Program(String),
    /// `root.compression`
    RootCompression,
    /// `root.verity`
    Verity,
    /// A key of `[budget]`.
    Budget(BudgetKey),
}

/// The keys of `[budget]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetKey {
    /// `initramfs`
    Initramfs,
    /// `memory`
    Memory,
    /// `iso-size`
    IsoSize,
}

/// One mistake of the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// What is to blame.
    pub blame: Blame,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// Why a build stopped: never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl std::fmt::Display for Mistakes {
    /// For callers that have no profile at hand.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines: Vec<String> = self.0.iter().map(|m| format!("{}; {}", m.message, m.help)).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Mistakes {}

/// Adds an error for every mistake, at the place in the profile that is to blame.
pub fn report(dir: &Path, mistakes: &Mistakes, diagnostics: &mut Diagnostics) {
    // The profile was read once without errors; warnings were shown then.
    let mut files = Diagnostics::default();
    let profile = profile::load(dir, &mut files);
    diagnostics.take_files(files);
    for mistake in &mistakes.0 {
        let place = profile.as_ref().and_then(|profile| place_of(profile, &mistake.blame));
        let diagnostic = match place {
            Some(place) => diagnostics.error(place, &mistake.message),
            None => diagnostics.path_error(&dir.join("profile.toml"), &mistake.message),
        };
        diagnostic.help(&mistake.help);
    }
}

fn place_of<'p>(profile: &'p Profile, blame: &Blame) -> Option<&'p Place> {
    let text = |text: &'p Option<Text>| text.as_ref().map(|t| &t.place);
    let initramfs = &profile.initramfs;
    let place = match blame {
        Blame::Kernel => None,
        Blame::SecondKernel => {
            let second = profile.kernel.amd64.as_ref();
            second.map(|table| table.package.as_ref().map_or(&table.place, |package| &package.place))
        }
        Blame::Module(name) => {
            let written = initramfs.modules.iter().flat_map(|list| &list.value);
            written.into_iter().find(|module| module.value == *name).map(|module| &module.place)
        }
        Blame::Modules => initramfs.modules.as_ref().map(|list| &list.place),
        Blame::FilePermission(path) => {
            profile.file_permissions.iter().find(|(key, _)| key.value == *path).map(|(key, _)| &key.place)
        }
        Blame::InitramfsCompression => text(&initramfs.compression),
        Blame::Microcode => initramfs.microcode.as_ref().map(|m| &m.place),
        Blame::RootFormat => text(&profile.root.format),
        Blame::Program(path) => {
            let written = initramfs.programs.iter().flat_map(|list| &list.value);
            written.into_iter().find(|program| program.value == *path).map(|program| &program.place)
        }
        Blame::RootCompression => text(&profile.root.compression),
        Blame::Verity => profile.root.verity.as_ref().map(|wanted| &wanted.place),
        Blame::Budget(BudgetKey::Initramfs) => text(&profile.budget.initramfs),
        Blame::Budget(BudgetKey::Memory) => text(&profile.budget.memory),
        Blame::Budget(BudgetKey::IsoSize) => text(&profile.budget.iso_size),
    };
    place.or(text(&profile.kernel.package)).or(packages::place_of(profile, "linux-image"))
}
