//! The menu: one table of entries, worded for ISOLINUX and for GRUB, so that
//! BIOS and UEFI cannot come to offer different things.

use std::fmt::Write;

/// What the entries of one medium have in common.
#[derive(Clone, Debug)]
pub(super) struct Menu {
    /// Shown as the heading and in the default entry.
    pub title: String,
    /// Directory of our files on the medium.
    pub install_dir: String,
    /// Absolute path of the kernel on the medium.
    pub kernel: String,
    /// Absolute path of the initramfs; literal, because Ventoy reads it as text.
    pub initrd: String,
    /// Parameters of every Linux entry, consoles included.
    pub parameters: String,
    /// The first serial port, where loaders can use it.
    pub serial: Option<Serial>,
    /// The serial console in kernel syntax, for memtest86+.
    pub serial_console: Option<String>,
    /// Whether this is the menu of the 64-bit kernel, beside that of a 32-bit one.
    pub has_32_bit_twin: bool,
}

/// A PC serial port as boot loaders name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Serial {
    /// 0 is the first port, `ttyS0`.
    pub unit: u8,
    /// Bits per second.
    pub baud: u32,
}

impl Serial {
    /// `ttyS0,115200n8` → unit 0 at 115200; `None` for what is no PC serial port.
    pub(super) fn parse(console: &str) -> Option<Serial> {
        let (port, settings) = console.split_once(',').unwrap_or((console, "9600"));
        let unit = port.strip_prefix("ttyS")?.parse().ok().filter(|unit| *unit < 4)?;
        let digits = settings.bytes().take_while(u8::is_ascii_digit).count();
        Some(Serial { unit, baud: settings[..digits].parse().ok()? })
    }
}

/// Where an entry makes sense.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Any,
    Bios,
    Efi,
}

enum Action {
    /// The live system with further kernel parameters.
    Live(&'static str),
    MemoryTest,
    /// The menu of the other kernel, where there is one.
    Menu32,
    /// BIOS disk by number; the one after the first is asked to believe it is the first.
    Disk(u8),
    FirmwareSetup,
    Reboot,
    PowerOff,
}

struct Entry {
    id: &'static str,
    /// `^` stands before the hot key; `{}` is the title of the medium.
    label: &'static str,
    on: On,
    action: Action,
}

const fn entry(id: &'static str, label: &'static str, on: On, action: Action) -> Entry {
    Entry { id, label, on, action }
}

/// GRUB keeps the keys `c` and `e` for itself.
const ENTRIES: [Entry; 14] = [
    entry("live", "^Start {}", On::Any, Action::Live("")),
    entry("lowmem", "Start with ^low memory (one processor)", On::Any, Action::Live("nr_cpus=1")),
    entry("nomodeset", "Start without ^graphics (no modesetting)", On::Any, Action::Live("nomodeset")),
    entry("toram", "Start from ^RAM (the medium can be removed)", On::Any, Action::Live("toram")),
    entry(
        "persistence",
        "Start and ^keep changes on the medium (persistence)",
        On::Any,
        Action::Live("persistence"),
    ),
    entry("verify", "^Verify the medium, then start", On::Any, Action::Live("verify")),
    entry("debug", "Stop in the ^initramfs shell (debug)", On::Any, Action::Live("break=medium debug")),
    entry("i386", "Menu of the ^32-bit kernel", On::Any, Action::Menu32),
    entry("memtest", "^Memory test (Memtest86+)", On::Any, Action::MemoryTest),
    entry("disk", "Boot from the first ^disk", On::Any, Action::Disk(0)),
    entry("disk2", "Boot from the disk ^after this USB stick", On::Bios, Action::Disk(1)),
    entry("firmware", "^Firmware setup", On::Efi, Action::FirmwareSetup),
    entry("reboot", "Re^boot", On::Any, Action::Reboot),
    entry("poweroff", "^Power off", On::Any, Action::PowerOff),
];

/// What systems install beside the removable-media path, which is our own too.
pub(super) const EFI_LOADERS: &str = "/EFI/Microsoft/Boot/bootmgfw.efi /EFI/debian/shimx64.efi /EFI/debian/grubx64.efi \
                           /EFI/debian/shimia32.efi /EFI/debian/grubia32.efi /EFI/ubuntu/shimx64.efi \
                           /EFI/fedora/shimx64.efi /EFI/opensuse/shim.efi /EFI/systemd/systemd-bootx64.efi";

impl Menu {
    fn entries(&self) -> impl Iterator<Item = &'static Entry> {
        ENTRIES.iter().filter(|entry| self.has_32_bit_twin || !matches!(entry.action, Action::Menu32))
    }

