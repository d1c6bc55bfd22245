//! Profiles to plans or messages: whole texts. `profiles/<case>.toml` is a
//! profile, `profiles/<case>.txt` every message it must get. To accept new texts,
//! run the tests with LIVEISO_BLESS=1 and read the difference.

mod described;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use liveiso::diagnostic::Diagnostics;
use liveiso::plan::{AptSource, Arch, Debian, Package, Packages, Plan, RootImage};
use liveiso::resolve::{
    Embedded, EmbeddedKind, FindError, FoundPackages, NoPlan, Options, PackageRequest, UnknownPackage,
    resolve,
};

/// What the fake archive has.
const KNOWN: &[&str] = &[
    "amd64-microcode",
    "busybox-static",
    "e2fsprogs",
    "gdisk",
    "grub-efi-amd64-bin",
    "grub-efi-amd64-unsigned",
    "grub-efi-ia32-bin",
    "grub-efi-ia32-unsigned",
    "grub-efi-ia32-signed",
    "intel-microcode",
    "isolinux",
    "linux-image-686",
    "linux-image-amd64",
    "memtest86+",
    "nano",
    "shim-helpers-i386-signed",
    "shim-signed",
    "syslinux-common",
];

/// A small overlay built into the program.
const AIROOTFS: &[Embedded] = &[
    Embedded {
        path: "etc/inittab",
        kind: EmbeddedKind::File { executable: false, bytes: b"::sysinit:/etc/rc\n" },
    },
    Embedded { path: "etc/rc", kind: EmbeddedKind::File { executable: true, bytes: b"#!/bin/sh\n" } },
    Embedded { path: "sbin/init", kind: EmbeddedKind::Symlink("../bin/busybox") },
];

fn options() -> Options {
    Options { timestamp: Some(1_790_000_000), airootfs: AIROOTFS }
}

fn package(name: &str) -> Package {
    Package {
        name: name.to_string(),
        version: "1.0-1".to_string(),
        arch: "i386".to_string(),
        source: name.to_string(),
        sha256: "0".repeat(64),
        size: 1,
        filename: format!("pool/main/{name}.deb"),
        suite: "bookworm".to_string(),
    }
}

/// What it has for amd64, of what is asked of the other architecture.
const KNOWN_AMD64: &[&str] = &[
    "busybox-static",
    "grub-efi-amd64-signed",
    "linux-image-amd64",
    "nano",
    "shim-helpers-amd64-signed",
    "shim-signed",
];

/// Archives of [`KNOWN`] packages without dependencies.
fn find(request: &PackageRequest) -> Result<FoundPackages, FindError> {
    let own = find_in(request, KNOWN);
    let Some(foreign) = &request.foreign else { return own };
    match (own, find_in(&foreign.alone(), KNOWN_AMD64)) {
        (Ok(mut own), Ok(mut other)) => {
            let packages = other.packages.kernel.iter_mut().chain(&mut other.packages.loaders);
            packages.for_each(|package| package.arch = "amd64".to_string());
            own.packages.kernel.extend(other.packages.kernel);
            own.packages.loaders.extend(other.packages.loaders);
            own.packages.second_root = other.packages.root;
            Ok(own)
        }
        (Err(FindError::Unknown(own)), Err(FindError::Unknown(other))) => {
            Err(FindError::Unknown([own, other].concat()))
        }
        (own, other) => own.and(other),
    }
}

/// The 64-bit kernel is no package of i386.
fn is_elsewhere(arch: Arch, name: &str) -> bool {
    arch == Arch::I386 && name == "linux-image-amd64"
}

fn find_in(request: &PackageRequest, known: &[&str]) -> Result<FoundPackages, FindError> {
    let lists = [&request.root, &request.kernel, &request.loaders, &request.initramfs];
    let unknown: Vec<UnknownPackage> = lists
        .into_iter()
        .flatten()
        .filter(|name| !known.contains(&name.as_str()) || is_elsewhere(request.arch, name))
        .map(|name| {
            let close = liveiso::diagnostic::closest(name, known.iter().copied());
            UnknownPackage {
                name: name.clone(),
                arch: request.arch,
                suggestions: close.map(str::to_string).into_iter().collect(),
            }
        })
        .collect();
    if !unknown.is_empty() {
        return Err(FindError::Unknown(unknown));
    }
    let found = |names: &Vec<String>| names.iter().map(|name| package(name)).collect();
    let source = AptSource {
        uri: "http://mirror/debian".to_string(),
        suite: request.archive.suite.clone(),
        components: request.archive.components.clone(),
        signed_by: PathBuf::from("/keyring.gpg"),
    };
    Ok(FoundPackages {
        debian: Debian { suite: request.archive.suite.clone(), sources: vec![source], left_out: Vec::new() },
        packages: Packages {
            root: found(&request.root),
            kernel: found(&request.kernel),
            loaders: found(&request.loaders),
            initramfs: found(&request.initramfs),
            second_root: Vec::new(),
        },
        released: None,
    })
}

