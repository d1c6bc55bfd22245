//! One machine that runs, and what becomes of its boot.
//!
//! It dies with us: a [`Guest`] that is dropped kills QEMU, and `setpriv
//! --pdeathsig` makes the kernel do so when we are killed. (The signal comes when
//! the *thread* that started QEMU ends, so a guest stays with its thread.)

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::failure::{BootFailure, Ending, FailureKind, is_hopeless};
use super::machine::{Arguments, MEDIUM_NODE, Machine};
use super::process::{Listener, Process, content, new_log};
use super::qmp::Qmp;
use super::report::{Report, Shell};
use super::serial::{Serial, Stopped};
use crate::host::{self, Tool};
use crate::scratch::Scratch;

/// What QEMU is needed for, in messages.
pub(super) const PURPOSE: &str = "booting the image";

/// Pictures in the log directory: of the boot menu, and of a failed boot's end.
const MENU_PICTURE: &str = "menu.png";
const LAST_PICTURE: &str = "screen.png";

/// What ISOLINUX and GRUB write below their menus, also to a serial port.
const MENU_SHOWN: &[&str] = &["Press [Tab] to edit options", "highlighted entry will be executed"];

/// A running machine.
#[derive(Debug)]
pub struct Guest {
    /// Its first serial port.
    pub serial: Serial,
    /// Its monitor.
    pub qmp: Qmp,
    process: Process,
    firmware_log: File,
}

/// The QEMU command for a machine, told to die with us; the caller adds arguments and wires it up.
///
/// # Errors
/// QEMU or setpriv is not installed.
pub(super) fn command(machine: &Machine) -> Result<Tool> {
    let qemu = host::find_tool(machine.program(), PURPOSE)?;
    Ok(Tool::new("setpriv", PURPOSE)?.args(["--pdeathsig", "KILL"]).arg(qemu))
}

impl Guest {
    /// Starts a machine with `image` as its medium.
    ///
    /// `log_dir` receives `console.log` (serial output as it came), `firmware.log`
    /// (SeaBIOS's debug port) and `qemu.log` (the command and QEMU's own messages);
    /// without it they are lost with the guest.
    ///
    /// # Errors
    /// A missing program or firmware, a QEMU that does not start until `deadline`.
    pub fn start(
        machine: &Machine,
        image: Option<&Path>,
        log_dir: Option<&Path>,
        deadline: Instant,
    ) -> Result<Guest> {
        // Only needed while QEMU starts: it keeps open what it opened, and we remove the names.
        let scratch = scratch_dir()?;
        let log_dir = log_dir.unwrap_or(scratch.path());
        std::fs::create_dir_all(log_dir).with_context(|| format!("creating {}", log_dir.display()))?;
        for picture in [MENU_PICTURE, LAST_PICTURE] {
            remove_if_there(&log_dir.join(picture))?;
        }
        let console_log = new_log(&log_dir.join("console.log"))?;
        let firmware_path = log_dir.join("firmware.log");
        let firmware_log = new_log(&firmware_path)?;
        let vars = machine.prepare_firmware(scratch.path())?;
        let serial = Listener::bind(scratch.path(), "serial.sock")?;
        let monitor = Listener::bind(scratch.path(), "monitor.sock")?;
        let mut wires = Arguments::default();
        wires.words(&["-display", "none", "-chardev"]).path("socket,id=serial,path=", &serial.path);
        wires.words(&["-serial", "chardev:serial", "-chardev"]);
        wires.path("socket,id=monitor,path=", &monitor.path);
        wires.words(&["-mon", "chardev=monitor,mode=control", "-chardev"]);
        wires.path("file,id=firmware,path=", &firmware_path);
        wires.words(&["-device", "isa-debugcon,iobase=0x402,chardev=firmware"]);
        let tool = command(machine)?.args(machine.arguments(image, &vars)).args(wires.0);
        let mut process = Process::start(tool, &log_dir.join("qemu.log"))?;
        let serial = Serial::new(serial.accept(&process, deadline)?, Some(console_log));
        // QEMU connects first and looks at its machine then: a refused one closes the monitor.
        let stream = monitor.accept(&process, deadline)?;
        let qmp = Qmp::new(stream).map_err(|e| process.explained(e, deadline))?;
        Ok(Guest { serial, qmp, process, firmware_log })
    }

