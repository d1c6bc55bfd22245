//! Secure Boot and media with two kernels: built from Debian's packages, read
//! with this program's own checks, booted.
//!
//! The secure machine enforces Microsoft's keys (ovmf's `OVMF_VARS_4M.ms.fd`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use liveiso::inspect::signers;
use liveiso::qemu::report::Shell;
use liveiso::qemu::{Firmware, Guest, Machine, Medium};

use liveiso::tree::Kind;

use crate::boot::{boots, names};
use crate::kmod::packages;
use crate::support::{built, liveiso, oracle, profile, ran, tiny_with};

/// The finished ISO of profiles/secure.
fn secure() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| built(&profile("secure"), "images").0)
}

/// profiles/tiny with more lines in its profile.
pub fn variant(dir: &Path, lines: &str) -> PathBuf {
    // The 64-bit kernel has no driver of some controllers that no 64-bit PC has.
    tiny_with(dir, lines);
    dir.to_path_buf()
}

/// The finished ISO of profiles/tiny with a 64-bit kernel of Debian's next release beside its own, and signed
/// loaders: those for 64-bit UEFI are the next release's too.
fn both() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let profile =
            variant(dir.path(), "[kernel.amd64]\nsuite = \"trixie\"\n\n[boot]\nsecure-boot = true\n");
        built(&profile, "both").0
    })
}

/// Boots to a root shell and asks it these lines.
pub fn answers<const N: usize>(machine: &Machine, image: &Path, lines: [&str; N]) -> [String; N] {
    let deadline = Instant::now() + Duration::from_secs(240);
    let mut guest = Guest::start(machine, Some(image), None, deadline).unwrap();
    let shell = Shell::log_in(&mut guest.serial, deadline, |_| false).unwrap();
    let Ok(mut shell) = shell else { panic!("no shell on {}:\n{}", machine.name(), guest.serial.text()) };
    shell.ask("dmesg -n 1", deadline).unwrap();
    lines.map(|line| shell.ask(line, deadline).unwrap().1.trim().to_string())
}

/// The last byte of the UEFI variable SecureBoot.
const SECURE_BOOT: &str = "mount -t efivarfs e /sys/firmware/efi/efivars 2>/dev/null; \
    tail -c 1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c | od -An -tu1";
const LOCKDOWN: &str =
    "mount -t securityfs s /sys/kernel/security 2>/dev/null; cat /sys/kernel/security/lockdown";
/// The kernel's series.
const KERNEL: &str = "uname -r | cut -d. -f1,2";
/// Whether the shell's own root is the live one.
pub const ROOT: &str = "while read -r d p t o; do [ $p = / ] && f=$t; done </proc/mounts; echo $f";

/// The disk with `/.disk/info` is found before the stick.
#[test]
fn a_signed_medium_boots_where_secure_boot_is_enforced() {
    let dir = tempfile::tempdir().unwrap();
    let decoy = decoy(dir.path());
    let mut machine = Machine::new(Firmware::SecureBoot, Medium::Usb);
    let drive = format!("if=none,id=decoy,format=raw,file={}", decoy.display());
    machine.extra = ["-drive", &drive, "-device", "ide-hd,bus=ide.0,drive=decoy"].map(Into::into).into();
    let found = answers(&machine, secure(), [ROOT, "uname -m", SECURE_BOOT, LOCKDOWN]);
    assert_eq!(found, ["overlay", "x86_64", "1", "none [integrity] confidentiality"]);
}

/// A disk that a GRUB looking for `/.disk/info` would take for its medium.
fn decoy(dir: &Path) -> PathBuf {
    let tree = dir.join("decoy");
    fs::create_dir_all(tree.join(".disk")).unwrap();
    fs::create_dir_all(tree.join("boot/grub")).unwrap();
    fs::write(tree.join(".disk/info"), "another system\n").unwrap();
    fs::write(tree.join("boot/grub/grub.cfg"), "echo DECOY\nsleep 1000\n").unwrap();
    let image = dir.join("decoy.img");
    let (tree, image_name) = (tree.to_string_lossy().into_owned(), image.to_string_lossy().into_owned());
    oracle("mke2fs", &["-q", "-t", "ext2", "-d", &tree, &image_name, "4M"], dir);
    image
}

#[test]
fn two_kernels_on_one_medium_an_old_pc_gets_its_own() {
    let machine = Machine::new(Firmware::Bios, Medium::Cd);
    assert_eq!(answers(&machine, both(), [ROOT, "uname -m", KERNEL]), ["overlay", "i686", "6.1"]);
}

#[test]
fn two_kernels_on_one_medium_a_64_bit_pc_gets_the_other() {
    let cpu = "qemu64".to_string();
    let machine = Machine { cpu, memory_mib: 256, ..Machine::new(Firmware::Bios, Medium::Usb) };
    let loaded = "lsmod | grep -c overlay";
    let found = answers(&machine, both(), [ROOT, "uname -m", KERNEL, loaded]);
    assert_eq!(found, ["overlay", "x86_64", "6.12", "1"]);
}

#[test]
fn two_kernels_on_one_medium_secure_boot_gets_the_signed_one() {
    let machine = Machine::new(Firmware::SecureBoot, Medium::Cd);
    let found = answers(&machine, both(), [ROOT, "uname -m", KERNEL, SECURE_BOOT]);
    assert_eq!(found, ["overlay", "x86_64", "6.12", "1"]);
}

