//! Files and archives made to break out, to exhaust or to confuse: contained and
//! exact in the image, or refused with path and origin. And damaged bytes, for
//! every parser whose own tests do not damage them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Result;
use liveiso::build::root::lay_over;
use liveiso::cache::hex_sha256;
use liveiso::diagnostic::Diagnostics;
use liveiso::format::squashfs::{Options as SquashfsOptions, write};
use liveiso::format::{fat, iso9660};
use liveiso::host::{Tool, environment};
use liveiso::plan::{Compression, Debian, Overlay, Packages};
use liveiso::resolve::{Embedded, EmbeddedKind, FindError, FoundPackages, Options, PackageRequest, resolve};
use liveiso::source::{Deb, Index};
use liveiso::tree::{Content, Kind, Meta, Tree, listing, parse_listing, read_tar};
use tar::EntryType;
use tempfile::TempDir;

use crate::squashfs::oracle;
use crate::squashfs::trees::Random;

/// A profile with nothing but an overlay.
struct Profile {
    dir: TempDir,
}

impl Profile {
    fn new() -> Profile {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("profile.toml"), "iso-name = \"x\"\n").unwrap();
        fs::create_dir(dir.path().join("airootfs")).unwrap();
        Profile { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("airootfs").join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// The overlays of the plan, or every message.
    fn overlays(&self, built_in: &'static [Embedded]) -> (String, Option<Vec<Overlay>>) {
        let mut diagnostics = Diagnostics::default();
        let options = Options { timestamp: Some(0), airootfs: built_in };
        let plan = resolve(self.dir.path(), &options, no_packages, &mut diagnostics);
        (diagnostics.render(false, self.dir.path()), plan.ok().map(|plan| plan.overlays))
    }

    fn messages(&self) -> String {
        self.overlays(&[]).0
    }

    /// The overlays laid over a tree.
    fn tree(&self, mut tree: Tree, built_in: &'static [Embedded]) -> Result<Tree> {
        let (messages, overlays) = self.overlays(built_in);
        for overlay in &overlays.expect(&messages) {
            lay_over(&mut tree, overlay)?;
        }
        Ok(tree)
    }
}

fn no_packages(request: &PackageRequest) -> Result<FoundPackages, FindError> {
    let suite = request.archive.suite.clone();
    Ok(FoundPackages {
        debian: Debian { suite, sources: Vec::new(), left_out: Vec::new() },
        packages: Packages::default(),
        released: None,
    })
}

fn squashfs(tree: &Tree) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.sfs");
    write(tree, &SquashfsOptions::new(Compression::Gzip), File::create_new(&path).unwrap()).unwrap();
    (dir, path)
}

fn squashfs_refusal(tree: &Tree) -> String {
    let out = std::io::Cursor::new(Vec::new());
    format!("{:#}", write(tree, &SquashfsOptions::new(Compression::Gzip), out).unwrap_err())
}

/// The image holds exactly this, say our reader and the kernel.
fn assert_exact(tree: &Tree, expected: &str) {
    assert_eq!(listing(tree).unwrap(), expected);
    let (_dir, path) = squashfs(tree);
    assert_eq!(oracle::ours(&path).unwrap(), expected);
    if let Some(shown) = oracle::kernel(&path) {
        assert_eq!(shown, expected);
    }
}

/// Whether tests may make devices; CI must be able to.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || environment("CI").is_none(), "CI must run these tests as root");
    root
}

