//! `liveiso test ISO|PROFILE`

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::build::{image_of, is_profile};
use super::{CacheArgs, Exit, Failure, LockArgs, message, profile_dir};
use crate::manifest::{predicted_ram_mib, record_least_ram};
use crate::output::warn;
use crate::plan::Budget;
use crate::qemu::{
    Accelerator, Case, Cell, Firmware, LeastMemory, Medium, Subject, TestOptions, least_memory, matrix,
    record_boot_order, test,
};
use crate::resolve::{BOOT_ORDER, boot_order_text};
use crate::scratch::Scratch;

/// Where the search for the least RAM begins without a prediction (MiB).
const FIRST_GUESS: u32 = 64;

/// Boot an ISO, or a profile's, on many machines and check what runs there.
///
/// Each machine must reach a root shell on its first serial port; build id,
/// root, PID 1 and memory are read from inside. Every firmware is tried with
/// CD and USB stick unless told otherwise; what cannot exist is skipped.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The image to boot, or a profile's directory, which is built first.
    #[arg(value_name = "ISO|PROFILE")]
    image: PathBuf,
    /// List the machines, and why some would be skipped, and boot none.
    #[arg(long)]
    list: bool,
    /// Search the least RAM that reaches the login, and write it into the
    /// manifest beside the ISO [default: on bios with a cd].
    #[arg(long, conflicts_with_all = ["list", "memory"])]
    min_ram: bool,
    /// Instead of testing, record which files a boot reads, and write them to
    /// the profile's boot-order; those of an ISO are printed.
    #[arg(long)]
    record_boot_order: bool,
    /// RAM in MiB, one or several [default: 128 for bios, 256 for uefi; over
    /// the network that much beside the image].
    #[arg(long, value_name = "MiB", value_delimiter = ',')]
    memory: Vec<u32>,
    /// Only these kinds of firmware.
    #[arg(long, value_name = "FIRMWARE", value_delimiter = ',')]
    firmware: Vec<Firmware>,
    /// Only these media.
    #[arg(long, value_name = "MEDIUM", value_delimiter = ',')]
    medium: Vec<Medium>,
    /// All media, not only cd and usb.
    #[arg(long, conflicts_with = "medium")]
    all: bool,
    /// Virtual processors.
    #[arg(long, value_name = "N", default_value = "1")]
    cpus: u32,
    /// Seconds one boot may take.
    #[arg(long, value_name = "SECONDS", default_value = "240")]
    time_limit: u64,
    /// Machines running at once, if memory allows [default: one a processor].
    #[arg(short, long, value_name = "N")]
    jobs: Option<usize>,
    /// Least MemAvailable at the root shell, in kB.
    #[arg(long, value_name = "kB")]
    min_available: Option<u64>,
    /// Directory on the medium that holds the marker file; a profile says it itself.
    #[arg(long, value_name = "NAME", default_value = "liveiso")]
    install_dir: String,
    /// Use KVM where a short trial shows that it works.
    #[arg(long)]
    kvm: bool,
    /// Keep console logs, pictures of the menus and junit.xml below this
    /// directory, one directory a machine [default: out/test/NAME].
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Write the JUnit XML to this file instead.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Keep what is built of a profile in this directory [default: out with
    /// --min-ram, otherwise it is not kept].
    #[arg(short, long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the results as JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    cache: CacheArgs,
}

/// What is booted.
struct Image {
    iso: PathBuf,
    install_dir: String,
    budget: Budget,
    /// The profile it was built of.
    profile: Option<PathBuf>,
}

pub(super) fn run(args: &Args, color: bool) -> Result<(), Failure> {
    if !is_profile(&args.image) {
        let (iso, install_dir) = (args.image.clone(), args.install_dir.clone());
        return boot(args, &Image { iso, install_dir, budget: Budget::default(), profile: None });
    }
    let scratch = Scratch::new("test")?;
    let out = match &args.out {
        Some(dir) => dir,
        None if args.min_ram => Path::new("out"),
        None => scratch.path(),
    };
    boot(args, &built(args, out, color)?)
}

/// Builds the profile below `out`.
fn built(args: &Args, out: &Path, color: bool) -> Result<Image, Failure> {
    let built = image_of(&args.image, out, &args.lock, &args.cache, color)?;
    let profile = Some(profile_dir(&args.image));
    Ok(Image { iso: built.iso, install_dir: built.plan.install_dir, budget: built.plan.budget, profile })
}

fn boot(args: &Args, image: &Image) -> Result<(), Failure> {
    let options = options(args, image);
    if args.record_boot_order {
        record(args, image)
    } else if args.list {
        list(args, image, &options)
    } else if args.min_ram {
        search_least_memory(args, image, &options)
    } else {
        test_machines(args, image, &options)
    }
}

fn record(args: &Args, image: &Image) -> Result<(), Failure> {
    let limit = Duration::from_secs(args.time_limit);
    let order = record_boot_order(&image.iso, &image.install_dir, limit, args.logs.as_deref())?;
    let text = boot_order_text(&order);
    match image.profile.as_ref().map(|dir| dir.join(BOOT_ORDER)) {
        None => std::io::stdout().write_all(text.as_bytes())?,
        Some(path) => {
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            writeln!(std::io::stdout(), "{}", path.display())?;
        }
    }
    Ok(())
}

