//! `liveiso export`: a medium's content in the forms other ways of booting want.
//!
//! `netboot` writes a directory to be served as it is:
//! ```text
//! boot.ipxe                          for iPXE, by HTTP or TFTP
//! pxelinux.cfg/default, *.c32        for PXELINUX, whose pxelinux.0 belongs beside them
//! grubnet*.efi, grub.cfg, grub/      for UEFI, GRUB if the loaders' packages are at hand
//! shim*.efi, grubx64.efi, mm*.efi    for UEFI with Secure Boot, of images made for that
//! liveiso/boot/ARCH/{vmlinuz,initrd.img}, liveiso/ARCH/airootfs.sfs
//! liveiso/ID.id                      the marker file, where the directory is to be mounted
//! sha256sums                         of all that
//! ```
//! The image is downloaded, or stays on a server of its own, see [`Root`]: it
//! need not fit into RAM then. The kernel and /init find the image themselves: nothing is left of what a
//! loader's `sanboot` or memdisk had offered once the kernel runs. The same image
//! gives the same bytes.

mod initramfs;
mod menus;
mod root;
mod signed;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::format::squashfs::Reader;
use crate::inspect::menu_entries;
use crate::output::publish_directory;
use crate::qemu::Subject;
use crate::tree::{Content, Kind, Tree};
use menus::{Menus, Start};

pub use root::Root;
pub(crate) use signed::file_name;
pub use signed::shim;

/// A file of a Debian package.
#[derive(Debug)]
pub struct Loader {
    /// Package.
    pub package: &'static str,
    /// Path without leading slash.
    pub path: &'static str,
}

impl Loader {
    /// Its name beside the menus.
    pub fn name(&self) -> &'static str {
        file_name(self.path)
    }
}

/// GRUB with its network modules built in, for 64-bit and 32-bit UEFI. (The media's own has none.)
pub const GRUB_FOR_NETWORKS: [Loader; 2] = [
    Loader { package: "grub-efi-amd64-bin", path: "usr/lib/grub/x86_64-efi/monolithic/grubnetx64.efi" },
    Loader { package: "grub-efi-ia32-bin", path: "usr/lib/grub/i386-efi/monolithic/grubnetia32.efi" },
];

/// Where that GRUB looks: in `/grub` of the server, else beside itself.
const GRUB_CONFIGS: [&str; 2] = ["grub.cfg", "grub/grub.cfg"];
/// What pxelinux.0 of the same Syslinux loads from beside itself.
const SYSLINUX_MODULES: [&str; 3] = ["ldlinux.c32", "libutil.c32", "menu.c32"];
/// And what chooses between two kernels, where a medium has them.
const CHOOSER: [&str; 2] = ["ifcpu64.c32", "libcom32.c32"];

/// An image from here on in RAM is worth a word (MiB).
const LARGE_IMAGE_MIB: u64 = 64;

