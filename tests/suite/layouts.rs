//! The initramfs's layouts, and what a profile may add to them: whole builds,
//! GNU cpio and unsquashfs as witnesses, and one boot a layout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use liveiso::host::Tool;
use liveiso::initramfs::{PartFormat, unpack};
use liveiso::manifest::record_least_ram;
use liveiso::qemu::report::Shell;
use liveiso::qemu::{Firmware, Guest, Machine, Medium};

use crate::boot::{MOST_SHMEM_KB, boots};
use crate::support::{self, Ran, built, liveiso, profile, ran};

/// A profile with the root of profiles/tiny and this instead of its [initramfs].
pub fn tiny_with(initramfs: &str, files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    support::tiny_with(dir.path(), initramfs);
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    dir
}

const DESCRIPTION: &str = "\
# More than a default initramfs has.
dir /data 0755 0 0
dir /data/empty 0700 1 2
file /data/greeting files/greeting 4755 10 20 /data/again
nod /dev/sda 0660 0 6 b 8 0
nod /dev/null 0666 0 0 c 1 3
slink /data/link ../bin/busybox 0777 0 0
pipe /data/pipe 0600 0 0
sock /data/sock 0600 0 0
file /usr/share/made files/greeting 0644 0 0
";

/// An Intel update header: version 1, loader revision 1, no data.
fn microcode() -> Vec<u8> {
    let mut bytes = vec![0; 48];
    (bytes[0], bytes[20]) = (1, 1);
    bytes
}

/// The default modules squashed, a description and microcode besides.
fn squashed() -> &'static (PathBuf, String) {
    static IMAGE: OnceLock<(PathBuf, String)> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let initramfs = "[initramfs]\nlayout = \"squashed\"\ndescription = \"files/list\"\n\
                         microcode = [\"files/06-08-03\"]\n\n[budget]\ninitramfs = \"4M\"\nmemory = \"37M\"\n";
        let applets = fs::read_to_string(profile("tiny").join("applets")).unwrap();
        let root = format!("{applets}{DESCRIPTION}nod /data/sda 0660 0 6 b 8 0\n");
        let files: [(&str, &[u8]); 4] = [
            ("applets", root.as_bytes()),
            ("files/list", DESCRIPTION.as_bytes()),
            ("files/greeting", b"hello\n"),
            ("files/06-08-03", &microcode()),
        ];
        let dir = tiny_with(initramfs, &files);
        built(dir.path(), "squashed")
    })
}

pub fn extracted(image: &Path, path: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let tool = Tool::new("xorriso", "tests").unwrap().args(["-osirrox", "on", "-indev"]).arg(image);
    tool.args(["-extract", path]).arg(&file).output().unwrap();
    fs::read(file).unwrap()
}

/// What `program` prints when it is fed these bytes.
fn piped(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Tool::new(program, "tests").unwrap().args(args).into_command();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "{program}");
    output.stdout
}

/// GNU cpio's listing without dates, blanks squeezed.
fn listed(archive: &[u8]) -> Vec<String> {
    let text = String::from_utf8(piped("cpio", &["-itv", "--quiet", "--numeric-uid-gid"], archive)).unwrap();
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let date = words.iter().position(|w| w.starts_with(|c: char| c.is_ascii_uppercase())).unwrap();
        [&words[..date], &words[date + 3..]].concat().join(" ")
    };
    text.lines().map(line).collect()
}

