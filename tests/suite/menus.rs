//! Menus and boot files, from the plan to the text.

use std::collections::BTreeMap;
use std::fs;

use liveiso::boot::{self, BootFiles};
use liveiso::cache::hex_sha256;
use liveiso::plan::{
    Arch, Boot, BootMode, Budget, Compression, Debian, EfiArch, Initramfs, InputFile, IsoLayout, Layout,
    Packages, Plan, Root, RootFormat, RootImage, RootMode,
};
use liveiso::tree::{Kind, Tree, parse_listing};
use tempfile::TempDir;

const BUILD_ID: &str = "0123456789abcdef01234567";

fn plan() -> Plan {
    Plan {
        plan_version: 1,
        iso_name: "rescue".to_string(),
        iso_version: "1.0".to_string(),
        iso_label: "RESCUE_10".to_string(),
        iso_layout: IsoLayout::Hybrid,
        disk_image: None,
        iso_publisher: "liveiso".to_string(),
        iso_application: "rescue stick".to_string(),
        install_dir: "liveiso".to_string(),
        arch: Arch::I386,
        second_kernel: None,
        second_root: None,
        timestamp: 1_767_225_600,
        debian: Debian { suite: "bookworm".to_string(), sources: Vec::new(), left_out: Vec::new() },
        packages: Packages::default(),
        root: Root {
            description: Vec::new(),
            mode: RootMode::Unpacked,
            exclude: Vec::new(),
            file_permissions: BTreeMap::new(),
            image: RootImage {
                format: RootFormat::Squashfs,
                compression: Compression::Gzip,
                level: 9,
                block_size: 131_072,
            },
            boot_order: Vec::new(),
            verity: false,
        },
        initramfs: Initramfs {
            compression: Compression::Xz,
            modules: Vec::new(),
            optional_modules: Vec::new(),
            layout: Layout::Plain,
            description: Vec::new(),
            microcode: None,
            programs: Vec::new(),
            hooks: Vec::new(),
        },
        boot: Boot {
            bootmodes: vec![BootMode::BiosSyslinux, BootMode::UefiGrub],
            title: "Bob's rescue".to_string(),
            timeout: 5,
            kernel_parameters: "quiet".to_string(),
            serial: Some("ttyS0,115200".to_string()),
            secure_boot: Vec::new(),
        },
        overlays: Vec::new(),
        efiboot: BTreeMap::new(),
        budget: Budget::default(),
    }
}

/// The files of the loader packages, by the names Debian gives them.
const LOADERS: &str = "\
file /usr/lib/ISOLINUX/isolinux.bin 0644 0 0 size=38912
file /usr/lib/ISOLINUX/isohdpfx.bin 0644 0 0 size=432
file /usr/lib/syslinux/modules/bios/chain.c32 0644 0 0 size=10
file /usr/lib/syslinux/modules/bios/ldlinux.c32 0644 0 0 size=11
file /usr/lib/syslinux/modules/bios/libcom32.c32 0644 0 0 size=12
file /usr/lib/syslinux/modules/bios/libutil.c32 0644 0 0 size=13
file /usr/lib/syslinux/modules/bios/menu.c32 0644 0 0 size=14
file /usr/lib/syslinux/modules/bios/poweroff.c32 0644 0 0 size=15
file /usr/lib/syslinux/modules/bios/reboot.c32 0644 0 0 size=16
file /usr/lib/syslinux/modules/bios/vesamenu.c32 0644 0 0 size=17
file /usr/lib/syslinux/modules/bios/ifcpu64.c32 0644 0 0 size=18
file /usr/lib/shim/shimx64.efi.signed 0644 0 0 size=40
file /usr/lib/shim/shimia32.efi.signed 0644 0 0 size=41
file /usr/lib/grub/x86_64-efi-signed/gcdx64.efi.signed 0644 0 0 size=42
file /usr/lib/grub/i386-efi-signed/gcdia32.efi.signed 0644 0 0 size=43
file /usr/lib/shim/mmx64.efi.signed 0644 0 0 size=44
file /usr/lib/shim/mmia32.efi.signed 0644 0 0 size=45
file /usr/lib/grub/x86_64-efi/monolithic/gcdx64.efi 0644 0 0 size=20
file /usr/lib/grub/i386-efi/monolithic/gcdia32.efi 0644 0 0 size=21
file /boot/memtest86+ia32.bin 0644 0 0 size=30
file /boot/memtest86+ia32.efi 0644 0 0 size=31
file /boot/memtest86+x64.bin 0644 0 0 size=32
file /boot/memtest86+x64.efi 0644 0 0 size=33
";

