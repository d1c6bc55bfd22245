//! What a root shell inside the booted system says about itself.
//!
//! A question is one line of shell between two marks. The marks are computed by
//! the guest (`B''EGIN-$((…))`), so the terminal's echo of the typed line can never
//! be taken for the answer. Memory is read by the shell itself, without starting a
//! process first, because on a small machine the question must not cost what it asks for.

use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::machine::Firmware;
use super::serial::{Serial, Stopped};

/// The state of a booted system, from inside its root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Report {
    /// Content of `/run/initramfs/live/id`, or `-`.
    pub build_id: String,
    /// File system type of `/`.
    pub root_filesystem: String,
    /// Name of process 1.
    pub init_name: String,
    /// Program of process 1.
    pub init_program: String,
    /// `MemTotal` in kB of 1024 bytes, as the kernel counts.
    pub mem_total_kb: u64,
    /// `MemFree` in kB.
    pub mem_free_kb: u64,
    /// `MemAvailable` in kB.
    pub mem_available_kb: u64,
    /// `Shmem` in kB: tmpfs, and the initramfs if it was not freed.
    pub shmem_kb: u64,
    /// Loaded kernel modules.
    pub modules: u32,
    /// Kernel release.
    pub kernel: String,
    /// Word size of the UEFI firmware in bits; `None` when started by a BIOS.
    pub efi_bits: Option<u32>,
    /// Whether the firmware says that it enforces Secure Boot; `None` for a BIOS, and when that cannot be read.
    pub secure_boot: Option<bool>,
}

/// The questions of [`Report`], one line each to stay below the shells' line length.
///
/// Each must be harmless when asked twice.
const QUESTIONS: &[&str] = &[
    // Kernel messages must not run into the answer line.
    "dmesg -n 1",
    "m=; while read -r k v u; do case $k in MemTotal:|MemFree:|MemAvailable:|Shmem:) m=\"$m $k$v\";; esac; \
     done </proc/meminfo",
    "f=-; while read -r d p t o; do [ \"$p\" = / ] && f=$t; done </proc/mounts; \
     n=0; while read -r d; do n=$((n+1)); done </proc/modules",
    "i=-; [ -r /run/initramfs/live/id ] && read -r i </run/initramfs/live/id; \
     e=none; [ -d /sys/firmware/efi ] && e=unknown && read -r e </sys/firmware/efi/fw_platform_size; \
     read -r c </proc/1/comm; read -r r </proc/sys/kernel/osrelease",
    // The last byte of the UEFI variable SecureBoot (UEFI 2.10, 3.3); mounting it may load a module, so modules are counted.
    "s=none; v=/sys/firmware/efi/efivars; b=$v/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c; \
     if [ -d $v ]; then [ -e $b ] || mount -t efivarfs efivarfs $v; \
     case $(tr '\\000\\001' ny <$b) in *y) s=on;; *n) s=off;; esac; fi 2>/dev/null",
    // Else what the kernel said when it started.
    "if [ $e != none ] && [ $s = none ]; then case $(dmesg) in *'Secure boot enabled'*) s=on;; \
     *'Secure boot disabled'*) s=off;; *) s=unknown;; esac; fi",
];

/// Prints the answers, all on one line.
const ANSWER: &str =
    "echo \"id:$i root:$f init:$c program:$(readlink /proc/1/exe)$m modules:$n kernel:$r efi:$e secure:$s\"";

impl Report {
    /// Reads the answer line. Every key must be there once, in order, and nothing else.
    ///
    /// # Errors
    /// The key that is missing or has no proper value.
    pub fn parse(line: &str) -> Result<Report> {
        let mut words = line.split_ascii_whitespace();
        let mut value = |key: &str| -> Result<String> {
            let word = words.next().with_context(|| format!("the report ends before `{key}`: {line:?}"))?;
            match word.strip_prefix(key).and_then(|rest| rest.strip_prefix(':')) {
                Some(value) if !value.is_empty() => Ok(value.to_string()),
                _ => bail!("the report has {word:?} where `{key}:` belongs: {line:?}"),
            }
        };
        let report = Report {
            build_id: value("id")?,
            root_filesystem: value("root")?,
            init_name: value("init")?,
            init_program: value("program")?,
            mem_total_kb: number(&value("MemTotal")?)?,
            mem_free_kb: number(&value("MemFree")?)?,
            mem_available_kb: number(&value("MemAvailable")?)?,
            shmem_kb: number(&value("Shmem")?)?,
            modules: number(&value("modules")?)?,
            kernel: value("kernel")?,
            efi_bits: match value("efi")?.as_str() {
                "none" => None,
                bits => Some(number(bits)?),
            },
            secure_boot: match value("secure")?.as_str() {
                "on" => Some(true),
                "off" => Some(false),
                "none" | "unknown" => None,
                other => bail!("the report has {other:?} where the state of Secure Boot belongs: {line:?}"),
            },
        };
        match words.next() {
            None => Ok(report),
            Some(word) => bail!("the report goes on with {word:?}: {line:?}"),
        }
    }