/// Another stick's shim and GRUB, which are Debian's too, start the image from a file.
#[test]
fn a_signed_image_boots_from_a_file_where_secure_boot_is_enforced() {
    let cells = boots(secure(), &["--firmware", "secure-boot", "--medium", "loopback"]);
    assert_eq!(names(&cells), ["secure-boot-loopback"]);
    assert_eq!(cells[0]["report"]["secure-boot"], true, "{}", cells[0]);
}

/// Firmware loads shim by TFTP, shim GRUB, GRUB the kernel; there is no drive.
#[test]
fn a_signed_profile_is_exported_with_a_chain_that_boots() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("served");
    let (code, stdout, stderr) =
        ran(liveiso(["export", "netboot"]).arg(profile("secure")).arg(&to).output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    let written: Vec<&str> = stdout.lines().filter_map(|line| line.rsplit('/').next()).collect();
    let signed = |name: &str| {
        assert!(written.contains(&name), "{name}: {stdout}");
        let signers = signers(&fs::read(to.join(name)).unwrap()).unwrap();
        signers.into_iter().map(|signer| signer.issuer).collect::<Vec<_>>()
    };
    for width in ["x64", "ia32"] {
        for (name, issuer) in [("shim", "Microsoft"), ("grub", "Debian"), ("mm", "Debian")] {
            let issuers = signed(&format!("{name}{width}.efi"));
            assert!(issuers.iter().any(|found| found.contains(issuer)), "{name}{width}: {issuers:?}");
        }
    }
    oracle("sha256sum", &["--quiet", "--strict", "-c", "sha256sums"], &to);
    let machine = Machine { memory_mib: 640, ..Machine::new(Firmware::SecureBoot, Medium::Netboot) };
    assert_eq!(answers(&machine, &to, [ROOT, "uname -m", SECURE_BOOT]), ["overlay", "x86_64", "1"]);
}

/// Of an ISO alone the GRUB for networks is missing; which one it is, is said.
#[test]
fn a_signed_image_is_exported_with_the_name_of_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("served");
    let (code, stdout, stderr) = ran(liveiso(["export", "netboot"]).arg(secure()).arg(&to).output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("/shimx64.efi\n") && !stdout.contains("/grubx64.efi\n"), "{stdout}");
    let note = "for Secure Boot put /usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed of Debian's package \
                grub-efi-amd64-signed beside shimx64.efi as grubx64.efi, or export the profile";
    assert!(stderr.contains(note), "{stderr}");
}

/// The 64-bit kernel is larger than a BIOS with USB 1.1 likes, which is a warning.
#[test]
fn media_with_signed_loaders_pass_the_lint() {
    for image in [secure(), both()] {
        let (_, stdout, stderr) = ran(liveiso(["inspect", "--lint", "--json"]).arg(image).output().unwrap());
        let findings: serde_json::Value = serde_json::from_str(&stdout).expect(&stderr);
        let outcomes = findings.as_array().unwrap().iter();
        let outcomes = outcomes.map(|f| (f["check"].as_str().unwrap(), f["outcome"].as_str().unwrap()));
        let passed: Vec<&str> =
            outcomes.clone().filter(|(_, o)| *o == "pass").map(|(check, _)| check).collect();
        for check in
            ["mok-manager", "shim-neighbours", "signed-kernels", "sbat", "loaders-in-iso", "loopback"]
        {
            assert!(passed.contains(&check), "{check}: {findings}");
        }
        let failed: Vec<_> = outcomes.filter(|(_, outcome)| *outcome == "fail").collect();
        assert_eq!(failed, [], "{findings}");
    }
}

#[test]
fn a_signature_counts_only_over_the_kernels_own_bytes() {
    // Where the optional header has its certificate table: of PE32+ and of PE32.
    for (arch, flavour, table) in [("amd64", "amd64", 144), ("i386", "686", 128)] {
        let (tree, release) = packages::kernel(arch, flavour);
        let id = tree.get(format!("boot/vmlinuz-{release}").as_bytes()).unwrap();
        let Kind::File(content) = &tree.inode(id).kind else { panic!("no file") };
        let kernel = content.read_all().unwrap();
        let subjects = |bytes: &[u8]| {
            let signers = signers(bytes)?;
            Ok::<_, String>(signers.into_iter().map(|signer| signer.issuer).collect::<Vec<_>>())
        };
        assert_eq!(subjects(&kernel), Ok(vec!["Debian Secure Boot CA".to_string()]), "{release}");
        let mut changed = kernel.clone();
        changed[kernel.len() / 2] ^= 1;
        assert_eq!(subjects(&changed), Err("was changed after it was signed".to_string()), "{release}");
        let mut unsigned = kernel;
        let header = u32::from_le_bytes(unsigned[0x3c..0x40].try_into().unwrap()) as usize + 24;
        unsigned[header + table..][..8].fill(0);
        assert_eq!(subjects(&unsigned), Err("is not signed".to_string()), "{release}");
    }
    assert_eq!(signers(b"MZ"), Err("is no EFI program".to_string()));
}
