//! What builds cost, cold and after small changes, and whether they reach what
//! the project promises: `cargo bench --bench build [-- PROFILE]`.
//!
//! PROFILE is `rescue` when none is given. Needs a network for the first build.
//! CPU seconds are user and system time of the program and all it starts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

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
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles").join(&name), &profile)?;

    println!("{name}: {:<16} {:>8} {:>8} {:>10} {:>9}", "", "CPU s", "at most", "cold/this", "peak MiB");
    let cold = build(work.path(), &[])?;
    row("cold", cold, None, cold.0);
    for (change, limit) in PROMISED {
        match change {
            "a menu line" => edit_menu(&profile)?,
            "an overlay file" => edit_overlay(&profile)?,
            _ => {}
        }
        row(change, build(work.path(), &["--offline"])?, Some(limit), cold.0);
    }
    println!(
        "promised: at least {PROMISED_RATIO} times less than cold, at most {} MiB",
        PROMISED_MEMORY >> 20
    );
    Ok(())
}

fn row(change: &str, (cpu, peak): (f64, u64), limit: Option<f64>, cold: f64) {
    let limit = limit.map_or(String::new(), |limit| format!("{limit:.1}"));
    // Below the clock's resolution of 10 ms.
    let ratio = cold / cpu.max(0.01);
    println!("  {change:<22} {cpu:>8.2} {limit:>8} {ratio:>10.0} {:>9}", peak.div_ceil(1 << 20));
}

/// CPU seconds and peak memory.
#[allow(clippy::disallowed_methods, reason = "the program under test is started directly")]
fn build(work: &Path, extra: &[&str]) -> Result<(f64, u64)> {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_liveiso"));
    command.args(["build", "--json", "profile", "--cache-dir", "cache", "-o", "out"]).args(extra);
    let output = command.current_dir(work).stderr(Stdio::inherit()).output().context("starting liveiso")?;
    ensure!(output.status.success(), "liveiso failed");
    let built: Value = serde_json::from_slice(&output.stdout).context("reading the result")?;
    let used = &built["process"];
    let cpu = used["cpu-seconds"].as_f64().context("no CPU seconds")?;
    Ok((cpu, used["peak-memory"].as_u64().context("no peak memory")?))
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

/// Files, directories and links.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let (from, to): (PathBuf, PathBuf) = {
            let entry = entry?;
            (entry.path(), to.join(entry.file_name()))
        };
        if from.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
        } else if from.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
        }
    }
    Ok(())
}