#[test]
fn microcode_comes_first_then_the_loader_then_the_id() {
    let (image, _) = squashed();
    let initrd = extracted(image, "/liveiso/boot/i386/initrd.img");
    let (_, parts) = unpack(&initrd).unwrap();
    let formats: Vec<bool> = parts.iter().map(|part| part.format == PartFormat::Plain).collect();
    assert_eq!(formats, [true, false, true]);
    assert_eq!(
        listed(&initrd[..parts[0].length]),
        [
            "drwxr-xr-x 2 0 0 0 .",
            "drwxr-xr-x 2 0 0 0 kernel",
            "drwxr-xr-x 2 0 0 0 kernel/x86",
            "drwxr-xr-x 2 0 0 0 kernel/x86/microcode",
            "-rw-r--r-- 1 0 0 48 kernel/x86/microcode/GenuineIntel.bin",
        ]
    );
    let update = microcode();
    let at = initrd.windows(update.len()).position(|bytes| bytes == update).unwrap();
    assert!(at < parts[0].length && at.is_multiple_of(16), "{at}");

    let loader = piped("xz", &["-dc"], &initrd[parts[1].offset..parts[1].offset + parts[1].length]);
    let lines = listed(&loader);
    for node in ["brw-rw---- 1 0 6 8, 0 dev/sda", "crw-rw-rw- 1 0 0 1, 3 dev/null"] {
        assert!(lines.iter().any(|line| line == node), "{lines:#?}");
    }
    let mut names: Vec<String> = lines
        .into_iter()
        .filter(|line| !line.starts_with('d'))
        .map(|line| line.split_whitespace().skip(4).collect::<Vec<_>>().join(" "))
        .filter(|name| !name.ends_with(".ko"))
        .map(|name| name.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ' || c == ',').to_string())
        .collect();
    names.retain(|name| !name.starts_with("lib/modules/"));
    assert_eq!(
        names,
        [
            "bin/busybox",
            "bin/sh -> busybox",
            "dev/console",
            "dev/null",
            "dev/sda",
            "init",
            "sbin/modprobe -> ../bin/busybox",
            "squash/loader.sh",
            "squash/root.sfs",
        ]
    );
    let modules: Vec<String> = listed(&loader)
        .iter()
        .filter_map(|l| Some(l.strip_suffix(".ko")?.rsplit_once('/')?.1.to_string()))
        .collect();
    assert_eq!(modules, ["loop", "overlay", "squashfs"]);
}

#[test]
fn the_description_is_what_other_tools_list() {
    let (image, _) = squashed();
    let initrd = extracted(image, "/liveiso/boot/i386/initrd.img");
    let (tree, _) = unpack(&initrd).unwrap();
    let id = tree.get(b"squash/root.sfs").unwrap();
    let liveiso::tree::Kind::File(content) = &tree.inode(id).kind else { panic!("squash/root.sfs") };
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("root.sfs");
    fs::write(&image, content.read_all().unwrap()).unwrap();
    assert_eq!(described(&image), DESCRIBED);
}

#[test]
fn the_root_can_be_described_too() {
    let (image, _) = squashed();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root.sfs");
    fs::write(&root, extracted(image, "/liveiso/i386/airootfs.sfs")).unwrap();
    let mut expected = DESCRIBED.to_vec();
    expected.insert(6, "brw-rw---- 0/6 8,0 /data/sda");
    assert_eq!(described(&root), expected);
}

/// [`DESCRIPTION`] as [`described`] shows it.
const DESCRIBED: [&str; 8] = [
    "drwxr-xr-x 0/0 - /data",
    "-rwsr-xr-x 10/20 6 /data/again",
    "drwx------ 1/2 - /data/empty",
    "-rwsr-xr-x 10/20 6 /data/greeting",
    "lrwxrwxrwx 0/0 14 /data/link -> ../bin/busybox",
    "prw------- 0/0 0 /data/pipe",
    "srw------- 0/0 0 /data/sock",
    "-rw-r--r-- 0/0 6 /usr/share/made",
];

/// What unsquashfs lists of the description, without the times.
fn described(image: &Path) -> Vec<String> {
    let text = Tool::new("unsquashfs", "tests").unwrap().args(["-llnumeric", "-d", ""]).arg(image);
    let text = String::from_utf8(text.output().unwrap()).unwrap();
    // Mode, owner, size, date, time, path; a directory's size is squashfs's own affair.
    let described = text.lines().filter(|line| line.contains(" /data") || line.ends_with(" /usr/share/made"));
    described
        .map(|line| {
            // unsquashfs sets the two numbers of a device apart.
            let line = line.replacen(",  ", ",", 1);
            let words: Vec<&str> = line.split_whitespace().collect();
            let size = if line.starts_with('d') { "-" } else { words[2] };
            format!("{} {} {size} {}", words[0], words[1], words[5..].join(" "))
        })
        .collect()
}

#[test]
fn the_build_says_what_its_initramfs_takes() {
    let (image, stderr) = squashed();
    let manifest = fs::read(image.with_extension("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let figures = &manifest["initramfs"];
    let size = extracted(image, "/liveiso/boot/i386/initrd.img").len() as u64;
    let number = |key: &str| figures[key].as_u64().unwrap();
    assert_eq!(number("microcode") + number("compressed") + 1024, size);
    assert!(number("squashed") > 2 << 20 && number("modules") > 150, "{figures}");
    assert!(number("predicted-ram") <= 37 << 20, "{figures}");
    let summary = stderr.lines().find(|line| line.starts_with("initramfs: ")).unwrap();
    let ram = number("predicted-ram").div_ceil(1 << 20);
    assert!(
        summary.ends_with(&format!("{} modules; takes {ram} MiB of RAM to unpack", number("modules"))),
        "{summary}"
    );
}

/// What lint says of the drivers in an initramfs.
fn search_modules(image: &Path) -> String {
    let (_, stdout, stderr) = ran(liveiso(["inspect", "--lint", "--json"]).arg(image).output().unwrap());
    let findings: serde_json::Value =
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stderr}"));
    let findings = findings["lint"].as_array().or(findings.as_array()).unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == "search-modules").unwrap();
    format!("{}: {}", finding["outcome"].as_str().unwrap(), finding["reason"].as_str().unwrap())
}

#[test]
fn drivers_inside_the_squashed_image_are_seen_and_missed() {
    let (image, _) = squashed();
    assert_eq!(search_modules(image), "pass: every driver of the search is there");
    let modules = "[initramfs]\nlayout = \"squashed\"\ndefault-modules = false\n\
                   modules = [\"loop\", \"squashfs\", \"overlay\", \"isofs\", \"vfat\", \"sr_mod\", \"sd_mod\"]\n";
    let dir = tiny_with(modules, &[]);
    let (image, _) = built(dir.path(), "squashed-without-usb");
    assert_eq!(search_modules(&image), "fail: /liveiso/boot/i386/initrd.img lacks usb_storage");
}

#[test]
fn what_was_measured_stays_until_the_image_changes() {
    let dir = tiny_with("", &[]);
    let build = || built(dir.path(), "measured");
    let manifest = |image: &Path| fs::read_to_string(image.with_extension("manifest.json")).unwrap();
    let (image, _) = build();
    let first = manifest(&image);
    record_least_ram(&image.with_extension("manifest.json"), "bios-cd", 42).unwrap();
    // Built again, twice: what one build keeps the next one finds.
    for _ in 0..2 {
        let (_, stderr) = build();
        let value: serde_json::Value = serde_json::from_str(&manifest(&image)).unwrap();
        assert_eq!(value["measured"], serde_json::json!({ "least-ram-mib": { "bios-cd": 42 } }), "{stderr}");
        assert!(!stderr.contains("measured"), "{stderr}");
    }
    let path = dir.path().join("profile.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"TINY\"", "\"OTHER\"")).unwrap();
    let (_, stderr) = build();
    assert!(!manifest(&image).contains("measured"));
    let note = "warning: the measured least RAM (bios-cd 42 MiB) was another image's and is no longer in the manifest; \
                measure this one with `liveiso test --min-ram`";
    assert!(stderr.lines().any(|line| line == note), "{stderr}");
    // Whoever measured nothing gets what they got before.
    fs::write(&path, text).unwrap();
    build();
    assert_eq!(manifest(&image), first);
}

