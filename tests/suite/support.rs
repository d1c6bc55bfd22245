//! What several rooms share: the program under test, and the product's images, built once.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use liveiso::format::iso9660;
use liveiso::plan::IsoLayout;

/// Variables by which a person's session could change what a test sees.
const SESSION: &[&str] = &["SOURCE_DATE_EPOCH", "XDG_CACHE_HOME", "TZ", "LC_ALL", "LANG", "LANGUAGE"];

/// The program under test. The shared cache below `HOME` serves it unless the
/// test names another one.
#[allow(clippy::disallowed_methods, reason = "the program under test is started directly")]
pub fn liveiso(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_liveiso"));
    for name in SESSION {
        command.env_remove(name);
    }
    command.args(words).stdin(Stdio::null());
    command
}

/// Exit code, standard output and standard error of a finished program.
pub type Ran = (Option<i32>, String, String);

/// What a program did.
pub fn ran(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// One of the product's profiles.
pub fn profile(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("profiles").join(name)
}

/// Makes `dir` a profile with the root of profiles/tiny, whose `profile.toml` becomes what `text` makes of it.
pub fn tiny_variant(dir: &Path, text: impl FnOnce(&str) -> String) {
    let tiny = profile("tiny").join(".");
    oracle("cp", &["-r", &tiny.to_string_lossy(), "."], dir);
    let path = dir.join("profile.toml");
    let changed = text(&fs::read_to_string(&path).unwrap());
    fs::write(&path, changed).unwrap();
}

/// The same with these lines instead of its `[initramfs]`, which is the last table.
pub fn tiny_with(dir: &Path, lines: &str) {
    tiny_variant(dir, |text| format!("{}{lines}", text.split_once("# The default set").unwrap().0));
}

/// The finished ISO of profiles/tiny.
pub fn tiny() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| image("tiny"))
}

/// The finished ISO of profiles/rescue.
pub fn rescue() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| image("rescue"))
}

fn image(name: &str) -> PathBuf {
    built(&profile(name), "images").0
}

/// The finished ISO of a profile in a directory of this name below the tests'
/// own, and what the build said on standard error.
pub fn built(profile: &Path, out: &str) -> (PathBuf, String) {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(out);
    let mut command = liveiso(["build", "-o"]);
    let (code, stdout, stderr) = ran(command.arg(&out).arg(profile).output().unwrap());
    assert_eq!(code, Some(0), "building {}:\n{stderr}", profile.display());
    (PathBuf::from(stdout.lines().next().unwrap()), stderr)
}

/// Runs an oracle and returns its standard output; a missing one fails the test.
#[allow(clippy::disallowed_methods, reason = "an independent tool, not a part of the product")]
pub fn oracle(program: &str, args: &[&str], dir: &Path) -> String {
    let output = Command::new(program)
        .args(args)
        .current_dir(dir)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC0")
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// Whether tests may become other users and make devices; CI must be able to.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || liveiso::host::environment("CI").is_none(), "CI must run these tests as root");
    root
}

/// What xorriso takes for an ISOLINUX that isohybrid can start, and lint for one too.
pub fn isolinux() -> Vec<u8> {
    let mut image = vec![0x90; 38_912];
    image[64..68].copy_from_slice(&[0xfb, 0xc0, 0x78, 0x70]);
    image[1000..1013].copy_from_slice(b"ISOLINUX 6.04");
    image
}

/// A hybrid medium of 2026-01-01 with [`isolinux`] and the ESP `efiboot.img` of a directory.
pub fn iso_options(dir: &Path) -> iso9660::Options {
    iso9660::Options {
        volume_id: "RESCUE".to_string(),
        publisher: "liveiso".to_string(),
        application: "rescue 1.0".to_string(),
        timestamp: 1_767_225_600,
        volume_date: "2026010103040506".to_string(),
        disk_guid: "01234567-89ab-4def-8123-456789abcdef".to_string(),
        layout: IsoLayout::Hybrid,
        bios: Some(iso9660::Bios { image: "isolinux/isolinux.bin".to_string(), mbr: vec![0xeb; 432] }),
        efi_image: Some(dir.join("efiboot.img")),
    }
}
