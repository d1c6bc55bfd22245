//! Archives as tools write them, and as nobody should.

use super::*;
use crate::tree::listing;

fn header(name: &[u8], kind: u8, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(EntryType::new(kind));
    header.set_mode(0o100644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_size(size);
    header.set_cksum();
    header
}

fn member(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = header(name.as_bytes(), kind, content.len() as u64).as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = 1 + key.len() + 1 + value.len() + 1;
        let length = (1..9).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n).unwrap();
        bytes.extend(format!("{length} {key}=").bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    member("pax", b'x', &bytes)
}

fn altered(name: &str, kind: u8, alter: impl Fn(&mut tar::Header)) -> Vec<u8> {
    let mut header = header(name.as_bytes(), kind, 0);
    alter(&mut header);
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn read_bytes(bytes: &[u8]) -> Result<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    std::fs::write(&path, bytes).unwrap();
    let mut tree = Tree::new();
    read_tar(&mut tree, &path, "package x")?;
    listing(&tree)
}

fn read(parts: &[Vec<u8>]) -> Result<String> {
    read_bytes(&[parts.concat(), vec![0; 1024]].concat())
}

#[test]
fn binary_attributes_and_long_values_are_read() {
    let attribute: &[u8] = b"\x01\n\x00=\n5 a=b\n";
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.security.capability", attribute),
        ("path", b"bin/ping"),
        ("uid", b"4000000000"),
        ("gid", b"7"),
        ("mtime", b"-1.5"),
        ("uname", b"someone"),
    ];
    let listed = read(&[pax(records), member("short", b'0', b"hello")]).unwrap();
    let digest = crate::cache::hex_sha256(b"hello");
    let attribute = crate::cache::hex(attribute);
    let expected = format!(
        "dir / 0755 0 0 mtime=0\ndir /bin 0755 0 0 mtime=-2\nfile /bin/ping 0644 4000000000 7 mtime=-2 size=5 sha256={digest} xattr.security.capability={attribute}\n"
    );
    assert_eq!(listed, expected);
}