/// A profile `p` in a directory of its own.
struct Case {
    dir: tempfile::TempDir,
}

impl Case {
    fn new(profile: &str) -> Case {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("p")).unwrap();
        let case = Case { dir };
        case.write("profile.toml", profile);
        case
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("p").join(name)
    }

    /// Writes a file of the profile, with its directories.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// What a user in the directory above sees, and the plan.
    fn resolve(&self) -> (String, Result<Plan, NoPlan>) {
        let mut diagnostics = Diagnostics::default();
        let result = resolve(&self.path(""), &options(), find, &mut diagnostics);
        assert_eq!(matches!(result, Err(NoPlan::Invalid)), diagnostics.has_errors());
        (diagnostics.render(false, self.dir.path()), result)
    }

    fn messages(&self) -> String {
        self.resolve().0
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/suite/profiles").join(name)
}

/// Compares with a file, or writes it when asked to.
fn assert_golden(name: &str, text: &str) {
    if liveiso::host::environment("LIVEISO_BLESS").is_some() {
        fs::write(golden(name), text).unwrap();
    }
    let expected = fs::read_to_string(golden(name)).unwrap_or_default();
    assert!(text == expected, "{name} should be\n{expected}\nbut is\n{text}");
}

#[test]
fn every_mistake_gets_its_message() {
    let mut cases: Vec<String> = fs::read_dir(golden(""))
        .unwrap()
        .filter_map(|entry| {
            entry.unwrap().file_name().into_string().unwrap().strip_suffix(".toml").map(str::to_string)
        })
        .filter(|name| name != "plan")
        .collect();
    cases.sort();
    assert!(cases.len() >= 15, "{cases:?}");
    for name in cases {
        let case = Case::new(&fs::read_to_string(golden(&format!("{name}.toml"))).unwrap());
        assert_golden(&format!("{name}.txt"), &case.messages());
    }
}

#[test]
fn a_profile_cut_anywhere_is_reported_without_panic() {
    for name in ["keys", "types", "packages", "permissions", "root", "plan"] {
        let text = fs::read_to_string(golden(&format!("{name}.toml"))).unwrap();
        for cut in (0..text.len()).filter(|&cut| text.is_char_boundary(cut)) {
            let mut diagnostics = Diagnostics::default();
            let file = diagnostics.add_file(Path::new("p"), text[..cut].to_string());
            let profile = liveiso::profile::parse(&text[..cut], file, &mut diagnostics);
            assert_eq!(diagnostics.is_empty(), diagnostics.render(false, Path::new("/")).is_empty());
            assert!(profile.is_some() || diagnostics.has_errors(), "{name} cut at {cut}");
        }
    }
}

#[test]
fn a_plan_holds_everything_that_is_decided() {
    let case = Case::new(&fs::read_to_string(golden("plan.toml")).unwrap());
    case.write("packages", "nano # an editor\n\n# more\ne2fsprogs\n");
    case.write("packages.i386", "gdisk");
    case.write("packages.amd64", "no-such-package");
    case.write("airootfs/etc/rc", "#!/bin/sh\necho\n");
    case.write("airootfs/root/.profile", "");
    fs::create_dir_all(case.path("airootfs/mnt")).unwrap();
    symlink("/proc/mounts", case.path("airootfs/etc/mtab")).unwrap();
    case.write("efiboot/grub/grub.cfg", "menuentry %TITLE%\n");
    let (messages, plan) = case.resolve();
    assert_golden("plan.warnings", &messages);
    let mut plan = plan.unwrap();
    // The defaults are the initramfs' own concern; what follows them is the profile's.
    let defaults = liveiso::initramfs::default_modules();
    assert!(plan.initramfs.modules.starts_with(&defaults.required));
    plan.initramfs.modules.drain(..defaults.required.len());
    plan.initramfs.optional_modules.retain(|name| !defaults.optional.contains(name));
    let json = serde_json::to_string_pretty(&plan.identity()).unwrap() + "\n";
    assert_golden("plan.json", &json);
    assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan.identity());
}

