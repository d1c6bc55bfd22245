//! A child under a deadline, and the sockets it connects to.
//!
//! QEMU connects to sockets we listen on, so there is nothing to poll for while it
//! starts: either it connects or it ends.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::host::{self, Tool};

/// A child that is killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pidfd: OwnedFd,
    log: File,
}

impl Process {
    /// Starts a program with nothing to read and its messages in a log file.
    pub(super) fn start(tool: Tool, log: &Path) -> Result<Process> {
        Process::start_with(tool, Stdio::null(), log)
    }

    /// The same with this as its standard input.
    pub(super) fn start_with(tool: Tool, input: impl Into<Stdio>, log: &Path) -> Result<Process> {
        let shown = tool.shown();
        let writing = || format!("writing {}", log.display());
        let mut log_file = new_log(log)?;
        writeln!(log_file, "{shown}").with_context(writing)?;
        let output = log_file.try_clone().with_context(writing)?;
        let errors = log_file.try_clone().with_context(writing)?;
        let mut command: Command = tool.into_command();
        command.stdin(input).stdout(output).stderr(errors);
        let mut child = command.spawn().with_context(|| format!("starting {shown}"))?;
        let pid = rustix::process::Pid::from_child(&child);
        match rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Process { child, pidfd, log: log_file }),
            Err(e) => {
                kill(&mut child);
                Err(e).context("watching QEMU (Linux 5.3 or later is needed)")
            }
        }
    }

    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the exit; `None` at the deadline.
    pub(super) fn wait(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        match first_ready(&[self.pidfd.as_fd()], deadline)? {
            Some(_) => Ok(Some(self.child.wait().context("waiting for QEMU")?)),
            None => Ok(None),
        }
    }

    /// An error in talking to the program, or its own last words if it ended.
    pub(super) fn explained(&mut self, error: anyhow::Error, deadline: Instant) -> anyhow::Error {
        match self.wait(deadline.min(Instant::now() + Duration::from_secs(5))) {
            Ok(Some(_)) => anyhow!("QEMU did not start:\n{}", self.messages()),
            _ => error,
        }
    }

    /// What the program printed, without the command line in front.
    pub(super) fn messages(&self) -> String {
        let log = content(&self.log);
        let start = log.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        host::last_lines(&log[start..])
    }
}

fn kill(child: &mut Child) {
    // Both fail only when it is gone already.
    let _ = child.kill();
    let _ = child.wait();
}

impl Drop for Process {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

/// The first of some descriptors that can be read or is closed; `None` at the deadline.
fn first_ready(descriptors: &[BorrowedFd], deadline: Instant) -> Result<Option<usize>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("counting the time-out")?;
        let mut fds: Vec<PollFd> =
            descriptors.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) if left.is_zero() => return Ok(None),
            Ok(_) => {
                if let Some(ready) = fds.iter().position(|fd| !fd.revents().is_empty()) {
                    return Ok(Some(ready));
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("waiting for QEMU"),
        }
    }
}

/// A socket QEMU connects to.
pub(super) struct Listener {
    listener: UnixListener,
    pub(super) path: PathBuf,
}

impl Listener {
    pub(super) fn bind(dir: &Path, name: &str) -> Result<Listener> {
        let path = dir.join(name);
        let listener =
            UnixListener::bind(&path).with_context(|| format!("creating the socket {}", path.display()))?;
        Ok(Listener { listener, path })
    }

    /// Takes the connection of a process that is about to make it.
    pub(super) fn accept(&self, process: &Process, deadline: Instant) -> Result<UnixStream> {
        let descriptors = [self.listener.as_fd(), process.pidfd.as_fd()];
        match first_ready(&descriptors, deadline)? {
            Some(0) => Ok(self.listener.accept().context("accepting QEMU's connection")?.0),
            Some(_) => bail!("QEMU did not start:\n{}", process.messages()),
            None => bail!("QEMU did not start in time:\n{}", process.messages()),
        }
    }
}

/// Makes an empty file that can be read back.
pub(super) fn new_log(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    options.open(path).with_context(|| format!("creating {}", path.display()))
}

/// The first MiB of a log file, whatever became of its name.
pub(super) fn content(log: &File) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let mut length = 0;
    // A log that cannot be read says nothing; the failure it would explain is reported anyway.
    while let Ok(n @ 1..) = log.read_at(&mut bytes[length..], length as u64) {
        length += n;
    }
    bytes.truncate(length);
    bytes
}
