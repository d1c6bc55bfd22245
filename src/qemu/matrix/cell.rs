//! One machine and what became of its boot.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use super::{Case, TestOptions};
use crate::qemu::accelerator::Accelerator;
use crate::qemu::failure::BootFailure;
use crate::qemu::guest::{MediumReads, boot_and_report};
use crate::qemu::machine::{Firmware, Machine, Medium};
use crate::qemu::report::Report;

/// The machine for which a profile promises free memory, in MiB.
const SMALL_MACHINE: u32 = 128;

/// One machine and what became of its boot.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cell {
    /// Firmware and medium in one word.
    pub name: String,
    /// What started it.
    pub firmware: Firmware,
    /// How the image came to it.
    pub medium: Medium,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// How it ran.
    pub accelerator: Accelerator,
    /// Whether everything was as it should be.
    pub passed: bool,
    /// Why it was not started, if it was not.
    pub skipped: Option<String>,
    /// What the system said about itself.
    pub report: Option<Report>,
    /// How the boot failed.
    pub failure: Option<BootFailure>,
    /// Budgets that were not met, in words.
    pub over_budget: Vec<String>,
    /// Wall-clock seconds to the root shell.
    pub login_seconds: Option<f64>,
    /// What was read from the medium up to the root shell.
    pub medium_reads: Option<MediumReads>,
    /// Wall-clock seconds of the whole boot.
    pub seconds: f64,
}

impl Cell {
    /// A cell that was not started.
    pub fn skipped(machine: &Machine, reason: &str) -> Cell {
        Cell { skipped: Some(reason.to_string()), ..Cell::new(machine) }
    }

    fn new(machine: &Machine) -> Cell {
        Cell {
            name: machine.name(),
            firmware: machine.firmware,
            medium: machine.medium,
            memory_mib: machine.memory_mib,
            cpus: machine.cpus,
            accelerator: machine.accelerator,
            passed: false,
            skipped: None,
            report: None,
            failure: None,
            over_budget: Vec::new(),
            login_seconds: None,
            medium_reads: None,
            seconds: 0.0,
        }
    }

    /// Whether it was started and is not as it should be.
    pub fn failed(&self) -> bool {
        !self.passed && self.skipped.is_none()
    }

    /// The outcome in one word.
    pub fn verdict(&self) -> &'static str {
        match (&self.skipped, self.passed) {
            (Some(_), _) => "skipped",
            (None, true) => "passed",
            (None, false) => "FAILED",
        }
    }

    /// Name and RAM in one word, `bios-cd-128M`: the name of its directory of logs.
    pub fn label(&self) -> String {
        label(&self.name, self.memory_mib)
    }

    /// What is wrong, or why it was skipped, on one line; empty for a boot as it should be.
    pub fn trouble(&self) -> String {
        let failure = self.failure.iter().map(BootFailure::summary);
        let words = failure.chain(self.over_budget.iter().cloned()).chain(self.skipped.iter().cloned());
        words.collect::<Vec<_>>().join("; ")
    }

    /// One line for people who watch.
    pub fn summary(&self) -> String {
        let trouble = self.trouble();
        let colon = if trouble.is_empty() { "" } else { ": " };
        match &self.skipped {
            Some(_) => format!("{} skipped{colon}{trouble}", self.label()),
            None => {
                format!("{} {} after {:.0} s{colon}{trouble}", self.label(), self.verdict(), self.seconds)
            }
        }
    }
}

pub(super) fn label(name: &str, memory_mib: u32) -> String {
    format!("{name}-{memory_mib}M")
}

/// Boots one cell from its medium.
pub(super) fn boot(case: &Case, medium: &Path, build_id: &str, options: &TestOptions) -> Result<Cell> {
    let started = Instant::now();
    let mut cell = Cell::new(&case.machine);
    let log_dir = options.log_dir.as_ref().map(|dir| dir.join(cell.label()));
    let boot =
        boot_and_report(&case.machine, medium, Some(build_id), options.time_limit, log_dir.as_deref())?;
    cell.report = boot.report;
    cell.failure = boot.failure;
    cell.login_seconds = boot.login_seconds;
    cell.medium_reads = boot.medium_reads;
    cell.seconds = started.elapsed().as_secs_f64();
    cell.over_budget = over_budget(&cell, options);
    cell.passed = cell.failure.is_none() && cell.over_budget.is_empty();
    Ok(cell)
}

