//! What an initramfs weighs, and the RAM it takes to unpack it.

use serde::{Deserialize, Serialize};

use crate::plan::{Arch, Budget};
use crate::resolve::{Blame, BudgetKey, Mistake, Mistakes};
use crate::tree::{Kind, Tree};

/// The page size of x86.
const PAGE: u64 = 4096;
/// What the id's archive adds to a finished initramfs, in bytes.
const ID_ARCHIVE: u64 = 1024;

/// What the kernel needs to work while it unpacks, in bytes.
const WORK: u64 = 10_752 << 10;
/// What a tmpfs of half the free memory does not get, in bytes.
const TMPFS: u64 = 1_434 << 10;

/// What an initramfs weighs, in bytes unless said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Sizes {
    /// The cpio archive before compression.
    pub archive: u64,
    /// The main archive on the medium, padding included.
    pub compressed: u64,
    /// What the decompressor allocates for its window or dictionary.
    pub window: u64,
    /// The files in RAM, whole pages each, those of the microcode archive included.
    pub unpacked: u64,
    /// Number of kernel modules, those in the image of the layout `squashed` included.
    pub modules: u64,
    /// The microcode's archive, in front.
    pub microcode: u64,
    /// The image inside, in the layout `squashed`.
    pub squashed: u64,
}

impl Sizes {
    /// Of a tree that is not packed.
    pub fn of(tree: &Tree) -> Sizes {
        let (unpacked, modules) = (unpacked_size(tree), module_count(tree));
        Sizes { archive: 0, compressed: 0, window: 0, unpacked, modules, microcode: 0, squashed: 0 }
    }

    /// The whole initramfs on the medium.
    pub fn total(&self) -> u64 {
        self.microcode + self.compressed + ID_ARCHIVE
    }

    /// RAM a machine must have for the kernel to unpack everything and for
    /// /init to begin its work.
    ///
    /// Two things limit it. The packed archive, the files and the window are in
    /// memory at once, beside the kernel and what it needs to work; and the
    /// tmpfs that is the first root takes half of what is free without the
    /// packed archive. Calibrated with Debian's kernel 6.1.0-50-686 in QEMU:
    /// 72, 167 and 382 modules unpack in 38, 42 and 94 MiB, 167 and 382 squashed
    /// in 36 and 53, and not in less.
    pub fn predicted_ram(&self, arch: Arch) -> u64 {
        // 128 MiB less MemTotal.
        let kernel = match arch {
            Arch::I386 => 17_088 << 10,
            Arch::Amd64 => 49_152 << 10,
        };
        let work = self.unpacked + self.window + WORK;
        let tmpfs = 2 * self.unpacked + TMPFS;
        kernel + self.total() + work.max(tmpfs)
    }

    /// Bytes a window may have before it raises the least RAM.
    pub(super) fn window_for_nothing(&self) -> u64 {
        (2 * self.unpacked + TMPFS).saturating_sub(self.unpacked + WORK)
    }

    /// One line for people.
    pub fn summary(&self, arch: Arch) -> String {
        format!(
            "initramfs: {}, {} unpacked, {} modules; takes {} MiB of RAM to unpack",
            mebibytes(self.total()),
            mebibytes(self.unpacked),
            self.modules,
            self.predicted_ram(arch).div_ceil(1 << 20)
        )
    }

    /// Compares with the profile's limits.
    ///
    /// # Errors
    /// A [`Mistakes`] with the figures.
    pub fn check(&self, arch: Arch, budget: &Budget) -> Result<(), Mistakes> {
        let summary = self.summary(arch);
        let mut mistakes = Vec::new();
        let mut compare = |key: BudgetKey, word: &str, limit: Option<u64>, is: u64, advice: &str| {
            if let Some(limit) = limit.filter(|limit| is > *limit) {
                mistakes.push(Mistake {
                    blame: Blame::Budget(key),
                    message: format!(
                        "{word} is {}, beyond the budget of {}",
                        mebibytes(is),
                        mebibytes(limit)
                    ),
                    help: format!("{advice} ({summary})"),
                });
            }
        };
        let fewer = "name fewer modules or a larger `initramfs` under [budget]";
        compare(BudgetKey::Initramfs, "the initramfs", budget.initramfs, self.total(), fewer);
        let fewer = "name fewer modules, take the layout `squashed`, or a larger `memory` under [budget]";
        let ram = self.predicted_ram(arch);
        compare(BudgetKey::Memory, "the RAM to unpack the initramfs", budget.memory, ram, fewer);
        if mistakes.is_empty() { Ok(()) } else { Err(Mistakes(mistakes)) }
    }
}

/// `3.1 MiB`, rounded up, so that nothing looks smaller than it is.
pub(crate) fn mebibytes(bytes: u64) -> String {
    let tenths = (bytes * 10).div_ceil(1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Bytes the files take in the kernel's page cache, hard links once.
fn unpacked_size(tree: &Tree) -> u64 {
    let mut seen = std::collections::BTreeSet::new();
    let files = tree.walk().filter(|entry| seen.insert(entry.id));
    let pages = files.map(|entry| match &entry.inode.kind {
        Kind::File(content) => content.len().next_multiple_of(PAGE),
        _ => 0,
    });
    pages.sum()
}

/// Number of kernel modules, compressed or not.
fn module_count(tree: &Tree) -> u64 {
    let is_module = |entry: &crate::tree::Entry| {
        let suffixes: [&[u8]; 4] = [b".ko", b".ko.xz", b".ko.zst", b".ko.gz"];
        matches!(entry.inode.kind, Kind::File(_)) && suffixes.iter().any(|s| entry.path.ends_with(s))
    };
    tree.walk().filter(is_module).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(compressed: u64, unpacked: u64) -> Sizes {
        Sizes { archive: 0, compressed, window: 1 << 20, unpacked, modules: 1, microcode: 0, squashed: 0 }
    }

    /// The points of the calibration: measured least RAM in MiB.
    #[test]
    fn the_prediction_fits_what_was_measured() {
        for (compressed, unpacked, measured) in [
            (2_480_128, 7_733_248, 38),
            (3_273_728, 10_887_168, 42),
            (10_286_080, 34_623_488, 94),
            // Squashed: 167 and 382 modules.
            (3_601_920, 4_972_544, 36),
            (11_637_248, 13_004_800, 53),
        ] {
            let predicted = sizes(compressed, unpacked).predicted_ram(Arch::I386).div_ceil(1 << 20);
            assert!(predicted.abs_diff(measured) <= 1, "{predicted} for {measured}");
        }
    }

    #[test]
    fn a_budget_fails_with_the_figures() {
        let sizes = sizes(65 << 20, 66 << 20);
        let within = Budget { initramfs: Some(66 << 20), memory: Some(220 << 20), ..Budget::default() };
        assert_eq!(sizes.check(Arch::I386, &within), Ok(()));
        let beyond = Budget { initramfs: Some(4 << 20), memory: Some(128 << 20), ..Budget::default() };
        let error = sizes.check(Arch::I386, &beyond).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the initramfs is 65.1 MiB, beyond the budget of 4.0 MiB; name fewer modules or a larger `initramfs` \
             under [budget] (initramfs: 65.1 MiB, 66.0 MiB unpacked, 1 modules; takes 216 MiB of RAM to unpack)\n\
             the RAM to unpack the initramfs is 215.1 MiB, beyond the budget of 128.0 MiB; name fewer modules, \
             take the layout `squashed`, or a larger `memory` under [budget] (initramfs: 65.1 MiB, 66.0 MiB \
             unpacked, 1 modules; takes 216 MiB of RAM to unpack)"
        );
    }
}