#[test]
fn names_stand_for_formats_and_settings() {
    use liveiso::plan::Compression::{Gzip, Lz4, Lzo, Xz, Zstd};
    use liveiso::plan::RootFormat::{Erofs, Squashfs};
    for (lines, format, compression, level, block_size) in [
        ("", Squashfs, Gzip, 6, 128 << 10),
        ("compression = \"lzo\"", Squashfs, Lzo, 1, 128 << 10),
        ("compression = \"small-ram\"", Squashfs, Gzip, 9, 32 << 10),
        ("compression = \"fast\"", Squashfs, Zstd, 3, 128 << 10),
        ("compression = \"small\"\nlevel = 9", Squashfs, Xz, 9, 256 << 10),
        ("compression = \"small\"\nblock-size = \"1M\"", Squashfs, Xz, 6, 1 << 20),
        ("format = \"erofs\"", Erofs, Lz4, 12, 64 << 10),
        ("format = \"erofs\"\ncompression = \"lz4\"\nlevel = 1\nblock-size = \"4K\"", Erofs, Lz4, 1, 4096),
    ] {
        let case = Case::new(&format!("iso-name = \"x\"\npackages = [\"nano\"]\n[root]\n{lines}\n"));
        let (messages, plan) = case.resolve();
        let plan = plan.unwrap_or_else(|_| panic!("{lines}: {messages}"));
        assert_eq!(plan.root.image, RootImage { format, compression, level, block_size }, "{lines}");
        let has_module = plan.initramfs.modules.iter().any(|module| module == "erofs");
        assert_eq!(has_module, format == Erofs, "{lines}");
    }
}

#[test]
fn nothing_of_the_host_gets_into_a_plan() {
    let plan = |mode: u32, time: u64, names: [&str; 3]| {
        let case = Case::new("iso-name = \"x\"\n");
        for name in names {
            let path = case.write(&format!("airootfs/{name}"), name);
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_times(
                fs::FileTimes::new()
                    .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(time)),
            )
            .unwrap();
            let executable = if name == "b/run" { 0o100 } else { 0 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode | executable)).unwrap();
        }
        fs::set_permissions(case.path("airootfs"), fs::Permissions::from_mode(mode | 0o700)).unwrap();
        serde_json::to_string_pretty(&case.resolve().1.unwrap().identity()).unwrap()
    };
    let one = plan(0o600, 1, ["a", "b/run", "c"]);
    let other = plan(0o666, 1_700_000_000, ["c", "b/run", "a"]);
    assert_eq!(one, other);
    assert!(one.contains("\"executable\": true"), "{one}");
}

#[test]
fn the_timestamp_is_the_callers_or_the_archives_or_the_default() {
    let case = Case::new("iso-name = \"x\"\n");
    let resolved = |timestamp, released| {
        let options = Options { timestamp, ..options() };
        let found = |request: &PackageRequest| find(request).map(|found| FoundPackages { released, ..found });
        let plan = resolve(&case.path(""), &options, found, &mut Diagnostics::default()).unwrap();
        (plan.timestamp, plan.iso_version)
    };
    assert_eq!(resolved(Some(1_700_000_000), Some(1_600_000_000)), (1_700_000_000, "2023.11.14".to_string()));
    assert_eq!(resolved(None, Some(1_600_000_000)), (1_600_000_000, "2020.09.13".to_string()));
    assert_eq!(resolved(None, None), (1_686_355_200, "2023.06.10".to_string()));
}

#[test]
fn a_failing_archive_does_not_hide_the_profiles_mistakes() {
    let case = Case::new("iso-name = \"x\"\niso-label = \"lower\"\n");
    let mut diagnostics = Diagnostics::default();
    let down = |_: &PackageRequest| Err(FindError::Failed(anyhow!("no answer")));
    let result = resolve(&case.path(""), &options(), down, &mut diagnostics);
    assert!(matches!(result, Err(NoPlan::Failed(error)) if error.to_string() == "no answer"));
    assert!(diagnostics.has_errors());
}

