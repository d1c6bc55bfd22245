//! `liveiso test ISO|PROFILE`

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::{CacheArgs, Exit, Failure, LockArgs, profile_dir, resolve_profile};
use crate::build::{BuildOptions, build};
use crate::qemu::{Accelerator, Cell, Firmware, Medium, TestOptions, matrix, record_boot_order, test};
use crate::resolve::{BOOT_ORDER, boot_order_text};

/// Boot an ISO, or a profile's, on several machines and check what runs there.
///
/// Each machine must reach a root shell on its first serial port; build id,
/// overlay root, PID 1 and memory figures are read from inside.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image to boot, or a profile's directory, which is built first.
    #[arg(value_name = "ISO|PROFILE")]
    image: PathBuf,
    /// Instead of testing, record which files a boot reads, and write them to
    /// the profile's boot-order; those of an ISO are printed.
    #[arg(long)]
    record_boot_order: bool,
    /// RAM in MiB [default: 128 for bios, 256 for uefi].
    #[arg(long, value_name = "MiB")]
    memory: Option<u32>,
    /// Only these kinds of firmware.
    #[arg(long, value_name = "FIRMWARE", value_delimiter = ',')]
    firmware: Vec<Firmware>,
    /// Only these media.
    #[arg(long, value_name = "MEDIUM", value_delimiter = ',')]
    medium: Vec<Medium>,
    /// Virtual processors.
    #[arg(long, value_name = "N", default_value = "1")]
    cpus: u32,
    /// Seconds one boot may take.
    #[arg(long, value_name = "SECONDS", default_value = "240")]
    time_limit: u64,
    /// Machines running at once.
    #[arg(short, long, value_name = "N", default_value = "2")]
    jobs: usize,
    /// Least MemAvailable at the root shell, in kB.
    #[arg(long, value_name = "kB")]
    min_available: Option<u64>,
    /// Directory on the medium that holds the marker file; a profile says it itself.
    #[arg(long, value_name = "NAME", default_value = "liveiso")]
    install_dir: String,
    /// Use KVM where a short trial shows that it works.
    #[arg(long)]
    kvm: bool,
    /// Keep console logs below this directory.
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Write the results as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(super) fn run(args: &Args, color: bool) -> Result<(), Failure> {
    let is_profile = args.image.is_dir() || args.image.ends_with("profile.toml");
    if !is_profile {
        return boot(args, &args.image, &args.install_dir, None);
    }
    let out = tempfile::Builder::new().prefix("liveiso-test-").tempdir().context("making a directory")?;
    let (iso, install_dir) = built(args, out.path(), color)?;
    boot(args, &iso, &install_dir, Some(&profile_dir(&args.image)))
}

/// The ISO of the profile, built below `out`, and the directory of its marker file.
fn built(args: &Args, out: &Path, color: bool) -> Result<(PathBuf, String), Failure> {
    let cache = args.cache.open()?;
    let resolved = resolve_profile(&args.image, &cache, args.cache.offline, args.lock.lock_use(), color)?;
    let options = BuildOptions {
        out: out.to_path_buf(),
        jobs: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        offline: args.cache.offline,
    };
    let built = build(&resolved.plan, &cache, &options).map_err(Failure::of_build)?;
    let iso = built.artifacts.into_iter().next().context("the build made no image")?;
    Ok((iso, resolved.plan.install_dir))
}

/// Tests an image, or records its boot order for `profile`.
fn boot(args: &Args, iso: &Path, install_dir: &str, profile: Option<&Path>) -> Result<(), Failure> {
    if args.record_boot_order {
        record(args, iso, install_dir, profile)
    } else {
        test_machines(args, iso, install_dir)
    }
}

fn record(args: &Args, iso: &Path, install_dir: &str, profile: Option<&Path>) -> Result<(), Failure> {
    let limit = Duration::from_secs(args.time_limit);
    let order = record_boot_order(iso, install_dir, limit, args.logs.as_deref())?;
    let text = boot_order_text(&order);
    match profile.map(|dir| dir.join(BOOT_ORDER)) {
        None => std::io::stdout().write_all(text.as_bytes())?,
        Some(path) => {
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            writeln!(std::io::stdout(), "{}", path.display())?;
        }
    }
    Ok(())
}

fn test_machines(args: &Args, iso: &Path, install_dir: &str) -> Result<(), Failure> {
    let all = TestOptions::default();
    let options = TestOptions {
        firmwares: if args.firmware.is_empty() { all.firmwares } else { args.firmware.clone() },
        media: if args.medium.is_empty() { all.media } else { args.medium.clone() },
        memory_mib: args.memory,
        cpus: args.cpus,
        accelerator: if args.kvm { None } else { Some(Accelerator::Tcg) },
        usb: None,
        time_limit: Duration::from_secs(args.time_limit),
        jobs: args.jobs,
        min_available_kb: args.min_available,
        install_dir: install_dir.to_string(),
        log_dir: args.logs.clone(),
    };
    let cells = test(iso, &options, &|cell: &Cell| {
        let verdict = if cell.passed { "passed" } else { "FAILED" };
        eprintln!("{} {verdict} after {:.0} s", cell.name, cell.seconds);
    })?;
    if let Some(path) = &args.junit {
        let name = iso.file_name().unwrap_or_default().to_string_lossy();
        std::fs::write(path, matrix::junit(&name, &cells))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    let text = if args.json {
        serde_json::to_string_pretty(&cells).context("serialising the results")? + "\n"
    } else {
        matrix::table(&cells)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    if cells.iter().all(|cell| cell.passed) { Ok(()) } else { Err(Failure::explained(Exit::Mismatch)) }
}
