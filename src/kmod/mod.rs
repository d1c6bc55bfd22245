//! Kernel modules without the host's kmod, so that a build gives the same on every host.
//!
//! - [`Module::parse`]: what a module says of itself (`.modinfo`, exported symbols);
//! - [`ModuleIndex`]: the modules of one kernel in a tree, by name and alias;
//! - [`ModuleIndex::closure`]: names and globs, and everything they need;
//! - [`depmod`]: the files `modprobe` reads, as `depmod` would write them.
//!
//! Follows kmod 30 (`tools/depmod.c`, `libkmod/libkmod-index.h`) and the
//! kernel's `scripts/mod/modpost.c`. Left out: big-endian kernels, `depmod.d`
//! configuration (`updates/` comes first, as is the default), `modules.symvers`.

mod closure;
mod depmod;
mod elf;
mod fnmatch;
mod index;
mod module;
#[cfg(test)]
pub(crate) mod testing;
mod trie;

pub use closure::{Closure, MissingModule, MissingModules, Request};
pub use depmod::{Edges, dep_text, depmod, reachable};
pub use elf::{Elf, ElfError};
pub use fnmatch::fnmatch;
pub use index::{IndexedModule, ModuleId, ModuleIndex, kernel_versions};
pub use module::{Module, Softdep, decompressed, normalized_name};
