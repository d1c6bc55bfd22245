//! The published exit codes and what leads to them.

use std::io::ErrorKind;

use super::message;
use crate::cache::is_damaged;
use crate::source::{ArchiveError, FailureKind, NotCached};

/// How a run ended; the numbers are promised to scripts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The world failed: a missing tool, a full disk, a machine that did not boot.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The profile is wrong; diagnostics say where.
    ProfileInvalid = 3,
    /// Something could not be downloaded, or its signature or hash is wrong.
    Download = 4,
    /// What was built or checked is not what it should be.
    Mismatch = 5,
    /// Refused because it could destroy something.
    Refused = 6,
    /// Ctrl-C or a request to end.
    Interrupted = 130,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit as u8)
    }
}

/// Why a subcommand failed: the exit code, and the message unless it is printed already.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: Option<anyhow::Error>,
}

impl Failure {
    /// A failure that was explained before.
    pub fn explained(exit: Exit) -> Failure {
        Failure { exit, error: None }
    }

    /// A mistake on the command line or in the environment.
    pub fn usage(message: String) -> Failure {
        Failure { exit: Exit::Usage, error: Some(anyhow::Error::msg(message)) }
    }

    /// A failure of the package resolver: the archive's, unless this machine
    /// is at fault or the profile wants what cannot be.
    pub fn of_archive(error: anyhow::Error) -> Failure {
        let exit = match error.downcast_ref::<ArchiveError>().map(|e| e.kind) {
            Some(FailureKind::Dependencies) => Exit::ProfileInvalid,
            Some(FailureKind::DiskFull) => Exit::Failed,
            None if is_local(&error) => Exit::Failed,
            _ => Exit::Download,
        };
        Failure { exit, error: Some(error) }
    }

    /// A failure of the build: the archive's only where a package could not be had.
    pub fn of_build(error: anyhow::Error) -> Failure {
        if error.is::<ArchiveError>() || error.is::<NotCached>() {
            return Failure::of_archive(error);
        }
        if is_damaged(&error) {
            return Failure { exit: Exit::Mismatch, error: Some(error) };
        }
        Failure::from(error)
    }

    /// The same message with another code.
    pub fn with_exit(self, exit: Exit) -> Failure {
        Failure { exit, ..self }
    }

    /// Prints the message, if any, and returns the exit code.
    pub fn report(&self, color: bool) -> Exit {
        if let Some(error) = &self.error {
            message(&chain(error, color));
        }
        self.exit
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        // A reader such as `head` that has seen enough is no failure.
        let pipe_closed = |e: &std::io::Error| e.kind() == ErrorKind::BrokenPipe;
        if error.downcast_ref::<std::io::Error>().is_some_and(pipe_closed) {
            return Failure::explained(Exit::Done);
        }
        Failure { exit: Exit::Failed, error: Some(error) }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::from(anyhow::Error::from(error))
    }
}

/// Whether this machine is at fault rather than the archive.
fn is_local(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<crate::host::MissingTool>() || cause.is::<std::io::Error>())
}

/// `error: …`, then every cause on a line of its own.
fn chain(error: &anyhow::Error, color: bool) -> String {
    let (on, off) = if color { ("\x1b[1;91m", "\x1b[0m") } else { ("", "") };
    let mut causes = error.chain();
    let first = causes.next().map(ToString::to_string).unwrap_or_default();
    let mut text = format!("{on}error{off}: {first}\n");
    for cause in causes {
        text.push_str(&format!("  caused by: {cause}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;
    use crate::cache::DamagedEntry;

    #[test]
    fn causes_are_one_a_line() {
        let error = Err::<(), _>(anyhow!("no space left")).context("writing efiboot.img").unwrap_err();
        let error = error.context("cannot build rescue.iso");
        assert_eq!(
            chain(&error, false),
            "error: cannot build rescue.iso\n  caused by: writing efiboot.img\n  caused by: no space left\n"
        );
    }

    #[test]
    fn failures_have_the_published_codes() {
        let missing = || anyhow!(crate::host::MissingTool { program: "x".into(), purpose: "y".into() });
        let closed = || anyhow!(std::io::Error::from(ErrorKind::BrokenPipe));
        for (failure, code) in [
            (Failure::from(anyhow!("x")), 1),
            (Failure::from(closed()), 0),
            (Failure::from(closed().context("printing")), 0),
            (Failure::of_archive(anyhow!("no answer").context("reading InRelease")), 4),
            (Failure::of_archive(missing().context("asking apt")), 1),
            (Failure::of_build(anyhow!("no space left").context("writing x.iso")), 1),
            (Failure::of_build(anyhow!(DamagedEntry("x".into())).context("writing x.iso")), 5),
            (Failure::of_build(anyhow!(NotCached("x".to_string())).context("fetching packages")), 4),
            (Failure::usage("x".to_string()), 2),
        ] {
            assert_eq!(failure.exit as u8, code, "{failure:?}");
        }
    }
}
