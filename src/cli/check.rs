//! `liveiso check PROFILE`

use super::{Exit, Failure, ProfileArgs, print_diagnostics, profile_dir, resolve_options};
use crate::diagnostic::Diagnostics;

/// Report every mistake of a profile and build nothing.
///
/// Package names are looked up in the archive, unless --offline is given.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: ProfileArgs,
}

pub(super) fn run(args: &Args, color: bool) -> Result<(), Failure> {
    let ProfileArgs { profile, lock, cache } = &args.source;
    if !cache.offline {
        return args.source.resolve(color).map(drop);
    }
    let mut diagnostics = Diagnostics::default();
    let options = resolve_options()?;
    let valid =
        crate::resolve::check_locked(&profile_dir(profile), &options, lock.lock_use(), &mut diagnostics);
    print_diagnostics(&diagnostics, color);
    if valid { Ok(()) } else { Err(Failure::explained(Exit::ProfileInvalid)) }
}
