//! `liveiso run`: a machine for a person to look at.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::guest::{command, scratch_dir};
use super::machine::{Machine, Medium};
use super::media::Media;
use super::subject::Subject;
use crate::host;

/// Where the person sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// A window with screen and keyboard; the serial port is in its View menu.
    Window,
    /// This terminal is the machine's first serial port; Ctrl-A X ends it, Ctrl-A H helps.
    Serial,
}

/// How to run an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOptions {
    /// The PC.
    pub machine: Machine,
    /// Where the person sits.
    pub console: Console,
    /// The directory on the medium that holds the marker file.
    pub install_dir: String,
    /// Whether the guest reaches the host's network (QEMU's user-mode NAT).
    pub network: bool,
}

/// What a window needs of the session; [`host::Tool`] passes on no more than it must.
const SESSION: &[&str] = &["DISPLAY", "XAUTHORITY", "WAYLAND_DISPLAY", "XDG_SESSION_TYPE"];

/// Runs an image until the guest powers off or the person ends it.
///
/// # Errors
/// A missing program or firmware, a QEMU that fails.
pub fn run(image: &Path, options: &RunOptions) -> Result<()> {
    if !image.is_file() {
        bail!("{} is not a file; give the .iso to boot", image.display());
    }
    if options.console == Console::Window && SESSION[..3].iter().all(|name| host::environment(name).is_none())
    {
        bail!("there is no graphical session to open a window in; use --serial to boot on this terminal");
    }
    let scratch = scratch_dir()?;
    let (firmware, medium) = (options.machine.firmware, options.machine.medium);
    // The plain media can be any maker's image.
    let media = if Medium::PLAIN.contains(&medium) {
        None
    } else {
        Some(Media::make(&Subject::open(image, &options.install_dir)?, &[(firmware, medium)])?)
    };
    let image = media.as_ref().map_or(image, |media| media.path(medium));
    let vars = options.machine.prepare_firmware(scratch.path())?;
    let mut tool = command(&options.machine)?
        .args(options.machine.arguments(Some(image), &vars))
        .args(console_arguments(options.console));
    if options.network {
        tool = tool.args(["-nic", "user,model=e1000"]);
    }
    for name in SESSION {
        if let Some(value) = host::environment(name) {
            tool = tool.env(name, value);
        }
    }
    let shown = tool.shown();
    let mut command = tool.into_command();
    let status = command.stdin(Stdio::inherit()).status().with_context(|| format!("starting {shown}"))?;
    if !status.success() {
        bail!("{shown} failed ({status})");
    }
    Ok(())
}

fn console_arguments(console: Console) -> &'static [&'static str] {
    match console {
        Console::Window => &["-serial", "vc", "-monitor", "vc"],
        Console::Serial => &["-display", "none", "-serial", "mon:stdio"],
    }
}
