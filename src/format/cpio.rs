//! cpio "new ASCII" archives (magic 070701), the container of an initramfs.
//!
//! ```text
//! member:  magic[6] ino mode uid gid nlink mtime filesize devmajor devminor
//!          rdevmajor rdevminor namesize check   13 fields of 8 hex digits, 110 bytes in all
//!          name NUL, zeros to a multiple of 4
//!          data,     zeros to a multiple of 4
//! archive: members, a member `TRAILER!!!`, zeros to a multiple of 512
//! ```
//! Follows the kernel's `init/initramfs.c` and
//! `Documentation/driver-api/early-userspace/buffer-format.rst`: what the kernel
//! would drop or change in silence is an error here, when writing and when reading.
//! Extended attributes, times before 1970 and hard-linked symbolic links have no
//! place in the format.

mod read;
mod write;

pub use read::{RawMember, archive_length, members, read, read_into};
pub use write::{write, write_aligned, write_by};

/// Length of a member's header in bytes.
const HEADER_LEN: usize = 110;
/// The name that ends an archive.
const TRAILER: &[u8] = b"TRAILER!!!";
/// The kernel's `PATH_MAX`: longer names (with their NUL) and link targets are skipped in silence.
const PATH_MAX: usize = 4096;
/// Archives are padded to this, so that another one may follow in the same buffer.
const ARCHIVE_ALIGNMENT: usize = 512;

