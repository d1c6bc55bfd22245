//! How an image comes to a machine.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The way the image comes to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Medium {
    /// A CD.
    Cd,
    /// A stick the image was written to byte by byte.
    Usb,
    /// As `usb`, for firmware that does not look for El Torito on a stick.
    UsbWithoutElTorito,
    /// A FAT32 stick with the image's files.
    FatCopy,
    /// A stick whose GRUB starts the image from a file.
    Loopback,
    /// The network: DHCP, TFTP and what `export netboot` writes.
    Netboot,
    /// The same, but the root image stays on a server: a network block device.
    NetbootNbd,
}

impl Medium {
    /// Every medium, in the order of the test table.
    pub const ALL: [Medium; 7] = [
        Medium::Cd,
        Medium::Usb,
        Medium::UsbWithoutElTorito,
        Medium::FatCopy,
        Medium::Loopback,
        Medium::Netboot,
        Medium::NetbootNbd,
    ];

    /// The media that are the image itself.
    pub const PLAIN: [Medium; 2] = [Medium::Cd, Medium::Usb];

    /// The name used in options, tables and directories.
    pub fn name(self) -> &'static str {
        match self {
            Medium::Cd => "cd",
            Medium::Usb => "usb",
            Medium::UsbWithoutElTorito => "usb-without-el-torito",
            Medium::FatCopy => "fat-copy",
            Medium::Loopback => "loopback",
            Medium::Netboot => "netboot",
            Medium::NetbootNbd => "netboot-nbd",
        }
    }

    /// Whether the machine has it as a drive, and so counts what is read from it; a
    /// directory is served over the network otherwise.
    pub(super) fn is_drive(self) -> bool {
        !matches!(self, Medium::Netboot | Medium::NetbootNbd)
    }
}

/// The host controller a USB stick hangs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum UsbController {
    /// USB 1.1, Intel.
    Uhci,
    /// USB 1.1, everyone else.
    Ohci,
    /// USB 2.0.
    Ehci,
    /// USB 3.
    Xhci,
}

impl UsbController {
    /// QEMU's name.
    pub(super) fn device(self) -> &'static str {
        match self {
            UsbController::Uhci => "piix3-usb-uhci",
            UsbController::Ohci => "pci-ohci",
            UsbController::Ehci => "usb-ehci",
            UsbController::Xhci => "qemu-xhci",
        }
    }
}
