//! The medium's files on an NFS server: nfs-ganesha, which needs no help of the host's kernel, as a plain
//! process on loopback.
//!
//! By request, as root: `apt-get install nfs-ganesha-vfs`, then `cargo test --release -- --ignored nfs::`.
//! The server opens files by their handles, for which it must have CAP_DAC_READ_SEARCH, that containers
//! lack, and a file system other than overlay. And where systemd runs, installing it starts a server,
//! which tests must not do to anyone's machine.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};

use liveiso::host::Tool;

use super::beyond::{nbd_luks, networked};

/// A server that runs as long as this.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Offers `files` as /live, read-only, by NFS 4 on a free port of loopback.
    fn start(dir: &Path, files: &Path) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (work, files) = (dir.display(), files.display());
        let text = format!(
            "NFS_CORE_PARAM {{ Protocols = 4; Bind_addr = 127.0.0.1; NFS_Port = {port}; Enable_NLM = false;\n\
             Enable_RQUOTA = false; allow_set_io_flusher_fail = true; }}\n\
             NFSv4 {{ Graceless = true; RecoveryRoot = {work}; RecoveryBackend = fs; }}\n\
             EXPORT {{ Export_Id = 1; Path = {files}; Pseudo = /live; Access_Type = RO; SecType = sys;\n\
             Squash = No_Root_Squash; Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }} }}\n"
        );
        let config = dir.join("ganesha.conf");
        fs::write(&config, text).unwrap();
        let tool = Tool::bound("ganesha.nfsd", "serving by NFS").unwrap();
        let tool = tool.args(["-F", "-L", "STDOUT", "-f"]).arg(&config).arg("-p").arg(dir.join("pid"));
        let mut child = tool.into_command().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = String::new();
        while !said.contains("NFS SERVER INITIALIZED") {
            said += &lines.next().unwrap_or_else(|| panic!("{said}")).unwrap();
            said += "\n";
        }
        // Whatever it says later must not fill the pipe.
        std::thread::spawn(move || lines.count());
        Server { child, port }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The root runs from the server; its files are checked as those of any medium.
#[test]
#[ignore = "boots once, and the server needs privileges: see above"]
fn the_root_is_on_an_nfs_server() {
    let dir = tempfile::tempdir().unwrap();
    let medium = nbd_luks();
    let server = Server::start(dir.path(), &medium.tree);
    let words = format!("liveiso.nfs=10.0.2.2:/live,port={} verify", server.port);
    let mut guest = networked(&medium, &words).start();
    guest.says(":: mounting 10.0.2.2:/live\n");
    guest.says(":: medium: 10.0.2.2:/live (nfs 4.2), after ");
    guest.says(":: verify: every file of the medium is as it was built\n");
    guest.says("; image on the medium, ");
    guest.logs_in();
    assert_eq!(guest.ask("grep -c ' nfs4 ro,' /proc/mounts"), "1\n");
    let read = guest.ask("cat /usr/lib/modules/*/kernel/fs/[a-e]*/*.ko | wc -c");
    assert!(read.trim().parse::<u64>().unwrap() > 1 << 20, "{read}");
    guest.ends("poweroff -f");
}

/// Copied to RAM nothing refers to the server any more; a directory it does not have is said.
#[test]
#[ignore = "boots twice, and the server needs privileges: see above"]
fn after_toram_the_server_can_go() {
    let dir = tempfile::tempdir().unwrap();
    let medium = nbd_luks();
    let server = Server::start(dir.path(), &medium.tree);
    let mut guest =
        networked(&medium, &format!("nfsroot=10.0.2.2:/live,vers=4,port={} toram", server.port)).start();
    guest.says(":: 10.0.2.2:/live (nfs 4.2) may be removed now\n");
    guest.says("; image in RAM (");
    guest.logs_in();
    assert_eq!(guest.ask("grep -c nfs /proc/mounts"), "0\n");
    guest.ends("poweroff -f");

    let mut guest = networked(&medium, &format!("liveiso.nfs=10.0.2.2:/none,port={}", server.port)).start();
    guest.says("!! NFS: 10.0.2.2:/none cannot be mounted: No such file or directory\n");
    guest.says("power off > ");
    guest.ends("p");
}