/// Zero bytes needed after `len` bytes to reach a multiple of `alignment`.
fn padding(len: u64, alignment: u64) -> usize {
    (len.next_multiple_of(alignment) - len) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Tree, listing, parse_listing};

    fn archive(listing: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&parse_listing(listing).unwrap(), &mut bytes).unwrap();
        bytes
    }

    fn refusal(listing: &str) -> String {
        format!("{:#}", write(&parse_listing(listing).unwrap(), &mut Vec::new()).unwrap_err())
    }

    /// Names, modes, inode numbers, link counts and sizes of an archive's members.
    fn members(bytes: &[u8]) -> Vec<String> {
        let (mut found, mut at) = (Vec::new(), 0);
        loop {
            let field = |n: usize| {
                let digits = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
                u32::from_str_radix(digits, 16).unwrap()
            };
            let name = &bytes[at + 110..at + 109 + field(11) as usize];
            let name = std::str::from_utf8(name).unwrap();
            found.push(format!("{} {:o} {} {} {}", field(0), field(1), field(4), field(6), name));
            if name == "TRAILER!!!" {
                return found;
            }
            let (name_len, size) = (field(11) as usize, field(6) as usize);
            at = (at + 110 + name_len).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
    }

    #[test]
    fn the_bytes_of_a_small_archive() {
        let bytes = archive("dir / 0755 0 0 mtime=5\nfile /a 0644 1 2 mtime=255 text=hey\n");
        let head = "07070100000001000041ED00000000000000000000000200000005";
        let root = format!("{head}00000000{}0000000200000000.\0", "0".repeat(32));
        let file = format!(
            "07070100000002000081A4000000010000000200000001000000FF00000003{}0000000200000000a\0hey\0",
            "0".repeat(32)
        );
        let trailer =
            format!("070701{}00000001{}0000000B00000000TRAILER!!!\0", "0".repeat(32), "0".repeat(48));
        let mut expected = format!("{root}{file}{trailer}").into_bytes();
        expected.resize(512, 0);
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn hard_links_share_a_number_and_the_last_one_has_the_data() {
        let bytes = archive(
            "dir /d 0755 0 0\nfile /d/one 0644 0 0 text=data\nlink /d/two /d/one\nlink /z /d/one\nnod /n 0600 0 0 c 5 1\n",
        );
        let expected = [
            "1 40755 2 0 .",
            "2 40755 2 0 d",
            "3 100644 3 0 d/one",
            "3 100644 3 0 d/two",
            "4 20600 1 0 n",
            "3 100644 3 4 z",
            "0 0 1 0 TRAILER!!!",
        ];
        assert_eq!(members(&bytes), expected);
    }

    #[test]
    fn members_come_in_the_order_asked_for() {
        let tree = parse_listing("file /a 0644 0 0\nfile /b/c 0644 0 0\nfile /z 0644 0 0\n").unwrap();
        let mut bytes = Vec::new();
        write_by(&tree, |path| u8::from(path == b"a"), &mut bytes).unwrap();
        let names: Vec<_> =
            members(&bytes).iter().map(|m| m.rsplit(' ').next().unwrap().to_string()).collect();
        assert_eq!(names, [".", "b", "b/c", "z", "a", "TRAILER!!!"]);
        let error = write_by(&tree, |path| u8::from(path == b"b"), &mut Vec::new()).unwrap_err();
        assert_eq!(format!("{error:#}"), "cpio member `b/c` would come before its directory `b`");
    }

    #[test]
    fn refuses_what_the_kernel_would_drop() {
        let long = "x".repeat(250);
        let deep = vec![long.as_str(); 17].join("/");
        let cases = [
            (
                "file /a 0644 0 0 xattr.security.capability=00".to_string(),
                "cpio cannot hold the extended attribute `security.capability` of `a` (from listing)",
            ),
            (
                "file /a 0644 0 0 mtime=-1".to_string(),
                "cpio cannot hold the time -1 of `a` (from listing): it counts seconds from 1970 to 2106",
            ),
            (
                "slink /a 0777 0 0 b\nlink /c /a".to_string(),
                "cpio cannot hold the hard-linked symbolic link `a` (from listing): \
                 the kernel unpacks one link a name",
            ),
            (
                format!("slink /a 0777 0 0 {}", "y".repeat(4096)),
                "cpio cannot hold the symbolic link `a` (from listing): its target has 4096 bytes, the kernel takes 4095",
            ),
        ];
        for (listing, message) in cases {
            assert_eq!(refusal(&listing), message);
        }
        let error = refusal(&format!("file /{deep} 0644 0 0"));
        assert!(error.ends_with("its path has 4266 bytes, the kernel takes 4095"), "{error}");
    }

    #[test]
    fn a_tree_survives_the_round_trip() {
        let text = "\
dir / 0700 3 4 mtime=9
dir /dev 0755 0 0 mtime=0
nod /dev/console 0600 0 5 c 5 1 mtime=7
nod /dev/sda 0660 0 6 b 8 0 mtime=0
file /empty 0644 0 0 mtime=4294967295 size=0
link /empty2 /empty
file /s\\x20\\xff 4755 4294967295 0 mtime=1 size=4097
slink /l 0777 0 0 usr/lib mtime=0
pipe /p 0600 1000 1000 mtime=0
sock /q 0600 0 0 mtime=0
";
        let tree = parse_listing(text).unwrap();
        let mut bytes = Vec::new();
        write(&tree, &mut bytes).unwrap();
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!(listing(&read(&bytes).unwrap()).unwrap(), listing(&tree).unwrap());
    }

    #[test]
    fn later_archives_replace_what_earlier_ones_brought() {
        let mut bytes = archive(
            "file /a 0644 0 0 text=old\nfile /b 0644 0 0 text=kept\nslink /c 0777 0 0 x\ndir /d 0755 0 0\n",
        );
        bytes.extend([0; 1024]);
        bytes.extend(archive("file /a 0600 0 0 text=new\nslink /c 0777 0 0 y\nfile /d 0644 0 0 text=file\n"));
        let expected = parse_listing(
            "file /a 0600 0 0 text=new\nfile /b 0644 0 0 text=kept\nslink /c 0777 0 0 y\nfile /d 0644 0 0 text=file\n",
        );
        assert_eq!(listing(&read(&bytes).unwrap()).unwrap(), listing(&expected.unwrap()).unwrap());
    }

    #[test]
    fn reads_refuse_what_the_kernel_would_skip() {
        let good = archive("file /a 0644 0 0 text=hello\n");
        let patched = |at: usize, with: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + with.len()].copy_from_slice(with);
            format!("{:#}", read(&bytes).unwrap_err())
        };
        let second = 112;
        assert_eq!(patched(0, b"070707"), "cpio member at byte 0: magic `070707` is not 070701 or 070702");
        assert_eq!(patched(second + 6, b"x"), "cpio member at byte 112: `x0000002` is no hexadecimal number");
        assert_eq!(
            patched(second + 54, b"7fffffff"),
            "cpio member at byte 112: its 2147483647 bytes of data run past the end of the archive"
        );
        assert_eq!(
            patched(second + 94, b"00000000"),
            "cpio member at byte 112: name length 0 is not 2 to 4096"
        );
        assert_eq!(
            patched(second + 110, b"a!"),
            "cpio member at byte 112: name is not a NUL-terminated string"
        );
        assert_eq!(
            patched(good.len() - 1, b"x"),
            "byte 511 of the archive is not zero, yet no member begins there"
        );
        assert_eq!(
            format!("{:#}", read(&good[..200]).unwrap_err()),
            "cpio member at byte 112: header is cut short"
        );
        assert_eq!(
            format!("{:#}", read(&good[..232]).unwrap_err()),
            "cpio archive has no TRAILER!!!: it is cut short"
        );
    }

    #[test]
    fn the_sum_of_a_crc_archive_is_checked() {
        let mut bytes = archive("file /a 0644 0 0 text=hello\n");
        bytes[117] = b'2';
        let wrong = format!("{:#}", read(&bytes).unwrap_err());
        assert_eq!(wrong, "cpio member `a`: data sums to 00000214, the header says 00000000");
        bytes[112 + 102..112 + 110].copy_from_slice(b"00000214");
        assert!(read(&bytes).is_ok());
    }

    #[test]
    fn damage_never_panics() {
        let good =
            archive("dir /d 0755 0 0\nfile /d/a 0644 0 0 size=30\nlink /b /d/a\nslink /c 0777 0 0 d\n");
        for at in 0..good.len() {
            for flip in [0x01, 0x30, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                let _ = read(&bytes);
            }
            let _ = read(&good[..at]);
        }
        assert_eq!(Tree::new().inode_count(), read(&archive("")).unwrap().inode_count());
    }
}
