//! `liveiso diff A B`

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;

use super::inspect::json;
use super::{Exit, Failure};
use crate::inspect::diff::{Change, diff, text};

/// Explain how two ISOs differ: packages, files, modules, menu lines.
///
/// Exit status as of diff: 0 equal, 1 different, 2 trouble.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The first ISO.
    #[arg(value_name = "A")]
    old: PathBuf,
    /// The second ISO.
    #[arg(value_name = "B")]
    new: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'c> {
    equal: bool,
    changes: &'c [Change],
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let trouble = |error| Failure::from(error).with_exit(Exit::Usage);
    let changes = diff(&args.old, &args.new).map_err(trouble)?;
    let equal = changes.is_empty();
    let shown = match (args.json, equal) {
        (true, _) => json(&Report { equal, changes: &changes })?,
        (false, true) => format!("{} and {} are equal\n", args.old.display(), args.new.display()),
        (false, false) => text(&changes),
    };
    std::io::stdout().write_all(shown.as_bytes())?;
    if equal { Ok(()) } else { Err(Failure::explained(Exit::Failed)) }
}
