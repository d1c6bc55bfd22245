//! newc archives against GNU cpio.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use liveiso::format::cpio;
use liveiso::host::Tool;
use liveiso::tree::{Tree, listing, parse_listing};

const TREE: &str = "\
dir / 0755 0 0 mtime=1700000000
dir /dev 0755 0 0 mtime=1700000000
nod /dev/console 0600 0 5 c 5 1 mtime=1700000000
nod /dev/sda 0660 0 6 b 8 0 mtime=1700000000
dir /etc 1777 0 0 mtime=1700000000
file /etc/empty 0644 0 0 mtime=1700000000 size=0
link /etc/empty2 /etc/empty
file /etc/odd\\x20name 4755 1000 1001 mtime=1700000001 size=5001
file /etc/text 0640 0 0 mtime=0 text=hello
link /text /etc/text
link /zz /etc/text
slink /lib 0777 0 0 usr/lib mtime=1700000000
pipe /pipe 0600 0 0 mtime=1700000000
sock /sock 0600 0 0 mtime=1700000000
";

fn archive(tree: &Tree) -> Vec<u8> {
    let mut bytes = Vec::new();
    cpio::write(tree, &mut bytes).unwrap();
    bytes
}

/// Runs GNU cpio in a directory with this input.
fn gnu_cpio(dir: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Tool::new("cpio", "tests").unwrap().args(args).current_dir(dir).into_command();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn gnu_cpio_lists_what_we_wrote() {
    let here = tempfile::tempdir().unwrap();
    let bytes = archive(&parse_listing(TREE).unwrap());
    let listed =
        String::from_utf8(gnu_cpio(here.path(), &["-itv", "--quiet", "--numeric-uid-gid"], &bytes)).unwrap();
    let squeezed: String =
        listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect();
    let expected = "\
drwxr-xr-x 2 0 0 0 Nov 14 2023 .
drwxr-xr-x 2 0 0 0 Nov 14 2023 dev
crw------- 1 0 5 5, 1 Nov 14 2023 dev/console
brw-rw---- 1 0 6 8, 0 Nov 14 2023 dev/sda
drwxrwxrwt 2 0 0 0 Nov 14 2023 etc
-rw-r--r-- 2 0 0 0 Nov 14 2023 etc/empty
-rw-r--r-- 2 0 0 0 Nov 14 2023 etc/empty2
-rwsr-xr-x 1 1000 1001 5001 Nov 14 2023 etc/odd name
-rw-r----- 3 0 0 0 Jan 1 1970 etc/text
lrwxrwxrwx 1 0 0 7 Nov 14 2023 lib -> usr/lib
prw------- 1 0 0 0 Nov 14 2023 pipe
srw------- 1 0 0 0 Nov 14 2023 sock
-rw-r----- 3 0 0 0 Jan 1 1970 text
-rw-r----- 3 0 0 5 Jan 1 1970 zz
";
    assert_eq!(squeezed, expected);
}

#[test]
fn gnu_cpio_unpacks_and_packs_again_what_we_read() {
    // Without devices and foreign owners, so that it needs no privileges.
    let text: String = TREE
        .lines()
        .filter(|line| !line.starts_with("nod"))
        .map(|line| line.replace("1000 1001", "0 0") + "\n")
        .collect();
    let tree = parse_listing(&text).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let here = scratch.path().join("tree");
    std::fs::create_dir(&here).unwrap();
    gnu_cpio(&here, &["-idm", "--quiet"], &archive(&tree));
    let names: String = tree.walk().map(|e| format!("./{}\n", String::from_utf8(e.path).unwrap())).collect();
    let again = gnu_cpio(&here, &["-o", "-H", "newc", "--quiet", "--owner=+0:+0"], names.as_bytes());
    let crc = gnu_cpio(&here, &["-o", "-H", "crc", "--quiet", "--owner=+0:+0"], names.as_bytes());
    for bytes in [again, crc] {
        assert_eq!(comparable(&cpio::read(&bytes).unwrap()), comparable(&tree));
    }
}

/// A listing without the times GNU cpio does not restore: of links, and of directories it fills later.
fn comparable(tree: &Tree) -> String {
    let text = listing(tree).unwrap();
    let line = |line: &str| match line.split_once(" mtime=") {
        Some((before, _)) if line.starts_with("dir") || line.starts_with("slink") => format!("{before}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Trees of every type and size, by a fixed rule instead of chance.
#[test]
fn generated_trees_survive_the_round_trip() {
    for seed in 0..40u32 {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let mut next = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        let mut text = String::from("dir /d0 0755 0 0\n");
        let (mut directories, mut files) = (vec!["/d0".to_string()], Vec::new());
        for n in 0..60 {
            let parent = directories[next(directories.len() as u32) as usize].clone();
            let meta = format!("{:04o} {} {}", next(0o10000), next(70_000), next(70_000));
            let path = format!("{parent}/{}{n}", "n".repeat(1 + next(200) as usize / 40));
            let time = next(1 << 24);
            match next(7) {
                0 => {
                    text.push_str(&format!("dir {path} {meta} mtime={time}\n"));
                    directories.push(path);
                }
                1 | 2 => {
                    text.push_str(&format!("file {path} {meta} mtime={time} size={}\n", next(9000)));
                    files.push(path);
                }
                3 if !files.is_empty() => {
                    let first = &files[next(files.len() as u32) as usize];
                    text.push_str(&format!("link {path} {first}\n"));
                }
                4 => text.push_str(&format!(
                    "slink {path} 0777 0 0 {} mtime={time}\n",
                    "t".repeat(1 + next(300) as usize)
                )),
                5 => text.push_str(&format!(
                    "nod {path} {meta} c {} {} mtime={time}\n",
                    next(4096),
                    next(1 << 20)
                )),
                _ => text.push_str(&format!("pipe {path} {meta} mtime={time}\n")),
            }
        }
        let tree = parse_listing(&text).unwrap();
        let bytes = archive(&tree);
        let read = cpio::read(&bytes).unwrap();
        assert_eq!(listing(&read).unwrap(), listing(&tree).unwrap(), "seed {seed}");
        assert!(archive(&read) == bytes, "seed {seed}");
    }
}
