//! What a mounted root image costs in RAM, by compressor and block size:
//! `cargo bench --bench image_ram -- ISO`.
//!
//! ISO is any liveiso image (profiles/tiny is enough); its kernel does the
//! measuring. Of its root the modules of file systems and networks (24 MB of real
//! content) become one image a row, all on a second disk. Inside the guest each
//! is mounted, read as a whole and let go, five times; caches are dropped before
//! every look at /proc/meminfo, so what differs is what cannot be reclaimed:
//!
//! - `buffers`: more in SUnreclaim and VmallocUsed after the mount, which is exact,
//!   but does not see pages that EROFS takes one by one;
//! - `MemFree`: less of it after reading than the mean of before the mount and
//!   after the unmount, which sees everything, to some 300 kB.
//!
//! Figures are medians in kB. Seconds are of an emulated processor: only their
//! relation says something.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use liveiso::format::erofs;
use liveiso::format::squashfs::{self, Options};
use liveiso::host::Tool;
use liveiso::plan::Compression::{Gzip, Lz4, Lzo, Xz, Zstd};
use liveiso::qemu::report::Shell;
use liveiso::qemu::{Firmware, Guest, Machine, Medium};
use liveiso::tree::{Tree, exclude};

const BLOCK_SIZES: [u32; 5] = [4 << 10, 32 << 10, 128 << 10, 256 << 10, 1 << 20];
const CLUSTER_SIZES: [u32; 3] = [4 << 10, 64 << 10, 1 << 20];
const RUNS: usize = 5;
/// The guest's loop device over one image starts at a multiple of this.
const ALIGNMENT: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(1800);

/// Prints MemFree and SUnreclaim + VmallocUsed after dropping caches, and the uptime in hundredths.
const DEFINE: &str = "m() { for i in 1 2 3; do echo 3 >/proc/sys/vm/drop_caches; done; \
     while read -r k v u; do case $k in MemFree:) f=$v;; SUnreclaim:) s=$v;; VmallocUsed:) w=$v;; esac; \
     done </proc/meminfo; echo \"$f $((s + w)) $(cut -d' ' -f1 /proc/uptime | tr -d .)\"; }";

struct Image {
    name: String,
    filesystem: &'static str,
    block_size: u32,
    offset: u64,
    size: u64,
}

fn main() -> Result<()> {
    // cargo adds --bench.
    let iso = std::env::args().skip(1).rfind(|word| !word.starts_with('-'));
    let iso = PathBuf::from(iso.context("usage: cargo bench --bench image_ram -- ISO")?);
    let work = tempfile::tempdir().context("creating a scratch directory")?;
    let tree = sample(&iso, work.path())?;
    let disk = work.path().join("disk");
    let images = write_images(&tree, &disk)?;
    let mut machine = Machine::new(Firmware::Bios, Medium::Cd);
    let drive = format!("file={},if=none,id=images,format=raw,readonly=on", disk.display());
    machine.extra = ["-drive", &drive, "-device", "virtio-blk-pci,drive=images"].map(Into::into).into();
    let deadline = Instant::now() + LIMIT;
    let mut guest = Guest::start(&machine, Some(&iso), None, deadline)?;
    let shell = Shell::log_in(&mut guest.serial, deadline, |_| false)?;
    let mut shell = shell.map_err(|_| anyhow::anyhow!("{} does not boot", iso.display()))?;
    shell
        .ask("dmesg -n 1; modprobe virtio_pci; modprobe virtio_blk; mkdir -p /run/m; swapoff -a", deadline)?;
    shell.ask(DEFINE, deadline)?;
    println!("{:<6} {:>7} {:>10} {:>8} {:>8} {:>7}", "", "block", "bytes", "buffers", "MemFree", "read s");
    for image in &images {
        row(&mut shell, image, deadline)?;
    }
    Ok(())
}

