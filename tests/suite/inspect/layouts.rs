//! Other makers' layouts, written by xorriso with the options those makers give it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use liveiso::plan::IsoLayout;
use tempfile::TempDir;

use super::findings;
use super::medium::{GRUB, Medium};
use crate::support::oracle;

const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";

/// Writes the medium with `mkisofs` options in which `{}` stands for the directory of files.
fn written(dir: &Path, medium: &Medium, volume_id: &str, options: &str) -> PathBuf {
    let tree = dir.join("tree");
    if !tree.exists() {
        medium.directory(dir);
    }
    medium.esp_image(&dir.join("efi.img"));
    fs::create_dir_all(tree.join("boot/grub")).unwrap();
    medium.esp_image(&tree.join("boot/grub/efi.img"));
    fs::write(dir.join("mbr.bin"), [0xeb; 432]).unwrap();
    let mut words =
        vec!["-no_rc", "-as", "mkisofs", "-o", "x.iso", "-r", "-J", "-joliet-long", "-V", volume_id];
    words.extend(options.split_whitespace());
    words.push("tree");
    oracle("xorriso", &words, dir);
    dir.join("x.iso")
}

/// archiso 88 with BIOS and UEFI, and with UEFI alone.
const ARCHISO: &str = "-iso-level 3 -full-iso9660-filenames -eltorito-boot isolinux/isolinux.bin \
    -eltorito-catalog isolinux/boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table -isohybrid-mbr mbr.bin \
    --mbr-force-bootable -partition_offset 16 -append_partition 2 C12A7328-F81F-11D2-BA4B-00A0C93EC93B efi.img \
    -isohybrid-gpt-basdat -eltorito-alt-boot -e --interval:appended_partition_2:all:: -no-emul-boot";
const ARCHISO_UEFI: &str = "-iso-level 3 -full-iso9660-filenames -partition_offset 16 \
    -append_partition 2 C12A7328-F81F-11D2-BA4B-00A0C93EC93B efi.img -appended_part_as_gpt \
    -eltorito-catalog EFI/boot.cat -e --interval:appended_partition_2:all:: -no-emul-boot";
/// live-build's iso-hybrid but for the Apple partition map, which wants a real isohdpfx.bin.
const LIVE_BUILD: &str = "-l -cache-inodes -iso-level 3 -isohybrid-mbr mbr.bin -partition_offset 16 \
    -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table -eltorito-alt-boot \
    -e boot/grub/efi.img -no-emul-boot -isohybrid-gpt-basdat";

/// archiso's way of finding its medium, in its spelling.
fn archiso_menus(medium: &mut Medium) {
    medium.replace(GRUB, "quiet $loopback", "archisobasedir=arch archisosearchuuid=2026-01-01-00-00-00-00");
    medium.set(
        "boot/grub/loopback.cfg",
        "search --no-floppy --set=archiso_img_dev --file \"${iso_path}\"\nmenuentry 'Arch' {\n\
         linux /liveiso/boot/i386/vmlinuz img_dev=UUID=${archiso_img_dev_uuid} img_loop=\"${iso_path}\"\n\
         initrd /liveiso/boot/i386/initrd.img\n}\n",
    );
}

#[test]
fn the_layouts_of_archiso_and_live_build_raise_no_alarm() {
    for (what, options, volume_id, expected) in [
        ("archiso", ARCHISO, "ARCH_202601", &[][..]),
        ("archiso, UEFI only", ARCHISO_UEFI, "ARCH_202601", &[][..]),
        // A copy on FAT has another name, by which live-boot does not search.
        ("live-build", LIVE_BUILD, "Debian bookworm 20260101", &["volume-id warn"][..]),
    ] {
        let dir = TempDir::new().unwrap();
        let mut medium = Medium::good();
        medium.mark = "scripts/live";
        if what.starts_with("archiso") {
            medium.mark = "hooks/archiso";
            archiso_menus(&mut medium);
        }
        if what.ends_with("only") {
            medium.files.retain(|path, _| !path.starts_with("isolinux"));
        }
        assert_eq!(findings(&written(dir.path(), &medium, volume_id, options)), expected, "{what}");
    }
}

