//! What goes into the initramfs, and its bytes.
//!
//! ```text
//! initrd.img:  base: newc cpio, zstd or xz, zeros to a multiple of 512
//!              id:   newc cpio, plain: /etc/liveiso/id and, last, /.complete
//! ```
//! The base depends on kernel, modules and /init alone and can be cached; the
//! id is that of the finished build. Processor microcode goes in front, plain.
//! The base is one of three layouts: [`base_tree`] as it is, [`squash`] of it,
//! or [`make_resident`] of the root. Modules are chosen and their
//! dependencies resolved here, at build time, into the files busybox's
//! modprobe reads.

mod base;
mod hooks;
mod ioctl;
mod kernel_config;
mod kernel_format;
mod microcode;
mod modprobe;
mod module_list;
mod netlink;
mod pack;
mod programs;
mod resident;
mod sizes;
mod squashed;

pub use base::base_tree;
#[cfg(test)]
pub(crate) use base::tests::plan as test_plan;
pub use hooks::{add_hooks, add_nbd, add_nfs};
pub use ioctl::ioctl_program;
pub use kernel_config::check_kernel;
pub use kernel_format::{Part, PartFormat, unpack};
pub use microcode::{Vendor, microcode_archive, microcode_vendor};
pub use modprobe::module_texts;
pub use module_list::{ModuleList, default_modules};
pub use netlink::netlink_program;
pub use pack::{Packed, id_archive, pack};
pub use programs::add_programs;
pub use resident::make_resident;
pub use sizes::{Kernel, Sizes};
pub(crate) use sizes::{UNTRACED, mebibytes};
pub use squashed::{squash, unsquash};

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
    ("lib/liveiso/verity.sh", include_bytes!("init/verity.sh")),
];

/// Parts that only some initramfs have use for.
const HOOK: (&str, &[u8]) = ("lib/liveiso/hook.sh", include_bytes!("init/hook.sh"));
const NBD: (&str, &[u8]) = ("lib/liveiso/nbd.sh", include_bytes!("init/nbd.sh"));
const NBD_CONNECT: (&str, &[u8]) = ("lib/liveiso/nbd-connect.sh", include_bytes!("init/nbd-connect.sh"));
const NFS: (&str, &[u8]) = ("lib/liveiso/nfs.sh", include_bytes!("init/nfs.sh"));
const LUKS: (&str, &[u8]) = ("lib/liveiso/luks.sh", include_bytes!("init/luks.sh"));
