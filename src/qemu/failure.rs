//! How far a boot got, told from what the console shows.
//!
//! ```text
//! firmware ─► boot loader ─► kernel ─► /init ─► login
//! NothingToBoot  NoKernel   KernelPanic  InitMenu  NoLogin
//! ```

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The step at which a boot stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The firmware started nothing from the medium.
    NothingToBoot,
    /// A boot loader ran, but no kernel.
    NoKernel,
    /// The kernel gave up.
    KernelPanic,
    /// Our /init stopped and asks what to do.
    InitMenu,
    /// The kernel runs, but no root shell came on the serial console.
    NoLogin,
    /// A root shell came, but did not answer as it should.
    NoReport,
    /// The system runs and is not what was asked for.
    WrongSystem,
    /// The system reported, but did not power off.
    NoPoweroff,
}

impl FailureKind {
    /// The kind in words.
    pub fn words(self) -> &'static str {
        match self {
            FailureKind::NothingToBoot => "the firmware found nothing to boot",
            FailureKind::NoKernel => "the boot loader ran, but no kernel",
            FailureKind::KernelPanic => "kernel panic",
            FailureKind::InitMenu => "/init stopped with its menu",
            FailureKind::NoLogin => "the kernel ran, but no root shell came on the serial console",
            FailureKind::NoReport => "the root shell did not report",
            FailureKind::WrongSystem => "the system is not what it should be",
            FailureKind::NoPoweroff => "the system did not power off",
        }
    }
}

/// What ended the wait for a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The console showed that the boot cannot succeed any more.
    Seen,
    /// The time-out passed; seconds.
    TimeOut(u64),
    /// QEMU exited: the guest reset or powered off.
    Exit,
}

/// A boot that did not end with the right system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BootFailure {
    /// The step.
    pub kind: FailureKind,
    /// What ended the wait.
    pub ending: Ending,
    /// What the console says about it, or empty.
    pub detail: String,
    /// The last 20 lines of the console.
    pub last_lines: String,
}

/// Lines of the console shown with a failure.
const LAST_LINES: usize = 20;

impl BootFailure {
    /// A failure of a known kind.
    pub fn new(kind: FailureKind, ending: Ending, detail: String, console: &str) -> BootFailure {
        let lines: Vec<&str> = console.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let last_lines = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        BootFailure { kind, ending, detail, last_lines }
    }

    /// A boot that reached no login: finds the step from the console's text and the
    /// firmware's own log.
    pub fn classify(console: &str, firmware_log: &str, ending: Ending) -> BootFailure {
        let (kind, detail) = stopped_at(console, firmware_log);
        BootFailure::new(kind, ending, detail, console)
    }

    /// One line: kind, detail, and how it ended.
    pub fn summary(&self) -> String {
        let mut line = self.kind.words().to_string();
        if !self.detail.is_empty() {
            line = format!("{line}: {}", self.detail);
        }
        match self.ending {
            Ending::Seen => line,
            Ending::TimeOut(seconds) => format!("{line} (time-out after {seconds} s)"),
            Ending::Exit => format!("{line} (the machine switched itself off or reset)"),
        }
    }
}

impl Ending {
    /// A time-out of this length.
    pub fn time_out(limit: Duration) -> Ending {
        Ending::TimeOut(limit.as_secs())
    }
}

impl std::fmt::Display for BootFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.summary())?;
        match self.last_lines.as_str() {
            "" => write!(f, "\nthe console is empty"),
            lines => write!(f, "\nlast lines of the console:\n{lines}"),
        }
    }
}

impl std::error::Error for BootFailure {}

const PANIC: &str = "Kernel panic - not syncing";
/// The kernel's last line about a panic.
const PANIC_END: &str = "end Kernel panic";

/// What a loader prints when it gives up and waits for a person.
const LOADER_STOPS: &[&str] = &[
    "grub rescue>",
    "grub>",
    "Press any key to continue",
    "Booting kernel failed",
    "Could not find kernel image",
    "No DEFAULT or UI configuration directive found",
    "Failed to load ldlinux.c32",
    "Failed to load COM32 file",
    "isolinux: Image checksum error",
];

/// What a firmware prints when it gives up.
const FIRMWARE_STOPS: &[&str] = &["No bootable option or device was found", "No bootable device"];

/// Whether the console shows that no login can come any more.
pub fn is_hopeless(console: &str) -> bool {
    let stops = |list: &[&str]| list.iter().any(|text| console.contains(text));
    console.contains(PANIC_END)
        || init_menu(console).is_some()
        || (stops(LOADER_STOPS) && !kernel_started(console))
        || stops(FIRMWARE_STOPS)
}

fn stopped_at(console: &str, firmware_log: &str) -> (FailureKind, String) {
    if let Some(at) = console.find(PANIC) {
        let said = console[at + PANIC.len()..].lines().next().unwrap_or_default();
        return (FailureKind::KernelPanic, said.trim_start_matches(':').trim().to_string());
    }
    if let Some(said) = init_menu(console) {
        return (FailureKind::InitMenu, said);
    }
    if kernel_started(console) {
        return (FailureKind::NoLogin, String::new());
    }
    if let Some(line) =
        last_line_with(console, FIRMWARE_STOPS).or(last_line_with(firmware_log, FIRMWARE_STOPS))
    {
        return (FailureKind::NothingToBoot, line);
    }
    if loader_started(console, firmware_log) {
        let said = last_line_with(console, &["error:"]).or(last_line_with(console, LOADER_STOPS));
        return (FailureKind::NoKernel, said.unwrap_or_default());
    }
    (FailureKind::NothingToBoot, String::new())
}

