//! `liveiso test ISO`

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use super::{Exit, Failure};
use crate::qemu::{Accelerator, Cell, Firmware, Medium, TestOptions, matrix, test};

/// Boot an ISO on several machines and check what runs there.
///
/// Each machine must reach a root shell on its first serial port; build id,
/// overlay root, PID 1 and memory figures are read from inside.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image to boot.
    iso: PathBuf,
    /// RAM in MiB [default: 128 for bios, 256 for uefi].
    #[arg(long, value_name = "MiB")]
    memory: Option<u32>,
    /// Only these kinds of firmware.
    #[arg(long, value_name = "FIRMWARE", value_delimiter = ',')]
    firmware: Vec<Firmware>,
    /// Only these media.
    #[arg(long, value_name = "MEDIUM", value_delimiter = ',')]
    medium: Vec<Medium>,
    /// Virtual processors.
    #[arg(long, value_name = "N", default_value = "1")]
    cpus: u32,
    /// Seconds one boot may take.
    #[arg(long, value_name = "SECONDS", default_value = "240")]
    time_limit: u64,
    /// Machines running at once.
    #[arg(short, long, value_name = "N", default_value = "2")]
    jobs: usize,
    /// Least MemAvailable at the root shell, in kB.
    #[arg(long, value_name = "kB")]
    min_available: Option<u64>,
    /// Directory on the medium that holds the marker file.
    #[arg(long, value_name = "NAME", default_value = "liveiso")]
    install_dir: String,
    /// Use KVM where a short trial shows that it works.
    #[arg(long)]
    kvm: bool,
    /// Keep console logs below this directory.
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let all = TestOptions::default();
    let options = TestOptions {
        firmwares: if args.firmware.is_empty() { all.firmwares } else { args.firmware.clone() },
        media: if args.medium.is_empty() { all.media } else { args.medium.clone() },
        memory_mib: args.memory,
        cpus: args.cpus,
        accelerator: if args.kvm { None } else { Some(Accelerator::Tcg) },
        usb: None,
        time_limit: Duration::from_secs(args.time_limit),
        jobs: args.jobs,
        min_available_kb: args.min_available,
        install_dir: args.install_dir.clone(),
        log_dir: args.logs.clone(),
    };
    let cells = test(&args.iso, &options, &|cell: &Cell| {
        let verdict = if cell.passed { "passed" } else { "FAILED" };
        eprintln!("{} {verdict} after {:.0} s", cell.name, cell.seconds);
    })?;
    if let Some(path) = &args.junit {
        let name = args.iso.file_name().unwrap_or_default().to_string_lossy();
        std::fs::write(path, matrix::junit(&name, &cells))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&cells).context("serialising the results")? + "\n"
    } else {
        matrix::table(&cells)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    if cells.iter().all(|cell| cell.passed) { Ok(()) } else { Err(Failure::explained(Exit::Mismatch)) }
}