#[test]
fn odd_names_of_an_overlay_are_in_the_image_as_they_are() {
    let profile = Profile::new();
    let (long, deep) = ("n".repeat(255), "d/".repeat(40));
    let mut names = [
        &*long,
        "..foo",
        "...",
        "-rf",
        "~",
        "a b",
        "back\\slash",
        "quo'te\"s",
        "$(id)`id`",
        "*?[",
        "%s%n",
        "ü",
    ]
    .map(String::from)
    .to_vec();
    names.push(format!("{deep}end"));
    let mut lines = vec!["dir / 0755 0 0 mtime=0".to_string()];
    for name in &names {
        profile.write(name, name);
        lines.push(format!(
            "file /{} 0644 0 0 mtime=0 size={} sha256={}",
            name.bytes().map(listed).collect::<String>(),
            name.len(),
            hex_sha256(name.as_bytes())
        ));
    }
    lines.extend((0..40).map(|n| format!("dir /d{} 0755 0 0 mtime=0", "/d".repeat(n))));
    lines.push("slink /root 0777 0 0 / mtime=0".to_string());
    symlink("/", profile.path("root")).unwrap();
    // A parent comes before its children, siblings in byte order.
    lines.sort_by_key(|line| {
        let path = line.split(' ').nth(1).unwrap_or_default();
        path.trim_matches('/').split('/').map(unlisted).collect::<Vec<_>>()
    });
    assert_eq!(profile.messages(), "");
    let tree = profile.tree(Tree::new(), &[]).unwrap();
    assert_exact(&tree, &(lines.join("\n") + "\n"));
    let (_dir, image) = squashfs(&tree);
    assert_eq!(oracle::rdsquashfs(&image).lines().count(), 13 + 40 + 1);
}

/// A byte of a name as [`listing`] has it.
fn listed(byte: u8) -> String {
    match byte {
        0x21..0x7f if byte != b'\\' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    }
}

/// The bytes of a component of a listing.
fn unlisted(word: &str) -> Vec<u8> {
    let mut parts = word.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(part[2..].bytes());
    }
    bytes
}

#[test]
fn privileges_on_the_host_never_get_lost_in_silence() {
    let profile = Profile::new();
    for (name, mode) in
        [("bin/su", 0o4755), ("bin/wall", 0o2755), ("bin/plain", 0o755), ("bin/sticky", 0o1755)]
    {
        fs::set_permissions(profile.write(name, ""), fs::Permissions::from_mode(mode)).unwrap();
    }
    // Shared directories often have this bit; it says nothing of the live system.
    fs::set_permissions(profile.path("bin"), fs::Permissions::from_mode(0o2775)).unwrap();
    let refused = |name: &str| {
        format!(
            "error: `airootfs/bin/{name}` is set-user-ID or set-group-ID; modes are not taken from the host\n\
             --> airootfs/bin/{name}\n = help: take the bit away here (chmod ug-s) and give the mode under \
             file-permissions\n"
        )
    };
    assert_eq!(profile.messages(), refused("su") + "\n" + &refused("wall"));
}

#[test]
fn capabilities_of_an_overlay_are_refused_and_acls_announced() {
    if !is_root() {
        return;
    }
    let profile = Profile::new();
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let none = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(profile.write("bin/ping", ""), "security.capability", &capability, none).unwrap();
    for name in ["etc/shared", "etc/shared2"] {
        let path = profile.write(name, "");
        Tool::new("setfacl", "tests").unwrap().args(["-m", "u:1234:r"]).arg(path).output().unwrap();
    }
    assert_eq!(
        profile.messages(),
        "\
error: `airootfs/bin/ping` has file capabilities; attributes are not taken from the host
--> airootfs/bin/ping
 = help: remove them here (setcap -r); only packages bring capabilities

warning: `airootfs/etc/shared` (and 1 more) has an ACL, which is left out
--> airootfs/etc/shared
 = help: squashfs holds no ACLs; express it by owner, group and mode under file-permissions
"
    );
}

