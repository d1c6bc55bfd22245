//! `liveiso test --record-boot-order`: which files a boot reads, and in which order.
//!
//! The kernel says so itself: its trace event `mm_filemap_add_to_page_cache`
//! names device and inode of every page that comes into memory, and the image's
//! metadata lead from inode numbers to paths. So nothing is guessed from the
//! sectors that were read, of which readahead and the neighbours in a fragment
//! are the larger part. The event is switched on by the kernel command line, hence
//! the kernel is started by QEMU instead of the boot loader; /init then finds the
//! medium as ever. Read elsewhere before the root is mounted are the kernel and the
//! initramfs: the loader reads them, they are no files of the image.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::failure::{BootFailure, Ending, is_hopeless};
use super::guest::{Guest, scratch_dir};
use super::machine::{Arguments, Firmware, Machine, Medium};
use super::report::Shell;
use super::serial::Stopped;
use super::subject::Subject;
use crate::format::squashfs;
use crate::initramfs::UNTRACED;

/// One event takes about 48 bytes; the kernel says when it has lost any.
const TRACE: &str = "trace_event=filemap:mm_filemap_add_to_page_cache trace_buf_size=4M";

/// What the running system is asked, one line each; the last prints the answer.
const QUESTIONS: [&str; 4] = [
    "dmesg -n 1; mkdir -p /run/tracing && mount -t tracefs tracefs /run/tracing",
    "echo 0 >/run/tracing/tracing_on",
    "grep -E ' - (squashfs|erofs) ' /proc/self/mountinfo; grep entries-written /run/tracing/trace",
    "sed -n 's/.*dev \\([0-9:]*\\) ino \\([0-9a-f]*\\) .*/\\1 \\2/p' /run/tracing/trace | uniq",
];

/// Boots `image` as a CD on a BIOS machine up to the login and returns the paths
/// (`/usr/bin/busybox`) of the files of its root that were read, by first read.
///
/// # Errors
/// An image that is none of ours, one whose root is no squashfs image, a boot
/// that fails, a kernel without tracing.
pub fn record_boot_order(
    image: &Path,
    install_dir: &str,
    limit: Duration,
    log_dir: Option<&Path>,
) -> Result<Vec<String>> {
    let scratch = scratch_dir()?;
    let parts = Parts::extract(image, install_dir, scratch.path())?;
    let located = squashfs::locate(&parts.root)?;
    let deadline = Instant::now() + limit;
    let mut guest = Guest::start(&parts.machine(image), None, log_dir, deadline)?;
    let answer = match Shell::log_in(&mut guest.serial, deadline, is_hopeless)? {
        Ok(mut shell) => answers(&mut shell, deadline)?,
        Err(stopped) => {
            let ending = match stopped {
                Some(Stopped::Deadline) => Ending::time_out(limit),
                Some(Stopped::Ended) => Ending::Exit,
                Some(Stopped::TooMuch) | None => Ending::Seen,
            };
            let failure = BootFailure::classify(guest.serial.text(), &guest.firmware_log(), ending);
            bail!("the recording boot failed: {}", failure.summary());
        }
    };
    let numbers = inode_numbers(&answer)?;
    Ok(boot_order(&numbers, &located))
}

fn answers(shell: &mut Shell<'_>, deadline: Instant) -> Result<String> {
    let mut answer = String::new();
    for question in QUESTIONS {
        let (status, text) = shell.ask(question, deadline)?;
        ensure!(status == 0, "recording needs a kernel with tracefs: `{question}` failed:\n{text}");
        answer.push_str(&text);
        answer.push('\n');
    }
    Ok(answer)
}

/// Inode numbers of the root image in the order of their first events.
fn inode_numbers(answer: &str) -> Result<Vec<u32>> {
    let mut device = None;
    let mut numbers = Vec::new();
    let mut seen = HashSet::new();
    for line in answer.lines().map(str::trim) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        if let Some((_, counts)) = line.split_once("entries-in-buffer/entries-written: ") {
            let (kept, written) = counts.split_once('/').context("the trace has no counts")?;
            let written = written.split_ascii_whitespace().next();
            ensure!(Some(kept) == written, "the kernel's trace buffer was too small: {counts}");
        } else if line.contains(" - squashfs ") {
            device = device.or(words.get(2).copied());
        } else if let [of, number] = words[..]
            && device == Some(of)
        {
            let number = u32::from_str_radix(number, 16).with_context(|| format!("in `{line}`"))?;
            if seen.insert(number) {
                numbers.push(number);
            }
        }
    }
    ensure!(device.is_some(), "the root of the booted system is no squashfs image");
    ensure!(!numbers.is_empty(), "the kernel traced no read of the root image");
    Ok(numbers)
}

/// Paths by inode number; of a file with several names the first. Names that a
/// line of text cannot hold are left out.
fn boot_order(numbers: &[u32], located: &[squashfs::Located]) -> Vec<String> {
    let mut paths: HashMap<u32, &[u8]> = HashMap::new();
    for file in located {
        paths.entry(file.number).or_insert(&file.path);
    }
    let path = |number: &u32| paths.get(number).and_then(|path| std::str::from_utf8(path).ok());
    let fits = |path: &&str| !path.chars().any(char::is_control);
    numbers.iter().filter_map(path).filter(fits).map(|path| format!("/{path}")).collect()
}