    /// What is wrong with this system, in words, if it should be the live system `expected_id`
    /// (any build when `None`) on a machine with this firmware.
    pub fn faults(&self, expected_id: Option<&str>, firmware: Firmware) -> Vec<String> {
        let mut faults = Vec::new();
        if expected_id.is_some_and(|id| id != self.build_id) {
            faults.push(format!("build id is {}, not {}", self.build_id, expected_id.unwrap_or_default()));
        }
        // A resident root is what the kernel unpacked.
        if !["overlay", "rootfs"].contains(&self.root_filesystem.as_str()) {
            faults.push(format!("root is {}, neither overlay nor rootfs", self.root_filesystem));
        }
        let secure = firmware == Firmware::SecureBoot;
        if self.efi_bits != firmware.efi_bits() || (self.secure_boot == Some(true)) != secure {
            let expected = started_by(firmware.efi_bits(), Some(secure));
            faults.push(format!("started by {}, not {expected}", self.started_by()));
        }
        faults
    }

    /// The firmware as the system itself sees it, in words.
    pub fn started_by(&self) -> String {
        started_by(self.efi_bits, self.secure_boot)
    }
}

fn started_by(efi_bits: Option<u32>, secure_boot: Option<bool>) -> String {
    let Some(bits) = efi_bits else { return "BIOS".to_string() };
    let state = match secure_boot {
        Some(true) => " with Secure Boot",
        Some(false) => "",
        None => ", Secure Boot unknown",
    };
    format!("{bits}-bit UEFI{state}")
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| anyhow!("the report has {text:?} where a number belongs"))
}

/// Whether a line of text, or what the console shows so far, is a root prompt: at
/// most 60 characters and `# `. What the kernel printed after it does not matter.
fn prompt_end(text: &str) -> Option<usize> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some(at) = line.find("# ")
            && at <= 60
            && !line[..at].contains(['[', '\'', '"'])
        {
            return Some(start + at + 2);
        }
        start += line.len();
    }
    None
}

/// A root shell on a serial console.
#[derive(Debug)]
pub struct Shell<'a> {
    serial: &'a mut Serial,
    /// Makes the marks of every question different.
    nonce: u32,
}

impl<'a> Shell<'a> {
    /// Waits for a root prompt and until the shell behind it answers.
    ///
    /// `gone_wrong` looks at the whole console text after each output and ends the wait early.
    ///
    /// # Errors
    /// A broken console. `Ok(Err(_))` when no shell came; `None` when `gone_wrong` said so.
    pub fn log_in(
        serial: &'a mut Serial,
        deadline: Instant,
        gone_wrong: impl Fn(&str) -> bool,
    ) -> Result<Result<Shell<'a>, Option<Stopped>>> {
        enum Seen {
            Prompt,
            Answer,
            Wrong,
        }
        let answer = mark("READY", 1);
        let mut typed = false;
        loop {
            let seen = serial.expect(deadline, |text| {
                if let Some(at) = text.find(&answer).filter(|_| typed) {
                    return Some((Seen::Answer, at + answer.len()));
                }
                if gone_wrong(text) {
                    return Some((Seen::Wrong, 0));
                }
                prompt_end(text).map(|end| (Seen::Prompt, end))
            })?;
            match seen {
                Ok(Seen::Prompt) => {
                    serial.send_line(&format!("echo {}", typed_mark("READY", 1)))?;
                    typed = true;
                }
                Ok(Seen::Answer) => return Ok(Ok(Shell { serial, nonce: 1 })),
                Ok(Seen::Wrong) => return Ok(Err(None)),
                Err(stopped) => return Ok(Err(Some(stopped))),
            }
        }
    }

    /// Runs one line of shell; returns its exit status and what it printed.
    ///
    /// # Errors
    /// No answer until the deadline.
    pub fn ask(&mut self, line: &str, deadline: Instant) -> Result<(i32, String)> {
        self.nonce += 1;
        let (begin, end) = (mark("BEGIN", self.nonce), mark("END", self.nonce));
        let typed = format!(
            "echo {}; {line}; echo {}:$?:",
            typed_mark("BEGIN", self.nonce),
            typed_mark("END", self.nonce)
        );
        self.serial.send_line(&typed)?;
        let answer = self.serial.expect(deadline, |text| between(text, &begin, &end))?;
        match answer {
            Ok(answer) => answer,
            Err(stopped) => bail!("the shell did not answer `{line}` ({stopped:?})"),
        }
    }

    /// Asks for the whole [`Report`].
    ///
    /// # Errors
    /// No answer until the deadline, or one that is not a report.
    pub fn report(&mut self, deadline: Instant) -> Result<Report> {
        for question in QUESTIONS {
            self.ask(question, deadline)?;
        }
        // A message of the kernel or of init may have run into the line: ask again.
        let mut tries = 3;
        loop {
            tries -= 1;
            match Report::parse(self.ask(ANSWER, deadline)?.1.trim()) {
                Err(_) if tries > 0 => {}
                result => return result,
            }
        }
    }

    /// Types a line and does not wait for an answer (`poweroff -f`).
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        self.serial.send_line(line)
    }

    /// The console underneath.
    pub fn serial(&mut self) -> &mut Serial {
        self.serial
    }
}

