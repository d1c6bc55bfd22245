//! Who executes the guest's instructions: QEMU itself, or the processor through KVM.
//!
//! `/dev/kvm` being there does not mean that guests run: on nested hosts they may
//! hang. So KVM is used only after a tiny guest answered through it.

use std::io::Read;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::guest::{PURPOSE, scratch_dir};
use super::machine::Arguments;
use super::process::{Listener, Process};
use crate::host::{self, Tool};

/// How a guest is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// QEMU translates the instructions: slow, works everywhere.
    Tcg,
    /// The host's processor runs them.
    Kvm,
}

/// A healthy host boots the probe in well under a second.
const PROBE_TIME: Duration = Duration::from_secs(3);

/// What the probe writes to the debug port.
const ANSWER: u8 = b'K';

impl Accelerator {
    /// QEMU's name.
    pub fn name(self) -> &'static str {
        match self {
            Accelerator::Tcg => "tcg",
            Accelerator::Kvm => "kvm",
        }
    }

    /// KVM if it really works here, found out once per process, otherwise TCG.
    pub fn best() -> Accelerator {
        static BEST: OnceLock<Accelerator> = OnceLock::new();
        *BEST.get_or_init(|| match probe(Accelerator::Kvm, PROBE_TIME) {
            Ok(()) => Accelerator::Kvm,
            Err(_) => Accelerator::Tcg,
        })
    }
}

/// Boots a machine whose boot sector writes one byte to the debug port, and waits for that.
///
/// # Errors
/// Why no guest runs this way.
pub fn probe(accelerator: Accelerator, limit: Duration) -> Result<()> {
    if accelerator == Accelerator::Kvm && !Path::new("/dev/kvm").exists() {
        bail!("this host has no /dev/kvm");
    }
    let deadline = Instant::now() + limit;
    let scratch = scratch_dir()?;
    let disk = scratch.path().join("disk");
    std::fs::write(&disk, probe_disk()).with_context(|| format!("writing {}", disk.display()))?;
    let port = Listener::bind(scratch.path(), "port.sock")?;
    let qemu = host::find_tool("qemu-system-i386", PURPOSE)?;
    let mut args = Arguments::default();
    args.words(&["-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc", "-m", "16"])
        .words(&["-accel", accelerator.name(), "-drive"])
        .path("if=ide,format=raw,readonly=off,file=", &disk)
        .words(&["-chardev"])
        .path("socket,id=port,path=", &port.path)
        .words(&["-device", "isa-debugcon,iobase=0xe9,chardev=port"]);
    let tool = Tool::new("setpriv", PURPOSE)?.args(["--pdeathsig", "KILL"]).arg(qemu).args(args.0);
    let mut process = Process::start(tool, &scratch.path().join("qemu.log"))?;
    let mut stream = port.accept(&process, deadline)?;
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left)).context("setting the probe's time-out")?;
    let mut answer = [0];
    let read = stream.read_exact(&mut answer);
    read.with_context(|| format!("waiting {} s for a guest on {}", limit.as_secs(), accelerator.name()))
        .map_err(|e| process.explained(e, deadline))?;
    match answer[0] {
        ANSWER => Ok(()),
        byte => bail!("the guest on {} wrote {byte:#04x}", accelerator.name()),
    }
}

/// A disk whose boot sector says [`ANSWER`] and halts.
fn probe_disk() -> Vec<u8> {
    let code = [
        0xb0, ANSWER, // mov al, 'K'
        0xba, 0xe9, 0x00, // mov dx, 0xe9
        0xee, // out dx, al
        0xf4, // hlt
        0xeb, 0xfd, // jmp to hlt
    ];
    let mut disk = vec![0; 64 << 10];
    disk[..code.len()].copy_from_slice(&code);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}
