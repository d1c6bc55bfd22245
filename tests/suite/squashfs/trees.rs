//! Trees for the tests, written by hand and generated from a seed.

use liveiso::tree::{Content, Device, Kind, Meta, Tree};

/// Each file type, with and without xattrs, links, several blocks, odd owners.
pub const EVERY_KIND: &str = "\
dir / 0755 0 0 mtime=1
dir /dev 0755 0 0 mtime=2
nod /dev/console 0600 0 5 c 5 1 mtime=3
nod /dev/sda 0660 0 6 b 8 0 mtime=4 xattr.trusted.a=00ff0102030405060708
nod /dev/tty 0600 0 5 c 5 0 mtime=5 xattr.security.b=01
file /empty 01644 0 0 mtime=6 size=0
file /large 0644 1000 1000 mtime=7 size=300000
file /link-a 04755 0 0 mtime=8 size=5000 xattr.security.capability=0100000200200000000000000000000000000000 xattr.user.b=00ff0102030405060708
link /link-b /link-a
file /one-block 0644 4294967294 4294967293 mtime=9 size=4096
pipe /pipe 0600 70000 1000 mtime=10
pipe /pipe-x 0600 70000 1000 mtime=11 xattr.trusted.overlay.opaque=79
slink /slink 0777 0 0 usr/lib mtime=12
slink /slink-x 0777 0 0 /a/b mtime=13 xattr.security.c=00ff0102030405060708
sock /sock 0600 0 0 mtime=14
dir /sub 02775 0 50 mtime=15 xattr.user.a=00ff0102030405060708
dir /sub/deep 0700 0 0 mtime=16
link /sub/deep/link-c /link-a
file /sub/small 0000 0 0 mtime=17 size=9
";

/// xorshift64*: small, and equal on every host.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// A tree of some 300 names with everything the format has a corner for.
pub fn generated(seed: u64) -> Tree {
    generated_within(seed, 255, 5000)
}

/// The same with other limits for names and values of xattrs (bytes).
pub fn generated_within(seed: u64, longest_name: usize, longest_xattr: usize) -> Tree {
    let mut random = Random::new(seed);
    let mut tree = Tree::new();
    let origin = tree.add_origin("generated");
    let mut directories = vec![Vec::new()];
    let mut others: Vec<Vec<u8>> = Vec::new();
    for _ in 0..300 {
        let parent = directories[random.below(directories.len() as u64) as usize].clone();
        let path = [&parent[..], b"/", &name(&mut random, longest_name)].concat();
        if tree.get(&path).is_some() {
            continue;
        }
        if !others.is_empty() && random.below(8) == 0 {
            let existing = others[random.below(others.len() as u64) as usize].clone();
            tree.add_hard_link(&path, &existing, origin).unwrap();
            continue;
        }
        let kind = kind(&mut random);
        let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { random.below(0o10000) as u16 };
        let meta = Meta {
            mode,
            uid: if random.below(4) == 0 { random.next() as u32 } else { 0 },
            gid: random.below(3) as u32,
            mtime: random.below(1 << 32) as i64,
        };
        match kind {
            Kind::Directory(_) => directories.push(path.clone()),
            _ => others.push(path.clone()),
        }
        let user_xattrs = matches!(kind, Kind::Directory(_) | Kind::File(_));
        let id = tree.insert(&path, kind, meta, origin).unwrap();
        for _ in 0..random.below(12).saturating_sub(8) {
            let prefix =
                ["trusted.", "security.", "user."][random.below(2 + u64::from(user_xattrs)) as usize];
            let name = format!("{prefix}n{}", random.below(9)).into_bytes();
            let length = [0, 3, 8, 9, 400, longest_xattr][random.below(6) as usize];
            let value = vec![random.below(3) as u8; length];
            tree.inode_mut(id).xattrs.insert(name, value);
        }
    }
    tree
}

/// Short ones that meet often, the longest, and bytes that are no text. No
/// newline and no quote: unsquashfs's and rdsquashfs's own text cannot show those.
fn name(random: &mut Random, longest: usize) -> Vec<u8> {
    match random.below(10) {
        0 => vec![b'n'; longest],
        1 => [&random.bytes(8)[..], b"x"]
            .concat()
            .into_iter()
            .filter(|b| !b"\0/\n\r\"\\ ".contains(b) && !(9..14).contains(b))
            .collect(),
        2 => b"with space".to_vec(),
        _ => format!("{:x}", random.below(4096)).into_bytes(),
    }
}

fn kind(random: &mut Random) -> Kind {
    let device = |random: &mut Random| Device {
        major: random.below(4096) as u32,
        minor: random.below(1 << 20) as u32,
    };
    match random.below(20) {
        0..4 => Kind::Directory(Default::default()),
        // backhand takes no longer ones.
        4 => Kind::Symlink(vec![b't'; 1 + random.below(255) as usize]),
        5 => Kind::Symlink(b"../a b".to_vec()),
        6 => Kind::CharDevice(device(random)),
        7 => Kind::BlockDevice(device(random)),
        8 => Kind::Fifo,
        9 => Kind::Socket,
        _ => Kind::File(Content::bytes(content(random))),
    }
}

/// Lengths around the block size; noise, zeros and repetition in block-sized runs; some of it twice.
fn content(random: &mut Random) -> Vec<u8> {
    let length = match random.below(6) {
        0 => random.below(3),
        1 => 4095 + random.below(3),
        2 => 8191 + random.below(3),
        3 => 300 * 4096 / (1 + random.below(99)),
        _ => random.below(3000),
    };
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        match random.below(4) {
            0 => bytes.extend(random.bytes(4096)),
            1 => bytes.extend([0; 4096]),
            2 => bytes.extend([random.below(2) as u8; 4096]),
            _ => bytes.extend(b"the same words again and again, ".repeat(128)),
        }
    }
    bytes.truncate(length as usize);
    bytes
}