fn options(args: &Args, image: &Image) -> TestOptions {
    let all = TestOptions::default();
    let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let media = match (&args.medium[..], args.all) {
        ([], true) => Medium::ALL.to_vec(),
        ([], false) => all.media,
        (some, _) => some.to_vec(),
    };
    // Only the cells asked for: a promise is tried when nobody asked for certain ones.
    let unasked = args.firmware.is_empty() && args.medium.is_empty() && args.memory.is_empty();
    let promised = image.budget.min_ram.filter(|_| unasked).map(|bytes| (bytes >> 20) as u32);
    TestOptions {
        firmwares: if args.firmware.is_empty() { all.firmwares } else { args.firmware.clone() },
        media,
        memory_mib: args.memory.clone(),
        promised_mib: promised,
        cpus: args.cpus,
        accelerator: if args.kvm { None } else { Some(Accelerator::Tcg) },
        usb: None,
        time_limit: Duration::from_secs(args.time_limit),
        jobs: args.jobs.unwrap_or((processors / args.cpus.max(1) as usize).max(1)),
        min_available_kb: args.min_available,
        budget: image.budget,
        install_dir: image.install_dir.clone(),
        log_dir: Some(log_dir(args, image)),
    }
}

fn log_dir(args: &Args, image: &Image) -> PathBuf {
    let name = || image.iso.file_stem().unwrap_or_default();
    args.logs.clone().unwrap_or_else(|| Path::new("out/test").join(name()))
}

fn list(args: &Args, image: &Image, options: &TestOptions) -> Result<(), Failure> {
    let cases = options.cases(&Subject::open(&image.iso, &image.install_dir)?);
    let text = if args.json {
        let value = |case: &Case| serde_json::json!({ "name": case.label(), "skipped": case.obstacle });
        pretty(&cases.iter().map(value).collect::<Vec<_>>())?
    } else {
        let skipped = |case: &Case| case.obstacle.as_ref().map(|reason| format!("  skipped: {reason}"));
        cases.iter().map(|case| format!("{}{}\n", case.label(), skipped(case).unwrap_or_default())).collect()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn pretty(value: &impl serde::Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value).context("serialising the results")? + "\n")
}

fn say(cell: &Cell) {
    message(&format!("{}\n", cell.summary()));
}

fn test_machines(args: &Args, image: &Image, options: &TestOptions) -> Result<(), Failure> {
    let cells = test(&image.iso, options, &say)?;
    let junit = args.junit.clone().unwrap_or_else(|| log_dir(args, image).join("junit.xml"));
    let name = image.iso.file_name().unwrap_or_default().to_string_lossy();
    if let Some(dir) = junit.parent() {
        std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    }
    std::fs::write(&junit, matrix::junit(&name, &cells))
        .with_context(|| format!("writing {}", junit.display()))?;
    let text = if args.json { pretty(&cells)? } else { matrix::table(&cells) };
    std::io::stdout().write_all(text.as_bytes())?;
    if cells.iter().all(|cell| cell.skipped.is_some()) {
        return Err(anyhow::anyhow!("every machine was skipped: the image was not tested").into());
    }
    if cells.iter().any(Cell::failed) { Err(Failure::explained(Exit::Mismatch)) } else { Ok(()) }
}

fn search_least_memory(args: &Args, image: &Image, options: &TestOptions) -> Result<(), Failure> {
    let manifest = image.iso.with_extension("manifest.json");
    let guess = predicted_ram_mib(&manifest).unwrap_or(FIRST_GUESS);
    let firmwares = if args.firmware.is_empty() { vec![Firmware::Bios] } else { args.firmware.clone() };
    let media = if args.medium.is_empty() && !args.all { vec![Medium::Cd] } else { options.media.clone() };
    let mut found = Vec::new();
    for &firmware in &firmwares {
        for &medium in &media {
            let one = TestOptions { firmwares: vec![firmware], media: vec![medium], ..options.clone() };
            // UEFI's own firmware takes RAM before the kernel does.
            let guess = guess + firmware.default_memory_mib() - Firmware::Bios.default_memory_mib();
            found.push(least_memory(&image.iso, &one, guess, &say)?);
        }
    }
    let text = if args.json {
        pretty(&found)?
    } else {
        found.iter().map(|least| format!("{} {} MiB\n", least.name, least.mib)).collect()
    };
    std::io::stdout().write_all(text.as_bytes())?;
    if manifest.is_file() {
        for least in &found {
            record_least_ram(&manifest, &least.name, least.mib)?;
        }
    } else {
        warn(&format!("there is no {} to write this into", manifest.display()));
    }
    check_promise(&found, &image.budget)
}

/// The profile's `min-ram` is about a BIOS machine with a CD.
fn check_promise(found: &[LeastMemory], budget: &Budget) -> Result<(), Failure> {
    let promised = budget.min_ram.map(|bytes| bytes >> 20);
    let beyond = found.iter().find(|least| least.name == "bios-cd").zip(promised);
    match beyond.filter(|(least, promised)| u64::from(least.mib) > *promised) {
        None => Ok(()),
        Some((least, promised)) => {
            message(&format!(
                "the login takes {} MiB, beyond the budget `min-ram` of {promised} MiB\n",
                least.mib
            ));
            Err(Failure::explained(Exit::Mismatch))
        }
    }
}
