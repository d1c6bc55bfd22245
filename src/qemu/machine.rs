//! Descriptions of PCs and the QEMU arguments that make them.
//!
//! The arguments are spelled out rather than left to QEMU's defaults
//! (`-nodefaults`), so a machine has the parts named here and no others, and
//! `-boot strict=on` keeps the firmware from trying anything but the medium.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::accelerator::Accelerator;
pub use super::firmware::Firmware;
use super::guest::PURPOSE;
pub use super::medium::{Medium, UsbController};
use crate::export;
use crate::host;
use crate::plan::EfiArch;

/// A processor with long mode, which `qemu-system-i386` has none of.
const LONG_MODE: &str = "qemu64";

/// QEMU's name of the medium's block node.
pub(super) const MEDIUM_NODE: &str = "medium";

/// Address in QEMU's network behind which the server for [`Medium::NetbootNbd`] is.
pub(super) const NBD_SERVER: &str = "10.0.2.100";

/// One PC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// What starts it.
    pub firmware: Firmware,
    /// What the image is plugged in as.
    pub medium: Medium,
    /// The controller for sticks.
    pub usb: UsbController,
    /// RAM in MiB.
    pub memory_mib: u32,
    /// Virtual processors.
    pub cpus: u32,
    /// QEMU's name of the processor model.
    pub cpu: String,
    /// Who executes the guest's instructions.
    pub accelerator: Accelerator,
    /// Further QEMU arguments, such as more drives or `-kernel`.
    pub extra: Vec<OsString>,
}

impl Machine {
    /// A machine as `liveiso test` uses it: one processor, the default memory, TCG.
    ///
    /// A BIOS machine is a Pentium III with USB 2.0, a UEFI machine has USB 3.
    pub fn new(firmware: Firmware, medium: Medium) -> Machine {
        let (usb, cpu) = match firmware {
            Firmware::Bios => (UsbController::Ehci, "pentium3"),
            Firmware::UefiX64 | Firmware::SecureBoot => (UsbController::Xhci, LONG_MODE),
            Firmware::UefiIa32 => (UsbController::Xhci, "coreduo"),
        };
        Machine {
            firmware,
            medium,
            usb,
            memory_mib: firmware.default_memory_mib(),
            cpus: 1,
            cpu: cpu.to_string(),
            accelerator: Accelerator::Tcg,
            extra: Vec::new(),
        }
    }

    /// The same machine with a processor for 64-bit kernels, if its firmware runs on one.
    pub fn with_long_mode(mut self) -> Machine {
        if self.firmware == Firmware::Bios {
            self.cpu = LONG_MODE.to_string();
        }
        self
    }

    /// Firmware and medium in one word, `uefi-x64-usb`.
    pub fn name(&self) -> String {
        format!("{}-{}", self.firmware.name(), self.medium.name())
    }

