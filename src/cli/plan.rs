//! `liveiso plan PROFILE`

use std::io::Write;
use std::path::PathBuf;

use super::{CacheArgs, Failure, resolve_plan};

/// Print what would be built, every package and file pinned, as JSON.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The profile's directory.
    profile: PathBuf,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(super) fn run(args: &Args, color: bool) -> Result<(), Failure> {
    let plan = resolve_plan(&args.profile, &args.cache.open()?, args.cache.offline, color)?;
    let mut json = serde_json::to_string_pretty(&plan).map_err(anyhow::Error::from)?;
    json.push('\n');
    std::io::stdout().write_all(json.as_bytes())?;
    Ok(())
}