#[test]
fn devices_of_an_overlay_are_refused_by_path() {
    if !is_root() {
        return;
    }
    let profile = Profile::new();
    let make = |name: &str, kind| {
        let path = profile.path(name);
        rustix::fs::mknodat(rustix::fs::CWD, path, kind, 0o600.into(), rustix::fs::makedev(1, 3)).unwrap();
    };
    make("disk", rustix::fs::FileType::BlockDevice);
    make("null", rustix::fs::FileType::CharacterDevice);
    let refused = |name: &str, what: &str| {
        format!(
            "error: `airootfs/{name}` is a {what} device; only files, directories and symbolic links are taken\n\
             --> airootfs/{name}\n = help: the live system makes its devices, pipes and sockets itself\n"
        )
    };
    assert_eq!(profile.messages(), refused("disk", "block") + "\n" + &refused("null", "character"));
}

#[test]
fn a_file_below_another_layers_link_stays_in_the_tree() {
    const LINK: &[Embedded] =
        &[Embedded { path: "etc", kind: EmbeddedKind::Symlink("/tmp/liveiso-hostile/x") }];
    let profile = Profile::new();
    profile.write("etc/passwd", "root");
    let error = profile.tree(Tree::new(), LINK).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "adding /etc/passwd: `tmp` does not exist in the tree",
        "what a link leads to must be there"
    );
    let with_target = parse_listing("dir /tmp/liveiso-hostile/x 0755 0 0").unwrap();
    let tree = profile.tree(with_target, LINK).unwrap();
    let root = hex_sha256(b"root");
    assert_exact(
        &tree,
        &format!(
            "dir / 0755 0 0 mtime=0\nslink /etc 0777 0 0 /tmp/liveiso-hostile/x mtime=0\ndir /tmp 0755 0 0 mtime=0\n\
             dir /tmp/liveiso-hostile 0755 0 0 mtime=0\ndir /tmp/liveiso-hostile/x 0755 0 0 mtime=0\n\
             file /tmp/liveiso-hostile/x/passwd 0644 0 0 mtime=0 size=4 sha256={root}\n"
        ),
    );
    assert!(!Path::new("/tmp/liveiso-hostile").exists(), "nothing is followed on the host");
}

#[test]
fn a_link_of_an_overlay_replaces_no_directory() {
    let profile = Profile::new();
    symlink("/tmp/x", profile.path("etc")).unwrap();
    let error = profile.tree(parse_listing("file /etc/passwd 0644 0 0").unwrap(), &[]).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "adding /etc: `etc` is a dir from listing and a slink from airootfs (of the profile); remove one of them"
    );
}

#[test]
fn a_sparse_file_of_5_gib_is_never_held_in_memory() {
    const SIZE: u64 = 5 << 30;
    let profile = Profile::new();
    let file = File::create(profile.path("sparse")).unwrap();
    file.write_all_at(b"in the middle", (2 << 30) + 77).unwrap();
    file.set_len(SIZE).unwrap();
    // Less address space than the file has bytes, so holding it would fail.
    let checked = Tool::new("sh", "tests")
        .unwrap()
        .args(["-c", "ulimit -v 2000000; exec \"$0\" check --offline \"$1\""]);
    checked.arg(env!("CARGO_BIN_EXE_liveiso")).arg(profile.dir.path()).output().unwrap();
    let tree = profile.tree(Tree::new(), &[]).unwrap();
    let Kind::File(content) = &tree.inode(tree.get(b"sparse").unwrap()).kind else { panic!("no file") };
    assert!(matches!(content, Content::Pinned { length: SIZE, .. }), "{content:?}");
    let (_dir, image) = squashfs(&tree);
    assert_eq!(fs::metadata(&image).unwrap().len(), 4096);
    if is_root() {
        oracle::with_mount(&image, |root| {
            let found = fs::metadata(root.join("sparse")).unwrap();
            assert_eq!((found.len(), found.blocks()), (SIZE, 256), "only one block is not sparse");
        });
    }
}

