//! The bytes of images: each format writes a [`crate::tree::Tree`] and reads one back.

pub(crate) mod civil;
pub mod cpio;
pub mod disk;
pub mod erofs;
pub mod fat;
pub(crate) mod field;
pub mod iso9660;
pub mod squashfs;
pub mod verity;

pub use civil::{CivilTime, civil_time};
