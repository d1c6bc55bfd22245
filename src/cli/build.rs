//! `liveiso build PROFILE`

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;

use super::{CacheArgs, Failure, resolve_plan};
use crate::build::{BuildOptions, Built, build};
use crate::cache::StageReport;
use crate::output::warn;

/// Build a profile's ISO, checksum, manifest and package list.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The profile's directory.
    profile: PathBuf,
    /// Directory for the artifacts.
    #[arg(short, long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Threads for compression [default: one a processor].
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Show each stage: hit or miss, seconds, bytes.
    #[arg(long)]
    timings: bool,
    /// Print what was built, and the timings, as JSON instead of paths.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(super) fn run(args: &Args, color: bool) -> Result<(), Failure> {
    let cache = args.cache.open()?;
    let plan = resolve_plan(&args.profile, &cache, args.cache.offline, color)?;
    let options = BuildOptions {
        out: args.out.clone(),
        jobs: args.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN),
        offline: args.cache.offline,
    };
    let built = build(&plan, &cache, &options).map_err(Failure::of_build)?;
    for note in &built.notes {
        warn(note);
    }
    let stages = cache.stage_reports();
    if args.timings {
        print_timings(&stages);
    }
    if args.json { print_json(&built, &stages) } else { print_paths(&built) }
}

fn print_paths(built: &Built) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for path in &built.artifacts {
        writeln!(out, "{}", path.display())?;
    }
    Ok(())
}

fn print_json(built: &Built, stages: &[StageReport]) -> Result<(), Failure> {
    let value = serde_json::json!({ "built": built, "stages": stages });
    let text = serde_json::to_string_pretty(&value).context("serialising the result")?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// On standard error, so that paths stay alone on standard output.
fn print_timings(stages: &[StageReport]) {
    eprintln!("{:<14} {:<5} {:>9} {:>14}", "stage", "cache", "seconds", "bytes");
    for stage in stages.iter().filter(|s| !s.hit || s.stage != "data-tar") {
        let cache = if stage.hit { "hit" } else { "miss" };
        eprintln!("{:<14} {cache:<5} {:>9.2} {:>14}", stage.stage, stage.seconds, stage.bytes);
    }
}
