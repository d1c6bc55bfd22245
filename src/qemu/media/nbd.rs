//! A server for [`super::Medium::NetbootNbd`]: QEMU's own storage daemon, one for all
//! machines, on loopback.
//!
//! ```text
//! guest ─TCP 10.0.2.100:10809→ QEMU ─for each connection→ busybox nc ─TCP→ qemu-storage-daemon
//! ```
//! The guest reaches nothing else of the host. QEMU could connect by itself, but loses what
//! a server says before the guest has called, and an NBD server speaks first.

use std::fs;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Subject;
use crate::host::{self, Tool};
use crate::qemu::guest::PURPOSE;
use crate::qemu::machine::{Arguments, nbd_relay};
use crate::qemu::process::Process;

/// Offers the root image in the exported directory `dir` as the export that is named as the
/// install directory, and writes [`nbd_relay`]. It can be connected to at once.
pub(super) fn serve(subject: &Subject, dir: &Path) -> Result<Process> {
    let images: Vec<String> = subject.root_images().map(|(path, _)| path).collect();
    ensure!(images.len() == 1, "the image has {} root images, not one", images.len());
    let busybox = host::find_tool("busybox", PURPOSE)?;
    let daemon = host::find_tool("qemu-storage-daemon", PURPOSE)?;
    // We listen, so no machine can come too early.
    let listener = TcpListener::bind("127.0.0.1:0").context("listening on loopback")?;
    let port = listener.local_addr().context("listening on loopback")?.port();
    let relay = nbd_relay(dir);
    fs::write(&relay, format!("exec '{}' nc 127.0.0.1 {port}\n", busybox.display()))
        .with_context(|| format!("writing {}", relay.display()))?;
    let mut block = Arguments::default();
    block.words(&["--blockdev"]);
    block.path("driver=file,node-name=image,read-only=on,filename=", &dir.join(&images[0]));
    let export = format!("type=nbd,id=image,node-name=image,name={}", subject.install_dir);
    let tool = Tool::new("setpriv", PURPOSE)?.args(["--pdeathsig", "KILL"]).arg(daemon).args(block.0).args([
        "--nbd-server",
        "addr.type=fd,addr.str=0,max-connections=0",
        "--export",
        &export,
    ]);
    Process::start_with(tool, OwnedFd::from(listener), &dir.with_extension("log"))
}
