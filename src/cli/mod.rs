//! See the crate documentation.

pub mod dev;
