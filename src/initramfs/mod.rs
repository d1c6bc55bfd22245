//! What goes into the initramfs, and its bytes.
//!
//! ```text
//! initrd.img:  base: newc cpio, zstd or xz, zeros to a multiple of 512
//!              id:   newc cpio, plain: /etc/liveiso/id and, last, /.complete
//! ```
//! The base depends on kernel, modules and /init alone and can be cached; the
//! id is that of the finished build. Modules are chosen and their
//! dependencies resolved here, at build time, into the files busybox's
//! modprobe reads.

mod base;
mod kernel_format;
mod modprobe;
mod module_list;
mod pack;

pub use base::base_tree;
pub use kernel_format::{Part, PartFormat, unpack};
pub use module_list::{ModuleList, default_modules};
pub use pack::{Packed, Sizes, id_archive, pack};