#[test]
fn a_squashed_initramfs_boots_where_a_plain_one_does_not_unpack_and_leaves_nothing() {
    let (image, _) = squashed();
    let cells = boots(image, &["--firmware", "bios", "--medium", "cd", "--memory", "39"]);
    assert!(cells[0]["report"]["shmem-kb"].as_u64().unwrap() <= MOST_SHMEM_KB, "{}", cells[0]);
}

/// Root, no medium, no second root: the id and a shell are there, and / is what the kernel unpacked.
/// A wrong word on the command line does not end PID 1.
#[test]
fn a_resident_root_boots() {
    let initramfs = "[boot]\nkernel-parameters = \"init=/none\"\n\n[initramfs]\nlayout = \"resident\"\n\n\
                     [budget]\nmemory = \"48M\"\n";
    let dir = tiny_with(initramfs, &[]);
    let path = dir.path().join("profile.toml");
    let text = fs::read_to_string(&path).unwrap();
    let few = "exclude = [\n    \"/usr/lib/modules/*/kernel/**\",\n    \"!/usr/lib/modules/*/kernel/drivers/net/ethernet/intel/e1000/**\",";
    let text = text
        .replace("exclude = [", few)
        .replace("\"tiny\"", "\"resident\"")
        .replace("\"TINY\"", "\"RESIDENT\"");
    fs::write(&path, text).unwrap();
    let (image, _) = built(dir.path(), "resident");
    let listing =
        Tool::new("xorriso", "tests").unwrap().args(["-indev"]).arg(&image).args(["-find", "/liveiso"]);
    let listing = String::from_utf8(listing.output().unwrap()).unwrap();
    assert!(!listing.contains("airootfs.sfs") && listing.contains("initrd.img"), "{listing}");

    let machine = Machine { memory_mib: 64, ..Machine::new(Firmware::Bios, Medium::Cd) };
    let deadline = Instant::now() + Duration::from_secs(240);
    let mut guest = Guest::start(&machine, Some(&image), None, deadline).unwrap();
    let mut shell = Shell::log_in(&mut guest.serial, deadline, |_| false).unwrap().unwrap();
    let report = shell.report(deadline).unwrap();
    let manifest = fs::read(image.with_extension("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["build-id"], report.build_id.as_str());
    assert_eq!((report.root_filesystem.as_str(), report.init_name.as_str()), ("rootfs", "init"));
    let (_, mounts) = shell.ask("cat /proc/mounts", deadline).unwrap();
    assert!(!mounts.contains("overlay") && !mounts.contains("squashfs"), "{mounts}");
    let question = "dmesg | grep -c 'liveiso: /none is not a program of this system'";
    assert_eq!(shell.ask(question, deadline).unwrap().1, "1\n");
}

/// What a build of a profile says that it cannot be.
fn refused(initramfs: &str, files: &[(&str, &[u8])], replace: (&str, &str)) -> Ran {
    let dir = tiny_with(initramfs, files);
    let path = dir.path().join("profile.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(replace.0, replace.1)).unwrap();
    let out = dir.path().join("out");
    let (code, stdout, stderr) = ran(liveiso(["build", "-o"]).arg(&out).arg(dir.path()).output().unwrap());
    // A mirror between two states is another test's matter.
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.contains("bookworm-security")).collect();
    let text = lines.join("\n").replace(&*dir.path().to_string_lossy(), "P");
    assert!(!out.join("tiny-1.0-i386.iso").exists());
    (code, stdout, text)
}

#[test]
fn what_only_the_build_can_see_points_into_the_profile() {
    let modules = "[initramfs]\ndefault-modules = false\n";
    let cases: [(String, (&str, &str), &str); 5] = [
        (
            format!("{modules}modules = [\"loop\", \"sqashfs\"]\n"),
            ("", ""),
            "error: kernel VERSION has no module `sqashfs`\n\
             --> P/profile.toml:28:20\n   |\n\
             28 | modules = [\"loop\", \"sqashfs\"]\n   |                    ^^^^^^^^^\n   |\n   \
             = help: did you mean `squashfs`?",
        ),
        (
            format!("{modules}modules = [\"loop\", \"squashfs\", \"isofs\"]\n"),
            ("", ""),
            "error: the initramfs lacks the module `overlay` (CONFIG_OVERLAY_FS=m), which the live root needs\n\
             --> P/profile.toml:28:11\n   |\n\
             28 | modules = [\"loop\", \"squashfs\", \"isofs\"]\n   |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n   |\n   \
             = help: add `overlay` to `modules` under [initramfs]",
        ),
        (
            "[budget]\ninitramfs = \"1M\"\n".to_string(),
            ("", ""),
            "error: the initramfs is SIZE MiB, beyond the budget of 1.0 MiB\n\
             --> P/profile.toml:27:13\n   |\n\
             27 | initramfs = \"1M\"\n   |             ^^^^\n   |\n   \
             = help: name fewer modules or a larger `initramfs` under [budget] (initramfs: FIGURES)",
        ),
        (
            "[budget]\niso-size = \"2M\"\n".to_string(),
            ("", ""),
            "error: the ISO is SIZE MiB, beyond the budget of 2.0 MiB\n\
             --> P/profile.toml:27:12\n   |\n\
             27 | iso-size = \"2M\"\n   |            ^^^^\n   |\n   \
             = help: name fewer packages, exclude files, or name a larger `iso-size` under [budget]",
        ),
        (
            "[file-permissions]\n\"/usr/bin/bussybox\" = \"0:0:0755\"\n".to_string(),
            ("", ""),
            "warning: no overlay has `/usr/bin/bussybox`; this works only if a package brings it\n \
             --> P/profile.toml:27:1\n   |\n\
             27 | \"/usr/bin/bussybox\" = \"0:0:0755\"\n   | ^^^^^^^^^^^^^^^^^^^\n\
             error: the root has no `/usr/bin/bussybox`, so its owner and mode cannot be set\n  \
             --> P/profile.toml:27:1\n   |\n\
             27 | \"/usr/bin/bussybox\" = \"0:0:0755\"\n   | ^^^^^^^^^^^^^^^^^^^\n   |\n   = help: correct the path",
        ),
    ];
    for (initramfs, replace, expected) in cases {
        let (code, stdout, stderr) = refused(&initramfs, &[], replace);
        assert_eq!((code, stdout.as_str()), (Some(3), ""), "{stderr}");
        assert_eq!(plain(&stderr), plain(expected), "{stderr}");
    }
}

/// Without what the archive's kernel decides, and without the indentation of places.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<String> = line
            .split_whitespace()
            .map(|word| match word {
                word if word.starts_with("6.1.0-") => "VERSION".to_string(),
                word => word.to_string(),
            })
            .collect();
        out.push_str(&words.join(" "));
        out.push('\n');
    }
    for (begin, end, name) in [
        ("the initramfs is ", " MiB, beyond", "SIZE"),
        ("the ISO is ", " MiB, beyond", "SIZE"),
        ("(initramfs: ", ")", "FIGURES"),
    ] {
        if let Some((before, rest)) = out.clone().split_once(begin)
            && let Some((_, after)) = rest.split_once(end)
        {
            out = format!("{before}{begin}{name}{end}{after}");
        }
    }
    out
}
