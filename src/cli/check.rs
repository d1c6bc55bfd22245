//! `liveiso check PROFILE`

use std::path::PathBuf;

use super::{CacheArgs, Exit, Failure, print_diagnostics, profile_dir, resolve_options, resolve_plan};
use crate::diagnostic::Diagnostics;

/// Report every mistake of a profile and build nothing.
///
/// Package names are looked up in the archive, unless --offline is given.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The profile's directory.
    profile: PathBuf,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(super) fn run(args: &Args, color: bool) -> Result<(), Failure> {
    if !args.cache.offline {
        return resolve_plan(&args.profile, &args.cache.open()?, false, color).map(drop);
    }
    let mut diagnostics = Diagnostics::default();
    let options = resolve_options()?;
    let valid = crate::resolve::check(&profile_dir(&args.profile), &options, &mut diagnostics);
    print_diagnostics(&diagnostics, color);
    if valid { Ok(()) } else { Err(Failure::explained(Exit::ProfileInvalid)) }
}