    /// Everything for `%MENU_ENTRIES%` in `isolinux.cfg`.
    pub(super) fn isolinux(&self) -> String {
        let mut out = String::new();
        for entry in self.entries().filter(|entry| entry.on != On::Efi) {
            let mut line = |text: &str| writeln!(out, "{text}").expect("writing to a String");
            line(&format!("label {}", entry.id));
            line(&format!("  menu label {}", entry.label.replace("{}", &self.title)));
            if entry.id == "live" {
                line("  menu default");
            }
            for directive in self.isolinux_action(&entry.action) {
                line(&format!("  {directive}"));
            }
            out.push('\n');
        }
        out.trim_end().to_string()
    }

    fn isolinux_action(&self, action: &Action) -> Vec<String> {
        match action {
            Action::Live(more) => {
                let parameters = joined(&[&self.parameters, more]);
                let mut lines = vec![format!("linux {}", self.kernel), format!("initrd {}", self.initrd)];
                if !parameters.is_empty() {
                    lines.push(format!("append {parameters}"));
                }
                lines
            }
            Action::MemoryTest => {
                let mut lines = vec![format!("linux /{}/boot/memtest.bin", self.install_dir)];
                lines.extend(self.serial_console.as_ref().map(|console| format!("append console={console}")));
                lines
            }
            Action::Menu32 => vec!["config /isolinux/i386.cfg".to_string()],
            Action::Disk(0) => vec!["com32 chain.c32".to_string(), "append hd0".to_string()],
            Action::Disk(n) => vec!["com32 chain.c32".to_string(), format!("append hd{n} swap")],
            Action::Reboot => vec!["com32 reboot.c32".to_string()],
            Action::PowerOff => vec!["com32 poweroff.c32".to_string()],
            Action::FirmwareSetup => Vec::new(),
        }
    }

    /// Everything for `%MENU_ENTRIES%` in `grub.cfg`.
    pub(super) fn grub(&self) -> String {
        let mut out = String::new();
        for entry in self.entries() {
            let guard = match (&entry.action, entry.on) {
                // Firmware under lockdown refuses to start unsigned programs, and
                // GRUB cannot tell it where one from an ISO file lies.
                (Action::MemoryTest, _) => Some("\"$lockdown\" != \"y\" -a -z \"$iso_path\""),
                // A locked GRUB starts kernels by their EFI entry, which is of the firmware's own width.
                (Action::Menu32, _) => Some("\"$lockdown\" != \"y\" -o \"$grub_cpu\" != \"x86_64\""),
                (_, On::Efi) => Some("\"$grub_platform\" = \"efi\""),
                (_, On::Bios) => Some("\"$grub_platform\" = \"pc\""),
                (_, On::Any) => None,
            };
            let mut line = |text: &str| writeln!(out, "{text}").expect("writing to a String");
            if let Some(condition) = guard {
                line(&format!("if [ {condition} ]; then"));
            }
            let label = entry.label.replace('^', "").replace("{}", &self.title);
            let key = hot_key(entry.label);
            line(&format!("menuentry {} --id {} --hotkey {key} {{", grub_quoted(&label), entry.id));
            for command in self.grub_action(&entry.action) {
                line(&format!("  {command}"));
            }
            line("}");
            if guard.is_some() {
                line("fi");
            }
        }
        out.trim_end().to_string()
    }

