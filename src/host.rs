//! The only door to the host: external programs, environment and clock.
//!
//! Programs run with a cleaned environment (`LC_ALL=C.UTF-8`, `TZ=UTC0`, a fixed
//! `PATH` tail), so that nothing of the user's session reaches an artifact.

#![allow(clippy::disallowed_methods)]

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, anyhow, bail};

/// Debian package that has each external program we start.
const DEBIAN_PACKAGES: &[(&str, &str)] = &[
    ("xorriso", "xorriso"),
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("apt-config", "apt"),
    ("/usr/lib/apt/apt-helper", "apt"),
    ("setpriv", "util-linux"),
    ("mmdebstrap", "mmdebstrap"),
    ("arch-test", "arch-test"),
    ("newuidmap", "uidmap"),
    ("mkfs.erofs", "erofs-utils"),
    ("fsck.erofs", "erofs-utils"),
    ("fakeroot", "fakeroot"),
    ("setfattr", "attr"),
    ("mformat", "mtools"),
    ("mcopy", "mtools"),
    ("syslinux", "syslinux"),
    ("grub-mkimage", "grub-common"),
    ("busybox", "busybox-static"),
    ("qemu-storage-daemon", "qemu-system-common"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("qemu-system-i386", "qemu-system-x86"),
];

/// A program that is not installed; the message says which Debian package has it.
#[derive(Debug)]
pub struct MissingTool {
    /// Program name.
    pub program: String,
    /// What it is needed for, as a clause.
    pub purpose: String,
}

impl std::fmt::Display for MissingTool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is not installed, but is needed for {}", self.program, self.purpose)?;
        match DEBIAN_PACKAGES.iter().find(|(program, _)| *program == self.program) {
            Some((_, package)) => write!(f, "; install it with `sudo apt-get install {package}`"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for MissingTool {}

/// Finds a program on `PATH` or in the sbin directories.
///
/// # Errors
/// [`MissingTool`], with the package to install.
pub fn find_tool(program: &str, purpose: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    std::env::split_paths(&path)
        .chain(sbin.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| anyhow!(MissingTool { program: program.to_string(), purpose: purpose.to_string() }))
}

/// An external program about to run, with a cleaned environment.
#[derive(Debug)]
pub struct Tool {
    command: Command,
}

impl Tool {
    /// Prepares a program.
    ///
    /// # Errors
    /// [`MissingTool`] when it is not installed.
    pub fn new(program: &str, purpose: &str) -> Result<Tool> {
        let mut command = Command::new(find_tool(program, purpose)?);
        command.env_clear();
        for keep in ["HOME", "USER", "LOGNAME", "XDG_RUNTIME_DIR", "http_proxy", "https_proxy", "no_proxy"] {
            if let Some(value) = std::env::var_os(keep) {
                command.env(keep, value);
            }
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"))
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC0")
            .stdin(Stdio::null());
        Ok(Tool { command })
    }

    /// As [`Tool::new`], for a program that works in our directories: the kernel
    /// ends it with us (with the thread that starts it, which waits for it), even
    /// when we are killed. What a next run does would come in its way.
    ///
    /// # Errors
    /// As [`Tool::new`].
    pub fn bound(program: &str, purpose: &str) -> Result<Tool> {
        let path = find_tool(program, purpose)?;
        Ok(Tool::new("setpriv", purpose)?.args(["--pdeathsig", "KILL", "--"]).arg(path))
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Tool {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Tool {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Tool {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    pub fn current_dir(mut self, dir: &Path) -> Tool {
        self.command.current_dir(dir);
        self
    }

    /// The prepared command, for callers that wire up their own pipes.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Runs to the end and returns standard output.
    ///
    /// # Errors
    /// A failure to start, or a non-zero exit with the command line and the end of stderr.
    pub fn output(mut self) -> Result<Vec<u8>> {
        let shown = self.shown();
        let output = self.command.output().with_context(|| format!("starting {shown}"))?;
        check_exit(&shown, &output)?;
        Ok(output.stdout)
    }

    /// Runs to the end and returns status, stdout and stderr for callers that read failures.
    ///
    /// # Errors
    /// Only a failure to start.
    pub fn capture(mut self) -> Result<Output> {
        let shown = self.shown();
        self.command.output().with_context(|| format!("starting {shown}"))
    }

    /// The command as one could paste it into a shell.
    pub fn shown(&self) -> String {
        let words: Vec<OsString> = std::iter::once(self.command.get_program())
            .chain(self.command.get_args())
            .map(OsStr::to_os_string)
            .collect();
        words.iter().map(|w| shell_quoted(&w.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }
}

fn shell_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_string();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Turns a non-zero exit into an error that ends with the last lines of stderr.
fn check_exit(shown: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    bail!("{shown} failed ({}):\n{}", output.status, last_lines(&output.stderr))
}

/// The last 20 lines, at most 2 KiB, of a program's stderr.
pub fn last_lines(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(&stderr[stderr.len().saturating_sub(2048)..]);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// An environment variable that is meant to influence a build (`SOURCE_DATE_EPOCH`, `XDG_CACHE_HOME`, `HOME`).
pub fn environment(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Bytes of RAM that programs could still take, as the kernel estimates (`MemAvailable` of proc(5)).
///
/// # Errors
/// When /proc is not mounted or has another format.
pub fn available_memory() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kilobytes =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB"));
    let kilobytes: u64 =
        kilobytes.and_then(|n| n.trim().parse().ok()).context("finding MemAvailable in /proc/meminfo")?;
    Ok(kilobytes << 10)
}

/// What this process has cost so far.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ResourceUse {
    /// Seconds of processor time, user and system, of this process and of all programs it started and waited for.
    pub cpu_seconds: f64,
    /// The largest resident set of this process alone, bytes.
    pub peak_memory: u64,
}

/// Reads proc(5); programs still running are not counted.
///
/// # Errors
/// When /proc is not mounted or has another format.
pub fn resource_use() -> Result<ResourceUse> {
    let read = |path| std::fs::read_to_string(path).with_context(|| format!("reading {path}"));
    let stat = read("/proc/self/stat")?;
    // The second field, the program's name, may hold anything; utime is the 14th.
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(4);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    let status = read("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
    let peak: u64 = peak.context("finding VmHWM in /proc/self/status")?.trim().parse().context("VmHWM")?;
    let cpu_seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok(ResourceUse { cpu_seconds, peak_memory: peak << 10 })
}
