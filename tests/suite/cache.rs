//! The cache as users meet it: which change redoes which stage, and `liveiso cache`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use liveiso::cache::{Cache, hex_sha256};
use liveiso::format::civil_time;
use serde_json::{Value, json};

/// Exit code, standard output and standard error.
#[allow(clippy::disallowed_methods, reason = "the program under test is started directly")]
fn liveiso(words: &[&OsStr]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_liveiso"))
        .args(words)
        .env_remove("SOURCE_DATE_EPOCH")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A profile no earlier run has built, in the cache that all tests share.
struct Profile {
    dir: tempfile::TempDir,
    mark: String,
}

impl Profile {
    fn new() -> Profile {
        let dir = tempfile::Builder::new().prefix("").rand_bytes(10).tempdir().unwrap();
        let mark = hex_sha256(dir.path().as_os_str().as_encoded_bytes())[..10].to_string();
        let profile = Profile { dir, mark };
        profile.write(&["busybox-static"], &["ahci"], "quiet");
        profile
    }

    fn write(&self, packages: &[&str], modules: &[&str], parameters: &str) {
        let Profile { dir, mark } = self;
        let modules = [&["isofs", "loop", "overlay", "squashfs"], modules].concat();
        let text = format!(
            "iso-name = \"stages\"\niso-version = \"{mark}\"\niso-label = \"{}\"\npackages = {packages:?}\n\
             [debian]\nsecurity = \"none\"\nupdates = false\n\
             [root]\nmode = \"unpacked\"\nexclude = [\"/boot/**\", \"/usr/lib/modules/*/kernel/**\"]\n\
             [initramfs]\ndefault-modules = false\nmodules = {modules:?}\n\
             [boot]\nkernel-parameters = \"{parameters}\"\n",
            mark.to_uppercase()
        );
        fs::write(dir.path().join("profile.toml"), text).unwrap();
    }

    /// The stages that had to be made, of those on the build's page; what they need of
    /// packages may have been made by other tests.
    fn build(&self, extra: &[&str]) -> Vec<String> {
        let out = self.dir.path().join("out");
        let mut words: Vec<&OsStr> = ["build", "--json", "-o"].map(OsStr::new).to_vec();
        words.push(out.as_os_str());
        words.push(self.dir.path().as_os_str());
        words.extend(extra.iter().map(OsStr::new));
        let (code, stdout, stderr) = liveiso(&words);
        assert_eq!(code, Some(0), "{stderr}");
        let built: Value = serde_json::from_str(&stdout).unwrap();
        assert!(built["process"]["cpu-seconds"].is_f64());
        assert!(built["process"]["peak-memory"].as_u64().unwrap() > 1 << 20);
        let stages = built["stages"].as_array().unwrap().iter();
        let stages =
            stages.filter(|s| !["resolution", "data-tar", "base-tree"].iter().any(|n| s["stage"] == *n));
        let made: BTreeMap<&str, bool> =
            stages.map(|s| (s["stage"].as_str().unwrap(), s["misses"] != json!(0))).collect();
        assert_eq!(made.keys().collect::<Vec<_>>(), [&"initramfs", &"iso", &"root"]);
        made.into_iter().filter(|(_, made)| *made).map(|(stage, _)| stage.to_string()).collect()
    }
}

/// A change redoes what depends on it and nothing else.
#[test]
fn each_change_misses_its_own_stages() {
    let profile = Profile::new();
    assert_eq!(profile.build(&[]), ["initramfs", "iso", "root"]);
    assert_eq!(profile.build(&["--offline"]), [""; 0], "no change");

    profile.write(&["busybox-static"], &["ahci"], "quiet loglevel=3");
    assert_eq!(profile.build(&["--offline"]), ["iso"], "a menu line");

    profile.write(&["busybox-static"], &["ahci", "ata_piix"], "quiet loglevel=3");
    assert_eq!(profile.build(&["--offline"]), ["initramfs", "iso"], "a module of the initramfs");

    let overlay = profile.dir.path().join("airootfs/etc");
    fs::create_dir_all(&overlay).unwrap();
    fs::write(overlay.join("motd"), "hello\n").unwrap();
    assert_eq!(profile.build(&["--offline"]), ["iso", "root"], "an overlay file");

    profile.write(&["busybox-static", "usb.ids"], &["ahci", "ata_piix"], "quiet loglevel=3");
    assert_eq!(profile.build(&[]), ["iso", "root"], "a package");

    // Back to the first plan: everything is still there.
    fs::remove_dir_all(profile.dir.path().join("airootfs")).unwrap();
    profile.write(&["busybox-static"], &["ahci"], "quiet");
    assert_eq!(profile.build(&["--offline"]), [""; 0], "as at first");
}

fn command(words: &[&str], dir: &Path) -> (Option<i32>, String, String) {
    let mut all: Vec<&OsStr> = vec![OsStr::new("cache")];
    all.extend(words.iter().map(OsStr::new));
    all.extend([OsStr::new("--cache-dir"), dir.as_os_str()]);
    liveiso(&all)
}

#[test]
fn a_cache_is_listed_verified_and_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let deb = hex_sha256(b"package");
    let stage = {
        let cache = Cache::open(dir.path()).unwrap();
        fs::write(cache.subdir("debs").join(format!("{deb}.deb")), "package").unwrap();
        cache.stage("root", &1, |dir| Ok(fs::write(dir.join("out"), [7; 3000])?)).unwrap().unchecked_path("")
    };
    let (code, stdout, stderr) = command(&["list", "--json"], dir.path());
    assert_eq!((code, &*stderr), (Some(0), ""));
    let listed: Value = serde_json::from_str(&stdout).unwrap();
    let key = stage.file_name().unwrap().to_str().unwrap().to_string();
    let record = fs::metadata(stage.join("stage.json")).unwrap().len();
    let used = [0, 1].map(|n| listed[n]["last-used"].as_i64().unwrap());
    assert_eq!(
        listed,
        json!([
            { "stage": "deb", "key": deb, "size": 7, "last-used": used[0],
              "files": { format!("{deb}.deb"): 7 } },
            { "stage": "root", "key": key, "size": 3000 + record, "last-used": used[1],
              "files": { "out": 3000, "stage.json": record } },
        ])
    );
    let shown = |seconds| {
        let t = civil_time(seconds);
        format!("{:04}-{:02}-{:02} {:02}:{:02}", t.year, t.month, t.day, t.hour, t.minute)
    };
    let size = format!("{:.1} KiB", (3000 + record) as f64 / 1024.0);
    let all = format!("{:.1} KiB", (3007 + record) as f64 / 1024.0);
    let table = format!(
        "stage            key                size  last used (UTC)   files\n\
         deb              {}        7 B  {}\n\
         root             {} {size:>10}  {}  out\n\
         2 entries, {all}\n",
        &deb[..12],
        shown(used[0]),
        &key[..12],
        shown(used[1]),
    );
    assert_eq!(command(&["list"], dir.path()), (Some(0), table, String::new()));

    let intact = format!("2 entries read, {all}; 0 damaged\n");
    assert_eq!(command(&["verify"], dir.path()), (Some(0), intact, String::new()));
    fs::write(stage.join("out"), [8; 3000]).unwrap();
    let damaged =
        format!("removed root {key}: out is not what was recorded\n2 entries read, {all}; 1 damaged\n");
    assert_eq!(command(&["verify"], dir.path()), (Some(5), damaged, String::new()));
    assert!(!stage.exists());

    let small = "0 entries removed, 0 B; 7 B kept\n".to_string();
    assert_eq!(command(&["prune"], dir.path()), (Some(0), small, String::new()));
    // A running build uses the package.
    let cache = Cache::open(dir.path()).unwrap();
    cache.use_debs([&*deb]).unwrap();
    let (code, _, stderr) = command(&["prune", "--max-size", "6"], dir.path());
    assert_eq!((code, &*stderr), (Some(0), "warning: 7 B are used by running builds and stay\n"));
    drop(cache);
    let all = format!("removed deb {deb} 7 B\n1 entries removed, 7 B; 0 B kept\n");
    assert_eq!(command(&["prune", "--all"], dir.path()), (Some(0), all, String::new()));
    let (code, _, stderr) = command(&["prune", "--max-size", "6 pints"], dir.path());
    assert_eq!(code, Some(2), "{stderr}");
}