#[test]
fn a_request_that_makes_no_sense_is_not_asked() {
    for profile in [
        "arch = \"i368\"",
        "[debian]\nsuite = \"x\"",
        "[debian]\nmirror = \"x\"",
        "[debian]\ncomponents = []",
    ] {
        let case = Case::new(&format!("iso-name = \"x\"\n{profile}\n"));
        let asked = |_: &PackageRequest| panic!("asked for {profile}");
        let result = resolve(&case.path(""), &options(), asked, &mut Diagnostics::default());
        assert!(matches!(result, Err(NoPlan::Invalid)));
    }
}

#[test]
fn what_an_overlay_cannot_hold_is_named() {
    let case = Case::new("iso-name = \"x\"\n");
    case.write("airootfs/etc/fine", "");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        case.path("airootfs/etc/pipe"),
        rustix::fs::FileType::Fifo,
        0o600.into(),
        0,
    )
    .unwrap();
    let _listener = UnixListener::bind(case.path("airootfs/etc/socket")).unwrap();
    symlink("../../../outside", case.path("airootfs/etc/climbing")).unwrap();
    symlink("/../outside", case.path("airootfs/etc/absolute")).unwrap();
    symlink("../fine", case.path("airootfs/etc/inside")).unwrap();
    case.write("airootfs/etc/new\nline", "");
    let bytes = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"airootfs/etc/b\xffd");
    fs::write(case.dir.path().join("p").join(bytes), "").unwrap();
    assert_golden("overlay.txt", &case.messages());
}

#[test]
fn directories_outside_the_profile_are_not_read() {
    let case = Case::new("iso-name = \"x\"\n");
    symlink("/etc", case.path("airootfs")).unwrap();
    case.write("efiboot", "");
    assert_eq!(
        case.messages(),
        "\
error: `airootfs` is a symbolic link; files outside the profile are not read
--> p/airootfs
 = help: move the directory into the profile

error: `efiboot` is a file, but must be a directory
--> p/efiboot
"
    );
}

#[test]
fn templates_are_checked() {
    let case = Case::new("iso-name = \"x\"\n");
    case.write("efiboot/grub/grub.cfg", "set timeout=%TIMEOUT%\n  üü %ISOLABEL% %FOO_BAR%\n");
    case.write("efiboot/grub/grubb.cfg", "");
    case.write("efiboot/splash.png", "");
    symlink("../grub/grub.cfg", case.write("efiboot/isolinux/x", "").with_file_name("isolinux.cfg")).unwrap();
    assert_golden("templates.txt", &case.messages());
}

#[test]
fn misspelt_directories_and_bad_package_files_are_noticed() {
    let case = Case::new("iso-name = \"x\"\n");
    case.write("airotfs/etc/x", "");
    case.write("package", "gdisk\n");
    case.write("packages", "gdisc # partitions\nnano nano\n");
    case.write("packages.i386", b"e2fsprogs\n\xff\n");
    case.write("README", "");
    assert_golden("files.txt", &case.messages());
}

#[test]
fn a_profile_that_cannot_be_read_says_why() {
    let case = Case::new("iso-name = \"x\"\n");
    let messages = |dir: PathBuf| {
        let mut diagnostics = Diagnostics::default();
        assert!(matches!(resolve(&dir, &options(), find, &mut diagnostics), Err(NoPlan::Invalid)));
        diagnostics.render(false, case.dir.path())
    };
    let missing = messages(case.path("../none"));
    assert!(missing.starts_with("error: there is no such profile\n--> "), "{missing}");
    let file = messages(case.path("profile.toml"));
    assert!(
        file.starts_with("error: a profile is a directory, but this is a file\n--> p/profile.toml"),
        "{file}"
    );
    fs::create_dir(case.path("sub")).unwrap();
    assert_eq!(
        messages(case.path("sub")),
        "error: the profile has no file `profile.toml`\n--> p/sub/profile.toml\n \
         = help: the smallest one is the line `iso-name = \"name\"`\n"
    );
    case.write("profile.toml", b"iso-name = \"x\"\niso-label = \"\xff\"\n");
    assert_eq!(
        messages(case.path("")),
        "error: `profile.toml` is not UTF-8 in line 2\n--> p/profile.toml\n \
         = help: save the file with the encoding UTF-8\n"
    );
}

#[test]
fn the_profiles_in_the_repository_are_sound() {
    for name in ["nbd-luks", "rescue", "tiny"] {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles").join(name);
        let mut diagnostics = Diagnostics::default();
        liveiso::resolve::check(&dir, &Options::new(None), &mut diagnostics);
        assert_eq!(diagnostics.render(false, Path::new("/")), "");
    }
}
