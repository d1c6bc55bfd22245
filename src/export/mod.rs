//! `liveiso export`: a medium's content in the forms other ways of booting want.
//!
//! `netboot` writes a directory to be served as it is:
//! ```text
//! boot.ipxe                          for iPXE, by HTTP or TFTP
//! pxelinux.cfg/default, *.c32        for PXELINUX, whose pxelinux.0 belongs beside them
//! EFI/BOOT/*.EFI, …/grub.cfg         for UEFI's PXE and HTTP boot
//! grub/grub.cfg                      for Debian's grubnetx64.efi
//! liveiso/boot/ARCH/{vmlinuz,initrd.img}, liveiso/ARCH/airootfs.sfs
//! sha256sums                         of all that
//! ```
//! The kernel and /init find the image themselves: nothing is left of what a
//! loader's `sanboot` or memdisk had offered once the kernel runs. The same image
//! gives the same bytes.

mod initramfs;
mod menus;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::format::squashfs::Reader;
use crate::inspect::menu_entries;
use crate::output::publish_directory;
use crate::qemu::Subject;
use crate::tree::{Content, Kind};
use menus::{Menus, Start};

/// What GRUB reads, wherever its image came from.
const GRUB_CONFIGS: [&str; 2] = ["EFI/BOOT/grub.cfg", "grub/grub.cfg"];
/// What pxelinux.0 of the same Syslinux loads from beside itself.
const SYSLINUX_MODULES: [&str; 3] = ["ldlinux.c32", "libutil.c32", "menu.c32"];

/// What was written.
#[derive(Debug)]
pub struct Netboot {
    /// The directory.
    pub dir: PathBuf,
    /// Bytes of its files, by path in it.
    pub files: BTreeMap<String, u64>,
    /// What a user should know and could overlook.
    pub notes: Vec<String>,
}

/// Writes the new directory `to` for network boots of `image`, whose marker file is
/// in `/<install_dir>`. With `url` the menus say where the directory will be
/// served; without, the loaders find it out. The directory appears complete.
///
/// # Errors
/// An image that is none of ours or has no menu to take entries from, a URL
/// that /init cannot use, a directory that is there and not empty.
pub fn netboot(image: &Path, install_dir: &str, url: Option<&str>, to: &Path) -> Result<Netboot> {
    let url = url.map(checked_url).transpose()?;
    let subject = Subject::open(image, install_dir)?;
    let (files, notes) = contents(&subject, url).with_context(|| format!("exporting {}", image.display()))?;
    let sizes = files.iter().map(|(path, content)| (path.clone(), content.len())).collect();
    publish_directory(to, &files)?;
    Ok(Netboot { dir: to.to_path_buf(), files: sizes, notes })
}

/// /init takes an address, because a static busybox resolves no names.
fn checked_url(url: &str) -> Result<&str> {
    let rest = url.strip_prefix("http://").or(url.strip_prefix("tftp://"));
    let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    let plain = url.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~/:%@+,=".contains(&b));
    ensure!(
        plain && host.parse::<std::net::Ipv4Addr>().is_ok(),
        "`{url}` cannot be fetched in the initramfs; write http:// or tftp:// with an IPv4 address, and no blanks"
    );
    Ok(url.trim_end_matches('/'))
}

type Files = BTreeMap<String, Content>;

fn contents(subject: &Subject, url: Option<&str>) -> Result<(Files, Vec<String>)> {
    let starts = menus::starts(&menu_entries(subject.tree()), &subject.install_dir);
    if starts.is_empty() {
        bail!("no menu of the image has an entry with kernel and initramfs below /{}", subject.install_dir);
    }
    let (mut files, mut notes) = (Files::new(), Vec::new());
    let images: Files = subject
        .files()
        .filter(|(path, _)| path.ends_with(".sfs"))
        .map(|(path, content)| (path, content.clone()))
        .collect();
    let mut roots = images.values().map(reader).collect::<Result<Vec<_>>>()?;
    for Start { kernel, initrd, .. } in &starts {
        if !files.contains_key(kernel) {
            files.insert(kernel.clone(), named(subject, kernel)?.clone());
        }
        if !files.contains_key(initrd) {
            let bytes = named(subject, initrd)?.read_all()?;
            let exported = initramfs::with_network(&bytes, &mut roots)
                .with_context(|| format!("adding network drivers to /{initrd}"))?;
            files.insert(initrd.clone(), Content::bytes(exported.bytes));
            notes.extend(exported.notes);
        }
    }
    files.extend(images);
    add_loaders(subject, &mut files);
    let about = about(subject)?;
    let menus = Menus { about: &about, starts: &starts, url };
    let mut text = |path: &str, text: String| files.insert(path.to_string(), Content::bytes(text));
    text("boot.ipxe", menus.ipxe());
    text("pxelinux.cfg/default", menus.pxelinux());
    for path in GRUB_CONFIGS {
        text(path, menus.grub());
    }
    let mut digests = String::new();
    for (path, content) in &files {
        digests.push_str(&format!("{}  {path}\n", content.sha256()?));
    }
    files.insert("sha256sums".to_string(), Content::bytes(digests));
    Ok((files, notes))
}

fn named<'s>(subject: &'s Subject, path: &str) -> Result<&'s Content> {
    subject.file(path).with_context(|| format!("a menu names /{path}, which the image does not have"))
}

/// The image inside the ISO.
fn reader(content: &Content) -> Result<Reader> {
    let Content::Slice { file, offset, length } = content else {
        bail!("{content} is no part of the image");
    };
    Reader::open(file, *offset, *length)
}

/// UEFI's programs, Secure Boot's among them, and the modules PXELINUX shares with ISOLINUX.
fn add_loaders(subject: &Subject, files: &mut Files) {
    for entry in subject.tree().walk() {
        let path = String::from_utf8_lossy(&entry.path);
        if let Kind::File(content) = &entry.inode.kind
            && path.starts_with("EFI/BOOT/")
            && path.to_ascii_lowercase().ends_with(".efi")
        {
            files.insert(path.into_owned(), content.clone());
        }
    }
    for name in SYSLINUX_MODULES {
        if let Some(content) = subject.file(&format!("isolinux/{name}")) {
            files.insert(name.to_string(), content.clone());
        }
    }
}

/// The line of /.disk/info without the build id: name, version, architecture.
fn about(subject: &Subject) -> Result<String> {
    let info = match subject.file(".disk/info") {
        Some(content) => content.read_all()?,
        None => Vec::new(),
    };
    let line = String::from_utf8_lossy(&info).lines().next().unwrap_or_default().to_string();
    let words = line.split_ascii_whitespace().filter(|word| *word != subject.build_id);
    let words: Vec<&str> =
        words.filter(|word| word.bytes().all(|b| b.is_ascii_graphic() && b != b'$')).collect();
    Ok(if words.is_empty() { "liveiso".to_string() } else { words.join(" ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_init_can_use() {
        for (url, expected) in [
            ("http://192.0.2.1/live/", Some("http://192.0.2.1/live")),
            ("http://192.0.2.1:8080", Some("http://192.0.2.1:8080")),
            ("tftp://192.0.2.1/", Some("tftp://192.0.2.1")),
            ("https://192.0.2.1/", None),
            ("http://server/live", None),
            ("http://192.0.2.1/a b", None),
            ("192.0.2.1", None),
            ("", None),
        ] {
            assert_eq!(checked_url(url).ok(), expected, "{url}");
        }
    }
}