/// Limits that a booted, or too small, machine does not keep.
fn over_budget(cell: &Cell, options: &TestOptions) -> Vec<String> {
    let mut over = Vec::new();
    let mut least = |wanted: Option<u64>, whose: &str| {
        if let (Some(report), Some(wanted)) = (&cell.report, wanted)
            && report.mem_available_kb < wanted
        {
            over.push(format!("MemAvailable is {} kB, below {whose}{wanted} kB", report.mem_available_kb));
        }
    };
    least(options.min_available_kb, "");
    if cell.firmware == Firmware::Bios && cell.medium.is_drive() && cell.memory_mib == SMALL_MACHINE {
        let budget = options.budget.available_at_128.map(|bytes| bytes >> 10);
        least(budget, "the budget `available-at-128` of ");
    }
    if Some(cell.memory_mib) == options.promised_mib && cell.login_seconds.is_none() {
        over.push(format!("no login with {} MiB, the budget `min-ram`", cell.memory_mib));
    }
    over
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::plan::Budget;
    use crate::qemu::failure::Ending;

    /// Passed, failed, over a budget, skipped.
    pub fn cells() -> Vec<Cell> {
        let line = "id:ab root:overlay init:init program:/bin/busybox MemTotal:113996 MemFree:94228 \
                    MemAvailable:98328 Shmem:12 modules:51 kernel:6.1.0-50-686 efi:none secure:none";
        let passed = Cell {
            passed: true,
            report: Some(Report::parse(line).unwrap()),
            login_seconds: Some(31.25),
            medium_reads: Some(MediumReads { bytes: 23_456_789, requests: 612 }),
            seconds: 33.0,
            ..Cell::new(&Machine::new(Firmware::Bios, Medium::Cd))
        };
        let failure = BootFailure::classify("GRUB\nerror: <no> \"file\" & more\n", "", Ending::TimeOut(240));
        let failed = Cell {
            failure: Some(failure),
            seconds: 240.04,
            ..Cell::new(&Machine::new(Firmware::UefiIa32, Medium::Usb))
        };
        let options = TestOptions { min_available_kb: Some(98329), ..TestOptions::default() };
        let over = Cell { passed: false, over_budget: over_budget(&passed, &options), ..passed.clone() };
        let machine = Machine::new(Firmware::Bios, Medium::FatCopy);
        vec![passed, failed, over, Cell::skipped(&machine, "the image is made for UEFI <alone>")]
    }

    #[test]
    fn a_line_a_cell() {
        let lines: Vec<String> = cells().iter().map(Cell::summary).collect();
        assert_eq!(
            lines,
            [
                "bios-cd-128M passed after 33 s",
                "uefi-ia32-usb-256M FAILED after 240 s: the boot loader ran, but no kernel: error: <no> \"file\" & \
                 more (time-out after 240 s)",
                "bios-cd-128M FAILED after 33 s: MemAvailable is 98328 kB, below 98329 kB",
                "bios-fat-copy-128M skipped: the image is made for UEFI <alone>",
            ]
        );
        let failed: Vec<bool> = cells().iter().map(Cell::failed).collect();
        assert_eq!(failed, [false, true, true, false]);
    }

    #[test]
    fn budgets() {
        let passed = cells().remove(0);
        let ask = |change: fn(&mut TestOptions)| {
            let mut options = TestOptions::default();
            change(&mut options);
            over_budget(&passed, &options)
        };
        let none = Vec::<String>::new();
        assert_eq!(ask(|_| {}), none);
        assert_eq!(ask(|o| o.min_available_kb = Some(98328)), none);
        assert_eq!(ask(|o| o.min_available_kb = Some(98329)), ["MemAvailable is 98328 kB, below 98329 kB"]);
        let at_128 = |kb: u64| Budget { available_at_128: Some(kb << 10), ..Budget::default() };
        let with = |cell: &Cell, kb| {
            over_budget(cell, &TestOptions { budget: at_128(kb), ..TestOptions::default() })
        };
        assert_eq!(with(&passed, 98328), none);
        assert_eq!(
            with(&passed, 100_000),
            ["MemAvailable is 98328 kB, below the budget `available-at-128` of 100000 kB"]
        );
        // Of other machines it says nothing.
        assert_eq!(with(&Cell { memory_mib: 64, ..passed.clone() }, 100_000), none);
        assert_eq!(with(&Cell { firmware: Firmware::UefiX64, ..passed.clone() }, 100_000), none);
        let silent = Cell { login_seconds: None, report: None, memory_mib: 40, ..passed.clone() };
        let promised = TestOptions { promised_mib: Some(40), ..TestOptions::default() };
        assert_eq!(over_budget(&silent, &promised), ["no login with 40 MiB, the budget `min-ram`"]);
        assert_eq!(over_budget(&Cell { memory_mib: 40, ..passed }, &promised), none);
    }
}
