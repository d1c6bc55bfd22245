//! Secure Boot with Debian's own shim and GRUB: who signed, what is missing.

use std::fs;
use std::sync::OnceLock;

use liveiso::inspect::{Place, inspect};
use liveiso::tree::{Kind, Tree};
use tempfile::TempDir;

use super::findings;
use super::medium::Medium;
use crate::kmod::packages;

/// Debian's signed programs.
fn debian() -> &'static [Tree] {
    static PACKAGES: OnceLock<Vec<Tree>> = OnceLock::new();
    PACKAGES.get_or_init(|| {
        let names = ["shim-signed", "shim-helpers-amd64-signed", "grub-efi-amd64-signed"];
        names.map(|name| packages::package("amd64", name)).into()
    })
}

fn program(path: &str) -> Vec<u8> {
    let path = format!("usr/lib/{path}");
    let find = |tree: &Tree| match &tree.inode(tree.get(path.as_bytes())?).kind {
        Kind::File(content) => Some(content.read_all().unwrap()),
        _ => None,
    };
    debian().iter().find_map(find).unwrap_or_else(|| panic!("no package has {path}"))
}

/// A medium whose x64 loaders are Debian's.
fn medium() -> Medium {
    let mut medium = Medium::good();
    for (name, path) in [
        ("BOOTX64.EFI", "shim/shimx64.efi.signed"),
        ("grubx64.efi", "grub/x86_64-efi-signed/gcdx64.efi.signed"),
        ("mmx64.efi", "shim/mmx64.efi.signed"),
    ] {
        put(&mut medium, name, program(path));
    }
    medium
}

fn put(medium: &mut Medium, name: &str, bytes: Vec<u8>) {
    medium.esp.insert(format!("EFI/BOOT/{name}"), bytes.clone());
    medium.files.insert(format!("EFI/BOOT/{name}"), bytes);
}

/// The generation in a program's SBAT section, set to another.
fn with_generation(mut bytes: Vec<u8>, component: &str, generation: u8) -> Vec<u8> {
    // Not the revocations that shim carries: those lines end behind the number.
    let line = format!("\n{component},");
    let found = |window: &[u8]| window.starts_with(line.as_bytes()) && window.ends_with(b",");
    let at = bytes.windows(line.len() + 2).position(found).unwrap();
    bytes[at + line.len()] = generation;
    bytes
}

#[test]
fn signers_and_generations_are_named() {
    let dir = TempDir::new().unwrap();
    let inspection = inspect(&medium().write(dir.path(), "x")).unwrap();
    let shown = |name: &str| {
        let path = format!("/EFI/BOOT/{name}");
        let loader =
            inspection.loaders.iter().find(|l| l.place == Place::Esp && l.file.path == path).unwrap();
        let signers: Vec<String> =
            loader.program.signers.iter().map(|s| format!("{} by {}", s.subject, s.issuer)).collect();
        let sbat = loader.program.sbat.iter().map(|line| line.component.clone()).collect::<Vec<_>>();
        (loader.program.machine.clone(), signers, sbat, loader.program.damage.clone())
    };
    let strings = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    let microsoft = strings(&[
        "Microsoft Windows UEFI Driver Publisher by Microsoft Corporation UEFI CA 2011",
        "Microsoft UEFI CA 2023 signer by Microsoft UEFI CA 2023",
    ]);
    let (machine, signers, sbat, damage) = shown("BOOTX64.EFI");
    assert_eq!((machine.as_str(), damage), ("x64", None));
    assert!(!signers.is_empty() && signers.iter().all(|signer| microsoft.contains(signer)), "{signers:?}");
    assert_eq!(sbat, strings(&["shim", "shim.debian"]));
    let grub = strings(&["Debian Secure Boot Signer 2022 - grub2 by Debian Secure Boot CA"]);
    let components = strings(&["grub", "grub.debian", "grub.debian12"]);
    assert_eq!(shown("grubx64.efi"), ("x64".to_string(), grub, components, None));
}

#[test]
fn gaps_in_the_chain_are_caught() {
    type Change = fn(&mut Medium);
    let remove = |medium: &mut Medium, name: &str| {
        medium.esp.remove(&format!("EFI/BOOT/{name}"));
        medium.files.remove(&format!("EFI/BOOT/{name}"));
    };
    // The medium's kernel is none that anybody signed.
    let unsigned = "signed-kernels fail";
    let cases: [(&str, Change, &[&str]); 7] = [
        ("an unsigned kernel", |_| {}, &[]),
        (
            "MokManager missing in the ISO",
            |m| drop(m.files.remove("EFI/BOOT/mmx64.efi")),
            &["loaders-in-iso fail", "mok-manager fail"],
        ),
        ("an unsigned GRUB", |m| put(m, "grubx64.efi", b"MZ".to_vec()), &["shim-neighbours fail"]),
        (
            "the fallback program",
            |m| put(m, "fbx64.efi", program("shim/fbx64.efi.signed")),
            &["shim-neighbours fail"],
        ),
        (
            "a revoked shim",
            |m| put(m, "BOOTX64.EFI", with_generation(program("shim/shimx64.efi.signed"), "shim", b'3')),
            &["sbat fail"],
        ),
        ("no /.disk/info", |m| drop(m.files.remove(".disk/info")), &["disk-info fail"]),
        (
            "another GRUB in the ESP",
            |m| {
                let other =
                    with_generation(program("grub/x86_64-efi-signed/gcdx64.efi.signed"), "grub", b'6');
                m.esp.insert("EFI/BOOT/grubx64.efi".to_string(), other);
            },
            &["loaders-in-iso warn"],
        ),
    ];
    let dir = TempDir::new().unwrap();
    for (what, change, expected) in cases {
        let mut medium = medium();
        change(&mut medium);
        let mut expected: Vec<&str> = expected.iter().copied().chain([unsigned]).collect();
        let mut found = findings(&medium.write(dir.path(), "x"));
        expected.sort_unstable();
        found.sort();
        assert_eq!(found, expected, "{what}");
    }
    let mut medium = medium();
    remove(&mut medium, "mmx64.efi");
    let mut found = findings(&medium.write(dir.path(), "x"));
    found.sort();
    assert_eq!(found, ["mok-manager fail", unsigned]);
}

/// A signature's bytes come from whoever wrote the file.
#[test]
fn damaged_programs_never_panic() {
    let good = program("shim/shimx64.efi.signed");
    let dir = TempDir::new().unwrap();
    let iso = medium().write(dir.path(), "x");
    let whole = fs::read(&iso).unwrap();
    let start = whole.windows(4096).position(|window| window == &good[..4096]).unwrap();
    let table = good.len() - 19_000;
    let places = (0..1024).step_by(5).chain((table..good.len()).step_by(211));
    for at in places {
        super::medium::patch(&iso, (start + at) as u64, &[good[at] ^ 0xff]);
        inspect(&iso).unwrap();
        super::medium::patch(&iso, (start + at) as u64, &[good[at]]);
    }
}
