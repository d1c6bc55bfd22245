//! The `liveiso` program.

use std::process::ExitCode;

use clap::Parser;
use liveiso::cli::Cli;

fn main() -> ExitCode {
    Cli::parse().run().into()
}