fn files(plan: &Plan) -> BootFiles {
    boot::files(plan, BUILD_ID, &parse_listing(LOADERS).unwrap()).unwrap_or_else(|e| panic!("{e:#}"))
}

fn text(tree: &Tree, path: &str) -> String {
    let id = tree.get(path.as_bytes()).unwrap_or_else(|| panic!("{path} is missing"));
    let Kind::File(content) = &tree.inode(id).kind else { panic!("{path} is no file") };
    String::from_utf8(content.read_all().unwrap()).unwrap()
}

/// Paths, and sizes to tell which file it is; configurations are compared as text elsewhere.
fn names(tree: &Tree) -> Vec<String> {
    let files = tree.walk().filter_map(|entry| match &entry.inode.kind {
        Kind::File(content) => Some((String::from_utf8(entry.path).unwrap(), content.len())),
        _ => None,
    });
    files.map(|(path, size)| if path.ends_with(".cfg") { path } else { format!("{path} {size}") }).collect()
}

fn golden(name: &str, found: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/menus").join(name);
    if liveiso::host::environment("LIVEISO_BLESS").is_some() {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap();
    assert!(found == expected, "{} differs; it would be now:\n{found}", path.display());
}

#[test]
fn the_menus_are_what_they_were_decided_to_be() {
    let files = files(&plan());
    golden("isolinux.cfg", &text(&files.iso, "isolinux/isolinux.cfg"));
    golden("grub.cfg", &text(&files.iso, "boot/grub/grub.cfg"));
    golden("loopback.cfg", &text(&files.iso, "boot/grub/loopback.cfg"));
    golden("esp.cfg", &text(&files.esp.unwrap(), "boot/grub/grub.cfg"));
}

#[test]
fn every_loader_file_has_its_place() {
    let files = files(&plan());
    assert_eq!(
        names(&files.iso),
        [
            ".disk/info 41",
            "EFI/BOOT/BOOTIA32.EFI 21",
            "EFI/BOOT/BOOTX64.EFI 20",
            "boot/grub/grub.cfg",
            "boot/grub/loopback.cfg",
            "isolinux/chain.c32 10",
            "isolinux/isolinux.bin 38912",
            "isolinux/isolinux.cfg",
            "isolinux/ldlinux.c32 11",
            "isolinux/libcom32.c32 12",
            "isolinux/libutil.c32 13",
            "isolinux/menu.c32 14",
            "isolinux/poweroff.c32 15",
            "isolinux/reboot.c32 16",
            "liveiso/0123456789abcdef01234567.id 25",
            "liveiso/boot/memtest.bin 30",
            "liveiso/boot/memtest32.efi 31",
            "liveiso/boot/memtest64.efi 33",
        ]
    );
    assert_eq!(text(&files.iso, ".disk/info"), "rescue 1.0 i386 0123456789abcdef01234567\n");
    assert_eq!(text(&files.iso, "liveiso/0123456789abcdef01234567.id"), "0123456789abcdef01234567\n");
    assert_eq!(
        names(&files.esp.unwrap()),
        ["EFI/BOOT/BOOTIA32.EFI 21", "EFI/BOOT/BOOTX64.EFI 20", "boot/grub/grub.cfg"]
    );
    assert_eq!(files.isohybrid_mbr.unwrap().len(), 432);
    for (path, mode) in [("isolinux", 0o755), ("isolinux/isolinux.bin", 0o444)] {
        let inode = files.iso.inode(files.iso.get(path.as_bytes()).unwrap());
        assert_eq!((inode.mode, inode.mtime), (mode, 1_767_225_600), "{path}");
    }
}

#[test]
fn without_a_serial_port_nothing_speaks_of_one() {
    let mut plan = plan();
    plan.boot.serial = None;
    plan.boot.kernel_parameters = String::new();
    plan.boot.timeout = 0;
    plan.boot.title = "a^b".to_string();
    let files = files(&plan);
    let isolinux = text(&files.iso, "isolinux/isolinux.cfg");
    for text in [&isolinux, &text(&files.iso, "boot/grub/grub.cfg")] {
        assert!(!text.contains("ttyS") && !text.contains("console"), "{text}");
    }
    let entry = "\nlabel live\n  menu label ^Start ab\n  menu default\n  linux /liveiso/boot/i386/vmlinuz\n  \
                 initrd /liveiso/boot/i386/initrd.img\n\nlabel lowmem\n";
    assert!(isolinux.contains(entry) && isolinux.contains("\ntimeout 1\n"), "{isolinux}");
    // A console the loaders cannot drive is the kernel's alone.
    plan.boot.serial = Some("ttyUSB0,115200".to_string());
    let grub = text(&self::files(&plan).iso, "boot/grub/grub.cfg");
    assert!(
        grub.contains("vmlinuz console=ttyUSB0,115200 console=tty0 ") && !grub.contains("--unit"),
        "{grub}"
    );
}

#[test]
fn each_boot_mode_alone_brings_its_own_files() {
    let mut plan = plan();
    plan.boot.bootmodes = vec![BootMode::BiosSyslinux];
    assert_eq!(
        boot::loader_packages(&plan.boot.bootmodes, None, &[], "bookworm"),
        ["isolinux", "memtest86+", "syslinux-common"]
    );
    let bios = files(&plan);
    assert!(bios.esp.is_none() && bios.isohybrid_mbr.is_some());
    assert!(!names(&bios.iso).iter().any(|name| name.contains("EFI/")));
    plan.boot.bootmodes = vec![BootMode::UefiGrub];
    let packages = boot::loader_packages(&plan.boot.bootmodes, None, &[], "bookworm");
    assert_eq!(packages, ["grub-efi-amd64-bin", "grub-efi-ia32-bin", "memtest86+"]);
    let packages = boot::loader_packages(&plan.boot.bootmodes, None, &[EfiArch::X64], "trixie");
    assert_eq!(packages, ["grub-efi-ia32-unsigned", "memtest86+"]);
    let uefi = files(&plan);
    assert!(uefi.esp.is_some() && uefi.isohybrid_mbr.is_none());
    assert!(!names(&uefi.iso).iter().any(|name| name.contains("isolinux")));
}

#[test]
fn two_kernels_have_a_menu_each() {
    let plan = Plan { second_kernel: Some(Arch::Amd64), ..plan() };
    let files = files(&plan);
    golden("isolinux-choose.cfg", &text(&files.iso, "isolinux/isolinux.cfg"));
    golden("grub-choose.cfg", &text(&files.iso, "boot/grub/grub.cfg"));
    // The 32-bit kernel's menus are those of a medium without another kernel.
    golden("isolinux.cfg", &text(&files.iso, "isolinux/i386.cfg"));
    golden("grub.cfg", &text(&files.iso, "boot/grub/i386.cfg"));
    golden("isolinux-amd64.cfg", &text(&files.iso, "isolinux/amd64.cfg"));
    golden("grub-amd64.cfg", &text(&files.iso, "boot/grub/amd64.cfg"));
    golden("loopback.cfg", &text(&files.iso, "boot/grub/loopback.cfg"));
    assert!(names(&files.iso).contains(&"isolinux/ifcpu64.c32 18".to_string()));
}

/// Under Secure Boot, both UEFIs or, where Debian has no 32-bit shim, one of them.
#[test]
fn secure_boot_takes_the_signed_chain_and_nothing_beside_it() {
    let mut plan = plan();
    plan.boot.secure_boot = vec![EfiArch::X64, EfiArch::Ia32];
    let both = [
        "EFI/BOOT/BOOTIA32.EFI 41",
        "EFI/BOOT/BOOTX64.EFI 40",
        "EFI/BOOT/grubia32.efi 43",
        "EFI/BOOT/grubx64.efi 42",
        "EFI/BOOT/mmia32.efi 45",
        "EFI/BOOT/mmx64.efi 44",
    ];
    let found = files(&plan);
    let loaders = |tree: &Tree| names(tree).into_iter().filter(|n| n.starts_with("EFI")).collect::<Vec<_>>();
    assert_eq!(loaders(&found.iso), both);
    let esp = found.esp.unwrap();
    assert_eq!(names(&esp), [&both[..], &["boot/grub/grub.cfg"]].concat());
    golden("grub.cfg", &text(&found.iso, "boot/grub/grub.cfg"));
    golden("esp.cfg", &text(&esp, "boot/grub/grub.cfg"));
    plan.boot.secure_boot = vec![EfiArch::X64];
    let one = [
        "EFI/BOOT/BOOTIA32.EFI 21",
        "EFI/BOOT/BOOTX64.EFI 40",
        "EFI/BOOT/grubx64.efi 42",
        "EFI/BOOT/mmx64.efi 44",
    ];
    assert_eq!(loaders(&files(&plan).iso), one);
    let packages = boot::loader_packages(&plan.boot.bootmodes, None, &plan.boot.secure_boot, "bookworm");
    assert_eq!(packages, ["grub-efi-ia32-bin", "isolinux", "memtest86+", "syslinux-common"]);
}

#[test]
fn a_template_that_a_locked_grub_refuses_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut plan = plan_with(&dir, "grub/grub.cfg", "insmod png\n%MENU_ENTRIES%\n");
    files(&plan);
    plan.boot.secure_boot = vec![EfiArch::X64];
    let error = error_of(&plan).replace(&*dir.path().to_string_lossy(), "DIR");
    assert!(
        error.starts_with("DIR/template: line 1 of its result is `insmod png`, which GRUB refuses"),
        "{error}"
    );
}

