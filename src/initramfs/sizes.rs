//! What an initramfs weighs, and the RAM it takes to unpack it.

use serde::{Deserialize, Serialize};

use crate::plan::{Arch, Budget, Plan};
use crate::resolve::{Blame, BudgetKey, Mistake, Mistakes};
use crate::tree::{Kind, Tree};

/// The page size of x86.
const PAGE: u64 = 4096;
/// What the id's archive adds to a finished initramfs, in bytes.
const ID_ARCHIVE: u64 = 1024;

/// What a tmpfs of half the free memory does not get, in bytes.
const TMPFS: u64 = 1_434 << 10;
/// The word that keeps a kernel from making the files of its tracer.
pub(crate) const UNTRACED: &str = "initcall_blacklist=tracer_init_tracefs";

/// A kernel, as far as its memory goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// What it is built for.
    pub arch: Arch,
    /// Whether it makes the files of its tracer, ten thousand inodes.
    pub traced: bool,
}

impl Kernel {
    /// The plan's kernel for `arch`, started with the plan's words.
    pub fn of(plan: &Plan, arch: Arch) -> Kernel {
        let mut words = plan.boot.kernel_parameters.split_ascii_whitespace();
        Kernel { arch, traced: !words.any(|word| word == UNTRACED) }
    }

    /// RAM that is no `MemTotal`: 128 MiB less that, in bytes.
    fn hidden(self) -> u64 {
        match self.arch {
            Arch::I386 => 17_088 << 10,
            Arch::Amd64 => 49_152 << 10,
        }
    }

    /// Where it ends while it unpacks itself, in bytes: it is loaded at 16 MiB, and an archive
    /// at the end of RAM must not begin before. `init_size` of the kernel's header.
    fn end(self) -> u64 {
        let init_size = match self.arch {
            Arch::I386 => 16_826_368,
            Arch::Amd64 => 66_682_880,
        };
        (16 << 20) + init_size
    }

    /// What it needs to work while it unpacks, in bytes.
    fn work(self) -> u64 {
        let tracer = if self.traced { 6_144 << 10 } else { 0 };
        let rest = match self.arch {
            Arch::I386 => 4_608 << 10,
            Arch::Amd64 => 26_112 << 10,
        };
        rest + tracer
    }
}

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
    /// Three things limit it. The packed archive, the files and the window are in
    /// memory at once, beside the kernel and what it needs to work; the tmpfs that
    /// is the first root takes half of what is free without the packed archive; and
    /// that must lie behind the kernel. A test has what the figures were fitted to.
    pub fn predicted_ram(&self, kernel: Kernel) -> u64 {
        let work = self.unpacked + self.window + kernel.work();
        let tmpfs = 2 * self.unpacked + TMPFS;
        (kernel.hidden() + work.max(tmpfs)).max(kernel.end()) + self.total()
    }

    /// Bytes a window may have before it raises the least RAM of a 32-bit machine.
    pub(super) fn window_for_nothing(&self) -> u64 {
        let kernel = Kernel { arch: Arch::I386, traced: true };
        (self.unpacked + TMPFS).saturating_sub(kernel.work())
    }

    /// One line for people.
    pub fn summary(&self, kernel: Kernel) -> String {
        format!(
            "initramfs: {}, {} unpacked, {} modules; takes {} MiB of RAM to unpack",
            mebibytes(self.total()),
            mebibytes(self.unpacked),
            self.modules,
            self.predicted_ram(kernel).div_ceil(1 << 20)
        )
    }

    /// Compares with the profile's limits.
    ///
    /// # Errors
    /// A [`Mistakes`] with the figures.
    pub fn check(&self, kernel: Kernel, budget: &Budget) -> Result<(), Mistakes> {
        let summary = self.summary(kernel);
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
        let ram = self.predicted_ram(kernel);
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

    const I686: Kernel = Kernel { arch: Arch::I386, traced: true };
    const I686_UNTRACED: Kernel = Kernel { arch: Arch::I386, traced: false };
    const AMD64: Kernel = Kernel { arch: Arch::Amd64, traced: true };

    fn sizes(compressed: u64, window: u64, unpacked: u64) -> Sizes {
        Sizes { archive: 0, compressed, window, unpacked, modules: 1, microcode: 0, squashed: 0 }
    }

    /// Measured with bookworm's kernels 6.1.0-50 in QEMU, BIOS, one processor: the least RAM in MiB
    /// with which /init says that it looks for its medium, by halves; one MiB less does not.
    /// The first four of the 686 kernel are of initramfs with other modules than now.
    #[test]
    fn the_prediction_fits_what_was_measured() {
        const MIB: u64 = 1 << 20;
        for (kernel, compressed, window, unpacked, measured) in [
            (I686, 2_480_128, MIB, 7_733_248, 38),
            (I686, 2_583_040, MIB / 8, 7_778_304, 37),
            (I686, 3_273_728, MIB, 10_887_168, 42),
            (I686, 10_286_080, MIB, 34_623_488, 94),
            // Squashed: 167 and 382 modules.
            (I686, 3_601_920, MIB, 4_972_544, 36),
            (I686, 11_637_248, MIB, 13_004_800, 53),
            // profiles/tiny and the default modules, without the files of the tracer.
            (I686_UNTRACED, 2_583_040, MIB / 8, 7_778_304, 35),
            (I686_UNTRACED, 3_251_712, MIB, 10_821_632, 41),
            // profiles/secure, plain and squashed, of which 103, and 89 to 91, remain open.
            (AMD64, 3_917_824, MIB, 20_238_336, 104),
            (AMD64, 4_700_672, MIB / 8, 6_283_264, 92),
        ] {
            let predicted = sizes(compressed, window, unpacked).predicted_ram(kernel).div_ceil(MIB);
            assert!(predicted.abs_diff(measured) <= 1, "{predicted} for {measured}");
        }
    }

    #[test]
    fn a_budget_fails_with_the_figures() {
        let sizes = sizes(65 << 20, 1 << 20, 66 << 20);
        let within = Budget { initramfs: Some(66 << 20), memory: Some(220 << 20), ..Budget::default() };
        assert_eq!(sizes.check(I686, &within), Ok(()));
        let beyond = Budget { initramfs: Some(4 << 20), memory: Some(128 << 20), ..Budget::default() };
        let error = sizes.check(I686, &beyond).unwrap_err();
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
