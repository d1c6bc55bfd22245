//! `liveiso build PROFILE`

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::cache::{apply_limit, max_size, parse_size};
use super::timings::{StageTotal, table, totals};
use super::{CacheArgs, Exit, Failure, LockArgs, message, print_diagnostics, profile_dir, resolve_profile};
use crate::build::{BuildOptions, Built, build};
use crate::cache::Cache;
use crate::diagnostic::Diagnostics;
use crate::host::{ResourceUse, resource_use};
use crate::output::warn;
use crate::plan::Plan;
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
        jobs: args.jobs.unwrap_or_else(all_processors),
        offline: args.cache.offline,
    };
    let built =
        build(&resolved.plan, &cache, &options).map_err(|error| failure(&args.profile, error, color))?;
    for initramfs in std::iter::once(&built.initramfs).chain(&built.second_initramfs) {
        message(&format!("{}\n", initramfs.summary));
    }
    message(&format!("{}\n", built.firmware_reads.summary()));
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

/// A profile's image, for commands that do something with it.
pub(super) struct ProfileImage {
    pub iso: PathBuf,
    pub plan: Plan,
    pub cache: Cache,
}

/// Whether an argument that may be an image is a profile.
pub(super) fn is_profile(path: &Path) -> bool {
    path.is_dir() || path.ends_with("profile.toml")
}

/// Builds a profile's image below `out`.
pub(super) fn image_of(
    profile: &Path,
    out: &Path,
    lock: &LockArgs,
    cache: &CacheArgs,
    color: bool,
) -> Result<ProfileImage, Failure> {
    let offline = cache.offline;
    let cache = cache.open()?;
    let resolved = resolve_profile(profile, &cache, offline, lock.lock_use(), color)?;
    let options = BuildOptions { out: out.to_path_buf(), jobs: all_processors(), offline };
    let built = build(&resolved.plan, &cache, &options).map_err(|error| failure(profile, error, color))?;
    let iso = built.artifacts.into_iter().next().context("the build made no image")?;
    Ok(ProfileImage { iso, plan: resolved.plan, cache })
}

fn all_processors() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// The profile's mistakes are shown where they are written.
fn failure(profile: &Path, error: anyhow::Error, color: bool) -> Failure {
    let Some(mistakes) = error.downcast_ref::<Mistakes>() else {
        return Failure::of_build(error);
    };
    let mut diagnostics = Diagnostics::default();
    report(&profile_dir(profile), mistakes, &mut diagnostics);
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
