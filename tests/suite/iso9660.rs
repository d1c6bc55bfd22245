//! Hybrid ISOs against xorriso's reader, sfdisk and a second run under other conditions.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use liveiso::format::fat;
use liveiso::format::iso9660::{Bios, MbrEntry, Options, read, verify, write};
use liveiso::plan::IsoLayout;
use liveiso::tree::{Content, Kind, Meta, Tree, parse_listing};
use tempfile::TempDir;

use crate::support::{iso_options, isolinux, oracle};

const MEDIUM: &str = "\
dir /.disk 0755 0 0
file /.disk/info 0644 0 0 text=rescue\\x0a
dir /EFI/BOOT 0755 0 0
file /EFI/BOOT/BOOTX64.EFI 0600 1000 0 size=30000
file /boot/grub/grub.cfg 0644 0 0 text=menu\\x0a
file /isolinux/isolinux.cfg 0644 0 0 text=menu\\x0a
dir /liveiso/empty 0755 0 0
file /liveiso/nothing 0644 0 0 size=0
file /liveiso/boot/i386/vmlinuz 0644 0 0 size=70001
file /liveiso/0123456789abcdef01234567.id 0644 0 0 text=0123456789abcdef01234567\\x0a
";

/// A tree and its options in `dir`; the squashfs and the ESP are files there.
fn medium(dir: &Path) -> (Tree, Options) {
    let mut tree = parse_listing(MEDIUM).unwrap();
    let origin = tree.add_origin("test");
    let squashfs = dir.join("root=image \\ of it.sfs");
    fs::write(&squashfs, vec![0x5a; 3_000_001]).unwrap();
    let content = Content::file(&squashfs, 3_000_001);
    tree.add_file(b"liveiso/i386/airootfs.sfs", content, Meta::default(), origin).unwrap();
    let part = Content::Slice { file: squashfs.into(), offset: 1, length: 5000 };
    tree.add_file(b"liveiso/part", part, Meta::default(), origin).unwrap();
    let loader = Content::bytes(isolinux());
    tree.add_file(b"isolinux/isolinux.bin", loader, Meta::default(), origin).unwrap();

    let esp = parse_listing("file /EFI/BOOT/BOOTX64.EFI 0644 0 0 size=30000\n").unwrap();
    let esp_options = fat::Options {
        label: "LIVEISO_EFI".to_string(),
        volume_id: 7,
        timestamp: 1_767_225_600,
        kind: fat::FatKind::Fat16,
    };
    let mut image = Vec::new();
    fat::write(&esp, &esp_options, &mut image).unwrap();
    fs::write(dir.join("efiboot.img"), image).unwrap();
    let publisher = "liveiso <https://example.org>".to_string();
    (tree, Options { publisher, ..iso_options(dir) })
}

fn write_in(dir: &Path, change: impl FnOnce(&mut Options)) -> (Options, PathBuf) {
    let (tree, mut options) = medium(dir);
    change(&mut options);
    let out = dir.join("x.iso");
    write(&tree, &options, dir, &out).unwrap_or_else(|e| panic!("{e:#}"));
    (options, out)
}