/// Kernel messages begin with a time in brackets, ours from /init with a name.
fn kernel_started(console: &str) -> bool {
    console.lines().any(|line| {
        let line = line.trim_start();
        line.starts_with("liveiso:")
            || line.contains("Linux version ")
            || line
                .strip_prefix('[')
                .and_then(|rest| rest.split_once(']'))
                .is_some_and(|(time, _)| time.trim().parse::<f64>().is_ok())
    })
}

fn loader_started(console: &str, firmware_log: &str) -> bool {
    let loader = ["ISOLINUX", "SYSLINUX", "GRUB", "grub", "BdsDxe: starting Boot", "error:"];
    // SeaBIOS hands over with this line; a loader without serial console shows nothing itself.
    loader.iter().any(|text| console.contains(text)) || firmware_log.contains("Booting from 0000:7c00")
}

/// The line in which /init offers retry, shell and reboot, if it is there: what /init said before it.
fn init_menu(console: &str) -> Option<String> {
    let offers = |line: &&str| {
        let line = line.to_lowercase();
        ["retry", "shell", "reboot"].iter().all(|word| line.contains(word))
    };
    let lines: Vec<&str> = console.lines().collect();
    let menu = lines.iter().position(offers)?;
    let said = lines[..menu].iter().rev().map(|line| line.trim()).find(|line| {
        line.strip_prefix("!!").or(line.strip_prefix("liveiso:")).is_some_and(|rest| !rest.trim().is_empty())
    });
    Some(said.unwrap_or_default().trim_start_matches("!!").trim_start_matches("liveiso:").trim().to_string())
}

fn last_line_with(text: &str, wanted: &[&str]) -> Option<String> {
    let found = text.lines().rev().find(|line| wanted.iter().any(|text| line.contains(text)))?;
    Some(found.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureKind::*;

    #[test]
    fn logs_are_told_apart() {
        let panic = "[    0.9] Run /init as init process\n[    1.2] Kernel panic - not syncing: No working init found.\n\
                     [    1.3] ---[ end Kernel panic - not syncing: No working init found. ]---\n";
        let menu = "[    2.0] sr0: loaded\n!! no medium with /liveiso and id 00 found in 30 s\n\
                    block devices:\nr) retry  d) choose a device  s) shell  b) reboot  p) power off : ";
        // console, firmware log, kind, detail, hopeless
        let table = [
            ("", "", NothingToBoot, "", false),
            (
                "",
                "Booting from DVD/CD...\nBoot failed: Could not read from CDROM\nNo bootable device.\n",
                NothingToBoot,
                "No bootable device.",
                false,
            ),
            (
                "BdsDxe: failed to load Boot0001 \"UEFI QEMU DVD-ROM\": Not Found\n\
              BdsDxe: No bootable option or device was found.\n",
                "",
                NothingToBoot,
                "BdsDxe: No bootable option or device was found.",
                true,
            ),
            ("", "Booting from DVD/CD...\nBooting from 0000:7c00\n", NoKernel, "", false),
            (
                "\nISOLINUX 6.04 20190226 Copyright (C) 1994-2015\nLoading vmlinuz... ok\nLoading initrd.img...ok\n\
              Booting kernel failed: Invalid argument\nboot: ",
                "",
                NoKernel,
                "Booting kernel failed: Invalid argument",
                true,
            ),
            (
                "BdsDxe: starting Boot0001\nerror: file `/vmlinuz' not found.\nerror: you need to load the kernel first.\n\
              Press any key to continue...",
                "",
                NoKernel,
                "error: you need to load the kernel first.",
                true,
            ),
            ("GNU GRUB  version 2.06\n*Start live\n", "", NoKernel, "", false),
            (panic, "", KernelPanic, "No working init found.", true),
            (
                "[ 3.1] Kernel panic - not syncing: Attempted to kill init!",
                "",
                KernelPanic,
                "Attempted to kill init!",
                false,
            ),
            (menu, "", InitMenu, "no medium with /liveiso and id 00 found in 30 s", true),
            ("[    0.000000] Linux version 6.1\n[   2.0] grub> is no prompt here\n", "", NoLogin, "", false),
            ("liveiso: looking for the medium\n", "", NoLogin, "", false),
        ];
        for (console, firmware_log, kind, detail, hopeless) in table {
            let failure = BootFailure::classify(console, firmware_log, Ending::Exit);
            assert_eq!((failure.kind, failure.detail.as_str()), (kind, detail), "{console:?}");
            assert_eq!(is_hopeless(console), hopeless, "{console:?}");
        }
    }

    #[test]
    fn a_failure_in_words() {
        let console: String = (1..=30).map(|n| format!("[ {n}.0] line {n}\r\n\n")).collect();
        let failure = BootFailure::classify(&console, "", Ending::TimeOut(240));
        let shown = failure.to_string();
        let last: Vec<String> = (11..=30).map(|n| format!("[ {n}.0] line {n}")).collect();
        assert_eq!(
            shown,
            format!(
                "the kernel ran, but no root shell came on the serial console (time-out after 240 s)\n\
                 last lines of the console:\n{}",
                last.join("\n")
            )
        );
        let silent = BootFailure::classify("", "", Ending::Exit);
        assert_eq!(
            silent.to_string(),
            "the firmware found nothing to boot (the machine switched itself off or reset)\nthe console is empty"
        );
    }
}
