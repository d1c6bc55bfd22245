//! The `liveiso` program.

use std::process::ExitCode;

use clap::Parser;
use liveiso::cli::Cli;

fn main() -> ExitCode {
    if let Err(error) = liveiso::interrupt::install() {
        eprintln!("warning: {error:#}");
    }
    Cli::parse().run().into()
}
