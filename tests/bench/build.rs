//! What builds cost, cold and after small changes, and whether they reach what
//! the project promises: `cargo bench --bench build [-- PROFILE]`.
//!
//! PROFILE is `rescue` when none is given. The cold build begins with an empty
//! cache directory: indexes and packages are downloaded. The promised ones know
//! their packages, as with a lock file or `--offline`; one more, of a profile
//! without a lock, asks the archive whether there is anything new. CPU seconds
//! are user and system time of the program and all it starts; memory is what
//! all of them have resident at one moment.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

#[path = "process.rs"]
mod process;

use process::{Cost, build, copy_profile, mebibytes};

/// CPU seconds promised for `rescue`, and how many times less than cold.
const PROMISED: [(&str, f64); 3] = [("no change", 0.3), ("a menu line", 1.5), ("an overlay file", 3.0)];
const PROMISED_RATIO: f64 = 50.0;
/// Bytes.
const PROMISED_MEMORY: u64 = 400 << 20;

fn main() -> Result<()> {
    // cargo adds --bench.
    let mut words = std::env::args().skip(1);
    let name = words.rfind(|word| !word.starts_with('-')).unwrap_or_else(|| "rescue".to_string());
    let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).context("making a directory")?;
    let profile = work.path().join("profile");
    copy_profile(&name, work.path())?;

    println!("{name}: {:<16} {:>8} {:>8} {:>10} {:>9}", "", "CPU s", "at most", "cold/this", "peak MiB");
    let cold = build(work.path(), &[])?;
    row("cold", cold, None, cold.cpu);
    for (change, limit) in PROMISED {
        match change {
            "a menu line" => edit_menu(&profile)?,
            "an overlay file" => edit_overlay(&profile)?,
            _ => {}
        }
        row(change, build(work.path(), &["--offline"])?, Some(limit), cold.cpu);
    }
    row("no change, no lock", build(work.path(), &[])?, None, cold.cpu);
    println!(
        "promised: at least {PROMISED_RATIO} times less than cold, at most {} MiB",
        mebibytes(PROMISED_MEMORY)
    );
    Ok(())
}

fn row(change: &str, Cost { cpu, peak }: Cost, limit: Option<f64>, cold: f64) {
    let limit = limit.map_or(String::new(), |limit| format!("{limit:.1}"));
    // Below the clock's resolution of 10 ms.
    let ratio = cold / cpu.max(0.01);
    println!("  {change:<22} {cpu:>8.2} {limit:>8} {ratio:>10.0} {:>9}", mebibytes(peak));
}

fn edit_menu(profile: &Path) -> Result<()> {
    let path = profile.join("profile.toml");
    let text = fs::read_to_string(&path).context("reading the profile")?;
    let changed = if text.contains("[boot]") {
        text.replace("[boot]", "[boot]\ntimeout = 7")
    } else {
        text + "\n[boot]\ntimeout = 7\n"
    };
    fs::write(&path, changed).context("changing the profile")
}

fn edit_overlay(profile: &Path) -> Result<()> {
    let dir = profile.join("airootfs/etc");
    fs::create_dir_all(&dir).context("making the overlay")?;
    fs::write(dir.join("bench"), "changed\n").context("changing the overlay")
}