#[test]
fn a_missing_loader_file_names_its_package() {
    for (path, package) in [
        ("usr/lib/ISOLINUX/isohdpfx.bin", "isolinux"),
        ("usr/lib/syslinux/modules/bios/menu.c32", "syslinux-common"),
        ("usr/lib/grub/i386-efi/monolithic/gcdia32.efi", "grub-efi-ia32-bin"),
        ("boot/memtest86+ia32.bin", "memtest86+"),
    ] {
        let mut loaders = parse_listing(LOADERS).unwrap();
        assert!(loaders.remove(path.as_bytes()));
        let error = boot::files(&plan(), BUILD_ID, &loaders).unwrap_err().to_string();
        let expected = format!(
            "package {package} has no file /{path}; is it of a Debian suite this program does not know?"
        );
        assert_eq!(error, expected);
    }
}

/// A plan whose profile replaces one template; the text is in a file of `dir`.
fn plan_with(dir: &TempDir, name: &str, text: &str) -> Plan {
    let path = dir.path().join("template");
    fs::write(&path, text).unwrap();
    let file = InputFile { path: Some(path), size: text.len() as u64, sha256: hex_sha256(text.as_bytes()) };
    Plan { efiboot: BTreeMap::from([(name.to_string(), file)]), ..plan() }
}

