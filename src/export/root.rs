//! How a machine without a medium comes to its root image.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};

/// One way; the menus have entries for each that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// Downloaded to RAM from where the kernel came from, by HTTP or TFTP.
    Http,
    /// Left on a server that offers the image as a network block device.
    Nbd {
        /// `ADDRESS[:PORT]`; empty for the boot server and NBD's own port.
        server: String,
        /// The export's name; none for the install directory's.
        export: Option<String>,
    },
    /// Left on a server that offers the directory by NFS.
    Nfs {
        /// Address; empty for the boot server.
        server: String,
        /// The directory there; none for where it is written.
        directory: Option<String>,
    },
}

impl Root {
    /// As it is in a menu's line, behind the entry's own title.
    pub(super) fn title(&self) -> &'static str {
        match self {
            Root::Http => "image copied to RAM",
            Root::Nbd { .. } => "image on the server: NBD",
            Root::Nfs { .. } => "image on the server: NFS",
        }
    }

    /// The word for /init. `base` is what the loader knows as the URL of the directory,
    /// `host` the server's address where that is known.
    pub(super) fn word(&self, base: &str, host: &str) -> String {
        match self {
            Root::Http => format!("liveiso.net={base}"),
            Root::Nbd { server, export } => {
                let server = if server.is_empty() { host } else { server };
                format!("liveiso.nbd={server}/{}", export.as_deref().unwrap_or_default())
            }
            Root::Nfs { server, directory } => {
                let server = if server.is_empty() { host } else { server };
                format!("liveiso.nfs={server}:{}", directory.as_deref().unwrap_or_default())
            }
        }
    }

    /// The same with what was left out: an export named as the install directory, or the new directory.
    ///
    /// # Errors
    /// A directory whose name a kernel command line cannot hold.
    pub(super) fn completed(&self, install_dir: &str, to: &Path) -> Result<Root> {
        Ok(match self {
            Root::Nbd { server, export: None } => {
                Root::Nbd { server: server.clone(), export: Some(install_dir.to_string()) }
            }
            Root::Nfs { server, directory: None } => {
                let directory = std::path::absolute(to).context("finding the current directory")?;
                let text = directory.to_str().filter(|text| is_plain(text));
                let text = text.with_context(|| {
                    format!(
                        "`{}` cannot be a word of the kernel command line; name the directory as the server \
                         exports it: --root nfs=/DIR",
                        directory.display()
                    )
                })?;
                Root::Nfs { server: server.clone(), directory: Some(text.to_string()) }
            }
            complete => complete.clone(),
        })
    }
}

/// Whether every loader and the kernel leave a word as it is.
pub(super) fn is_plain(word: &str) -> bool {
    word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/:%@+,=".contains(&b))
}

/// An IPv4 address, because a static busybox resolves no names, and perhaps a port.
pub(super) fn is_server(text: &str) -> bool {
    let (host, port) = text.split_once(':').unwrap_or((text, "1"));
    host.parse::<std::net::Ipv4Addr>().is_ok() && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl FromStr for Root {
    type Err = Error;

    /// Reads `http`, `nbd[=[ADDRESS[:PORT]][/EXPORT]]` or `nfs[=[ADDRESS:]/DIR]`.
    fn from_str(text: &str) -> Result<Root> {
        let (way, place) = text.split_once('=').unwrap_or((text, ""));
        ensure!(is_plain(place), "`{place}` cannot be a word of the kernel command line");
        let root = match way {
            "http" if place.is_empty() && !text.contains('=') => Root::Http,
            "nbd" => {
                let (server, export) = match place.split_once('/') {
                    Some((server, export)) => (server, Some(export)),
                    None => (place, None),
                };
                Root::Nbd { server: server.to_string(), export: export.map(str::to_string) }
            }
            "nfs" if place.is_empty() => Root::Nfs { server: String::new(), directory: None },
            "nfs" => {
                let (server, directory) = place.split_once(':').unwrap_or(("", place));
                ensure!(
                    directory.starts_with('/'),
                    "`{place}` is no directory of an NFS server; write [ADDRESS:]/DIR"
                );
                Root::Nfs { server: server.to_string(), directory: Some(directory.to_string()) }
            }
            _ => bail!("`{text}` is none of http, nbd[=[ADDRESS[:PORT]][/EXPORT]] and nfs[=[ADDRESS:]/DIR]"),
        };
        let (Root::Nbd { server, .. } | Root::Nfs { server, .. }) = &root else { return Ok(root) };
        // NFS has its own port only.
        let bare = way == "nbd" || !server.contains(':');
        ensure!(
            server.is_empty() || (is_server(server) && bare),
            "`{server}` is no server: /init resolves no names; write an IPv4 address"
        );
        Ok(root)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_and_their_words() {
        for (text, word) in [
            ("http", "liveiso.net=BASE"),
            ("nbd", "liveiso.nbd=HOST/liveiso"),
            ("nbd=192.0.2.1", "liveiso.nbd=192.0.2.1/liveiso"),
            ("nbd=192.0.2.1:10810/x", "liveiso.nbd=192.0.2.1:10810/x"),
            ("nbd=/x", "liveiso.nbd=HOST/x"),
            ("nbd=192.0.2.1/", "liveiso.nbd=192.0.2.1/"),
            ("nfs", "liveiso.nfs=HOST:/srv/live"),
            ("nfs=/x", "liveiso.nfs=HOST:/x"),
            ("nfs=192.0.2.1:/x", "liveiso.nfs=192.0.2.1:/x"),
        ] {
            let root: Root = text.parse().unwrap();
            let root = root.completed("liveiso", Path::new("/srv/live")).unwrap();
            assert_eq!(root.word("BASE", "HOST"), word, "{text}");
        }
        let root = Root::Nfs { server: String::new(), directory: None };
        let error = root.completed("liveiso", Path::new("/srv/a b")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`/srv/a b` cannot be a word of the kernel command line; name the directory as the server exports \
             it: --root nfs=/DIR"
        );
    }

    #[test]
    fn what_init_could_not_use() {
        let choices = "is none of http, nbd[=[ADDRESS[:PORT]][/EXPORT]] and nfs[=[ADDRESS:]/DIR]";
        let address = "is no server: /init resolves no names; write an IPv4 address";
        for (text, message) in [
            ("", format!("`` {choices}")),
            ("http=", format!("`http=` {choices}")),
            ("iscsi", format!("`iscsi` {choices}")),
            ("nbd=server", format!("`server` {address}")),
            ("nbd=192.0.2.1:0", format!("`192.0.2.1:0` {address}")),
            ("nfs=server:/x", format!("`server` {address}")),
            (
                "nfs=192.0.2.1",
                "`192.0.2.1` is no directory of an NFS server; write [ADDRESS:]/DIR".to_string(),
            ),
            ("nbd=/a b", "`/a b` cannot be a word of the kernel command line".to_string()),
        ] {
            assert_eq!(text.parse::<Root>().unwrap_err().to_string(), message, "{text}");
        }
    }
}
