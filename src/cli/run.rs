//! `liveiso run ISO`

use std::path::PathBuf;

use super::Failure;
use crate::qemu::{Accelerator, Console, Firmware, Machine, Medium, RunOptions, run as run_machine};

/// Boot an ISO in QEMU, in a window or on this terminal.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image to boot.
    iso: PathBuf,
    /// Use this terminal as the machine's serial port; Ctrl-A X ends it.
    #[arg(long)]
    serial: bool,
    /// RAM in MiB [default: 128 for bios, 256 for uefi].
    #[arg(long, value_name = "MiB")]
    memory: Option<u32>,
    /// What starts the machine.
    #[arg(long, value_name = "FIRMWARE", default_value = "bios")]
    firmware: Firmware,
    /// How the image comes to the machine.
    #[arg(long, value_name = "MEDIUM", default_value = "cd")]
    medium: Medium,
    /// Directory on the medium that holds the marker file.
    #[arg(long, value_name = "NAME", default_value = "liveiso")]
    install_dir: String,
    /// Virtual processors.
    #[arg(long, value_name = "N", default_value = "1")]
    cpus: u32,
    /// Give the guest a network through the host.
    #[arg(long)]
    network: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let mut machine = Machine::new(args.firmware, args.medium);
    machine.memory_mib = args.memory.unwrap_or(machine.memory_mib);
    machine.cpus = args.cpus;
    machine.accelerator = Accelerator::best();
    let console = if args.serial { Console::Serial } else { Console::Window };
    let install_dir = args.install_dir.clone();
    run_machine(&args.iso, &RunOptions { machine, console, install_dir, network: args.network })?;
    Ok(())
}
