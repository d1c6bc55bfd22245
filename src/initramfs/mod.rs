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

/// /init and its parts, by path in the archive.
pub const INIT: &[(&str, &[u8])] = &[
    ("init", include_bytes!("init/init")),
    ("lib/liveiso/drivers.sh", include_bytes!("init/drivers.sh")),
    ("lib/liveiso/lease.sh", include_bytes!("init/lease.sh")),
    ("lib/liveiso/medium.sh", include_bytes!("init/medium.sh")),
    ("lib/liveiso/memory.sh", include_bytes!("init/memory.sh")),
    ("lib/liveiso/menu.sh", include_bytes!("init/menu.sh")),
    ("lib/liveiso/network.sh", include_bytes!("init/network.sh")),
    ("lib/liveiso/options.sh", include_bytes!("init/options.sh")),
    ("lib/liveiso/persist.sh", include_bytes!("init/persist.sh")),
    ("lib/liveiso/probe.sh", include_bytes!("init/probe.sh")),
    ("lib/liveiso/root.sh", include_bytes!("init/root.sh")),
    ("lib/liveiso/say.sh", include_bytes!("init/say.sh")),
    ("lib/liveiso/trouble.sh", include_bytes!("init/trouble.sh")),
    ("lib/liveiso/verify.sh", include_bytes!("init/verify.sh")),
];