fn error_of(plan: &Plan) -> String {
    format!("{:#}", boot::files(plan, BUILD_ID, &parse_listing(LOADERS).unwrap()).unwrap_err())
}

#[test]
fn a_profile_may_replace_a_template() {
    let dir = TempDir::new().unwrap();
    let plan =
        plan_with(&dir, "grub/grub.cfg", "# %ISO_NAME% %ISO_VERSION% %ISO_LABEL%\nlinux %KERNEL% 100%\n");
    let found = text(&files(&plan).iso, "boot/grub/grub.cfg");
    assert_eq!(found, "# rescue 1.0 RESCUE_10\nlinux /liveiso/boot/i386/vmlinuz 100%\n");
    let shown = dir.path().join("template").display().to_string();
    fs::write(dir.path().join("template"), "x".repeat(67)).unwrap();
    assert_eq!(
        error_of(&plan),
        format!("{shown} has changed since the plan was made; start the build again")
    );
}

#[test]
fn mistakes_in_a_template_are_told_by_place() {
    let dir = TempDir::new().unwrap();
    let shown = dir.path().join("template").display().to_string();
    let plan = plan_with(&dir, "isolinux/isolinux.cfg", "ui menu.c32\ntimeout %TIMEOUTS%\n");
    let error = error_of(&plan);
    let expected =
        format!("{shown}:2:9: unknown placeholder `%TIMEOUTS%`; did you mean `%TIMEOUT%`? Known are ");
    assert!(error.starts_with(&expected), "{error}");
    let plan = plan_with(&dir, "grub/grub.cfg", "x\n  linux %KERNEL% root=LABEL=%ISO_LABEL%\n");
    assert_eq!(
        error_of(&plan),
        format!(
            "{shown}: line 2 of its result holds the volume id `RESCUE_10`, which a copy by Rufus would replace: \
             `linux /liveiso/boot/i386/vmlinuz root=LABEL=RESCUE_10`; search by the marker \
             /%INSTALL_DIR%/%BUILD_ID%.id, or choose another volume id"
        )
    );
    let plan = plan_with(&dir, "grub/theme.cfg", "x\n");
    assert_eq!(
        error_of(&plan),
        "efiboot/grub/theme.cfg is no template; those are grub/grub.cfg, grub/loopback.cfg, grub/esp.cfg, \
         isolinux/isolinux.cfg, grub/choose.cfg and isolinux/choose.cfg"
    );
}
