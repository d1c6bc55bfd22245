//! liveiso builds live ISO images that boot almost any PC, without root.
//!
//! ```text
//! profiles/x/profile.toml ─parse→ Profile ─resolve→ Plan ─build→ out/x.iso + manifest
//!
//! build:  packages + airootfs/ + rules ─► root tree ── squashfs ─► airootfs.sfs ─┐
//!         init + modules + busybox     ─► init tree ── newc cpio ─► initrd.img ──┼─► xorriso ─► x.iso
//!         efiboot/ + loaders           ─► ESP tree  ── FAT ──────► efiboot.img ──┘
//! ```
//!
//! Read [`build`] for the order of the stages, [`plan`] for what decides their
//! result, [`tree`] for what they hand to each other.

pub mod boot;
pub mod build;
pub mod cache;
pub mod cli;
pub mod diagnostic;
pub mod export;
pub mod format;
pub mod host;
pub mod initramfs;
pub mod inspect;
pub mod interrupt;
pub mod kmod;
pub mod lock;
pub mod manifest;
pub mod output;
pub mod plan;
pub mod profile;
pub mod qemu;
pub mod resolve;
pub mod scratch;
pub mod source;
pub mod tree;