    /// The QEMU program that is this machine.
    pub fn program(&self) -> &'static str {
        match self.firmware {
            Firmware::UefiX64 | Firmware::SecureBoot => "qemu-system-x86_64",
            Firmware::Bios if self.cpu == LONG_MODE => "qemu-system-x86_64",
            // OVMF's 32-bit SMM code needs a processor without long mode.
            Firmware::Bios | Firmware::UefiIa32 => "qemu-system-i386",
        }
    }

    /// The hardware as QEMU arguments; `image` is the medium, if there is one (over the
    /// network the directory that is served), and `vars` the machine's own
    /// copy of the UEFI variables.
    pub fn arguments(&self, image: Option<&Path>, vars: &Path) -> Vec<OsString> {
        let board = match self.firmware {
            Firmware::Bios => "pc",
            Firmware::UefiX64 => "q35",
            Firmware::UefiIa32 | Firmware::SecureBoot => "q35,smm=on",
        };
        let mut args = Arguments::default();
        args.words(&["-nodefaults", "-no-user-config", "-no-reboot"])
            .words(&["-machine", board, "-accel", self.accelerator.name(), "-cpu", &self.cpu])
            .words(&["-m", &self.memory_mib.to_string(), "-smp", &self.cpus.to_string()])
            // The reboot time-out makes SeaBIOS give up at once instead of trying for ever.
            .words(&["-vga", "std", "-boot", "strict=on,reboot-timeout=0"]);
        self.firmware.arguments(&mut args, vars);
        match image {
            Some(dir) if !self.medium.is_drive() => self.network_arguments(&mut args, dir),
            Some(image) => self.medium_arguments(&mut args, image),
            None => {}
        }
        args.0.extend(self.extra.iter().cloned());
        args.0
    }

    /// Whether it can be started here.
    ///
    /// # Errors
    /// A QEMU or a firmware that is not installed, with its Debian package.
    pub fn check_installed(&self) -> Result<()> {
        host::find_tool(self.program(), PURPOSE)?;
        self.firmware.check_installed()
    }

    /// Makes the machine's own copy of the UEFI variables in `dir` and returns its path.
    ///
    /// # Errors
    /// A firmware that is not installed, with its Debian package.
    pub fn prepare_firmware(&self, dir: &Path) -> Result<PathBuf> {
        self.firmware.prepare(dir)
    }

    fn medium_arguments(&self, args: &mut Arguments, image: &Path) {
        args.words(&["-blockdev"])
            .path("driver=file,node-name=image,read-only=on,filename=", image)
            .words(&["-blockdev", "driver=raw,node-name=medium,read-only=on,file=image"]);
        match (self.medium, self.firmware) {
            (Medium::Cd, Firmware::Bios) => {
                args.words(&["-device", "ide-cd,bus=ide.1,drive=medium,bootindex=0"])
            }
            (Medium::Cd, _) => args.words(&["-device", "ide-cd,bus=ide.0,drive=medium,bootindex=0"]),
            _ => args
                .words(&["-device", &format!("{},id=usb", self.usb.device())])
                .words(&["-device", "usb-storage,bus=usb.0,drive=medium,bootindex=0"]),
        };
    }

    /// QEMU's own DHCP and TFTP servers, which reach nothing but `dir`.
    ///
    /// The card's boot ROM in a BIOS machine is iPXE, which takes a script for a boot
    /// file; OVMF has a driver for the virtio card and starts GRUB, made for networks, or shim.
    fn network_arguments(&self, args: &mut Arguments, dir: &Path) {
        let (card, program) = match self.firmware {
            Firmware::Bios => ("e1000", "boot.ipxe"),
            Firmware::UefiX64 => ("virtio-net-pci,romfile=", "grubnetx64.efi"),
            Firmware::SecureBoot => ("virtio-net-pci,romfile=", export::shim(EfiArch::X64)),
            Firmware::UefiIa32 => ("virtio-net-pci,romfile=", "grubnetia32.efi"),
        };
        let mut network = OsString::from(format!("user,id=net,restrict=on,bootfile={program},tftp="));
        network.push(doubled_commas(dir.as_os_str()));
        if self.medium == Medium::NetbootNbd {
            network.push(format!(",guestfwd=tcp:{NBD_SERVER}:10809-cmd:sh "));
            network.push(doubled_commas(&quoted(nbd_relay(dir).as_os_str())));
        }
        args.0.extend(["-netdev".into(), network]);
        args.words(&["-device", &format!("{card},netdev=net,bootindex=0")]);
    }
}

/// The shell script that connects to the server for a directory of [`Medium::NetbootNbd`], beside it.
pub(super) fn nbd_relay(dir: &Path) -> PathBuf {
    dir.with_extension("sh")
}

/// One word for a shell.
fn quoted(text: &OsStr) -> OsString {
    let parts: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b'\'').collect();
    let inside = OsString::from_vec(parts.join(&br"'\''"[..]));
    let mut word = OsString::from("'");
    word.push(inside);
    word.push("'");
    word
}

/// A list of arguments under construction.
#[derive(Default)]
pub(super) struct Arguments(pub(super) Vec<OsString>);

impl Arguments {
    pub(super) fn words(&mut self, words: &[&str]) -> &mut Arguments {
        self.0.extend(words.iter().map(OsString::from));
        self
    }

    /// One argument that ends in a path; QEMU's option syntax wants commas doubled.
    pub(super) fn path(&mut self, before: &str, path: &Path) -> &mut Arguments {
        let mut argument = OsString::from(before);
        argument.push(doubled_commas(path.as_os_str()));
        self.0.push(argument);
        self
    }
}