/// The makers whose layouts lack something: facts/boot-media.md, section 4.2.
#[test]
fn what_other_layouts_lack_is_found() {
    let mkrescue = "-b isolinux/isolinux.bin -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-mbr mbr512.bin \
        --protective-msdos-label --efi-boot boot/grub/efi.img -efi-boot-part --efi-boot-image";
    let no_partition = "-b isolinux/isolinux.bin -no-emul-boot -boot-load-size 4 -boot-info-table --grub2-mbr mbr512.bin \
        -eltorito-alt-boot -e boot/grub/efi.img -no-emul-boot -isohybrid-gpt-basdat";
    let isohybrid_only = "-isohybrid-mbr mbr.bin -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
        -boot-load-size 4 -boot-info-table -eltorito-alt-boot -e boot/grub/efi.img -no-emul-boot";
    let cd_only =
        "-b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table";
    let lorax = format!(
        "--grub2-mbr mbr512.bin -partition_offset 16 -appended_part_as_gpt -append_partition 2 {ESP} efi.img \
         -iso_mbr_part_type EBD0A0A2-B9E5-4433-87C0-68B6B72699C7 -c boot.cat --boot-catalog-hide \
         -b isolinux/isolinux.bin -no-emul-boot -boot-load-size 4 -boot-info-table -eltorito-alt-boot \
         -e --interval:appended_partition_2:all:: -no-emul-boot"
    );
    let table = format!("{lorax} --mbr-force-bootable");
    for (what, options, expected) in [
        ("grub-mkrescue", mkrescue, &["active-flag fail"][..]),
        ("grml-live", no_partition, &["active-flag fail", "esp-partition fail"][..]),
        ("isohybrid without ESP", isohybrid_only, &["esp-partition fail"][..]),
        ("lorax", &lorax, &["active-flag fail"][..]),
        ("lorax with an active entry", &table, &[][..]),
        ("Linux Live Kit", cd_only, &["partition-table warn"][..]),
    ] {
        let dir = TempDir::new().unwrap();
        let mut mbr = [0; 512];
        mbr[..440].fill(0xeb);
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        fs::write(dir.path().join("mbr512.bin"), mbr).unwrap();
        assert_eq!(findings(&written(dir.path(), &Medium::good(), "RESCUE", options)), expected, "{what}");
    }
}

/// A medium that its profile made for discs, or with a valid GPT, does not lack what it has not.
#[test]
fn our_other_layouts_raise_no_alarm() {
    for layout in [IsoLayout::Gpt, IsoLayout::CdOnly] {
        let dir = TempDir::new().unwrap();
        let mut medium = Medium::good();
        medium.layout = layout;
        assert_eq!(findings(&medium.write(dir.path(), "x")), Vec::<String>::new(), "{layout:?}");
    }
}

/// What our own writer refuses, so that another has to make it.
#[test]
fn links_and_colliding_names_are_found() {
    type Change = fn(&Path);
    let cases: [(&str, Change, &[&str]); 7] = [
        (
            "a loader that is a link",
            |tree| {
                fs::rename(tree.join("EFI/BOOT/BOOTX64.EFI"), tree.join("loader.efi")).unwrap();
                symlink("../../loader.efi", tree.join("EFI/BOOT/BOOTX64.EFI")).unwrap();
            },
            &["loaders-in-iso fail", "symlinks fail"],
        ),
        ("a link that nothing needs", |tree| symlink(".", tree.join("debian")).unwrap(), &["symlinks warn"]),
        (
            "a kernel behind a link",
            |tree| {
                fs::rename(tree.join("liveiso/boot"), tree.join("liveiso/boot2")).unwrap();
                symlink("boot2", tree.join("liveiso/boot")).unwrap();
            },
            &["symlinks fail", "checksum-lists fail", "menu-files fail"],
        ),
        (
            "names that differ in case",
            |tree| {
                fs::write(tree.join("liveiso/readme"), "x").unwrap();
                fs::write(tree.join("liveiso/README"), "y").unwrap();
            },
            &["names fail"],
        ),
        (
            "a name longer than Joliet's",
            |tree| fs::write(tree.join(format!("liveiso/{}", "x".repeat(65))), "x").unwrap(),
            &["names fail"],
        ),
        (
            "a name of 64",
            |tree| fs::write(tree.join(format!("liveiso/{}", "x".repeat(64))), "x").unwrap(),
            &[],
        ),
        ("a name FAT has not", |tree| fs::write(tree.join("liveiso/a:b"), "x").unwrap(), &["names fail"]),
    ];
    for (what, change, expected) in cases {
        let dir = TempDir::new().unwrap();
        let medium = Medium::good();
        change(&medium.directory(dir.path()));
        assert_eq!(findings(&written(dir.path(), &medium, "RESCUE", ARCHISO)), expected, "{what}");
    }
}

