//! `liveiso build PROFILE`

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context;

use super::cache::{apply_limit, max_size, parse_size};
use super::timings::{StageTotal, table, totals};
use super::{CacheArgs, Exit, Failure, LockArgs, message, print_diagnostics, profile_dir, resolve_profile};
use crate::build::{BuildOptions, Built, build};
use crate::diagnostic::Diagnostics;
use crate::host::{ResourceUse, resource_use};
use crate::output::warn;
use crate::resolve::{Mistakes, report};

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
    /// Show each stage: cache hits and misses, seconds, bytes.
    #[arg(long)]
    timings: bool,
    /// Print what was built, and the timings, as JSON instead of paths.
    #[arg(long)]
    json: bool,
    /// Remove the least recently used cache entries beyond this size afterwards
    /// [default: $LIVEISO_CACHE_MAX_SIZE, else 10G].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    cache_max_size: Option<u64>,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(super) fn run(args: &Args, color: bool) -> Result<(), Failure> {
    let cache_limit = max_size(args.cache_max_size)?;
    let cache = args.cache.open()?;
    let lock_use = args.lock.lock_use();
    let resolved = resolve_profile(&args.profile, &cache, args.cache.offline, lock_use, color)?;
    if resolved.old.as_ref().is_some_and(|old| *old != resolved.lock) {
        super::lock::save(&args.profile, &resolved)?;
    }
    let options = BuildOptions {
        out: args.out.clone(),
        jobs: args.jobs.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN),
        offline: args.cache.offline,
    };
    let built = build(&resolved.plan, &cache, &options).map_err(|error| failure(args, error, color))?;
    message(&format!("{}\n{}\n", built.initramfs.summary, built.firmware_reads.summary()));
    for note in &built.notes {
        warn(note);
    }
    if let Err(error) = apply_limit(&cache, cache_limit) {
        warn(&format!("{error:#}"));
    }
    let stages = totals(&cache.stage_reports());
    let used = resource_use()?;
    if args.timings {
        // On standard error, so that paths stay alone on standard output.
        message(&table(&stages, &used));
    }
    if args.json { print_json(&built, &stages, &used) } else { print_paths(&built) }
}

/// The profile's mistakes are shown where they are written.
fn failure(args: &Args, error: anyhow::Error, color: bool) -> Failure {
    let Some(mistakes) = error.downcast_ref::<Mistakes>() else {
        return Failure::of_build(error);
    };
    let mut diagnostics = Diagnostics::default();
    report(&profile_dir(&args.profile), mistakes, &mut diagnostics);
    print_diagnostics(&diagnostics, color);
    Failure::explained(Exit::ProfileInvalid)
}

fn print_paths(built: &Built) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    for path in &built.artifacts {
        writeln!(out, "{}", path.display())?;
    }
    Ok(())
}

fn print_json(built: &Built, stages: &[StageTotal], used: &ResourceUse) -> Result<(), Failure> {
    let value = serde_json::json!({ "built": built, "stages": stages, "process": used });
    let text = serde_json::to_string_pretty(&value).context("serialising the result")?;
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}
