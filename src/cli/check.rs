//! `liveiso check PROFILE`

use std::path::PathBuf;

use super::{Exit, Failure, print_diagnostics, profile_dir, resolve_options};
use crate::diagnostic::Diagnostics;

/// Report every mistake of a profile and build nothing.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The profile's directory.
    profile: PathBuf,
}

pub(super) fn run(args: &Args, color: bool) -> Result<(), Failure> {
    let mut diagnostics = Diagnostics::default();
    let valid = crate::resolve::check(&profile_dir(&args.profile), &resolve_options()?, &mut diagnostics);
    print_diagnostics(&diagnostics, color);
    if valid { Ok(()) } else { Err(Failure::explained(Exit::ProfileInvalid)) }
}
