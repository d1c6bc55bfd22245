//! Archives of packages, up to the image.

use std::fs;
use std::path::Path;

use anyhow::Result;
use liveiso::cache::hex_sha256;
use liveiso::tree::{Tree, listing, read_tar};
use tar::EntryType;

use super::{assert_exact, squashfs, squashfs_refusal};
use crate::squashfs::oracle;

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
    let missing = |path: &str| {
        format!(
            "adding `{path}`: a symbolic link on the way, from package x, leads to `{target}`, which is not in the \
             tree; add that or remove the link"
        )
    };
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
        (&[(b"etc", link, target, &[]), (b"etc/passwd", file, "", &[])], &*missing("etc/passwd")),
        (&[(b"etc", link, target, &[]), (b"etc", EntryType::Directory, "", &[])], &missing("etc")),
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