/// Part of the root of an ISO.
fn sample(iso: &Path, work: &Path) -> Result<Tree> {
    let root = work.join("root.sfs");
    let tool = Tool::new("xorriso", "measuring")?.args(["-no_rc", "-osirrox", "on", "-indev"]).arg(iso);
    tool.args(["-extract", "/liveiso/i386/airootfs.sfs"]).arg(&root).output()?;
    let mut tree = squashfs::read(&root, &work.join("content"), 4 << 30)?;
    let patterns = ["/**", "!/usr/lib/modules/*/kernel/{fs,net}/**"].map(String::from);
    exclude(&mut tree, &patterns)?;
    ensure!(tree.walk().count() > 100, "the root of {} has too few modules", iso.display());
    Ok(tree)
}

fn write_images(tree: &Tree, disk: &Path) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    let part = disk.with_extension("part");
    let mut out = File::create(disk).context("creating the disk")?;
    for compression in [Gzip, Lz4, Lzo, Xz, Zstd] {
        for block_size in BLOCK_SIZES {
            let options = Options { block_size, ..Options::new(compression) };
            squashfs::write(tree, &options, File::create(&part).context("creating an image")?)?;
            let name = format!("{compression:?}").to_lowercase();
            images.push(append(&mut out, &part, name, "squashfs", block_size)?);
        }
    }
    for cluster_size in CLUSTER_SIZES {
        let options = erofs::Options { level: 9, cluster_size, timestamp: i64::from(u32::MAX) };
        let work = tempfile::tempdir().context("creating a scratch directory")?;
        fs::remove_file(&part).context("removing an image")?;
        erofs::write(tree, &options, work.path(), &part)?;
        images.push(append(&mut out, &part, "erofs".to_string(), "erofs", cluster_size)?);
    }
    Ok(images)
}

fn append(
    disk: &mut File,
    part: &Path,
    name: String,
    filesystem: &'static str,
    block_size: u32,
) -> Result<Image> {
    let end = disk.seek(SeekFrom::End(0)).context("writing the disk")?;
    let offset = end.next_multiple_of(ALIGNMENT);
    disk.seek(SeekFrom::Start(offset)).context("writing the disk")?;
    let size = std::io::copy(&mut File::open(part)?, disk).context("writing the disk")?;
    disk.set_len((offset + size).next_multiple_of(ALIGNMENT)).context("writing the disk")?;
    Ok(Image { name, filesystem, block_size, offset, size })
}

fn row(shell: &mut Shell<'_>, image: &Image, deadline: Instant) -> Result<()> {
    // Its buffers grow with the clusters and shrink only with the module.
    let reload = if image.filesystem == "erofs" { "modprobe -r erofs; modprobe erofs; " } else { "" };
    let line = format!(
        "{reload}l=$(losetup -f) && losetup -r -o {} $l /dev/vda && m && mount -t {} -o ro $l /run/m && m && \
         find /run/m -type f -exec cat {{}} + >/dev/null && m; umount /run/m; losetup -d $l; m",
        image.offset, image.filesystem
    );
    let (mut buffers, mut free, mut seconds) = (vec![], vec![], vec![]);
    for _ in 0..RUNS {
        let (status, text) = shell.ask(&line, deadline)?;
        let numbers: Vec<i64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        ensure!(status == 0 && numbers.len() == 12, "the guest answers {status}: {text}");
        buffers.push(numbers[4] - numbers[1]);
        free.push((numbers[0] + numbers[9]) / 2 - numbers[6]);
        seconds.push(numbers[8] - numbers[5]);
    }
    let middle = |mut values: Vec<i64>| {
        values.sort_unstable();
        values[values.len() / 2]
    };
    println!(
        "{:<6} {:>6}K {:>10} {:>8} {:>8} {:>7.2}",
        image.name,
        image.block_size >> 10,
        image.size,
        middle(buffers),
        middle(free),
        middle(seconds) as f64 / 100.0
    );
    Ok(())
}
