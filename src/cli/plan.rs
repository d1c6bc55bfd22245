//! `liveiso plan PROFILE`

use std::io::Write;
use std::path::PathBuf;

use super::{CacheArgs, Failure, LockArgs, resolve_profile};

/// Print what would be built, every package and file pinned, as JSON.
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
    let cache = args.cache.open()?;
    let resolved = resolve_profile(&args.profile, &cache, args.cache.offline, args.lock.lock_use(), color)?;
    let mut json = serde_json::to_string_pretty(&resolved.plan).map_err(anyhow::Error::from)?;
    json.push('\n');
    std::io::stdout().write_all(json.as_bytes())?;
    Ok(())
}