fn doubled_commas(text: &OsStr) -> OsString {
    let parts: Vec<&[u8]> = text.as_bytes().split(|byte| *byte == b',').collect();
    OsString::from_vec(parts.join(&b",,"[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(machine: &Machine) -> String {
        let words = machine.arguments(Some(Path::new("/a,b.iso")), Path::new("/t/vars.fd"));
        let words: Vec<String> = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        format!("{} {}", machine.program(), words.join(" "))
    }

    const COMMON: &str = "-nodefaults -no-user-config -no-reboot";
    const BLOCK: &str = "-blockdev driver=file,node-name=image,read-only=on,filename=/a,,b.iso \
                         -blockdev driver=raw,node-name=medium,read-only=on,file=image";
    const X64_FLASH: &str = "-drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd \
         -drive if=pflash,unit=1,format=raw,file=/t/vars.fd";
    const IA32_FLASH: &str = "-drive if=pflash,unit=0,format=raw,readonly=on,file=/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd \
         -drive if=pflash,unit=1,format=raw,file=/t/vars.fd \
         -global driver=cfi.pflash01,property=secure,value=on -global ICH9-LPC.disable_s3=1";

    #[test]
    fn arguments_of_the_six_machines() {
        let boot = "-smp 1 -vga std -boot strict=on,reboot-timeout=0";
        let bios =
            format!("qemu-system-i386 {COMMON} -machine pc -accel tcg -cpu pentium3 -m 128 {boot} {BLOCK}");
        let x64 = format!(
            "qemu-system-x86_64 {COMMON} -machine q35 -accel tcg -cpu qemu64 -m 256 {boot} {X64_FLASH} {BLOCK}"
        );
        let ia32 = format!(
            "qemu-system-i386 {COMMON} -machine q35,smm=on -accel tcg -cpu coreduo -m 256 {boot} {IA32_FLASH} {BLOCK}"
        );
        let stick = "-device usb-storage,bus=usb.0,drive=medium,bootindex=0";
        let expected = [
            format!("{bios} -device ide-cd,bus=ide.1,drive=medium,bootindex=0"),
            format!("{bios} -device usb-ehci,id=usb {stick}"),
            format!("{x64} -device ide-cd,bus=ide.0,drive=medium,bootindex=0"),
            format!("{x64} -device qemu-xhci,id=usb {stick}"),
            format!("{ia32} -device ide-cd,bus=ide.0,drive=medium,bootindex=0"),
            format!("{ia32} -device qemu-xhci,id=usb {stick}"),
        ];
        let found: Vec<String> = Firmware::ALL
            .iter()
            .flat_map(|firmware| Medium::PLAIN.map(|medium| shown(&Machine::new(*firmware, medium))))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn secure_boot_needs_firmware_that_guards_its_variables() {
        let machine = shown(&Machine::new(Firmware::SecureBoot, Medium::Cd));
        let x64 = shown(&Machine::new(Firmware::UefiX64, Medium::Cd));
        let expected = x64
            .replace("-machine q35 ", "-machine q35,smm=on ")
            .replace("-m 256", "-m 512")
            .replace("OVMF_CODE_4M.fd", "OVMF_CODE_4M.secboot.fd")
            .replace(
                "/t/vars.fd",
                "/t/vars.fd -global driver=cfi.pflash01,property=secure,value=on -global ICH9-LPC.disable_s3=1",
            );
        assert_eq!(machine, expected);
    }

    #[test]
    fn a_server_is_reached_through_a_relay() {
        let machine = Machine::new(Firmware::Bios, Medium::NetbootNbd);
        let words = machine.arguments(Some(Path::new("/t/it's,net")), Path::new("/none"));
        let expected = r"user,id=net,restrict=on,bootfile=boot.ipxe,tftp=/t/it's,,net,guestfwd=tcp:10.0.2.100:10809-cmd:sh '/t/it'\''s,,net.sh'";
        assert!(words.contains(&OsString::from(expected)), "{words:?}");
    }

    #[test]
    fn arguments_of_a_machine_without_medium() {
        let machine = Machine {
            usb: UsbController::Uhci,
            memory_mib: 40,
            cpus: 2,
            accelerator: Accelerator::Kvm,
            extra: vec!["-kernel".into(), "/k".into()],
            ..Machine::new(Firmware::Bios, Medium::Usb)
        };
        let words = machine.arguments(None, Path::new("/none"));
        let expected = "-nodefaults -no-user-config -no-reboot -machine pc -accel kvm -cpu pentium3 -m 40 -smp 2 \
                        -vga std -boot strict=on,reboot-timeout=0 -kernel /k";
        assert_eq!(words, expected.split(' ').map(OsString::from).collect::<Vec<_>>());
    }
}
