//! A machine that starts /init, and the conversation with it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use liveiso::qemu::report::Shell;
use liveiso::qemu::serial::Stopped;
use liveiso::qemu::{Firmware, Guest, Machine, Medium};
use serde_json::json;

use super::media::Unpacked;

/// One machine of this room at a time: the host has two processors.
static TURN: Mutex<()> = Mutex::new(());

/// A machine being put together.
pub struct Live {
    machine: Machine,
    drives: usize,
}

/// A Pentium III with this kernel and initramfs, RAM in MiB and words for /init.
pub fn boot(medium: &Unpacked, memory_mib: u32, words: &str) -> Live {
    boot_on("pentium3", "i386", medium, memory_mib, words)
}

/// The same on this processor, with the kernel of this architecture.
pub fn boot_on(cpu: &str, arch: &str, medium: &Unpacked, memory_mib: u32, words: &str) -> Live {
    let machine = Machine::new(Firmware::Bios, Medium::Cd);
    let mut machine = Machine { memory_mib, cpu: cpu.to_string(), ..machine };
    let boot = medium.tree.join("liveiso/boot").join(arch);
    machine.extra = vec!["-kernel".into(), boot.join("vmlinuz").into(), "-initrd".into()];
    machine.extra.push(boot.join("initrd.img").into());
    machine.extra.push("-append".into());
    machine.extra.push(format!("console=tty0 console=ttyS0,115200 {words}").into());
    Live { machine, drives: 0 }
}

impl Live {
    /// More of QEMU's arguments.
    pub fn arguments(&mut self, words: &[&str]) -> &mut Live {
        self.machine.extra.extend(words.iter().map(Into::into));
        self
    }

    fn drive(&mut self, image: &Path, options: &str) -> String {
        let name = format!("drive{}", self.drives);
        self.drives += 1;
        let image = image.to_str().unwrap();
        self.arguments(&["-drive", &format!("if=none,id={name},format=raw,file={image}{options}")]);
        name
    }

    /// A writable disk on this device.
    pub fn disk(&mut self, image: &Path, device: &str) -> &mut Live {
        let name = self.drive(image, "");
        self.arguments(&["-device", &format!("{device},drive={name}")])
    }

    /// A writable USB stick on a controller of its own.
    pub fn usb(&mut self, controller: &str, image: &Path) -> &mut Live {
        let name = self.drive(image, "");
        self.arguments(&["-device", &format!("{controller},id={name}bus")]);
        self.arguments(&["-device", &format!("usb-storage,bus={name}bus.0,drive={name}")])
    }

    /// A disc in an IDE drive.
    pub fn disc(&mut self, image: &Path) -> &mut Live {
        let name = self.drive(image, ",readonly=on,media=cdrom");
        self.arguments(&["-device", &format!("ide-cd,bus=ide.1,drive={name}")])
    }

    /// Starts it when it is this machine's turn.
    pub fn start(&self) -> Running {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = Instant::now() + Duration::from_secs(240);
        let guest = Guest::start(&self.machine, None, None, deadline).unwrap();
        Running { guest, deadline, _turn: turn }
    }
}

/// A machine that runs.
pub struct Running {
    pub guest: Guest,
    deadline: Instant,
    _turn: MutexGuard<'static, ()>,
}

impl Running {
    /// The machine has one disc drive, and its tray is open.
    pub fn has_ejected(&mut self) {
        let drives = self.guest.qmp.execute("query-block", json!({})).unwrap();
        let trays: Vec<_> =
            drives.as_array().unwrap().iter().filter_map(|drive| drive.get("tray_open")).collect();
        assert_eq!(trays, [&json!(true)]);
    }

    /// The console says this, after what it said before.
    pub fn says(&mut self, text: &str) {
        let found = self.guest.serial.expect_text(text, self.deadline).unwrap();
        assert_eq!(found, Ok(()), "waiting for {text:?}:\n{}", self.console());
    }

    pub fn types(&mut self, line: &str) {
        self.guest.serial.send_line(line).unwrap();
    }

    fn shell(&mut self) -> Shell<'_> {
        let console = |guest: &Guest| tail(guest.serial.text());
        let shown = console(&self.guest);
        match Shell::log_in(&mut self.guest.serial, self.deadline, |_| false).unwrap() {
            Ok(shell) => shell,
            Err(stopped) => panic!("no shell ({stopped:?}); before that:\n{shown}"),
        }
    }

    /// A root shell comes on the console.
    pub fn logs_in(&mut self) {
        let deadline = self.deadline;
        self.shell().ask("dmesg -n 1", deadline).unwrap();
    }

    /// What a line of shell prints.
    pub fn ask(&mut self, line: &str) -> String {
        let deadline = self.deadline;
        // An empty line brings a new prompt.
        self.types("");
        self.shell().ask(line, deadline).unwrap().1
    }

    /// The line is typed and the machine goes off; the next one's turn has come.
    pub fn ends(mut self, line: &str) {
        self.types(line);
        let stopped = self.guest.serial.drain(self.deadline).unwrap();
        assert_eq!(stopped, Stopped::Ended, "{}", self.console());
    }

    fn console(&self) -> String {
        tail(self.guest.serial.text())
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
