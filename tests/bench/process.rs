//! A build measured from outside: its result, and the memory of all it starts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What a build cost.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// User and system time of the program and all it started, seconds.
    pub cpu: f64,
    /// The most that all its processes had resident at one moment, bytes; pages they share count for each.
    pub peak: u64,
}

/// Runs `liveiso build --json profile` in `work`.
#[allow(clippy::disallowed_methods, reason = "the program under test is started directly")]
pub fn build(work: &Path, extra: &[&str]) -> Result<Cost> {
    let result = fs::File::create(work.join("result")).context("creating the result")?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_liveiso"));
    command.args(["build", "--json", "profile", "--cache-dir", "cache", "-o", "out"]).args(extra);
    let mut child = command.current_dir(work).stdin(Stdio::null()).stdout(result).spawn()?;
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for liveiso")? {
            break status;
        }
        peak = peak.max(resident(child.id())?);
        std::thread::sleep(Duration::from_millis(10));
    };
    ensure!(status.success(), "liveiso failed");
    let built: Value =
        serde_json::from_slice(&fs::read(work.join("result"))?).context("reading the result")?;
    let used = &built["process"];
    let cpu = used["cpu-seconds"].as_f64().context("no CPU seconds")?;
    // What one process says of itself is exact, and missed by nobody.
    let own = used["peak-memory"].as_u64().context("no peak memory")?;
    Ok(Cost { cpu, peak: peak.max(own) })
}

/// Bytes that a process and its descendants have resident now (proc(5)).
fn resident(root: u32) -> Result<u64> {
    let mut processes: BTreeMap<u32, (u32, u64)> = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("reading /proc")? {
        let name = entry.context("reading /proc")?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that has ended meanwhile has nothing resident.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, f)| f).split(' ').collect();
        let number = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        processes.insert(pid, (number(1) as u32, number(21)));
    }
    let descends = |mut pid: u32| {
        while pid != root {
            match processes.get(&pid) {
                Some(&(parent, _)) => pid = parent,
                None => return false,
            }
        }
        true
    };
    let pages: u64 = processes.iter().filter(|(pid, _)| descends(**pid)).map(|(_, (_, pages))| pages).sum();
    Ok(pages * rustix::param::page_size() as u64)
}

/// A copy of a shipped profile, `profile` in `work`.
pub fn copy_profile(name: &str, work: &Path) -> Result<()> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles").join(name);
    copy(&from, &work.join("profile"))
}

/// Files, directories and links.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to).with_context(|| format!("creating {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
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

/// Whole mebibytes, rounded up.
pub fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}
