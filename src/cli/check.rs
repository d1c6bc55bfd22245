//! `liveiso check PROFILE`

use std::path::PathBuf;

use super::{
    CacheArgs, Exit, Failure, LockArgs, print_diagnostics, profile_dir, resolve_options, resolve_profile,
};
use crate::diagnostic::Diagnostics;

/// Report every mistake of a profile and build nothing.
///
/// Package names are looked up in the archive, unless --offline is given.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The profile's directory.
    profile: PathBuf,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(super) fn run(args: &Args, color: bool) -> Result<(), Failure> {
    let lock_use = args.lock.lock_use();
    if !args.cache.offline {
        return resolve_profile(&args.profile, &args.cache.open()?, false, lock_use, color).map(drop);
    }
    let mut diagnostics = Diagnostics::default();
    let options = resolve_options()?;
    let valid =
        crate::resolve::check_locked(&profile_dir(&args.profile), &options, lock_use, &mut diagnostics);
    print_diagnostics(&diagnostics, color);
    if valid { Ok(()) } else { Err(Failure::explained(Exit::ProfileInvalid)) }
}
