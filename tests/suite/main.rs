//! Everything that needs more than one module or an independent tool.

mod apt;
mod archive;
mod boot;
mod boot_order;
mod build;
mod cache;
mod command_line;
mod cpio;
mod disk;
mod erofs;
mod export;
mod fat;
mod hostile;
mod init;
mod initramfs;
mod inspect;
mod iso9660;
pub mod kmod;
mod layouts;
mod live;
mod lock;
mod memory;
mod menus;
mod profiles;
mod secure;
mod squashfs;
mod support;
