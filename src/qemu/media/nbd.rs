//! A server for [`super::Medium::NetbootNbd`]: QEMU's own storage daemon, one for all
//! machines.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Subject;
use crate::host::{self, Tool};
use crate::qemu::guest::{PURPOSE, Process};
use crate::qemu::machine::{Arguments, nbd_socket};

/// Offers the root image in the exported directory `dir`, as the export that is named as the
/// install directory, at [`nbd_socket`]. It can be connected to at once.
pub(super) fn serve(subject: &Subject, dir: &Path) -> Result<Process> {
    let images: Vec<String> = subject.root_images().map(|(path, _)| path).collect();
    ensure!(images.len() == 1, "the image has {} root images, not one", images.len());
    let mut block = Arguments::default();
    block.words(&["--blockdev"]);
    block.path("driver=file,node-name=image,read-only=on,filename=", &dir.join(&images[0]));
    let socket = nbd_socket(dir);
    // We listen, so no machine can come too early.
    let listener =
        UnixListener::bind(&socket).with_context(|| format!("creating the socket {}", socket.display()))?;
    let daemon = host::find_tool("qemu-storage-daemon", PURPOSE)?;
    let export = format!("type=nbd,id=image,node-name=image,name={}", subject.install_dir);
    let tool = Tool::new("setpriv", PURPOSE)?.args(["--pdeathsig", "KILL"]).arg(daemon).args(block.0).args([
        "--nbd-server",
        "addr.type=fd,addr.str=0,max-connections=0",
        "--export",
        &export,
    ]);
    Process::start_with(tool, OwnedFd::from(listener), &dir.with_extension("log"))
}