/// The medium's menus; of two kernels the first has one of its own.
const MENUS: [&str; 4] =
    ["isolinux/i386.cfg", "isolinux/isolinux.cfg", "boot/grub/i386.cfg", "boot/grub/grub.cfg"];

/// What a medium is booted with, taken out of it.
struct Parts {
    kernel: PathBuf,
    initrd: PathBuf,
    root: PathBuf,
    command_line: String,
    is_64_bit: bool,
}

impl Parts {
    fn extract(image: &Path, install_dir: &str, dir: &Path) -> Result<Parts> {
        let subject = Subject::open(image, install_dir)?;
        let take = |ending: &str| -> Result<PathBuf> {
            // Of two kernels or roots the machine, a 32-bit one, gets this.
            let (_, content) = subject
                .files()
                .filter(|(path, _)| path.ends_with(ending))
                .max_by_key(|(path, _)| path.contains("/i386/"))
                .with_context(|| format!("{} has no {}", image.display(), &ending[1..]))?;
            let to = dir.join(&ending[1..]);
            let copied = File::create_new(&to).and_then(|mut file| {
                std::io::copy(&mut content.open().map_err(std::io::Error::other)?, &mut file)
            });
            copied.with_context(|| format!("writing {}", to.display()))?;
            Ok(to)
        };
        let menu = MENUS.into_iter().find_map(|name| subject.file(name));
        let menu = menu.with_context(|| format!("{} has no boot menu", image.display()))?.read_all()?;
        Ok(Parts {
            kernel: take("/vmlinuz")?,
            initrd: take("/initrd.img")?,
            root: take("/airootfs.sfs")?,
            is_64_bit: subject.is_64_bit(),
            command_line: command_line(&String::from_utf8_lossy(&menu))
                .context("the boot menu starts no kernel")?,
        })
    }

    /// A BIOS machine with the CD in its drive that starts the kernel itself.
    fn machine(&self, image: &Path) -> Machine {
        let mut args = Arguments::default();
        args.words(&["-blockdev"])
            .path("driver=file,node-name=image,read-only=on,filename=", image)
            .words(&["-blockdev", "driver=raw,node-name=medium,read-only=on,file=image"])
            .words(&["-device", "ide-cd,bus=ide.1,drive=medium"]);
        args.0.extend([OsString::from("-kernel"), self.kernel.clone().into()]);
        args.0.extend([OsString::from("-initrd"), self.initrd.clone().into()]);
        args.words(&["-append", &format!("{} {TRACE}", self.command_line)]);
        let machine = Machine { extra: args.0, ..Machine::new(Firmware::Bios, Medium::Cd) };
        if self.is_64_bit { machine.with_long_mode() } else { machine }
    }
}

/// The first entry's kernel command line, of an ISOLINUX or a GRUB menu, less
/// the word that keeps tracefs, which a recording needs, from being there.
fn command_line(menu: &str) -> Option<String> {
    menu.lines().map(str::trim).find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let rest = match words[..] {
            ["append", ref rest @ ..] => rest,
            // SYSLINUX has a keyword `linux` too, with nothing but the file.
            ["linux", _, ref rest @ ..] if !rest.is_empty() => rest,
            _ => return None,
        };
        Some(rest.iter().copied().filter(|word| *word != UNTRACED).collect::<Vec<_>>().join(" "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "
31 1 7:0 / /run/initramfs/live/ro ro,relatime - squashfs /dev/loop0 ro
# entries-in-buffer/entries-written: 2026/2026   #P:1
0:3 b00000
7:0 14b4
7:0 19
11:0 19
7:0 14b4
7:0 5";

    #[test]
    fn events_of_the_root_image_count_once() {
        assert_eq!(inode_numbers(ANSWER).unwrap(), [0x14b4, 0x19, 5]);
        for (from, to, expected) in [
            ("squashfs", "erofs", "the root of the booted system is no squashfs image"),
            ("7:0 /", "7:1 /", "the kernel traced no read of the root image"),
            ("/2026 ", "/9999 ", "the kernel's trace buffer was too small: 2026/9999   #P:1"),
        ] {
            let error = inode_numbers(&ANSWER.replace(from, to)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn numbers_become_paths() {
        let located: Vec<squashfs::Located> = [("b", 2), ("a", 1), ("z", 2), ("n\nl", 3)]
            .map(|(path, number)| squashfs::Located {
                path: path.into(),
                number,
                blocks: 0..0,
                fragment: None,
            })
            .into();
        assert_eq!(boot_order(&[3, 2, 9, 1], &located), ["/b", "/a"]);
    }

    #[test]
    fn command_lines_of_menus() {
        for (menu, expected) in [
            (
                "label live\n  linux /l/vmlinuz\n  initrd /l/i\n  append console=tty0 initcall_blacklist=tracer_init_tracefs quiet\n",
                Some("console=tty0 quiet"),
            ),
            ("menuentry 'x' {\n\tlinux /l/vmlinuz a  b=c\n\tinitrd /l/i\n}\n", Some("a b=c")),
            ("timeout 50\nui menu.c32\n", None),
        ] {
            assert_eq!(command_line(menu).as_deref(), expected, "{menu}");
        }
    }
}