/// How to write a directory for network boots.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'o> {
    /// The tree of the build's loader packages, where GRUB for UEFI comes from, if there is one.
    pub loaders: Option<&'o Tree>,
    /// The trees of the build's kernel packages, where drivers come from; else they are
    /// taken from the image.
    pub kernels: &'o [Tree],
    /// Where the directory will be served; without, the loaders find it out.
    pub url: Option<&'o str>,
    /// Ways to the image, the menus' default first; none for [`Root::Http`].
    pub roots: &'o [Root],
}

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
/// in `/<install_dir>`. It appears complete.
///
/// # Errors
/// An image that is none of ours or has no menu to take entries from, a URL
/// that /init cannot use, a way to the image that its kernel does not know,
/// a directory that is there and not empty.
pub fn netboot(image: &Path, install_dir: &str, options: &Options<'_>, to: &Path) -> Result<Netboot> {
    let url = options.url.map(checked_url).transpose()?;
    let mut roots = Vec::new();
    for root in options.roots {
        let root = root.completed(install_dir, to)?;
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    if roots.is_empty() {
        roots.push(Root::Http);
    }
    let subject = Subject::open(image, install_dir)?;
    let (files, notes) =
        contents(&subject, options, url, &roots).with_context(|| format!("exporting {}", image.display()))?;
    let sizes = files.iter().map(|(path, content)| (path.clone(), content.len())).collect();
    publish_directory(to, &files)?;
    Ok(Netboot { dir: to.to_path_buf(), files: sizes, notes })
}

/// /init takes an address, because a static busybox resolves no names.
fn checked_url(url: &str) -> Result<&str> {
    let rest = url.strip_prefix("http://").or(url.strip_prefix("tftp://"));
    let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    ensure!(
        root::is_plain(url) && root::is_server(host),
        "`{url}` cannot be fetched in the initramfs; write http:// or tftp:// with an IPv4 address, and no blanks"
    );
    Ok(url.trim_end_matches('/'))
}

type Files = BTreeMap<String, Content>;

fn contents(
    subject: &Subject,
    options: &Options<'_>,
    url: Option<&str>,
    ways: &[Root],
) -> Result<(Files, Vec<String>)> {
    let starts = menus::starts(&menu_entries(subject.tree()), &subject.install_dir);
    if starts.is_empty() {
        bail!("no menu of the image has an entry with kernel and initramfs below /{}", subject.install_dir);
    }
    let images: Files = subject.root_images().map(|(path, content)| (path, content.clone())).collect();
    // Without an image the root is in the initramfs.
    ensure!(
        !images.is_empty() || ways == [Root::Http],
        "the image has no root image that a server could offer: its root is in the initramfs"
    );
    ensure!(
        images.len() < 2 || !ways.iter().any(|way| matches!(way, Root::Nbd { .. })),
        "the image has two roots, and a network block device is one; take --root nfs or --root http"
    );
    let squashfs = images.iter().filter(|(path, _)| path.ends_with(".sfs"));
    let roots = squashfs.map(|(_, content)| reader(content)).collect::<Result<_>>()?;
    let mut sources = initramfs::Sources { kernels: options.kernels, roots };
    let (mut files, mut notes) = (Files::new(), memory_note(&images, ways));
    for Start { kernel, initrd, .. } in &starts {
        if !files.contains_key(kernel) {
            files.insert(kernel.clone(), named(subject, kernel)?.clone());
        }
        if !files.contains_key(initrd) {
            let mut bytes = named(subject, initrd)?.read_all()?;
            if !images.is_empty() {
                let exported = initramfs::with_network(&bytes, &mut sources, ways)
                    .with_context(|| format!("adding network drivers to /{initrd}"))?;
                bytes = exported.bytes;
                notes.extend(exported.notes);
            }
            files.insert(initrd.clone(), Content::bytes(bytes));
        }
    }
    files.extend(images);
    if ways.iter().any(|way| matches!(way, Root::Nfs { .. })) {
        let marker = format!("{}/{}.id", subject.install_dir, subject.build_id);
        files.insert(marker.clone(), named(subject, &marker)?.clone());
    }
    add_loaders(subject, options.loaders, &mut files);
    notes.extend(signed::add(subject, options.loaders, &mut files));
    let about = about(subject)?;
    let menus = Menus { about: &about, starts: &starts, url, roots: ways };
    let mut text = |path: &str, text: String| files.insert(path.to_string(), Content::bytes(text));
    text("boot.ipxe", menus.ipxe());
    for (name, menu) in menus.pxelinux() {
        text(&format!("pxelinux.cfg/{name}"), menu);
    }
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

/// A large image in RAM surprises whoever has only small machines.
fn memory_note(images: &Files, ways: &[Root]) -> Vec<String> {
    // Of two roots a machine takes one.
    let mib = images.values().map(Content::len).max().unwrap_or_default().div_ceil(1 << 20);
    let surprising = mib >= LARGE_IMAGE_MIB && ways == [Root::Http];
    let note = || {
        format!(
            "each machine copies the image to RAM, which takes {mib} MiB beside what the system needs; \
             --root nbd or --root nfs leaves it on a server"
        )
    };
    surprising.then(note).into_iter().collect()
}

/// The image inside the ISO.
fn reader(content: &Content) -> Result<Reader> {
    let Content::Slice { file, offset, length } = content else {
        bail!("{content} is no part of the image");
    };
    Reader::open(file, *offset, *length)
}

/// GRUB for UEFI, and the modules PXELINUX shares with ISOLINUX.
fn add_loaders(subject: &Subject, packages: Option<&Tree>, files: &mut Files) {
    for loader in GRUB_FOR_NETWORKS {
        let found = packages.and_then(|tree| Some(&tree.inode(tree.get(loader.path.as_bytes())?).kind));
        if let Some(Kind::File(content)) = found {
            files.insert(loader.name().to_string(), content.clone());
        }
    }
    let choice = subject.file(&format!("isolinux/{}", CHOOSER[0])).map(|_| CHOOSER);
    for name in SYSLINUX_MODULES.into_iter().chain(choice.into_iter().flatten()) {
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
