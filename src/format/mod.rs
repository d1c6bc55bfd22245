//! The bytes of images: each format writes a [`crate::tree::Tree`] and reads one back.

pub mod cpio;
pub mod fat;
pub mod iso9660;
pub mod squashfs;
