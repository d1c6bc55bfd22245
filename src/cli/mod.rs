//! The command line: one file a subcommand, and the words they share.
//!
//! Data goes to standard output, messages to standard error. Finished artifacts
//! are printed as paths, one a line.

mod build;
mod cache;
mod check;
pub mod dev;
mod diff;
mod exit;
mod export;
mod inspect;
mod lock;
mod plan;
mod run;
mod style;
mod test;
mod timings;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::cache::Cache;
use crate::diagnostic::Diagnostics;
use crate::plan::TIMESTAMPS;
use crate::resolve::{LockUse, NoPlan, Options, Resolved, find_packages, resolve_locked};

pub use exit::{Exit, Failure};
pub use style::Color;

/// Builds live ISO images that boot almost any PC, without root.
#[derive(Debug, Parser)]
#[command(name = "liveiso", version, max_term_width = 80, after_help = EXIT_CODES)]
pub struct Cli {
    /// When to use colour in messages.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
    #[command(subcommand)]
    command: Command,
}

/// What the exit status means; scripts rely on it.
const EXIT_CODES: &str = "\
Exit status: 0 done, 1 failed, 2 wrong usage, 3 profile invalid, 4 download or
signature, 5 verification mismatch, 6 refused for safety, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Command {
    Build(build::Args),
    Check(check::Args),
    Diff(diff::Args),
    #[command(subcommand)]
    Export(export::Command),
    Inspect(inspect::Args),
    Lock(lock::Args),
    Plan(plan::Args),
    Run(run::Args),
    Test(test::Args),
    #[command(subcommand)]
    Cache(cache::Command),
    /// Run a part of the program on its own, for measuring.
    #[command(subcommand)]
    Dev(Dev),
}

#[derive(Debug, Subcommand)]
enum Dev {
    Squashfs(dev::SquashfsArgs),
}

impl Cli {
    /// Does what was asked and returns how it went; messages are already printed.
    pub fn run(self) -> Exit {
        let color = self.color.is_wanted();
        let result = match self.command {
            Command::Build(args) => build::run(&args, color),
            Command::Check(args) => check::run(&args, color),
            Command::Diff(args) => diff::run(&args),
            Command::Export(command) => export::run(&command, color),
            Command::Inspect(args) => inspect::run(&args),
            Command::Lock(args) => lock::run(&args, color),
            Command::Plan(args) => plan::run(&args, color),
            Command::Run(args) => run::run(&args),
            Command::Test(args) => test::run(&args, color),
            Command::Cache(command) => cache::run(&command),
            Command::Dev(Dev::Squashfs(args)) => dev::squashfs(&args).map_err(Failure::from),
        };
        match result {
            Ok(()) => Exit::Done,
            Err(failure) => {
                crate::interrupt::wait_if_interrupted();
                failure.report(color)
            }
        }
    }
}

/// Where downloads and finished stages are kept.
#[derive(Debug, clap::Args)]
struct CacheDirArgs {
    /// Directory for downloads and finished stages
    /// [default: $XDG_CACHE_HOME/liveiso].
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
}

/// A cache, and whether it has to do.
#[derive(Debug, clap::Args)]
struct CacheArgs {
    #[command(flatten)]
    dir: CacheDirArgs,
    /// Use nothing but what the cache has.
    #[arg(long)]
    offline: bool,
}

impl CacheArgs {
    fn open(&self) -> Result<Cache, Failure> {
        self.dir.open()
    }
}

impl CacheDirArgs {
    fn open(&self) -> Result<Cache, Failure> {
        let dir = match &self.cache_dir {
            Some(dir) => dir.clone(),
            None => default_cache_dir().ok_or_else(|| {
                Failure::usage("neither HOME nor XDG_CACHE_HOME is set; give --cache-dir DIR".to_string())
            })?,
        };
        let advice =
            || format!("{} cannot be the cache; name another directory with --cache-dir", dir.display());
        Ok(Cache::open(&dir).with_context(advice)?)
    }
}