/// The lines of xorriso's reports that say where a machine boots from.
fn reports(dir: &Path) -> String {
    let args = ["-indev", "x.iso", "-report_el_torito", "plain", "-report_system_area", "plain"];
    let words = [
        "El Torito boot img",
        "El Torito img path",
        "El Torito img opts",
        "MBR partition ",
        "GPT disk",
        "GPT entry",
    ];
    let text = oracle("xorriso", &args, dir);
    let wanted = text.lines().filter(|line| words.iter().any(|word| line.starts_with(word)));
    wanted.filter(|line| !line.contains(" table")).map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn a_hybrid_medium_is_what_xorriso_and_sfdisk_read() {
    let dir = TempDir::new().unwrap();
    let (options, out) = write_in(dir.path(), |_| {});
    assert_eq!(
        reports(dir.path()),
        "\
El Torito boot img :   1  BIOS  y   none  0x0000  0x00      4          95
El Torito boot img :   2  UEFI  y   none  0x0000  0x00   8704        2048
El Torito img path :   1  /isolinux/isolinux.bin
El Torito img opts :   1  boot-info-table isohybrid-suitable
MBR partition      :   1   0x80  0x00           64         8128
MBR partition      :   2   0x00  0xef         8192         8704
GPT disk GUID      :      67452301ab89ef4d8123456789abcdef
GPT entry array    :      2  248  overlapping
"
    );
    let table = oracle("sfdisk", &["--dump", "x.iso"], dir.path());
    let partitions: Vec<&str> = table.lines().filter(|line| line.starts_with("x.iso")).collect();
    assert_eq!(
        partitions,
        [
            "x.iso1 : start=          64, size=        8128, type=0, bootable",
            "x.iso2 : start=        8192, size=        8704, type=ef",
        ]
    );
    let found = read(&out).unwrap();
    assert_eq!(found.length, u64::from(found.volume.sectors) * 2048);
    assert_eq!(found.volume.publisher, "LIVEISO <HTTPS://EXAMPLE.ORG>");
    verify(&out, &options).unwrap();
    let image = fs::read(&out).unwrap().to_ascii_lowercase();
    for stamp in [b"xorriso".as_slice(), b"libisofs", b"libburn"] {
        let found = image.windows(stamp.len()).any(|window| window == stamp);
        assert!(!found, "{} stands in the image", String::from_utf8_lossy(stamp));
    }
}

#[test]
fn the_files_come_out_as_they_went_in() {
    let dir = TempDir::new().unwrap();
    let (tree, _) = medium(dir.path());
    write_in(dir.path(), |_| {});
    oracle("xorriso", &["-osirrox", "on", "-indev", "x.iso", "-extract", "/", "out"], dir.path());
    let mut expected = Vec::new();
    for entry in tree.walk().skip(1) {
        let path = String::from_utf8(entry.path.clone()).unwrap();
        let metadata = fs::metadata(dir.path().join("out").join(&path)).unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        match &entry.inode.kind {
            Kind::File(_) if path == "isolinux/isolinux.bin" => {
                assert_eq!((metadata.len(), mode), (38_912, 0o444), "patched with the boot info table");
            }
            Kind::File(content) => {
                assert_eq!(
                    fs::read(dir.path().join("out").join(&path)).unwrap(),
                    content.read_all().unwrap()
                );
                assert_eq!(mode, 0o444, "{path}");
            }
            _ => assert_eq!(mode, 0o555, "{path}"),
        }
        expected.push(format!("'/{path}'"));
    }
    expected.push("'/isolinux/boot.cat'".to_string());
    expected.sort();
    let found = oracle("xorriso", &["-indev", "x.iso", "-find", "/"], dir.path());
    let mut found: Vec<&str> = found.lines().filter(|line| *line != "'/'").collect();
    found.sort_unstable();
    assert_eq!(found, expected);
    let list = oracle("xorriso", &["-indev", "x.iso", "-find", "/", "-exec", "lsdl"], dir.path());
    assert!(list.lines().all(|line| line.contains(" 0        0 ")), "an owner is not root: {list}");
    // The first partition begins with a volume of its own, at the same files.
    let whole = fs::read(dir.path().join("x.iso")).unwrap();
    fs::write(dir.path().join("p1.iso"), &whole[64 * 512..]).unwrap();
    oracle("xorriso", &["-osirrox", "on", "-indev", "p1.iso", "-extract", "/", "p1"], dir.path());
    let kernel = |root: &str| fs::read(dir.path().join(root).join("liveiso/boot/i386/vmlinuz")).unwrap();
    assert!(kernel("p1") == kernel("out"));
}

#[test]
fn bios_or_uefi_alone() {
    let dir = TempDir::new().unwrap();
    write_in(dir.path(), |options| options.efi_image = None);
    assert_eq!(
        reports(dir.path()),
        "\
El Torito boot img :   1  BIOS  y   none  0x0000  0x00      4          95
El Torito img path :   1  /isolinux/isolinux.bin
El Torito img opts :   1  boot-info-table isohybrid-suitable
MBR partition      :   1   0x80  0x17           64         8128
"
    );
    let (options, out) = write_in(dir.path(), |options| options.bios = None);
    assert_eq!(
        reports(dir.path()),
        "\
El Torito boot img :   1  UEFI  y   none  0x0000  0x00   8704        1636
MBR partition      :   1   0x00  0xee            1        15911
GPT disk GUID      :      67452301ab89ef4d8123456789abcdef
GPT entry array    :      2  248  separated
"
    );
    verify(&out, &options).unwrap();
}

#[test]
fn the_other_layouts_are_what_xorriso_sfdisk_and_sgdisk_read() {
    let dir = TempDir::new().unwrap();
    let (options, out) = write_in(dir.path(), |options| options.layout = IsoLayout::Gpt);
    assert_eq!(
        reports(dir.path()),
        "\
El Torito boot img :   1  BIOS  y   none  0x0000  0x00      4          95
El Torito boot img :   2  UEFI  y   none  0x0000  0x00   8704        2048
El Torito img path :   1  /isolinux/isolinux.bin
El Torito img opts :   1  boot-info-table isohybrid-suitable
MBR partition      :   1   0x00  0xee            1        17559
MBR partition      :   2   0x80  0x00            0            1
GPT disk GUID      :      67452301ab89ef4d8123456789abcdef
GPT entry array    :      2  248  separated
"
    );
    let table = oracle("sfdisk", &["--dump", "x.iso"], dir.path());
    let starts: Vec<&str> = table.lines().filter_map(|line| line.split(", uuid=").next()).collect();
    assert!(
        starts.contains(
            &"x.iso2 : start=        8192, size=        8704, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
        ),
        "{table}"
    );
    let checked = oracle("sgdisk", &["--verify", "x.iso"], dir.path());
    assert!(checked.contains("No problems found."), "{checked}");
    verify(&out, &options).unwrap();

    let (options, out) = write_in(dir.path(), |options| options.layout = IsoLayout::CdOnly);
    assert!(fs::read(&out).unwrap()[..32768].iter().all(|&b| b == 0), "the system area is in use");
    let image = out.parent().unwrap().join("efiboot.img");
    oracle(
        "xorriso",
        &["-osirrox", "on", "-indev", "x.iso", "-extract", "/boot/grub/efi.img", "e"],
        dir.path(),
    );
    assert!(fs::read(dir.path().join("e")).unwrap() == fs::read(image).unwrap());
    let report = reports(dir.path());
    assert!(report.contains("El Torito img path :   2  /boot/grub/efi.img\n"), "{report}");
    assert!(!report.contains("MBR") && !report.contains("GPT"), "{report}");
    verify(&out, &options).unwrap();
    for (layout, expected) in [
        (IsoLayout::Hybrid, "the first partition has no volume descriptor of its own"),
        (IsoLayout::Gpt, "the first partition has no volume descriptor of its own"),
    ] {
        let other = Options { layout, ..options.clone() };
        assert_eq!(verify(&out, &other).unwrap_err().to_string(), expected);
    }
    let mut tree = medium(dir.path()).0;
    let origin = tree.add_origin("test");
    tree.add_file(b"boot/grub/efi.img", Content::bytes("x"), Meta::default(), origin).unwrap();
    let error = format!("{:#}", write(&tree, &options, dir.path(), &out).unwrap_err());
    assert!(error.ends_with("the place of the ESP, /boot/grub/efi.img, is taken"), "{error}");
}

#[test]
fn the_bytes_do_not_depend_on_the_host() {
    let (one, two) = (TempDir::new().unwrap(), TempDir::with_prefix("elsewhere-").unwrap());
    let (_, first) = write_in(one.path(), |_| {});
    // Other inode numbers, other modes, later, with an old and longer file in the way.
    for n in (0..50).rev() {
        fs::write(two.path().join(format!("noise{n}")), "x").unwrap();
    }
    fs::write(two.path().join("x.iso"), vec![0xa5; 20 << 20]).unwrap();
    let (tree, options) = medium(two.path());
    let secret = fs::Permissions::from_mode(0o600);
    fs::set_permissions(two.path().join("root=image \\ of it.sfs"), secret).unwrap();
    let second = two.path().join("x.iso");
    let work = two.path().join("work dir");
    fs::create_dir(&work).unwrap();
    write(&tree, &options, &work, &second).unwrap();
    assert!(fs::read(first).unwrap() == fs::read(second).unwrap(), "the host shows in the image");
    assert_eq!(fs::read_dir(&work).unwrap().count(), 0, "the staging directory is left behind");
}

#[test]
fn verify_finds_what_is_damaged() {
    let dir = TempDir::new().unwrap();
    let (options, out) = write_in(dir.path(), |_| {});
    let good = fs::read(&out).unwrap();
    let length = good.len();
    let size = |found| {
        format!(
            "the volume says it has {length} bytes, but the file has {found}; Ventoy would call it corrupted"
        )
    };
    let (shorter, longer) = (size(length - 2048), size(length + 2048));
    type Damage = fn(&mut Vec<u8>);
    let cases: [(Damage, &str); 9] = [
        (|b| b.truncate(b.len() - 2048), &shorter),
        (|b| b.extend([0; 2048]), &longer),
        (|b| b[446] = 0, "0 partitions are active; a BIOS wants exactly one"),
        (|b| b[462] = 0x80, "2 partitions are active; a BIOS wants exactly one"),
        (|b| b[466] = 0x0c, "the MBR has no EFI system partition"),
        (|b| b[510] = 0, "sector 0 has no MBR signature"),
        (|b| b[2048 * 2048 + 600] ^= 1, "El Torito's EFI image is not the FAT image that was given"),
        (|b| b[95 * 2048 + 30_000] ^= 1, "the boot info table's checksum is wrong"),
        (|b| b[32 * 2048 + 1] = 0, "the first partition has no volume descriptor of its own"),
    ];
    for (damage, expected) in cases {
        let mut bytes = good.clone();
        damage(&mut bytes);
        fs::write(&out, bytes).unwrap();
        assert_eq!(verify(&out, &options).unwrap_err().to_string(), expected);
    }
    fs::write(&out, b"no ISO at all").unwrap();
    assert_eq!(format!("{:#}", read(&out).unwrap_err()), "reading sector 16: failed to fill whole buffer");
    let entry = MbrEntry { status: 0x80, kind: 0, start: 64, blocks: 8128, first_chs: (2, 1, 0) };
    fs::write(&out, good).unwrap();
    assert_eq!(read(&out).unwrap().mbr.unwrap()[0], entry);
}

#[test]
fn what_a_medium_cannot_hold_is_refused_by_path_and_origin() {
    let dir = TempDir::new().unwrap();
    let (_, options) = medium(dir.path());
    let names = "a name wants at most 31 of A-Z, a-z, 0-9 and `._-+`";
    for (line, expected) in [
        ("slink /a/l 0777 0 0 x", "the ISO cannot hold the symlink `/a/l` (from listing)".to_string()),
        ("nod /c 0600 0 0 c 5 1", "the ISO cannot hold the nod `/c` (from listing)".to_string()),
        ("file /x 0600 0 0\nlink /y /x", "the ISO cannot hold the hard link `/y` (from listing)".to_string()),
        ("file /a=b 0600 0 0", format!("the ISO cannot hold `/a=b` (from listing): {names}")),
        (
            "file /a12345678901234567890123456789.x 0600 0 0",
            format!("the ISO cannot hold `/a12345678901234567890123456789.x` (from listing): {names}"),
        ),
        (
            "dir /efi 0755 0 0\ndir /EFI 0755 0 0",
            "the ISO cannot hold `/efi` (from listing) beside `/EFI`: a copy to FAT ignores case".to_string(),
        ),
    ] {
        let tree = parse_listing(line).unwrap();
        let error = write(&tree, &options, dir.path(), &dir.path().join("x.iso")).unwrap_err();
        assert_eq!(error.to_string(), expected, "{line}");
    }
}

#[test]
fn xorrisos_own_words_reach_the_user() {
    let dir = TempDir::new().unwrap();
    let (tree, mut options) = medium(dir.path());
    options.bios = Some(Bios { image: "isolinux/missing.bin".to_string(), mbr: vec![0; 432] });
    let error = format!("{:#}", write(&tree, &options, dir.path(), &dir.path().join("x.iso")).unwrap_err());
    let told = "xorriso : FAILURE : Cannot find in ISO image: ";
    assert!(error.contains("xorriso failed (exit status: ") && error.contains(told), "{error}");
    assert!(error.contains("the command was: "), "{error}");
}
