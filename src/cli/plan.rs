//! `liveiso plan PROFILE`

use std::io::Write;

use super::{Failure, ProfileArgs};

/// Print what would be built, every package and file pinned, as JSON.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    source: ProfileArgs,
}

pub(super) fn run(args: &Args, color: bool) -> Result<(), Failure> {
    let resolved = args.source.resolve(color)?;
    let mut json = serde_json::to_string_pretty(&resolved.plan).map_err(anyhow::Error::from)?;
    json.push('\n');
    std::io::stdout().write_all(json.as_bytes())?;
    Ok(())
}