/// The XDG base directory specification's cache directory; relative ones are to be ignored.
fn default_cache_dir() -> Option<PathBuf> {
    let absolute = |name| crate::host::environment(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(base.join("liveiso"))
}

/// How strictly the profile's lock file is taken.
#[derive(Debug, clap::Args)]
struct LockArgs {
    /// Fail if liveiso.lock is missing or stale.
    #[arg(long)]
    locked: bool,
}

impl LockArgs {
    fn lock_use(&self) -> LockUse<'static> {
        if self.locked { LockUse::Frozen } else { LockUse::Follow }
    }
}

/// A profile, and how it is resolved.
#[derive(Debug, clap::Args)]
struct ProfileArgs {
    /// The profile's directory.
    profile: PathBuf,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

impl ProfileArgs {
    fn resolve(&self, color: bool) -> Result<Resolved, Failure> {
        let cache = self.cache.open()?;
        resolve_profile(&self.profile, &cache, self.cache.offline, self.lock.lock_use(), color)
    }
}

/// Resolves a profile and prints what is wrong with it.
fn resolve_profile(
    profile: &Path,
    cache: &Cache,
    offline: bool,
    lock_use: LockUse<'_>,
    color: bool,
) -> Result<Resolved, Failure> {
    let mut diagnostics = Diagnostics::default();
    let options = resolve_options()?;
    let find = |request: &_, keep: &[&_]| find_packages(cache, offline, request, keep);
    let result = resolve_locked(&profile_dir(profile), &options, lock_use, find, &mut diagnostics);
    print_diagnostics(&diagnostics, color);
    match result {
        Ok(resolved) => Ok(resolved),
        Err(NoPlan::Invalid) => Err(Failure::explained(Exit::ProfileInvalid)),
        // The profile's own mistakes come first: they can be mended here and now.
        Err(NoPlan::Failed(error)) if diagnostics.has_errors() => {
            Err(Failure::of_archive(error).with_exit(Exit::ProfileInvalid))
        }
        Err(NoPlan::Failed(error)) => Err(Failure::of_archive(error)),
    }
}

/// Prints diagnostics, if there are any.
fn print_diagnostics(diagnostics: &Diagnostics, color: bool) {
    if !diagnostics.is_empty() {
        let current = std::env::current_dir().unwrap_or_default();
        message(&diagnostics.render(color, &current));
    }
}

/// Writes text to standard error. There is nobody left to tell if that fails.
fn message(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// `SOURCE_DATE_EPOCH` and what is built into the program.
///
/// # Errors
/// [`Exit::Usage`] when the variable is no time that FAT and cpio can hold.
fn resolve_options() -> Result<Options, Failure> {
    let Some(value) = crate::host::environment("SOURCE_DATE_EPOCH") else {
        return Ok(Options::new(None));
    };
    let seconds = value.to_str().and_then(|v| v.parse::<i64>().ok());
    match seconds.filter(|s| TIMESTAMPS.contains(s)) {
        Some(seconds) => Ok(Options::new(Some(seconds))),
        None => Err(Failure::usage(format!(
            "SOURCE_DATE_EPOCH must be seconds since 1970, from 315532800 to 4294967295, but is `{}`",
            value.to_string_lossy()
        ))),
    }
}

/// The profile's directory, also when its file was named.
fn profile_dir(path: &Path) -> PathBuf {
    match path.file_name() {
        Some(name) if name == "profile.toml" && path.is_file() => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        },
        _ => path.to_path_buf(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn every_command(command: clap::Command) -> Vec<clap::Command> {
        let below = command.get_subcommands().cloned().flat_map(every_command).collect::<Vec<_>>();
        std::iter::once(command).chain(below).collect()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_fits_a_terminal_and_explains_every_argument() {
        let mut root = Cli::command();
        root.build();
        for mut command in every_command(root) {
            let name = command.get_name().to_string();
            for text in [command.render_help().to_string(), command.render_long_help().to_string()] {
                for line in text.lines() {
                    assert!(line.chars().count() <= 80, "{name}: {line}");
                }
            }
            assert!(command.get_about().is_some(), "{name} says nothing about itself");
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{name} {} is not explained", argument.get_id());
            }
        }
    }
}