#[test]
fn hostile_archives_are_refused_with_path_and_reason() {
    let huge = |kind| {
        let mut bytes = header(b"huge", kind, 1 << 40).as_bytes().to_vec();
        bytes.resize(4096, 0);
        bytes
    };
    let link =
        |name: &str, kind, target: &str| altered(name, kind, |h| h.set_link_name_literal(target).unwrap());
    let file = || member("a", b'0', b"x");
    let long = "l".repeat(MAX_PATH + 1);
    let too_long = format!("adding `{long}`: its path is longer than 4095 bytes");
    let cases: Vec<(Vec<Vec<u8>>, &str)> = vec![
        (
            vec![member("a/../../etc/passwd", b'0', b"x")],
            "adding `a/../../etc/passwd`: path `a/../../etc/passwd` has a `..` component, which could leave the tree",
        ),
        (vec![member("a//b", b'0', b"x")], "adding `a//b`: path `a//b` has an empty component"),
        (vec![pax(&[("path", b"a\0b")]), file()], "adding `a\\u{0}b`: path `a\\u{0}b` contains a NUL byte"),
        (vec![member("././@LongLink", b'L', long.as_bytes()), file()], &too_long),
        (vec![link("a", b'2', "")], "adding `a`: is a link to nothing"),
        (
            vec![pax(&[("linkpath", b"x\0y")]), link("a", b'2', "t")],
            "adding `a`: is a link whose target contains a NUL byte",
        ),
        (
            vec![member("././@LongLink", b'K', long.as_bytes()), link("a", b'2', "t")],
            "adding `a`: is a link whose target is longer than 4095 bytes",
        ),
        (
            vec![link("a", b'1', "../../etc/shadow")],
            "adding `a`: path `../../etc/shadow` has a `..` component, which could leave the tree",
        ),
        (vec![link("a", b'1', "missing")], "adding `a`: `missing` does not exist in the tree"),
        (
            vec![file(), member("a/b", b'0', b"x")],
            "adding `a/b`: `a` (from package x) is not a directory, yet a file below it is wanted",
        ),
        (
            vec![file(), member("a", b'5', b"")],
            "adding `a`: `a` is a file from package x and a dir from package x; remove one of them",
        ),
        (
            vec![link("d", b'2', "d"), member("d/x", b'0', b"")],
            "adding `d/x`: `d` runs through symbolic links in a circle",
        ),
        (vec![member("s", b'S', b"")], "adding `s`: is a sparse member; write the archive without --sparse"),
        (vec![member("a", b'V', b"")], "adding `a`: has type `V`, which no file has"),
        (vec![member("a", 0xff, b"")], "adding `a`: has type `\\xff`, which no file has"),
        (vec![member("a", b'5', b"x")], "adding `a`: is a dir with content"),
        (
            vec![huge(b'0')],
            "`huge` claims 1099511627776 bytes at byte 512, yet the archive has 5120 bytes; it is cut short or damaged",
        ),
        (
            vec![huge(b'L')],
            "`huge` claims 1099511627776 bytes at byte 512, yet the archive has 5120 bytes; it is cut short or damaged",
        ),
        (
            vec![member("l", b'L', &vec![b'a'; (1 << 20) + 1]), file()],
            "the extension header at byte 0 has 1048577 bytes; more than 1048576 are not believed",
        ),
        (
            vec![member("l", b'L', b"a"), member("l", b'L', b"b"), file()],
            "two long names announce one file at byte 2048",
        ),
        (vec![member("l", b'L', b"a")], "the archive ends where a name or attribute announced a file"),
        (
            vec![pax(&[("size", b"99")]), file()],
            "adding `a`: its two headers disagree about its size (1 and 99 bytes); files of 8 GiB and more are not supported",
        ),
        (
            vec![pax(&[("uid", b"4294967296")]), file()],
            "adding `a`: its user 4294967296 does not fit 32 bits",
        ),
        (vec![pax(&[("mtime", b"soon")]), file()], "the PAX record `mtime=soon`: is no decimal number"),
        (
            vec![pax(&[("GNU.sparse.major", b"1")]), file()],
            "adding `a`: its PAX record `GNU.sparse.major` is not supported",
        ),
        (
            vec![pax(&[("SCHILY.acl.access", b"user::rwx")]), file()],
            "adding `a`: has an ACL, which no image holds; write the archive without --acls",
        ),
        (vec![pax(&[("SCHILY.xattr.", b"1")]), file()], "`` is no name for an attribute"),
        (
            vec![member("g", b'g', b"9 uid=77\n"), file()],
            "the PAX record `uid` for all files is not supported",
        ),
        (vec![member("p", b'x', b"99 a=b\n"), file()], "a PAX record is malformed"),
        (vec![member("p", b'x', b"0 a=b\n"), file()], "a PAX record is malformed"),
        (vec![member("p", b'x', b"99999999999999999999 a=b\n"), file()], "a PAX record is malformed"),
        (vec![member("p", b'x', b"no blank"), file()], "a PAX record is malformed"),
        (vec![vec![b'z'; 512]], "reading the header at byte 0"),
    ];
    for (parts, expected) in cases {
        let error = read(&parts).unwrap_err();
        let shown = error.chain().skip(1).map(|e| e.to_string()).collect::<Vec<_>>().join(": ");
        let shown =
            if expected.starts_with("reading the header") { &shown[..expected.len()] } else { &shown };
        assert_eq!(shown, expected);
        assert!(error.to_string().starts_with("reading package x from "), "{error}");
    }
}

#[test]
fn every_cut_and_many_flipped_bytes_are_survived() {
    let whole = [pax(&[("path", b"long")]), member("a", b'0', b"hello"), member("d/", b'5', b"")].concat();
    let whole = [whole, vec![0; 1024]].concat();
    assert!(read_bytes(&whole).is_ok());
    for cut in (0..whole.len() - 512).step_by(7) {
        assert!(read_bytes(&whole[..cut]).is_err(), "cut at {cut}");
    }
    for at in (0..whole.len()).step_by(3) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        // Whatever it says, it says it without a panic.
        let _ = read_bytes(&damaged);
    }
}

#[test]
fn merged_usr_links_survive_a_package() {
    let mut tree =
        crate::tree::parse_listing("dir /usr/lib 0755 0 0\nslink /lib 0777 0 0 usr/lib\n").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.tar");
    let parts = [member("./", b'5', b""), member("./lib/", b'5', b""), member("./lib/a", b'0', b"x")];
    let link = altered("./lib/b", b'1', |h| h.set_link_name_literal("./lib/a").unwrap());
    std::fs::write(&path, [parts.concat(), link, vec![0; 1024]].concat()).unwrap();
    read_tar(&mut tree, &path, "package x").unwrap();
    assert_eq!(tree.get(b"usr/lib/a"), tree.get(b"usr/lib/b"));
    assert!(tree.get(b"usr/lib/a").is_some());
    assert!(matches!(tree.inode(tree.get(b"lib").unwrap()).kind, Kind::Symlink(_)));
}
