//! Overlays of a profile, up to the plan and the image.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::Result;
use liveiso::build::root::lay_over;
use liveiso::cache::hex_sha256;
use liveiso::diagnostic::Diagnostics;
use liveiso::host::Tool;
use liveiso::plan::{Debian, Overlay, Packages};
use liveiso::resolve::{Embedded, EmbeddedKind, FindError, FoundPackages, Options, PackageRequest, resolve};
use liveiso::tree::{Content, Kind, Meta, Tree, listing, parse_listing};
use tempfile::TempDir;

use super::{assert_exact, squashfs};
use crate::squashfs::oracle;
use crate::support::is_root;

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
        "adding /etc/passwd: a symbolic link on the way, from airootfs (built in), leads to `/tmp/liveiso-hostile/x`, \
         which is not in the tree; add that or remove the link",
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