#[test]
fn an_overlay_of_100_000_files_in_one_directory() {
    let profile = Profile::new();
    fs::create_dir(profile.path("d")).unwrap();
    let mut expected = parse_listing("dir /d 0755 0 0").unwrap();
    let origin = expected.add_origin("test");
    for n in 0..100_000 {
        let text = format!("{}", n % 100);
        fs::write(profile.path(&format!("d/{n}")), &text).unwrap();
        expected
            .add_file(format!("d/{n}").as_bytes(), Content::bytes(text), Meta::default(), origin)
            .unwrap();
    }
    let tree = profile.tree(Tree::new(), &[]).unwrap();
    let expected = listing(&expected).unwrap();
    assert!(listing(&tree).unwrap() == expected);
    assert!(oracle::unsquashfs(&squashfs(&tree).1) == expected);
}

/// Path, type, link target, PAX records.
type Member<'m> = (&'m [u8], EntryType, &'m str, &'m [(&'m str, &'m [u8])]);

/// A tar archive of members, 04755 7:8, content `x`.
fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, kind, link, records) in members {
        let records = [("path", *path)].into_iter().chain(records.iter().copied());
        archive.append_pax_extensions(records).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(9);
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        let content: &[u8] = if *kind == EntryType::Regular { b"x" } else { b"" };
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.append(&header, content).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Reads a tar archive, which must stay while the tree is used.
fn read_archive(dir: &Path, bytes: &[u8]) -> Result<Tree> {
    let path = dir.join("x.tar");
    fs::write(&path, bytes).unwrap();
    let mut tree = Tree::new();
    read_tar(&mut tree, &path, "package x")?;
    Ok(tree)
}

#[test]
fn a_hostile_archive_is_exact_in_the_image() {
    const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let (file, directory) = (EntryType::Regular, EntryType::Directory);
    let (long, deep) = (vec![b'n'; 255], "d/".repeat(40));
    let longest = [b"p/".repeat(2046), b"end".to_vec()].concat();
    let dir = tempfile::tempdir().unwrap();
    let tree = read_archive(
        dir.path(),
        &tar(&[
            (b"/abs", file, "", &[]),
            (b"bin/ping", file, "", &[("SCHILY.xattr.security.capability", CAPABILITY)]),
            (b"caf\xe9", file, "", &[]),
            (deep.as_bytes(), directory, "", &[]),
            (b"dev/null", EntryType::Char, "", &[]),
            (b"dev/x", EntryType::Block, "", &[]),
            (b"etc", EntryType::Symlink, "/var/etc", &[]),
            (b"var/etc", directory, "", &[]),
            (b"etc/passwd", file, "", &[]),
            (b"etc/sub/", directory, "", &[]),
            (b"new\nline", file, "", &[]),
            (&long, file, "", &[]),
            (b"out", EntryType::Symlink, "../../../../tmp", &[]),
        ]),
    )
    .unwrap();
    let x = format!("4755 7 8 mtime=9 size=1 sha256={}", hex_sha256(b"x"));
    let capability = liveiso::cache::hex(CAPABILITY);
    let parents: String = (0..40)
        .map(|n| {
            format!(
                "dir /d{} {}\n",
                "/d".repeat(n),
                if n < 39 { "0755 0 0 mtime=9" } else { "4755 7 8 mtime=9" }
            )
        })
        .collect();
    let long = String::from_utf8(long).unwrap();
    assert_exact(
        &tree,
        &format!(
            "dir / 0755 0 0 mtime=0\nfile /abs {x}\ndir /bin 0755 0 0 mtime=9\n\
             file /bin/ping {x} xattr.security.capability={capability}\nfile /caf\\xe9 {x}\n{parents}\
             dir /dev 0755 0 0 mtime=9\nnod /dev/null 4755 7 8 c 1 3 mtime=9\nnod /dev/x 4755 7 8 b 1 3 mtime=9\n\
             slink /etc 0777 7 8 /var/etc mtime=9\nfile /new\\x0aline {x}\nfile /{long} {x}\n\
             slink /out 0777 7 8 ../../../../tmp mtime=9\ndir /var 0755 0 0 mtime=9\n\
             dir /var/etc 4755 7 8 mtime=9\nfile /var/etc/passwd {x}\ndir /var/etc/sub 4755 7 8 mtime=9\n"
        ),
    );
    // As deep as Linux's longest path: nothing here recurses.
    let tree = read_archive(dir.path(), &tar(&[(&longest, file, "", &[])])).unwrap();
    let (_dir, image) = squashfs(&tree);
    assert!(oracle::ours(&image).unwrap() == listing(&tree).unwrap());
}

#[test]
fn an_archive_that_leaves_the_tree_is_refused_by_path_and_origin() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let (file, link) = (EntryType::Regular, EntryType::Symlink);
    let target = outside.to_str().unwrap();
    let first = target.split('/').nth(1).unwrap();
    let missing = format!("adding `etc/passwd`: `{first}` does not exist in the tree");
    let acl: &[(&str, &[u8])] = &[("SCHILY.acl.access", b"user::rwx,user:7:r,group::r,mask::r,other::r")];
    for (members, expected) in [
        (
            &[(&b"../x"[..], file, "", &[][..])][..],
            "adding `../x`: path `../x` has a `..` component, which could leave the tree",
        ),
        (
            &[(b"/../x", file, "", &[])],
            "adding `/../x`: path `/../x` has a `..` component, which could leave the tree",
        ),
        (&[(b"//x", file, "", &[])], "adding `//x`: path `//x` has an empty component"),
        (&[(b"etc", link, target, &[]), (b"etc/passwd", file, "", &[])], &missing),
        (
            &[(b"etc", link, target, &[]), (b"etc", EntryType::Directory, "", &[])],
            "adding `etc`: `etc` does not exist in the tree",
        ),
        (
            &[(b"a", link, "b", &[]), (b"b", link, "a", &[]), (b"a/x", file, "", &[])],
            "adding `a/x`: `b` runs through symbolic links in a circle",
        ),
        (
            &[(&[b'n'; 256], file, "", &[])],
            &format!("adding `{0}`: path `{0}` has a component longer than 255 bytes", "n".repeat(256)),
        ),
        (
            &[(b"etc/acl", file, "", acl)],
            "adding `etc/acl`: has an ACL, which no image holds; write the archive without --acls",
        ),
    ] {
        let error = format!("{:#}", read_archive(dir.path(), &tar(members)).unwrap_err());
        let path = dir.path().join("x.tar");
        assert_eq!(error, format!("reading package x from {}: {expected}", path.display()));
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "nothing is followed on the host");
}