    /// What the firmware wrote to its debug port so far.
    pub fn firmware_log(&self) -> String {
        String::from_utf8_lossy(&content(&self.firmware_log)).into_owned()
    }

    /// QEMU's process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until QEMU exits, taking in what the guest still prints; `None` at the deadline.
    ///
    /// # Errors
    /// A broken socket or log file.
    pub fn wait(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        if self.serial.drain(deadline)? == Stopped::Ended {
            return self.process.wait(deadline);
        }
        Ok(None)
    }
}

/// An earlier boot's picture must not be taken for this one's.
fn remove_if_there(file: &Path) -> Result<()> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("removing {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Our own directory for sockets and firmware variables, closed to others.
pub(super) fn scratch_dir() -> Result<Scratch> {
    Scratch::new("qemu")
}

/// What a machine has read from its medium since it was switched on, firmware and loader included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MediumReads {
    /// Bytes.
    pub bytes: u64,
    /// Read requests to the drive.
    pub requests: u64,
}

impl MediumReads {
    fn ask(qmp: &mut Qmp) -> Result<MediumReads> {
        MediumReads::parse(&qmp.execute("query-blockstats", serde_json::json!({}))?)
    }

    /// Reads QEMU's answer to `query-blockstats`.
    fn parse(answer: &Value) -> Result<MediumReads> {
        let drives = answer.as_array().context("QEMU lists no drives")?;
        let medium = drives.iter().find(|drive| drive["node-name"] == MEDIUM_NODE);
        let stats = &medium.context("the machine has no medium")?["stats"];
        let figure = |key: &str| stats[key].as_u64().with_context(|| format!("QEMU counts no {key}"));
        Ok(MediumReads { bytes: figure("rd_bytes")?, requests: figure("rd_operations")? })
    }
}

/// What became of one boot.
#[derive(Clone, Debug, PartialEq)]
pub struct Boot {
    /// What the system says about itself, if it came that far.
    pub report: Option<Report>,
    /// What went wrong; `None` for a boot as it should be.
    pub failure: Option<BootFailure>,
    /// Wall-clock seconds from power-on to the root shell.
    pub login_seconds: Option<f64>,
    /// What was read from the medium up to then.
    pub medium_reads: Option<MediumReads>,
}

/// Boots `image`, logs in on the serial console, asks for a [`Report`], compares it
/// with what it should be and powers off.
///
/// `expected_id` is the build id, or `None` to take any. `limit` holds for all of it.
/// For `log_dir` see [`Guest::start`]; `menu.png` is there too once a menu was shown on
/// the serial port, and `screen.png` after a failed boot.
///
/// # Errors
/// Only the host's failures (a missing program, a full disk); the guest's are in [`Boot::failure`].
pub fn boot_and_report(
    machine: &Machine,
    image: &Path,
    expected_id: Option<&str>,
    limit: Duration,
    log_dir: Option<&Path>,
) -> Result<Boot> {
    let started = Instant::now();
    let deadline = started + limit;
    let mut guest = Guest::start(machine, Some(image), log_dir, deadline)?;
    let mut boot = Boot { report: None, failure: None, login_seconds: None, medium_reads: None };
    // QEMU may have another idea of the current directory.
    let log_dir = log_dir.map(std::path::absolute).transpose().context("finding the current directory")?;
    let menu = log_dir.as_ref().map(|dir| dir.join(MENU_PICTURE));
    boot.failure = converse(&mut guest, machine, expected_id, started, limit, menu, &mut boot)?;
    if let (Some(_), Some(dir)) = (&boot.failure, log_dir) {
        // Best effort: the machine may be gone already.
        let _ = guest.qmp.screenshot(&dir.join(LAST_PICTURE));
    }
    Ok(boot)
}

