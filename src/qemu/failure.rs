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

/// Characters of each of them; a kernel message is shorter.
const LAST_LINE_LENGTH: usize = 200;

impl BootFailure {
    /// A failure of a known kind.
    pub fn new(kind: FailureKind, ending: Ending, detail: String, console: &str) -> BootFailure {
        let mut lines: Vec<&str> =
            console.lines().map(str::trim_end).filter(|line| says_something(line)).collect();
        // Both of GRUB's terminals may be this console.
        lines.dedup();
        let last: Vec<String> =
            lines[lines.len().saturating_sub(LAST_LINES)..].iter().map(|l| cut(l)).collect();
        let last_lines = last.join("\n");
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

/// The beginning of a long line.
fn cut(line: &str) -> String {
    match line.char_indices().nth(LAST_LINE_LENGTH) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_string(),
    }
}

/// Whether a line is more than the frame of a menu.
fn says_something(line: &str) -> bool {
    line.chars().filter(|c| c.is_alphanumeric()).take(3).count() == 3
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

/// What a firmware prints when it gives up; the last two are OVMF's own shell.
const FIRMWARE_STOPS: &[&str] =
    &["No bootable option or device was found", "No bootable device", "UEFI Interactive Shell", "Shell>"];

/// Whether the console shows that no login can come any more.
pub fn is_hopeless(console: &str) -> bool {
    let stops = |list: &[&str]| list.iter().any(|text| console.contains(text));
    console.contains(PANIC_END)
        || init_menu(console).is_some()
        || (!kernel_started(console)
            && (stops(LOADER_STOPS) || stops(FIRMWARE_STOPS) || isolinux_failure(console).is_some()))
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
        let said = last_line_with(console, &["BdsDxe: failed to load"]);
        return (FailureKind::NothingToBoot, said.unwrap_or(line));
    }
    if loader_started(console, firmware_log) {
        let said = last_line_with(console, &["error:"])
            .or(isolinux_failure(console))
            .or(last_line_with(console, LOADER_STOPS));
        return (FailureKind::NoKernel, said.unwrap_or_default());
    }
    (FailureKind::NothingToBoot, String::new())
}

/// ISOLINUX returns to its menu after this, and counts down again.
fn isolinux_failure(console: &str) -> Option<String> {
    let failed = |line: &&str| line.starts_with("Loading ") && line.contains(" failed: ");
    console.lines().map(str::trim).rev().find(failed).map(str::to_string)
}

/// Kernel messages begin with a time in brackets, those of /init with colons.
fn kernel_started(console: &str) -> bool {
    console.lines().any(|line| {
        let line = line.trim_start();
        line.starts_with(":: ")
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

/// What /init said before it stopped, if it did: it offers to try again, a shell and a
/// reboot, or says that the machine is too small for its own files.
fn init_menu(console: &str) -> Option<String> {
    let stops = |line: &&str| {
        let line = line.to_lowercase();
        let offers = ["shell", "reboot"].iter().all(|word| line.contains(word))
            && ["retry", "try again"].iter().any(|word| line.contains(word));
        offers || line.starts_with("!! liveiso: this machine has too little memory")
    };
    let lines: Vec<&str> = console.lines().map(str::trim).collect();
    let at = lines.iter().position(stops)?;
    let said = lines[..=at].iter().rev().find_map(|line| line.strip_prefix("!!"));
    Some(said.unwrap_or_default().trim().trim_start_matches("liveiso:").trim().to_string())
}

fn last_line_with(text: &str, wanted: &[&str]) -> Option<String> {
    let found = text.lines().rev().find(|line| wanted.iter().any(|text| line.contains(text)))?;
    Some(found.trim().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use FailureKind::*;

    /// console, firmware log, kind, detail, whether it is hopeless
    type Row = (&'static str, &'static str, FailureKind, &'static str, bool);

    fn check(rows: &[Row]) {
        for (console, firmware_log, kind, detail, hopeless) in rows {
            let failure = BootFailure::classify(console, firmware_log, Ending::Exit);
            assert_eq!((failure.kind, failure.detail.as_str()), (*kind, *detail), "{console:?}");
            assert_eq!(is_hopeless(console), *hopeless, "{console:?}");
        }
    }

    #[test]
    fn logs_of_firmware() {
        let seabios = "Booting from DVD/CD...\nBoot failed: Could not read from CDROM\nNo bootable device.\n";
        let empty = "BdsDxe: failed to load Boot0001 \"DVD-ROM\": Not Found\nBdsDxe: No bootable option or device was found.\n";
        let shell = "BdsDxe: failed to load Boot0001 \"DVD-ROM\": Not Found\nBdsDxe: starting Boot0002\nUEFI Interactive Shell v2.2\n";
        let not_found = "BdsDxe: failed to load Boot0001 \"DVD-ROM\": Not Found";
        check(&[
            ("", "", NothingToBoot, "", false),
            ("", seabios, NothingToBoot, "No bootable device.", false),
            (empty, "", NothingToBoot, not_found, true),
            (shell, "", NothingToBoot, not_found, true),
        ]);
    }

    #[test]
    fn logs_of_loaders() {
        let no_memory =
            "\nISOLINUX 6.04\nLoading initrd.img...ok\nBooting kernel failed: Invalid argument\nboot: ";
        let no_file = "ISOLINUX\nLoading /boot/vmlinuz... failed: No such file or directory\nmenu\n";
        let grub = "BdsDxe: starting Boot0001\nerror: file `/k' not found.\nerror: load the kernel first.\nPress any key to continue...";
        check(&[
            ("", "Booting from DVD/CD...\nBooting from 0000:7c00\n", NoKernel, "", false),
            (no_memory, "", NoKernel, "Booting kernel failed: Invalid argument", true),
            (no_file, "", NoKernel, "Loading /boot/vmlinuz... failed: No such file or directory", true),
            (grub, "", NoKernel, "error: load the kernel first.", true),
            ("GNU GRUB  version 2.06\n*Start live\n", "", NoKernel, "", false),
        ]);
    }

    #[test]
    fn logs_of_kernels_and_init() {
        let panic = "[    1.2] Kernel panic - not syncing: No working init found.\n[    1.3] ---[ end Kernel panic - not syncing: ]---\n";
        let menu = "[    2.0] sr0: loaded\n:: looking\n!! no medium with 00 found in 30 s\n---- block devices\n\
                    r: try again  d: choose a device  s: shell  l: log  b: reboot  p: power off > ";
        let small = "[ 1.0] x\n!! liveiso: this machine has too little memory: the boot files did not fit into 27000 kB.\n";
        let said = "this machine has too little memory: the boot files did not fit into 27000 kB.";
        check(&[
            (panic, "", KernelPanic, "No working init found.", true),
            (
                "[ 3.1] Kernel panic - not syncing: Attempted to kill init!",
                "",
                KernelPanic,
                "Attempted to kill init!",
                false,
            ),
            (menu, "", InitMenu, "no medium with 00 found in 30 s", true),
            (small, "", InitMenu, said, true),
            ("[    0.000000] Linux version 6.1\n[   2.0] grub> is no prompt here\n", "", NoLogin, "", false),
            (":: looking for the medium\n", "", NoLogin, "", false),
        ]);
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
        let long = BootFailure::classify(&"é".repeat(300), "", Ending::Seen).last_lines;
        assert_eq!(long, "é".repeat(200) + "…");
        let silent = BootFailure::classify("", "", Ending::Exit);
        assert_eq!(
            silent.to_string(),
            "the firmware found nothing to boot (the machine switched itself off or reset)\nthe console is empty"
        );
    }
}