#[test]
fn an_acl_as_attribute_is_refused_by_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let acl: &[(&str, &[u8])] = &[("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0")];
    let tree = read_archive(dir.path(), &tar(&[(b"etc/f", EntryType::Regular, "", acl)])).unwrap();
    assert_eq!(
        squashfs_refusal(&tree),
        "squashfs cannot hold `/etc/f` (from package x): xattr `system.posix_acl_access`: it has no POSIX ACLs; \
         remove the ACL or express it by owner, group and mode"
    );
}

/// Calls a parser with every kind of damage: it may fail or find something else, never panic.
fn damage(intact: &[u8], rounds: u64, cuts: usize, mut parse: impl FnMut(&[u8]) -> bool) {
    assert!(parse(intact), "the intact input is read");
    let mut random = Random::new(intact.len() as u64);
    for n in 0..rounds {
        let mut bytes = intact.to_vec();
        for _ in 0..=n % 3 {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] = match random.below(4) {
                0 => 0,
                1 => 0xff,
                2 => bytes[at] ^ (1 << random.below(8)),
                _ => random.below(256) as u8,
            };
        }
        parse(&bytes);
    }
    for n in 0..cuts {
        parse(&intact[..intact.len() * n / cuts]);
    }
}

#[test]
fn damaged_packages_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("pkg/DEBIAN")).unwrap();
    fs::write(
        at("pkg/DEBIAN/control"),
        "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: m\nDescription: d\n",
    )
    .unwrap();
    fs::write(at("pkg/file"), "content").unwrap();
    fs::set_permissions(at("pkg"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(at("pkg/DEBIAN"), fs::Permissions::from_mode(0o755)).unwrap();
    for compression in ["none", "gzip", "xz", "zstd"] {
        let tool = Tool::new("dpkg-deb", "tests").unwrap().arg(format!("-Z{compression}")).arg("-b");
        tool.arg(at("pkg")).arg(at("x.deb")).output().unwrap();
        let intact = fs::read(at("x.deb")).unwrap();
        damage(&intact, 400, 60, |bytes| {
            fs::write(at("damaged.deb"), bytes).unwrap();
            let read = || -> Result<()> {
                let deb = Deb::open(&at("damaged.deb"))?;
                deb.control()?;
                deb.write_data(&mut std::io::sink())
            };
            read().is_ok()
        });
    }
}

#[test]
fn damaged_package_indexes_never_panic() {
    let intact = format!(
        "Package: p\nVersion: 1:2-3\nArchitecture: i386\nProvides: a (= 1), b | c,\n d\nSize: 10\n\
         Filename: pool/p.deb\nSHA256: {:064}\nDescription: ü\n x\n .\n\nPackage: q\nVersion: 1\n\
         Architecture: all\nSize: 18446744073709551615\nFilename: q\nSHA256: {0:064}\n",
        0
    );
    damage(intact.as_bytes(), 3000, intact.len(), |bytes| {
        let mut index = Index::default();
        let read = index.add(&String::from_utf8_lossy(bytes), "bookworm").is_ok();
        index.suggest("p");
        read
    });
}

#[test]
fn damaged_fat_images_never_panic() {
    let tree = parse_listing(
        "file /EFI/BOOT/BOOTX64.EFI 0644 0 0 size=5000\nfile /a-long-name-of-a-file.txt 0644 0 0 text=x\ndir /empty 0755 0 0",
    )
    .unwrap();
    let mut intact = Vec::new();
    let options = fat::Options { label: "X".to_string(), volume_id: 7, timestamp: 0 };
    fat::write(&tree, &options, &mut intact).unwrap();
    // What is interesting stands in the boot sector, the tables and the directories.
    let head = intact.iter().rposition(|&b| b != 0).unwrap() + 1;
    let rest = intact.len() - head;
    damage(&intact[..head], 600, 40, |bytes| {
        let mut image = bytes.to_vec();
        if bytes.len() == head {
            image.resize(head + rest, 0);
        }
        fat::verify(&image, &tree).is_ok()
    });
    damage(&intact[..512], 600, 16, |bytes| fat::verify(&[bytes, &intact[512..]].concat(), &tree).is_ok());
}

#[test]
fn damaged_media_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("root")).unwrap();
    fs::write(at("root/boot.img"), [0; 2048]).unwrap();
    let tool =
        Tool::new("xorriso", "tests").unwrap().args(["-as", "mkisofs", "-quiet", "-o"]).arg(at("x.iso"));
    let tool = tool.args(["-b", "boot.img", "-no-emul-boot", "-boot-load-size", "4"]).arg(at("root"));
    tool.output().unwrap();
    let whole = fs::read(at("x.iso")).unwrap();
    let catalog = iso9660::read(&at("x.iso")).unwrap().catalog_sector as usize * 2048;
    for part in [0..512, 32768..36864, catalog..catalog + 128] {
        damage(&whole[part.clone()], 400, 0, |bytes| {
            let mut damaged = whole.clone();
            damaged[part.clone()].copy_from_slice(bytes);
            fs::write(at("damaged.iso"), damaged).unwrap();
            iso9660::read(&at("damaged.iso")).is_ok()
        });
    }
    damage(&whole, 0, 60, |bytes| {
        fs::write(at("damaged.iso"), bytes).unwrap();
        iso9660::read(&at("damaged.iso")).is_ok()
    });
}