/// Takes a picture when the console shows a menu, once.
struct MenuWatch<'q> {
    qmp: &'q mut Qmp,
    file: Option<PathBuf>,
}

impl MenuWatch<'_> {
    fn look(&mut self, console: &str) {
        if self.file.is_some() && MENU_SHOWN.iter().any(|text| console.contains(text)) {
            // A menu that cannot be photographed is no reason to end a boot.
            let _ = self.file.take().map(|file| self.qmp.screenshot(&file));
        }
    }
}

fn converse(
    guest: &mut Guest,
    machine: &Machine,
    expected_id: Option<&str>,
    started: Instant,
    limit: Duration,
    menu: Option<PathBuf>,
    boot: &mut Boot,
) -> Result<Option<BootFailure>> {
    let deadline = started + limit;
    let watch = RefCell::new(MenuWatch { qmp: &mut guest.qmp, file: menu });
    let gone_wrong = |console: &str| {
        watch.borrow_mut().look(console);
        is_hopeless(console)
    };
    let stopped = match Shell::log_in(&mut guest.serial, deadline, gone_wrong)? {
        Err(stopped) => stopped,
        Ok(mut shell) => {
            boot.login_seconds = Some(started.elapsed().as_secs_f64());
            if machine.medium.is_drive() {
                boot.medium_reads = Some(MediumReads::ask(&mut guest.qmp)?);
            }
            let answer = shell.report(deadline);
            let report = match answer {
                Ok(report) => boot.report.insert(report),
                Err(e) => return Ok(Some(failure(guest, FailureKind::NoReport, format!("{e:#}")))),
            };
            let faults = report.faults(expected_id, machine.firmware);
            shell.type_line("poweroff -f")?;
            if !faults.is_empty() {
                return Ok(Some(failure(guest, FailureKind::WrongSystem, faults.join("; "))));
            }
            return match guest.wait(deadline)? {
                Some(status) if status.success() => Ok(None),
                Some(status) => bail!("QEMU failed ({status}):\n{}", guest.process.messages()),
                None => Ok(Some(BootFailure {
                    ending: Ending::time_out(limit),
                    ..failure(guest, FailureKind::NoPoweroff, String::new())
                })),
            };
        }
    };
    let ending = match stopped {
        Some(Stopped::Deadline) => Ending::time_out(limit),
        Some(Stopped::Ended) => Ending::Exit,
        Some(Stopped::TooMuch) | None => Ending::Seen,
    };
    if ending == Ending::Exit
        && let Some(status) = guest.process.wait(deadline)?
        && !status.success()
    {
        bail!("QEMU failed ({status}):\n{}", guest.process.messages());
    }
    Ok(Some(BootFailure::classify(guest.serial.text(), &guest.firmware_log(), ending)))
}

fn failure(guest: &Guest, kind: FailureKind, detail: String) -> BootFailure {
    BootFailure::new(kind, Ending::Seen, detail, guest.serial.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_medium_is_found_among_the_drives() {
        let drive = |node: &str, bytes: u64| {
            json!({"device": "", "node-name": node,
                   "stats": {"rd_bytes": bytes, "rd_operations": 7, "wr_bytes": 1}})
        };
        let read = |answer: Value| MediumReads::parse(&answer).map_err(|e| e.to_string());
        let reads = MediumReads { bytes: 4096, requests: 7 };
        assert_eq!(read(json!([drive("vars", 1), drive("medium", 4096)])), Ok(reads));
        assert_eq!(read(json!([drive("vars", 1)])), Err("the machine has no medium".to_string()));
        let bare = json!([{"node-name": "medium", "stats": {"rd_bytes": 1}}]);
        assert_eq!(read(bare), Err("QEMU counts no rd_operations".to_string()));
        assert_eq!(read(json!({})), Err("QEMU lists no drives".to_string()));
    }
}
