//! Booting a medium in QEMU: `liveiso run` for a person, `liveiso test` for proof.
//!
//! ```text
//! Machine ─arguments→ Guest (QEMU process) ─serial→ Shell ─questions→ Report
//!                                          └─ no login → BootFailure (which step, in words)
//! ```
//!
//! [`machine`] says what PC it is, with its [`firmware`] and [`medium`], [`guest`]
//! runs it under a deadline, [`serial`]
//! talks to its console, [`report`] is what a root shell inside says about itself,
//! [`failure`] tells from a console log how far a boot got, [`matrix`] runs the
//! cells of `liveiso test` on a [`subject`] and the [`media`] made of it, [`record`]
//! finds which files a boot reads. Nothing here sleeps: every wait ends at the
//! guest's next output, at its exit or at the deadline.

pub mod accelerator;
pub mod failure;
pub mod firmware;
pub mod guest;
pub mod machine;
pub mod matrix;
pub mod media;
pub mod medium;
mod process;
pub mod qmp;
pub mod record;
pub mod report;
pub mod run;
pub mod serial;
pub mod subject;

pub use accelerator::Accelerator;
pub use failure::{BootFailure, FailureKind};
pub use guest::{Guest, boot_and_report};
pub use machine::{Firmware, Machine, Medium, UsbController};
pub use matrix::least_memory::{LeastMemory, least_memory};
pub use matrix::{Case, Cell, TestOptions, test};
pub use record::record_boot_order;
pub use report::Report;
pub use run::{Console, RunOptions, run};
pub use subject::Subject;
