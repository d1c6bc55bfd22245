//! `liveiso test`: boots an image on many machines and says what became of each.
//!
//! ```text
//! firmware × medium × RAM ─► cases ─► media (made once) ─► boots side by side ─► cells ─► table, JUnit
//!                               └─ those that cannot exist ─► skipped, with the reason
//! ```
//! [`least_memory`] searches the smallest machine instead of booting a given one.

mod cell;
mod junit;
pub mod least_memory;
mod schedule;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::accelerator::Accelerator;
use super::machine::{Firmware, Machine, Medium, UsbController};
use super::media::Media;
use super::subject::Subject;
use crate::host;
use crate::interrupt;
use crate::plan::Budget;

pub use cell::Cell;
pub use junit::junit;
pub use table::table;

/// What to boot and what to ask of it.
#[derive(Clone, Debug, PartialEq)]
pub struct TestOptions {
    /// Firmware to try, each with every medium.
    pub firmwares: Vec<Firmware>,
    /// Media to try.
    pub media: Vec<Medium>,
    /// RAM in MiB, every machine with each of them; none for each machine's default.
    pub memory_mib: Vec<u32>,
    /// RAM in MiB a profile promises to be enough: one more machine, a BIOS with a CD.
    pub promised_mib: Option<u32>,
    /// Virtual processors.
    pub cpus: u32,
    /// How guests run; `None` for KVM where it works.
    pub accelerator: Option<Accelerator>,
    /// The controller for USB sticks; `None` for each firmware's default.
    pub usb: Option<UsbController>,
    /// For one boot from power-on to power-off.
    pub time_limit: Duration,
    /// Machines running at once, if memory allows.
    pub jobs: usize,
    /// Least `MemAvailable` at the root shell, in kB, on every machine.
    pub min_available_kb: Option<u64>,
    /// What the profile promises.
    pub budget: Budget,
    /// The directory on the medium that holds the marker file.
    pub install_dir: String,
    /// Receives one directory of logs a machine; `None` to keep none.
    pub log_dir: Option<PathBuf>,
}

impl Default for TestOptions {
    /// Every firmware with CD and stick under TCG, two at once, four minutes each.
    fn default() -> TestOptions {
        TestOptions {
            firmwares: Firmware::ALL.to_vec(),
            media: Medium::PLAIN.to_vec(),
            memory_mib: Vec::new(),
            promised_mib: None,
            cpus: 1,
            accelerator: Some(Accelerator::Tcg),
            usb: None,
            time_limit: Duration::from_secs(240),
            jobs: 2,
            min_available_kb: None,
            budget: Budget::default(),
            install_dir: "liveiso".to_string(),
            log_dir: None,
        }
    }
}

/// A cell of the matrix before it is booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The machine.
    pub machine: Machine,
    /// Why it cannot be booted, if it cannot.
    pub obstacle: Option<String>,
}

impl Case {
    /// Name and RAM in one word.
    pub fn label(&self) -> String {
        cell::label(&self.machine.name(), self.machine.memory_mib)
    }
}

impl TestOptions {
    /// The cells of an image, in the order of the table.
    pub fn cases(&self, subject: &Subject) -> Vec<Case> {
        let mut cases = Vec::new();
        for &firmware in &self.firmwares {
            for &medium in &self.media {
                let default = [default_memory(subject, firmware, medium)];
                let sizes = if self.memory_mib.is_empty() { &default[..] } else { &self.memory_mib };
                cases.extend(sizes.iter().map(|size| self.case(subject, firmware, medium, *size)));
            }
        }
        if let Some(promised) = self.promised_mib {
            let case = self.case(subject, Firmware::Bios, Medium::Cd, promised);
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
        cases
    }

    fn case(&self, subject: &Subject, firmware: Firmware, medium: Medium, memory_mib: u32) -> Case {
        let mut machine = Machine::new(firmware, medium);
        if subject.is_64_bit() {
            machine = machine.with_long_mode();
        }
        machine.memory_mib = memory_mib;
        machine.usb = self.usb.unwrap_or(machine.usb);
        machine.cpus = self.cpus;
        machine.accelerator = self.accelerator.unwrap_or_else(Accelerator::best);
        let obstacle = subject.obstacle(firmware, medium).or_else(|| {
            let (image, least) = (image_mib(subject), image_mib(subject) + firmware.default_memory_mib() / 2);
            (medium == Medium::Netboot && memory_mib < least).then(|| {
                format!(
                    "the image of {image} MiB is copied to RAM: {least} MiB are the least; netboot-nbd leaves it on \
                     the server"
                )
            })
        });
        Case { machine, obstacle }
    }
}

/// MiB of the root image, rounded up.
fn image_mib(subject: &Subject) -> u32 {
    u32::try_from(subject.image_bytes().div_ceil(1 << 20)).unwrap_or(u32::MAX / 2)
}

/// RAM in MiB of a machine nobody gave a size; one without a medium holds the image too.
fn default_memory(subject: &Subject, firmware: Firmware, medium: Medium) -> u32 {
    let image = if medium == Medium::Netboot { image_mib(subject) } else { 0 };
    firmware.default_memory_mib() + image
}

/// Boots an image on every machine of the options; `finished` hears of each as it ends.
///
/// # Errors
/// The host's failures: a missing program or firmware, an image without marker file.
/// A guest's failure is in its [`Cell`].
pub fn test(image: &Path, options: &TestOptions, finished: &(dyn Fn(&Cell) + Sync)) -> Result<Vec<Cell>> {
    let subject = Subject::open(image, &options.install_dir)?;
    let cases = options.cases(&subject);
    if cases.is_empty() {
        bail!("nothing to test: name at least one firmware and one medium");
    }
    let possible = || cases.iter().filter(|case| case.obstacle.is_none());
    // Better known before the first boot than after minutes.
    for case in possible() {
        case.machine.check_installed()?;
    }
    let wanted: Vec<_> = possible().map(|case| (case.machine.firmware, case.machine.medium)).collect();
    let media = Media::make(&subject, &wanted)?;
    let memory: Vec<u32> =
        cases.iter().map(|case| if case.obstacle.is_none() { case.machine.memory_mib } else { 0 }).collect();
    schedule::side_by_side(&memory, options.jobs, memory_limit_mib()?, &|index| {
        // Also a machine that a signal ended has failed: it is not to be told as such.
        interrupt::wait_if_interrupted();
        let case = &cases[index];
        let cell = match &case.obstacle {
            Some(reason) => Cell::skipped(&case.machine, reason),
            None => cell::boot(case, media.path(case.machine.medium), &subject.build_id, options)
                .with_context(|| format!("testing {}", case.label()))?,
        };
        interrupt::wait_if_interrupted();
        finished(&cell);
        Ok(cell)
    })
}

/// MiB that all machines together may take: what is free, less a reserve for everybody else.
fn memory_limit_mib() -> Result<u64> {
    Ok((host::available_memory()? >> 20) * 4 / 5)
}