    fn grub_action(&self, action: &Action) -> Vec<String> {
        let lines = |text: String| text.lines().map(str::to_string).collect();
        match action {
            Action::Live(more) => vec![
                // Unquoted, so that nothing is passed when no ISO file is to be found.
                format!("linux {} $loopback", joined(&[&self.kernel, &self.parameters, more])),
                format!("initrd {}", self.initrd),
            ],
            Action::MemoryTest => {
                let dir = format!("/{}/boot", self.install_dir);
                let serial = self.serial_console.as_ref().map(|console| format!("console={console}"));
                let serial = serial.unwrap_or_default();
                lines(format!(
                    "if [ \"$grub_platform\" != \"efi\" ]; then\n  {}\n\
                     elif [ \"$grub_cpu\" = \"x86_64\" ]; then\n  {}\nelse\n  {}\nfi",
                    joined(&["linux", &format!("{dir}/memtest.bin"), &serial]),
                    joined(&["chainloader", &format!("{dir}/memtest64.efi"), &serial]),
                    joined(&["chainloader", &format!("{dir}/memtest32.efi"), &serial]),
                ))
            }
            Action::Menu32 => vec!["configfile /boot/grub/i386.cfg".to_string()],
            // The chain loader takes the loaded program's device from root.
            Action::Disk(0) => lines(format!(
                "if [ \"$grub_platform\" != \"efi\" ]; then\n  set root=(hd0)\n  chainloader +1\n  boot\nfi\n\
                 set medium=$root\n\
                 for loader in {EFI_LOADERS}; do\n  \
                 if search --no-floppy --file --set=root $loader; then\n    chainloader $loader\n    boot\n  fi\n\
                 done\nset root=$medium\nexit"
            )),
            Action::Disk(n) => lines(format!("set root=(hd{n})\ndrivemap -s (hd0) (hd{n})\nchainloader +1")),
            Action::FirmwareSetup => vec!["fwsetup".to_string()],
            Action::Reboot => vec!["reboot".to_string()],
            Action::PowerOff => vec!["halt".to_string()],
        }
    }
}

/// The directive that puts ISOLINUX on the serial port too; empty without one.
pub(super) fn isolinux_serial(serial: Option<Serial>) -> String {
    serial.map(|Serial { unit, baud }| format!("serial {unit} {baud}")).unwrap_or_default()
}

/// The commands that put GRUB on the serial port too; empty without one.
pub(super) fn grub_serial(serial: Option<Serial>) -> String {
    let Some(Serial { unit, baud }) = serial else {
        return String::new();
    };
    format!(
        "if serial --unit={unit} --speed={baud}; then\n  \
         terminal_input console serial\n  terminal_output console serial\nfi"
    )
}

fn joined(words: &[&str]) -> String {
    let words: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
    words.join(" ")
}

fn hot_key(label: &str) -> char {
    let after = label.split('^').nth(1).and_then(|rest| rest.chars().next());
    after.expect("every label of the table has a hot key").to_ascii_lowercase()
}

/// GRUB's single quotes hold everything but themselves.
fn grub_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn hot_keys_and_ids_are_unique_and_free() {
        let keys: BTreeSet<char> = ENTRIES.iter().map(|entry| hot_key(entry.label)).collect();
        let ids: BTreeSet<&str> = ENTRIES.iter().map(|entry| entry.id).collect();
        assert_eq!((keys.len(), ids.len()), (ENTRIES.len(), ENTRIES.len()));
        assert!(!keys.contains(&'c') && !keys.contains(&'e'), "GRUB's own keys");
    }

    #[test]
    fn a_serial_console_is_told_to_the_loaders_when_it_is_a_pc_port() {
        for (console, expected) in [
            ("ttyS0,115200", Some((0, 115_200))),
            ("ttyS1,9600n8", Some((1, 9600))),
            ("ttyS3", Some((3, 9600))),
            ("ttyS4,115200", None),
            ("ttyS0,", None),
            ("ttyUSB0,115200", None),
            ("hvc0", None),
        ] {
            let found = Serial::parse(console).map(|s| (s.unit, s.baud));
            assert_eq!(found, expected, "{console}");
        }
    }

    #[test]
    fn titles_are_quoted_for_grub() {
        assert_eq!(grub_quoted("it's $x"), r"'it'\''s $x'");
    }
}
