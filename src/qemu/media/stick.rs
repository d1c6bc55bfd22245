//! FAT32 sticks: one active partition from 1 MiB on, filled by mtools, which
//! many systems besides Linux use to copy files.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::Subject;
use crate::host::Tool;
use crate::tree::{Kind, Tree, display_path};

/// First byte of the partition.
const START: u64 = 1 << 20;
const BLOCK: u64 = 512;
/// Clusters of 4 KiB are FAT32 from about 256 MiB on.
const CLUSTER: u64 = 4 << 10;
const LEAST: u64 = 300 << 20;
/// What FAT, directories and a person's own files take besides.
const ROOM: u64 = 32 << 20;
/// FAT32 with logical block addresses.
const FAT32_LBA: u8 = 0x0c;

const PURPOSE: &str = "making a FAT stick";

/// A stick onto which somebody copied the files, under a label of its own. For a
/// BIOS it has Syslinux, put there as Rufus does it.
pub(super) fn fat_copy(subject: &Subject, bios: bool, path: &Path) -> Result<()> {
    let files = path.with_extension("files");
    write_tree(subject.tree(), &files)?;
    if bios && !files.join("syslinux.cfg").exists() {
        let config = "default liveiso\nlabel liveiso\n  config /isolinux/isolinux.cfg\n  append /isolinux/\n";
        fs::write(files.join("syslinux.cfg"), config).context("writing syslinux.cfg")?;
    }
    write(path, &files)?;
    fs::remove_dir_all(&files).context("removing the copied files")?;
    if bios {
        install_syslinux(path)?;
    }
    Ok(())
}

/// Writes a stick with everything in the directory `files`.
pub(super) fn write(path: &Path, files: &Path) -> Result<()> {
    let content = size_of(files)?;
    let length = (content + content / 50 + ROOM).max(LEAST).next_multiple_of(1 << 20);
    let image = File::create_new(path).with_context(|| format!("creating {}", path.display()))?;
    image.set_len(START + length).context("sizing the stick")?;
    image.write_all_at(&partition_table(length), 446).context("writing the partition table")?;
    drop(image);
    let volume = format!("{}@@{START}", path.display());
    let sectors = (length / BLOCK).to_string();
    let per_cluster = (CLUSTER / BLOCK).to_string();
    let hidden = (START / BLOCK).to_string();
    mtool("mformat")?
        .args(["-i", &volume, "-F", "-v", "MY STICK", "-c", &per_cluster, "-T", &sectors])
        .args(["-h", "255", "-s", "63", "-H", &hidden, "::"])
        .output()?;
    let mut copy = mtool("mcopy")?.args(["-i", &volume, "-s", "-Q", "-m"]);
    for entry in sorted_entries(files)? {
        copy = copy.arg(entry);
    }
    copy.arg("::/").output()?;
    Ok(())
}

/// mtools, whatever the user's own configuration says.
fn mtool(program: &str) -> Result<Tool> {
    Ok(Tool::new(program, PURPOSE)?.env("MTOOLSRC", "/dev/null").env("MTOOLS_SKIP_CHECK", "1"))
}

/// One active partition; its cylinders, heads and sectors say "use the block numbers".
fn partition_table(length: u64) -> [u8; 66] {
    let mut table = [0; 66];
    table[0] = 0x80;
    table[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
    table[4] = FAT32_LBA;
    table[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
    table[8..12].copy_from_slice(&((START / BLOCK) as u32).to_le_bytes());
    table[12..16].copy_from_slice(&((length / BLOCK) as u32).to_le_bytes());
    table[64..].copy_from_slice(&[0x55, 0xaa]);
    table
}

/// Debian's Syslinux, which must be of the version of the image's ISOLINUX.
fn install_syslinux(path: &Path) -> Result<()> {
    let code = Path::new("/usr/lib/syslinux/mbr/mbr.bin");
    let tool = Tool::new("syslinux", "starting a BIOS from copied files")?;
    let code = fs::read(code).with_context(|| {
        format!("reading {}; install it with `sudo apt-get install syslinux-common`", code.display())
    })?;
    write_boot_code(path, &code, 0)?;
    tool.args(["--install", "--offset", &START.to_string()]).arg(path).output()?;
    Ok(())
}

/// Writes boot code that leaves the partition table alone.
pub(super) fn write_boot_code(path: &Path, code: &[u8], block: u64) -> Result<()> {
    let limit = if block == 0 { 440 } else { START - BLOCK * block };
    ensure!(code.len() as u64 <= limit, "boot code of {} bytes is too large", code.len());
    let file =
        File::options().write(true).open(path).with_context(|| format!("opening {}", path.display()))?;
    file.write_all_at(code, block * BLOCK).with_context(|| format!("writing boot code to {}", path.display()))
}

/// Writes the directories and files of a tree into the new directory `to`.
pub(super) fn write_tree(tree: &Tree, to: &Path) -> Result<()> {
    for entry in tree.walk() {
        let shown = display_path(&entry.path);
        let name = std::str::from_utf8(&entry.path).with_context(|| format!("the name /{shown}"))?;
        let path = to.join(name);
        let written = match &entry.inode.kind {
            Kind::Directory(_) => fs::create_dir_all(&path),
            Kind::File(content) => File::create_new(&path).and_then(|mut file| {
                io::copy(&mut content.open().map_err(io::Error::other)?, &mut file).map(drop)
            }),
            other => anyhow::bail!("/{shown} is a {}, which cannot be copied to FAT", other.word()),
        };
        written.with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn sorted_entries(dir: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Bytes of all files, each rounded up to whole clusters.
fn size_of(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for path in sorted_entries(dir)? {
        let metadata = fs::symlink_metadata(&path).with_context(|| format!("reading {}", path.display()))?;
        bytes += if metadata.is_dir() { size_of(&path)? } else { metadata.len().next_multiple_of(CLUSTER) };
    }
    Ok(bytes)
}