/// Names of plain ISO 9660, without Rock Ridge, and deep directories that Rock Ridge moves.
#[test]
fn names_are_those_xorriso_shows() {
    let dir = TempDir::new().unwrap();
    let medium = Medium::good();
    let deep = "a/b/c/d/e/f/g/h/i/j";
    let tree = medium.directory(dir.path());
    fs::create_dir_all(tree.join(deep)).unwrap();
    fs::write(tree.join(deep).join("x".repeat(200)), "deep").unwrap();
    symlink("/usr/./lib/../x", tree.join("a/link")).unwrap();
    let iso = written(dir.path(), &medium, "RESCUE", "-iso-level 2");
    let tree = liveiso::format::iso9660::read_tree(&iso).unwrap();
    let mut found: Vec<String> =
        tree.walk().map(|entry| format!("'/{}'", String::from_utf8(entry.path).unwrap())).collect();
    found.sort();
    let listed = oracle("xorriso", &["-indev", "x.iso", "-find", "/"], dir.path());
    let mut expected: Vec<&str> = listed.lines().collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let link = tree.get(b"a/link").map(|id| &tree.inode(id).kind);
    assert!(
        matches!(link, Some(liveiso::tree::Kind::Symlink(target)) if target == b"/usr/./lib/../x"),
        "{link:?}"
    );
}

/// ESPs of other makers: every width of FAT, long names, files in pieces.
#[test]
fn fat_volumes_of_mkfs_are_read() {
    let long = "A long name, 50 letters and more, \u{e4}\u{f6}\u{fc}.config";
    for (bits, mebibytes) in [("12", 2), ("16", 16), ("32", 64)] {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("x.img");
        fs::File::create(&path).unwrap().set_len(mebibytes << 20).unwrap();
        oracle("mkfs.fat", &["-F", bits, "-s", "1", "-n", "EFI", "-i", "0000002a", "x.img"], dir.path());
        for (name, size) in [("first", 3_000), ("second", 5_000), ("third", 9_001), ("none", 0)] {
            fs::write(dir.path().join(name), vec![name.as_bytes()[0]; size]).unwrap();
        }
        oracle("mmd", &["-i", "x.img", "::EFI", "::EFI/BOOT"], dir.path());
        oracle("mcopy", &["-i", "x.img", "first", "second", "::"], dir.path());
        oracle("mdel", &["-i", "x.img", "::first"], dir.path());
        oracle("mcopy", &["-i", "x.img", "second", &format!("::EFI/BOOT/{long}")], dir.path());
        oracle("mcopy", &["-i", "x.img", "third", "none", "::EFI/BOOT"], dir.path());
        let (volume, tree) = liveiso::format::fat::read(&path, 0, mebibytes << 20).unwrap();
        let shown = (volume.bits.to_string(), volume.label.as_str(), volume.serial, volume.cluster_size);
        assert_eq!(shown, (bits.to_string(), "EFI", 0x2a, 512));
        let read = |path: &str| match &tree.inode(tree.get(path.as_bytes()).unwrap()).kind {
            liveiso::tree::Kind::File(content) => content.read_all().unwrap(),
            other => panic!("{path} is {other:?}"),
        };
        let names: Vec<String> = tree.walk().map(|entry| String::from_utf8(entry.path).unwrap()).collect();
        let below = |name: &str| format!("EFI/BOOT/{name}");
        let expected = ["", "EFI", "EFI/BOOT", &below(long), &below("none"), &below("third"), "second"];
        assert_eq!(names, expected, "FAT{bits}");
        assert_eq!(read("second"), vec![b's'; 5_000]);
        assert_eq!(read(&below(long)), vec![b's'; 5_000], "FAT{bits}: a file in the gap and behind it");
        assert_eq!((read(&below("third")), read(&below("none"))), (vec![b't'; 9_001], Vec::new()));
        let error = liveiso::format::fat::read(&path, 0, 1 << 20).unwrap_err().to_string();
        assert!(error.ends_with("its place only 1048576"), "{error}");
    }
}
