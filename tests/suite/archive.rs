//! Tar archives against GNU tar, with Python's tarfile as the second reader.

use std::path::Path;
use std::process::Command;

use liveiso::tree::{Tree, listing, read_tar};

/// Prints a tar archive in the vocabulary of [`listing`].
const PYTHON: &str = r#"
import hashlib, sys, tarfile

def esc(b):
    return "".join(chr(c) if 0x21 <= c < 0x7f and c != 0x5c else "\\x%02x" % c for c in b)

def raw(s):
    return s.encode("utf-8", "surrogateescape")

def clean(name):
    b = raw(name)
    b = b[2:] if b.startswith(b"./") else b
    return b"" if b == b"." else b.strip(b"/")

words = {}
canonical = {}
archive = tarfile.open(sys.argv[1])
for m in archive:
    path = clean(m.name)
    if m.islnk():
        canonical[path] = canonical.get(clean(m.linkname), clean(m.linkname))
        continue
    canonical[path] = path
    own = " %s %d %d" % ("0777" if m.issym() else "%04o" % (m.mode & 0o7777), m.uid, m.gid)
    tail = " mtime=%d" % (m.mtime // 1)
    if m.isdir(): w = ("dir", own + tail)
    elif m.issym(): w = ("slink", own + " " + esc(raw(m.linkname)) + tail)
    elif m.ischr() or m.isblk():
        w = ("nod", own + " %s %d %d" % ("c" if m.ischr() else "b", m.devmajor, m.devminor) + tail)
    elif m.isfifo(): w = ("pipe", own + tail)
    else:
        data = archive.extractfile(m).read()
        w = ("file", own + tail + " size=%d sha256=%s" % (len(data), hashlib.sha256(data).hexdigest()))
    prefix = "SCHILY.xattr."
    xattrs = sorted((k[len(prefix):], raw(v)) for k, v in m.pax_headers.items() if k.startswith(prefix))
    words[path] = (w[0], w[1] + "".join(" xattr.%s=%s" % (k, v.hex()) for k, v in xattrs))
first = {}
for path in sorted(canonical, key=lambda p: p.split(b"/") if p else []):
    target = canonical[path]
    if target in first:
        print("link /%s /%s" % (esc(path), esc(first[target])))
    else:
        first[target] = path
        print("%s /%s%s" % (words[target][0], esc(path), words[target][1]))
"#;

/// The listing of a tar archive as Python reads it.
pub fn listing_by_python(tar: &Path) -> String {
    let output = Command::new("python3").args(["-c", PYTHON]).arg(tar).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a shell script in `dir`; panics with its output when it fails.
pub fn run(dir: &Path, script: &str) -> String {
    let output = Command::new("sh").args(["-euc", script]).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

const FILES: &str = r#"
mkdir -p root/etc "root/long" root/dev root/run
printf hello > root/etc/hostname; chmod 0640 root/etc/hostname; chown 12:3456 root/etc/hostname
printf x > root/su; chown 0:0 root/su; chmod 6755 root/su
: > root/empty
ln root/etc/hostname root/etc/again; ln root/etc/hostname root/a-first
ln -s etc/hostname root/link; ln -s "$(printf 'q%.0s' $(seq 300))" root/long/link
d=root/long; for i in 1 2 3; do d="$d/$(printf 'd%.0s' $(seq 120))"; mkdir "$d"; done; printf deep > "$d/file"
printf o > "$(printf 'root/odd \377\001\\name')"
mknod root/dev/console c 5 1; mknod root/dev/sda b 8 0; mkfifo root/run/pipe
chmod 1777 root/run; find root -exec touch -h -d @1234567890.5 {} +
"#;

#[test]
fn archives_of_gnu_tar_are_read_as_python_reads_them() {
    for options in [
        "--format=gnu",
        "--format=pax",
        "--format=posix --pax-option=SCHILY.xattr.user.note:=some,delete=atime",
        "--format=ustar --exclude=./long",
        "--format=oldgnu --numeric-owner",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let tar = format!("{FILES}\ntar {options} --sort=name -C root -cf x.tar .");
        std::fs::write(dir.path().join("make.sh"), tar).unwrap();
        run(dir.path(), "fakeroot sh -eu make.sh");
        let path = dir.path().join("x.tar");
        let mut tree = Tree::new();
        read_tar(&mut tree, &path, "x.tar").unwrap();
        let listed = listing(&tree).unwrap();
        assert!(
            listed.contains("nod /dev/console 0644 0 0 c 5 1") || listed.contains("nod /dev/console 0664"),
            "{listed}"
        );
        assert!(listed.contains("link /etc/hostname /a-first\n"), "{listed}");
        assert_eq!(listed, listing_by_python(&path), "{options}");
    }
}
