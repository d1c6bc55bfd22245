//! The plan's part about the initramfs.

use serde::{Deserialize, Serialize};

use super::{Compression, DescriptionEntry, InputFile, described_files};

/// What goes into the initramfs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Initramfs {
    /// How its files are stored and what becomes of them.
    #[serde(default)]
    pub layout: Layout,
    /// `zstd` (window 1 MiB) or `xz` (dictionary 1 MiB, CRC32).
    pub compression: Compression,
    /// Module names or globs (`drivers/ata/pata_*`) that must exist.
    pub modules: Vec<String>,
    /// The same, allowed to be missing from this kernel.
    pub optional_modules: Vec<String>,
    /// Files that gen_init_cpio's description adds, in its order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub description: Vec<DescriptionEntry>,
    /// Processor microcode in an archive of its own, in front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub microcode: Option<Microcode>,
    /// Files of the root's packages, by absolute path, that go in with the libraries they need.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<String>,
    /// The profile's own steps of /init, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
}

/// A shell script that /init runs at one of its stages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Hook {
    /// When.
    pub stage: HookStage,
    /// Its name in messages: that of the file.
    pub name: String,
    /// The script.
    pub content: InputFile,
}

/// The stages of /init a profile can add to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookStage {
    /// Before the medium is looked for.
    Media,
    /// The image is mounted; before the writable layer is.
    Mount,
    /// The new root is complete; before it takes over.
    Bottom,
}

impl HookStage {
    /// As in the profile and in the initramfs.
    pub fn name(self) -> &'static str {
        match self {
            HookStage::Media => "media",
            HookStage::Mount => "mount",
            HookStage::Bottom => "bottom",
        }
    }
}

/// What an initramfs is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// One archive with everything, deleted when the root takes over.
    #[default]
    Plain,
    /// A small loader and one squashfs with everything else, which stays compressed in RAM.
    Squashed,
    /// The whole root: there is no medium to find and no other root to hand over to.
    Resident,
}

/// Where processor microcode comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "from")]
pub enum Microcode {
    /// Debian's packages intel-microcode and amd64-microcode.
    Packages,
    /// Files of the profile, in this order.
    Files {
        /// Intel's update files or AMD's containers.
        files: Vec<InputFile>,
    },
}

impl Initramfs {
    /// Every file of the profile that goes in.
    pub(super) fn input_files_mut(&mut self) -> impl Iterator<Item = &mut InputFile> {
        let microcode = match &mut self.microcode {
            Some(Microcode::Files { files }) => files.as_mut_slice(),
            _ => &mut [],
        };
        described_files(&mut self.description)
            .chain(microcode)
            .chain(self.hooks.iter_mut().map(|hook| &mut hook.content))
    }
}
