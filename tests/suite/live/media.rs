//! Media as people make them.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use liveiso::cache::hex_sha256;
use liveiso::host::Tool;

/// The plainest disk.
pub const DISK: &str = "virtio-blk-pci";

/// Where [`stick`] puts its third partition (bytes).
pub const PARTITION_3: usize = 112 << 20;

/// Runs a tool that must succeed; returns what it prints.
pub fn run(program: &str, args: &[&OsStr]) -> String {
    let output = Tool::new(program, "making a test medium").unwrap().args(args).capture().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Digest of a file.
pub fn sha256(path: &Path) -> String {
    hex_sha256(&fs::read(path).unwrap())
}

/// The files of an ISO.
pub struct Unpacked {
    pub tree: PathBuf,
}

impl Unpacked {
    /// Of the ISO all tests share, unpacked once.
    pub fn of(iso: &Path) -> Unpacked {
        static TREE: OnceLock<PathBuf> = OnceLock::new();
        let tree = TREE.get_or_init(|| {
            let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("live-tree");
            if to.exists() {
                run("chmod", &["-R".as_ref(), "u+w".as_ref(), to.as_ref()]);
                fs::remove_dir_all(&to).unwrap();
            }
            Unpacked::at(iso, &to).tree
        });
        Unpacked { tree: tree.clone() }
    }

    /// Of this ISO, unpacked to a new directory.
    pub fn at(iso: &Path, to: &Path) -> Unpacked {
        let words = ["-no_rc", "-osirrox", "on", "-indev"].map(OsStr::new);
        run(
            "xorriso",
            &[&words[..], &[iso.as_ref(), "-extract".as_ref(), "/".as_ref(), to.as_ref()]].concat(),
        );
        Unpacked { tree: to.to_path_buf() }
    }
}

/// An image file of this many MiB.
fn empty(dir: &Path, name: &str, mib: u64) -> PathBuf {
    let path = dir.join(name);
    fs::File::create(&path).unwrap().set_len(mib << 20).unwrap();
    path
}

/// A FAT32 stick with a label of its own onto which the files were copied.
pub fn fat_copy(dir: &Path, name: &str, tree: &Path) -> PathBuf {
    let image = empty(dir, name, 128);
    run("mkfs.fat", &["-F".as_ref(), "32".as_ref(), "-n".as_ref(), "MY STICK".as_ref(), image.as_ref()]);
    for entry in fs::read_dir(tree).unwrap() {
        let from = entry.unwrap().path();
        run("mcopy", &["-s".as_ref(), "-i".as_ref(), image.as_ref(), from.as_ref(), "::".as_ref()]);
    }
    image
}

/// An ext4 disk with these files.
pub fn ext4(dir: &Path, name: &str, label: &str, mib: u64, files: &Path) -> PathBuf {
    let image = empty(dir, name, mib);
    let words = ["-q", "-L", label, "-d"].map(OsStr::new);
    run("mkfs.ext4", &[&words[..], &[files.as_ref(), image.as_ref()]].concat());
    image
}

/// Runs debugfs commands that write.
pub fn debugfs(image: &Path, commands: &str) {
    let script = image.with_extension("debugfs");
    fs::write(&script, commands).unwrap();
    run("debugfs", &["-w".as_ref(), "-f".as_ref(), script.as_ref(), image.as_ref()]);
}

/// Leaves a transaction in the journal of an ext4 image: any mount that replays it writes.
pub fn dirty(image: &Path) -> PathBuf {
    let block = image.with_extension("block");
    fs::write(&block, [0xa5; 4096]).unwrap();
    debugfs(image, &format!("jo\njw -b 9000 {}\njc\n", block.display()));
    let features = run("dumpe2fs", &["-h".as_ref(), image.as_ref()]);
    assert!(features.contains("needs_recovery"), "{features}");
    // It is what the test needs only if replaying changes the image.
    let replayed = image.with_extension("replayed");
    fs::copy(image, &replayed).unwrap();
    Tool::new("e2fsck", "tests").unwrap().args(["-p"]).arg(&replayed).capture().unwrap();
    assert_ne!(sha256(&replayed), sha256(image));
    fs::remove_file(replayed).unwrap();
    image.to_path_buf()
}

/// A stick the ISO was written to, with this file system in a third partition.
pub fn stick(dir: &Path, iso: &Path, third: &Path) -> PathBuf {
    let path = dir.join("stick.img");
    let size = fs::metadata(third).unwrap().len();
    assert!(fs::metadata(iso).unwrap().len() <= PARTITION_3 as u64);
    fs::copy(iso, &path).unwrap();
    run("chmod", &["u+w".as_ref(), path.as_ref()]);
    let mut file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(PARTITION_3 as u64 + size).unwrap();
    let table = format!("start={}, size={}, type=83\n", PARTITION_3 / 512, size / 512);
    let script = format!("printf '{table}' | sfdisk -q -N 3 --force {}", path.display());
    run("sh", &["-c".as_ref(), script.as_ref()]);
    file.seek(SeekFrom::Start(PARTITION_3 as u64)).unwrap();
    file.write_all(&fs::read(third).unwrap()).unwrap();
    path
}

/// An exFAT stick with one file in its root directory (no tool but a kernel puts one there).
/// Microsoft's exFAT specification: boot sector 3.1, directory entries 7.4, 7.6 and 7.7.
pub fn exfat_with(dir: &Path, name: &str, file: &str, content: &Path) -> PathBuf {
    let image = empty(dir, name, 160);
    run("mkfs.exfat", &[image.as_ref()]);
    let mut disk = fs::File::options().read(true).write(true).open(&image).unwrap();
    let mut read = |at: u64, length: usize| {
        let mut bytes = vec![0; length];
        disk.seek(SeekFrom::Start(at)).unwrap();
        disk.read_exact(&mut bytes).unwrap();
        bytes
    };
    let boot = read(0, 512);
    let word = |at: usize| u64::from(u32::from_le_bytes(boot[at..at + 4].try_into().unwrap()));
    let (heap, root, sector) = (word(88), word(96), 1_u64 << boot[108]);
    let cluster = sector << boot[109];
    let place = |number: u64| heap * sector + (number - 2) * cluster;
    let mut entries = read(place(root), cluster as usize);
    let of_type = |kind: u8| entries.chunks(32).position(|entry| entry[0] == kind).unwrap() * 32;
    let bitmap = of_type(0x81);
    let bitmap_cluster = u64::from(u32::from_le_bytes(entries[bitmap + 20..bitmap + 24].try_into().unwrap()));
    let mut used = read(place(bitmap_cluster), cluster as usize);

    // Contiguous clusters behind the root directory need no chain in the FAT.
    let bytes = fs::read(content).unwrap();
    let first = root + 1;
    for number in first..first + (bytes.len() as u64).div_ceil(cluster) {
        used[(number as usize - 2) / 8] |= 1 << ((number - 2) % 8);
    }
    let name: Vec<u16> = file.encode_utf16().collect();
    assert!(name.len() <= 15);
    let mut set = vec![0_u8; 96];
    set[0] = 0x85;
    set[1] = 2;
    set[4] = 0x20;
    set[32] = 0xc0;
    set[33] = 3;
    set[35] = name.len() as u8;
    let upper = file.to_ascii_uppercase().encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let hash = upper.iter().fold(0_u16, |sum, byte| sum.rotate_right(1).wrapping_add(u16::from(*byte)));
    set[36..38].copy_from_slice(&hash.to_le_bytes());
    for at in [40, 56] {
        set[at..at + 8].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    }
    set[52..56].copy_from_slice(&(first as u32).to_le_bytes());
    set[64] = 0xc1;
    for (at, unit) in name.iter().enumerate() {
        set[66 + 2 * at..68 + 2 * at].copy_from_slice(&unit.to_le_bytes());
    }
    let sum = set.iter().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
    let sum = sum.fold(0_u16, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u16::from(*byte)));
    set[2..4].copy_from_slice(&sum.to_le_bytes());
    let free = of_type(0);
    entries[free..free + 96].copy_from_slice(&set);
    for (at, data) in [(place(root), &entries), (place(bitmap_cluster), &used), (place(first), &bytes)] {
        disk.seek(SeekFrom::Start(at)).unwrap();
        disk.write_all(data).unwrap();
    }
    run("fsck.exfat", &["-n".as_ref(), image.as_ref()]);
    image
}

/// An NTFS stick with one file in its root directory.
pub fn ntfs_with(dir: &Path, name: &str, content: &Path) -> PathBuf {
    let image = empty(dir, name, 160);
    run("mkntfs", &["-q".as_ref(), "-F".as_ref(), "-f".as_ref(), image.as_ref()]);
    run("ntfscp", &["-q".as_ref(), image.as_ref(), content.as_ref(), "live.iso".as_ref()]);
    image
}
