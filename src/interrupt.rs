//! Ctrl-C and its relatives: children end, scratch directories go, exit code 130.
//!
//! Artifacts need no care here: they have no name until they are complete, see
//! [`crate::output`].

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Published exit code of an interrupted run.
pub const EXIT_CODE: i32 = 130;

/// How long children may take to clean up after themselves before we leave.
const PATIENCE: Duration = Duration::from_secs(10);

/// Set by the signal itself, before any child can be seen to have ended of it.
static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Ends the program in an orderly way on SIGINT, SIGTERM and SIGHUP.
///
/// # Errors
/// When the signals cannot be caught.
pub fn install() -> Result<()> {
    let caught = [SIGINT, SIGTERM, SIGHUP];
    for signal in caught {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED)).context("catching signals")?;
    }
    let mut signals = Signals::new(caught).context("catching signals")?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            eprintln!("interrupted; nothing was written");
            end_children();
            crate::cache::remove_active_work_dirs();
            crate::scratch::remove_all();
            std::process::exit(EXIT_CODE);
        }
    });
    Ok(())
}

/// Called with a failure at hand: after a signal it is only that a child was ended,
/// so it is not reported, and the exit code is the signal's. Returns if there was none.
pub fn wait_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        // The thread above ends the process, within PATIENCE.
        std::thread::park();
    }
}

/// A terminal sends Ctrl-C to children as well, `kill` does not.
fn end_children() {
    let patience = Instant::now() + PATIENCE;
    for child in children() {
        // It may have ended on its own by now.
        let _ = kill_process(child, Signal::TERM);
    }
    while !children().is_empty() && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Direct children of all threads; a zombie that a thread is about to reap does not count.
fn children() -> Vec<Pid> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<i32> = lists
        .flat_map(|list| list.split_whitespace().map(str::to_string).collect::<Vec<_>>())
        .filter_map(|pid| pid.parse().ok())
        .filter(|pid| !is_zombie(*pid))
        .collect();
    pids.into_iter().filter_map(Pid::from_raw).collect()
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with('Z'))
}