/// A mark as the guest prints it. The numbers are far from anything a guest prints by itself.
fn mark(word: &str, nonce: u32) -> String {
    format!("{word}-{}", 700_000_000 + nonce)
}

/// The same mark as it is typed, and so echoed: quotes and a sum keep it different.
fn typed_mark(word: &str, nonce: u32) -> String {
    format!("{}''{}-$((700000000+{nonce}))", &word[..1], &word[1..])
}

/// The text between two marks, the exit status behind the second, and where that ends.
fn between(text: &str, begin: &str, end: &str) -> Option<(Result<(i32, String)>, usize)> {
    let from = text.find(begin)? + begin.len();
    let to = from + text[from..].find(end)?;
    let status = text[to + end.len()..].strip_prefix(':')?;
    let (status, _) = status.split_once(':')?;
    let consumed = to + end.len() + status.len() + 2;
    let output = text[from..to].strip_prefix('\n').unwrap_or(&text[from..to]).to_string();
    Some((number(status).map(|status| (status, output)), consumed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::Stdio;
    use std::time::Duration;

    const LINE: &str = "id:0123456789abcdef01234567 root:overlay init:init program:/bin/busybox MemTotal:113996 \
                        MemFree:94228 MemAvailable:98328 Shmem:12 modules:51 kernel:6.1.0-50-686 efi:none secure:none";

    fn sample() -> Report {
        Report {
            build_id: "0123456789abcdef01234567".to_string(),
            root_filesystem: "overlay".to_string(),
            init_name: "init".to_string(),
            init_program: "/bin/busybox".to_string(),
            mem_total_kb: 113996,
            mem_free_kb: 94228,
            mem_available_kb: 98328,
            shmem_kb: 12,
            modules: 51,
            kernel: "6.1.0-50-686".to_string(),
            efi_bits: None,
            secure_boot: None,
        }
    }

    #[test]
    fn report_lines() {
        assert_eq!(Report::parse(LINE).unwrap(), sample());
        let efi = LINE.replace("efi:none", "efi:32");
        assert_eq!(Report::parse(&efi).unwrap(), Report { efi_bits: Some(32), ..sample() });
        for (word, secure_boot) in [("on", Some(true)), ("off", Some(false)), ("unknown", None)] {
            let line = LINE.replace("secure:none", &format!("secure:{word}"));
            assert_eq!(Report::parse(&line).unwrap(), Report { secure_boot, ..sample() });
        }
        let bad = [
            ("secure:none", "", "the report ends before `secure`"),
            ("secure:none", "secure:1", "\"1\" where the state of Secure Boot belongs"),
            ("efi:none", "efi:unknown", "\"unknown\" where a number belongs"),
            ("secure:none", "secure:none more", "the report goes on with \"more\""),
            ("init:init", "init:", "has \"init:\" where `init:` belongs"),
            ("MemFree:94228", "MemFree:-1", "\"-1\" where a number belongs"),
            ("MemFree:94228 ", "", "has \"MemAvailable:98328\" where `MemFree:` belongs"),
            ("modules:51", "modules:99999999999", "where a number belongs"),
        ];
        for (from, to, expected) in bad {
            let error = Report::parse(&LINE.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn faults_of_a_system() {
        assert_eq!(sample().faults(Some("0123456789abcdef01234567"), Firmware::Bios), Vec::<String>::new());
        assert_eq!(sample().faults(None, Firmware::Bios), Vec::<String>::new());
        let wrong = Report { root_filesystem: "ext4".to_string(), efi_bits: Some(64), ..sample() };
        assert_eq!(
            wrong.faults(Some("ff"), Firmware::UefiIa32),
            [
                "build id is 0123456789abcdef01234567, not ff",
                "root is ext4, neither overlay nor rootfs",
                "started by 64-bit UEFI, Secure Boot unknown, not 32-bit UEFI",
            ]
        );
    }

    #[test]
    fn a_machine_with_secure_boot_must_have_it_on_and_no_other() {
        let [off, on, unknown] = [Some(false), Some(true), None].map(|secure_boot| Report {
            efi_bits: Some(64),
            secure_boot,
            ..sample()
        });
        for (report, firmware, fault) in [
            (&on, Firmware::SecureBoot, None),
            (&off, Firmware::UefiX64, None),
            (&unknown, Firmware::UefiX64, None),
            (&off, Firmware::SecureBoot, Some("started by 64-bit UEFI, not 64-bit UEFI with Secure Boot")),
            (
                &unknown,
                Firmware::SecureBoot,
                Some("started by 64-bit UEFI, Secure Boot unknown, not 64-bit UEFI with Secure Boot"),
            ),
            (&on, Firmware::UefiX64, Some("started by 64-bit UEFI with Secure Boot, not 64-bit UEFI")),
        ] {
            let faults: Vec<String> = fault.into_iter().map(str::to_string).collect();
            assert_eq!(report.faults(None, firmware), faults);
        }
    }

    #[test]
    fn prompts() {
        let table = [
            ("root@live:~# ", Some(13)),
            ("text\n# ", Some(7)),
            ("/ # [    3.1] usb 1-1: new device", Some(4)),
            ("[    0.1] Linux # of things", None),
            ("live login: ", None),
            ("root@live:~#", None),
            ("$ echo '# '", None),
        ];
        for (text, expected) in table {
            assert_eq!(prompt_end(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_echo_is_not_the_answer() {
        for (word, nonce) in [("READY", 1), ("BEGIN", 7), ("END", 99)] {
            assert!(!typed_mark(word, nonce).contains(&mark(word, nonce)));
        }
        let echoed = format!("echo {}; true; echo {}:$?:", typed_mark("BEGIN", 2), typed_mark("END", 2));
        let (begin, end) = (mark("BEGIN", 2), mark("END", 2));
        assert!(between(&echoed, &begin, &end).is_none());
        let text = format!("{echoed}\n{begin}\nout\n{end}:3:\n# ");
        let (answer, consumed) = between(&text, &begin, &end).unwrap();
        assert_eq!(answer.unwrap(), (3, "out\n".to_string()));
        assert_eq!(&text[consumed..], "\n# ");
    }

    /// The questions are asked of a real shell. This host has no live medium, so only the form is known;
    /// what needs privileges is stood in for.
    #[test]
    fn a_real_shell_answers() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let input: OwnedFd = theirs.try_clone().unwrap().into();
        let output: OwnedFd = theirs.try_clone().unwrap().into();
        let errors: OwnedFd = theirs.into();
        let script = "dmesg() { :; }; readlink() { echo /sbin/init; }; printf '[ 1.0] booting\\nlive:~# '; while IFS= read -r l; do eval \"$l\"; \
                      printf 'live:~# '; done";
        let mut command = crate::host::Tool::new("sh", "tests").unwrap().args(["-c", script]).into_command();
        command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(errors));
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut serial = Serial::new(ours, None);
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut shell = Shell::log_in(&mut serial, deadline, |_| false).unwrap().unwrap();
        assert_eq!(shell.ask("echo a b; false", deadline).unwrap(), (1, "a b\n".to_string()));
        assert_eq!(shell.ask("printf x", deadline).unwrap(), (0, "x".to_string()));
        let report = shell.report(deadline).unwrap();
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        assert!(meminfo.contains(&format!(" {} kB", report.mem_total_kb)), "{report:?}");
        assert_eq!((report.build_id.as_str(), report.init_program.as_str()), ("-", "/sbin/init"));
        shell.type_line("exit 0").unwrap();
        assert_eq!(serial.drain(deadline).unwrap(), Stopped::Ended);
        assert!(child.wait().unwrap().success());
    }
}
